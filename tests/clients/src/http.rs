//! One page over HTTP.

use std::io::{Read as _, Write as _};

use anyhow::Context as _;
use data_encoding::BASE64;

use crate::Channel;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Three digits.
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// All that follows.
    pub body: Vec<u8>,
}

impl Page {
    /// The first header of that name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }
}

/// Gets a page, with basic authentication (RFC 7617) if `login` holds user and password. Asks in HTTP/1.0: the
/// answer then ends with the connection and comes in one piece.
///
/// # Errors
/// The connection is gone early, or what comes is no HTTP.
pub fn get(channel: Channel, host: &str, path: &str, login: Option<(&str, &str)>) -> anyhow::Result<Page> {
    ask(channel, host, path, &(head("GET", host, path, login) + "\r\n"))
}

/// As [`get`], but sends a form (`application/x-www-form-urlencoded`, encoded already) and a cookie.
///
/// # Errors
/// As [`get`].
pub fn post(
    channel: Channel,
    host: &str,
    path: &str,
    login: Option<(&str, &str)>,
    cookie: &str,
    form: &str,
) -> anyhow::Result<Page> {
    let head = head("POST", host, path, login);
    let kind = "application/x-www-form-urlencoded";
    let length = form.len();
    let rest = format!("Cookie: {cookie}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n");
    ask(channel, host, path, &(head + &rest + "\r\n" + form))
}

/// The first lines of a request, without the empty one.
fn head(method: &str, host: &str, path: &str, login: Option<(&str, &str)>) -> String {
    let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n");
    if let Some((user, password)) = login {
        let secret = BASE64.encode(format!("{user}:{password}").as_bytes());
        request = request + "Authorization: Basic " + &secret + "\r\n";
    }
    request
}

fn ask(mut channel: Channel, host: &str, path: &str, request: &str) -> anyhow::Result<Page> {
    channel.write_all(request.as_bytes()).with_context(|| format!("asking {host} for {path}"))?;
    let mut answer = Vec::new();
    channel.read_to_end(&mut answer).with_context(|| format!("reading {path} from {host}"))?;
    page(&answer)
        .with_context(|| format!("{host} answers for {path}: {:?}", String::from_utf8_lossy(&answer)))
}

fn page(answer: &[u8]) -> Option<Page> {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some(Page {
        status,
        headers: lines.map(header).collect::<Option<_>>()?,
        body: answer[end + 4..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let page = page(b"HTTP/1.1 401 Unauthorized\r\nServer: nginx\r\nX-A:  b \r\n\r\nno\r\n\r\n").unwrap();
        assert_eq!(
            (page.status, page.header("x-a"), page.body.as_slice()),
            (401, Some("b"), &b"no\r\n\r\n"[..])
        );
        assert_eq!(super::page(b"220 mail\r\n\r\n"), None);
    }
}
