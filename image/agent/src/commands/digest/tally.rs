//! Counting what the journal tells.
//!
//! Only numbers and reasons out of our own tables leave this module: no address of anybody, and no word that a
//! stranger wrote (servers quote them in their lines). The digest is kept in a mailbox, and mailboxes get copied.

use std::collections::BTreeMap;

use serde::Serialize;

use super::journal::Entry;
use crate::commands::failures;

/// How often something happened, by reason.
pub type Reasons = BTreeMap<&'static str, usize>;

/// Numbers of one period.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Deliveries into mailboxes here.
    pub received: usize,
    /// Messages that users here handed in.
    pub submitted: usize,
    /// Deliveries to other servers.
    pub sent: usize,
    /// Attempts that will be repeated.
    pub deferred: Reasons,
    /// Messages that were given up and returned.
    pub bounced: Reasons,
    /// Dialogues and messages that were refused.
    pub refused: Reasons,
    /// Logins that succeeded, by door.
    pub logins: Reasons,
    /// Wrong passwords and keys, by door.
    pub wrong: Reasons,
    /// Bans.
    pub bans: usize,
    /// Packets that the firewall dropped and noted, by direction. It notes a few a minute and counts all.
    pub noted_drops: Reasons,
}

/// Why Postfix refuses: a phrase of its line (most are from our own configuration), and what it means.
const REFUSALS: [(&str, &str); 20] = [
    ("Server configuration problem", "a fault of this server; see: journalctl -u postfix"),
    ("Service unavailable", "the content filter did not answer"),
    ("Relay access denied", "wanted to relay through this server"),
    ("User unknown", "no such mailbox"),
    ("That sender address is ours", "pretended to be one of your addresses"),
    ("From: ", "From: header that is not the sender's"),
    ("not owned by user", "a mailbox wrote as somebody else"),
    ("That name is ours", "pretended to be this server"),
    ("The sender address is not at a valid onion", "sender without a valid onion address"),
    ("5.1.8", "sender without a valid onion address"),
    ("sends only to .onion addresses", "recipient outside of Tor"),
    ("not a valid onion address", "mistyped onion address"),
    ("56 characters are needed", "mistyped onion address"),
    ("mailbox is full", "mailbox full"),
    ("Client host rejected", "not logged in"),
    ("bare <LF>", "smuggling"),
    ("Message size exceeds", "too large"),
    ("too big", "too large"),
    ("too many hops", "mail in a circle"),
    ("5.1.2", "no such onion"),
];
const OTHER: &str = "other reasons";

fn refusal(text: &str) -> &'static str {
    REFUSALS.iter().find(|(phrase, _)| text.contains(phrase)).map_or(OTHER, |(_, meaning)| meaning)
}

impl Tally {
    /// Counts one line of the journal.
    pub(super) fn count(&mut self, entry: &Entry) {
        let message = entry.message.as_str();
        match entry.identifier.as_str() {
            "kernel" => self.kernel(message),
            "dovecot" => self.dovecot(message),
            "nginx" => self.nginx(message),
            "sshd" | "sshd-session" => self.sshd(message),
            "fail2ban.actions" | "fail2ban" => self.bans += usize::from(is_ban(message)),
            name => {
                let Some((service, program)) = name.rsplit_once('/') else { return };
                match program {
                    "smtpd" => self.smtpd(service, message),
                    "cleanup" if message.contains("reject: ") => {
                        one(&mut self.refused, refusal(message));
                    }
                    "smtp" | "lmtp" | "error" | "retry" => self.delivery(program, message),
                    "qmgr" if message.contains(", status=expired") => {
                        one(&mut self.bounced, "given up after five days");
                    }
                    _ => {}
                }
            }
        }
    }

    /// smtpd(8): `NOQUEUE: reject: RCPT from …`, `ID: too many errors after …`,
    /// `ID: client=…, sasl_method=…, sasl_username=…`.
    fn smtpd(&mut self, service: &str, message: &str) {
        // The beginning is Postfix's own; behind it stands what clients said.
        let mut words = message.splitn(3, ' ');
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = message.split_once(": ").map_or("", |(_, rest)| rest);
        if matches!(second, "reject:" | "milter-reject:") {
            one(&mut self.refused, refusal(message));
        } else if rest.starts_with("too many errors after ") {
            one(&mut self.refused, "too many errors in one dialogue");
        } else if rest.starts_with("improper command pipelining ") {
            one(&mut self.refused, "did not wait for answers");
        } else if first.ends_with(':')
            && second.starts_with("client=")
            && message.contains(", sasl_username=")
        {
            self.submitted += 1;
            one(
                &mut self.logins,
                if service == "postfix/webmail" { "webmail, to send" } else { "mail program, to send" },
            );
        }
    }

    /// smtp(8), lmtp(8), error(8): `ID: to=<…>, relay=…, delay=…, delays=…, dsn=2.0.0, status=sent (…)`.
    fn delivery(&mut self, program: &str, message: &str) {
        let Some((_, result)) = message.split_once(", status=") else { return };
        let (status, why) = result.split_once(' ').unwrap_or((result, ""));
        match (status, program) {
            ("sent", "lmtp") => self.received += 1,
            ("sent", _) => self.sent += 1,
            ("deferred", _) => one(&mut self.deferred, failures::meaning(why).unwrap_or(OTHER)),
            ("bounced", _) => one(&mut self.bounced, failures::meaning(why).unwrap_or(OTHER)),
            _ => {}
        }
    }

    /// Dovecot: `imap-login: Logged in: user=<…>, …` and
    /// `auth(ada@…,fc00:…,sasl:plain)<…>: passwd-file: Password mismatch`.
    fn dovecot(&mut self, message: &str) {
        let wrong = message.starts_with("auth(")
            && ["passwd-file: Password mismatch", "passwd-file: unknown user"]
                .iter()
                .any(|w| message.contains(w));
        if wrong {
            one(&mut self.wrong, "mail password");
        } else if message.starts_with("imap-login: Logged in: ") {
            one(&mut self.logins, "IMAP");
        }
    }

    /// nginx(8): `… [error] 12#12: *3 user "x": password mismatch, client: …`.
    fn nginx(&mut self, message: &str) {
        if message.contains(": password mismatch, client: ") || message.contains("\" was not found in \"") {
            one(&mut self.wrong, "webmail's outer password");
        }
    }

    /// sshd(8): `Accepted publickey for root from …`, `Connection closed by authenticating user … [preauth]`.
    fn sshd(&mut self, message: &str) {
        if message.starts_with("Accepted ") {
            one(&mut self.logins, "SSH");
        } else if ["Invalid user ", "Failed "].iter().any(|word| message.starts_with(word))
            || message.contains(" authenticating user ")
        {
            one(&mut self.wrong, "SSH");
        }
    }

    /// The kernel, for nft(8)'s `log prefix`.
    fn kernel(&mut self, message: &str) {
        for (prefix, direction) in [
            ("nft in drop: ", "arriving"),
            ("nft out drop: ", "leaving"),
            ("nft lo drop: ", "between programs"),
        ] {
            if message.starts_with(prefix) {
                one(&mut self.noted_drops, direction);
            }
        }
    }

    /// How many wrong passwords and keys there were.
    #[must_use]
    pub fn wrong_total(&self) -> usize {
        self.wrong.values().sum()
    }
}

fn one(reasons: &mut Reasons, reason: &'static str) {
    *reasons.entry(reason).or_default() += 1;
}

/// fail2ban: `NOTICE [dovecot-circuit] Ban fc00:…`; `Restore Ban` and `Unban` are none.
fn is_ban(message: &str) -> bool {
    message.split_once("] ").is_some_and(|(_, rest)| rest.starts_with("Ban "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MX: &str = "fa4ihb4fp3vmfksp4qhv5hurrjofv4cmfuwjh6f6qlgculvns274vdid.onion";

    fn tally(lines: &[(&str, &str)]) -> Tally {
        let mut tally = Tally::default();
        for (identifier, message) in lines {
            let message = message.replace("MX", MX);
            tally.count(&Entry { identifier: (*identifier).to_owned(), message });
        }
        tally
    }

    #[test]
    fn mail_is_counted_by_what_became_of_it() {
        let tally = tally(&[
            (
                "postfix/submission/smtpd",
                "4jX4wf45kjz1WBCY: client=unknown[fc00:dead:beef:4dad::7], sasl_method=PLAIN, sasl_username=ada@MX",
            ),
            ("postfix/mx/smtpd", "4jX4wd6N30z1WBCY: client=unknown[fc00:dead:beef:4dad::5]"),
            (
                "postfix/lmtp",
                "4jX4wd6N30z1WBCY: to=<ada@MX>, relay=MX[private/dovecot-lmtp], delay=0.13, delays=0.1/0.01/0.01/0.01, dsn=2.0.0, status=sent (250 2.0.0 <ada@MX> 8Zv Saved)",
            ),
            (
                "postfix/smtp",
                "4jX4wf45kjz1WBCY: to=<eve@MX>, relay=MX[127.192.0.1]:25, delay=0.6, delays=0/0/0.5/0.1, dsn=2.0.0, status=sent (250 OK)",
            ),
            (
                "postfix/smtp",
                "4jX4: to=<eve@MX>, relay=MX[127.192.0.1]:25, delay=120, delays=0/0/120/0, dsn=4.4.2, status=deferred (lost connection with MX[127.192.0.1] while receiving the initial server greeting)",
            ),
            (
                "postfix/smtp",
                "4jX4: to=<eve@MX>, relay=MX[127.192.0.1]:25, delay=1, delays=0/0/1/0, dsn=5.1.1, status=bounced (host MX[127.192.0.1] said: 550 5.1.1 status=sent (in reply to RCPT TO command))",
            ),
            (
                "postfix/error",
                "4jX5: to=<eve@example.com>, relay=none, delay=0, delays=0/0/0/0, dsn=5.1.2, status=bounced (this server sends only to .onion addresses, over Tor)",
            ),
            ("postfix/qmgr", "4jX6: from=<ada@MX>, status=expired, returned to sender"),
        ]);
        assert_eq!((tally.received, tally.submitted, tally.sent), (1, 1, 1));
        assert_eq!(tally.deferred["the other server does not answer; it may be asleep"], 1);
        assert_eq!(tally.bounced["the other server refuses it"], 1);
        assert_eq!(tally.bounced["recipient outside of Tor"], 1);
        assert_eq!(tally.bounced["given up after five days"], 1);
        assert_eq!(tally.logins["mail program, to send"], 1);
    }

    #[test]
    fn refusals_have_a_reason() {
        let reject = |text: &str| {
            format!(
                "NOQUEUE: reject: RCPT from unknown[fc00:dead:beef:4dad::7]: {text}; from=<a@MX> to=<b@MX> proto=ESMTP helo=<x>"
            )
        };
        let lines = [
            ("postfix/mx/smtpd", reject("554 5.7.1 <x@example.com>: Relay access denied")),
            ("postfix/mx/smtpd", reject("550 5.1.1 <nobody@MX>: Recipient address rejected: User unknown in virtual mailbox table")),
            ("postfix/mx/smtpd", reject("550 5.7.1 <ada@MX>: Sender address rejected: That sender address is ours: log in to use it")),
            ("postfix/submission/smtpd", reject("553 5.7.1 <bob@MX>: Sender address rejected: not owned by user ada@MX")),
            ("postfix/submission/smtpd", reject("550 5.1.2 <x@example.com>: Recipient address rejected: This address cannot be reached: this server sends only to .onion addresses, over Tor")),
            ("postfix/mx/smtpd", reject("452 4.2.2 <ada@MX>: Recipient address rejected: The mailbox is full")),
            ("postfix/mx/smtpd", reject("571 9.9.9 Something new")),
            ("postfix/cleanup", "4jX7: milter-reject: END-OF-MESSAGE from unknown[fc00:dead:beef:4dad::7]: 5.7.1 From: names an address of ours: log in to use it; from=<a@MX> to=<b@MX> proto=ESMTP helo=<x>".into()),
            ("postfix/mx/smtpd", "NOQUEUE: too many errors after RCPT from unknown[fc00:dead:beef:4dad::7]".into()),
            ("postfix/mx/smtpd", "disconnect from unknown[fc00:dead:beef:4dad::7] ehlo=1 mail=1 rcpt=0/1 commands=2/3".into()),
        ];
        let lines: Vec<_> =
            lines.iter().map(|(identifier, message)| (*identifier, message.as_str())).collect();
        let refused = tally(&lines).refused;
        for reason in [
            "wanted to relay through this server",
            "no such mailbox",
            "pretended to be one of your addresses",
            "a mailbox wrote as somebody else",
            "recipient outside of Tor",
            "mailbox full",
            "other reasons",
            "From: header that is not the sender's",
            "too many errors in one dialogue",
        ] {
            assert_eq!(refused.get(reason), Some(&1), "{reason}: {refused:?}");
        }
        assert_eq!(refused.values().sum::<usize>(), 9);
    }

    #[test]
    fn logins_and_wrong_passwords_are_counted_by_door() {
        let tally = tally(&[
            (
                "dovecot",
                "auth(ada@MX,fc00:dead:beef:4dad::5c,sasl:plain)<Ck1x>: passwd-file: Password mismatch",
            ),
            ("dovecot", "auth(x@MX,fc00:dead:beef:4dad::5c,sasl:plain): passwd-file: unknown user"),
            (
                "dovecot",
                "imap-login: Logged in: user=<ada@MX>, method=PLAIN, rip=fc00:dead:beef:4dad::7, lip=127.0.0.1, mpid=77, TLS, session=<x>",
            ),
            ("dovecot", "imap-login: Login aborted: Connection closed (auth failed, 1 attempts in 4 secs)"),
            (
                "nginx",
                "2026/11/21 21:00:00 [error] 77#77: *5 user \"ada\": password mismatch, client: fc00:dead:beef:4dad::9, server: x.onion, request: \"GET / HTTP/1.1\"",
            ),
            (
                "nginx",
                "[error] 77#77: *5 user \"eve\" was not found in \"/var/lib/cipolla/web/htpasswd\", client: fc00::9, server: x",
            ),
            (
                "sshd-session",
                "Accepted publickey for root from 127.0.0.1 port 40000 ssh2: ED25519 SHA256:abc",
            ),
            ("sshd-session", "Connection closed by authenticating user root 127.0.0.1 port 40001 [preauth]"),
            ("sshd-session", "Invalid user admin from 192.168.1.7 port 40002"),
            ("fail2ban.actions", "NOTICE [dovecot-circuit] Ban fc00:dead:beef:4dad::5:8 "),
            ("fail2ban.actions", "NOTICE [dovecot-circuit] Unban fc00:dead:beef:4dad::5:8 "),
            ("fail2ban.actions", "NOTICE [sshd] Restore Ban 192.168.1.7"),
        ]);
        assert_eq!(tally.logins, BTreeMap::from([("IMAP", 1), ("SSH", 1)]));
        assert_eq!(
            tally.wrong,
            BTreeMap::from([("SSH", 2), ("mail password", 2), ("webmail's outer password", 2)])
        );
        assert_eq!((tally.bans, tally.wrong_total()), (1, 6));
    }

    #[test]
    fn dropped_packets_have_a_direction() {
        let tally = tally(&[
            (
                "kernel",
                "nft in drop: IN=eth0 OUT= MAC=ff SRC=192.168.1.9 DST=192.168.1.2 LEN=60 PROTO=TCP SPT=1 DPT=22",
            ),
            ("kernel", "nft lo drop: IN= OUT=lo SRC=127.0.0.1 DST=127.0.0.1 LEN=60 PROTO=TCP UID=33 GID=33"),
            ("kernel", "usb 1-1: new device"),
        ]);
        assert_eq!(tally.noted_drops, BTreeMap::from([("arriving", 1), ("between programs", 1)]));
    }

    #[test]
    fn nothing_that_a_stranger_wrote_is_kept() {
        let tally = tally(&[
            (
                "postfix/mx/smtpd",
                "NOQUEUE: reject: MAIL from unknown[::1]: 999 9.9.9 <secret@evil.onion>: words of a stranger; from=<secret@evil.onion>",
            ),
            ("dovecot", "auth(secret@evil.onion,::1,sasl:plain): passwd-file: unknown user"),
        ]);
        let json = serde_json::to_string(&tally).unwrap();
        assert!(!json.contains("evil") && !json.contains("secret") && !json.contains("stranger"), "{json}");
    }
}
