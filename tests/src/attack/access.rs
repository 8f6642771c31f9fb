//! Who sees a service at all: the admin service without a key, with a wrong one, with the owner's, and with a file of
//! keys that is broken.

use std::time::Duration;

use anyhow::bail;
use clients::{Refused, Talk};
use qemu::Deadline;

use super::State;
use crate::check::{Check, Verdict, check, none_of};
use crate::site::ONION;
use crate::world::ANSWER;

/// What makes the service visible.
const AUTHORIZED: &str = "/var/lib/tor/admin/authorized_clients";

/// The lab's Tor on its control socket, and a service that stays away, in seconds.
const SOON: u64 = 60;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("client_auth_required", &["R3"], client_auth_required),
        // Tor has to be restarted for it.
        check("broken_auth_file_fails_closed", &["R3"], broken_auth_file),
    ]
}

/// SSH's first line, or why there is none.
fn banner(state: &State, circuit: &str, deadline: Deadline) -> anyhow::Result<Result<String, Refused>> {
    let site = state.site()?;
    loop {
        match site.door.connect_once(circuit, &site.admin, 22, deadline) {
            Ok(channel) => return Ok(Ok(Talk::new(channel).line()?)),
            Err(error) => match error.downcast_ref::<Refused>().copied() {
                Some(refused @ (Refused::NO_KEY | Refused::WRONG_KEY)) => return Ok(Err(refused)),
                Some(refused) if deadline.left().is_none() => return Ok(Err(refused)),
                // The descriptor is not published yet, or the service does not answer yet.
                Some(_) => std::thread::sleep(Duration::from_millis(500)),
                None => return Err(error),
            },
        }
    }
}

fn client_auth_required(state: &mut State) -> Verdict {
    let (onion, key) = (state.site()?.admin.clone(), state.site()?.admin_key);
    let mut wrong = key;
    wrong[7] ^= 1;
    let mut findings = Vec::new();
    let refused = banner(state, "nobody", Deadline::seconds(ONION))?;
    if refused != Err(Refused::NO_KEY) {
        findings.push(format!("without a key: {refused:?}"));
    }
    state.world.client()?.authorize(&onion, &wrong, Deadline::seconds(SOON))?;
    let refused = banner(state, "a thief", Deadline::seconds(ONION))?;
    if refused != Err(Refused::WRONG_KEY) {
        findings.push(format!("with a wrong key: {refused:?}"));
    }
    state.world.client()?.forget(&onion, Deadline::seconds(SOON))?;
    state.world.client()?.authorize(&onion, &key, Deadline::seconds(SOON))?;
    let let_in = banner(state, "ada", Deadline::seconds(ONION))?;
    if !let_in.as_ref().is_ok_and(|line| line.starts_with("SSH-2.0-")) {
        findings.push(format!("with the key: {let_in:?}"));
    }
    none_of(&findings)
}

/// Tor would take a key file that it cannot read for none, and a service without key files for a public one.
fn broken_auth_file(state: &mut State) -> Verdict {
    let files = state.resident.appliance.read(&format!("ls {AUTHORIZED}"))?;
    let [file] = files.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("the admin service has the key files {files:?}");
    };
    let path = format!("{AUTHORIZED}/{file}");
    // The watchdog would start Tor again.
    let breaking = format!(
        "systemctl stop cipolla-watch.timer cipolla-watch.service; cp -a {path} /run/kept.auth && echo broken >{path}"
    );
    state.resident.appliance.read(&breaking)?;
    let (onion, key) = (state.site()?.admin.clone(), state.site()?.admin_key);
    state.world.client()?.forget(&onion, Deadline::seconds(SOON))?;
    let mut findings = Vec::new();
    for verb in ["reload", "restart"] {
        // All that the lab's Tor knew of the service is out of date.
        state.world.client()?.new_identity(Deadline::seconds(SOON))?;
        let done = state.resident.appliance.run(&format!("systemctl {verb} tor@default.service"))?;
        if done.status.success() {
            findings.push(format!("{verb} of Tor takes a broken key file for good"));
        }
        let seen = banner(state, &format!("nobody after {verb}"), Deadline::seconds(SOON))?;
        if seen.is_ok() {
            findings.push(format!("after {verb} everybody sees the service: {seen:?}"));
        }
    }
    let tor = "for comm in /proc/[0-9]*/comm; do read -r name <$comm && [ \"$name\" = tor ] && echo $comm; done; true";
    let running = state.resident.appliance.read(tor)?;
    if !running.is_empty() {
        findings.push(format!("Tor runs with a broken key file: {running}"));
    }
    let mending = format!(
        "cp -a /run/kept.auth {path} && rm /run/kept.auth && systemctl reset-failed tor@default.service && \
         systemctl restart tor@default.service && systemctl start cipolla-watch.timer"
    );
    state.resident.appliance.read(&mending)?;
    if let Err(why) = returned(state, &onion, &key) {
        bail!("with the file mended, the service does not come back: {why:#}; before: {findings:?}");
    }
    none_of(&findings)
}

/// Waits until the service answers to the owner's key again, as [`crate::world::World::connect_anew`] does without a key.
fn returned(state: &mut State, onion: &str, key: &[u8; 32]) -> anyhow::Result<()> {
    let deadline = Deadline::seconds(ONION);
    loop {
        state.world.client()?.new_identity(Deadline::seconds(SOON))?;
        // The key went with the identity.
        state.world.client()?.authorize(onion, key, Deadline::seconds(SOON))?;
        match banner(state, "ada again", Deadline::seconds(ANSWER)) {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(refused @ (Refused::NO_KEY | Refused::WRONG_KEY))) => bail!("Tor says {refused:?}"),
            Ok(Err(refused)) if deadline.left().is_none() => bail!("Tor says {refused:?}"),
            Err(error) if deadline.left().is_none() => return Err(error),
            _ => {}
        }
    }
}
