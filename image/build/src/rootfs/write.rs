//! Writes a tree as a sorted tar with numeric owners, and lists it for the manifest. Streams: one file at a time.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write};

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::tree::{Kind, Node, Tree, open};
use crate::exec::interrupted;
use crate::store::hex;

/// One path of the image's root, as the manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Absolute path.
    pub path: String,
    /// `file`, `dir`, `symlink` or `hardlink`.
    pub kind: String,
    /// Octal permission bits, such as `0644`.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; 0 for anything but a file.
    pub size: u64,
    /// SHA-256 of a file's bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Extended attributes, values in hex.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub xattrs: BTreeMap<String, String>,
}

/// Writes the tar; returns the listing and the SHA-256 of the tar.
///
/// # Errors
/// A file cannot be read, is not as long as was said, or the tar cannot be written.
pub fn write(
    tree: &Tree,
    base: &Utf8Path,
    out: &Utf8Path,
    progress: &dyn Fn(u64, u64),
) -> Result<(Vec<Listed>, String)> {
    let hashing =
        Hashing { inner: BufWriter::with_capacity(1 << 18, fs_err::File::create(out)?), hash: Sha256::new() };
    let mut builder = tar::Builder::new(hashing);
    let mut listing = Vec::with_capacity(tree.len());
    let all = tree.len() as u64;
    for (n, (path, node)) in tree.iter().enumerate() {
        interrupted()?;
        if n % 512 == 0 {
            progress(n as u64, all);
        }
        let listed = append(&mut builder, path, node, base).with_context(|| format!("writing /{path}"))?;
        listing.push(listed);
    }
    let mut hashing = builder.into_inner().with_context(|| format!("finishing {out}"))?;
    hashing.flush().with_context(|| format!("finishing {out}"))?;
    Ok((listing, hex(&hashing.hash.finalize())))
}

fn append(
    builder: &mut tar::Builder<impl Write>,
    path: &str,
    node: &Node,
    base: &Utf8Path,
) -> Result<Listed> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(node.uid.into());
    header.set_gid(node.gid.into());
    header.set_mtime(node.mtime);
    header.set_size(0);
    let mut listed = Listed {
        path: format!("/{path}"),
        kind: String::new(),
        mode: format!("{:04o}", node.mode),
        uid: node.uid,
        gid: node.gid,
        size: 0,
        sha256: None,
        target: None,
        xattrs: node.xattrs.iter().map(|(n, v)| (n.clone(), hex(v))).collect(),
    };
    if !node.xattrs.is_empty() {
        let names: Vec<String> = node.xattrs.iter().map(|(n, _)| format!("SCHILY.xattr.{n}")).collect();
        builder.append_pax_extensions(
            names.iter().map(String::as_str).zip(node.xattrs.iter().map(|(_, v)| &v[..])),
        )?;
    }
    let name = path;
    match &node.kind {
        Kind::Dir => {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, format!("{name}/"), std::io::empty())?;
            listed.kind = "dir".into();
        }
        Kind::File { source, size } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(*size);
            let mut reader = Counting { inner: open(source, *size, base)?, hash: Sha256::new(), count: 0 };
            builder.append_data(&mut header, name, &mut reader)?;
            if reader.count != *size {
                bail!("it has {} bytes instead of {size}: did it change during the build?", reader.count);
            }
            listed.kind = "file".into();
            listed.size = *size;
            listed.sha256 = Some(hex(&reader.hash.finalize()));
        }
        Kind::Symlink(target) | Kind::Hardlink(target) => {
            let soft = matches!(node.kind, Kind::Symlink(_));
            header.set_entry_type(if soft { tar::EntryType::Symlink } else { tar::EntryType::Link });
            if soft {
                header.set_mode(0o777);
                listed.mode = "0777".into();
            }
            builder.append_link(&mut header, name, target)?;
            listed.kind = if soft { "symlink" } else { "hardlink" }.into();
            listed.target = Some(if soft { target.clone() } else { format!("/{target}") });
        }
        Kind::Special => bail!("devices, fifos and sockets do not ship"),
    }
    Ok(listed)
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

struct Counting<R> {
    inner: R,
    hash: Sha256,
    count: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Source, index};
    use super::*;
    use camino::Utf8PathBuf;

    #[test]
    fn what_is_written_reads_back_and_is_the_same_twice() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Utf8PathBuf::from_path_buf(dir.path().join(name)).unwrap();
        let long = format!("usr/{}/x", "n".repeat(180));
        let node = |kind, mode| Node { kind, mode, uid: 104, gid: 110, mtime: 1_700_000_000, xattrs: vec![] };
        let bytes = Source::Bytes(b"ciao".to_vec());
        let mut tree = Tree::from([
            ("usr".to_owned(), node(Kind::Dir, 0o755)),
            (long.clone(), node(Kind::File { source: bytes, size: 4 }, 0o4755)),
            ("usr/z".to_owned(), node(Kind::Hardlink(long.clone()), 0o4755)),
            ("usr/s".to_owned(), node(Kind::Symlink("../a".into()), 0o777)),
        ]);
        tree.get_mut(&long).unwrap().xattrs = vec![("security.capability".into(), vec![1, 0, 0, 2, 0x20, 0])];
        let (listing, digest) = write(&tree, &at("none"), &at("a.tar"), &|_, _| ()).unwrap();
        let (_, again) = write(&tree, &at("none"), &at("b.tar"), &|_, _| ()).unwrap();
        assert_eq!(digest, again);
        assert_eq!(digest, crate::store::sha256_file(&at("a.tar")).unwrap());
        assert_eq!(listing[1].mode, "4755");
        let read = index(&at("a.tar")).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), tree.keys().collect::<Vec<_>>());
        assert_eq!(read[&long].xattrs, tree[&long].xattrs);
        assert_eq!((read[&long].uid, read[&long].mode), (104, 0o4755));
        assert_eq!(read["usr/z"].kind, Kind::Hardlink(long));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let out = Utf8PathBuf::from_path_buf(dir.path().join("a.tar")).unwrap();
        let kind = Kind::File { source: Source::Bytes(b"abc".to_vec()), size: 5 };
        let tree = Tree::from([(
            "f".to_owned(),
            Node { kind, mode: 0o644, uid: 0, gid: 0, mtime: 0, xattrs: vec![] },
        )]);
        let error = write(&tree, &out, &out, &|_, _| ()).unwrap_err();
        assert!(format!("{error:#}").contains("3 bytes instead of 5"), "{error:#}");
    }
}
