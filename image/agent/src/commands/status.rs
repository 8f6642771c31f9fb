//! `cipolla status`: how the appliance is, on one screen.

use std::fmt;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use crate::accounts::Accounts;
use crate::boot::facts::roles;
use crate::commands::{clock, watch};
use crate::credentials::Credential;
use crate::image::Image;
use crate::machine::Machine;
use crate::onions::Onion;
use crate::settings::load;
use crate::{access_check, render, tor_control};

/// Units whose state the owner sees, if the image has them.
const UNITS: [&str; 10] = [
    "cipolla-boot.service",
    "nftables.service",
    "systemd-networkd.service",
    "tor@default.service",
    "ssh.service",
    "postfix.service",
    "dovecot.service",
    "rspamd.service",
    "nginx.service",
    "fail2ban.service",
];
/// Less room than this on the data partition needs attention, in percent.
const LITTLE_ROOM: u64 = 10;

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// systemd's `ActiveState`.
    pub state: String,
}

/// How the appliance is. What could not be found out is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Name and version of the image.
    pub image: String,
    /// Addresses by service.
    pub addresses: Vec<(&'static str, String)>,
    /// Units that the image has.
    pub units: Vec<Unit>,
    /// Tor's bootstrap, in percent.
    pub tor_bootstrap: Option<u8>,
    /// Messages in Postfix's queue.
    pub queue: Option<usize>,
    /// Free room on the data partition, in percent.
    pub free_percent: Option<u64>,
    /// Free room on the data partition, in MiB.
    pub free_mib: Option<u64>,
    /// Seconds since 1970, by the appliance's clock.
    pub clock: u64,
    /// Passwords that the owner has not acknowledged.
    pub unacknowledged: bool,
    /// Configuration that somebody else changed since it was rendered.
    pub drift: Vec<Utf8PathBuf>,
    /// Other files in `/etc` that differ from the image.
    pub changed_in_etc: Vec<String>,
    /// What needs attention.
    pub problems: Vec<String>,
}

/// What every appliance makes in `/etc` by itself.
const MADE_HERE: [&str; 5] = [
    "/etc/machine-id",
    crate::paths::SSH_HOST_KEY,
    crate::paths::SSH_HOST_PUBLIC_KEY,
    "/etc/.pwd.lock",
    "/etc/.updated",
];

impl Report {
    /// Whether nothing needs attention.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Finds out.
///
/// # Errors
/// When the appliance's own files cannot be read.
pub fn read(machine: &Machine<'_>) -> Result<Report> {
    let fs = machine.fs;
    let image = Image::load(fs)?;
    let mut report = Report {
        image: format!(
            "{} {}",
            image.name.as_deref().unwrap_or("unnamed image"),
            image.version.as_deref().unwrap_or("")
        ),
        clock: machine.now.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default(),
        ..Report::default()
    };
    let accounts = Accounts::load(fs)?;
    if roles(&accounts).onion {
        identity(machine, &mut report)?;
    }
    units(machine, &mut report)?;
    queue(machine, &mut report)?;
    disk(machine, &mut report)?;
    configuration(machine, &accounts, &mut report)?;
    Ok(report)
}

fn identity(machine: &Machine<'_>, report: &mut Report) -> Result<()> {
    for onion in Onion::ALL {
        match onion.address(machine.fs) {
            Ok(address) => report.addresses.push((onion.name(), address.to_string())),
            Err(error) => report.problems.push(format!("{error:#}")),
        }
    }
    if let Err(error) = access_check::verify(machine.fs) {
        report.problems.push(format!("{error:#}"));
    }
    for credential in Credential::ALL {
        report.unacknowledged |= machine.fs.entry(&credential.path())?.is_some();
    }
    report.problems.extend(watch::problem(machine.fs)?);
    report.problems.extend(clock::look(machine)?.complaint(machine));
    match tor_control::standing() {
        Ok(tor) => {
            report.tor_bootstrap = Some(tor.percent);
            if tor.percent < 100 {
                report.problems.push(format!("Tor is still connecting ({} %)", tor.percent));
            } else if !tor.circuit {
                report.problems.push("Tor was connected and is not any more: it has no circuit".to_owned());
            }
        }
        Err(error) => report.problems.push(format!("Tor cannot be asked: {error:#}")),
    }
    Ok(())
}

fn units(machine: &Machine<'_>, report: &mut Report) -> Result<()> {
    if !machine.programs.has("systemctl") {
        return Ok(());
    }
    for name in UNITS {
        let argv = ["systemctl", "show", "--property=LoadState,ActiveState", name];
        let ran = machine.programs.run(&argv)?;
        let value = |key: &str| ran.stdout.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        if value("LoadState=").as_deref() != Some("loaded") {
            continue;
        }
        let state = value("ActiveState=").unwrap_or_default();
        if state != "active" {
            report.problems.push(format!("{name} is {state}; see: journalctl -b -u {name}"));
        }
        report.units.push(Unit { name: name.to_owned(), state });
    }
    Ok(())
}

fn queue(machine: &Machine<'_>, report: &mut Report) -> Result<()> {
    if machine.programs.has("postqueue") {
        let ran = machine.programs.run(&["postqueue", "-j"])?;
        report.queue = ran.success.then(|| ran.stdout.lines().count());
    }
    Ok(())
}

fn disk(machine: &Machine<'_>, report: &mut Report) -> Result<()> {
    if let Some(space) = machine.fs.space(Utf8Path::new("/data"))? {
        let percent = space.free * 100 / space.total.max(1);
        report.free_percent = Some(percent);
        report.free_mib = Some(space.free >> 20);
        if percent < LITTLE_ROOM {
            report.problems.push(format!("the data partition is nearly full: {percent} % are free"));
        }
    }
    Ok(())
}

fn configuration(machine: &Machine<'_>, accounts: &Accounts, report: &mut Report) -> Result<()> {
    let settings = match load::load(machine.fs, None) {
        Ok(loaded) => loaded.settings,
        Err(error) => {
            report.problems.push(error.to_string());
            return Ok(());
        }
    };
    let rendering = match render::plan(machine, &settings, accounts) {
        Ok(rendering) => rendering,
        Err(error) => {
            report.problems.push(format!("{error:#}"));
            return Ok(());
        }
    };
    report.drift = rendering.drift(machine.fs)?;
    for path in &report.drift {
        report.problems.push(format!("{path} was changed by hand; the next start renders it anew"));
    }
    let upper = Utf8Path::new("/data/etc/upper");
    let mut folders = vec![upper.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in machine.fs.list(&folder)? {
            let path = folder.join(name);
            let is_folder =
                machine.fs.entry(&path)?.is_some_and(|entry| entry.kind == crate::fs::Kind::Directory);
            let target = Utf8Path::new("/etc").join(path.strip_prefix(upper).unwrap_or(&path));
            if is_folder {
                folders.push(path);
            } else if !MADE_HERE.contains(&target.as_str())
                && rendering.files().iter().all(|file| file.path != target)
            {
                report.changed_in_etc.push(target.into_string());
            }
        }
    }
    report.changed_in_etc.sort_unstable();
    Ok(())
}

/// Seconds since 1970 of a time as `2026-11-21 21:23:28` in UTC; `None` if it is not one. The inverse of [`utc`].
pub(super) fn seconds_of(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(' ')?;
    let numbers =
        |text: &str, mark: char| text.split(mark).map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>();
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let [hour, minute, second] = numbers(time, ':')?.try_into().ok()?;
    if !(1970..10_000).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * shifted_year + shifted_year / 4 - shifted_year / 100
        + shifted_year / 400
        + (153 * shifted_month + 2) / 5
        + (day - 1);
    (days * 86_400 + hour * 3600 + minute * 60 + second).checked_sub(719_468 * 86_400)
}

/// A time as `2026-11-21 21:23 UTC`. Days become dates by counting from 1 March, so that leap days come last.
pub(super) fn utc(seconds: u64) -> String {
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Days since 0000-03-01; 400 years have 146097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:10}{}", "image", self.image)?;
        for (service, address) in &self.addresses {
            writeln!(f, "{service:10}{address}")?;
        }
        if !self.units.is_empty() {
            let states: Vec<_> = self
                .units
                .iter()
                .map(|unit| {
                    let name = unit.name.trim_end_matches(".service");
                    if unit.state == "active" { name.to_owned() } else { format!("{name} ({})", unit.state) }
                })
                .collect();
            writeln!(f, "{:10}{}", "services", states.join(" "))?;
        }
        if let Some(percent) = self.tor_bootstrap {
            writeln!(f, "{:10}{percent} % connected", "tor")?;
        }
        if let Some(queue) = self.queue {
            writeln!(f, "{:10}{queue} messages wait", "queue")?;
        }
        if let (Some(percent), Some(mib)) = (self.free_percent, self.free_mib) {
            writeln!(f, "{:10}{percent} % free ({mib} MiB)", "disk")?;
        }
        writeln!(f, "{:10}{}", "clock", utc(self.clock))?;
        if self.unacknowledged {
            writeln!(
                f,
                "{:10}wait to be acknowledged: cipolla show-credentials, then cipolla ack",
                "passwords"
            )?;
        }
        if !self.changed_in_etc.is_empty() {
            writeln!(f, "{:10}{}", "/etc", self.changed_in_etc.join(" "))?;
        }
        for problem in &self.problems {
            writeln!(f, "  ! {problem}")?;
        }
        if self.is_well() { write!(f, "everything is well") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34 UTC");
        assert_eq!(utc(1_795_296_208), "2026-11-21 21:23 UTC");
        assert_eq!(utc(4_107_542_399), "2100-02-28 23:59 UTC");
        for time in [0, 951_827_696, 1_795_296_208, 4_107_542_399] {
            let text = utc(time).replace(" UTC", &format!(":{:02}", time % 60));
            assert_eq!(seconds_of(&text), Some(time), "{text}");
        }
        for wrong in ["", "2026-11-21", "2026-13-01 00:00:00", "1969-12-31 23:59:59", "2026-11-21 x:00:00"] {
            assert_eq!(seconds_of(wrong), None, "{wrong}");
        }
    }
}
