//! Offenders. Each is a client of its own, which does one wrong thing until its circuit is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clients::{Smtp, Talk};
use data_encoding::BASE64;
use qemu::Deadline;

use crate::site::{PEER, Site};

/// Within this time after its first connection an offender has lost its circuit, in seconds.
const PATIENCE: u64 = 240;

/// Connections that one client may have at the mail server.
const PLACES: usize = 5;

/// What an offender does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Tries one account after the other over IMAP. (Who tries one account again and again waits longer each time.)
    Reads,
    /// Guesses the owner's password over submission.
    Sends,
    /// Guesses the password in front of the webmail.
    Browses,
    /// Connects to port 25 and hangs up.
    Rings,
    /// Takes all its places at port 25 and says nothing.
    KeepsSilent,
    /// Takes all its places at port 25 and sends a message by the byte.
    Trickles,
}

/// How many there are of each. As many as an emulated machine bears, with all of a circuit's work.
pub(super) const CROWD: [(Kind, usize); 6] = [
    (Kind::Reads, 3),
    (Kind::Sends, 3),
    (Kind::Browses, 3),
    (Kind::Rings, 3),
    (Kind::KeepsSilent, 3),
    (Kind::Trickles, 2),
];

/// While it lasts, who loses a circuit comes back on another.
pub(super) struct Surge {
    over: AtomicBool,
    /// What the owner's login takes when it is quiet: so many guesses and connections come as a machine of any speed can
    /// answer, and a slow computer does not decide whether the test passes.
    pace: Duration,
}

/// Ends the surge, however the test ends: offenders would go on for ever.
pub(super) struct End<'s>(pub(super) &'s Surge);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Surge {
    pub(super) fn new(pace: Duration) -> Self {
        Self { over: AtomicBool::new(false), pace }
    }

    /// What a guesser does between two guesses.
    fn rest(&self) {
        std::thread::sleep(self.pace * 3);
    }

    /// Between two rings at all places: far more come than the mail server lets one client have, thirty a minute.
    fn breathe(&self) {
        std::thread::sleep(self.pace);
    }
}

/// An offender's time on one circuit.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) kind: Kind,
    /// The circuit's name.
    pub(super) circuit: String,
    /// How often it did its thing, until its circuit was gone; or what happened instead.
    pub(super) end: Result<u32, String>,
    pub(super) took: Duration,
}

/// Offends, on one circuit after the other. Who is patient does so once.
pub(super) fn offend(site: &Site, kind: Kind, number: usize, surge: &Surge) -> Vec<Life> {
    let mut lives = Vec::new();
    while !surge.over.load(Ordering::Relaxed) {
        let circuit = format!("{kind:?} {number}.{}", lives.len());
        let since = Instant::now();
        let end = live(site, kind, &circuit, surge).map_err(|error| format!("{error:#}"));
        let patient = matches!(kind, Kind::KeepsSilent | Kind::Trickles);
        let last = patient || end.is_err();
        lives.push(Life { kind, circuit, end, took: since.elapsed() });
        if last {
            break;
        }
        surge.rest();
    }
    lives
}

fn live(site: &Site, kind: Kind, circuit: &str, surge: &Surge) -> anyhow::Result<u32> {
    let deadline = Deadline::seconds(PATIENCE);
    match kind {
        Kind::Reads => {
            let (mut imap, _) = site.imap(circuit)?;
            imap.until(deadline);
            until_closed(|guess| {
                let account = site.at(&format!("{}-{guess}", circuit.replace(' ', "-")));
                let answer = imap.login(&account, "guess")?;
                surge.rest();
                Ok(answer.agreed())
            })
        }
        Kind::Sends => {
            let mut smtp = site.client(circuit)?;
            smtp.until(deadline);
            let ada = site.at("ada");
            until_closed(|guess| {
                let reply = smtp.auth_plain(&ada, &format!("guess {guess}"))?;
                surge.rest();
                Ok(reply.code == 235)
            })
        }
        Kind::Browses => {
            let channel = site.door.connect(circuit, &site.client, 80, deadline)?;
            let mut talk = Talk::new(channel);
            until_closed(|guess| {
                let status = ask(&mut talk, &site.client, guess)?;
                surge.rest();
                Ok(status == 200)
            })
        }
        Kind::Rings => ring(site, circuit, deadline, surge),
        Kind::KeepsSilent => {
            let mut places = Vec::new();
            for _ in 0..PLACES {
                places.push(site.greeting(circuit)?.0);
            }
            let mut ended = 0;
            for place in &mut places {
                place.talk().until(deadline);
                ensure!(place.talk().wait_closed(), "a silent dialogue is borne for ever");
                ended += 1;
            }
            Ok(ended)
        }
        Kind::Trickles => trickle(site, circuit, deadline),
    }
}

/// Does something again and again until the connection ends: a guess, which tells whether it was right.
fn until_closed(mut guess: impl FnMut(u32) -> anyhow::Result<bool>) -> anyhow::Result<u32> {
    let mut count = 0;
    loop {
        match guess(count) {
            Ok(false) => count += 1,
            Ok(true) => bail!("guess {count} was right"),
            Err(error) if timed_out(&error) || count == 0 => return Err(error),
            Err(_) => return Ok(count),
        }
    }
}

fn timed_out(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

/// A guess at the webmail's door, on a connection that stays open; the status of the answer, which has no body.
fn ask(talk: &mut Talk, host: &str, guess: u32) -> anyhow::Result<u16> {
    let login = BASE64.encode(format!("ada:guess {guess}").as_bytes());
    talk.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {login}\r\n"))?;
    let status = talk.line()?;
    let status = status.split(' ').nth(1).and_then(|word| word.parse().ok());
    let mut length = None;
    loop {
        let line = talk.line()?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        length = length.or_else(|| line.strip_prefix("content-length:")?.trim().parse().ok());
    }
    talk.bytes(length.context("the answer does not say how long it is")?)?;
    status.context("the answer has no status")
}

/// Connects and hangs up, all the time; another dialogue goes on and shows when the circuit is gone.
fn ring(site: &Site, circuit: &str, deadline: Deadline, surge: &Surge) -> anyhow::Result<u32> {
    let (mut held, _) = site.greeting(circuit)?;
    held.until(deadline);
    until_closed(|_| {
        std::thread::scope(|scope| {
            for _ in 1..PLACES {
                // One that is refused is answered, too.
                scope.spawn(|| drop(site.door.connect_once(circuit, &site.mx, 25, deadline)));
            }
        });
        held.command("NOOP")?;
        surge.breathe();
        Ok(false)
    })
}

/// Sends a byte a second on all its places, until all of them are gone.
fn trickle(site: &Site, circuit: &str, deadline: Deadline) -> anyhow::Result<u32> {
    let ada = site.at("ada");
    let mut places: Vec<Smtp> = Vec::new();
    for _ in 0..PLACES {
        let mut smtp = site.stranger(circuit)?;
        for line in [&format!("MAIL FROM:<slow@{PEER}>"), &format!("RCPT TO:<{ada}>"), "DATA"] {
            smtp.demand(line)?;
        }
        smtp.until(deadline);
        places.push(smtp);
    }
    let mut bytes = 0;
    while !places.is_empty() {
        if deadline.left().is_none() {
            bail!("after {bytes} bytes of {PLACES} messages there are still {}", places.len());
        }
        std::thread::sleep(Duration::from_secs(1));
        places.retain_mut(|smtp| {
            smtp.until(Deadline::after(Duration::from_millis(20)));
            let closed = smtp.talk().wait_closed();
            smtp.until(deadline);
            !closed && smtp.talk().send_bytes(b"x").is_ok()
        });
        bytes += 1;
    }
    Ok(bytes)
}
