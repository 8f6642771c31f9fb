//! The machine as an auditor with root's rights sees it, from inside.

use anyhow::{Context as _, bail};
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
        sh ./lynis audit system --quick --no-colors --quiet --logfile /run/audit/log --report-file /run/audit/report \
        >/run/audit/said 2>&1; cat /run/audit/report";
    let ran = appliance.machine.run(script, Deadline::seconds(AUDIT))?;
    let report = ran.stdout;
    fs_err::write(state.folder.join("lynis-report.txt"), &report)?;
    state.resident.appliance.read("rm -r /run/audit")?;
    let index = report.lines().find_map(|line| line.strip_prefix("hardening_index="));
    let Some(index) = index else { bail!("lynis came to no index: {report}{}", ran.stderr) };
    let index: u32 = index.trim().parse().with_context(|| format!("reading lynis's index {index:?}"))?;
    state.note(&format!("lynis hardening index: {index}"))?;
    if index >= FLOOR { PASS } else { fail(format!("the index is {index}, below {FLOOR}")) }
}
