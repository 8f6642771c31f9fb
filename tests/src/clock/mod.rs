//! One appliance whose clock is wrong: at the epoch, by hours, by years. It says so, nothing else leaves it, nothing is
//! lost, and it recovers by itself once the clock is right.
//!
//! The errors are real ones: a hardware clock without a battery, a time server that is silent, a clock set by hand. What
//! the Tor network knows of the time is that of this computer. Only clocks are wrong here, and in the last start the
//! firewall; wrong settings of the time are `first_boot_settings`'.

mod restart;
mod set;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clients::Smtp;
use qemu::{Deadline, Probe, TimeServer};

use crate::Context;
use crate::appliance::Appliance;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, check, fail, gate, none_of};
use crate::first_boot::identity;
use crate::site::PEER;
use crate::world::{Owner, Resident, World};

/// From a right clock to a reachable onion service.
const ONION: u64 = 300;

/// Until a time server that was silent is asked again: the client waits longer each time, up to some minutes.
const ASKED_AGAIN: u64 = 420;

/// Until something is said.
const TOLD: u64 = 150;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// So long Tor bears a clock that is behind, and more.
const BEARABLE: u64 = 2 * DAY;

/// How exact the clock has to be, in seconds. A guest's seconds pass unevenly on a busy computer.
const EXACT: u64 = 60;

/// What a server's certificate is checked against.
const CHAINS: [(&str, &str); 2] = [("mx.crt", "mx.crt"), ("client.crt", "ca.crt")];

/// For how many days a server certificate is used after it was made, and then renewed (`identity::tls`).
const USED: u64 = 397 - 31 - 30;

pub(crate) struct Clock;

/// Fields are dropped in this order.
pub(crate) struct State {
    resident: Resident,
    server: Option<TimeServer>,
    world: World,
    /// Its clocks at the end of its first start.
    clocks: [u64; 3],
    /// What makes the machine unlike all others, as it was with the wrong clock.
    identity: BTreeMap<String, String>,
    boot_id: String,
    /// What the last start is compared with.
    before: Option<restart::Before>,
}

impl Scenario for Clock {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "clock".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "one appliance whose clock is at the epoch, wrong by hours, wrong by years".into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let mut world = World::start(ctx, "clock")?;
        let owner = Owner { time_server: Some(qemu::GATEWAY), ..Owner::from("ada") };
        let resident = world.appliance_as(ctx, probe, "clock/a", owner, |spec| {
            spec.extra.extend(["-rtc", "base=1970-01-01T00:00:00"].map(Into::into));
        })?;
        Ok(State {
            resident,
            server: None,
            world,
            clocks: [0; 3],
            identity: BTreeMap::new(),
            boot_id: String::new(),
            before: None,
        })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<State>> {
        let wrong = vec![
            gate("boots_at_the_epoch", &["R49"], boots_at_the_epoch),
            check("wrong_clock_starts_at_image_time", &["R22"], starts_at_image_time),
            check("wrong_clock_makes_valid_certificates", &["R22"], certificates_are_valid),
            check("wrong_clock_is_told", &["R33"], is_told),
            check("only_the_clock_asks_for_the_time", &["R1", "R4", "R6"], only_the_clock_asks),
            check("mail_waits_for_the_clock", &["R38"], mail_waits),
        ];
        let right = vec![
            gate("time_server_sets_the_clock", &[], time_server_sets_the_clock),
            gate("tor_connects_with_the_right_time", &["R2"], greets),
            check("wrong_clock_recovers", &["R22", "R49"], recovers),
        ];
        vec![
            Phase::of(wrong),
            Phase::after(answer, right),
            Phase::after(set::fall_silent, set::checks()),
            Phase::after(restart::restart, restart::checks()),
        ]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        state.resident.evidence()
    }

    fn reach(&self, state: &State) -> Option<String> {
        Some(state.resident.appliance.machine.how_to_reach() + &state.world.lab().how_to_reach())
    }
}

/// This computer's time, in seconds since 1970.
fn now() -> anyhow::Result<u64> {
    Ok(SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("this computer's clock is before 1970")?
        .as_secs())
}

/// The hardware clock's time, the image's and the guest's, in seconds since 1970.
fn clocks(appliance: &mut Appliance) -> anyhow::Result<[u64; 3]> {
    let text =
        appliance.read("cat /sys/class/rtc/rtc0/since_epoch; stat -c %Y /usr/lib/clock-epoch; date +%s")?;
    let times = text.lines().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    times.try_into().map_err(|times| anyhow::anyhow!("there are no three times: {times:?}"))
}

/// Also hands in a message to nobody, which has to wait.
fn boots_at_the_epoch(state: &mut State) -> Verdict {
    let appliance = &mut state.resident.appliance;
    appliance.wait_boot()?;
    state.clocks = clocks(appliance)?;
    let ([_, image, _], now) = (state.clocks, now()?);
    if now < image + BEARABLE {
        // An image of yesterday starts with a clock that is nearly right.
        appliance.read(&format!("date -s @{} && systemctl restart tor@default", now - BEARABLE))?;
    }
    state.boot_id = appliance.read("cat /proc/sys/kernel/random/boot_id")?;
    state.identity = identity(appliance)?;
    // Tor holds a connection that it cannot make for two minutes before it gives it up (tor(1)). So long no test wants to
    // wait.
    ask_tor(appliance, "SETCONF SocksTimeout=15")?;
    write_to_nobody(state)?;
    PASS
}

/// Asks the appliance's Tor (control-spec) and returns its answer.
fn ask_tor(appliance: &mut Appliance, question: &str) -> anyhow::Result<String> {
    let script = format!(
        "python3 -c \"import socket
tor = socket.socket(socket.AF_UNIX)
tor.connect('/run/tor/control')
cookie = open('/run/tor/control.authcookie', 'rb').read().hex()
tor.sendall(f'AUTHENTICATE {{cookie}}\\r\\n{question}\\r\\nQUIT\\r\\n'.encode())
print(tor.makefile().read())\""
    );
    let answer = appliance.read(&script)?;
    if answer.matches("250 OK").count() == 2 { Ok(answer) } else { bail!("Tor says {answer}") }
}

/// A message from the owner to an onion service that does not exist.
fn write_to_nobody(state: &mut State) -> anyhow::Result<()> {
    let ada = format!("ada@{}", state.resident.onion("mx")?);
    let to = format!("later@{PEER}");
    let script =
        format!("printf 'From: <{ada}>\\nTo: <{to}>\\nSubject: later\\n\\nx\\n' | sendmail -f {ada} {to}");
    state.resident.appliance.read(&script).map(drop)
}

fn starts_at_image_time(state: &mut State) -> Verdict {
    let [hardware, image, guest] = state.clocks;
    if hardware > DAY {
        return fail(format!(
            "the hardware clock says {hardware}: it was not at the epoch, so nothing is shown"
        ));
    }
    if !(image..image + HOUR).contains(&guest) {
        return fail(format!("the clock says {guest}, the image was made at {image}"));
    }
    PASS
}

/// Why certificates are not valid at a time, by OpenSSL's word.
fn invalid(appliance: &mut Appliance, at: u64) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for (certificate, authority) in CHAINS {
        let script = format!(
            "cd /var/lib/cipolla/tls && openssl verify -attime {at} -CAfile {authority} {certificate} 2>&1"
        );
        let output = appliance.run(&script)?;
        if !output.status.success() {
            findings.push(format!("{certificate} is not valid at {at}: {}", output.stdout.trim()));
        }
    }
    Ok(findings)
}

/// At the wrong time and at the right one, as long as the image is not too old for that.
fn certificates_are_valid(state: &mut State) -> Verdict {
    let appliance = &mut state.resident.appliance;
    let [_, image, guest] = clocks(appliance)?;
    let mut findings = invalid(appliance, guest)?;
    let now = now()?;
    if now < image + USED * DAY {
        findings.extend(invalid(appliance, now)?);
    }
    none_of(&findings)
}

/// Waits until the status says this of the clock, and returns it.
fn status_saying(state: &mut State, words: &str) -> anyhow::Result<String> {
    let script = format!(
        "for n in $(seq {TOLD}); do s=$(cipolla status); case $s in *'{words}'*) break ;; esac; sleep 1; done; echo \"$s\""
    );
    let output = state.resident.appliance.machine.run(&script, Deadline::seconds(2 * TOLD))?;
    if output.stdout.contains(words) {
        return Ok(output.stdout);
    }
    bail!("in {TOLD} s the status does not say {words:?}: {}{}", output.stdout, output.stderr)
}

/// In the status, in the self-test, and on the console, where an owner looks whom Tor does not let in.
fn is_told(state: &mut State) -> Verdict {
    let words = "the clock is behind by ";
    let status = status_saying(state, words)?;
    let mut findings = Vec::new();
    let advice = format!("The time servers are {}: do they answer", qemu::GATEWAY);
    if !status.contains(&advice) {
        findings.push(format!("the status does not say {advice:?}: {status}"));
    }
    let selftest = state.resident.appliance.run("cipolla selftest clock_sane")?;
    if selftest.status.success() || !selftest.stdout.contains(words) {
        findings.push(format!("the self-test says {}{}", selftest.stdout, selftest.stderr));
    }
    // As the timer does it two minutes after the start.
    state.resident.appliance.read("systemctl start cipolla-watch.service")?;
    state.resident.appliance.machine.wait_for("! the clock is behind by ", Deadline::seconds(TOLD))?;
    none_of(&findings)
}

/// Every user tries to reach the time server, and that of the clock another one. What they send is no question, so it
/// would be told from the clock's own. `OTHER` is a relay.
const TRY_TO_LEAK: &str = r#"
while IFS=: read -r user _ uid gid _; do
  (
    ask="echo leak >/dev/udp/$SERVER/123"
    [ "$user" = systemd-timesync ] && ask=:
    setpriv --reuid="$uid" --regid="$gid" --clear-groups timeout 3 bash -c "$ask; echo leak >/dev/udp/$OTHER/123" 2>/dev/null
    echo "$user tried"
  ) &
done </etc/passwd
wait"#;

fn only_the_clock_asks(state: &mut State) -> Verdict {
    let (server, other) = (qemu::GATEWAY, *state.world.relay()?.ip());
    let users = state.resident.appliance.read("wc -l </etc/passwd")?;
    let tried = state.resident.appliance.read(&format!("SERVER={server} OTHER={other}\n{TRY_TO_LEAK}"))?;
    if tried.lines().count().to_string() != users.trim() {
        return fail(format!("of {} users these tried: {}", users.trim(), tried.replace('\n', ", ")));
    }
    let tally = state.world.judge(&state.resident)?;
    let mut findings = tally.findings;
    for (count, what) in [(tally.time, "questions for the time"), (tally.tor, "packets to relays")] {
        if count == 0 {
            findings.push(format!("there are no {what}, so nothing is shown"));
        }
    }
    none_of(&findings)
}

/// Deferred, and not returned to its sender.
fn mail_waits(state: &mut State) -> Verdict {
    let script = "for n in $(seq 160); do postqueue -j | grep -q delay_reason && break; sleep 1; done; postqueue -j; \
        grep -rl 'Undelivered' /var/vmail/ada/Maildir 2>/dev/null; postsuper -d ALL 2>/dev/null";
    let said = state.resident.appliance.machine.run(script, Deadline::seconds(2 * TOLD))?.stdout;
    let connected = state.resident.appliance.run("cipolla selftest tor_is_connected")?;
    let mut findings = Vec::new();
    if !said.contains("\"queue_name\": \"deferred\"") || said.contains("Maildir") {
        findings.push(format!("the message is not deferred: {said}"));
    }
    if connected.status.success() {
        findings.push("Tor is connected, so nothing is shown".to_owned());
    }
    none_of(&findings)
}

fn answer(state: &mut State) -> anyhow::Result<()> {
    state.server = Some(TimeServer::start(state.world.lab())?);
    Ok(())
}

fn time_server_sets_the_clock(state: &mut State) -> Verdict {
    let deadline = Deadline::seconds(ASKED_AGAIN);
    loop {
        let [_, _, guest] = clocks(&mut state.resident.appliance)?;
        if guest.abs_diff(now()?) <= EXACT {
            return PASS;
        }
        if deadline.left().is_none() {
            return fail(format!(
                "the clock still says {guest}, {ASKED_AGAIN} s after the server began to answer"
            ));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// So many circuits to introduction points a service has: three for each of its two descriptors.
const INTRODUCTIONS: usize = 6;

/// Waits until the mail server can be reached, as far as its own Tor knows, and says whether that is so. A stranger who
/// comes while its circuits are made anew believes for two minutes that all its introduction points are dead
/// (`HS_CACHE_CLIENT_INTRO_STATE_MAX_AGE` of Tor).
fn is_introduced(state: &mut State) -> anyhow::Result<bool> {
    let onion = state.resident.onion("mx")?;
    let name = onion.trim_end_matches(".onion");
    let deadline = Deadline::seconds(TOLD);
    while deadline.left().is_some() {
        // A Tor that is being started anew does not answer.
        let circuits = ask_tor(&mut state.resident.appliance, "GETINFO circuit-status").unwrap_or_default();
        let ready = |line: &&str| line.contains(name) && line.contains("HSSI_ESTABLISHED");
        if circuits.lines().filter(ready).count() >= INTRODUCTIONS {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(false)
}

/// The mail server greets a stranger through Tor.
fn greets(state: &mut State) -> Verdict {
    if !is_introduced(state)? {
        return fail(format!("in {TOLD} s the mail server has no introduction points"));
    }
    let onion = state.resident.onion("mx")?;
    let channel = state.world.connect_anew("stranger", &onion, 25, Deadline::seconds(ONION))?;
    let (mut smtp, greeting) = Smtp::greeted(channel)?;
    smtp.command("QUIT")?;
    if greeting.code == 220 { PASS } else { fail(format!("the mail server says {greeting}")) }
}

/// Without a restart, nothing is another one, and nothing is complained about any more.
fn recovers(state: &mut State) -> Verdict {
    let appliance = &mut state.resident.appliance;
    let mut findings = changed(appliance, &state.identity)?;
    findings.extend(invalid(appliance, now()?)?);
    if appliance.read("cat /proc/sys/kernel/random/boot_id")? != state.boot_id {
        findings.push("the machine was restarted".to_owned());
    }
    findings.extend(complaints(appliance)?);
    none_of(&findings)
}

/// What is another one than before, but systemd's own seed.
fn changed(appliance: &mut Appliance, before: &BTreeMap<String, String>) -> anyhow::Result<Vec<String>> {
    let after = identity(appliance)?;
    let other = before
        .iter()
        .filter(|(path, sum)| after.get(*path) != Some(sum) && *path != "/var/lib/systemd/random-seed");
    Ok(other.map(|(path, _)| format!("{path} is another one, or gone")).collect())
}

/// Who still says that the clock is wrong.
fn complaints(appliance: &mut Appliance) -> anyhow::Result<Vec<String>> {
    let said = appliance.run(
        "systemctl start cipolla-watch.service; cat /run/cipolla/notice 2>/dev/null; cipolla status | grep clock; \
         cipolla selftest clock_sane",
    )?;
    let wrong = ["clock is", "clock may"].iter().any(|words| said.stdout.contains(words));
    let good = said.status.success() && said.stdout.contains("1 passed");
    Ok(if good && !wrong { Vec::new() } else { vec![said.stdout + &said.stderr] })
}
