//! What an attack leaves behind: nothing.

use super::State;
use crate::check::{Check, Verdict, check, none_of};

/// Services that have to be up, without having been started again.
const UNITS: &str = "tor@default postfix dovecot rspamd nginx php8.4-fpm fail2ban ssh nftables";

/// So much more than before may be there: idle processes of Postfix and PHP that end by themselves.
const MORE_TASKS: u64 = 12;
/// In MiB.
const MORE_MEMORY: u64 = 48;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("attack_leaves_nothing_behind", &["R29", "R33"], nothing_is_left),
        check("capture_holds_only_tor_and_dhcp", &["R1", "R4"], capture),
    ]
}

/// What all services together take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    tasks: u64,
    /// Memory that is not a file's, in bytes.
    memory: u64,
}

/// Prints the tasks of all services, and the line of their memory (cgroups v2).
const MEASURE: &str = "cd /sys/fs/cgroup/system.slice && cat pids.current && grep '^anon ' memory.stat";

impl Footprint {
    pub(super) fn measure(state: &mut State) -> anyhow::Result<Self> {
        let text = state.resident.appliance.read(MEASURE)?;
        let number = |line: Option<&str>| line?.rsplit(' ').next()?.parse::<u64>().ok();
        let mut lines = text.lines();
        match (number(lines.next()), number(lines.next())) {
            (Some(tasks), Some(memory)) => Ok(Self { tasks, memory }),
            _ => anyhow::bail!("the services take {text:?}"),
        }
    }
}

fn nothing_is_left(state: &mut State) -> Verdict {
    let before = state.before.ok_or_else(|| anyhow::anyhow!("nothing was measured before the attack"))?;
    let mut findings = Vec::new();
    // Postfix keeps a process for a hundred seconds after its last client.
    let wait = format!(
        "for n in $(seq 160); do [ $(cat /sys/fs/cgroup/system.slice/pids.current) -le {} ] && break; sleep 1; done",
        before.tasks + MORE_TASKS
    );
    state.resident.appliance.read(&wait)?;
    let after = Footprint::measure(state)?;
    if after.tasks > before.tasks + MORE_TASKS {
        findings.push(format!("{} tasks, before {}", after.tasks, before.tasks));
    }
    if after.memory > before.memory + (MORE_MEMORY << 20) {
        findings.push(format!("{} MiB of memory, before {}", after.memory >> 20, before.memory >> 20));
    }
    let script = format!(
        "for unit in {UNITS}; do echo $unit $(systemctl is-active $unit) $(systemctl show -P NRestarts $unit); done
        systemctl --failed --plain --no-legend
        journalctl -b -k -o cat | grep -i 'out of memory'; true"
    );
    let seen = state.resident.appliance.read(&script)?;
    findings.extend(seen.lines().filter(|line| !line.ends_with(" active 0")).map(str::to_owned));
    if seen.lines().count() < UNITS.split(' ').count() {
        findings.push(format!("not all services were seen: {seen}"));
    }
    none_of(&findings)
}

fn capture(state: &mut State) -> Verdict {
    let tally = state.world.judge(&state.resident)?;
    let mut findings = tally.findings;
    if tally.tor == 0 || tally.dhcp == 0 {
        findings.push(format!("{} packets to relays and {} of DHCP: too few", tally.tor, tally.dhcp));
    }
    none_of(&findings)
}
