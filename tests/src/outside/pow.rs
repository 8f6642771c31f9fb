//! Proof of work at the onion services, as a client of the Tor network gets to know it.

use std::path::Path;

use qemu::Deadline;

use super::{ONION, State};
use crate::check::{Verdict, none_of};

/// What Tor 0.4.9 says when it is about to introduce itself and the descriptor that it has fetched and decrypted has a
/// line `pow-params` (rend-spec, "Proof-of-work parameters").
const SAID: &str = "PoW params present in descriptor";

/// The Tor of the lab on its control socket, in seconds.
const SOON: u64 = 30;

/// The program can do it, and the descriptors of both open services offer it to strangers.
pub(super) fn proof_of_work_is_offered(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    let modules = state.resident.appliance.read("tor --list-modules")?;
    if !modules.lines().any(|line| line.trim() == "pow: yes") {
        findings.push(format!("Tor was built without proof of work: {modules}"));
    }
    let log = state.world.client()?.log_onions(Deadline::seconds(SOON))?;
    for (service, port) in [("mx", 25), ("client", 80)] {
        let onion = state.resident.onion(service)?;
        let before = times_said(&log)?;
        // Nothing is left of what other connections learnt.
        let circuit = format!("work for {service}");
        state.world.connect_anew(&circuit, &onion, port, Deadline::seconds(ONION))?;
        if times_said(&log)? == before {
            findings.push(format!("the descriptor of {service} has no pow-params"));
        }
    }
    none_of(&findings)
}

fn times_said(log: &Path) -> anyhow::Result<usize> {
    Ok(fs_err::read_to_string(log)?.matches(SAID).count())
}
