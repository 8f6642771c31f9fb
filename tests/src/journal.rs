//! Which lines of a journal are acceptable. The list is data; whatever is not on it fails the image.

use serde::Deserialize;

/// A warning that says nothing about the image.
struct Accepted {
    /// Who says it: the journal's identifier, a prefix.
    by: &'static str,
    /// What it says, a part.
    text: &'static str,
    when: When,
    /// Why it is acceptable.
    #[cfg_attr(not(test), expect(dead_code, reason = "for whoever reads the list"))]
    reason: &'static str,
}

/// When a warning is acceptable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// On the first boot.
    FirstBoot,
    /// In a lab, where the network is a private one and strangers do what they should not.
    InLab,
}

const fn always(by: &'static str, text: &'static str, reason: &'static str) -> Accepted {
    Accepted { by, text, when: When::Always, reason }
}

const fn first(by: &'static str, text: &'static str, reason: &'static str) -> Accepted {
    Accepted { by, text, when: When::FirstBoot, reason }
}

const fn in_lab(by: &'static str, text: &'static str, reason: &'static str) -> Accepted {
    Accepted { by, text, when: When::InLab, reason }
}

const EMULATED: &str = "the emulated processor or chipset, not the image";
const BUSY: &str = "the emulating computer was too busy to run the guest in time";

const PROVOKED: &str = "a check does what has to be refused";

/// The list. Short on purpose: an entry needs a reason that holds for every owner, or names what QEMU lacks.
const ACCEPTED: &[Accepted] = &[
    always("kernel", "mtrr: your CPUs had inconsistent", EMULATED),
    always("kernel", "tsc: Unable to calibrate against PIT", EMULATED),
    always("kernel", "amd_pstate: the _CPC object is not present", EMULATED),
    always("kernel", "APIC calibration not consistent with PM-Timer", EMULATED),
    always("kernel", "calibrate_delay_direct()", EMULATED),
    always("kernel", "clocksource: ", EMULATED),
    always("kernel", "hpet: Lost", BUSY),
    always("kernel", "hrtimer: interrupt took", BUSY),
    always("kernel", "watchdog: BUG: soft lockup", BUSY),
    always("kernel", "MP-BIOS bug: 8254 timer not connected to IO-APIC", BUSY),
    always("kernel", "Spectre V", EMULATED),
    always("kernel", "CPU bug present and SMT on", EMULATED),
    always(
        "kernel",
        "device-mapper: core: CONFIG_IMA_DISABLE_HTABLE is disabled",
        "Debian's kernel configuration; IMA is not used",
    ),
    always(
        "kernel",
        "kauditd_printk_skb:",
        "audit messages over the rate limit; AppArmor's are checked apart",
    ),
    always("Tor", "Problem bootstrapping", "this machine has no network card, so Tor finds no network"),
    always("dovecot", "Time moved forward by", BUSY),
    // What a process of Dovecot's waits for when it starts has a limit of some seconds; its master starts another.
    always("dovecot", "Timeout waiting for handshake response", BUSY),
    always("dovecot", "fd_read() failed: Interrupted system call", BUSY),
    always("dovecot", "service(anvil): command startup failed, throttling", BUSY),
    in_lab("Tor", "You have used DirAuthority", "a private network has authorities of its own"),
    in_lab("Tor", "TestingTorNetwork is set", "so it is, to be up within a minute"),
    in_lab(
        "Tor",
        "Error Operation not permitted (1) while writing response to port",
        "Tor answers when Postfix has given up asking; the firewall knows the question no more",
    ),
    in_lab("postfix/", "haproxy read: EOF", "somebody hangs up at once"),
    in_lab("postfix/mx/smtpd", "Recipient address rate limit exceeded", PROVOKED),
    in_lab("postfix/cleanup", "message rejected: hopcount exceeded", PROVOKED),
    in_lab("postfix/", "queue file size limit exceeded", PROVOKED),
    in_lab("postfix/cleanup", "mail_stream_cleanup: close error", "the end of a message that is too large"),
    in_lab("postfix/submission/smtpd", "TLS library problem: error:0A00010B", PROVOKED),
    in_lab("postfix/submission/smtpd", "SASL PLAIN authentication failed", PROVOKED),
    in_lab("postfix/sendmail", "www-data(33) is not allowed to submit mail", PROVOKED),
    first("kernel", "GPT:", "the image is smaller than the disk; the first boot moves the second table"),
];

/// A journal entry, as `journalctl -o json` writes it.
#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE")]
    message: Option<serde_json::Value>,
    #[serde(rename = "SYSLOG_IDENTIFIER")]
    identifier: Option<String>,
    #[serde(rename = "_SYSTEMD_UNIT")]
    unit: Option<String>,
    #[serde(rename = "PRIORITY")]
    priority: Option<String>,
}

impl Entry {
    /// The text; the journal writes one that is not UTF-8 as a list of bytes.
    fn text(&self) -> String {
        match &self.message {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Array(bytes)) => {
                let bytes = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok());
                String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
            }
            _ => String::new(),
        }
    }
}

/// The command whose output [`unacceptable`] and [`unacceptable_in_lab`] judge.
pub(crate) const WARNINGS: &str = "journalctl -b -p warning -o json --no-pager";

/// The entries that are not on the list, as lines.
///
/// # Errors
/// When a line is no journal entry.
pub(crate) fn unacceptable(journal: &str, first_boot: bool) -> anyhow::Result<Vec<String>> {
    judge(journal, |when| when == When::Always || when == When::FirstBoot && first_boot)
}

/// As [`unacceptable`], for the first boot of an appliance in a lab, and for its work there.
///
/// # Errors
/// When a line is no journal entry.
pub(crate) fn unacceptable_in_lab(journal: &str) -> anyhow::Result<Vec<String>> {
    judge(journal, |_| true)
}

fn judge(journal: &str, accepts: impl Fn(When) -> bool) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for line in journal.lines().filter(|line| !line.trim().is_empty()) {
        let entry: Entry = serde_json::from_str(line)?;
        let (by, text) = (entry.identifier.as_deref().unwrap_or("?"), entry.text());
        let accepted =
            ACCEPTED.iter().any(|one| by.starts_with(one.by) && text.contains(one.text) && accepts(one.when));
        if !accepted {
            let priority = entry.priority.as_deref().map_or("?", priority);
            let unit = entry.unit.map_or(String::new(), |unit| format!(" ({unit})"));
            found.push(format!("{priority}: {by}{unit}: {text}"));
        }
    }
    Ok(found)
}

/// The syslog names of the priorities (RFC 5424).
fn priority(number: &str) -> &str {
    match number {
        "0" => "emergency",
        "1" => "alert",
        "2" => "critical",
        "3" => "error",
        "4" => "warning",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPT: &str = r#"{"PRIORITY":"4","SYSLOG_IDENTIFIER":"kernel","MESSAGE":"GPT:3282943 != 12582911"}"#;

    #[test]
    fn what_is_not_on_the_list_is_told() {
        let journal = format!(
            "{GPT}\n{}\n{}\n",
            r#"{"PRIORITY":"3","SYSLOG_IDENTIFIER":"tor","_SYSTEMD_UNIT":"tor.service","MESSAGE":"no"}"#,
            r#"{"PRIORITY":"4","SYSLOG_IDENTIFIER":"x","MESSAGE":[104,105]}"#,
        );
        let want = ["error: tor (tor.service): no", "warning: x: hi"];
        assert_eq!(unacceptable(&journal, true).unwrap(), want);
    }

    #[test]
    fn first_boot_entries_count_on_the_second() {
        assert!(unacceptable(GPT, true).unwrap().is_empty());
        assert_eq!(unacceptable(GPT, false).unwrap(), ["warning: kernel: GPT:3282943 != 12582911"]);
    }

    #[test]
    fn strangers_are_in_labs_only() {
        let guess = r#"{"PRIORITY":"4","SYSLOG_IDENTIFIER":"postfix/submission/smtpd","MESSAGE":"warning: x: SASL PLAIN authentication failed"}"#;
        assert_eq!(unacceptable(guess, true).unwrap().len(), 1);
        assert!(unacceptable_in_lab(guess).unwrap().is_empty());
    }

    #[test]
    fn every_entry_has_a_reason() {
        assert!(ACCEPTED.iter().all(|one| one.reason.len() > 10 && one.text.len() > 3));
    }
}
