//! Wrong settings, as tables: every key that the schema knows, and what editors do to files.

/// A key with a value that cannot be accepted, and how the explanation begins.
struct Wrong {
    section: &'static str,
    key: &'static str,
    value: &'static str,
    says: &'static str,
}

const fn wrong(section: &'static str, key: &'static str, value: &'static str, says: &'static str) -> Wrong {
    Wrong { section, key, value, says }
}

/// A wrong passphrase, which no explanation may quote.
pub(super) const PASSPHRASE: &str = "h1dden";

/// One row for each key, sections together.
const SETTINGS: &[Wrong] = &[
    wrong("owner", "mailbox", r#""postmaster""#, "mail for postmaster reaches the owner anyway"),
    wrong(
        "owner",
        "ssh_keys",
        r#"["ssh-ed25519 AAAA"]"#,
        "the key after ssh-ed25519 is damaged or incomplete",
    ),
    wrong("owner", "recovery_keys", r#"["AGE-SECRET-KEY-1"]"#, "this is the SECRET key"),
    wrong("network", "address", r#""192.0.2.0/24""#, r#""192.0.2.0/24" cannot be the address of a machine"#),
    wrong("network", "gateway", r#""router""#, r#""router" is not an IPv4 address"#),
    wrong("network.wifi", "ssid", r#""""#, "the name of a network has 1 to 32 bytes"),
    wrong("network.wifi", "passphrase", r#""h1dden""#, "a WPA passphrase has 8 to 63 ASCII characters"),
    wrong("network.wifi", "country", r#""Germany""#, r#""Germany" is not a country code"#),
    wrong("tor", "bridges", r#"["meek 192.0.2.7:443"]"#, "the transport meek is not in this image"),
    wrong("tor", "bridge_hosts", r#"["front.example"]"#, r#""front.example" is not an IPv4 address"#),
    wrong("tor", "reachable_ports", "[0]", "this must be a whole number from 1 to 65535"),
    wrong("tor", "vanity_prefix", r#""toolong""#, "a vanity prefix has 1 to 5 characters, this one has 7"),
    wrong("tor.test_network", "dir_authorities", r#"["nobody"]"#, "a directory authority reads: NAME"),
    wrong("admin", "lan_networks", r#"["0.0.0.0/0"]"#, r#""0.0.0.0/0" is not an IPv4 network"#),
    wrong("time", "ntp", r#""yes""#, "this is a string; write true or false"),
    wrong("time", "servers", r#"["pool.example"]"#, r#""pool.example" is not an IPv4 address"#),
    wrong("mail", "message_size_mib", "0", "this must be a whole number from 1 to 200"),
    wrong("mail", "quota", r#""lots""#, r#""lots" is not a size"#),
    wrong("mail", "imap", r#""pop3""#, r#""pop3" is neither "onion" nor "webmail-only""#),
    // The name before the `=` is wrong as well, which is told apart.
    wrong("mail.transport", "friends", r#""example.com""#, "an onion address ends in .onion"),
];

impl Wrong {
    /// `:LINE:COLUMN:` and what follows, for a value on that line.
    fn explanation(&self, line: usize) -> String {
        // In a list, the item is meant.
        let column = self.key.len() + " = ".len() + 1 + usize::from(self.value.starts_with('['));
        format!(":{line}:{column}: `{}`: {}", self.key, self.says)
    }
}

/// A settings file in which every key is wrong, and the explanations without the file's name in front.
pub(super) fn everything() -> (String, Vec<String>) {
    let (mut text, mut explanations, mut line, mut section) = (String::new(), Vec::new(), 0, "");
    for row in SETTINGS {
        if row.section != section {
            section = row.section;
            text += &format!("[{section}]\n");
            line += 1;
        }
        text += &format!("{} = {}\n", row.key, row.value);
        line += 1;
        explanations.push(row.explanation(line));
    }
    (text, explanations)
}

/// A file and what `cipolla settings check cipolla.toml` must say to it; `None`: that it is fine.
pub(super) struct Case {
    pub(super) file: Vec<u8>,
    pub(super) says: Option<String>,
}

impl Case {
    /// What is wrong with an answer, which ends with a line `status N`.
    pub(super) fn judge(&self, answer: &str) -> Option<String> {
        let (says, status) = match &self.says {
            None => ("these settings are fine".to_owned(), "status 0"),
            Some(says) => (format!("cipolla.toml{says}"), "status 2"),
        };
        let good = answer.lines().any(|line| line.starts_with(&says)) && answer.trim_end().ends_with(status);
        (!good).then(|| {
            let file = String::from_utf8_lossy(&self.file);
            format!("{file:?}: wanted {says:?} and {status}, it said: {}", answer.trim())
        })
    }
}

/// One file per key.
pub(super) fn settings() -> Vec<Case> {
    let case = |row: &Wrong| Case {
        file: format!("[{}]\n{} = {}\n", row.section, row.key, row.value).into_bytes(),
        says: Some(row.explanation(2)),
    };
    SETTINGS.iter().map(case).collect()
}

/// What editors, and people in a hurry, do to files.
pub(super) fn files() -> Vec<Case> {
    let utf16: Vec<u8> = "\u{feff}[mail]\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: [(&[u8], Option<&str>); 13] = [
        (b"# all as it is\n", None),
        (b"\xef\xbb\xbf[mail]\r\nquota = \"1G\"\r\n", None),
        (b"\xef\xbb\xbf[mail]\r\nquota = 1\r\n", Some(":2:9: `quota`: this is an integer")),
        (&utf16, Some(": the file is in UTF-16")),
        (b"[owner]\nmailbox = \"r\xe9mi\"\n", Some(":2:13: this character is not UTF-8")),
        (b"\x89PNG\0\0\0\x01xyzabc", Some(": the file holds zero bytes")),
        (b"", Some(": the file is empty")),
        (b" \r\n\r\n", Some(": the file is empty")),
        ("[mail]\nquota = “1G”\n".as_bytes(), Some(":2:9: the quotation mark “ comes from a word processor")),
        ("[mail]\nquota = «1G»\n".as_bytes(), Some(":2:9: the quotation mark « comes from a word processor")),
        (b"[owner]\nmailbox = \"ada\n", Some(":2:")),
        (
            b"[owner]\nmailbx = \"ada\"\n",
            Some(":2:1: there is no `mailbx` in [owner]; did you mean `mailbox`?"),
        ),
        (b"[mial]\n", Some(":1:2: there is no `mial` here; did you mean `mail`?")),
    ];
    cases.map(|(file, says)| Case { file: file.to_vec(), says: says.map(str::to_owned) }).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_name_their_lines() {
        let (text, explanations) = everything();
        assert_eq!(explanations.len(), SETTINGS.len());
        for (row, explanation) in SETTINGS.iter().zip(&explanations) {
            let line: usize = explanation.split(':').nth(1).unwrap().parse().unwrap();
            let column: usize = explanation.split(':').nth(2).unwrap().parse().unwrap();
            let rest = &text.lines().nth(line - 1).unwrap()[column - 1..];
            assert!(row.value.ends_with(rest), "{rest}");
        }
        assert!(text.contains(PASSPHRASE));
    }

    #[test]
    fn an_answer_is_judged_by_words_and_status() {
        let case = Case { file: b"x".to_vec(), says: Some(":2:9: wrong".to_owned()) };
        assert_eq!(case.judge("cipolla.toml:2:9: wrong because\nstatus 2\n"), None);
        assert!(case.judge("cipolla.toml:2:9: wrong because\nstatus 0\n").is_some());
        assert!(case.judge("cipolla.toml:3:9: wrong\nstatus 2\n").is_some());
    }
}
