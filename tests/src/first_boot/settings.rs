//! Settings that are wrong: the appliance stays offline and explains; corrected, it comes up.
//!
//! The machine has a network card, with nobody behind it, and radios, so that "offline" means something.

use std::borrow::Cow;

use data_encoding::BASE64;
use qemu::{Deadline, Nic, Probe, RunDir};

use super::cases::{self, PASSPHRASE};
use super::wifi;
use crate::Context;
use crate::appliance::{self, Appliance};
use crate::check::{Check, Evidence, PASS, Phase, Scenario, Verdict, check, fail, gate, none_of};

/// How long an orderly shutdown may take.
const POWER_OFF: u64 = 180;

/// Something that is in the owner's corrected file and nowhere else.
const NOTE: &str = "a note of the owner: 7f3a90c1d2e84b5566";

/// Programs that face the network, by the names of their processes (`proc_pid_comm(5)`: 15 characters).
const FACING: [&str; 8] =
    ["tor", "obfs4proxy", "master", "nginx", "dovecot", "sshd", "rspamd", "systemd-network"];

pub(crate) struct WrongSettings;

pub(crate) struct State {
    ctx: Context,
    probe: Probe,
    run_dir: RunDir,
    appliance: Appliance,
}

fn cards(spec: &mut qemu::MachineSpec) {
    spec.nics = vec![Nic::User { restrict: true }];
    spec.credentials.extend(wifi::radios());
}

impl Scenario for WrongSettings {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "first_boot_settings".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "wrong settings keep the appliance offline and are explained; corrected on the boot partition, it comes up"
            .into()
    }

    fn start(&self, ctx: &Context, probe: &Probe) -> anyhow::Result<State> {
        let run_dir = RunDir::create(&ctx.run_root.join("first_boot_settings"))?;
        let appliance = Appliance::spawn_as(ctx, probe, run_dir.clone(), |spec| {
            cards(spec);
            spec.credentials.push(appliance::settings(&cases::everything().0));
        })?;
        Ok(State { ctx: ctx.clone(), probe: probe.clone(), run_dir, appliance })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<State>> {
        let wrong = vec![
            gate("boots_with_wrong_settings", &["R49"], |state: &mut State| {
                state.appliance.wait_boot()?;
                PASS
            }),
            check("bad_settings_stay_offline_and_explain", &["R49"], stays_offline_and_explains),
            check("bad_settings_make_no_key", &["R49"], makes_no_key),
            check("every_setting_is_explained", &["R49"], every_setting),
            check("every_kind_of_file_is_explained", &["R49"], every_kind_of_file),
        ];
        let corrected = vec![
            gate("boots_with_corrected_settings", &["R49"], |state: &mut State| {
                state.appliance.wait_boot()?;
                PASS
            }),
            check("corrected_settings_take_effect", &["R49"], take_effect),
            check("settings_wiped_from_fat", &["R49"], wiped),
            radio("wifi_joins_the_settings_network", &["R49"], wifi::joins),
            radio("wifi_waits_for_the_firewall", &["R1"], wifi::waits_for_firewall),
            radio(
                "wifi_carries_only_dhcp_and_tor",
                &["R1", "R4", "R5", "R6"],
                wifi::carries_only_dhcp_and_tor,
            ),
            radio("wifi_wrong_passphrase_stays_out", &["R49"], wifi::wrong_passphrase_stays_out),
            radio(
                "wifi_joins_hidden_wpa3_with_fixed_address",
                &["R49"],
                wifi::joins_hidden_wpa3_with_fixed_address,
            ),
            radio("wifi_passphrases_stay_secret", &["R42", "R49"], wifi::passphrases_stay_secret),
            radio("wifi_fails_closed", &["R1"], wifi::fails_closed),
        ];
        vec![Phase::of(wrong), Phase::after(correct, corrected)]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        state.appliance.evidence()
    }

    fn reach(&self, state: &State) -> Option<String> {
        Some(state.appliance.machine.how_to_reach())
    }
}

/// A check of the machine's radio.
fn radio(
    name: &'static str,
    requirements: &'static [&'static str],
    run: fn(&mut Appliance) -> Verdict,
) -> Check<State> {
    check(name, requirements, move |state: &mut State| run(&mut state.appliance))
}

/// Runs `inside` with the boot partition at `/run/cipolla-test/boot`.
fn on_boot_partition(options: &str, inside: &str) -> String {
    format!(
        "set -e
mkdir -p -m 0700 /run/cipolla-test/boot
mount -o {options} /dev/disk/by-partlabel/boot /run/cipolla-test/boot
trap 'umount /run/cipolla-test/boot' EXIT
cd /run/cipolla-test/boot
{inside}
cd /"
    )
}

fn stays_offline_and_explains(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    let errors = state.appliance.read(&on_boot_partition("ro", "cat ERRORS.txt"))?;
    let console = state.appliance.machine.console().text();
    // Its getty waits for the graphics driver, and is later than that of the serial console. (Lines that were too long go
    // on in the next one.)
    let screen = state
        .appliance
        .read("for n in $(seq 120); do grep -q 'login: ' /dev/vcs1 && break; sleep 1; done; cat /dev/vcs1")?;
    let explanations = cases::everything().1;
    for (place, text) in [("the console", &console), ("the screen", &screen), ("ERRORS.txt", &errors)] {
        for explanation in &explanations {
            let line = format!("credential cipolla.settings{explanation}");
            if !text.contains(&line) {
                findings.push(format!("{place} does not say {line:?}"));
            }
        }
        if text.contains(PASSPHRASE) {
            findings.push(format!("{place} quotes the passphrase"));
        }
    }
    let appliance = &mut state.appliance;
    let links = appliance.read("ip -brief link | grep -v '^lo '")?;
    if links.trim().is_empty() {
        findings.push("the machine has no network card, so nothing is shown".to_owned());
    }
    findings
        .extend(links.lines().filter(|l| l.contains("UP")).map(|line| format!("an interface is up: {line}")));
    let ruleset = appliance.read("nft list ruleset")?;
    for hook in ["input", "output", "forward"] {
        let closed = |line: &str| line.contains(&format!("hook {hook} ")) && line.contains("policy drop");
        if !ruleset.lines().any(closed) {
            findings.push(format!("the firewall does not drop what comes by {hook}"));
        }
    }
    let running = appliance.read("cat /proc/[0-9]*/comm 2>/dev/null; true")?;
    if !running.lines().any(|name| name == "systemd-journal") {
        findings.push("there is no list of processes".to_owned());
    }
    let facing = running.lines().filter(|name| FACING.contains(name));
    findings.extend(facing.map(|name| format!("running: {name}")));
    let failed = appliance.read("systemctl show -P ActiveState cipolla-boot.service")?;
    if failed.trim() != "failed" {
        findings.push(format!("cipolla-boot.service is {}", failed.trim()));
    }
    none_of(&findings)
}

fn makes_no_key(state: &mut State) -> Verdict {
    let made = "find /var/lib/tor /var/lib/cipolla /etc/ssh -name 'hs_*' -o -name '*.pem' -o -name '*.key' -o -name \
                'ssh_host*' -o -name htpasswd -o -name users -o -path '*/credentials/*' -o -name complete -o -name \
                settings.toml 2>/dev/null; true";
    let made = state.appliance.read(made)?;
    none_of(&made.lines().map(|path| format!("{path} was made")).collect::<Vec<_>>())
}

/// What `cipolla settings check` says to each of these files, with its exit status in front.
fn check_files(state: &mut State, files: &[Vec<u8>]) -> anyhow::Result<Vec<String>> {
    let mut script = "mkdir -p /run/cipolla-test && cd /run/cipolla-test\n".to_owned();
    for file in files {
        script += &format!(
            "echo '{}' | base64 -d >cipolla.toml\ncipolla settings check cipolla.toml 2>&1; echo \"status $?\"\necho =====\n",
            BASE64.encode(file)
        );
    }
    let said = state.appliance.read(&script)?;
    Ok(said.split("=====\n").map(str::to_owned).filter(|text| !text.is_empty()).collect())
}

fn judge(state: &mut State, cases: &[cases::Case]) -> Verdict {
    let files: Vec<_> = cases.iter().map(|case| case.file.to_vec()).collect();
    let answers = check_files(state, &files)?;
    let mut findings = Vec::new();
    if answers.len() != cases.len() {
        return fail(format!("{} files got {} answers", cases.len(), answers.len()));
    }
    for (case, answer) in cases.iter().zip(&answers) {
        if let Some(problem) = case.judge(answer) {
            findings.push(problem);
        }
    }
    none_of(&findings)
}

fn every_setting(state: &mut State) -> Verdict {
    judge(state, &cases::settings())
}

fn every_kind_of_file(state: &mut State) -> Verdict {
    let verdict = judge(state, &cases::files())?;
    // Too large to be sent.
    let large = "cd /run/cipolla-test && head -c 10485760 /dev/zero | tr '\\0' '#' >cipolla.toml && cipolla settings \
                 check cipolla.toml; code=$?; rm cipolla.toml; exit $code";
    let output = state.appliance.run(large)?;
    if output.status.0 != 2 || !output.stdout.contains("cipolla.toml: the file has 10240 KiB") {
        return fail(format!("10 MiB: {}: {}{}", output.status, output.stdout.trim(), output.stderr.trim()));
    }
    Ok(verdict)
}

/// Writes what the owner should have written to the boot partition, and starts the machine without credential.
fn correct(state: &mut State) -> anyhow::Result<()> {
    let wifi = wifi::section().replace('\n', "\r\n");
    let text = format!("\u{feff}# {NOTE}\r\n[owner]\r\nmailbox = \"grace\"\r\n{wifi}");
    let write = format!("echo '{}' | base64 -d >cipolla.toml\nsync", BASE64.encode(text.as_bytes()));
    state.appliance.read(&on_boot_partition("rw", &write))?;
    state.appliance.machine.power_off(Deadline::seconds(POWER_OFF))?;
    state.appliance = Appliance::spawn_as(&state.ctx, &state.probe, state.run_dir.clone(), |spec| {
        cards(spec);
        appliance::again(spec);
    })?;
    Ok(())
}

fn take_effect(state: &mut State) -> Verdict {
    let appliance = &mut state.appliance;
    let mut findings = Vec::new();
    let users = appliance.read("cipolla user list")?;
    if !users.contains("grace") {
        findings.push(format!("the mailboxes are: {}", users.trim()));
    }
    let accepted = appliance.read("cat /var/lib/cipolla/private/settings.toml")?;
    if !accepted.contains(NOTE) {
        findings.push("the accepted settings are not the owner's".to_owned());
    }
    let links = appliance.read("ip -brief -4 address | grep -v '^lo '")?;
    if !links.contains("UP") {
        findings.push(format!("no interface is up: {}", links.trim()));
    }
    for service in ["tor@default", "postfix", "dovecot", "nginx", "nftables", "systemd-networkd"] {
        let state = appliance.run(&format!("systemctl is-active {service}.service"))?;
        if !state.status.success() {
            findings.push(format!("{service} is {}", state.stdout.trim()));
        }
    }
    none_of(&findings)
}

/// Not a byte of them is left on the boot partition, nor is the explanation; the data partition has them for
/// root alone.
fn wiped(state: &mut State) -> Verdict {
    let appliance = &mut state.appliance;
    let names = appliance.read(&on_boot_partition("ro", "ls -A"))?;
    let mut findings = Vec::new();
    for name in ["cipolla.toml", "cipolla.accepted", "ERRORS.txt"] {
        if names.lines().any(|line| line.eq_ignore_ascii_case(name)) {
            findings.push(format!("{name} is still on the boot partition"));
        }
    }
    let look = |what: &str| {
        format!("sync; echo 3 >/proc/sys/vm/drop_caches; grep -zaqF '{what}' /dev/disk/by-partlabel/boot")
    };
    if appliance.run(&look(NOTE))?.status.success() {
        findings.push("the settings can still be read from the boot partition's blocks".to_owned());
    }
    // The sieve is not blind.
    if !appliance.run(&look("Webmail, in Tor Browser"))?.status.success() {
        findings.push("WELCOME.txt was not found, so nothing could have been".to_owned());
    }
    let mode =
        appliance.read("stat -c '%a %U' /var/lib/cipolla/private /var/lib/cipolla/private/settings.toml")?;
    if mode.lines().ne(["700 root", "600 root"]) {
        findings.push(format!("the accepted settings are: {}", mode.replace('\n', ", ")));
    }
    none_of(&findings)
}
