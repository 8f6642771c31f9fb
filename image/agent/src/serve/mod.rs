//! What other programs ask of the agent: Postfix ([`policy`]) and, through sockets of systemd's, fail2ban
//! ([`circuit`]), the webmail ([`password`]) and Dovecot ([`tarpit`]).
//!
//! Each protocol is a function over a reader and a writer. Limits of time are the command line's business.

pub mod circuit;
pub mod password;
pub mod policy;
pub mod tarpit;

use std::io::{self, BufRead, ErrorKind, Read as _};

use zeroize::Zeroizing;

/// Reads one line of at most `most` bytes without its end, which is LF or CRLF; `None` at the end of the input. It
/// may be a secret, so it is wiped.
///
/// # Errors
/// [`ErrorKind::InvalidData`] when it is longer, [`ErrorKind::UnexpectedEof`] when the input ends within it, and
/// from the reader.
fn line(input: &mut impl BufRead, most: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // With room for all, so that the line never moves and leaves a copy behind.
    let mut line = Zeroizing::new(Vec::with_capacity(most + 2));
    input.by_ref().take(most as u64 + 2).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let ended = line.pop_if(|last| *last == b'\n').is_some();
    if ended {
        line.pop_if(|last| *last == b'\r');
    }
    match ended {
        _ if line.len() > most => Err(io::Error::new(ErrorKind::InvalidData, "a line is too long")),
        true => Ok(Some(line)),
        false => Err(io::Error::new(ErrorKind::UnexpectedEof, "the input ends within a line")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut input: &[u8]) -> (Vec<String>, Option<ErrorKind>) {
        let mut lines = Vec::new();
        loop {
            match line(&mut input, 4) {
                Ok(Some(line)) => lines.push(String::from_utf8_lossy(&line).into_owned()),
                Ok(None) => return (lines, None),
                Err(error) => return (lines, Some(error.kind())),
            }
        }
    }

    #[test]
    fn lines_end_in_lf_or_crlf_and_have_a_limit() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert_eq!(lines(b"a\nbcde\r\n\n"), (texts(&["a", "bcde", ""]), None));
        assert_eq!(lines(b""), (texts(&[]), None));
        assert_eq!(lines(b"a\nabcde\n"), (texts(&["a"]), Some(ErrorKind::InvalidData)));
        assert_eq!(lines(b"abcdefghijkl"), (texts(&[]), Some(ErrorKind::InvalidData)));
        assert_eq!(lines(b"a\nab"), (texts(&["a"]), Some(ErrorKind::UnexpectedEof)));
    }
}
