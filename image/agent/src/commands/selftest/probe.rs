//! What the self-test does in the shoes of other users: try to connect, and hold a dialogue.
//!
//! Run as a process of its own (`cipolla probe …`, setpriv(1)), since a user is a property of a process. It has no
//! rights of its own and no secret: any program of that user could do the same.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;

/// A connection that is not there after this time was dropped: on the own machine it takes no time at all.
const REACH: Duration = Duration::from_millis(1500);
/// So long an answer is waited for; wrong commands are answered late on purpose.
const ANSWER: Duration = Duration::from_secs(12);
/// After the last bytes of an answer, so long is waited for more.
const PAUSE: Duration = Duration::from_millis(300);
/// No answer of a server under test is longer, in bytes.
const LONGEST: usize = 1 << 16;
/// What goes out by UDP: a DNS header without a question (RFC 1035, 4.1.1). No shorter packet, whatever port it is for:
/// Tor 0.4.9's `DNSPort` dies of one.
const DATAGRAM: [u8; 12] = [0; 12];

/// Tries to reach addresses, all at once. Each is `tcp:IP:PORT` or `udp:IP:PORT`; each line of the result is the address
/// and `connected`, `refused`, `dropped` or what the kernel said.
///
/// # Errors
/// When an address is not one.
pub fn reach(targets: &[String]) -> Result<String> {
    let mut threads = Vec::new();
    for target in targets {
        let (kind, address) = target.split_once(':').context("an address is tcp:IP:PORT or udp:IP:PORT")?;
        let address: SocketAddr = address.parse().with_context(|| format!("{address} is no address"))?;
        let udp = kind == "udp";
        threads.push((target, thread::spawn(move || if udp { send(address) } else { connect(address) })));
    }
    let line = |(target, thread): (&String, thread::JoinHandle<String>)| {
        format!("{target} {}\n", thread.join().unwrap_or_else(|_| "panicked".into()))
    };
    Ok(threads.into_iter().map(line).collect())
}

fn connect(address: SocketAddr) -> String {
    match TcpStream::connect_timeout(&address, REACH) {
        Ok(_) => "connected".into(),
        Err(error) => said(&error),
    }
}

fn send(address: SocketAddr) -> String {
    let sent = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(&DATAGRAM, address));
    sent.map_or_else(|error| said(&error), |_| "connected".into())
}

fn said(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".into(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::PermissionDenied => "dropped".into(),
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable => {
            "no-route".into()
        }
        kind => format!("{kind:?}"),
    }
}

/// Connects, sends each part (in hexadecimal) and, after each, reads what comes until there is a pause. Each line of the
/// result is one answer, in hexadecimal; an empty one means that nothing came.
///
/// # Errors
/// When the address cannot be connected to, or a part is not hexadecimal. A server that hangs up is no error.
pub fn talk(address: SocketAddr, parts: &[String]) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&address, REACH).with_context(|| format!("connecting to {address}"))?;
    let mut answers = String::new();
    for part in parts {
        let part = HEXLOWER.decode(part.as_bytes()).context("a part is not hexadecimal")?;
        // Whoever hung up does not read either; its silence is the answer.
        let _ = stream.write_all(&part);
        answers.push_str(&HEXLOWER.encode(&answer(&mut stream)?));
        answers.push('\n');
    }
    Ok(answers)
}

fn answer(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let deadline = Instant::now() + ANSWER;
    let mut buffer = [0; 4096];
    while answer.len() < LONGEST {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = if answer.is_empty() { left } else { left.min(PAUSE) };
        stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_dialogue_is_held_and_a_hang_up_is_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = [0; 4];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(b"220 hello\r\n").unwrap();
            line
        });
        let answers = talk(address, &[HEXLOWER.encode(b"EHLO"), HEXLOWER.encode(b"QUIT")]).unwrap();
        assert_eq!(&server.join().unwrap(), b"EHLO");
        assert_eq!(answers, format!("{}\n\n", HEXLOWER.encode(b"220 hello\r\n")));
    }

    #[test]
    fn what_is_open_and_what_is_closed_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = format!("tcp:{}", listener.local_addr().unwrap());
        assert_eq!(reach(std::slice::from_ref(&open)).unwrap(), format!("{open} connected\n"));
        drop(listener);
        assert_eq!(reach(std::slice::from_ref(&open)).unwrap(), format!("{open} refused\n"));
        assert!(reach(&["tcp:nowhere".into()]).is_err());
    }
}
