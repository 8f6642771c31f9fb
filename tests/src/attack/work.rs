//! What the owner does all day, and how long each piece of it takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clients::Imap;
use qemu::{Deadline, Stopwatch};

use crate::site::{Account, DIALOGUE, Site};

/// The owner's circuit.
pub(super) const CIRCUIT: &str = "the owner";

/// Under attack the middle time of a piece of work may be so many times that of a quiet hour,
const SLOWER: u32 = 2;

/// and so much more, which nobody notices: a word in an open session takes a few hundredths of a second.
const UNNOTICED: Duration = Duration::from_millis(250);

/// A piece of the owner's work, through Tor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Piece {
    /// A word in a session that is open.
    Word,
    /// Connecting, logging in and fetching a message.
    Read,
    /// Connecting, logging in and handing in a message.
    Send,
    /// The webmail's first page.
    Page,
}

impl Piece {
    const fn name(self) -> &'static str {
        match self {
            Self::Word => "NOOP in an open session",
            Self::Read => "IMAP: login, fetch",
            Self::Send => "submission: login, message",
            Self::Page => "webmail page",
        }
    }
}

/// What a piece of work comes to and how long it takes, without the time in which this computer itself stood still
/// ([`Stopwatch`]): where others have more of its processors during the attack than before, that is not the attack.
pub(super) fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let watch = Stopwatch::start();
    let done = work()?;
    Ok((done, watch.spent()))
}

/// How long pieces of work took.
#[derive(Debug, Default)]
pub(super) struct Times(BTreeMap<Piece, Vec<Duration>>);

impl Times {
    fn take<T>(&mut self, piece: Piece, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let (done, took) = timed(work)?;
        self.0.entry(piece).or_default().push(took);
        Ok(done)
    }

    /// What a login with a look into the mailbox takes; no time at all before the first.
    pub(super) fn login(&self) -> Duration {
        self.figures(Piece::Read).map_or(Duration::ZERO, |(middle, ..)| middle)
    }

    /// The middle one, the longest, and how many there are.
    fn figures(&self, piece: Piece) -> Option<(Duration, Duration, usize)> {
        let mut times = self.0.get(&piece)?.clone();
        times.sort_unstable();
        Some((*times.get(times.len() / 2)?, *times.last()?, times.len()))
    }
}

/// The table of both, and a finding for each piece of work that takes too long under attack.
pub(super) fn compare(quiet: &Times, attacked: &Times) -> (String, Vec<String>) {
    let (mut table, mut findings) = (String::new(), Vec::new());
    for piece in [Piece::Word, Piece::Read, Piece::Send, Piece::Page] {
        let name = piece.name();
        let (Some(quiet), Some(attacked)) = (quiet.figures(piece), attacked.figures(piece)) else {
            findings.push(format!("{name}: not measured both ways"));
            continue;
        };
        let cell = |(middle, worst, count): (Duration, Duration, usize)| {
            format!("{:.2} s (worst {:.2} s, of {count})", middle.as_secs_f64(), worst.as_secs_f64())
        };
        let line = format!("{name}: quiet {}, under attack {}", cell(quiet), cell(attacked));
        let _ = writeln!(table, "{line}");
        if attacked.0 > quiet.0 * SLOWER + UNNOTICED {
            findings.push(line);
        }
    }
    (table, findings)
}

/// No round takes less.
const ROUND: Duration = Duration::from_secs(8);

/// The owner, with a session open.
pub(super) struct Owner<'s> {
    site: &'s Site,
    session: Imap,
    /// The appliance's time, as mail writes it (RFC 5322).
    date: &'s str,
    sent: usize,
}

impl<'s> Owner<'s> {
    pub(super) fn at_work(site: &'s Site, date: &'s str) -> anyhow::Result<Self> {
        Ok(Self { site, session: site.mailbox(CIRCUIT, ada(site))?, date, sent: 0 })
    }

    /// One round of everything, and a rest: a circuit may log in ten times in a minute, the owner's as well.
    pub(super) fn round(&mut self, times: &mut Times) -> anyhow::Result<()> {
        let since = Instant::now();
        self.work(times)?;
        std::thread::sleep(ROUND.saturating_sub(since.elapsed()));
        Ok(())
    }

    fn work(&mut self, times: &mut Times) -> anyhow::Result<()> {
        let Self { site, session, date, sent } = self;
        session.until(Deadline::seconds(DIALOGUE));
        for _ in 0..3 {
            times.take(Piece::Word, || session.demand("NOOP"))?;
        }
        times.take(Piece::Read, || {
            let mut imap = site.mailbox(CIRCUIT, ada(site))?;
            ensure!(imap.select("INBOX")? > 0, "there is nothing to read");
            imap.message(1)
        })?;
        *sent += 1;
        let (from, to) = (site.at("ada"), site.at("bob"));
        let letter = letter(&from, &to, date, &format!("round {sent}"));
        times.take(Piece::Send, || {
            let mut smtp = site.submission(CIRCUIT, ada(site))?;
            let reply = smtp.mail(&from, &[&to], &letter)?;
            ensure!(reply.code == 250, "the owner's message is answered with {reply}");
            Ok(())
        })?;
        times.take(Piece::Page, || {
            let channel = site.door.connect(CIRCUIT, &site.client, 80, Deadline::seconds(DIALOGUE))?;
            let page = clients::get(channel, &site.client, "/", Some(("ada", &site.web)))?;
            if page.status != 200 || !String::from_utf8_lossy(&page.body).contains("rcmloginuser") {
                bail!("the webmail answers with {}", page.status);
            }
            Ok(())
        })
    }
}

/// The owner's mailbox.
pub(super) fn ada(site: &Site) -> Account<'_> {
    Account { local: "ada", password: &site.password }
}

/// A message that does not look like spam. CRLF line ends.
pub(super) fn letter(from: &str, to: &str, date: &str, subject: &str) -> Vec<u8> {
    let domain = from.rsplit('@').next().unwrap_or_default();
    let id = subject.replace(' ', ".");
    format!(
        "From: <{from}>\r\nTo: <{to}>\r\nSubject: {subject}\r\nDate: {date}\r\nMessage-ID: <{id}@{domain}>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nAs every day.\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(read: &[u64]) -> Times {
        let all = |millis: &[u64]| millis.iter().map(|one| Duration::from_millis(*one)).collect();
        let same: Vec<Duration> = all(&[100, 100]);
        Times(BTreeMap::from([
            (Piece::Word, same.clone()),
            (Piece::Read, all(read)),
            (Piece::Send, same.clone()),
            (Piece::Page, same),
        ]))
    }

    #[test]
    fn twice_the_middle_time_is_the_limit() {
        let quiet = times(&[300, 100, 110]);
        let (table, findings) = compare(&quiet, &times(&[9000, 470, 200]));
        assert_eq!(findings, [] as [&str; 0]);
        assert_eq!(
            table.lines().nth(1),
            Some(
                "IMAP: login, fetch: quiet 0.11 s (worst 0.30 s, of 3), under attack 0.47 s (worst 9.00 s, of 3)"
            )
        );
        let (_, findings) = compare(&quiet, &times(&[9000, 471, 200]));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].starts_with("IMAP: login, fetch: quiet 0.11 s"), "{findings:?}");
    }

    #[test]
    fn what_was_not_measured_is_not_good() {
        assert_eq!(compare(&Times::default(), &times(&[1])).1.len(), 4);
    }
}
