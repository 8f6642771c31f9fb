//! The machine as an auditor with root's rights sees it, from inside.

use anyhow::Context as _;
use data_encoding::BASE64;
use qemu::Deadline;

use super::State;
use crate::check::{Check, PASS, Verdict, check, fail};

/// The audit under emulation.
const AUDIT: u64 = 1200;

/// The least index: three below what was measured, since the auditor's list grows.
const FLOOR: u32 = 60;

/// Bytes of base64 that one script carries.
const PIECE: usize = 96 * 1024;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![check("lynis_index", &["R53"], lynis)]
}

/// lynis(8) is a tree of shell scripts. It is not in the image, so it comes in through the root shell, into memory.
fn lynis(state: &mut State) -> Verdict {
    let pack = "d=$(mktemp -d) && cp -r /usr/share/lynis/include /usr/share/lynis/db /usr/sbin/lynis \
        /etc/lynis/default.prf $d && mkdir $d/plugins && tar -C $d --owner=0 --group=0 -czf - .";
    let archive = state.world.lab().programs().output("sh", ["-c", pack])?;
    let text = BASE64.encode(&archive);
    let appliance = &mut state.resident.appliance;
    appliance.read("mkdir -p /run/audit && : >/run/audit/tree.b64")?;
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(PIECE));
        appliance.read(&format!("printf %s '{piece}' >>/run/audit/tree.b64"))?;
        rest = after;
    }
    let script = "cd /run/audit && base64 -d tree.b64 | tar xz && \
        timeout 1140 sh ./lynis audit system --quick --no-colors --quiet --logfile /run/audit/log --report-file /run/audit/report \
        >/run/audit/said 2>&1; cat /run/audit/report";
    let ran = appliance.machine.run(script, Deadline::seconds(AUDIT))?;
    let report = ran.stdout;
    fs_err::write(state.folder.join("lynis-report.txt"), &report)?;
    // With the time of each test.
    let log = state.resident.appliance.read("cat /run/audit/log; rm -r /run/audit")?;
    fs_err::write(state.folder.join("lynis.log"), &log)?;
    let index = index(&report).with_context(|| ran.stderr)?;
    state.note(&format!("lynis hardening index: {index}"))?;
    if index >= FLOOR { PASS } else { fail(format!("the index is {index}, below {FLOOR}")) }
}

/// The index in a report, whose lines are `name=value`.
fn index(report: &str) -> anyhow::Result<u32> {
    let index = report.lines().find_map(|line| line.strip_prefix("hardening_index="));
    let index = index.with_context(|| format!("lynis came to no index: {report}"))?;
    index.trim().parse().with_context(|| format!("reading lynis's index {index:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_a_line_of_the_report() {
        assert_eq!(index("os=Linux\nhardening_index=71\nfinish=true\n").unwrap(), 71);
        assert!(index("os=Linux\n").unwrap_err().to_string().contains("no index"));
        assert!(index("hardening_index=\n").is_err());
    }
}
