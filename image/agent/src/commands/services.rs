//! Telling services that their configuration changed.

use std::time::Duration;

use anyhow::Result;
use camino::Utf8Path;

use super::bans;
use crate::machine::Machine;

/// Tor's unit.
pub const TOR: &str = "tor@default.service";

/// The firewall's unit.
const FIREWALL: &str = "nftables.service";

/// Which unit reads a rendered file. Files that no running unit reads are not listed.
const READERS: [(&str, &str); 9] = [
    ("/etc/nftables.conf", FIREWALL),
    ("/etc/tor/", TOR),
    ("/etc/postfix/", "postfix.service"),
    ("/etc/dovecot/", "dovecot.service"),
    ("/etc/nginx/", "nginx.service"),
    ("/etc/rspamd/", "rspamd.service"),
    ("/etc/ssh/", "ssh.service"),
    ("/etc/systemd/network/", "systemd-networkd.service"),
    ("/etc/wpa_supplicant/", WIFI),
];

/// One for each radio. Without Wi-Fi in the settings they end at their condition, so those that do not run are started,
/// too; and systemctl(1) finds only those that run by a pattern.
const WIFI: &str = "wpa_supplicant@*.service";

/// The units that have to read their files again, in the order of the table: the firewall first.
#[must_use]
pub fn affected<'p>(paths: impl IntoIterator<Item = &'p str>) -> Vec<&'static str> {
    let paths: Vec<_> = paths.into_iter().collect();
    let reads = |prefix: &str| paths.iter().any(|path| path.starts_with(prefix));
    READERS.iter().filter(|(prefix, _)| reads(prefix)).map(|(_, unit)| *unit).collect()
}

/// Reloads units that run; returns what went wrong, as the owner should read it.
///
/// # Errors
/// When systemctl(1) cannot be started.
pub fn reload(machine: &Machine<'_>, units: &[&str]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    if units.contains(&FIREWALL) {
        problems.extend(reload_firewall(machine)?);
    }
    let others: Vec<_> = units.iter().copied().filter(|unit| ![FIREWALL, WIFI].contains(unit)).collect();
    problems.extend(tell(machine, "try-reload-or-restart", &others)?);
    if units.contains(&WIFI) && machine.programs.has("networkctl") {
        let links = machine.programs.run(&["networkctl", "list", "--no-legend", "--no-pager"])?;
        let radios = radios(&links.stdout);
        problems.extend(tell(machine, "restart", &radios.iter().map(String::as_str).collect::<Vec<_>>())?);
    }
    Ok(problems)
}

/// A new ruleset has an empty set of held addresses, and fail2ban does not look; so they are carried over.
fn reload_firewall(machine: &Machine<'_>) -> Result<Vec<String>> {
    let held = bans::firewall(machine);
    let mut problems = tell(machine, "try-reload-or-restart", &[FIREWALL])?;
    if let Err(error) = held.and_then(|held| bans::hold(machine, &held)) {
        problems.push(format!("addresses that were banned are not any more: {error:#}"));
    }
    Ok(problems)
}

/// The unit of each radio in the list of networkctl(1): number, name, type, and more.
fn radios(links: &str) -> Vec<String> {
    let radio = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, name, "wlan", ..] => Some(WIFI.replace('*', name)),
        _ => None,
    };
    links.lines().filter_map(radio).collect()
}

/// Restarts Tor if it runs; returns what went wrong, as the owner should read it. All its connections end.
///
/// # Errors
/// When systemctl(1) cannot be started.
pub fn restart_tor(machine: &Machine<'_>) -> Result<Vec<String>> {
    tell(machine, "try-restart", &[TOR])
}

fn tell(machine: &Machine<'_>, verb: &str, units: &[&str]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    if !machine.programs.has("systemctl") {
        return Ok(problems);
    }
    for unit in units {
        let ran = machine.programs.run(&["systemctl", verb, unit])?;
        if !ran.success {
            problems.push(format!("{unit} could not be reloaded: {}", ran.stderr.trim()));
        }
    }
    Ok(problems)
}

/// Dovecot's socket for those who may ask about logins; there while Dovecot runs.
const AUTH_SOCKET: &str = "/run/dovecot/auth-master";

/// After this time Dovecot looks at the passwd-file again.
const LOOKUP: Duration = Duration::from_millis(1100);

fn knows_logins(machine: &Machine<'_>) -> Result<bool> {
    Ok(machine.fs.entry(Utf8Path::new(AUTH_SOCKET))?.is_some() && machine.programs.has("doveadm"))
}

/// Makes Dovecot forget what it knew of a mailbox, password and room (its cache knows them for an hour). Returns what
/// went wrong, as the owner should read it.
///
/// # Errors
/// When doveadm(1) cannot be started.
pub fn forget_mailbox(machine: &Machine<'_>, address: &str) -> Result<Vec<String>> {
    if !knows_logins(machine)? {
        return Ok(Vec::new());
    }
    // Dovecot looks at the passwd-file once a second at most; what it looked up before must not come in again.
    std::thread::sleep(LOOKUP);
    let ran = machine.programs.run(&["doveadm", "auth", "cache", "flush", address])?;
    let problem = || format!("what held for {address} may hold for another hour: {}", ran.stderr.trim());
    Ok((!ran.success).then(problem).into_iter().collect())
}

/// As [`forget_mailbox`], for a password that is not right any more; if wanted, ends the sessions that began with it.
///
/// # Errors
/// When doveadm(1) cannot be started.
pub fn forget_login(machine: &Machine<'_>, address: &str, end_sessions: bool) -> Result<Vec<String>> {
    let problems = forget_mailbox(machine, address)?;
    if end_sessions && knows_logins(machine)? {
        // It fails when there is no session to end.
        machine.programs.run(&["doveadm", "kick", address])?;
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firewall_comes_first() {
        let units = affected(["/etc/postfix/main.cf", "/etc/nftables.conf", "/etc/postfix/x", "/etc/motd"]);
        assert_eq!(units, ["nftables.service", "postfix.service"]);
        let units = affected(["/etc/wpa_supplicant/wpa_supplicant.conf", "/etc/nftables.conf"]);
        assert_eq!(units, ["nftables.service", WIFI]);
    }

    #[test]
    fn radios_are_told_from_cables() {
        let links = "  1 lo     loopback           carrier  unmanaged\n  3 wlan1  wlan               routable configured\n  \
                     4 hwsim0 ieee80211_radiotap off      unmanaged\n  5 enp0s5 ether              off      configured\n";
        assert_eq!(radios(links), ["wpa_supplicant@wlan1.service"]);
        assert!(radios("").is_empty());
    }
}
