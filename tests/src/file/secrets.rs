//! What must not be in an image that everybody gets: secrets, and traces of the computer that built it.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use walkdir::WalkDir;

use super::scan::{Finder, Hit};
use crate::check::{Verdict, none_of};
use crate::image::{LONG_WORD, NAME_PLACES, Opened, section};

/// How a secret begins, and what shows that one follows: the same words stand in the programs that read them.
struct Secret {
    name: &'static str,
    needle: &'static str,
    follows: fn(&[u8]) -> bool,
}

const fn kind(name: &'static str, needle: &'static str, follows: fn(&[u8]) -> bool) -> Secret {
    Secret { name, needle, follows }
}

const SECRETS: &[Secret] = &[
    kind("a private key", "PRIVATE KEY-----", armoured),
    kind("a Tor onion service key", "== ed25519v1-secret: ", tor_key),
    kind("an age identity", "AGE-SECRET-KEY-1", |rest| run(rest, upper_base32) >= 58),
    kind("a yescrypt password hash", "$y$", |rest| crypt(rest, 43)),
    kind("a SHA-512 password hash", "$6$", |rest| crypt(rest, 86)),
    kind("a SHA-256 password hash", "$5$", |rest| crypt(rest, 43)),
    kind("a bcrypt password hash", "$2y$", bcrypt),
    kind("a bcrypt password hash", "$2b$", bcrypt),
    kind("an Argon2 password hash", "$argon2id$v=", argon2),
    kind("Roundcube's key", "$config['des_key'] = '", roundcube_key),
];

/// Secrets that are none: they stand in a Debian package, the same for all the world. What comes after the needle,
/// and why it is there.
const PUBLISHED: &[(&str, &str)] = &[
    (
        "rounds=1000$0123456789abcdef$",
        "Dovecot tries the C library's password hashes with a known one; the salt says so",
    ),
    (
        "\nMIIEowIBAAKCAQEA3mNxJKdYUP88HHAPP8FWSDYKofxg2ECJsBQPcIEvhuDsOpU",
        "the key of Dovecot's own test suite, in libdovecot",
    ),
    ("rcmail-!24ByteDESkey*Str'", "the example in Roundcube's defaults, which says what it is"),
];

/// Bytes after a needle that its judge may want to see.
const LOOK_AHEAD: usize = 256;

fn base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

fn crypt64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/'
}

fn upper_base32(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

/// How many bytes of a kind come first.
fn run(bytes: &[u8], kind: fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| kind(**byte)).count()
}

/// Whether key data follows a PEM header (RFC 7468), perhaps after the header lines of the older form
/// (RFC 1421). A footer or a program's list of headers is followed by something else.
fn armoured(rest: &[u8]) -> bool {
    // Up to the next header or footer: what follows a key's end may be data of another kind.
    let lines = rest.split(|byte| *byte == b'\n').skip(1).take(4);
    let lines = lines.take_while(|line| !line.windows(5).any(|part| part == b"-----"));
    let first = rest.first().is_some_and(|byte| *byte == b'\n' || *byte == b'\r');
    first && lines.map(|line| run(line, base64)).any(|length| length >= 40)
}

/// Whether the rest of a key file follows its head (Tor, `crypto_format.c`): padding to 32 bytes, then 64 bytes of
/// key, which do not read like the text that follows the head in a program.
fn tor_key(rest: &[u8]) -> bool {
    let end = b"type0 ==\0\0\0";
    let Some(key) = rest.strip_prefix(end).and_then(|rest| rest.get(..64)) else { return false };
    let text = key.iter().filter(|byte| (b' '..=b'~').contains(*byte)).count();
    let zeros = key.iter().filter(|byte| **byte == 0).count();
    // Of random bytes, 24 in 64 are text on average, and more than 47 never.
    text < 48 && zeros < 16
}

/// Whether parameters, a salt and a hash of this length follow (crypt(5)).
fn crypt(rest: &[u8], hash: usize) -> bool {
    let end = rest.iter().position(|byte| !crypt64(*byte) && *byte != b'$' && *byte != b'=');
    let fields: Vec<_> = rest[..end.unwrap_or(rest.len())].split(|byte| *byte == b'$').collect();
    fields.len() >= 2 && fields.last().is_some_and(|last| last.len() == hash && run(last, crypt64) == hash)
}

/// Whether a cost and the salt and hash follow (crypt(5)).
fn bcrypt(rest: &[u8]) -> bool {
    rest.get(2) == Some(&b'$') && run(&rest[rest.len().min(3)..], crypt64) == 53
}

/// Whether parameters, salt and hash follow (PHC string format).
fn argon2(rest: &[u8]) -> bool {
    let fields: Vec<_> = rest.splitn(5, |byte| *byte == b'$').collect();
    matches!(fields[..], [_, _, salt, hash, ..] if run(salt, base64) >= 11 && run(hash, base64) >= 16)
}

/// Whether a string of some length follows, and not a placeholder of a template.
fn roundcube_key(rest: &[u8]) -> bool {
    let length = rest.iter().take_while(|byte| **byte != b'\'').count();
    length >= 16 && rest.get(length) == Some(&b'\'') && !rest.starts_with(b"{{")
}

pub(super) fn no_secret_in_any_byte(image: &mut Opened) -> Verdict {
    let needles: Vec<_> = SECRETS.iter().map(|secret| secret.needle).collect();
    let finder = Finder::new(&needles, LOOK_AHEAD)?;
    let mut findings = Vec::new();
    everything(image, |place, stream| {
        finder.scan(stream, |hit| {
            findings.extend(secret(&hit).map(|name| format!("{name} in {place} at {}", hit.at)));
        })
    })?;
    none_of(&findings)
}

fn secret(hit: &Hit<'_>) -> Option<&'static str> {
    let Secret { name, needle, follows } = &SECRETS[hit.needle];
    let rest = &hit.bytes[needle.len()..];
    let published = PUBLISHED.iter().any(|(begin, _)| rest.starts_with(begin.as_bytes()));
    (!published && follows(rest)).then_some(*name)
}

pub(super) fn no_build_path_or_hostname(image: &mut Opened) -> Verdict {
    let words: BTreeMap<_, _> =
        image.ctx.forbidden.clone().into_iter().filter(|(_, word)| !word.is_empty()).collect();
    if words.is_empty() {
        bail!("nobody said what the computer is called that built the image");
    }
    let (long, short): (Vec<_>, Vec<_>) = words.iter().partition(|(_, word)| word.len() >= LONG_WORD);
    let mut findings = Vec::new();
    let finder = Finder::new(&long.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>(), 0)?;
    everything(image, |place, stream| {
        finder.scan(stream, |hit| {
            let (what, word) = long[hit.needle];
            findings.push(format!("{what} ({word:?}) in {place} at {}", hit.at));
        })
    })?;
    for place in NAME_PLACES {
        for file in files(&image.root.join(place))? {
            let bytes = fs_err::read(&file)?;
            let text = String::from_utf8_lossy(&bytes);
            let mut parts = text.split(|c: char| !c.is_alphanumeric() && c != '-');
            let found = parts.find_map(|part| short.iter().find(|(_, word)| *word == part));
            let name = file.strip_prefix(&image.root)?.display();
            findings.extend(found.map(|(what, word)| format!("{what} ({word:?}) in /{name}")));
        }
    }
    none_of(&findings)
}

/// Regular files at or below a place, in order; none if there is no such place.
fn files(place: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !place.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in WalkDir::new(place).sort_by_file_name() {
        let entry = entry.context("walking the files of the image")?;
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

/// Every byte of the image in every form: the raw file, each file of the root file system and of the boot
/// partition, and what the initial file systems unpack to.
fn everything(
    image: &Opened,
    mut look: impl FnMut(&str, &mut dyn Read) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let length = fs_err::metadata(&image.ctx.image)?.len();
    look("the image file", &mut section(&image.ctx.image, 0, length)?)?;
    for (title, folder) in [("", &image.root), ("boot:", &image.boot)] {
        for file in files(folder)? {
            let name = file.strip_prefix(folder).unwrap_or(&file).display();
            look(&format!("{title}/{name}"), &mut fs_err::File::open(&file)?)?;
        }
    }
    for file in files(&image.boot)? {
        let initial = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("initrd"));
        if initial {
            let name =
                format!("boot:/{} unpacked", file.strip_prefix(&image.boot).unwrap_or(&file).display());
            let unpacked = unpack(image, &file).with_context(|| format!("unpacking {}", file.display()))?;
            look(&name, &mut Cursor::new(unpacked))?;
        }
    }
    Ok(())
}

/// The compressed part of an initial file system, unpacked; before it there may be plain ones (microcode).
fn unpack(image: &Opened, file: &Path) -> anyhow::Result<Vec<u8>> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd]; // RFC 8878
    const PLAIN: &[u8] = b"070701"; // cpio(5), newc
    let bytes = fs_err::read(file)?;
    let Some(start) = compressed_part(&bytes, ZSTD) else {
        // All of it is plain, so the file's own bytes were everything.
        anyhow::ensure!(bytes.starts_with(PLAIN), "it is neither cpio nor zstd");
        return Ok(Vec::new());
    };
    let part = bytes[start..].to_vec();
    let mut command = image.ctx.programs.command("zstd");
    let mut child = command.args(["-d", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("opening a pipe")?;
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &part));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    anyhow::ensure!(output.status.success(), "zstd: {}", output.status);
    Ok(output.stdout)
}

/// Where the compressed part starts: at the beginning, or after plain ones, which are padded to four bytes.
fn compressed_part(bytes: &[u8], magic: [u8; 4]) -> Option<usize> {
    const TRAILER: &[u8] = b"TRAILER!!!";
    if bytes.starts_with(&magic) {
        return Some(0);
    }
    let ends = bytes.windows(TRAILER.len()).enumerate().filter(|(_, window)| *window == TRAILER);
    ends.map(|(at, _)| at + TRAILER.len()).find_map(|end| {
        let start = end + bytes[end..].iter().position(|byte| *byte != 0)?;
        bytes[start..].starts_with(&magic).then_some(start)
    })
}

/// Files that would make every appliance the same, or hold what only one may know.
const FILES: &[(&str, &str)] = &[
    ("etc/ssh/ssh_host_", "an SSH host key"),
    ("etc/ssl/private/", "a TLS key"),
    ("var/lib/systemd/random-seed", "a random seed"),
    ("var/lib/systemd/credential.secret", "the key of systemd's credentials"),
    ("var/lib/dbus/machine-id", "a machine-id"),
    ("var/lib/tor/", "Tor's state"),
    ("etc/shadow-", "an old password file"),
    ("etc/gshadow-", "an old password file"),
    ("etc/passwd-", "an old password file"),
    ("etc/group-", "an old password file"),
    ("var/cache/debconf/passwords.dat", "debconf's passwords"),
    ("root/.", "a dot file of root"),
    ("var/log/", "a log"),
];

/// What root's home has in every Debian system.
const SKELETON: [&str; 2] = ["root/.bashrc", "root/.profile"];

pub(super) fn no_secret_file(image: &mut Opened) -> Verdict {
    let mut findings = Vec::new();
    for top in ["", "usr/share/factory/"] {
        for file in files(&image.root.join(top))? {
            let name = file.strip_prefix(image.root.join(top)).unwrap_or(&file).to_string_lossy();
            let empty = fs_err::metadata(&file)?.len() == 0;
            let bad = FILES.iter().find(|(prefix, _)| name.starts_with(prefix));
            if let Some((_, what)) = bad
                && !empty
                && !SKELETON.contains(&name.as_ref())
            {
                findings.push(format!("{what}: /{top}{name}"));
            }
        }
    }
    let resolver = fs_err::read_to_string(image.root.join("etc/resolv.conf"))?;
    let names = resolver.lines().filter(|line| !line.starts_with(['#', 'o']) && !line.is_empty());
    for line in names.filter(|line| *line != "nameserver 127.0.0.1") {
        findings.push(format!("/etc/resolv.conf names another resolver than Tor's: {line}"));
    }
    let machine_id = image.root.join("etc/machine-id");
    let id = if machine_id.exists() { fs_err::read_to_string(&machine_id)? } else { String::new() };
    if !["", "uninitialized"].contains(&id.trim()) {
        findings.push(format!("/etc/machine-id holds {:?}", id.trim()));
    }
    for file in ["etc/shadow", "etc/gshadow"] {
        findings.extend(passwords(&fs_err::read_to_string(image.root.join(file))?, file));
    }
    none_of(&findings)
}

/// Accounts whose password field is not locked (shadow(5), gshadow(5)). An empty field needs no password.
fn passwords(text: &str, file: &str) -> Vec<String> {
    let open = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, password) = (fields.next()?, fields.next()?);
        let locked = ["*", "!", "!*", "!!", "!unprovisioned"].contains(&password);
        (!locked).then(|| format!("/{file}: {name} has the password field {password:?}"))
    });
    open.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &[u8]) -> Vec<&'static str> {
        let needles: Vec<_> = SECRETS.iter().map(|secret| secret.needle).collect();
        let mut names = Vec::new();
        Finder::new(&needles, LOOK_AHEAD).unwrap().scan(text, |hit| names.extend(secret(&hit))).unwrap();
        names
    }

    #[test]
    fn secrets_are_told_from_their_names() {
        let line = "A".repeat(64);
        let key =
            format!("x-----BEGIN OPENSSH PRIVATE KEY-----\n{line}\n-----END OPENSSH PRIVATE KEY-----\n");
        assert_eq!(found(key.as_bytes()), ["a private key"]);
        let old = format!("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\n{line}\n");
        assert_eq!(found(old.as_bytes()), ["a private key"]);
        assert!(found(b"-----BEGIN RSA PRIVATE KEY-----\0-----BEGIN EC PRIVATE KEY-----\0").is_empty());
        assert!(found(b"-----BEGIN RSA PRIVATE KEY-----\n%s\n").is_empty());
        let parameters = format!("-----END RSA PRIVATE KEY-----\n-----BEGIN DH PARAMETERS-----\n{line}\n");
        assert!(found(parameters.as_bytes()).is_empty());

        let mut tor = b"== ed25519v1-secret: type0 ==\0\0\0".to_vec();
        tor.extend((1..=64_u8).map(|n| n.wrapping_mul(37)));
        assert_eq!(found(&tor), ["a Tor onion service key"]);
        let mut program = b"== ed25519v1-secret: type0 ==\0\0\0".to_vec();
        program
            .extend(b"the key file is too short: it was cut off, or never complete\0\0\0\0the next message");
        assert!(found(&program).is_empty());

        let hash = format!("root:$y$j9T$abcdefghijklmnopqrstu.${}:19000:", "x".repeat(43));
        assert_eq!(found(hash.as_bytes()), ["a yescrypt password hash"]);
        let hash = format!("$6$rounds=5000$salt${}\n", "x".repeat(86));
        assert_eq!(found(hash.as_bytes()), ["a SHA-512 password hash"]);
        let hash = format!("owner:$2y$12${}\n", "x".repeat(53));
        assert_eq!(found(hash.as_bytes()), ["a bcrypt password hash"]);
        let hash = b"{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaA";
        assert_eq!(found(hash), ["an Argon2 password hash"]);
        assert_eq!(found(b"$config['des_key'] = '4z5nQ0nJlMzjLze2kH+/KoBc';"), ["Roundcube's key"]);
        assert!(found(b"$config['des_key'] = '{{ secret(\"roundcube-des\") }}';").is_empty());
        assert!(found(b"$config['des_key'] = 'rcmail-!24ByteDESkey*Str';").is_empty());
        assert!(found(b"$argon2id$v=%d$m=%u,t=%u $2y$ $6$ $y$j9T$").is_empty());
    }

    #[test]
    fn open_passwords_are_told() {
        let text = "root:*:19000::::::\ntor:!*:1::::::\nowner:$y$x:1::::::\nguest::1::::::\n";
        let told = passwords(text, "etc/shadow");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].contains("guest"));
    }

    #[test]
    fn the_compressed_part_follows_plain_ones() {
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        let mut bytes = b"070701 microcode TRAILER!!!\0\0\0\0".to_vec();
        assert_eq!(compressed_part(&bytes, magic), None);
        bytes.extend(magic);
        assert_eq!(compressed_part(&bytes, magic), Some(31));
        assert_eq!(compressed_part(&magic, magic), Some(0));
    }
}
