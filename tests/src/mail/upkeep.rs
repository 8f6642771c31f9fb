//! What the appliance says of itself: its self-test, its watch over Tor, its digest, its record of integrity.

use qemu::{Deadline, Output};

use super::State;
use crate::check::{Check, PASS, Verdict, check, fail};

/// The self-test makes a dozen users wait for packets that are dropped, and refusals come late on purpose.
const SELFTEST: u64 = 600;
/// A look at all services, through Tor and back.
const LOOK: u64 = 300;
/// From the unit's start to the mailbox.
const DIGEST: u64 = 180;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("selftest_passes", &["R50"], selftest),
        check("watch_reaches_itself_through_tor", &["R33"], watch),
        check("watch_notices_a_dead_web_server", &["R33"], dead_web_server),
        check("watch_notices_a_service_that_is_not_published", &["R33"], unpublished),
        check("digest_reaches_the_owner", &["R33", "R21"], digest),
        check("integrity_notices_a_change", &["R47"], integrity),
    ]
}

fn run(state: &mut State, script: &str, seconds: u64) -> anyhow::Result<Output> {
    Ok(state.resident.appliance.machine.run(script, Deadline::seconds(seconds))?)
}

fn selftest(state: &mut State) -> Verdict {
    let output = run(state, "cipolla selftest", SELFTEST)?;
    // On this machine everything applies, so nothing may be skipped.
    let bad: Vec<_> = output.stdout.lines().filter(|line| !line.starts_with("ok ")).collect();
    let summary = format!("{} passed, 0 failed", output.stdout.lines().count().saturating_sub(2));
    if output.status.success() && bad == ["", &summary] {
        return PASS;
    }
    fail(bad.join("\n") + &output.stderr)
}

fn watch(state: &mut State) -> Verdict {
    // As the timer does it, in its sandbox, and then once more for what it says.
    let script =
        "systemctl start cipolla-watch.service && cat /run/cipolla/watch.json && cipolla watch --look";
    let output = run(state, script, LOOK)?;
    let reachable = output.stdout.matches("can be reached").count();
    if output.status.success() && reachable == 3 {
        return PASS;
    }
    fail(format!("{}{}", output.stdout, output.stderr))
}

/// The descriptor is there all the same: only who connects can know.
fn dead_web_server(state: &mut State) -> Verdict {
    let output = run(state, "systemctl stop nginx.service && cipolla watch --look", LOOK)?;
    run(state, "systemctl start nginx.service", LOOK)?;
    let mut lines = output.stdout.lines();
    let told = lines.any(|line| line.contains("client") && !line.contains("can be reached"));
    let others = output.stdout.matches("can be reached").count();
    if output.status.0 == 3 && told && others == 2 {
        return PASS;
    }
    fail(format!("{}: {}{}", output.status, output.stdout, output.stderr))
}

/// For a moment the admin service's public key is one of which no relay knows. Nobody connects to that service, so its
/// descriptor is all there is to look at.
const UNPUBLISH: &str = r#"
file=/var/lib/tor/admin/hs_ed25519_public_key
cp -a $file /run/kept && python3 - $file "$PEER" <<'END' || exit 9
import base64, sys
file, address = sys.argv[1:]
header = open(file, "rb").read()[:32]
open(file, "wb").write(header + base64.b32decode(address.removesuffix(".onion").upper())[:32])
END
cipolla watch --look; status=$?
cp -a /run/kept $file && rm /run/kept && exit $status"#;

fn unpublished(state: &mut State) -> Verdict {
    let output = run(state, &format!("PEER={}\n{UNPUBLISH}", crate::site::PEER), LOOK)?;
    let told = output.stdout.lines().any(|line| line.contains("admin") && line.contains("is not published"));
    let others = output.stdout.matches("can be reached").count();
    if output.status.0 == 3 && told && others == 2 {
        return PASS;
    }
    fail(format!("{}: {}{}", output.status, output.stdout, output.stderr))
}

fn digest(state: &mut State) -> Verdict {
    let script = "systemctl start cipolla-digest.service cipolla-alert.service || exit 1
        until grep -l '^Subject: Your mail server: ' /var/vmail/ada/Maildir/*/*; do sleep 1; done 2>/dev/null";
    let output = run(state, script, DIGEST)?;
    if output.status.success() {
        return PASS;
    }
    let journal = run(state, "journalctl -b -o cat -u cipolla-digest -u cipolla-alert", DIGEST)?;
    fail(format!("{}{}{}", output.stdout, output.stderr, journal.stdout))
}

fn integrity(state: &mut State) -> Verdict {
    let script = "systemctl start cipolla-integrity.service
        cipolla verify --accept --yes >/dev/null 2>&1
        cipolla verify && echo first 0
        echo x > /root/planted; cipolla verify; echo second $?
        rm /root/planted; cipolla verify --accept --yes >/dev/null 2>&1; cipolla verify >/dev/null; echo third $?";
    let output = run(state, script, DIGEST)?;
    let said = &output.stdout;
    if ["first 0", "/root/planted is new", "second 3", "third 0"].iter().all(|line| said.contains(line)) {
        return PASS;
    }
    fail(format!("{said}{}", output.stderr))
}
