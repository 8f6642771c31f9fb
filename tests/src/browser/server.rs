//! A web server for one test on loopback, and a SOCKS proxy that only listens to what it is asked.
//!
//! Each knows just enough of its protocol for the browser in this test. Both answer one connection after the other
//! and end with the program.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::BASE64;

use super::Login;

/// How long a connection may say nothing: browsers open some in advance.
const SILENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// The page behind the password. Its parts come from the server, from the page itself, and from nowhere.
const PAGE: &str = r#"<!doctype html><html lang="en"><meta charset="utf-8"><title>Form</title>
<link rel="icon" href="data:,"><h1>Who are you?</h1><form method="post" action="/sent">
<input id="name" name="name" value="nobody"><button id="send">Send</button></form>
<div style="position: relative"><button id="covered">Below</button>
<div style="position: absolute; inset: 0; background: silver"></div></div>
<img alt="" src="http://elsewhere.invalid/pixel.png"><script>
console.error("a complaint", 3);
fetch("/late").then(answer => answer.text()).then(text => {
  const line = document.body.appendChild(document.createElement("p"));
  line.id = "late"; line.textContent = text;
});
</script></html>"#;

/// A page with the other one in a frame that is not in its corner.
const FRAMED: &str = r#"<!doctype html><html lang="en"><meta charset="utf-8"><title>Frame</title>
<link rel="icon" href="data:,"><p>Outside</p>
<iframe id="inner" src="/" style="margin: 70px; border: 9px solid; width: 500px; height: 400px"></iframe></html>"#;

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Method and path.
    pub(super) line: String,
    /// The body, as it came.
    pub(super) body: String,
}

/// The server.
pub(super) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Listens on a free port of loopback.
    pub(super) fn start(login: &Login) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, seen) = (listener.local_addr()?, Arc::default());
        let password = BASE64.encode(format!("{}:{}", login.user, login.password).as_bytes());
        let (notes, password) = (Arc::clone(&seen), format!("Basic {password}"));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that breaks off is the browser's business.
                let _ = serve(&stream, &password, &notes);
            }
        });
        Ok(Self { address, seen })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is called in URLs.
    pub(super) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked with the right password.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(mut stream: &TcpStream, password: &str, seen: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let line = first.rsplit_once(' ').map_or(first.as_str(), |(line, _)| line).to_owned();
    let (mut length, mut allowed) = (0, false);
    loop {
        let mut field = String::new();
        if reader.read_line(&mut field)? <= 2 {
            break;
        }
        let (name, value) = field.split_once(':').unwrap_or_default();
        match name.to_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or_default(),
            "authorization" => allowed = value.trim() == password,
            _ => {}
        }
    }
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    let (status, field, page) = match line.as_str() {
        _ if !allowed => {
            ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"", "Not without a password.")
        }
        "GET /" => ("200 OK", "X-Test: yes", PAGE),
        "GET /framed" => ("200 OK", "X-Test: yes", FRAMED),
        "GET /late" => ("200 OK", "Content-Type: text/plain", "Better late"),
        "POST /sent" => ("303 See Other", "Location: /thanks", ""),
        "GET /thanks" => {
            ("200 OK", "X-Test: yes", "<!doctype html><link rel=icon href='data:,'><p>Thank you")
        }
        _ => ("404 Not Found", "X-Test: yes", "Nothing here."),
    };
    if allowed {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(Seen { line, body });
    }
    let kind = if field.starts_with("Content-Type") { "" } else { "Content-Type: text/html\r\n" };
    let size = page.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{field}\r\n{kind}Content-Length: {size}\r\nConnection: close\r\n\r\n{page}"
    )
}

/// A SOCKS 5 proxy (RFC 1928) that refuses everything and remembers for which names it was asked.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    names: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Listens on a free port of loopback.
    pub(super) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, names) = (listener.local_addr()?, Arc::<Mutex<Vec<String>>>::default());
        let notes = Arc::clone(&names);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(name) = refuse(stream) {
                    notes.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                }
            }
        });
        Ok(Self { address, names })
    }

    /// The names, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads a greeting without authentication and a request for a name, and refuses it.
fn refuse(mut stream: TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting)?;
    std::io::copy(&mut (&stream).take(greeting[1].into()), &mut std::io::sink())?;
    stream.write_all(&[5, 0])?;
    // Version, command, reserved, address type, length of the name.
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let mut name = vec![0; head[4].into()];
    stream.read_exact(&mut name)?;
    stream.read_exact(&mut [0; 2])?;
    // 2: connection not allowed by ruleset.
    stream.write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let kind = if head[3] == 3 { "" } else { "not a name: " };
    Ok(format!("{kind}{}", String::from_utf8_lossy(&name)))
}
