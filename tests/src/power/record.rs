//! The one run whose writes are recorded: first start, mail, changes of settings.

use anyhow::{Context as _, anyhow, ensure};
use qemu::Deadline;

use super::State;
use super::judge::STATE;
use crate::appliance::{self, Appliance};
use crate::check::{Check, PASS, Verdict, check, gate};

/// What happens in the guest.
const GUEST: &str = include_str!("guest.py");

/// An onion that does not answer, with a valid address.
const PEER: &str = "6cx7sjpdtukjlquxhytwsbwzi5uoitgk5twn7z3ocu3foa7ipqbbxiad.onion";

/// The password of the second mailbox, `bob`.
const PASSWORD: &str = "four ordinary lantern Umbrellas";

/// For how long mail comes, in seconds.
const MAIL: &str = "20";

/// How often the five kinds of change are made.
const ROUNDS: &str = "2";

/// How long QEMU may take to end.
const END: u64 = 60;

/// Switches the machine on, with a record.
pub(super) fn start(state: &mut State) -> anyhow::Result<()> {
    let settings = appliance::settings(&state.settings);
    let started = Appliance::spawn_as(&state.ctx, &state.probe, state.run_dir.clone(), |spec| {
        spec.credentials.push(settings);
        spec.record_writes = true;
    });
    state.recorded = Some(started.context("starting the machine")?);
    Ok(())
}

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        gate("boots_while_recorded", &[], |state: &mut State| {
            recorded(state)?.wait_boot()?;
            PASS
        }),
        gate("mail_comes_while_recorded", &[], |state: &mut State| guest(state, "mail", &[PASSWORD, MAIL])),
        gate("settings_change_while_recorded", &[], |state: &mut State| guest(state, "changes", &[ROUNDS])),
        check("journal_is_clean_while_recorded", &[], |state: &mut State| {
            super::after::file_system_is_silent(recorded(state)?)
        }),
    ]
}

/// Ends the machine; the record is then whole.
pub(super) fn end(state: &mut State) -> anyhow::Result<()> {
    if let Some(appliance) = state.recorded.take() {
        appliance.machine.freeze(Deadline::seconds(END))?;
    }
    Ok(())
}

fn recorded(state: &mut State) -> anyhow::Result<&mut Appliance> {
    state.recorded.as_mut().ok_or_else(|| anyhow!("no machine is up"))
}

/// Runs a part of the guest's program.
fn guest(state: &mut State, part: &str, arguments: &[&str]) -> Verdict {
    let appliance = recorded(state)?;
    let mx = appliance.read("cat /var/lib/tor/mx/hostname")?;
    let words = [&[part, mx.trim(), PEER], arguments, &STATE].concat();
    // None of them holds a quotation mark.
    ensure!(words.iter().all(|word| !word.contains('\'')), "a word of the guest's program cannot be quoted");
    let line: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let output = appliance.run(&format!("python3 - {} <<'END'\n{GUEST}\nEND", line.join(" ")))?;
    if output.status.success() {
        return PASS;
    }
    Ok(Err(format!("{}: {}{}", output.status, output.stdout, output.stderr)))
}
