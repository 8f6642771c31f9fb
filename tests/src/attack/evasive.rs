//! The owner's own password, among guesses at it from those who leave each circuit before it is banned.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use qemu::Deadline;

use super::work::timed;
use super::{CAREFUL, State};
use crate::check::{PASS, Verdict, fail};
use crate::site::{DIALOGUE, Site};

/// Six who guess, each on its own circuits.
const GUESSERS: usize = 6;

/// Between two guesses of one of them. All six together: the emulated processor, which has more to do, hashes a password
/// or two in a second.
const PACE: Duration = Duration::from_secs(8);

/// So many logins of the owner's are measured when it is quiet.
const LOGINS: usize = 5;

/// Between two logins of the owner's.
const REST: Duration = Duration::from_secs(1);

/// Guesses until it is told to stop: never waits for an answer, and takes a new circuit before the old one is banned.
fn guess(site: &Site, name: usize, guesses: &AtomicUsize, stop: &AtomicBool) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let circuit = format!("guesser {name}, {}", number / CAREFUL);
        // A circuit that was closed under it is what it has to live with.
        if let Ok((mut imap, _)) = site.imap(&circuit)
            && imap.talk().send(&format!("g LOGIN {} guess{number}", site.at("ada"))).is_ok()
        {
            guesses.fetch_add(1, Ordering::Relaxed);
            // (The connection stays open so long: one that hangs up is not answered.)
            std::thread::sleep(PACE);
        }
    }
}

/// While others guess, the owner gets in: with the password itself, which is hashed, and not from Dovecot's memory.
pub(super) fn heard_among_guesses(state: &mut State) -> Verdict {
    let State { resident, site: Some(site), .. } = state else { bail!("the services were never reached") };
    let site: &Site = site;
    let mut login = || -> anyhow::Result<Duration> {
        resident.appliance.read("doveadm auth cache flush")?;
        let (mut imap, _) = site.imap("quiet owner")?;
        let (answer, took) = timed(|| imap.login(&site.at("ada"), &site.password))?;
        ensure!(answer.agreed(), "{}", answer.text);
        Ok(took)
    };
    let mut quiet = (0..LOGINS).map(|_| login()).collect::<anyhow::Result<Vec<_>>>()?;
    let (guesses, stop) = (&AtomicUsize::new(0), &AtomicBool::new(false));
    let mut busy = std::thread::scope(|scope| {
        for name in 0..GUESSERS {
            scope.spawn(move || guess(site, name, guesses, stop));
        }
        let mut times = Vec::new();
        let deadline = Deadline::seconds(DIALOGUE);
        // Until everybody has left a circuit.
        let done = loop {
            match login() {
                Ok(_) if deadline.left().is_none() => break Err(anyhow!("only {guesses:?} guesses came")),
                Ok(_) if guesses.load(Ordering::Relaxed) > GUESSERS * CAREFUL => break Ok(times),
                Ok(time) => times.push(time),
                Err(error) => break Err(error),
            }
            std::thread::sleep(REST);
        };
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    quiet.sort_unstable();
    busy.sort_unstable();
    let (Some(middle), Some(longest)) = (busy.get(busy.len() / 2), busy.last()) else {
        bail!("the owner never logged in");
    };
    // Each guess that is ahead of the owner's password costs a hash.
    let hash = quiet[LOGINS / 2];
    if *middle <= hash * 4 + Duration::from_secs(2) && *longest <= hash * 8 + Duration::from_secs(5) {
        return PASS;
    }
    fail(format!("{busy:.2?} while others guessed, {quiet:.2?} when it was quiet"))
}
