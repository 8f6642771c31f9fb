//! The serial console: everything the guest says, watched while it comes.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::guest::{self, Badness};
use crate::text::PlainText;
use crate::{Deadline, Error, Result};

/// The console of a machine. A thread reads it all the time and stops every wait as soon as a line of
/// [`guest::BADNESS`] shows. Waits go forward: each begins where the one before it ended, so the same prompt
/// can be awaited once per boot.
pub struct Console {
    stream: UnixStream,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
    cursor: usize,
}

#[derive(Default)]
struct Shared {
    screen: Mutex<Screen>,
    changed: Condvar,
}

/// What has been seen so far.
#[derive(Default)]
struct Screen {
    text: String,
    /// Start of the first line that has not been judged as a complete one.
    unjudged: usize,
    lost: Option<(&'static Badness, String)>,
    closed: bool,
}

impl Screen {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        while self.lost.is_none() {
            let rest = &self.text[self.unjudged..];
            let (line, complete) = match rest.find('\n') {
                Some(end) => (&rest[..end], true),
                None => (rest, false),
            };
            self.lost = guest::badness(line, complete).map(|bad| (bad, line.to_owned()));
            if !complete {
                break;
            }
            self.unjudged += line.len() + 1;
        }
    }
}

impl Shared {
    /// The screen stays readable whatever happened to a thread that held it.
    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Starts to read a connected console.
    pub(crate) fn new(stream: UnixStream) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let reader = {
            let (shared, stream) = (Arc::clone(&shared), stream.try_clone()?);
            std::thread::Builder::new().name("console".to_owned()).spawn(move || read(stream, &shared))?
        };
        Ok(Self { stream, shared, reader: Some(reader), cursor: 0 })
    }

    /// Waits until `text` shows, also in a line that has not ended, and moves past it.
    ///
    /// # Errors
    /// [`Error::Lost`] as soon as the guest is lost, [`Error::Ended`] when the machine ends,
    /// [`Error::Deadline`] when the time is up.
    pub fn wait_for(&mut self, text: &str, deadline: Deadline) -> Result<()> {
        let find = |rest: &str| rest.find(text).map(|at| ((), at + text.len()));
        self.wait(&format!("{text:?} on the console"), deadline, find)
    }

    /// Waits for a complete line that `pick` accepts, moves past it and returns what `pick` made of it.
    ///
    /// # Errors
    /// As [`Console::wait_for`]; `what` names the awaited line there.
    pub fn wait_line<T>(
        &mut self,
        what: &str,
        deadline: Deadline,
        pick: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        self.wait(what, deadline, |rest| {
            let mut end = 0;
            rest.split_inclusive('\n').find_map(|line| {
                end += line.len();
                line.strip_suffix('\n').and_then(&pick).map(|picked| (picked, end))
            })
        })
    }

    fn wait<T>(
        &mut self,
        what: &str,
        deadline: Deadline,
        find: impl Fn(&str) -> Option<(T, usize)>,
    ) -> Result<T> {
        let mut screen = self.shared.screen();
        loop {
            if let Some((found, length)) = find(&screen.text[self.cursor..]) {
                self.cursor += length;
                return Ok(found);
            }
            if let Some(error) = lost(&screen, what) {
                return Err(error);
            }
            let Some(left) = deadline.left() else {
                return Err(Error::Deadline { what: what.to_owned(), waited: deadline.waited() });
            };
            let waited = self.shared.changed.wait_timeout(screen, left);
            screen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the other end has closed the console, as a QEMU that ends does.
    ///
    /// # Errors
    /// [`Error::Deadline`] when the time is up.
    pub(crate) fn wait_closed(&self, deadline: Deadline) -> Result<()> {
        let mut screen = self.shared.screen();
        while !screen.closed {
            let Some(left) = deadline.left() else {
                let what = "QEMU to let go of its files".to_owned();
                return Err(Error::Deadline { what, waited: deadline.waited() });
            };
            let waited = self.shared.changed.wait_timeout(screen, left);
            screen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Why waiting for the guest is pointless, if it is.
    pub(crate) fn lost(&self, what: &str) -> Option<Error> {
        lost(&self.shared.screen(), what)
    }

    /// Types a line.
    ///
    /// # Errors
    /// [`Error::Ended`] when the machine is gone.
    pub fn send_line(&mut self, line: &str) -> Result<()> {
        let ended = |error: std::io::Error| Error::Ended {
            what: "the console to take a line".to_owned(),
            how: error.to_string(),
        };
        self.stream.write_all(format!("{line}\n").as_bytes()).map_err(ended)
    }

    /// Everything said so far, without escape sequences.
    #[must_use]
    pub fn text(&self) -> String {
        self.shared.screen().text.clone()
    }

    /// The last `count` lines that are not empty.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<String> {
        let screen = self.shared.screen();
        let lines = screen.text.lines().filter(|line| !line.trim().is_empty());
        let mut tail: Vec<_> = lines.rev().take(count).map(str::to_owned).collect();
        tail.reverse();
        tail
    }

    /// Gives `sink` everything from the beginning and then whatever comes, until the console closes.
    pub(crate) fn stream(&self, mut sink: impl FnMut(&str)) {
        let mut cursor = 0;
        let mut screen = self.shared.screen();
        loop {
            if screen.text.len() > cursor {
                let news = screen.text[cursor..].to_owned();
                cursor += news.len();
                drop(screen);
                sink(&news);
                screen = self.shared.screen();
            } else if screen.closed {
                return;
            } else {
                screen = self.shared.changed.wait(screen).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Wakes the reader, which then ends. A socket that is already closed is what we want anyway.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn lost(screen: &Screen, what: &str) -> Option<Error> {
    let what = || what.to_owned();
    if let Some((bad, line)) = &screen.lost {
        return Some(Error::Lost { what: what(), name: bad.name, line: line.clone() });
    }
    screen.closed.then(|| Error::Ended { what: what(), how: "the console was closed".to_owned() })
}

fn read(mut stream: UnixStream, shared: &Shared) {
    let mut plain = PlainText::default();
    let mut block = [0; 4096];
    loop {
        match stream.read(&mut block) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(count) => {
                let text = plain.feed(&block[..count]);
                shared.screen().push(&text);
                shared.changed.notify_all();
            }
        }
    }
    shared.screen().closed = true;
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Console, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Console::new(near).unwrap(), far)
    }

    #[test]
    fn waits_go_forward() {
        let (mut console, mut guest) = pair();
        guest.write_all(b"vm login: ").unwrap();
        console.wait_for(guest::LOGIN_PROMPT, Deadline::seconds(5)).unwrap();
        let again =
            console.wait_for(guest::LOGIN_PROMPT, Deadline::after(std::time::Duration::from_millis(20)));
        assert!(matches!(again, Err(Error::Deadline { .. })));
        guest.write_all(b"\r\nvm login: ").unwrap();
        console.wait_for(guest::LOGIN_PROMPT, Deadline::seconds(5)).unwrap();
        console.send_line("root").unwrap();
        let mut typed = [0; 5];
        guest.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\n");
    }

    #[test]
    fn lines_are_picked_when_complete() {
        let (mut console, mut guest) = pair();
        guest.write_all(b"noise\ncipolla: slot a (fall").unwrap();
        guest.write_all(b"back: none)\nmore").unwrap();
        let pick = |line: &str| line.strip_prefix(guest::GRUB_SLOT).map(str::to_owned);
        let slot = console.wait_line("the slot", Deadline::seconds(5), pick).unwrap();
        assert_eq!(slot, "a (fallback: none)");
        assert_eq!(console.tail(1), ["more"]);
    }

    #[test]
    fn a_lost_guest_ends_the_wait_at_once() {
        let (mut console, mut guest) = pair();
        guest.write_all(b"ok\n[ 1.0] Kernel panic - not syncing: no root\n").unwrap();
        let error = console.wait_for(guest::LOGIN_PROMPT, Deadline::seconds(60)).unwrap_err();
        assert!(matches!(error, Error::Lost { name: "a kernel panic", .. }), "{error}");
    }

    #[test]
    fn a_closed_console_ends_the_wait() {
        let (mut console, guest) = pair();
        drop(guest);
        let error = console.wait_for(guest::LOGIN_PROMPT, Deadline::seconds(60)).unwrap_err();
        assert!(matches!(error, Error::Ended { .. }), "{error}");
    }
}
