//! Postfix's ports as the machine's own users meet them: whoever runs something here is trusted no more than strangers.
//!
//! Dialogues are held in the guest, by processes of the user in question. What Tor's user writes ahead of them is what
//! Tor would write, or a lie.

use anyhow::Context as _;
use serde::Serialize;

use super::{Person, State};
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::PEER;

/// A message of four times the image's limit (25 MiB), in bytes.
const LARGE: u64 = 100_000_000;

/// How much the disk of the guest may fill meanwhile, in KiB: the journal goes on.
const ROOM: u64 = 8 << 10;

/// Holds dialogues, each as a user: JSON in, and for each a line of JSON out with the last lines of all replies.
const SPEAK: &str = r#"python3 - <<'END'
import json, os, pwd, socket, sys

def hold(one):
    who = pwd.getpwnam(one["user"])
    os.setgroups([]); os.setgid(who.pw_gid); os.setuid(who.pw_uid)
    server = socket.create_connection(("127.0.0.1", one["port"]), 120)
    server.sendall(one["ahead"].encode())
    lines = server.makefile("rb")
    def reply():
        while True:
            line = lines.readline().decode(errors="replace").rstrip()
            if line[3:4] != "-":
                return line
    said = [reply()]
    for part in one["parts"]:
        if isinstance(part, int):
            block = (b"x" * 898 + b"\r\n") * 72
            for _ in range(part // len(block) + 1):
                server.sendall(block)
            server.sendall(b".\r\n")
        else:
            server.sendall(part.encode() + b"\r\n")
        said.append(reply())
    print(json.dumps(said), flush=True)

for one in json.loads(r'''DIALOGUES'''):
    child = os.fork()
    if child == 0:
        try:
            hold(one)
        except OSError as error:
            print(json.dumps([str(error)]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
END"#;

/// What a dialogue consists of.
#[derive(Serialize)]
#[serde(untagged)]
enum Part {
    /// A command.
    Line(String),
    /// So many bytes of text or a little more, and the end of the message.
    Text(u64),
}

/// A dialogue, from the connection to the last part.
#[derive(Serialize)]
struct Dialogue {
    user: &'static str,
    port: u16,
    /// What is sent before the greeting is waited for.
    ahead: String,
    parts: Vec<Part>,
}

impl Dialogue {
    /// As `user`, up to one recipient.
    fn to(user: &'static str, port: u16, ahead: &str, from: &str, recipient: &str) -> Self {
        let parts = [format!("EHLO {PEER}"), format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{recipient}>")];
        Self { user, port, ahead: ahead.to_owned(), parts: parts.into_iter().map(Part::Line).collect() }
    }

    fn then(mut self, parts: impl IntoIterator<Item = Part>) -> Self {
        self.parts.extend(parts);
        self
    }
}

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("relay_from_loopback_denied", &["R27", "R36"], relay_from_loopback_denied),
        check("size_limit", &["R29"], size_limit),
        check("double_bounces_reach_the_owner", &["R30"], double_bounces),
    ]
}

/// The replies to each part, the greeting first.
fn speak(state: &mut State, dialogues: &[Dialogue]) -> anyhow::Result<Vec<Vec<String>>> {
    let script = SPEAK.replace("DIALOGUES", &serde_json::to_string(dialogues)?);
    let output = state.resident.appliance.read(&script)?;
    let said = output.lines().map(serde_json::from_str).collect::<Result<Vec<Vec<String>>, _>>();
    let said = said.with_context(|| format!("reading the replies {output:?}"))?;
    anyhow::ensure!(said.len() == dialogues.len(), "{} of {} replied: {output}", said.len(), dialogues.len());
    Ok(said)
}

/// The header that Tor writes ahead of a circuit's dialogue.
fn circuit(number: u16) -> String {
    format!("PROXY TCP6 fc00:dead:beef:4dad:0:0:ffff:{number:x} ::1 65535 25\r\n")
}

fn relay_from_loopback_denied(state: &mut State) -> Verdict {
    let (ada, token) = (state.at("ada")?, state.token());
    let broken = format!("x@{}", PEER.replacen("6cx7", "6cx6", 1));
    let lie = "PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n";
    let stranger = format!("x@{PEER}");
    // No login; a recipient that Tor does not reach; a header that says that the machine itself is the client.
    let cases = [
        (Dialogue::to("roundcube", 10587, "", &ada, &ada), "554 5.7.1", "Client host rejected"),
        (Dialogue::to("roundcube", 10587, "", &ada, &stranger), "554 5.7.1", "Client host rejected"),
        (Dialogue::to("vmail", 10588, "", &ada, "x@example.com"), "550 5.1.2", "only to .onion addresses"),
        (Dialogue::to("vmail", 10588, "", &ada, &broken), "550 5.1.2", "checksum does not match"),
        (
            Dialogue::to("debian-tor", 10025, lie, &stranger, "x@example.com"),
            "554 5.7.1",
            "Relay access denied",
        ),
        (Dialogue::to("debian-tor", 10025, lie, &stranger, &stranger), "554 5.7.1", "Relay access denied"),
        (Dialogue::to("debian-tor", 10025, lie, &ada, &ada), "550 5.7.1", "log in"),
    ];
    let (dialogues, wanted): (Vec<_>, Vec<_>) =
        cases.into_iter().map(|(dialogue, code, text)| (dialogue, (code, text))).unzip();
    let mut findings = Vec::new();
    let said = speak(state, &dialogues)?;
    for ((dialogue, (code, text)), said) in dialogues.iter().zip(wanted).zip(&said) {
        let last = said.last().map_or("", String::as_str);
        if said.len() != 4 || !last.starts_with(code) || !last.contains(text) {
            findings.push(format!("{} at {}: {said:?}, not {code} … {text}", dialogue.user, dialogue.port));
        }
    }
    // The command is for root alone; and what root sends elsewhere comes back.
    let letter = format!("From: <{ada}>\\nSubject: {token}\\n\\nx\\n");
    let output = state.resident.appliance.run(&format!(
        "printf '{letter}' | setpriv --reuid=www-data --regid=www-data --clear-groups sendmail -f {ada} {ada}"
    ))?;
    if output.status.success() || !output.stderr.contains("not allowed to submit mail") {
        findings.push(format!("www-data's sendmail ends with {}: {}", output.status, output.stderr));
    }
    let script = format!(
        "printf '{letter}' | sendmail -f {ada} {token}@example.com
         for n in $(seq 60); do
             journalctl -b -o cat --no-pager | grep 'to=<{token}@example.com>' && break; sleep 0.5
         done"
    );
    let tried = state.resident.appliance.read(&script)?;
    if !tried.contains("status=bounced") || !tried.contains("relay=none") || tried.contains("status=sent") {
        findings.push(format!("root's mail for example.com: {tried:?}"));
    }
    if !findings.is_empty() {
        return none_of(&findings);
    }
    let back = state.site()?.arrived(
        state.account(Person::Ada)?,
        "INBOX",
        "Undelivered",
        qemu::Deadline::seconds(crate::site::DELIVERY),
    )?;
    if String::from_utf8_lossy(&back).contains("this server sends only to .onion addresses") {
        return PASS;
    }
    fail(format!("it came back with {}", String::from_utf8_lossy(&back)))
}

/// The image's limit, announced and not. What is too long is heard to its end and kept nowhere.
fn size_limit(state: &mut State) -> Verdict {
    let stranger = format!("x@{PEER}");
    let ada = state.at("ada")?;
    let announced = Dialogue {
        user: "debian-tor",
        port: 10025,
        ahead: circuit(1),
        parts: vec![
            Part::Line(format!("EHLO {PEER}")),
            Part::Line(format!("MAIL FROM:<{stranger}> SIZE={}", (25 << 20) + 1)),
        ],
    };
    let large = Dialogue::to("debian-tor", 10025, &circuit(2), &stranger, &ada).then([
        Part::Line("DATA".to_owned()),
        Part::Text(LARGE),
        Part::Line("QUIT".to_owned()),
    ]);
    let after = Dialogue::to("debian-tor", 10025, &circuit(3), &stranger, &ada);
    let used = "sync; df --output=used -k /var | tail -n 1; find /var/spool/postfix/incoming -type f | wc -l";
    let before = state.resident.appliance.read(used)?;
    let said = speak(state, &[announced, large, after])?;
    let left = state.resident.appliance.read(used)?;
    let mut findings = Vec::new();
    let wanted: [(&str, usize, &str); 4] = [
        ("a size that is announced", 2, "552 5.3.4"),
        ("100 MB", 5, "552 5.3.4"),
        ("QUIT after it", 6, "221 "),
        ("the next client's recipient", 3, "250 "),
    ];
    for ((what, at, begin), said) in wanted.iter().zip([&said[0], &said[1], &said[1], &said[2]]) {
        if !said.get(*at).is_some_and(|reply| reply.starts_with(begin)) {
            findings.push(format!("{what}: {said:?}, not {begin} at {at}"));
        }
    }
    let numbers = |text: &str| text.split_whitespace().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>();
    let (before, left) = (numbers(&before)?, numbers(&left)?);
    anyhow::ensure!(before.len() == 2 && left.len() == 2, "the disk is {before:?}, then {left:?}");
    if left[0] > before[0] + ROOM || left[1] > 0 {
        findings.push(format!("{before:?} KiB and files of Postfix were there before, {left:?} after"));
    }
    none_of(&findings)
}

/// Mail that nobody takes, from somebody whom nobody reaches.
fn double_bounces(state: &mut State) -> Verdict {
    let (nobody, token) = (state.at("nobody-at-all")?, state.token());
    let script = format!(
        "printf 'Subject: {token}\\n\\nx\\n' | sendmail -f {token}@example.com {nobody}
         for n in $(seq 90); do
             grep -rls '{token}@example.com' /var/vmail/ada/Maildir/new /var/vmail/ada/Maildir/cur && break; sleep 1
         done
         postqueue -p"
    );
    let found = state.resident.appliance.read(&script)?;
    if found.starts_with("/var/vmail/ada/Maildir/") && found.contains("queue is empty") {
        return PASS;
    }
    fail(format!("neither sender nor owner is told: {found}"))
}
