//! What is written about the appliance's work, and that it cannot fill the disk. Comes after everything else, since the
//! journal loses its past here.

use qemu::Deadline;

use super::State;
use crate::check::{Check, Verdict, check, none_of};

/// What the journal may take of the disk (`SystemMaxUse`), in KiB.
const MOST: u64 = 64 << 10;
/// The file that is being written comes on top of it: an eighth of that (journald.conf(5)).
const FILE: u64 = MOST / 8;
/// To write 96 MB on an emulated disk, in seconds.
const FILLED: u64 = 300;

/// 960 entries of 100 kB that cannot be compressed, by the journal's own protocol.
const FILL: &str = r#"python3 - <<'END'
import os, socket, struct
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.connect("/run/systemd/journal/socket")
for number in range(960):
    text = os.urandom(100_000)
    journal.send(b"PRIORITY=6\nSYSLOG_IDENTIFIER=filler\nMESSAGE\n" + struct.pack("<Q", len(text)) + text + b"\n")
END
journalctl --sync
du -sk /var/log/journal | cut -f 1
journalctl -t filler -o cat --output-fields=PRIORITY | wc -l"#;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("nothing_but_the_journal_is_kept", &["R33"], nothing_else),
        check("journal_stays_within_its_room", &["R33"], bounded),
    ]
}

/// All other files below /var/log that hold anything.
fn nothing_else(state: &mut State) -> Verdict {
    let script =
        "find /var/log /run/log -type f -size +0 ! -path '/var/log/journal/*' -printf '%p %s bytes\\n'";
    let output = state.resident.appliance.read(script)?;
    none_of(&output.lines().map(str::to_owned).collect::<Vec<_>>())
}

fn bounded(state: &mut State) -> Verdict {
    // It says its bound when it starts, and at its first start the disk may not have grown yet.
    let said = "systemctl restart systemd-journald && journalctl --sync && \
        journalctl -b -o cat -u systemd-journald | grep '^System Journal' | tail -n 1";
    let said = state.resident.appliance.read(said)?;
    let mut findings = Vec::new();
    if !said.contains("max 64M") {
        findings.push(format!("the journal's bound is not 64M: {said}"));
    }
    let output = state.resident.appliance.machine.run(FILL, Deadline::seconds(FILLED))?;
    let numbers = output.stdout.split_whitespace().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
    match numbers.as_slice() {
        // The early ones are gone, and a good part of what the room is for is there.
        [kept, entries] if *kept <= MOST + FILE && (300..960).contains(entries) => {}
        _ => findings.push(format!("KiB and entries of 960: {}{}", output.stdout, output.stderr)),
    }
    none_of(&findings)
}
