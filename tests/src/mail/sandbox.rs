//! What confines each service, and the kernel beneath.

use std::collections::BTreeMap;

use super::State;
use crate::check::{Check, PASS, Verdict, check, fail, none_of};

/// `systemd-analyze security`: the most that a service may have without an entry in [`EXCEPTIONS`].
const BUDGET: f64 = 3.0;

/// Units that must be there. What else runs, and every unit of ours, is judged as well.
const UNITS: [&str; 13] = [
    "tor@default.service",
    "postfix.service",
    "dovecot.service",
    "nginx.service",
    "php8.4-fpm.service",
    "rspamd.service",
    "fail2ban.service",
    "nftables.service",
    "systemd-networkd.service",
    "wpa_supplicant@x.service",
    "systemd-timesyncd.service",
    "cipolla-password@x.service",
    "cipolla-circuit@x.service",
];

/// Units with a budget of their own: a little above what they have. Owners read why in `docs/threat-model.md`.
const EXCEPTIONS: [(&str, f64, &str); 7] = [
    ("ssh.service", 6.6, "its sessions inherit what is taken from it, and they administer"),
    (
        "cipolla-boot.service",
        5.8,
        "makes folders and owners everywhere and mounts, before anything else is up",
    ),
    ("systemd-journald.service", 5.0, "Debian's; reads of every process who it is"),
    ("systemd-udevd.service", 7.2, "Debian's; loads drivers and makes device files"),
    ("dbus.service", 9.4, "Debian's; no network, local sockets only, gives up root at its start"),
    ("getty@tty1.service", 9.7, "the login at the screen, where no account has a password"),
    ("serial-getty@ttyS0.service", 9.7, "the same at the serial console"),
];

/// The unit that this shell is in (ARCHITECTURE.md, "How tests see inside"), which no image has.
const SHELL: &str = "cipolla-shell.service";

/// Values that the kernel must have.
const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.rp_filter", "1"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.all.accept_source_route", "0"),
    ("net.ipv4.conf.all.route_localnet", "0"),
    ("net.ipv4.tcp_syncookies", "1"),
    ("net.ipv4.tcp_timestamps", "0"),
    ("net.ipv6.conf.all.disable_ipv6", "1"),
    ("kernel.kptr_restrict", "2"),
    ("kernel.dmesg_restrict", "1"),
    ("kernel.unprivileged_bpf_disabled", "1"),
    ("net.core.bpf_jit_harden", "2"),
    ("kernel.yama.ptrace_scope", "2"),
    ("kernel.kexec_load_disabled", "1"),
    ("kernel.sysrq", "0"),
    ("kernel.randomize_va_space", "2"),
    ("kernel.unprivileged_userns_clone", "0"),
    ("kernel.core_pattern", "|/bin/false"),
    ("fs.suid_dumpable", "0"),
    ("fs.protected_hardlinks", "1"),
    ("fs.protected_symlinks", "1"),
    ("fs.protected_fifos", "2"),
    ("fs.protected_regular", "2"),
];

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("systemd_analyze_security_budget", &["R53"], security_budget),
        check("sysctls", &["R5", "R53"], sysctls),
        check("rare_protocols_do_not_load", &["R53"], rare_protocols),
        check("apparmor_enforced", &["R53"], apparmor_enforced),
        check("no_secret_readable_by_others", &["R49"], no_secret_readable),
        check("no_swap_no_core", &["R53"], no_swap_no_core),
        check("slow_starts_are_waited_for", &[], slow_starts),
        check("owner_comes_before_strangers", &["R19"], owner_first),
        check("fail2ban_watches", &["R19"], fail2ban_watches),
        check("integrity_record_and_verify", &["R47"], integrity),
    ]
}

fn security_budget(state: &mut State) -> Verdict {
    // One process for all of them: its start is most of its work.
    let script = format!(
        "list='--type=service --plain --no-legend --full'
        units=$( ( systemctl list-units --state=running $list
                   systemctl list-unit-files --no-legend 'cipolla-*.service'
                   printf '%s\\n' {} ) | sed 's/ .*//; s/@[.]/@x./' | sort -u )
        said=$(systemd-analyze security --no-pager $units 2>&1 | grep -F .service)
        for unit in $units; do
            echo \"$unit $(echo \"$said\" | grep -F \" $unit\" | tail -n 1)\"
        done",
        UNITS.join(" ")
    );
    none_of(&over_budget(&state.resident.appliance.read(&script)?))
}

/// What is wrong with the levels of exposure: lines of a unit's name and its last line of `systemd-analyze security`,
/// such as `→ Overall exposure level for x.service: 2.8 OK`.
fn over_budget(lines: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for line in lines.lines().filter(|line| !line.starts_with(SHELL)) {
        let (unit, said) = line.split_once(' ').unwrap_or((line, ""));
        let exception = EXCEPTIONS.iter().find(|(name, ..)| *name == unit);
        let budget = exception.map_or(BUDGET, |(_, most, _)| *most);
        match said.split_whitespace().find_map(|word| word.parse::<f64>().ok()) {
            Some(level) if level >= budget => {
                findings.push(format!("{unit}: {level}, and the budget is {budget}"));
            }
            Some(level) if level < BUDGET && exception.is_some() => {
                findings.push(format!("{unit}: {level}, so it needs no exception any more"));
            }
            Some(_) => {}
            None => findings.push(format!("{unit}: {said}")),
        }
    }
    findings
}

fn sysctls(state: &mut State) -> Verdict {
    let names: Vec<_> = SYSCTLS.iter().map(|(name, _)| *name).collect();
    let script = format!(
        "for name in {}; do echo \"$name=$(cat /proc/sys/$(echo $name | tr . /))\"; done",
        names.join(" ")
    );
    let output = state.resident.appliance.read(&script)?;
    let seen: BTreeMap<_, _> = output.lines().filter_map(|line| line.split_once('=')).collect();
    let wrong = SYSCTLS.iter().filter(|(name, value)| seen.get(name) != Some(value));
    none_of(
        &wrong
            .map(|(name, value)| format!("{name} is {:?}, not {value}", seen.get(name)))
            .collect::<Vec<_>>(),
    )
}

/// Sockets of protocols that the kernel would load a module for, and the driver of `FireWire`.
fn rare_protocols(state: &mut State) -> Verdict {
    let script = "modprobe firewire-core 2>/dev/null && echo firewire-core is loaded
python3 - <<'END'
import socket
# dccp, sctp, rds, tipc (linux/socket.h, linux/in.h)
for name, family, kind, number in [('dccp', 2, 6, 33), ('sctp', 2, 1, 132), ('rds', 21, 5, 0), ('tipc', 30, 4, 0)]:
    try:
        socket.socket(family, kind, number)
        print('the kernel speaks', name)
    except OSError:
        pass
END";
    let output = state.resident.appliance.read(script)?;
    none_of(&output.lines().map(str::to_owned).collect::<Vec<_>>())
}

fn apparmor_enforced(state: &mut State) -> Verdict {
    let script = "aa-status --json 2>/dev/null || aa-status; cat /proc/$(systemctl show -P MainPID tor@default)/attr/current; \
                  echo; sed s/^/lsm=/ /sys/kernel/security/lsm; echo; journalctl -b -k -o cat | grep 'apparmor=\"DENIED\"'; true";
    let output = state.resident.appliance.read(script)?;
    let mut findings: Vec<String> =
        output.lines().filter(|line| line.contains("DENIED")).map(str::to_owned).collect();
    if !output.lines().any(|line| line.trim() == "system_tor (enforce)") {
        findings.push("Tor is not confined by its profile".to_owned());
    }
    // The recipe's choice, and those that are always there.
    let modules = output.lines().find_map(|line| line.strip_prefix("lsm=")).unwrap_or_default();
    let mut modules: Vec<_> = modules.split(',').collect();
    modules.sort_unstable();
    if modules != ["apparmor", "capability", "evm", "ima", "landlock", "lockdown", "yama"] {
        findings.push(format!("the kernel's security modules are {modules:?}"));
    }
    none_of(&findings)
}

fn no_secret_readable(state: &mut State) -> Verdict {
    let script = "find /var/lib/cipolla/private /var/lib/cipolla/tls /var/lib/cipolla/web /var/lib/tor \
                  /etc/ssh /var/lib/cipolla/mail/users -type f -perm /o+r \
                  ! -name '*.crt' ! -name '*.pub' ! -name 'sshd_config*' ! -name ssh_config ! -name moduli \
                  ! -name '50-cipolla.conf'; \
                  find /run /tmp /var/tmp /var/log -type f -perm /o+r ! -path '/run/cipolla-shell/*' \
                  -exec grep -lE 'PRIVATE KEY-----|[$]argon2id[$]' {} + 2>/dev/null; true";
    let output = state.resident.appliance.read(script)?;
    none_of(&output.lines().map(str::to_owned).collect::<Vec<_>>())
}

fn no_swap_no_core(state: &mut State) -> Verdict {
    let script = "echo swap=$(tail -n +2 /proc/swaps | wc -l); echo shell=$(ulimit -Hc); \
                  echo default=$(systemctl show -P DefaultLimitCORE)
                  for unit in tor@default postfix dovecot nginx php8.4-fpm rspamd fail2ban; do
                      echo $unit=$(systemctl show -P LimitCORE $unit)
                  done";
    let output = state.resident.appliance.read(script)?;
    let lines: Vec<_> = output.lines().filter_map(|line| line.split_once('=')).collect();
    anyhow::ensure!(lines.len() == 10, "ten answers are expected: {output}");
    let wrong = lines.iter().filter(|(_, value)| *value != "0");
    none_of(&wrong.map(|(what, value)| format!("{what} is {value:?}, not 0")).collect::<Vec<_>>())
}

/// A computer that needs minutes for its start loses neither a device nor a service for that.
fn slow_starts(state: &mut State) -> Verdict {
    let script = "systemctl show -p DefaultDeviceTimeoutUSec -p DefaultTimeoutStartUSec | sort";
    let limits = state.resident.appliance.read(script)?;
    if limits.trim() == "DefaultDeviceTimeoutUSec=10min\nDefaultTimeoutStartUSec=5min" {
        return PASS;
    }
    fail(limits)
}

/// When the processors are busy, what the owner waits for has more of them than what strangers can set to work.
fn owner_first(state: &mut State) -> Verdict {
    let read = "cd /sys/fs/cgroup/system.slice && cat dovecot.service/cpu.weight system-tor.slice/cpu.weight \
        nginx.service/cpu.weight php8.4-fpm.service/cpu.weight; echo; \
        cat postfix.service/cpu.weight fail2ban.service/cpu.weight rspamd.service/cpu.weight";
    let weights = state.resident.appliance.read(read)?;
    let all = |text: &str| text.lines().map(str::parse).collect::<Result<Vec<u32>, _>>();
    if let Some((owner, others)) = weights.split_once("\n\n")
        && let (Ok(owner), Ok(others)) = (all(owner), all(others))
        && (owner.len(), others.len()) == (4, 3)
        && owner.iter().min() > others.iter().max()
    {
        return PASS;
    }
    fail(format!("the weights of what the owner waits for, and of the others: {weights:?}"))
}

fn fail2ban_watches(state: &mut State) -> Verdict {
    let script = "fail2ban-client status; cipolla bans; systemctl show -P CapabilityBoundingSet fail2ban;
        nsenter -t $(systemctl show -P MainPID fail2ban) -m ls /run/tor/control 2>&1; true";
    let output = state.resident.appliance.read(script)?;
    let jails = ["postfix-circuit", "dovecot-circuit", "nginx-circuit", "sshd"];
    let missing = jails.iter().filter(|jail| !output.contains(**jail));
    let mut findings: Vec<_> = missing.map(|jail| format!("no jail {jail}: {output}")).collect();
    // It reads what strangers write, so it may not give Tor orders.
    if !output.lines().any(|line| line == "cap_net_admin")
        || output.lines().any(|line| line == "/run/tor/control")
    {
        findings.push(format!("it may do more than it needs: {output}"));
    }
    none_of(&findings)
}

fn integrity(state: &mut State) -> Verdict {
    let appliance = &mut state.resident.appliance;
    appliance.read("systemctl start cipolla-integrity.service && test -s /var/lib/aide/aide.db")?;
    let mut findings = Vec::new();
    let quiet = appliance.run("cipolla verify")?;
    if !quiet.status.success() {
        findings.push(format!("nothing changed, and it says: {}{}", quiet.stdout, quiet.stderr));
    }
    appliance.read("echo '# changed' >>/etc/nftables.conf")?;
    let told = appliance.run("cipolla verify")?;
    if told.status.success() || !told.stdout.contains("/etc/nftables.conf") {
        findings.push(format!("a changed firewall is not told: {}{}", told.stdout, told.stderr));
    }
    appliance.read("sed -i '$d' /etc/nftables.conf")?;
    none_of(&findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_has_a_budget() {
        let line = |unit: &str, level: &str| {
            format!("{unit} \u{2192} Overall exposure level for {unit}: {level} OK :-)")
        };
        let good = [line("nginx.service", "2.3"), line("ssh.service", "6.5"), line(SHELL, "9.6")].join("\n");
        assert_eq!(over_budget(&good), [] as [String; 0]);
        let bad = [
            line("nginx.service", "3.0"),
            line("ssh.service", "9.0"),
            line("dbus.service", "2.0"),
            "x.service Unit x.service not found.".to_owned(),
        ];
        let want = [
            "nginx.service: 3, and the budget is 3",
            "ssh.service: 9, and the budget is 6.6",
            "dbus.service: 2, so it needs no exception any more",
            "x.service: Unit x.service not found.",
        ];
        assert_eq!(over_budget(&bad.join("\n")), want);
    }

    #[test]
    fn every_exception_has_a_reason_and_needs_one() {
        assert!(EXCEPTIONS.iter().all(|(_, most, reason)| *most > BUDGET && reason.len() > 20));
    }
}
