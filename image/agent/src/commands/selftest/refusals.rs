//! What Postfix must refuse: to strangers, to whoever only says that it is this machine, and to the machine's own users.
//!
//! Each check holds a dialogue of its own, since a server that has refused much hangs up. No message is handed over.

use anyhow::{Context, Result};

use super::dialogue::{CIRCUIT, Dialogue, TOR, converse, converse_all, must_begin};
use super::{Ground, Outcome};
use crate::onions::Onion;
use crate::settings::{Settings, load};

/// Who speaks, and to which port.
struct Client {
    user: &'static str,
    port: u16,
    /// What comes ahead of the dialogue.
    ahead: &'static str,
}

/// As Tor passes a stranger on.
const STRANGER: Client = Client { user: TOR, port: 10025, ahead: CIRCUIT };
/// A header that names this machine as the client.
const LIAR: Client = Client { user: TOR, port: 10025, ahead: "PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n" };
/// As the webmail, without a login.
const WEBMAIL: Client = Client { user: "roundcube", port: 10587, ahead: "" };
/// As mail filters, which forward and answer.
const FILTERS: Client = Client { user: "vmail", port: 10588, ahead: "" };

/// Recipients of one message, at most (`smtpd_recipient_limit`).
const RECIPIENTS: usize = 50;

fn settings(ground: &Ground<'_, '_>) -> Result<Settings> {
    Ok(load::load(ground.machine.fs, None).map_err(|error| anyhow::anyhow!("{error}"))?.settings)
}

/// The answers to these parts, after the greeting and EHLO.
fn hold(ground: &Ground<'_, '_>, client: &Client, parts: &[String]) -> Result<Vec<String>> {
    let hello = ["".to_owned(), "EHLO probe.invalid\r\n".to_owned()];
    let parts: Vec<&[u8]> = hello.iter().chain(parts).map(String::as_bytes).collect();
    let answers = converse(ground, client.user, client.port, client.ahead, &parts)?;
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(answers.iter().skip(hello.len()).map(text).collect())
}

/// What is wrong with the answers to recipients, all of which must begin like this.
fn recipients(
    ground: &Ground<'_, '_>,
    client: &Client,
    sender: &str,
    recipients: &[String],
    begin: &str,
) -> Result<Vec<String>> {
    let commands = recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>\r\n"));
    let parts: Vec<_> = [format!("MAIL FROM:<{sender}>\r\n")].into_iter().chain(commands).collect();
    let answers = hold(ground, client, &parts)?;
    let mail = answers.first().map_or("", String::as_str);
    let judge = |(at, recipient): (usize, &String)| {
        // A sender may be refused at once.
        let answer =
            if mail.starts_with("250 ") { answers.get(at + 1).map_or("", String::as_str) } else { mail };
        must_begin(&format!("mail for {recipient} from {}", client.user), answer, begin)
    };
    Ok(recipients.iter().enumerate().flat_map(judge).collect())
}

fn no_mail() -> Result<Outcome> {
    Ok(Outcome::skipped("this image has no mail server"))
}

pub(super) fn routes(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return no_mail();
    }
    let mx = Onion::Mx.address(ground.machine.fs)?;
    let to = [
        format!("x%example.com@{mx}"),
        format!("example.com!x@{mx}"),
        format!("@{mx}:x@example.com"),
        format!("\"x@example.com\"@{mx}"),
    ];
    Ok(Outcome::of(recipients(ground, &STRANGER, "", &to, "5")?))
}

pub(super) fn unknown(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return no_mail();
    }
    // No mailbox and no alias has such a name: it is longer than any may be.
    let to = format!("{}@{}", "nobody-".repeat(10), Onion::Mx.address(ground.machine.fs)?);
    Ok(Outcome::of(recipients(ground, &STRANGER, "", &[to], "550 5.1.1")?))
}

pub(super) fn loopback(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return no_mail();
    }
    let mut wrong = recipients(ground, &LIAR, "", &["somebody@example.com".to_owned()], "554 5.7.1")?;
    if ground.has_web() {
        let owner = format!("postmaster@{}", Onion::Mx.address(ground.machine.fs)?);
        wrong.extend(recipients(ground, &WEBMAIL, &owner, std::slice::from_ref(&owner), "554 5.7.1")?);
    }
    Ok(Outcome::of(wrong))
}

pub(super) fn clearnet(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return no_mail();
    }
    let to = ["somebody@example.com".to_owned()];
    Ok(Outcome::of(recipients(ground, &FILTERS, "", &to, "550 5.1.2")?))
}

pub(super) fn malformed(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return no_mail();
    }
    let to = [
        "x@short.onion".to_owned(),
        format!("x@{}", mistyped(&Onion::Client.address(ground.machine.fs)?.to_string())),
    ];
    Ok(Outcome::of(recipients(ground, &FILTERS, "", &to, "550 5.1.2")?))
}

/// An address with another first letter, whose checksum is therefore wrong.
fn mistyped(address: &str) -> String {
    let other = if address.starts_with('a') { "b" } else { "a" };
    format!("{other}{}", address.get(1..).unwrap_or_default())
}

pub(super) fn size(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return no_mail();
    }
    let most = u64::from(settings(ground)?.mail.message_size_mib) << 20;
    let answers = hold(ground, &STRANGER, &[format!("MAIL FROM:<> SIZE={}\r\n", most + 1)])?;
    let answer = answers.first().context("nothing was answered")?;
    Ok(Outcome::of(must_begin(&format!("a message of {} bytes", most + 1), answer, "552 5.3.4")))
}

pub(super) fn recipient_limit(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return no_mail();
    }
    let mx = Onion::Mx.address(ground.machine.fs)?;
    let all: String = (0..=RECIPIENTS).map(|n| format!("RCPT TO:<postmaster+{n}@{mx}>\r\n")).collect();
    // In one piece (RFC 2920), so the answers may come in several; what is not read yet comes with the next.
    let mut parts = vec!["MAIL FROM:<>\r\n".to_owned(), all];
    parts.extend(["NOOP\r\n", "NOOP\r\n", "QUIT\r\n"].map(str::to_owned));
    let answers = hold(ground, &STRANGER, &parts)?;
    Ok(Outcome::of(too_many(&answers.join("\n"))))
}

/// What is wrong with the answers to one recipient more than allowed.
fn too_many(answers: &str) -> Vec<String> {
    let taken = answers.lines().filter(|line| line.starts_with("250 2.1.5")).count();
    let refused = answers.lines().filter(|line| line.starts_with("452 4.5.3")).count();
    if (taken, refused) == (RECIPIENTS, 1) {
        return Vec::new();
    }
    vec![format!("of {} recipients {taken} were taken and {refused} refused as too many", RECIPIENTS + 1)]
}

pub(super) fn forged_header(ground: &Ground<'_, '_>) -> Result<Outcome> {
    if !ground.has_mail() {
        return no_mail();
    }
    let web = ground.has_web().then_some(10080);
    let request: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
    let dialogue = |port| Dialogue { user: TOR, port, ahead: "", parts: vec![request] };
    let dialogues: Vec<_> = [10025, 10465, 10993].into_iter().chain(web).map(dialogue).collect();
    let answers = converse_all(ground, &dialogues)?;
    let served = dialogues.iter().zip(answers).filter(|(_, answers)| serves(&answers.concat()));
    let wrong = served.map(|(Dialogue { port, .. }, _)| {
        format!("port {port} serves whoever does not say which circuit it is")
    });
    Ok(Outcome::of(wrong.collect()))
}

/// Whether an answer is more than a refusal (421, RFC 5321, 3.8) or silence.
fn serves(answer: &[u8]) -> bool {
    !answer.is_empty() && !answer.starts_with(b"421 ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_letter_of_an_address_is_another() {
        assert_eq!(mistyped("abc.onion"), "bbc.onion");
        assert_eq!(mistyped("xbc.onion"), "abc.onion");
    }

    #[test]
    fn the_last_recipient_is_one_too_many() {
        let taken = "250 2.1.0 Ok\n".to_owned() + &"250 2.1.5 Ok\n".repeat(RECIPIENTS);
        assert!(
            too_many(&(taken.clone() + "452 4.5.3 Error: too many recipients\n221 2.0.0 Bye")).is_empty()
        );
        let wrong = too_many(&(taken + "250 2.1.5 Ok\n"));
        assert_eq!(wrong, ["of 51 recipients 51 were taken and 0 refused as too many"]);
        assert_eq!(too_many("421 4.7.0 no").len(), 1);
    }

    #[test]
    fn silence_and_a_refusal_are_no_service() {
        assert!(!serves(b"") && !serves(b"421 4.3.0 x Server local error\r\n"));
        assert!(serves(b"220 x ESMTP\r\n") && serves(b"HTTP/1.1 401 Unauthorized\r\n"));
    }
}
