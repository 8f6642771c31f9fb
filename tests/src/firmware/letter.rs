//! A letter to the owner of a machine that nobody has set up and that has no network, over a restart in order. (What a
//! power cut does to mail is for the scenarios `power` and `exchange`.)

use super::{State, first};
use crate::check::{PASS, Verdict, fail};
use crate::left::checksums;

/// Somebody on the machine writes to its owner.
pub(super) fn arrives(state: &mut State) -> Verdict {
    let script = "to=$(basename /var/vmail/*)@$(cat /var/lib/tor/mx/hostname)
        printf 'Subject: soup\\n\\nis ready\\n' | sendmail \"$to\"
        for n in $(seq 120); do grep -rlx 'Subject: soup' /var/vmail/*/Maildir/new && exit; sleep 0.5; done
        postqueue -p; false";
    let output = state.appliance.run(script)?;
    if output.status.success() { PASS } else { fail(output.stdout + &output.stderr) }
}

pub(super) fn survives_reboot(state: &mut State) -> Verdict {
    let script = "find /data/var/vmail -type f -path '*/Maildir/new/*' -exec sha256sum {} +";
    let now = checksums(&state.appliance.read(script)?);
    let before = &first(state)?.files;
    if now.len() == 1 && now.iter().all(|(path, sum)| before.get(path) == Some(sum)) {
        return PASS;
    }
    fail(format!("after the restart there is {now:?}"))
}
