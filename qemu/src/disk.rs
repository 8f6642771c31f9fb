//! Disk files: a writable layer over an image, and copies that stay sparse.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::spec::Disk;
use crate::{Error, Programs, Result, RunDir};

/// Makes the disk's writable layer if the specification wants one.
///
/// # Errors
/// When the image is missing or larger than the size asked for, or qemu-img fails.
pub(crate) fn prepare(disk: &Disk, programs: &Programs, run: &RunDir) -> Result<()> {
    let Disk::Overlay { base, size, reuse } = disk else { return Ok(()) };
    let overlay = run.overlay();
    if *reuse && overlay.exists() {
        return Ok(());
    }
    let base = std::path::absolute(base).map_err(Error::io("finding", base))?;
    let length = fs_err::metadata(&base).map_err(Error::io("opening disk image", &base))?.len();
    if length > *size {
        return Err(Error::Spec(format!(
            "a disk of {size} bytes cannot hold {} of {length} bytes; ask for a larger one",
            base.display()
        )));
    }
    let mut arguments = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"].map(Into::into).to_vec();
    arguments.push(base.into_os_string());
    arguments.push(overlay.into_os_string());
    arguments.push(size.to_string().into());
    programs.output(&programs.qemu_img, arguments).map(drop)
}

/// Copies the first `bytes` of a file to a new one of `length` bytes; runs of zeros become holes.
///
/// # Errors
/// When either file cannot be used or the source is shorter than `bytes`.
pub fn copy_sparse(from: &Path, to: &Path, bytes: u64, length: u64) -> Result<()> {
    let mut source = File::open(from).map_err(Error::io("opening", from))?.take(bytes);
    let mut target = File::create(to).map_err(Error::io("creating", to))?;
    let (mut block, zeros) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut done = 0;
    while done < bytes {
        let count = source.read(&mut block).map_err(Error::io("reading", from))?;
        if count == 0 {
            let short = std::io::ErrorKind::UnexpectedEof.into();
            return Err(Error::Io { doing: "reading", path: from.to_owned(), source: short });
        }
        let data = &block[..count];
        if *data != zeros[..count] {
            target.seek(SeekFrom::Start(done)).map_err(Error::io("writing", to))?;
            target.write_all(data).map_err(Error::io("writing", to))?;
        }
        done += count as u64;
    }
    target.set_len(length).map_err(Error::io("writing", to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_content_and_leaves_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        let mut content = vec![0; 1 << 20];
        content[70_000] = 7;
        fs_err::write(&from, &content).unwrap();
        copy_sparse(&from, &to, 1 << 20, 2 << 20).unwrap();
        content.resize(2 << 20, 0);
        assert_eq!(fs_err::read(&to).unwrap(), content);
        assert!(copy_sparse(&from, &to, 2 << 20, 2 << 20).is_err());
    }
}
