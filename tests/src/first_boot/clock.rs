//! A clock that is years behind, as on a board without a battery, and one that is years ahead.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use qemu::Deadline;

use super::{State, keys, replace};
use crate::appliance::{self, Appliance};
use crate::check::{Check, PASS, Verdict, check, fail, gate, none_of};

/// For how many days a server certificate is used after it was made, and then renewed (`identity::tls`).
const USED: u64 = 397 - 31 - 30;
const DAY: u64 = 24 * 60 * 60;

/// How long an orderly shutdown may take.
const POWER_OFF: u64 = 180;

/// Certificates of servers and what they are checked against.
const CHAINS: [(&str, &str); 2] = [("mx.crt", "mx.crt"), ("client.crt", "ca.crt")];

/// The second machine: no settings, and a clock of long ago.
pub(super) fn start(state: &mut State) -> anyhow::Result<()> {
    replace(state, |spec| spec.extra.extend(["-rtc", "base=2001-09-09T01:46:40"].map(Into::into))).map(drop)
}

/// Powers it off and starts it with the right time.
pub(super) fn set_right(state: &mut State) -> anyhow::Result<()> {
    state.second = keys::identity(state.appliance()?)?;
    state.appliance()?.machine.power_off(Deadline::seconds(POWER_OFF))?;
    replace(state, appliance::again).map(drop)
}

pub(super) fn afterwards() -> Vec<Check<State>> {
    vec![
        gate("boots_with_clock_set_right", &[], |state: &mut State| {
            state.appliance()?.wait_boot()?;
            PASS
        }),
        check("wrong_clock_recovers", &["R22"], recovers),
        check("clock_ahead_recovers", &["R22"], ahead_recovers),
    ]
}

fn now() -> anyhow::Result<u64> {
    Ok(SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("this computer's clock is before 1970")?
        .as_secs())
}

/// The image's time and the guest's, in seconds since 1970.
fn clocks(appliance: &mut Appliance) -> anyhow::Result<(u64, u64)> {
    let text = appliance.read("stat -c %Y /usr/lib/clock-epoch; date +%s")?;
    let (image, guest) = text.trim().split_once('\n').context("there are no two times")?;
    Ok((image.parse()?, guest.parse()?))
}

/// Why certificates are not valid at a time, by OpenSSL's word.
fn invalid(appliance: &mut Appliance, at: u64) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for (certificate, authority) in CHAINS {
        let script = format!(
            "cd /var/lib/cipolla/tls && openssl verify -attime {at} -CAfile {authority} {certificate} 2>&1"
        );
        let output = appliance.run(&script)?;
        if !output.status.success() {
            findings.push(format!("{certificate} is not valid at {at}: {}", output.stdout.trim()));
        }
    }
    Ok(findings)
}

pub(super) fn starts_at_image_time(state: &mut State) -> Verdict {
    let (image, guest) = clocks(state.appliance()?)?;
    if guest < image {
        return fail(format!("the clock says {guest}, the image was made at {image}"));
    }
    if guest > image + DAY {
        return fail(format!("the clock says {guest}: it was not wrong, so nothing is shown"));
    }
    PASS
}

pub(super) fn certificates_are_valid(state: &mut State) -> Verdict {
    let appliance = state.appliance()?;
    let (image, guest) = clocks(appliance)?;
    let mut findings = invalid(appliance, guest)?;
    // As long as the image is not too old for that, the right time finds them valid too.
    let now = now()?;
    if now < image + USED * DAY {
        findings.extend(invalid(appliance, now)?);
    }
    none_of(&findings)
}

/// With the right time nothing is another one, but certificates that are due.
fn recovers(state: &mut State) -> Verdict {
    let before = std::mem::take(&mut state.second);
    let appliance = state.appliance()?;
    let (image, guest) = clocks(appliance)?;
    let mut findings = invalid(appliance, guest)?;
    if guest.abs_diff(now()?) > DAY {
        findings.push(format!("the clock says {guest}, so this shows nothing"));
    }
    let due = guest >= image + USED * DAY;
    let renewed = ["mx.", "client."].map(|name| format!("/{name}"));
    let after = keys::identity(appliance)?;
    for (path, sum) in &before {
        let may_change = path == "/var/lib/systemd/random-seed"
            || due && renewed.iter().any(|name| path.contains(name.as_str()) && !path.contains("/tor/"));
        if after.get(path) != Some(sum) && !may_change {
            findings.push(format!("{path} is another one, or gone"));
        }
    }
    none_of(&findings)
}

/// A start with a clock that is three years ahead makes new server certificates, and a start with the right time
/// makes them again; the authority, which devices have imported, stays, and so do addresses.
fn ahead_recovers(state: &mut State) -> Verdict {
    let appliance = state.appliance()?;
    let (_, guest) = clocks(appliance)?;
    // What is due in three years need not run now.
    appliance.read("systemctl stop '*.timer'")?;
    let lasting = "sha256sum /var/lib/cipolla/private/ca.pem /var/lib/tor/*/hs_ed25519_secret_key";
    let before = appliance.read(lasting)?;
    let mut findings = Vec::new();
    for (offset, why) in
        [(3 * 365 * DAY, "the old one has expired"), (0, "the old one was made while the clock was ahead")]
    {
        let said = appliance.read(&format!("date -s @{} >/dev/null && cipolla boot", guest + offset))?;
        for name in ["mx", "client"] {
            let line = format!("make the certificate for {name}: {why}: done");
            if !said.contains(&line) {
                findings.push(format!("the agent did not {line:?} but said: {}", said.trim()));
            }
        }
        findings.extend(invalid(appliance, guest + offset)?);
    }
    if appliance.read(lasting)? != before {
        findings.push("the authority or an address is another one".to_owned());
    }
    none_of(&findings)
}
