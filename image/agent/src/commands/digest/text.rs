//! The digest as the owner reads it.

use std::fmt::Write as _;

use super::{Digest, Integrity, Reasons, Tally, utc};

/// The total, and what it is made of.
fn reasons(text: &mut String, title: &str, reasons: &Reasons) {
    let total: usize = reasons.values().sum();
    let _ = writeln!(text, "  {title:14}{total:>6}");
    let mut sorted: Vec<_> = reasons.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (reason, count) in sorted {
        let _ = writeln!(text, "      {count:>6}  {reason}");
    }
}

/// The text of a warning.
pub(super) fn warning(tally: &Tally) -> String {
    let mut text = String::from("In the last hour:\n\n");
    reasons(&mut text, "wrong", &tally.wrong);
    let _ = writeln!(text, "  {:14}{:>6}", "bans", tally.bans);
    text.push_str(
        "\nNothing has to be done: whoever guesses loses the circuit, and a good password is not guessed.\n\
         To see who is held off: cipolla bans\n\
         If it is the client service, only somebody who knows its address can do this. To make it visible to your\n\
         own devices only: cipolla access add NAME\n\n\
         The next warning comes in six hours at the earliest.\n",
    );
    text
}

impl Digest {
    /// Everything that needs the owner, in words.
    fn needs(&self) -> Vec<String> {
        let mut needs = self.status.problems.clone();
        match self.integrity {
            Some(Integrity::Changed) => {
                needs.push("configuration or keys changed; see: cipolla verify".into());
            }
            Some(Integrity::Failed) => {
                needs.push("the check of integrity failed; see: journalctl -u cipolla-integrity".into());
            }
            Some(Integrity::Unchanged | Integrity::NotYet) | None => {}
        }
        for certificate in self.certificates.iter().filter(|certificate| certificate.days_left.is_none()) {
            needs.push(format!(
                "the certificate of {} is due and was not renewed; see: journalctl -u cipolla-renew",
                certificate.service
            ));
        }
        needs
    }

    /// The subject of the message, in ASCII.
    #[must_use]
    pub fn subject(&self) -> String {
        match self.needs().len() {
            0 => "Your mail server: all is well".into(),
            1 => "Your mail server: one thing needs you".into(),
            n => format!("Your mail server: {n} things need you"),
        }
    }

    /// The whole digest.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Self { tally, status, .. } = self;
        let needs = self.needs();
        if needs.is_empty() {
            text.push_str("All is well.\n");
        }
        for need in &needs {
            let _ = writeln!(text, "! {need}");
        }
        let period = if self.hours == 1 { "hour".to_owned() } else { format!("{} hours", self.hours) };
        let _ = writeln!(text, "\nMail in the last {period}");
        for (title, count) in
            [("received", tally.received), ("handed in", tally.submitted), ("sent", tally.sent)]
        {
            let _ = writeln!(text, "  {title:14}{count:>6}");
        }
        reasons(&mut text, "put off", &tally.deferred);
        reasons(&mut text, "returned", &tally.bounced);
        reasons(&mut text, "refused", &tally.refused);
        if let Some(queue) = status.queue {
            let _ = writeln!(text, "  {:14}{queue:>6}", "waiting now");
        }
        text.push_str("\nLogins\n");
        reasons(&mut text, "right", &tally.logins);
        reasons(&mut text, "wrong", &tally.wrong);
        let _ = writeln!(text, "  {:14}{:>6}", "bans", tally.bans);
        text.push_str("\nFirewall\n");
        if let Some(dropped) = self.dropped {
            let _ = writeln!(text, "  {:14}{dropped:>6}  packets since the rules were loaded", "dropped");
        }
        reasons(&mut text, "noted", &tally.noted_drops);
        self.appliance(&mut text);
        text.push_str(
            "\nThis message holds numbers only: nobody's address, and nothing that was written to or by you.\n\
             The same at any time: cipolla digest\n",
        );
        text
    }

    fn appliance(&self, text: &mut String) {
        let status = &self.status;
        text.push_str("\nAppliance\n");
        let mut line = |title: &str, value: &str| {
            let _ = writeln!(text, "  {title:14}{value}");
        };
        line("image", &status.image);
        if let (Some(percent), Some(mib)) = (status.free_percent, status.free_mib) {
            line("disk", &format!("{percent} % free ({mib} MiB)"));
        }
        match self.integrity {
            Some(Integrity::Unchanged) => line("integrity", "as recorded"),
            Some(Integrity::Changed) => line("integrity", "changed"),
            Some(Integrity::Failed) => line("integrity", "could not be compared"),
            Some(Integrity::NotYet) => line("integrity", "not compared since the start"),
            None => {}
        }
        for certificate in &self.certificates {
            if let Some(days) = certificate.days_left {
                line("certificate", &format!("{}: {days} days left", certificate.service));
            }
        }
        if let Some(percent) = status.tor_bootstrap {
            line("Tor", &format!("{percent} % connected"));
        }
        if let Some(at) = self.reachable_at {
            line("onions", &format!("all reachable at {}", utc(at)));
        }
        for taken in &self.repairs {
            line("", &format!("{}: {} ({})", utc(taken.at), taken.step.doing(), taken.why));
        }
        let agrees = match self.clock_agrees {
            Some(true) => ", as the Tor network says",
            Some(false) => ", which the Tor network denies",
            None => "",
        };
        line("clock", &format!("{}{agrees}", utc(status.clock)));
        for path in &status.changed_in_etc {
            line("in /etc", &format!("{path} differs from the image"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Certificate, Digest};
    use super::*;
    use crate::commands::status::Report;

    fn digest() -> Digest {
        Digest {
            hours: 24,
            tally: Tally {
                received: 12,
                sent: 3,
                refused: Reasons::from([("no such mailbox", 7), ("wanted to relay through this server", 31)]),
                ..Tally::default()
            },
            status: Report {
                image: "mail 0.1.0".into(),
                clock: 1_795_296_208,
                free_percent: Some(83),
                free_mib: Some(5120),
                tor_bootstrap: Some(100),
                ..Report::default()
            },
            integrity: Some(Integrity::Unchanged),
            certificates: vec![Certificate { service: "mx", days_left: Some(300) }],
            dropped: Some(5),
            clock_agrees: Some(true),
            reachable_at: Some(1_795_296_000),
            repairs: Vec::new(),
        }
    }

    #[test]
    fn a_quiet_day_is_readable() {
        let text = digest().text();
        assert!(
            text.starts_with("All is well.\n\nMail in the last 24 hours\n  received          12\n"),
            "{text}"
        );
        let refused = "  refused           38\n          31  wanted to relay through this server\n           7  no such mailbox\n";
        assert!(text.contains(refused), "{text}");
        assert!(text.contains("2026-11-21 21:23 UTC, as the Tor network says"), "{text}");
        assert_eq!(digest().subject(), "Your mail server: all is well");
    }

    #[test]
    fn what_needs_the_owner_comes_first() {
        let mut digest = digest();
        digest.status.problems.push("the data partition is nearly full: 3 % are free".into());
        digest.certificates[0].days_left = None;
        digest.integrity = Some(Integrity::Changed);
        let text = digest.text();
        assert!(text.starts_with("! the data partition is nearly full"), "{text}");
        assert!(text.contains("! configuration or keys changed; see: cipolla verify\n"), "{text}");
        assert!(
            text.contains("! the certificate of mx is due and was not renewed; see: journalctl"),
            "{text}"
        );
        assert_eq!(digest.subject(), "Your mail server: 3 things need you");
    }
}
