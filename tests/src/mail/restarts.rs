//! What a stop does: servers die, Tor cannot be started. Comes last, since an onion service needs minutes to be found
//! again.

use qemu::Deadline;

use super::State;
use crate::check::{Check, PASS, Verdict, check, fail, none_of};

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("killed_servers_come_back", &[], killed_servers),
        check("watch_acts_in_steps_and_reports", &["R33"], watch_acts),
    ]
}

/// The main process of each server is killed, as the kernel does when memory is short; all of them at once.
const KILL: &str = r#"
units='postfix dovecot nginx php8.4-fpm rspamd fail2ban tor@default'
for unit in $units; do
  systemctl show -P MainPID $unit.service >/run/before.$unit
done
for unit in $units; do
  kill -KILL "$(cat /run/before.$unit)" || echo "$unit has no main process"
done
for unit in $units; do
  before=$(cat /run/before.$unit)
  for n in $(seq 240); do
    now=$(systemctl show -P MainPID $unit.service)
    test "$now" != "$before" && test "$now" != 0 && systemctl -q is-active $unit.service && break
    sleep 0.5
  done
  systemctl -q is-active $unit.service && test "$now" != "$before" || echo "$unit stays away: $(systemctl is-active $unit.service)"
done"#;

fn killed_servers(state: &mut State) -> Verdict {
    let output = state.resident.appliance.machine.run(KILL, Deadline::seconds(600))?;
    none_of(&output.stdout.lines().map(str::to_owned).collect::<Vec<_>>())
}

/// A Tor that does not answer and cannot be started, then one that can. `later` lets the watch believe that time has
/// passed, by moving what it remembers back.
const WATCH: &str = r#"
later() {
  python3 - "$1" <<'END'
import json, sys
file = "/run/cipolla/watch.json"
memory, by = json.load(open(file)), int(sys.argv[1]) * 60
for one, key in [(memory["trouble"], "since"), (memory["trouble"], "step_at")] + [(t, "at") for t in memory["taken"]]:
    one[key] -= by
json.dump(memory, open(file, "w"))
END
  echo "$1 minutes later: $(cipolla watch 2>&1 | tr '
' ' ')"
}
systemctl stop cipolla-watch.timer cipolla-watch.service
systemctl mask --runtime --now tor@default.service 2>/dev/null
echo "at first: $(cipolla watch 2>&1 | tr '
' ' ')"
later 5; later 16; cipolla status | grep -o 'restarting Tor did not help'
systemctl unmask --runtime tor@default.service 2>/dev/null
later 370; systemctl is-active tor@default.service
systemctl start cipolla-watch.timer"#;

fn watch_acts(state: &mut State) -> Verdict {
    let output = state.resident.appliance.machine.run(WATCH, Deadline::seconds(600))?;
    let said: Vec<&str> = output.stdout.lines().collect();
    let wanted = [
        "at first: Tor does not answer",
        "5 minutes later: Tor does not answer",
        "16 minutes later: Tor does not answer",
        "restarting Tor did not help",
        "370 minutes later: Tor does not answer",
        "active",
    ];
    let steps = [(1, "restarting Tor"), (2, "telling the owner"), (4, "restarting Tor")];
    let begins =
        said.len() == wanted.len() && said.iter().zip(wanted).all(|(said, want)| said.starts_with(want));
    if begins && steps.iter().all(|(line, step)| said[*line].contains(step)) && !said[0].contains("ing Tor") {
        return PASS;
    }
    fail(format!("{}{}", output.stdout, output.stderr))
}
