//! What the own servers say to strangers: dialogues on loopback, held as Tor's user with the header that Tor writes.

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;

use super::{Ground, Outcome};
use crate::onions::Onion;

/// The circuit that the self-test pretends to be: the last number that there is, which Tor will not reach.
pub(super) const CIRCUIT: &str = "PROXY TCP6 fc00:dead:beef:4dad::ffff:ffff ::1 65535 25\r\n";

/// Who passes strangers on.
pub(super) const TOR: &str = "debian-tor";

/// The answers of the mx service, one for each step of the dialogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Smtp {
    banner: String,
    mail_before_helo: String,
    ehlo: String,
    auth: String,
    vrfy: String,
    own_domain: String,
    relay: String,
}

/// Holds a dialogue with a port on loopback as Tor's user; the first part goes out behind the header.
fn talk(ground: &Ground<'_, '_>, port: u16, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
    converse(ground, TOR, port, CIRCUIT, parts)
}

/// A dialogue with a port on loopback as a user; the first part goes out behind what comes ahead of all.
pub(super) struct Dialogue<'d> {
    pub(super) user: &'static str,
    pub(super) port: u16,
    pub(super) ahead: &'d str,
    pub(super) parts: Vec<&'d [u8]>,
}

impl Dialogue<'_> {
    /// As the arguments of `cipolla probe`.
    fn arguments(&self) -> Vec<String> {
        let mut encoded: Vec<_> = self.parts.iter().map(|part| HEXLOWER.encode(part)).collect();
        if let Some(first) = encoded.first_mut() {
            first.insert_str(0, &HEXLOWER.encode(self.ahead.as_bytes()));
        }
        ["talk".to_owned(), format!("127.0.0.1:{}", self.port)].into_iter().chain(encoded).collect()
    }
}

/// Holds a dialogue with a port on loopback as a user.
pub(super) fn converse(
    ground: &Ground<'_, '_>,
    user: &'static str,
    port: u16,
    ahead: &str,
    parts: &[&[u8]],
) -> Result<Vec<Vec<u8>>> {
    let dialogue = Dialogue { user, port, ahead, parts: parts.to_vec() };
    converse_all(ground, &[dialogue])?.into_iter().next().context("the probe does not answer")
}

/// Holds dialogues, all at once, and returns the answers to the parts of each.
pub(super) fn converse_all(ground: &Ground<'_, '_>, dialogues: &[Dialogue<'_>]) -> Result<Vec<Vec<Vec<u8>>>> {
    let probes: Vec<_> = dialogues.iter().map(|one| (one.user, one.arguments())).collect();
    let decode =
        |line: &str| HEXLOWER.decode(line.as_bytes()).context("the probe did not answer in hexadecimal");
    let answers = ground.probe_all(&probes)?;
    answers.iter().map(|answers| answers.lines().map(decode).collect()).collect()
}

fn hold(ground: &Ground<'_, '_>) -> Result<Smtp> {
    let mx = Onion::Mx.address(ground.machine.fs)?;
    let own = format!("MAIL FROM:<postmaster@{mx}>\r\n");
    let own_recipient = format!("RCPT TO:<postmaster@{mx}>\r\n");
    let answers = talk(
        ground,
        10025,
        &[
            b"",
            b"MAIL FROM:<>\r\n",
            b"EHLO probe.invalid\r\n",
            b"AUTH PLAIN AA==\r\n",
            b"VRFY postmaster\r\n",
            own.as_bytes(),
            own_recipient.as_bytes(),
            b"RSET\r\n",
            b"MAIL FROM:<>\r\n",
            b"RCPT TO:<somebody@example.com>\r\n",
            b"QUIT\r\n",
        ],
    )?;
    let text = |n: usize| {
        answers.get(n).map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned()).unwrap_or_default()
    };
    Ok(Smtp {
        banner: text(0),
        mail_before_helo: text(1),
        ehlo: text(2),
        auth: text(3),
        vrfy: text(4),
        own_domain: after_mail(text(5), text(6)),
        relay: after_mail(text(8), text(9)),
    })
}

/// The answer to RCPT, or that to MAIL if that was refused already.
fn after_mail(mail: String, rcpt: String) -> String {
    if mail.starts_with("250 ") { rcpt } else { mail }
}

/// Judges one answer of the dialogue, which is held at the first question.
fn smtp(ground: &Ground<'_, '_>, judge: fn(&Smtp) -> Vec<String>) -> Result<Outcome> {
    if !ground.has_mail() {
        return Ok(Outcome::skipped("this image has no mail server"));
    }
    if ground.smtp.get().is_none() {
        let held = hold(ground)?;
        let _ = ground.smtp.set(held);
    }
    let held = ground.smtp.get().context("the dialogue was not held")?;
    Ok(Outcome::of(judge(held)))
}

/// Wrong unless the answer begins like this.
pub(super) fn must_begin(what: &str, answer: &str, begin: &str) -> Vec<String> {
    if answer.starts_with(begin) {
        return Vec::new();
    }
    let first = answer.lines().next().unwrap_or_default();
    vec![format!("{what} is answered with \"{}\", not with {begin}", first.escape_debug())]
}

pub(super) fn banner(ground: &Ground<'_, '_>) -> Result<Outcome> {
    let name = format!("220 {} ESMTP", Onion::Mx.address(ground.machine.fs)?);
    let outcome = smtp(ground, |_| Vec::new())?;
    let Some(held) = ground.smtp.get() else { return Ok(outcome) };
    if held.banner == name {
        return Ok(Outcome::Passed);
    }
    Ok(Outcome::Failed(vec![format!("the greeting is \"{}\", not \"{name}\"", held.banner.escape_debug())]))
}

pub(super) fn helo(ground: &Ground<'_, '_>) -> Result<Outcome> {
    smtp(ground, |held| must_begin("MAIL before EHLO", &held.mail_before_helo, "503 "))
}

pub(super) fn no_auth(ground: &Ground<'_, '_>) -> Result<Outcome> {
    smtp(ground, |held| {
        let mut wrong = must_begin("AUTH", &held.auth, "503 ");
        if extensions(&held.ehlo).any(|extension| extension.starts_with("AUTH")) {
            wrong.push("EHLO offers AUTH".into());
        }
        wrong
    })
}

pub(super) fn no_vrfy(ground: &Ground<'_, '_>) -> Result<Outcome> {
    smtp(ground, |held| must_begin("VRFY", &held.vrfy, "502 "))
}

pub(super) fn starttls(ground: &Ground<'_, '_>) -> Result<Outcome> {
    smtp(ground, |held| {
        let offered = extensions(&held.ehlo).any(|extension| extension == "STARTTLS");
        if offered { Vec::new() } else { vec!["EHLO does not offer STARTTLS".into()] }
    })
}

pub(super) fn own_domain(ground: &Ground<'_, '_>) -> Result<Outcome> {
    smtp(ground, |held| {
        must_begin("mail from an address of ours, without a login,", &held.own_domain, "550 5.7.1")
    })
}

pub(super) fn no_relay(ground: &Ground<'_, '_>) -> Result<Outcome> {
    smtp(ground, |held| must_begin("mail for example.com", &held.relay, "554 5.7.1"))
}

/// The extensions in an answer to EHLO (RFC 5321, 4.1.1.1).
fn extensions(answer: &str) -> impl Iterator<Item = &str> {
    answer.lines().skip(1).filter_map(|line| line.get(4..)).map(str::trim)
}

const TLS10: u16 = 0x0301;
const TLS11: u16 = 0x0302;
const TLS12: u16 = 0x0303;

/// A `ClientHello` that offers nothing newer than `version` (RFC 5246, 7.4.1.2).
fn client_hello(version: u16) -> Vec<u8> {
    // Suites for certificates with an elliptic curve: two of TLS 1.0, three of TLS 1.2.
    const SUITES: [u16; 5] = [0xc009, 0xc00a, 0xc02b, 0xc02c, 0xcca9];
    // Groups x25519 and P-256; uncompressed points; signatures ECDSA with SHA-256 and others.
    const EXTENSIONS: &[u8] = b"\x00\x0a\x00\x06\x00\x04\x00\x1d\x00\x17\x00\x0b\x00\x02\x01\x00\
        \x00\x0d\x00\x0a\x00\x08\x04\x03\x05\x03\x08\x04\x04\x01";
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes();
    let suites: Vec<u8> = SUITES.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let mut body = version.to_be_bytes().to_vec();
    // Nothing is kept secret here, so its random bytes need not be.
    body.extend([0x5a; 32]);
    body.push(0);
    body.extend(length(&suites));
    body.extend(&suites);
    body.extend([1, 0]);
    body.extend(length(EXTENSIONS));
    body.extend(EXTENSIONS);
    let mut handshake = vec![1, 0];
    handshake.extend(length(&body));
    handshake.extend(&body);
    let mut record = vec![0x16, 3, 1];
    record.extend(length(&handshake));
    record.extend(&handshake);
    record
}

/// Whether an answer accepts a `ClientHello`: it begins with a handshake record. A refusal is an alert, or the end.
fn accepts(answer: &[u8]) -> bool {
    answer.first() == Some(&0x16)
}

pub(super) fn old_tls(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return Ok(Outcome::skipped("this image has no mail server"));
    }
    let hellos = [(TLS10, "TLS 1.0", false), (TLS11, "TLS 1.1", false), (TLS12, "TLS 1.2", true)]
        .map(|(version, name, wanted)| (client_hello(version), name, wanted));
    let starttls = [&b""[..], b"EHLO probe.invalid\r\n", b"STARTTLS\r\n"];
    let (mut cases, mut dialogues) = (Vec::new(), Vec::new());
    for (port, greetings) in [(10025, &starttls[..]), (10465, &[]), (10993, &[])] {
        for (hello, name, wanted) in &hellos {
            cases.push((port, name, *wanted));
            let parts = [greetings, &[hello.as_slice()]].concat();
            dialogues.push(Dialogue { user: TOR, port, ahead: CIRCUIT, parts });
        }
    }
    let mut wrong = Vec::new();
    for ((port, name, wanted), answers) in cases.iter().zip(converse_all(ground, &dialogues)?) {
        let accepted = answers.last().is_some_and(|answer| accepts(answer));
        if accepted != *wanted {
            let said = if accepted { "accepted" } else { "refused" };
            wrong.push(format!("{name} is {said} at port {port}"));
        }
    }
    Ok(Outcome::of(wrong))
}

pub(super) fn submission_needs_tls(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return Ok(Outcome::skipped("this image has no mail server"));
    }
    let lines = [(10465, &b"EHLO probe.invalid\r\n"[..]), (10993, b"a1 CAPABILITY\r\n")];
    let dialogues = lines.map(|(port, line)| Dialogue { user: TOR, port, ahead: CIRCUIT, parts: vec![line] });
    let mut wrong = Vec::new();
    for ((port, _), answers) in lines.iter().zip(converse_all(ground, &dialogues)?) {
        let answer = answers.concat();
        let text = String::from_utf8_lossy(&answer);
        if ["220", "250", "*", "a1 OK"].iter().any(|begin| text.starts_with(begin)) {
            wrong.push(format!("port {port} answers in clear"));
        }
    }
    Ok(Outcome::of(wrong))
}

fn get(ground: &Ground<'_, '_>, host: &str, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answers = talk(ground, 10080, &[request.as_bytes()])?;
    Ok(String::from_utf8_lossy(&answers.concat()).into_owned())
}

pub(super) fn web_password(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_web() {
        return Ok(Outcome::skipped("this image has no webmail"));
    }
    let host = Onion::Client.address(ground.machine.fs)?.to_string();
    let mut wrong = Vec::new();
    for path in ["/", "/index.php", "//index.php", "/?_task=login", "/config/config.inc.php"] {
        wrong.extend(not_hidden(path, &get(ground, &host, path)?));
    }
    Ok(Outcome::of(wrong))
}

/// What an answer without a password gives away.
fn not_hidden(path: &str, answer: &str) -> Vec<String> {
    let mut wrong = must_begin(&format!("GET {path} without a password"), answer, "HTTP/1.1 401 ");
    let lower = answer.to_ascii_lowercase();
    for word in ["nginx", "php", "roundcube", "debian", "mail"] {
        if lower.contains(word) {
            wrong.push(format!("the answer to GET {path} without a password holds the word {word}"));
        }
    }
    wrong
}

pub(super) fn wrong_host(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_web() {
        return Ok(Outcome::skipped("this image has no webmail"));
    }
    let answer = get(ground, "example.com", "/")?;
    let first = answer.lines().next().unwrap_or_default();
    Ok(Outcome::of(if answer.is_empty() {
        Vec::new()
    } else {
        vec![format!("another host is answered: {first}")]
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_those_after_the_first_line() {
        let answer =
            "250-name.onion\r\n250-PIPELINING\r\n250-SIZE 26214400\r\n250-STARTTLS\r\n250 8BITMIME\r\n";
        let found: Vec<_> = extensions(answer).collect();
        assert_eq!(found, ["PIPELINING", "SIZE 26214400", "STARTTLS", "8BITMIME"]);
    }

    #[test]
    fn an_answer_is_judged_by_its_beginning() {
        assert!(must_begin("VRFY", "502 5.5.1 VRFY command is disabled", "502 ").is_empty());
        let wrong = must_begin("VRFY", "252 2.0.0 root\r\n", "502 ");
        assert_eq!(wrong, ["VRFY is answered with \"252 2.0.0 root\", not with 502 "]);
        assert!(must_begin("VRFY", "", "502 ")[0].contains("\"\""));
    }

    #[test]
    fn a_client_hello_has_the_lengths_that_it_says() {
        let hello = client_hello(TLS12);
        assert_eq!(hello[..3], [0x16, 3, 1]);
        let record = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        assert_eq!(record, hello.len() - 5);
        let body = usize::from(u16::from_be_bytes([hello[7], hello[8]]));
        assert_eq!(body, record - 4);
        assert_eq!(hello[9..11], [3, 3]);
        assert_eq!(client_hello(TLS10)[9..11], [3, 1]);
    }

    #[test]
    fn an_alert_is_a_refusal() {
        assert!(accepts(b"\x16\x03\x03\x00\x7a\x02"));
        assert!(!accepts(b"\x15\x03\x01\x00\x02\x02\x46"));
        assert!(!accepts(b""));
    }

    #[test]
    fn nothing_before_the_password_tells_the_product() {
        let good = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"private\"\r\n\r\n";
        assert!(not_hidden("/", good).is_empty());
        assert_eq!(not_hidden("/", "HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n").len(), 2);
    }
}
