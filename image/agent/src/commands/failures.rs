//! Why a delivery did not work, in plain words, by what Postfix says about it.
//!
//! Only texts of our own leave this module: servers are quoted in Postfix's lines, and what they write is not passed on.

/// A phrase of smtp(8), lmtp(8), error(8) or of our own configuration, and what it means. The first that fits counts.
const MEANINGS: [(&str, &str); 12] = [
    // Tor's resolver invents an address for every onion, also for one that does not exist.
    ("unable to look up host", "Tor did not answer here; see: cipolla status"),
    ("name resolution", "Tor did not answer here; see: cipolla status"),
    ("sends only to .onion addresses", "recipient outside of Tor"),
    ("mailbox is full", "mailbox full"),
    ("dovecot-lmtp", "the mailboxes here did not take it"),
    (" said: 4", "the other server puts it off"),
    (" said: 5", "the other server refuses it"),
    ("refused to talk to me", "the other server refuses to talk"),
    // Tor takes every connection, and closes it when it does not find the onion.
    ("timed out", ASLEEP),
    ("lost connection", ASLEEP),
    ("Connection refused", ASLEEP),
    ("5.4.6", "mail in a circle"),
];

const ASLEEP: &str = "the other server does not answer; it may be asleep";

/// What a line of Postfix means; `None` if that is not known.
#[must_use]
pub fn meaning(line: &str) -> Option<&'static str> {
    MEANINGS.iter().find(|(phrase, _)| line.contains(phrase)).map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postfix_says_is_told_in_plain_words() {
        let onion = "abc.onion[127.192.0.1]";
        for (line, wanted) in [
            (
                format!("lost connection with {onion} while receiving the initial server greeting"),
                Some(ASLEEP),
            ),
            (format!("delivery temporarily suspended: conversation with {onion} timed out"), Some(ASLEEP)),
            ("unable to look up host abc.onion: Temporary failure in name resolution".to_owned(), {
                Some("Tor did not answer here; see: cipolla status")
            }),
            (
                format!("host {onion} said: 452 4.2.2 The mailbox is full (in reply to RCPT TO command)"),
                Some("mailbox full"),
            ),
            (
                "host abc.onion[private/dovecot-lmtp] said: 451 4.3.0 no".to_owned(),
                Some("the mailboxes here did not take it"),
            ),
            (
                format!("host {onion} said: 451 4.3.0 later (in reply to MAIL FROM command)"),
                Some("the other server puts it off"),
            ),
            ("connect to abc.onion[private/dovecot-lmtp]: Connection refused".to_owned(), {
                Some("the mailboxes here did not take it")
            }),
            ("something new".to_owned(), None),
        ] {
            assert_eq!(meaning(&line), wanted, "{line}");
        }
    }
}
