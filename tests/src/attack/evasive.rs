//! The owner's own password, among guesses at it that never pause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::State;
use crate::check::{PASS, Verdict, fail};
use crate::site::Site;

/// Six who guess, each on its own circuits.
const GUESSERS: usize = 6;

/// So many wrong passwords close a circuit (`jail.local`), less one; a guesser who knows that takes a new one then.
const CAREFUL: usize = 4;

/// So many logins of the owner's are measured.
const LOGINS: usize = 5;

/// Guesses until it is told to stop: never waits for an answer, and takes a new circuit before the old one is banned.
/// Returns how many guesses went out.
fn guesser(site: &Site, name: usize, stop: &AtomicBool) -> usize {
    let mut guesses = 0;
    while !stop.load(Ordering::Relaxed) {
        let circuit = format!("guesser {name}, {}", guesses / CAREFUL);
        // A circuit that was closed under it is what it has to live with.
        let Ok((mut imap, _)) = site.imap(&circuit) else { continue };
        if imap.talk().send(&format!("g LOGIN {} guess{guesses}", site.at("ada"))).is_ok() {
            guesses += 1;
        }
        // A right one would be answered by then. (All six together: the emulated processor, which others use as well,
        // has time to hash a password or two in a second.)
        std::thread::sleep(Duration::from_secs(8));
    }
    guesses
}

/// While others guess, the owner gets in: with the password itself, which is hashed, and not from Dovecot's memory.
pub(super) fn heard_among_guesses(state: &mut State) -> Verdict {
    let State { resident, site: Some(site), .. } = state else { bail!("the services were never reached") };
    let site: &Site = site;
    let mut logins = || -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..LOGINS {
            resident.appliance.read("doveadm auth cache flush")?;
            let (mut imap, _) = site.imap("quiet owner")?;
            let since = Instant::now();
            let answer = imap.login(&site.at("ada"), &site.password)?;
            ensure!(answer.agreed(), "{}", answer.text);
            times.push(since.elapsed());
        }
        times.sort_unstable();
        Ok(times)
    };
    let quiet = logins()?;
    let stop = &AtomicBool::new(false);
    let (busy, guesses) = std::thread::scope(|scope| {
        let guessers: Vec<_> =
            (0..GUESSERS).map(|name| scope.spawn(move || guesser(site, name, stop))).collect();
        let busy = logins();
        stop.store(true, Ordering::Relaxed);
        (busy, guessers.into_iter().filter_map(|one| one.join().ok()).sum::<usize>())
    });
    let busy = busy?;
    // Each guess that is ahead of the owner's password costs a hash.
    let hash = quiet[LOGINS / 2];
    let (middle, most) = (hash * 4 + Duration::from_secs(2), hash * 8 + Duration::from_secs(5));
    let told = format!("{busy:.2?} while {guesses} guesses came, {quiet:.2?} when it was quiet");
    if guesses >= GUESSERS && busy[LOGINS / 2] <= middle && busy[LOGINS - 1] <= most {
        PASS
    } else {
        fail(told)
    }
}
