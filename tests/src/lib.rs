//! Scenarios: what a finished image must do, shown on the image itself.
//!
//! A scenario prepares something once (boots a machine, opens the file), walks a table of named checks and
//! reports every failure; it never stops at the first. The names are those of the project's list of
//! assertions, so a failing line says what broke. A check is either passed, failed, or could not be checked;
//! the last counts as failed.
//!
//! | module | what runs there |
//! |---|---|
//! | [`browser`] | a real browser, for the webmail; its scenario holds it against a small server |
//! | `building` | the builder: as an ordinary user, interrupted, killed |
//! | [`vantage`] | scanners that look at an appliance from outside, and their scenario |
//! | `file` | the image file without booting it |
//! | `first_boot` | what a first start makes: keys, hand-over, what leaks; wrong settings |
//! | `firmware` | the unmodified image without network: disk, identity, journal, a second boot; what every firmware shows |
//! | `grub_slots` | the real GRUB against the table of slot decisions |
//! | `interrupted` | a run of the tests that is ended while its lab is up |
//! | `lab_network` | the private Tor network that other scenarios use, by itself |
//! | `mail` | one appliance in that network, used and tried: network, mail, webmail, limits, sandboxes; then seen from `outside`: its packets, its open ports |
//! | `attack` | one appliance in that network, attacked while its owner works; who may see a service at all |
//! | `exchange` | two appliances write to each other over that network; then one of them sleeps |
//! | `web` | the last part of `exchange`: the webmail in a real browser, TLS and SSH under scanners |
//! | `clock` | one appliance in that network, its clock wrong by hours, years, and at the epoch |
//! | `power` | dozens of power cuts in one recorded run, two boots after them, and what a first start makes |
//!
//! Architecture invariants: nothing here changes the image, and nothing in the image knows of the tests; what a
//! test needs inside comes in as a systemd credential. Scenarios know nothing of each other, and run in as many lanes
//! as [`Context::lanes`] says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use qemu::{Accel, Arch, Probe, Programs};

mod appliance;
mod attack;
pub mod browser;
mod building;
mod capture;
mod check;
mod clock;
mod exchange;
mod file;
mod firmware;
mod first_boot;
mod golden;
mod grub_slots;
mod image;
mod interrupted;
mod journal;
mod lab_network;
mod lanes;
mod left;
mod mail;
mod outside;
mod power;
mod processes;
mod repeat;
mod report;
#[cfg(test)]
mod requirements;
mod runner;
mod site;
pub mod vantage;
mod web;
mod webmail;
mod world;

pub use repeat::repeat;
pub use report::{Outcome, Problem, Report};

use runner::Runnable;

/// What a run is about.
#[derive(Clone, Debug)]
pub struct Context {
    /// The raw image.
    pub image: PathBuf,
    /// The manifest that the builder wrote beside it. Without it the checks that need it fail.
    pub image_manifest: Option<PathBuf>,
    /// The image's architecture.
    pub arch: Arch,
    /// The builder's program, whose checkout and cache follow.
    pub program: PathBuf,
    /// The checkout that the image was built from.
    pub checkout: PathBuf,
    /// The cache that the image was built in.
    pub cache: PathBuf,
    /// The recipe, relative to the checkout.
    pub recipe: PathBuf,
    /// QEMU and the other lab programs.
    pub programs: Programs,
    /// Argument vector put before a scanner of the lab's tree (`nmap`, `testssl`, `ssh-audit`), for
    /// [`vantage::Vantage`].
    pub scanners: Vec<OsString>,
    /// The same for the browser's tree; `None` when [`wants_browser`] says that no selected check needs it.
    pub browser: Option<Vec<OsString>>,
    /// Folder for one folder per scenario: logs, sockets, disk layers. Keep its path short (sockets).
    pub run_root: PathBuf,
    /// Folder for the `JUnit` report.
    pub results: PathBuf,
    /// Folder of the golden files.
    pub golden: PathBuf,
    /// Whether golden files are rewritten instead of compared; what moved is printed.
    pub bless: bool,
    /// Words that must not be in the image, by what they are: names and folders of the computer that built it.
    pub forbidden: BTreeMap<String, String>,
    /// Decides when the power goes in the scenario `power`; `None` for the same moments as ever.
    pub seed: Option<u64>,
    /// A record of writes that an earlier run of `power` left, to be judged again.
    pub writes: Option<PathBuf>,
    /// Leave machines up and say how to reach them.
    pub keep: bool,
    /// How many machines are up at a time; a scenario without one counts for one.
    pub lanes: NonZeroUsize,
    /// Run only checks whose `scenario::check` contains one of these; all, where there is none.
    pub filters: Vec<String>,
    /// Colours, for a terminal.
    pub colour: bool,
}

impl Context {
    fn selects(&self, scenario: &str, check: &str) -> bool {
        let name = format!("{scenario}::{check}");
        self.filters.is_empty() || self.filters.iter().any(|text| name.contains(text.as_str()))
    }
}

/// Every scenario for the context's architecture. The flood of `attack` has to be alone: it comes as soon as the short ones
/// beside it are done, and not at the end, so that nobody waits for what comes after it. Of the others the longest begin
/// first, so that no lane is left with a long one at the end.
fn scenarios(ctx: &Context) -> lanes::Order {
    let mut order = lanes::Order {
        first: vec![
            Box::new(file::File),
            Box::new(attack::Attack),
            Box::new(firmware::FirmwareScenario::new(ctx.arch)),
            Box::new(first_boot::WrongSettings),
        ],
        later: vec![
            Box::new(exchange::Exchange),
            Box::new(mail::Mail),
            Box::new(clock::Clock),
            Box::new(power::Power),
            Box::new(building::Building),
            Box::new(interrupted::Interrupted),
        ],
    };
    if ctx.arch == Arch::Amd64 {
        order.first.push(Box::new(grub_slots::GrubSlots::new(qemu::Firmware::Bios)));
    }
    order.first.push(Box::new(grub_slots::GrubSlots::new(qemu::Firmware::Uefi)));
    order.first.push(Box::new(lab_network::LabNetwork));
    order.first.push(Box::new(browser::scenario::Driver));
    order.first.push(Box::new(vantage::scenario::Scanners));
    order
}

/// The names of all checks, as `scenario::check`.
#[must_use]
pub fn names(ctx: &Context) -> Vec<String> {
    let all = scenarios(ctx);
    all.iter()
        .flat_map(|one| one.checks(ctx).into_iter().map(|(check, _)| format!("{}::{check}", one.name())))
        .collect()
}

/// Whether a selected check needs a browser, which is large to fetch.
#[must_use]
pub fn wants_browser(ctx: &Context) -> bool {
    wanted(ctx, |one| one.wants_browser())
}

/// Whether a scenario with a selected check wants this.
fn wanted(ctx: &Context, wants: impl Fn(&dyn Runnable) -> bool) -> bool {
    let selected =
        |one: &dyn Runnable| one.checks(ctx).iter().any(|(check, _)| ctx.selects(&one.name(), check));
    scenarios(ctx).iter().any(|one| wants(one) && selected(one))
}

/// What a person should know who reads how long things took.
fn speed(slowness: f64) -> String {
    if slowness > 1.0 {
        return format!("this computer is slow just now, so waits may be {slowness:.1} times longer");
    }
    "this computer is as fast as the limits ask".to_owned()
}

/// Runs the selected checks, tells `out` about them as they come, ends with a table and the line
/// `N passed, N failed`, and writes `scenarios.xml` (`JUnit`) into the results folder.
///
/// # Errors
/// When `out` or the `JUnit` report cannot be written. Failed checks are no error here: see [`Report::failed`].
pub fn run(ctx: &Context, out: &mut (dyn Write + Send)) -> std::io::Result<Report> {
    let slowness = qemu::slowness();
    qemu::Deadline::lengthen(slowness);
    // (Also where no machine is wanted: browsers, scanners and Tor are waited for as well.)
    let probe = if wanted(ctx, |one| one.machines() > 0) {
        let probe = qemu::probe(&ctx.programs, ctx.arch, &ctx.run_root, &ctx.image);
        writeln!(out, "machines: {}; {}", probe.why, speed(slowness))?;
        probe
    } else {
        Probe { accel: Accel::Tcg, why: "no machine is started".to_owned() }
    };
    let start = Instant::now();
    let report = lanes::run(scenarios(ctx), ctx, &probe, out)?;
    report.write_summary(start.elapsed(), ctx.colour, out)?;
    report.write_junit(&ctx.results.join("scenarios.xml"))?;
    Ok(report)
}
