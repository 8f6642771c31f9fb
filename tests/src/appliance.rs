//! A booted appliance, as scenarios see it.

use std::num::NonZeroUsize;

use anyhow::{Context as _, anyhow};
use qemu::{
    Accel, Arch, Credential, Deadline, Disk, Firmware, Keep, Lab, Machine, MachineSpec, Output, Port, Probe,
    Programs, RunDir,
};

use crate::Context;
use crate::check::{Evidence, Verdict, none_of};

/// What the appliance's disk shrinks to in nobody's hands: the smallest disk that owners are told to use.
pub(crate) const DISK: u64 = 6 << 30;

/// An emulated boot takes 45 s alone and several times that beside a busy neighbour; a boot that hangs is
/// found by the console watch, not by this.
const BOOT: u64 = 900;

/// One script in the guest.
const SCRIPT: u64 = 180;

/// A machine with the unmodified image and a root shell.
pub(crate) struct Appliance {
    pub(crate) machine: Machine,
    /// How it was started.
    origin: Origin,
    /// Whether a crash of the emulator would count against it.
    settled: bool,
}

/// An appliance without power, and its disk.
pub(crate) struct Cold(Origin);

/// What a machine was started from.
struct Origin {
    spec: MachineSpec,
    programs: Programs,
    run_dir: RunDir,
    keep: Keep,
}

impl Origin {
    fn machine(&self) -> anyhow::Result<Machine> {
        Ok(Machine::spawn(&self.spec, &self.programs, self.run_dir.clone(), self.keep)?)
    }

    fn appliance(self) -> anyhow::Result<Appliance> {
        Ok(Appliance { machine: self.machine()?, origin: self, settled: false })
    }
}

impl Cold {
    /// Switches the machine on again, with the disk that it had and as `change` wants it to be now; does not wait
    /// for it.
    pub(crate) fn switch_on(mut self, change: impl FnOnce(&mut MachineSpec)) -> anyhow::Result<Appliance> {
        again(&mut self.0.spec);
        change(&mut self.0.spec);
        self.0.appliance()
    }
}

impl Appliance {
    /// Starts the image on a fresh disk; does not wait for it.
    pub(crate) fn spawn(
        ctx: &Context,
        probe: &Probe,
        firmware: Firmware,
        name: &str,
    ) -> anyhow::Result<Self> {
        let run_dir = RunDir::create(&ctx.run_root.join(name))?;
        let (spec, programs) = (spec(ctx, probe, firmware), ctx.programs.clone());
        Origin { spec, programs, run_dir, keep: keep(ctx) }.appliance()
    }

    /// Starts the image under the firmware that is up first, as `change` wants the machine to be. With
    /// [`again`] in it, the disk is the one that an earlier machine left in the same directory.
    pub(crate) fn spawn_as(
        ctx: &Context,
        probe: &Probe,
        run_dir: RunDir,
        change: impl FnOnce(&mut MachineSpec),
    ) -> anyhow::Result<Self> {
        let mut spec = spec(ctx, probe, plainest(ctx.arch));
        change(&mut spec);
        Origin { spec, programs: ctx.programs.clone(), run_dir, keep: keep(ctx) }.appliance()
    }

    /// As [`Appliance::spawn_as`], with a card in a lab and the owner's settings (TOML).
    pub(crate) fn spawn_in(
        ctx: &Context,
        probe: &Probe,
        run_dir: RunDir,
        (lab, port): (&Lab, &Port),
        settings: &str,
        change: impl FnOnce(&mut MachineSpec),
    ) -> anyhow::Result<Self> {
        let mut spec = spec(ctx, probe, plainest(ctx.arch));
        spec.nics = vec![port.nic.clone()];
        spec.credentials.push(self::settings(settings));
        change(&mut spec);
        Origin { spec, programs: lab.programs().clone(), run_dir, keep: keep(ctx) }.appliance()
    }

    /// Cuts the power: QEMU is killed, and what the guest had not flushed is lost.
    pub(crate) fn cut_power(mut self) -> anyhow::Result<Cold> {
        self.machine.cut_power(Deadline::seconds(SCRIPT))?;
        Ok(Cold(self.origin))
    }

    /// Waits for the login prompt on the serial console and for the boot to be over. A machine whose emulator
    /// is at fault in the first boot after its start is started once more, and that is said: QEMU 10 fails an assertion about its
    /// own tables, or loses a processor's timer, in one of some hundred emulated starts on a busy computer.
    pub(crate) fn wait_boot(&mut self) -> anyhow::Result<()> {
        let deadline = Deadline::seconds(BOOT);
        if let Err(error) = self.machine.wait_for(qemu::guest::LOGIN_PROMPT, deadline) {
            let crash = self.machine.crashed();
            let (Some(story), false) = (crash, self.settled) else { return Err(error.into()) };
            eprintln!("  the emulator is at fault and is started again: {story}");
            self.settled = true;
            // One whose guest stands still is up, and has the disk.
            self.machine.cut_power(Deadline::seconds(SCRIPT))?;
            self.machine = self.origin.machine()?;
            self.machine.wait_for(qemu::guest::LOGIN_PROMPT, deadline)?;
        }
        self.settled = true;
        // Ends when the last job has ended; its word (running, degraded) is for the checks to judge.
        self.machine.run("systemctl is-system-running --wait", deadline)?;
        Ok(())
    }

    /// Restarts in order and waits as [`Appliance::wait_boot`].
    pub(crate) fn reboot(&mut self) -> anyhow::Result<()> {
        self.machine.reboot(Deadline::seconds(SCRIPT))?;
        self.wait_boot()
    }

    /// Resets the machine, so that what the guest had not flushed is lost, and waits as [`Appliance::wait_boot`].
    pub(crate) fn hard_reset(&mut self) -> anyhow::Result<()> {
        self.machine.hard_reset(Deadline::seconds(SCRIPT))?;
        self.wait_boot()
    }

    /// Runs a script as root, whatever its status.
    pub(crate) fn run(&mut self, script: &str) -> anyhow::Result<Output> {
        Ok(self.machine.run(script, Deadline::seconds(SCRIPT))?)
    }

    /// Runs a script that has to succeed and returns what it wrote.
    pub(crate) fn read(&mut self, script: &str) -> anyhow::Result<String> {
        let output = self.run(script)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(anyhow!("{}: {}", output.status, output.stderr.trim()))
            .with_context(|| format!("running `{script}`"))
    }

    /// What explains a failure: the console's and the journal's last lines. The whole journal is kept beside
    /// the console's log.
    pub(crate) fn evidence(&mut self) -> Vec<Evidence> {
        let run_dir = self.machine.run_dir().clone();
        let console = self.machine.console().tail(20);
        let mut all = vec![(format!("console: {}", run_dir.console_log().display()), console)];
        let file = run_dir.file("journal.txt");
        let script = "journalctl -b --no-pager --no-hostname -o short-monotonic";
        let journal = self.machine.run(script, Deadline::seconds(60));
        all.push(
            match journal.map_err(anyhow::Error::from).and_then(|journal| {
                fs_err::write(&file, &journal.stdout)?;
                Ok(journal.stdout)
            }) {
                Ok(text) => {
                    let mut lines: Vec<_> = text.lines().rev().take(20).map(str::to_owned).collect();
                    lines.reverse();
                    (format!("journal: {}", file.display()), lines)
                }
                // The console above is then all there is.
                Err(error) => ("journal: not to be had".to_owned(), vec![first_line(&error.to_string())]),
            },
        );
        all
    }
}

/// The unmodified image on a fresh disk, with a shell from outside.
fn spec(ctx: &Context, probe: &Probe, firmware: Firmware) -> MachineSpec {
    let mut spec = MachineSpec::new(ctx.arch, firmware, probe.accel);
    if probe.accel == Accel::Tcg {
        spec.cpus = cpus(ctx.lanes);
    }
    spec.disk = Some(Disk::overlay(&ctx.image, DISK));
    spec.shell = true;
    spec
}

/// Emulated processors for each machine when so many scenarios run at a time: two, if this computer has so many to give.
/// (One processor of the guest waits for another one that does not run at the moment: with two machines of two each on
/// two cores, first boots take a sixth longer than with one each.)
fn cpus(lanes: NonZeroUsize) -> u8 {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    if cores / lanes >= 2 { 2 } else { 1 }
}

/// The owner's settings (TOML), as a hypervisor hands them over.
pub(crate) fn settings(toml: &str) -> Credential {
    Credential::new("cipolla.settings", toml)
}

/// Takes the disk as the last machine in the same run directory left it.
pub(crate) fn again(spec: &mut MachineSpec) {
    if let Some(Disk::Overlay { reuse, .. }) = &mut spec.disk {
        *reuse = true;
    }
}

/// The firmware that is up first.
pub(crate) fn plainest(arch: Arch) -> Firmware {
    match arch {
        Arch::Amd64 => Firmware::Bios,
        Arch::Arm64 => Firmware::Uefi,
    }
}

fn keep(ctx: &Context) -> Keep {
    if ctx.keep { Keep::Yes } else { Keep::No }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The webmail's database has every table of the program's scheme and its version, and is its user's alone. It is made
/// before the first request: two of them at once, or a power cut, would leave half of it.
pub(crate) fn webmail_database_is_whole(appliance: &mut Appliance) -> Verdict {
    let script = r#"
        scheme=/usr/share/roundcube/SQL/sqlite.initial.sql file=/var/lib/roundcube/db/roundcube.sqlite
        stat -c 'mode %U:%G %a' $file
        sed -n -e 's/^CREATE TABLE \([a-z_]*\).*/wanted \1/p' \
            -e "s/^INSERT .*'roundcube-version', '\([0-9]*\)'.*/newest \1/p" $scheme
        runuser -u roundcube -- php -r '
            $database = new PDO("sqlite:$argv[1]");
            foreach ($database->query($argv[2])->fetchAll(PDO::FETCH_COLUMN) as $row) echo "$row\n";' $file \
            "SELECT 'there ' || name FROM sqlite_master WHERE type = 'table'
             UNION ALL SELECT 'version ' || value FROM system WHERE name = 'roundcube-version'""#;
    let said = appliance.read(script)?;
    let words = |first: &str| -> Vec<&str> {
        said.lines().filter_map(|line| line.strip_prefix(first)?.strip_prefix(' ')).collect()
    };
    let (wanted, there) = (words("wanted"), words("there"));
    let mut findings: Vec<_> = wanted
        .iter()
        .filter(|table| !there.contains(table))
        .map(|table| format!("the database has no table {table}"))
        .collect();
    if wanted.is_empty() || words("version").len() != 1 || words("version") != words("newest") {
        findings.push(format!("this is no database of the webmail: {said}"));
    }
    if words("mode") != ["roundcube:roundcube 600"] {
        findings.push(format!("it is {:?}", words("mode")));
    }
    none_of(&findings)
}
