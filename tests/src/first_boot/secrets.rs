//! The one-time credentials: who gets to know them, by which way, and where they must not be.
//!
//! What is looked for is never an argument of a program in the guest: it lies in a file that only root can read,
//! and `grep -f` takes it from there.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use data_encoding::{BASE32_NOPAD, BASE64};
use qemu::{Deadline, RunDir};

use super::State;
use crate::Context;
use crate::appliance::Appliance;
use crate::check::{PASS, Verdict, fail, none_of};

/// From the start of the machine until the agent has handed over.
const HANDED_OVER: u64 = 900;

/// The file of the owner's SSH key.
const OWNER: &str = "owner";

/// The patterns to look for, one a line, in the guest.
const PATTERNS: &str = "/run/cipolla-test/patterns";

/// Mounts the boot partition read-only on `/run/cipolla-test/boot` for the rest of the script.
const MOUNT: &str = "mkdir -p -m 0700 /run/cipolla-test/boot
mount -o ro /dev/disk/by-partlabel/boot /run/cipolla-test/boot
trap 'umount /run/cipolla-test/boot' EXIT
";

/// The credentials as the appliance keeps them for its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    mailbox: String,
    web: String,
    /// x25519, in base32.
    admin: String,
    /// The mail domain.
    mx: String,
}

/// Makes the owner's SSH key with OpenSSH's own program and returns its public half. The private one stays in
/// the run directory, for later runs too: a record of an earlier one holds that owner's settings.
pub(crate) fn owner_key(ctx: &Context, run_dir: &RunDir) -> anyhow::Result<String> {
    let (file, public) = (run_dir.file(OWNER), run_dir.file("owner.pub"));
    // The public half is written last.
    if !public.exists() {
        if file.exists() {
            fs_err::remove_file(&file)?;
        }
        let options = ["-q", "-t", "ed25519", "-N", "", "-C", "ada@laptop", "-f"].map(AsRef::as_ref);
        ctx.programs.output("ssh-keygen", options.into_iter().chain([file.as_os_str()]))?;
    }
    Ok(fs_err::read_to_string(public)?.trim().to_owned())
}

/// Records all command lines and environments in the guest from now until the agent has handed over.
pub(super) fn watch_command_lines(appliance: &mut Appliance) -> anyhow::Result<()> {
    let script = "umask 077
mkdir -p /run/cipolla-test
until test -e /run/cipolla/issue || systemctl -q is-failed cipolla-boot.service; do
  cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' >>/run/cipolla-test/processes
  sleep 0.3
done
exit 0";
    appliance.machine.run(script, Deadline::seconds(HANDED_OVER))?;
    Ok(())
}

/// Reads the credentials where root may read them, and lays out the patterns.
pub(super) fn learn(state: &mut State) -> anyhow::Result<()> {
    let text = state.appliance.read(&format!(
        "umask 077
mkdir -p /run/cipolla-test
cd /var/lib/cipolla/private/credentials
for name in mailbox web admin; do cat $name; echo; done | tee {PATTERNS}
cat /var/lib/tor/mx/hostname"
    ))?;
    let mut lines = text.lines().map(str::to_owned);
    let mut next = || lines.next().filter(|line| line.len() > 20).context("a credential is missing");
    state.waiting = Waiting { mailbox: next()?, web: next()?, admin: next()?, mx: next()? };
    Ok(())
}

/// All of the hand-over is on the screen at once: addresses, passwords, QR code and what to do. A picture of it is
/// kept in the run directory.
pub(super) fn console(state: &mut State) -> Verdict {
    let appliance = &mut state.appliance;
    let picture = appliance.machine.screenshot("console.png", Deadline::seconds(60))?;
    let screen = appliance.read("fold -w $(stty size </dev/tty1 | cut -d' ' -f2) /dev/vcs1")?;
    let client = appliance.read("cat /var/lib/tor/client/hostname")?;
    let Waiting { mailbox, web, admin, mx } = &state.waiting;
    let mut findings = Vec::new();
    for (what, words) in [
        ("the mail address", mx.as_str()),
        ("the webmail's address", client.trim()),
        ("the mailbox password", mailbox),
        ("the web password", web),
        ("the admin key", admin),
        ("the SSH fingerprint", "SHA256:"),
        ("how to acknowledge", "cipolla ack"),
        ("a login prompt", "login:"),
    ] {
        if !screen.contains(words) {
            findings.push(format!("{what} is not on the screen ({})", picture.display()));
        }
    }
    none_of(&findings)
}

/// In no journal of any boot, no kernel message, no log, no command line and no environment.
pub(super) fn never_in_journal(state: &mut State) -> Verdict {
    let appliance = &mut state.appliance;
    let console = appliance.machine.console().text();
    let mut findings = Vec::new();
    // Getty's part of the console is the hand-over; what comes before it is the boot.
    let boot = console.split("Cipolla ").next().unwrap_or_default();
    for (name, source) in [
        ("the journal of all boots", "journalctl --no-pager -a -o export"),
        ("the journal's files", "find /var/log /run/log -type f -exec cat {} +"),
        ("the kernel's messages", "dmesg"),
        ("a command line or an environment during the boot", "cat /run/cipolla-test/processes"),
        ("a command line or an environment now", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null"),
        ("systemd's properties of the unit", "systemctl show cipolla-boot.service"),
    ] {
        let found = appliance.run(&format!("{{ {source}; }} | grep -zaqF -f {PATTERNS}"))?;
        match found.status.0 {
            0 => findings.push(format!("a credential is in {name}")),
            1 => {}
            _ => bail!("looking into {name}: {}: {}", found.status, found.stderr.trim()),
        }
    }
    // The sieve is not blind: it finds what is there.
    let control = appliance.run(&format!("cat /run/cipolla/issue | grep -aqF -f {PATTERNS}"))?;
    if !control.status.success() {
        findings.push("the console's text holds no credential, so nothing could have been found".to_owned());
    }
    let waiting = &state.waiting;
    for secret in [&waiting.mailbox, &waiting.web, &waiting.admin] {
        if boot.contains(secret.as_str()) {
            findings.push("a credential is on the console before the hand-over".to_owned());
        }
    }
    none_of(&findings)
}

/// In no file that anybody but root can read, and on no byte of the boot partition.
pub(super) fn not_readable_by_others(state: &mut State) -> Verdict {
    let appliance = &mut state.appliance;
    let script = format!(
        "{{ find /data /run /etc /tmp -xdev -type f -perm /044 -print0; }} | xargs -0r grep -alsF -f {PATTERNS}; true"
    );
    let files = appliance.read(&script)?;
    let mut findings: Vec<_> =
        files.lines().map(|file| format!("a credential is in {file}, which others can read")).collect();
    let raw = format!("grep -zaqF -f {PATTERNS} /dev/disk/by-partlabel/boot");
    match appliance.run(&raw)?.status.0 {
        0 => findings.push("a credential is on the boot partition in clear".to_owned()),
        1 => {}
        status => bail!("looking through the boot partition: exit status {status}"),
    }
    none_of(&findings)
}

/// Decrypts `credentials.age` with the owner's SSH key, away from the appliance.
fn claimed(state: &mut State) -> anyhow::Result<String> {
    let script = format!("{MOUNT}base64 -w0 /run/cipolla-test/boot/credentials.age");
    let encrypted = state.appliance.read(&script)?;
    let encrypted = BASE64.decode(encrypted.trim().as_bytes())?;
    let file = state.owner.file(OWNER);
    let key = age::ssh::Identity::from_buffer(std::io::BufReader::new(fs_err::File::open(&file)?), None)?;
    let mut text = String::new();
    let decryptor = age::Decryptor::new(&encrypted[..]).context("reading the header")?;
    decryptor
        .decrypt(std::iter::once(&key as &dyn age::Identity))
        .context("opening it with the owner's key")?
        .read_to_string(&mut text)?;
    Ok(text)
}

/// What follows `word` on its line.
fn after<'t>(text: &'t str, word: &str) -> Vec<&'t str> {
    text.lines().filter_map(|line| line.trim().strip_prefix(word)).map(str::trim).collect()
}

/// The credentials in the words of the hand-over.
fn parse(text: &str) -> anyhow::Result<Waiting> {
    let passwords = after(text, "password  ");
    let [mailbox, web] = passwords[..] else { bail!("there are {} passwords in it", passwords.len()) };
    let users = after(text, "user ");
    let mx = users.iter().find_map(|user| user.split_once('@')).context("no user has a domain")?.1;
    let admin =
        text.lines().find_map(|line| line.split_once(":descriptor:x25519:")).context("no key in it")?;
    let [mailbox, web, admin, mx] = [mailbox, web, admin.1.trim(), mx].map(str::to_owned);
    Ok(Waiting { mailbox, web, admin, mx })
}

pub(super) fn claim(state: &mut State) -> Verdict {
    let text = claimed(state)?;
    let claimed = parse(&text)?;
    if claimed != state.waiting {
        return fail("what credentials.age holds are not the appliance's credentials");
    }
    // Who has another key gets nothing.
    let script = format!("{MOUNT}base64 -w0 /run/cipolla-test/boot/credentials.age");
    let encrypted = BASE64.decode(state.appliance.read(&script)?.trim().as_bytes())?;
    let stranger = age::x25519::Identity::generate();
    let opened =
        age::Decryptor::new(&encrypted[..])?.decrypt(std::iter::once(&stranger as &dyn age::Identity));
    if opened.is_ok() { fail("a stranger's key opens credentials.age") } else { PASS }
}

/// The claimed credentials open what they are for: the mailbox by Dovecot's own word, the web server's password
/// file by libcrypt's, and the admin service's list of clients by a second implementation of x25519.
pub(super) fn log_in(state: &mut State) -> Verdict {
    let claimed = parse(&claimed(state)?)?;
    let Waiting { mailbox, web, admin, mx } = &claimed;
    let appliance = &mut state.appliance;
    let mut findings = Vec::new();
    let login = |password: &str| format!("echo '{password}' | doveadm auth test -x service=imap 'ada@{mx}'");
    if !appliance.run(&login(mailbox))?.status.success() {
        findings.push("Dovecot does not take the mailbox password".to_owned());
    }
    if appliance.run(&login("wrong-words"))?.status.success() {
        findings.push("Dovecot takes another password".to_owned());
    }
    let hash = "$(cut -d: -f2 /var/lib/cipolla/web/htpasswd)";
    let crypt = |password: &str| {
        format!(
            "test \"$(cut -d: -f1 /var/lib/cipolla/web/htpasswd)\" = ada || exit 3
echo '{password}' | perl -e '$_ = <STDIN>; chomp; exit(crypt($_, $ARGV[0]) ne $ARGV[0])' \"{hash}\""
        )
    };
    if !appliance.run(&crypt(web))?.status.success() {
        findings.push("the web server's password file does not take the web password".to_owned());
    }
    if appliance.run(&crypt("wrong-words"))?.status.success() {
        findings.push("the web server's password file takes another password".to_owned());
    }
    let public = BASE32_NOPAD
        .decode(admin.as_bytes())
        .ok()
        .and_then(|secret| ed25519_compact::x25519::SecretKey::from_slice(&secret).ok())
        .and_then(|secret| secret.recover_public_key().ok())
        .context("the admin key is no x25519 key")?;
    let wanted = format!("descriptor:x25519:{}", BASE32_NOPAD.encode(&*public));
    let known = appliance.read("cat /var/lib/tor/admin/authorized_clients/*.auth")?;
    if known.trim() != wanted {
        findings.push(format!("the admin service knows {:?}, the claimed key is {wanted:?}", known.trim()));
    }
    none_of(&findings)
}

/// `WELCOME.txt` names the addresses, and nothing that must stay secret.
pub(super) fn welcome(state: &mut State) -> Verdict {
    let script = format!("{MOUNT}cat /run/cipolla-test/boot/WELCOME.txt");
    let appliance = &mut state.appliance;
    let text = appliance.read(&script)?;
    let mut findings = Vec::new();
    for service in ["mx", "client", "admin"] {
        let address = appliance.read(&format!("cat /var/lib/tor/{service}/hostname"))?;
        if !text.contains(address.trim()) {
            findings.push(format!("the address of {service} is not in WELCOME.txt"));
        }
    }
    let fingerprint = appliance.read("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2")?;
    if !text.contains(fingerprint.trim()) {
        findings.push("the SSH host key's fingerprint is not in WELCOME.txt".to_owned());
    }
    let Waiting { mailbox, web, admin, .. } = &state.waiting;
    for secret in [mailbox, web, admin] {
        if text.contains(secret.as_str()) {
            findings.push("a credential is in WELCOME.txt".to_owned());
        }
    }
    if text.contains("PRIVATE KEY") || text.contains(":descriptor:x25519:") {
        findings.push("a key is in WELCOME.txt".to_owned());
    }
    none_of(&findings)
}

/// The first login shows them, the next one says that they wait; both as a login shell on a terminal does it.
pub(super) fn first_login(state: &mut State) -> Verdict {
    let login = "TERM=dumb script -qec \"sh -lc 'echo logged in'\" /dev/null </dev/null";
    let first = state.appliance.read(login)?;
    let second = state.appliance.read(login)?;
    let Waiting { mailbox, web, admin, .. } = &state.waiting;
    let mut findings = Vec::new();
    for (text, shows) in [(&first, true), (&second, false)] {
        if !text.contains("logged in") {
            findings.push("a login does not end in a shell".to_owned());
        }
        if [mailbox, web, admin].iter().any(|secret| text.contains(secret.as_str()) != shows) {
            let which = if shows { "the first login does not show" } else { "the second login shows" };
            findings.push(format!("{which} the credentials"));
        }
        if !text.contains("cipolla ack") {
            findings.push("a login does not say how to acknowledge".to_owned());
        }
    }
    none_of(&findings)
}

/// After `cipolla ack` they are nowhere, in no form, and still work.
pub(super) fn acknowledged(state: &mut State) -> Verdict {
    let login = format!(
        "echo '{}' | doveadm auth test -x service=imap 'ada@{}'",
        state.waiting.mailbox, state.waiting.mx
    );
    let appliance = &mut state.appliance;
    appliance.read("cipolla ack")?;
    let mut findings = Vec::new();
    let left = appliance.read("ls -A /var/lib/cipolla/private/credentials")?;
    if !left.trim().is_empty() {
        findings.push(format!("still there: {}", left.replace('\n', " ")));
    }
    let files = appliance.read(&format!(
        "find /data /run /etc /tmp -xdev -path /run/cipolla-test -prune -o -path /run/cipolla-shell -prune -o \
         -type f -print0 | xargs -0r grep -alsF -f {PATTERNS}; true"
    ))?;
    findings.extend(files.lines().map(|file| format!("a credential is still in {file}")));
    // The passwords stood on the screen until now; getty draws it anew when it is told to.
    let screen = appliance.run(&format!(
        "width=$(stty size </dev/tty1 | cut -d' ' -f2)
for try in $(seq 100); do
  fold -w $width /dev/vcs1 | grep -aqF -f {PATTERNS} || exit 1
  sleep 0.2
done"
    ))?;
    if screen.status.success() {
        findings.push("a credential is still on the screen".to_owned());
    }
    let boot = appliance.read(&format!("{MOUNT}ls /run/cipolla-test/boot"))?;
    if boot.lines().any(|name| name == "credentials.age") {
        findings.push("credentials.age is still on the boot partition".to_owned());
    }
    let again = appliance.read("cipolla boot")?;
    if again.trim() != "nothing to do" {
        findings.push(format!("after the acknowledgement the agent wants to {}", again.trim()));
    }
    if !appliance.run(&login)?.status.success() {
        findings.push("the mailbox password no longer works".to_owned());
    }
    none_of(&findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hand_over_is_read() {
        let text = "Mailbox (webmail)\n  user      ada@x.onion\n  password  a-b\nIn front\n  user      ada\n  \
                    password  c-d\nAdministration\n  y:descriptor:x25519:KEY\n";
        let waiting = parse(text).unwrap();
        let all = [&waiting.mailbox, &waiting.web, &waiting.admin, &waiting.mx].map(String::as_str);
        assert_eq!(all, ["a-b", "c-d", "KEY", "x.onion"]);
    }
}
