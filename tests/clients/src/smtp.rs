//! SMTP (RFC 5321), submission included: replies as they are, helpers for what every test does.

use anyhow::{Context as _, bail};
use data_encoding::BASE64;
use qemu::Deadline;

use crate::{Channel, Talk, Trust};

/// A server's reply, all its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// What follows the code, line by line.
    pub lines: Vec<String>,
}

impl Reply {
    /// Whether the server agreed (2xx, 3xx).
    #[must_use]
    pub fn agreed(&self) -> bool {
        (200..400).contains(&self.code)
    }

    /// Whether a line begins with this word, as the extensions in the answer to EHLO do.
    #[must_use]
    pub fn offers(&self, keyword: &str) -> bool {
        self.lines
            .iter()
            .skip(1)
            .any(|line| line.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(keyword)))
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.lines.join(" / "))
    }
}

/// A dialogue with a mail server.
pub struct Smtp {
    talk: Talk,
}

impl Smtp {
    /// Takes over a connection and reads the greeting.
    ///
    /// # Errors
    /// What comes is no reply.
    pub fn greeted(channel: Channel) -> anyhow::Result<(Self, Reply)> {
        let mut smtp = Self { talk: Talk::new(channel) };
        let greeting = smtp.reply()?;
        Ok((smtp, greeting))
    }

    /// Sets until when everything that follows has to be done.
    pub fn until(&mut self, deadline: Deadline) {
        self.talk.until(deadline);
    }

    /// The lines beneath, for what no command should look like.
    pub fn talk(&mut self) -> &mut Talk {
        &mut self.talk
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// What comes is no reply.
    pub fn reply(&mut self) -> anyhow::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.talk.line()?;
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let (Some(code), rest) = (code, line.get(3..).unwrap_or_default()) else {
                bail!(self.talk.story(&format!("{line:?} is no reply")));
            };
            lines.push(rest.get(1..).unwrap_or_default().to_owned());
            if !rest.starts_with('-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// Sends a command and reads the reply.
    ///
    /// # Errors
    /// The connection is gone, or what comes is no reply.
    pub fn command(&mut self, line: &str) -> anyhow::Result<Reply> {
        self.talk.send(line)?;
        self.reply()
    }

    /// Sends a command that has to be agreed to.
    ///
    /// # Errors
    /// As [`Smtp::command`], or the server does not agree.
    pub fn demand(&mut self, line: &str) -> anyhow::Result<Reply> {
        let reply = self.command(line)?;
        if reply.agreed() {
            return Ok(reply);
        }
        bail!(self.talk.story(&format!("refused: {reply}")))
    }

    /// Goes on inside TLS (RFC 3207). The certificate has to be for `name`. Say EHLO again afterwards.
    ///
    /// # Errors
    /// The server does not agree, or the handshake fails.
    pub fn starttls(mut self, trust: &Trust, name: &str) -> anyhow::Result<Self> {
        self.demand("STARTTLS")?;
        Ok(Self { talk: Talk::new(trust.secure(self.talk.into_channel()?, name)?) })
    }

    /// Logs in (RFC 4616).
    ///
    /// # Errors
    /// As [`Smtp::command`].
    pub fn auth_plain(&mut self, user: &str, password: &str) -> anyhow::Result<Reply> {
        let secret = BASE64.encode(format!("\0{user}\0{password}").as_bytes());
        self.command(&format!("AUTH PLAIN {secret}"))
    }

    /// Sends one message. Returns the reply that decided: the first refusal, else the answer to the message.
    /// `message` has CRLF line ends; dots are doubled here. After a refusal the transaction is reset.
    ///
    /// # Errors
    /// As [`Smtp::command`].
    pub fn mail(&mut self, from: &str, to: &[&str], message: &[u8]) -> anyhow::Result<Reply> {
        let mut lines = vec![format!("MAIL FROM:<{from}>")];
        lines.extend(to.iter().map(|to| format!("RCPT TO:<{to}>")));
        lines.push("DATA".to_owned());
        for line in lines {
            let reply = self.command(&line)?;
            if !reply.agreed() {
                self.command("RSET").with_context(|| format!("after the refusal {reply}"))?;
                return Ok(reply);
            }
        }
        self.talk.send_bytes(&stuffed(message))?;
        self.reply()
    }
}

/// A message as it travels: dots at the start of a line doubled, and the end marked (RFC 5321, 4.5.2).
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(message.len() + 5);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            all.push(b'.');
        }
        all.extend_from_slice(line);
    }
    if !all.is_empty() && !all.ends_with(b"\r\n") {
        all.extend_from_slice(b"\r\n");
    }
    all.extend_from_slice(b".\r\n");
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::tests::{heard, with};

    #[test]
    fn a_message_goes_out_whole() {
        let (talk, far) =
            with(b"250-x\r\n250-SIZE 10\r\n250 8BITMIME\r\n250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n");
        let mut smtp = Smtp { talk };
        let reply = smtp.command("EHLO test").unwrap();
        assert!(reply.offers("size") && !reply.offers("AUTH"), "{reply}");
        let reply = smtp.mail("a@x.onion", &["b@y.onion"], b"Subject: x\r\n\r\n.dot").unwrap();
        assert_eq!(reply.to_string(), "250 queued");
        drop(smtp);
        assert_eq!(
            heard(far),
            "EHLO test\r\nMAIL FROM:<a@x.onion>\r\nRCPT TO:<b@y.onion>\r\nDATA\r\n\
             Subject: x\r\n\r\n..dot\r\n.\r\n"
        );
    }

    #[test]
    fn the_first_refusal_decides() {
        let (talk, far) = with(b"250 ok\r\n550-no\r\n550 such user\r\n250 reset\r\n");
        let mut smtp = Smtp { talk };
        let reply = smtp.mail("a@x.onion", &["b@y.onion", "c@y.onion"], b"").unwrap();
        assert_eq!(reply.to_string(), "550 no / such user");
        drop(smtp);
        assert_eq!(heard(far), "MAIL FROM:<a@x.onion>\r\nRCPT TO:<b@y.onion>\r\nRSET\r\n");
    }

    #[test]
    fn what_is_no_reply_is_shown() {
        let (talk, _far) = with(b"hello\r\n");
        let error = Smtp { talk }.reply().unwrap_err().to_string();
        assert_eq!(error, "\"hello\" is no reply, after:\nS: hello");
    }
}
