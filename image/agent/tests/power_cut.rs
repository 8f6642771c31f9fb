//! The power goes at every single step of the first start. Whatever the disk kept, the next start completes
//! the identity, no key is ever replaced, and no secret is left where it does not belong.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod support;

use std::collections::BTreeMap;

use agent::boot;
use agent::credentials::Credential;
use agent::fs::atomic;
use agent::onions::Onion;
use agent::paths;
use agent::pem::Pair;
use camino::{Utf8Path, Utf8PathBuf};
use support::programs::FakePrograms;
use support::sim::{Loss, SimFs};
use support::{SETTINGS, WIFI_SECRET, machine};

fn start(fs: &SimFs) -> anyhow::Result<usize> {
    boot::run(&machine(fs, &FakePrograms { fs }), &mut |_| {})
}

/// What must never change once it is there: keys, authority, secrets of the owner.
fn lasting() -> Vec<Utf8PathBuf> {
    let mut paths: Vec<_> = Onion::ALL.iter().map(|onion| onion.secret_key()).collect();
    paths.extend(Credential::ALL.iter().map(|credential| credential.path()));
    paths.push(Pair::Authority.source());
    paths.extend([paths::SSH_HOST_KEY, paths::DES_KEY].map(Utf8PathBuf::from));
    paths
}

fn check(before: &BTreeMap<Utf8PathBuf, Vec<u8>>, fs: &SimFs, place: &str) {
    let after = fs.files();
    for path in lasting() {
        let now = after.get(&path).unwrap_or_else(|| panic!("{place}: {path} is missing"));
        assert!(!now.is_empty(), "{place}: {path} is empty");
        assert!(before.get(&path).is_none_or(|old| old == now), "{place}: {path} was replaced");
    }
    let secrets: Vec<_> =
        Credential::ALL.iter().map(|credential| after[&credential.path()].clone()).collect();
    for (path, content) in &after {
        let name = path.file_name().unwrap_or_default();
        assert!(!atomic::is_temporary(name), "{place}: {path} was left behind");
        let holds = |secret: &[u8]| content.windows(secret.len()).any(|window| window == secret);
        let allowed = path.starts_with(paths::CREDENTIALS) || path == paths::CONSOLE;
        for secret in &secrets {
            assert!(allowed || !holds(secret), "{place}: {path} holds a credential in clear");
        }
        let settings = path == paths::ACCEPTED_SETTINGS;
        assert!(settings || !holds(WIFI_SECRET.as_bytes()), "{place}: {path} holds the Wi-Fi passphrase");
    }
    assert!(after.contains_key(Utf8Path::new(paths::MARKER)), "{place}: no marker");
    // Wiped there only once they are safe here.
    let accepted = after.get(Utf8Path::new(paths::ACCEPTED_SETTINGS)).map(Vec::as_slice);
    assert_eq!(accepted, Some(SETTINGS.as_bytes()), "{place}: the owner's settings were lost");
    for path in [paths::BOOT_SETTINGS, paths::BOOT_WIPING] {
        assert!(!after.contains_key(Utf8Path::new(path)), "{place}: settings still on FAT");
    }
}

/// Cuts at the steps `first`, `first + 2`, …: two tests share the work.
fn cut_everywhere(first: usize) {
    let whole = SimFs::before_first_start();
    start(&whole).unwrap();
    check(&BTreeMap::new(), &whole, "without a cut");
    let steps = whole.steps();
    assert!(steps > 150, "only {steps} steps: does the boundary see them all?");
    for step in (first..=steps).step_by(2) {
        let fs = SimFs::before_first_start();
        fs.cut_at(step);
        assert!(start(&fs).is_err(), "the power was cut at step {step}");
        for loss in Loss::ALL {
            let place = format!("cut at step {step} of {steps}, lost {loss:?}");
            let next = fs.after_power_cut(loss);
            let before = next.files();
            start(&next).unwrap_or_else(|error| panic!("{place}: {error:#}"));
            check(&before, &next, &place);
            let done = start(&next).unwrap_or_else(|error| panic!("{place}: {error:#}"));
            assert_eq!(done, 0, "{place}: a second start has nothing to do");
        }
    }
}

#[test]
fn a_power_cut_at_every_odd_step_is_survived() {
    cut_everywhere(1);
}

#[test]
fn a_power_cut_at_every_even_step_is_survived() {
    cut_everywhere(2);
}

#[test]
fn what_a_finished_start_made_survives_a_power_cut() {
    let fs = SimFs::before_first_start();
    start(&fs).unwrap();
    let made = fs.files();
    let next = fs.after_power_cut(Loss::EverythingUnsynced);
    for (path, content) in &made {
        if !path.starts_with(paths::RUN) || path.starts_with(paths::BOOT) {
            assert_eq!(next.files().get(path), Some(content), "{path} was not durable");
        }
    }
    assert_eq!(start(&next).unwrap(), 0, "a start after the cut has nothing to do");
}

#[test]
fn a_second_cut_while_resuming_is_survived() {
    let whole = SimFs::before_first_start();
    start(&whole).unwrap();
    let steps = whole.steps();
    for (first, second) in [(3, 5), (steps / 4, 7), (steps / 2, 11), (steps / 2, 2), (steps - 4, 3)] {
        let fs = SimFs::before_first_start();
        fs.cut_at(first);
        assert!(start(&fs).is_err());
        let next = fs.after_power_cut(Loss::EverythingUnsynced);
        next.cut_at(second);
        // Little may be left to do, so that the second cut comes too late.
        let _ = start(&next);
        let last = next.after_power_cut(Loss::EverythingUnsynced);
        let before = last.files();
        start(&last).unwrap();
        check(&before, &last, &format!("cuts at {first} and {second}"));
    }
}
