//! How long an appliance's first start is held up by the agent, and what the machine costs afterwards: part of
//! `cargo xtask bench`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use build::tools;
use camino::Utf8Path;
use qemu::{Credential, Deadline, Disk, Keep, Lab, Machine, MachineSpec, RunDir, TorNetwork};
use recipe::Plan;
use serde::Serialize;

use crate::cli::Common;
use crate::costs::{self, Costs};
use crate::verbs::{self, Site};

/// What it may take, in seconds, emulated too.
const LIMIT: f64 = 5.0;
/// The smallest disk that owners are told to use.
const DISK: u64 = 6 << 30;
/// From power-on to the end of the boot, in seconds, beside a busy neighbour.
const BOOT: u64 = 600;
/// Until the Tor network of the lab has a consensus, in seconds.
const TOR: u64 = 240;

/// Waits until all is well by the appliance's own judgement, its onion services are reachable, and a minute of quiet.
const CONNECTED: &str = r#"for try in $(seq 120); do
    systemctl start cipolla-watch.service
    cipolla status >/dev/null && break
    sleep 2
done
cipolla status || exit 1
sleep 60"#;

/// When systemd began to start the unit and when it was up, in microseconds since the kernel started, and what the
/// agent did in between.
const ASK: &str = r#"systemctl is-system-running --wait >/dev/null
systemctl show -P InactiveExitTimestampMonotonic cipolla-boot.service
systemctl show -P ActiveEnterTimestampMonotonic cipolla-boot.service
journalctl -b -u cipolla-boot.service -o cat --no-pager | grep -c ': done$'
journalctl -b -u cipolla-boot.service -o json --no-pager | grep 'mark the identity as complete: done' |
    sed 's/.*"__MONOTONIC_TIMESTAMP":"\([0-9]*\)".*/\1/'"#;

/// The agent's part of a first start.
#[derive(Debug, Serialize)]
pub(crate) struct FirstStart {
    /// Why the machine was accelerated, or was not.
    machine: String,
    /// From the start of `cipolla-boot.service` until the identity was complete.
    seconds: f64,
    limit: f64,
    /// Until the unit was up: with the configuration rendered, and accepted by the programs that it is for.
    until_up: f64,
    /// How many things it made.
    actions: u32,
    /// What the machine costs once it is up.
    costs: Option<Costs>,
}

impl FirstStart {
    fn is_within_limit(&self) -> bool {
        self.seconds <= self.limit
    }

    pub(crate) fn verdict(&self) -> ExitCode {
        let within = self.is_within_limit() && self.costs.as_ref().is_none_or(Costs::is_within_limits);
        if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// For the person who reads the table.
    pub(crate) fn line(&self) -> String {
        let word = if self.is_within_limit() { "within" } else { "OVER" };
        let Self { seconds, limit, until_up, actions, machine, costs } = self;
        let costs = costs.as_ref().map(Costs::lines).unwrap_or_default();
        format!(
            "first boot: complete identity after {seconds:.2} s of agent time, {word} the limit of {limit} s; \
             {until_up:.2} s for all {actions} things made\n  {machine}\n{costs}"
        )
    }
}

/// Boots the image on a fresh disk, in a lab with a Tor network, and asks systemd.
pub(crate) fn measure(site: &Site, common: &Common, plan: &Plan, image: &Utf8Path) -> Result<FirstStart> {
    let folder = image.parent().context("an image lies in a folder")?;
    let run_root = verbs::run_root(site)?;
    let lab = verbs::space(site, common, plan, tools::LAB, &[folder, &run_root])?;
    let programs = verbs::programs(site, &lab);
    let arch = verbs::arch(site.arch);
    let probe = qemu::probe(&programs, arch, run_root.as_std_path(), image.as_std_path());
    let firmware = match arch {
        qemu::Arch::Amd64 => qemu::Firmware::Bios,
        qemu::Arch::Arm64 => qemu::Firmware::Uefi,
    };
    let mut spec = MachineSpec::new(arch, firmware, probe.accel);
    spec.disk = Some(Disk::overlay(image, DISK));
    spec.shell = true;
    let run_dir = RunDir::create(run_root.join("bench").as_std_path())?;
    // Without a network Tor would have neither a directory nor circuits, which is a good part of its memory.
    let mut lab = Lab::start(&programs, RunDir::create(&run_dir.file("lab"))?, Keep::No)?;
    let tor = TorNetwork::start(&lab, Deadline::seconds(TOR))?;
    spec.nics = vec![lab.attach(None)?.nic];
    let authorities = serde_json::to_string(tor.dir_authorities())?;
    let settings =
        format!("[owner]\nmailbox = \"owner\"\n[tor.test_network]\ndir_authorities = {authorities}\n");
    spec.credentials.push(Credential::new("cipolla.settings", settings));
    let mut machine = Machine::spawn(&spec, lab.programs(), run_dir, Keep::No)?;
    let deadline = Deadline::seconds(BOOT);
    machine.wait_for(qemu::guest::LOGIN_PROMPT, deadline)?;
    let answer = machine.run(ASK, deadline)?;
    if !answer.status.success() {
        bail!("asking systemd for the times: {}: {}", answer.status, answer.stderr.trim());
    }
    let start = read(&answer.stdout, probe.why).with_context(|| format!("reading {:?}", answer.stdout))?;
    let answer = machine.run(CONNECTED, deadline)?;
    if !answer.status.success() {
        bail!("waiting for a connection through Tor: {}\n{}", answer.status, answer.stdout.trim());
    }
    let costs = costs::measure(&mut machine, &programs, image, Deadline::seconds(BOOT))?;
    Ok(FirstStart { costs: Some(costs), ..start })
}

fn read(answer: &str, machine: String) -> Result<FirstStart> {
    let mut lines = answer.lines();
    let mut number = || lines.next().context("a line is missing")?.parse::<u32>().context("a number");
    let (start, up, actions, complete) = (number()?, number()?, number()?, number()?);
    let since =
        |moment: u32| moment.checked_sub(start).filter(|_| start > 0).map(|took| f64::from(took) / 1e6);
    let until_up = since(up).context("the unit did not come up")?;
    let seconds = since(complete).context("the identity was not completed")?;
    Ok(FirstStart { machine, seconds, limit: LIMIT, until_up, actions, costs: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let start = read("12000000\n25500000\n61\n15500000\n", String::new()).unwrap();
        assert!((start.seconds - 3.5).abs() < 1e-9 && start.is_within_limit() && start.actions == 61);
        assert!(read("12000000\n0\n3\n", String::new()).is_err());
        assert!(read("0\n", String::new()).is_err());
    }
}
