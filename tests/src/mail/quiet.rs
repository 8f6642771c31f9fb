//! What the firewall kept from leaving while nobody was made to try: no service asks for anything that it may not have.
//! And what the journal says in that time.
//!
//! Other checks make every user try. So the time is measured in stretches without them: from the start to the first
//! tries, and while mail is sent and read.

use anyhow::Context as _;
use serde_json::Value;

use super::State;
use crate::check::{Check, Verdict, check, fail, none_of};
use crate::journal;

/// Chains in which what leaves a program ends. Counters of `input` are about strangers.
const CHAINS: [&str; 3] = ["output", "tor_out", "loopback"];

/// What was dropped since the machine started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reading {
    /// Packets, exactly.
    counted: u64,
    /// What the kernel said of some of them (the rule logs six a minute).
    logged: Vec<String>,
}

/// The stretches measured so far.
#[derive(Default)]
pub(super) struct Quiet {
    start: Reading,
    /// The journal's place at the start (`__CURSOR`); `None`: the start of the machine.
    cursor: Option<String>,
    paused: bool,
    found: Vec<String>,
    /// Warnings of the journal that are not acceptable.
    warnings: Vec<String>,
}

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("no_service_asks_for_names", &["R6", "R43"], no_service_asks_for_names),
        check("journal_clean_in_use", &["R33"], journal_clean),
    ]
}

/// The stretch ends: from now on, checks make users try.
pub(super) fn pause(state: &mut State) -> anyhow::Result<()> {
    if !state.quiet.paused {
        let now = read(state)?;
        let after = state.quiet.cursor.as_ref().map_or(String::new(), |at| format!(" --after-cursor '{at}'"));
        let journal = state.resident.appliance.read(&format!("{}{after}", journal::WARNINGS))?;
        let quiet = &mut state.quiet;
        quiet.warnings.extend(journal::unacceptable_in_lab(&journal)?);
        quiet.found.extend(between(&quiet.start, &now));
        quiet.paused = true;
    }
    Ok(())
}

/// The next stretch begins.
pub(super) fn resume(state: &mut State) -> anyhow::Result<()> {
    if state.quiet.paused {
        state.quiet.start = read(state)?;
        let last = state.resident.appliance.read("journalctl -b -n 0 --show-cursor")?;
        let cursor = last.lines().find_map(|line| line.strip_prefix("-- cursor: "));
        state.quiet.cursor = Some(cursor.context("the journal says no place")?.to_owned());
        state.quiet.paused = false;
    }
    Ok(())
}

fn no_service_asks_for_names(state: &mut State) -> Verdict {
    pause(state)?;
    // Drops of another kind are no questions: an answer that came when nobody waited any more, for instance.
    let questions = state.quiet.found.iter().filter(|found| found.ends_with(" port 53"));
    let questions: Vec<_> = questions.cloned().collect();
    if !questions.is_empty() {
        return none_of(&questions);
    }
    // One question of the kind that is looked for must be seen, or the silence means nothing.
    let before = read(state)?;
    let ask = "setpriv --reuid=_rspamd --regid=_rspamd --clear-groups bash -c 'echo x >/dev/udp/127.0.0.1/53'; true";
    state.resident.appliance.read(ask)?;
    if between(&before, &read(state)?).is_empty() {
        return fail("a question of rspamd's user is dropped, and neither counted nor logged");
    }
    crate::check::PASS
}

/// From the start to the first tries, and while mail is sent and read, nothing warns but for a reason that is listed.
fn journal_clean(state: &mut State) -> Verdict {
    pause(state)?;
    let failed = state.resident.appliance.read("systemctl list-units --failed --no-legend --plain")?;
    let mut findings: Vec<_> = failed.lines().map(|line| format!("a unit failed: {line}")).collect();
    let mut warnings = state.quiet.warnings.clone();
    warnings.dedup();
    findings.extend(warnings);
    none_of(&findings)
}

fn read(state: &mut State) -> anyhow::Result<Reading> {
    let ruleset = state.resident.appliance.read("nft -j list table inet cipolla")?;
    let log = state.resident.appliance.read("journalctl -b -k -o cat -g '^nft (out|lo) drop: ' || true")?;
    Ok(Reading { counted: dropped(&ruleset)?, logged: log.lines().filter_map(told).collect() })
}

/// Packets that met a rule which counts and drops (libnftables-json(5)).
fn dropped(ruleset: &str) -> anyhow::Result<u64> {
    let ruleset: Value = serde_json::from_str(ruleset).context("reading nft's answer")?;
    let objects = ruleset["nftables"].as_array().context("nft's answer holds no list")?;
    let rules = objects.iter().map(|object| &object["rule"]);
    let rules = rules.filter(|rule| rule["chain"].as_str().is_some_and(|chain| CHAINS.contains(&chain)));
    let counters: Vec<u64> = rules
        .filter_map(|rule| rule["expr"].as_array())
        .filter(|statements| statements.iter().any(|statement| statement.get("drop").is_some()))
        .filter_map(|statements| {
            statements.iter().find_map(|statement| statement["counter"]["packets"].as_u64())
        })
        .collect();
    anyhow::ensure!(counters.len() >= CHAINS.len(), "only {} chains count what they drop", counters.len());
    Ok(counters.iter().sum())
}

/// Who wanted what, from a line of nft's log statement.
fn told(line: &str) -> Option<String> {
    let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)).unwrap_or("?");
    line.contains(" drop: ").then(|| {
        format!(
            "user {} sends {} to {} port {}",
            field("UID="),
            field("PROTO="),
            field("DST="),
            field("DPT=")
        )
    })
}

/// What was dropped in between: each kind that was logged, and how much it was in all.
fn between(before: &Reading, after: &Reading) -> Vec<String> {
    let count = after.counted.saturating_sub(before.counted);
    let logged = after.logged.get(before.logged.len()..).unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    for line in logged {
        if !found.contains(line) {
            found.push(line.clone());
        }
    }
    if count > 0 {
        found.push(format!("{count} packets of the appliance's own were dropped"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(packets: [u32; 3]) -> String {
        let rule = |(chain, packets): (&str, u32)| {
            format!(
                r#"{{"rule": {{"family": "inet", "table": "cipolla", "chain": "{chain}", "handle": 1,
                "expr": [{{"counter": {{"packets": {packets}, "bytes": 1}}}}, {{"drop": null}}]}}}}"#
            )
        };
        let rules: Vec<_> = CHAINS.into_iter().zip(packets).chain([("input", 7)]).map(rule).collect();
        format!(r#"{{"nftables": [{{"metainfo": {{"version": "1.1.3"}}}}, {}]}}"#, rules.join(", "))
    }

    #[test]
    fn what_leaves_programs_is_counted() {
        assert_eq!(dropped(&ruleset([0, 0, 0])).unwrap(), 0);
        assert_eq!(dropped(&ruleset([1, 2, 3])).unwrap(), 6);
        assert!(dropped(r#"{"nftables": []}"#).is_err());
    }

    #[test]
    fn who_asked_is_told() {
        let line = "nft lo drop: IN= OUT=lo SRC=127.0.0.1 DST=127.0.0.1 LEN=56 TOS=0x00 PREC=0x00 TTL=64 ID=1 DF \
                    PROTO=UDP SPT=40000 DPT=53 LEN=36 UID=815 GID=815 ";
        let said = told(line).unwrap();
        assert_eq!(said, "user 815 sends UDP to 127.0.0.1 port 53");
        let before = Reading { counted: 4, logged: vec!["earlier".into()] };
        assert_eq!(between(&before, &before), [] as [String; 0]);
        let after = Reading { counted: 6, logged: vec!["earlier".into(), said.clone(), said.clone()] };
        assert_eq!(between(&before, &after), [said, "2 packets of the appliance's own were dropped".into()]);
        // The log may be full; the counter is not.
        let after = Reading { counted: 5, ..before.clone() };
        assert_eq!(between(&before, &after).len(), 1);
    }
}
