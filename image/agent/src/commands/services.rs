//! Telling services that their configuration changed.

use anyhow::Result;

use crate::machine::Machine;

/// Which unit reads a rendered file. Files that no running unit reads are not listed.
const READERS: [(&str, &str); 8] = [
    ("/etc/nftables.conf", "nftables.service"),
    ("/etc/tor/", "tor@default.service"),
    ("/etc/postfix/", "postfix.service"),
    ("/etc/dovecot/", "dovecot.service"),
    ("/etc/nginx/", "nginx.service"),
    ("/etc/rspamd/", "rspamd.service"),
    ("/etc/ssh/", "ssh.service"),
    ("/etc/systemd/network/", "systemd-networkd.service"),
];

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
    if !machine.programs.has("systemctl") {
        return Ok(problems);
    }
    for unit in units {
        let ran = machine.programs.run(&["systemctl", "try-reload-or-restart", unit])?;
        if !ran.success {
            problems.push(format!("{unit} could not be reloaded: {}", ran.stderr.trim()));
        }
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
    }
}
