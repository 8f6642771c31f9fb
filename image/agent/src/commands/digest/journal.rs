//! Lines of `journalctl -o json` (systemd.journal-fields(7)).

use serde_json::Value;

/// Programs whose lines are counted. Postfix has one name per service and program (`syslog_name` in master.cf).
const IDENTIFIERS: [&str; 18] = [
    "postfix/mx/smtpd",
    "postfix/submission/smtpd",
    "postfix/webmail/smtpd",
    "postfix/filters/smtpd",
    "postfix/cleanup",
    "postfix/submission/cleanup",
    "postfix/smtp",
    "postfix/lmtp",
    "postfix/error",
    "postfix/retry",
    "postfix/bounce",
    "postfix/qmgr",
    "dovecot",
    "nginx",
    "sshd",
    "sshd-session",
    "fail2ban.actions",
    "fail2ban",
];

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The program, as it names itself; for the kernel `kernel`.
    pub(super) identifier: String,
    /// What it said.
    pub(super) message: String,
}

impl Entry {
    /// Parses one line; `None` if it holds no text (the journal leaves out what is too long).
    pub(super) fn parse(line: &str) -> Option<Self> {
        let fields: Value = serde_json::from_str(line).ok()?;
        let message = match &fields["MESSAGE"] {
            Value::String(text) => text.clone(),
            // Bytes that are not printable text come as numbers.
            Value::Array(bytes) => {
                let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
                let bytes: Option<Vec<u8>> = bytes.iter().map(byte).collect();
                String::from_utf8_lossy(&bytes?).into_owned()
            }
            _ => return None,
        };
        Some(Self { identifier: fields["SYSLOG_IDENTIFIER"].as_str()?.to_owned(), message })
    }
}

/// The command that prints the lines of the last `hours`.
pub(super) fn command(hours: u32) -> Vec<String> {
    let fixed =
        ["journalctl", "--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE,SYSLOG_IDENTIFIER"];
    let mut argv: Vec<String> = fixed.iter().map(ToString::to_string).collect();
    argv.push(format!("--since=-{hours}h"));
    argv.extend(IDENTIFIERS.iter().map(|name| format!("SYSLOG_IDENTIFIER={name}")));
    // The plus sign separates alternatives.
    argv.extend(["+", "_TRANSPORT=kernel", "SYSLOG_IDENTIFIER=kernel"].map(str::to_owned));
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_or_bytes() {
        let line = r#"{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"1795296208000000","MESSAGE":"hello","SYSLOG_IDENTIFIER":"dovecot"}"#;
        let entry = Entry::parse(line).unwrap();
        assert_eq!((entry.identifier.as_str(), entry.message.as_str()), ("dovecot", "hello"));
        let line = r#"{"MESSAGE":[104,105,255],"SYSLOG_IDENTIFIER":"sshd"}"#;
        assert_eq!(Entry::parse(line).unwrap().message, "hi\u{fffd}");
        assert_eq!(Entry::parse(r#"{"MESSAGE":null,"SYSLOG_IDENTIFIER":"sshd"}"#), None);
        assert_eq!(Entry::parse("-- No entries --"), None);
    }
}
