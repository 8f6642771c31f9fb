//! `cipolla tarpit`: makes wrong passwords slower, account by account. Dovecot's second password database.
//!
//! Dovecot asks it only after its own database said no (`passdb tarpit` in dovecot.conf), so a right password never
//! waits here, and nobody can lock an owner out by guessing. (Dovecot's policy server cannot do that: it holds a
//! login back before the password is looked at, and is not asked about wrong ones.) The protocol is as much of IMAP
//! (RFC 3501) as Dovecot's client speaks when it asks: a greeting, LOGIN, an answer. Whatever the answer is, the
//! login fails: `result_success = return-fail`. If nobody answers, wrong passwords stay wrong, and are not slowed.
//!
//! Never: keeps a password or a circuit, writes a file, remembers longer than it runs.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::str;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::line;

/// The longest line, in bytes. (Dovecot takes logins of half of it.)
const MAX_LINE: usize = 16 * 1024;
/// How long Dovecot has to say what it wants. It connects first, and may have many passwords to hash then.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest wait. Dovecot gives up after 90 seconds (`imapc_connection_timeout_interval`).
const LONGEST: Duration = Duration::from_secs(60);
/// The longest wait where others stand in line: Postfix gives up on Dovecot after 10 seconds (`AUTH_TIMEOUT` in its
/// sources), of which Dovecot's own delay takes three, and the webmail has six processes for everybody.
const LONGEST_IN_LINE: Duration = Duration::from_secs(4);
/// So many wait at a time. Who guesses and hangs up leaves a place of Dovecot's taken until the answer, and of those it
/// has 120 (`client_limit`), which the owner needs, too. In a flood that is greater, nobody waits longer for it.
const WAITING: usize = 40;
/// One wrong password is forgotten after this time without another.
const FORGIVEN: Duration = Duration::from_secs(10 * 60);
/// So many wrong passwords make the longest wait. More are not counted, or it would take a day to forget them.
const MOST: u32 = 6;
/// So many accounts are remembered; strangers choose the names.
const ACCOUNTS: usize = 1024;
/// The longest name of an account, in bytes: a local part, an @ and a domain (RFC 5321, 4.5.3.1).
const NAME: usize = 64 + 1 + 255;

/// Where a wrong password came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Port 993: a connection of its own, which may wait.
    Own,
    /// Postfix or the webmail.
    InLine,
}

/// One LOGIN command.
#[derive(Debug, PartialEq, Eq)]
pub struct Login<'l> {
    /// What the answer begins with.
    tag: &'l str,
    /// Where it came from.
    pub way: Way,
    /// Whose password was guessed.
    pub account: &'l str,
}

impl<'l> Login<'l> {
    /// Reads `TAG LOGIN "PORT/ACCOUNT" …`, where `PORT/ACCOUNT` is `imapc_user` in dovecot.conf. What comes after
    /// it is the wrong password, and is not looked at.
    #[must_use]
    pub fn parse(line: &'l str) -> Option<Self> {
        let (tag, rest) = line.split_once(' ')?;
        let (user, _) = rest.strip_prefix("LOGIN \"")?.split_once('"')?;
        let (port, account) = user.split_once('/')?;
        let good = !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_alphanumeric());
        let way = if port == "993" { Way::Own } else { Way::InLine };
        (good && !account.is_empty()).then_some(Self { tag, way, account })
    }
}

/// How long an answer waits, if so many wrong passwords for the account are remembered: nothing, 2 seconds, 4, 8, …
#[must_use]
pub fn wait(before: u32, way: Way) -> Duration {
    let longest = match way {
        Way::Own => LONGEST,
        Way::InLine => LONGEST_IN_LINE,
    };
    match before {
        0 => Duration::ZERO,
        1..MOST => Duration::from_secs(1 << before).min(longest),
        _ => longest,
    }
}

/// Wrong passwords of late.
#[derive(Debug, Default)]
pub struct Memory(HashMap<String, Wrong>);

/// Places for those who wait.
#[derive(Debug, Default)]
struct Places(AtomicUsize);

impl Places {
    /// Runs `wait` if there is a place.
    fn take(&self, wait: impl FnOnce()) {
        if self.0.fetch_add(1, Ordering::Relaxed) < WAITING {
            wait();
        }
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy)]
struct Wrong {
    count: u32,
    /// When the last one was, since the program began.
    last: Duration,
}

impl Wrong {
    /// How many are remembered at a time.
    fn remembered(&self, now: Duration) -> u32 {
        let forgiven = now.saturating_sub(self.last).as_secs() / FORGIVEN.as_secs();
        self.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }
}

impl Memory {
    /// Remembers a wrong password for an account. `now` is the time since the program began. Returns how many were
    /// remembered before.
    pub fn note(&mut self, account: &str, now: Duration) -> u32 {
        // Names are compared up to the length that an address can have.
        let end = account.floor_char_boundary(NAME);
        let name = &account[..end];
        let before = self.0.get(name).map_or(0, |wrong| wrong.remembered(now));
        if !self.0.contains_key(name) && self.0.len() >= ACCOUNTS {
            self.make_room(now);
        }
        self.0.insert(name.to_owned(), Wrong { count: (before + 1).min(MOST), last: now });
        before
    }

    /// Forgets what is forgiven; if all are remembered, the one with the fewest wrong passwords, so that a stranger
    /// cannot wash out a real account with names that nobody has.
    fn make_room(&mut self, now: Duration) {
        self.0.retain(|_, wrong| wrong.remembered(now) > 0);
        if self.0.len() >= ACCOUNTS {
            let least = self.0.iter().min_by_key(|(_, wrong)| (wrong.remembered(now), wrong.last));
            if let Some(name) = least.map(|(name, _)| name.clone()) {
                self.0.remove(&name);
            }
        }
    }
}

/// One conversation: `hold` waits as long as the login deserves.
///
/// # Errors
/// When the other side is not Dovecot, and when reading or writing fails.
fn converse(
    input: &mut impl BufRead,
    output: &mut impl Write,
    hold: impl FnOnce(&Login<'_>),
) -> io::Result<()> {
    // Dovecot asks for what the greeting does not tell.
    output.write_all(b"* OK [CAPABILITY IMAP4rev1] Ready\r\n")?;
    let Some(line) = line(input, MAX_LINE)? else { return Ok(()) };
    let Some(login) = Login::parse(str::from_utf8(&line).unwrap_or_default()) else {
        return output.write_all(b"* BYE expected LOGIN\r\n");
    };
    hold(&login);
    // NO would be an error of ours to Dovecot 2.4 ("temporary failure"). OK fails the login, by the configuration.
    write!(output, "{} OK\r\n", login.tag)?;
    // Dovecot hangs up, and complains if it is not the first to.
    input.read(&mut [0]).map(drop)
}

/// Answers Dovecot at the socket that systemd hands over as standard input, each connection in its own thread. Their
/// number is bounded by Dovecot's limits on clients, and by the unit (`TasksMax`).
///
/// # Errors
/// When standard input is not a socket that listens.
pub fn run() -> Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned().context("taking the socket from systemd")?;
    let listener = TcpListener::from(socket);
    let state = Arc::new((Mutex::new(Memory::default()), Places::default()));
    let began = Instant::now();
    loop {
        let (stream, _) = listener.accept().context("accepting a connection at standard input")?;
        let state = Arc::clone(&state);
        let answer = move || {
            if let Err(error) = answer(&stream, &state, began) {
                eprintln!("cipolla: answering Dovecot: {error}");
            }
        };
        // Without a thread the connection closes, and Dovecot refuses the login at once.
        if let Err(error) = thread::Builder::new().spawn(answer) {
            eprintln!("cipolla: too many wrong passwords at once: {error}");
        }
    }
}

fn answer(
    mut stream: &TcpStream,
    (memory, places): &(Mutex<Memory>, Places),
    began: Instant,
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    converse(&mut BufReader::new(stream), &mut stream, |login| {
        let before =
            memory.lock().unwrap_or_else(PoisonError::into_inner).note(login.account, began.elapsed());
        places.take(|| thread::sleep(wait(before, login.way)));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_dovecot_says_is_understood() {
        let login = |way, account| Some(Login { tag: "1", way, account });
        assert_eq!(Login::parse(r#"1 LOGIN "993/ada@x.onion" "guess""#), login(Way::Own, "ada@x.onion"));
        // A password in a literal: the answer comes instead of an invitation to send it.
        assert_eq!(Login::parse(r#"1 LOGIN "993/ada@x.onion" {9}"#), login(Way::Own, "ada@x.onion"));
        assert_eq!(Login::parse(r#"1 LOGIN "10143/a/b" "x""#), login(Way::InLine, "a/b"));
        assert_eq!(
            Login::parse(r#"1 LOGIN "/ada" "x" y""#),
            login(Way::InLine, "ada"),
            "Postfix names no port"
        );
        for wrong in [
            "",
            "1",
            "1 CAPABILITY",
            "1 LOGIN {5}",
            r#"1 LOGIN "993/ada"#,
            r#"1 LOGIN "993/" "x""#,
            r#"1 LOGIN "ada" "x""#,
            r#"* LOGIN "993/ada" "x""#,
            r#" LOGIN "993/ada" "x""#,
        ] {
            assert_eq!(Login::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let seconds = |way| (0..9).map(|before| wait(before, way).as_secs()).collect::<Vec<_>>();
        assert_eq!(seconds(Way::Own), [0, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(seconds(Way::InLine), [0, 2, 4, 4, 4, 4, 4, 4, 4]);
        assert_eq!(wait(u32::MAX, Way::Own), LONGEST);
    }

    #[test]
    fn each_account_has_its_own_count() {
        let mut memory = Memory::default();
        let counts: Vec<_> = (0..9).map(|_| memory.note("ada", MINUTE)).collect();
        assert_eq!(counts, [0, 1, 2, 3, 4, 5, 6, 6, 6]);
        assert_eq!(memory.note("bob", MINUTE), 0);
    }

    #[test]
    fn time_forgives() {
        let mut memory = Memory::default();
        for _ in 0..9 {
            memory.note("ada", Duration::ZERO);
        }
        assert_eq!(memory.note("ada", MINUTE * 9), 6, "nothing is forgiven yet");
        assert_eq!(memory.note("ada", MINUTE * 30), 4, "21 minutes later");
        assert_eq!(memory.note("ada", MINUTE * 81), 0, "and after an hour, all");
        assert_eq!(memory.note("ada", MINUTE), 1, "a clock that goes back does no harm");
    }

    #[test]
    fn strangers_cannot_fill_it_nor_wash_an_account_out() {
        let mut memory = Memory::default();
        for _ in 0..3 {
            memory.note("ada", Duration::ZERO);
        }
        for number in 0..ACCOUNTS * 3 {
            memory.note(&format!("nobody {number}"), MINUTE);
        }
        assert_eq!(memory.0.len(), ACCOUNTS);
        assert_eq!(memory.note("ada", MINUTE), 3);
        let long = "é".repeat(MAX_LINE);
        memory.note(&long, MINUTE);
        assert_eq!(memory.note(&long, MINUTE), 1);
        assert!(memory.0.keys().all(|name| name.len() <= NAME));
    }

    #[test]
    fn a_flood_leaves_places() {
        fn crowd(places: &Places, size: usize) -> usize {
            let mut waiting = 0;
            if size > 0 {
                places.take(|| waiting = 1 + crowd(places, size - 1));
            }
            waiting
        }
        let places = Places::default();
        assert_eq!(crowd(&places, WAITING * 2), WAITING);
        assert_eq!(crowd(&places, WAITING - 1), WAITING - 1, "who has waited makes room");
    }

    fn said(input: &[u8]) -> (String, Option<String>) {
        let (mut output, mut held) = (Vec::new(), None);
        converse(&mut &*input, &mut output, |login| held = Some(login.account.to_owned())).unwrap();
        (String::from_utf8(output).unwrap(), held)
    }

    #[test]
    fn one_login_is_answered() {
        let greeting = "* OK [CAPABILITY IMAP4rev1] Ready\r\n";
        let (answer, held) = said(b"1 LOGIN \"993/ada\" \"x\"\r\n2 LOGIN \"993/bob\" \"x\"\r\n");
        assert_eq!((answer, held), (format!("{greeting}1 OK\r\n"), Some("ada".into())));
        let (answer, held) = said(b"1 LOGIN \"993/\xff\" \"x\"\r\n");
        assert_eq!((answer, held), (format!("{greeting}* BYE expected LOGIN\r\n"), None));
        assert_eq!(said(b""), (greeting.to_owned(), None));
    }
}
