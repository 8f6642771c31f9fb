//! `cipolla policy sender|recipient`: whether a mail address can be at an onion service at all.
//!
//! Postfix's policy delegation (`SMTPD_POLICY_README`): requests of `name=value` lines, each ended by an empty line
//! and answered by `action=…` and an empty line. Postfix starts the program as a user without rights and keeps it
//! for many requests. No file is read and nothing is asked of a network: an address tells by itself whether it is
//! well-formed, so a typing error is answered at once and not after five days in the queue.

use std::io::{BufRead, ErrorKind, Write};

use clap::ValueEnum;
use identity::onion::{AddressError, OnionAddress};
use thiserror::Error;

use super::line;

/// The longest line of a request, in bytes.
const MAX_LINE: usize = 4096;
/// The most lines of a request.
const MAX_LINES: usize = 100;

/// Which address of the envelope is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// Who sends, on the mx service: a stranger.
    Sender,
    /// To whom, at submission: a user of ours, who gets to read the answer.
    Recipient,
}

impl Side {
    /// The attribute that holds it.
    const fn attribute(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Recipient => "recipient",
        }
    }
}

/// Why a request gets no answer. Postfix then answers 451 and asks a new process.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// A line is neither empty nor an attribute.
    #[error("a line of the request has no =")]
    NoAttribute,
    /// More lines than Postfix ever sends.
    #[error("a request has more than {MAX_LINES} lines")]
    TooManyLines,
    /// The request ends without what was to be looked at.
    #[error("a request names no {0}")]
    Missing(&'static str),
    /// A line is too long, or the input broke off.
    #[error("reading a request: {0}")]
    Input(std::io::Error),
    /// The answer cannot be sent.
    #[error("answering: {0}")]
    Output(std::io::Error),
}

/// Answers requests until the input ends.
///
/// # Errors
/// At the first request that is malformed, and when reading or writing fails.
pub fn serve(side: Side, mut input: impl BufRead, mut output: impl Write) -> Result<(), PolicyError> {
    while let Some(address) = request(side, &mut input)? {
        let answer = format!("action={}\n\n", action(side, &address));
        output.write_all(answer.as_bytes()).and_then(|()| output.flush()).map_err(PolicyError::Output)?;
    }
    Ok(())
}

/// The address that one request is about; `None` at the end of the input.
fn request(side: Side, input: &mut impl BufRead) -> Result<Option<String>, PolicyError> {
    let mut address = None;
    for number in 0..=MAX_LINES {
        let Some(line) = line(input, MAX_LINE).map_err(PolicyError::Input)? else {
            let broken_off = || PolicyError::Input(ErrorKind::UnexpectedEof.into());
            return if number == 0 { Ok(None) } else { Err(broken_off()) };
        };
        if line.is_empty() {
            return address.map(Some).ok_or(PolicyError::Missing(side.attribute()));
        }
        let line = String::from_utf8_lossy(&line);
        let (name, value) = line.split_once('=').ok_or(PolicyError::NoAttribute)?;
        if name == side.attribute() {
            address = Some(value.to_owned());
        }
    }
    Err(PolicyError::TooManyLines)
}

/// What Postfix shall do with an address: an action of access(5), one line of printable ASCII.
#[must_use]
pub fn action(side: Side, address: &str) -> String {
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain).to_ascii_lowercase();
    let verdict = check(&domain);
    match (side, verdict) {
        // Bounces have no sender.
        (Side::Sender, _) if address.is_empty() => "DUNNO".to_owned(),
        (_, Ok(())) => "DUNNO".to_owned(),
        (Side::Sender, Err(error)) => {
            format!(
                "550 5.1.8 The sender address is not at a valid onion address: {}",
                reason(&domain, &error)
            )
        }
        (Side::Recipient, Err(AddressError::Suffix)) => {
            "550 5.1.2 This address cannot be reached: this server sends only to .onion addresses, over Tor"
                .to_owned()
        }
        (Side::Recipient, Err(error)) => format!(
            "550 5.1.2 This is not a valid onion address: {}. Check it for a typing error",
            reason(&domain, &error)
        ),
    }
}

/// The label before `.onion`; labels before it are the service's own business.
fn label(domain: &str) -> Option<&str> {
    let labels = domain.strip_suffix(".onion")?;
    Some(labels.rsplit_once('.').map_or(labels, |(_, last)| last))
}

fn check(domain: &str) -> Result<(), AddressError> {
    OnionAddress::from_label(label(domain).ok_or(AddressError::Suffix)?).map(|_| ())
}

/// What is wrong, in words that recipient.pcre uses too.
fn reason(domain: &str, error: &AddressError) -> String {
    let label = label(domain).unwrap_or_default();
    match error {
        AddressError::Suffix => "it does not end in .onion".to_owned(),
        AddressError::Length { .. } | AddressError::RetiredV2 => {
            format!("it has {} characters before .onion, 56 are needed", label.chars().count())
        }
        // Anything else must not be repeated in an answer.
        AddressError::Alphabet { character, .. } if character.is_ascii_graphic() => {
            format!("it holds the character '{character}', which onion addresses never do (only a-z and 2-7)")
        }
        AddressError::Alphabet { .. } => "it holds a character other than a-z and 2-7".to_owned(),
        AddressError::Version { .. } if !label.ends_with('d') => {
            "its last character is not d, so it is not a version 3 address".to_owned()
        }
        AddressError::Point => "no service can have it".to_owned(),
        // The version's upper bits are in the last but one character, with the checksum.
        _ => "its checksum does not match".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::onion::OnionKey;

    fn onion() -> String {
        OnionKey::from_seed(&[7; 32]).address().to_string()
    }

    fn served(side: Side, input: &[u8]) -> (String, Result<(), PolicyError>) {
        let mut output = Vec::new();
        let result = serve(side, input, &mut output);
        (String::from_utf8(output).unwrap(), result)
    }

    #[test]
    fn requests_are_answered_one_after_the_other() {
        let onion = onion();
        let input = format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=\nrecipient=ada@{onion}\nunknown=x=y\n\n\
             sender=x@example.com\nrecipient=bob@example.com\n\n"
        );
        let (output, result) = served(Side::Recipient, input.as_bytes());
        assert!(result.is_ok());
        assert_eq!(
            output,
            "action=DUNNO\n\naction=550 5.1.2 This address cannot be reached: this server sends only to .onion \
             addresses, over Tor\n\n"
        );
        let (output, result) = served(Side::Sender, input.as_bytes());
        assert!(result.is_ok());
        assert_eq!(
            output,
            "action=DUNNO\n\naction=550 5.1.8 The sender address is not at a valid onion address: it does not end \
             in .onion\n\n"
        );
        assert!(matches!(served(Side::Sender, b""), (output, Ok(())) if output.is_empty()));
    }

    #[test]
    fn every_answer_comes_before_the_next_request_is_read() {
        struct Pipe<'p>(&'p std::cell::RefCell<Vec<u8>>);
        impl Write for Pipe<'_> {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.borrow_mut().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                self.0.borrow_mut().push(b'!');
                Ok(())
            }
        }
        let written = std::cell::RefCell::new(Vec::new());
        serve(Side::Sender, &b"sender=\n\nsender=\n\n"[..], Pipe(&written)).unwrap();
        assert_eq!(*written.borrow(), b"action=DUNNO\n\n!action=DUNNO\n\n!");
    }

    #[test]
    fn the_malformed_get_no_answer() {
        let long = format!("sender={}\n\n", "a".repeat(MAX_LINE));
        let many = format!("{}sender=\n\n", "x=y\n".repeat(MAX_LINES));
        let cases: &[(&str, &str)] = &[
            ("sender\n\n", "has no ="),
            ("recipient=\n\n", "names no sender"),
            ("\n", "names no sender"),
            ("sender=a", "ends within a line"),
            ("sender=a\n", "unexpected end"),
            (&long, "too long"),
            (&many, "more than 100 lines"),
        ];
        for (input, why) in cases {
            let (output, result) = served(Side::Sender, input.as_bytes());
            assert_eq!(output, "", "{input:.40}");
            let error = result.unwrap_err().to_string();
            assert!(error.contains(why), "{input:.40}: {error}");
        }
        // What was answered before stays answered.
        let (output, result) = served(Side::Sender, b"sender=\n\nnonsense\n\n");
        assert_eq!(output, "action=DUNNO\n\n");
        assert!(result.is_err());
        let just_fits = format!("sender=\n{}\n\n", "x=y\n".repeat(MAX_LINES - 1).trim_end());
        assert!(served(Side::Sender, just_fits.as_bytes()).1.is_ok());
    }

    #[test]
    fn every_fault_of_an_address_has_its_reason() {
        let onion = onion();
        let label = onion.trim_end_matches(".onion");
        let changed = |at: usize, to: &str| {
            let mut label = label.to_owned();
            label.replace_range(at..=at, to);
            format!("{label}.onion")
        };
        let other = |c: char| if c == 'a' { "b" } else { "a" };
        let third = other(label.chars().nth(3).unwrap());
        let last_but_one = label.chars().nth(54).unwrap();
        // The same lower bits, which are the checksum's, with another version.
        let version = if last_but_one == 'z' { "h" } else { "z" };
        let cases: &[(String, &str)] = &[
            (onion.clone(), ""),
            (onion.to_ascii_uppercase(), ""),
            (format!("mail.{onion}"), ""),
            ("example.com".into(), "it does not end in .onion"),
            ("onion".into(), "it does not end in .onion"),
            (".onion".into(), "it has 0 characters before .onion, 56 are needed"),
            ("abc.onion".into(), "it has 3 characters before .onion, 56 are needed"),
            ("expyuzz4wqqyqhjn.onion".into(), "it has 16 characters before .onion, 56 are needed"),
            (format!("{label}d.onion"), "it has 57 characters before .onion, 56 are needed"),
            (
                changed(3, "1"),
                "it holds the character '1', which onion addresses never do (only a-z and 2-7)",
            ),
            (changed(3, "é"), "it holds a character other than a-z and 2-7"),
            (changed(55, "a"), "its last character is not d, so it is not a version 3 address"),
            (changed(54, version), "its checksum does not match"),
            (changed(3, third), "its checksum does not match"),
        ];
        for (domain, why) in cases {
            let address = format!("a@b@{domain}");
            let (sender, recipient) = (action(Side::Sender, &address), action(Side::Recipient, &address));
            if why.is_empty() {
                assert_eq!((sender.as_str(), recipient.as_str()), ("DUNNO", "DUNNO"), "{domain}");
                continue;
            }
            assert_eq!(
                sender,
                format!("550 5.1.8 The sender address is not at a valid onion address: {why}")
            );
            if domain.ends_with(".onion") {
                assert_eq!(
                    recipient,
                    format!(
                        "550 5.1.2 This is not a valid onion address: {why}. Check it for a typing error"
                    )
                );
            } else {
                assert!(recipient.starts_with("550 5.1.2 This address cannot be reached"), "{recipient}");
            }
        }
        assert!(action(Side::Recipient, "").starts_with("550 5.1.2"), "a recipient is never empty");
        assert!(action(Side::Recipient, "ada").starts_with("550 5.1.2"));
        assert!(action(Side::Sender, "ada").starts_with("550 5.1.8"));
    }

    #[test]
    fn answers_are_one_short_line_of_ascii_whatever_comes() {
        let nasty =
            ["a@\u{7f}\u{1b}[2J.onion", "a@\u{202e}.onion", "a@%s%n'\".onion", "@", "@@@", "a@b\r.onion"];
        let long = format!("a@{}.onion", "x".repeat(MAX_LINE));
        for address in nasty.into_iter().chain([long.as_str()]) {
            for side in [Side::Sender, Side::Recipient] {
                let answer = action(side, address);
                assert!(
                    answer.len() <= 400 && answer.bytes().all(|b| (b' '..=b'~').contains(&b)),
                    "{answer:?}"
                );
            }
        }
        let (output, result) = served(Side::Recipient, b"recipient=a@\xff\xfe.onion\n\n");
        assert!(result.is_ok() && output.is_ascii(), "{output}");
    }
}
