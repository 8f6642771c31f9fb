//! What an attack leaves behind: nothing.

use anyhow::bail;

use super::State;
use crate::check::{Verdict, none_of};

/// Services that have to be up, without having been started again.
const UNITS: &str = "tor@default postfix dovecot rspamd nginx php8.4-fpm fail2ban ssh nftables";

/// So much more than before may be there: idle processes of PHP that end by themselves. Postfix's, which wait for
/// the next client for a hundred seconds, do not count; that they are in no dialogue does.
const MORE_TASKS: u64 = 12;
/// In MiB.
const MORE_MEMORY: u64 = 48;

/// What all services together take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    tasks: u64,
    /// Memory that is not a file's, in bytes, but for Postfix's.
    memory: u64,
}

/// The tasks of all services but Postfix (cgroups v2).
const TASKS: &str = "$(($(cat /sys/fs/cgroup/system.slice/pids.current) - \
    $(cat /sys/fs/cgroup/system.slice/postfix.service/pids.current)))";

/// How many dialogues there are with the services that anybody can reach.
const DIALOGUES: &str =
    "$(ss -Htn state established '( sport = :10025 or sport = :10465 or sport = :10993 )' | wc -l)";

impl Footprint {
    pub(super) fn measure(state: &mut State) -> anyhow::Result<Self> {
        let anon = |unit: &str| format!("sed -n 's/^anon //p' /sys/fs/cgroup/system.slice/{unit}memory.stat");
        let script = format!("echo {TASKS}; echo $(($({}) - $({})))", anon(""), anon("postfix.service/"));
        let text = state.resident.appliance.read(&script)?;
        let number = |line: Option<&str>| line?.rsplit(' ').next()?.parse::<u64>().ok();
        let mut lines = text.lines();
        match (number(lines.next()), number(lines.next())) {
            (Some(tasks), Some(memory)) => Ok(Self { tasks, memory }),
            _ => bail!("the services take {text:?}"),
        }
    }
}

pub(super) fn nothing_is_left(state: &mut State) -> Verdict {
    let before = state.before.ok_or_else(|| anyhow::anyhow!("nothing was measured before the attack"))?;
    let mut findings = Vec::new();
    // PHP keeps a process for a minute; Postfix bears silence for as long.
    let most = before.tasks + MORE_TASKS;
    let wait = format!(
        "for n in $(seq 90); do tasks={TASKS}; dialogues={DIALOGUES}
        [ $tasks -le {most} ] && [ $dialogues = 0 ] && break; sleep 1; done; echo $tasks $dialogues"
    );
    // What was seen at the end of it: a moment later another task may have come, which goes again.
    let seen = state.resident.appliance.read(&wait)?;
    let Some((Ok(tasks), Ok(dialogues))) = seen
        .trim()
        .split_once(' ')
        .map(|(tasks, dialogues)| (tasks.parse::<u64>(), dialogues.parse::<u64>()))
    else {
        bail!("tasks and dialogues are {seen:?}");
    };
    if dialogues != 0 {
        findings.push(format!("{dialogues} dialogues are open"));
    }
    if tasks > most {
        findings.push(format!("{tasks} tasks, before {}", before.tasks));
    }
    let after = Footprint::measure(state)?;
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
