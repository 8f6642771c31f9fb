//! What each verb does: load the plan, call the builder or the harness, print.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use build::exec::{Log, exit_on_signals, interrupted};
use build::space::Space;
use build::store::Cache;
use build::{Builder, Image, Options, doctor, tools};
use camino::{Utf8Path, Utf8PathBuf};
use recipe::{Arch, Plan};

use crate::cli::{Cli, Common, Firmware, Out, Packages, Verb};
use crate::{bench, check, oracle, show};

const BAD_INPUT: u8 = 2;
/// What a machine of `run` and of the tests sees: enough for data to grow visibly and for root-b.
const RUN_DISK: u64 = 8 << 30;

pub(crate) fn dispatch(cli: Cli) -> Result<ExitCode> {
    match cli.verb {
        Verb::Doctor { common, fix, checks } => doctor(&common, fix, checks),
        Verb::Plan { common, out } => plan(&common, &out),
        Verb::Build { common, out, packages } => build(&common, &out, &packages),
        Verb::Run { common, out, headless, firmware } => run(&common, &out, headless, firmware),
        Verb::Test { common, out, packages, checks, filters, keep, lanes, repeat } => {
            if checks && !checked(&common, &out, &packages)? {
                return Ok(ExitCode::from(1));
            }
            test(&common, &out, &packages, Wanted { filters, keep, lanes, repeat })
        }
        Verb::Check { common, no_unit_tests } => check::check(&Site::find(&common)?, !no_unit_tests),
        Verb::Bench { common, runs } => bench::bench(&Site::find(&common)?, &common, runs),
    }
}

/// Where things are: the checkout, the cache, this program.
pub(crate) struct Site {
    pub(crate) repo: Utf8PathBuf,
    pub(crate) cache: Cache,
    pub(crate) program: Utf8PathBuf,
    pub(crate) arch: Arch,
}

impl Site {
    pub(crate) fn find(common: &Common) -> Result<Self> {
        let program = Utf8PathBuf::try_from(std::env::current_exe()?).context("the name of this program")?;
        let Some(arch) = common.arch.or(Arch::host()) else {
            bail!("this machine is neither amd64 nor arm64; say which image you want with --arch");
        };
        let repo = match std::env::var("CARGO_MANIFEST_DIR") {
            Ok(dir) => Utf8PathBuf::from(dir).join(".."),
            Err(_) => Utf8PathBuf::try_from(std::env::current_dir()?)?,
        };
        let repo = Utf8PathBuf::try_from(fs_err::canonicalize(repo)?)?;
        Ok(Site { repo, cache: Cache::open()?, program, arch })
    }

    pub(crate) fn plan(&self, common: &Common) -> Result<Plan> {
        Ok(recipe::plan(&common.recipe, &self.repo.join("overlay"), self.arch)?)
    }

    pub(crate) fn builder<'a>(&self, options: Options, stages: &'a show::Stages) -> Builder<'a> {
        Builder::new(self.cache.clone(), self.program.clone(), self.repo.clone(), options, stages)
    }
}

fn doctor(common: &Common, fix: bool, checks: bool) -> Result<ExitCode> {
    let cache = Cache::open()?;
    let findings = doctor::examine(&cache, checks)?;
    if common.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
        return Ok(ExitCode::from(u8::from(!findings.is_empty())));
    }
    if findings.is_empty() {
        eprintln!("{} this machine has all that is needed", show::good("✓"));
        return Ok(ExitCode::SUCCESS);
    }
    for finding in &findings {
        eprintln!("{} {}", show::bad("✗"), finding.problem);
        match finding.fix.is_empty() {
            true => eprintln!("    {}", finding.advice),
            false => eprintln!("    {}", finding.line()),
        }
    }
    if !fix {
        eprintln!("\n`cargo xtask doctor --fix` runs these commands");
        return Ok(ExitCode::from(1));
    }
    let log = Log::create(&cache.log("doctor", "fix"), common.verbose)?;
    doctor::fix(&findings, &cache, checks, &log, &|line| eprintln!("→ {line}"))?;
    eprintln!("{} mended", show::good("✓"));
    Ok(ExitCode::SUCCESS)
}

fn plan(common: &Common, out: &Out) -> Result<ExitCode> {
    let site = Site::find(common)?;
    let plan = site.plan(common)?;
    let stages = show::Stages::new();
    let verdicts = site.builder(Options::default(), &stages).dry_run(&plan, &absolute(&out.out)?)?;
    if common.json {
        println!("{}", serde_json::to_string_pretty(&verdicts)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", show::verdicts(&verdicts));
    let disk = plan.disk();
    let size = disk.boot().bytes() + disk.root().bytes() + disk.data().bytes() + (3 << 20);
    println!("\n{}.img will be {}", plan.file_stem(), show::mib(size));
    Ok(ExitCode::SUCCESS)
}

fn build(common: &Common, out: &Out, packages: &Packages) -> Result<ExitCode> {
    let site = Site::find(common)?;
    let image = make(&site, common, out, packages)?;
    if common.json {
        let report = serde_json::json!({ "image": image, "peak_memory": peak_memory() });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", show::image(&image));
    }
    Ok(ExitCode::SUCCESS)
}

fn make(site: &Site, common: &Common, out: &Out, packages: &Packages) -> Result<Image> {
    let plan = site.plan(common)?;
    let options =
        Options { mirror: packages.mirror.clone(), refresh: packages.refresh, verbose: common.verbose };
    let stages = show::Stages::new();
    site.builder(options, &stages).build(&plan, &absolute(&out.out)?)
}

/// The most memory this process ever held, in bytes (`VmHWM`, proc(5)).
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn absolute(path: &Utf8Path) -> Result<Utf8PathBuf> {
    Ok(Utf8PathBuf::try_from(std::path::absolute(path)?)?)
}

/// A tools tree, made if it is not there.
fn tree(site: &Site, common: &Common, plan: &Plan, kind: tools::Kind) -> Result<Utf8PathBuf> {
    let stages = show::Stages::new();
    let options = Options { verbose: common.verbose, ..Options::default() };
    site.builder(options, &stages).tree(plan, kind)
}

/// A space over a tools tree that shows these folders under their own names.
pub(crate) fn space(
    site: &Site,
    common: &Common,
    plan: &Plan,
    kind: tools::Kind,
    folders: &[&Utf8Path],
) -> Result<Space> {
    let tree = tree(site, common, plan, kind)?;
    let mut space = Space::new(&site.program, &tree);
    for folder in folders {
        fs_err::create_dir_all(folder)?;
        space = space.writable(folder, folder.as_str());
    }
    Ok(space)
}

/// The lab's programs.
pub(crate) fn programs(site: &Site, lab: &Space) -> qemu::Programs {
    // tun: the tap devices of a lab.
    let wrapper = lab.clone().device("kvm").device("net/tun").wrap(&[], &BTreeMap::new());
    qemu::Programs::debian(arch(site.arch), wrapper)
}

/// The argument vector that enters a space and stays in the network namespace it is started in.
fn same_network(space: Space) -> Vec<OsString> {
    space.same_network().wrap(&[], &BTreeMap::new())
}

pub(crate) fn arch(arch: Arch) -> qemu::Arch {
    match arch {
        Arch::Amd64 => qemu::Arch::Amd64,
        Arch::Arm64 => qemu::Arch::Arm64,
    }
}

fn run(common: &Common, out: &Out, headless: bool, firmware: Firmware) -> Result<ExitCode> {
    let site = Site::find(common)?;
    let plan = site.plan(common)?;
    let out = absolute(&out.out)?;
    let image = out.join(format!("{}.img", plan.file_stem()));
    if !image.exists() {
        eprintln!("there is no {image} yet; build it with `cargo xtask build` or `make run`");
        return Ok(ExitCode::from(BAD_INPUT));
    }
    let run_root = run_root(&site)?;
    let programs = programs(&site, &space(&site, common, &plan, tools::LAB, &[&out, &run_root])?);
    exit_on_signals()?;
    eprintln!("trying whether KVM can run the image; without it, the machine is emulated");
    let probe = qemu::probe(&programs, arch(site.arch), run_root.as_std_path(), image.as_std_path());
    eprintln!("{}", probe.why);
    let firmware = match firmware {
        Firmware::Bios => qemu::Firmware::Bios,
        Firmware::Uefi => qemu::Firmware::Uefi,
        Firmware::SecureBoot => qemu::Firmware::UefiSecureBoot,
    };
    let mut spec = qemu::MachineSpec::new(arch(site.arch), firmware, probe.accel);
    spec.disk = Some(qemu::Disk::overlay(&image, RUN_DISK));
    let run_dir = qemu::RunDir::create(run_root.join("run").as_std_path())?;
    let attach = if headless { qemu::Attach::Headless } else { qemu::Attach::Terminal };
    let status = qemu::interactive(&spec, &programs, run_dir, attach)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Sockets have short names, and a checkout may lie deep.
pub(crate) fn run_root(site: &Site) -> Result<Utf8PathBuf> {
    let path = site.cache.root().join("run");
    fs_err::create_dir_all(&path)?;
    Ok(path)
}

/// Makes the checks, and meanwhile all that the tests will want.
fn checked(common: &Common, out: &Out, packages: &Packages) -> Result<bool> {
    let site = Site::find(common)?;
    eprintln!("format, clippy, docs, dependencies and shell are checked while the image is built");
    let checks = check::Beside::start(&site)?;
    make(&site, common, out, packages)?;
    let plan = site.plan(common)?;
    for kind in [tools::LAB, tools::BROWSER] {
        tree(&site, common, &plan, kind)?;
    }
    checks.finish()
}

/// What the person wants of the tests.
struct Wanted {
    filters: Vec<String>,
    keep: bool,
    lanes: Option<NonZeroUsize>,
    repeat: NonZeroUsize,
}

fn test(common: &Common, out: &Out, packages: &Packages, wanted: Wanted) -> Result<ExitCode> {
    let Wanted { mut filters, keep, lanes, repeat } = wanted;
    let site = Site::find(common)?;
    let all = filters.is_empty();
    // Whether these are wanted; what is wanted besides stays in the filters.
    let mut wanted = |name: &str| all || filters.extract_if(.., |filter| filter == name).count() > 0;
    let (unit, oracle) = (wanted("unit"), wanted("oracle"));
    if unit {
        eprintln!("unit and golden tests");
        if !cargo_test(&site)? {
            return Ok(ExitCode::from(1));
        }
    }
    let plan = site.plan(common)?;
    if oracle {
        eprintln!("key files in the hands of the real Tor and OpenSSH");
        if !oracle::run(&site, &tree(&site, common, &plan, tools::LAB)?)? {
            return Ok(ExitCode::from(1));
        }
    }
    if !all && filters.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let image = make(&site, common, out, packages)?;
    let (folder, run_root) = (absolute(&out.out)?, run_root(&site)?);
    let results = site.repo.join("target/test-results");
    let lab = space(&site, common, &plan, tools::LAB, &[&folder, &run_root])?;
    let mut context = scenarios::Context {
        image: image.path.into(),
        image_manifest: Some(image.manifest.into()),
        arch: arch(site.arch),
        program: site.program.clone().into(),
        checkout: site.repo.clone().into(),
        cache: site.cache.root().to_owned().into(),
        recipe: common.recipe.clone().into(),
        programs: programs(&site, &lab),
        scanners: same_network(lab),
        browser: None,
        run_root: run_root.clone().into(),
        results: results.into(),
        golden: site.repo.join("tests/golden").into(),
        bless: std::env::var_os("CIPOLLA_BLESS").is_some(),
        forbidden: forbidden(&site),
        seed: seed()?,
        writes: std::env::var_os("CIPOLLA_WRITES").map(Into::into),
        keep,
        lanes: lanes.unwrap_or_else(default_lanes),
        filters,
        colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let names = scenarios::names(&context);
    let nowhere = |filter: &&String| !names.iter().any(|name| name.contains(filter.as_str()));
    let unknown: Vec<_> = context.filters.iter().filter(nowhere).map(String::as_str).collect();
    if !unknown.is_empty() {
        eprintln!("no test is named like {}; the names are:", unknown.join(", "));
        for name in &names {
            eprintln!("  {name}");
        }
        return Ok(ExitCode::from(BAD_INPUT));
    }
    if scenarios::wants_browser(&context) {
        let tree = space(&site, common, &plan, tools::BROWSER, &[&run_root])?;
        context.browser = Some(same_network(tree));
    }
    exit_on_signals()?;
    let mut stdout = std::io::stdout();
    let reports = match repeat {
        NonZeroUsize::MIN => vec![scenarios::run(&context, &mut stdout)?],
        times => scenarios::repeat(&context, times, &mut stdout)?,
    };
    stdout.flush()?;
    let passed = reports.iter().all(|report| report.failed() == 0);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Three for two cores: a third of a scenario is waiting.
fn default_lanes() -> NonZeroUsize {
    const MOST: usize = 6;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new((cores + cores / 2).min(MOST)).unwrap_or(NonZeroUsize::MIN)
}

/// The seed that the person asks for.
fn seed() -> Result<Option<u64>> {
    let Some(text) = std::env::var_os("CIPOLLA_SEED") else { return Ok(None) };
    let seed = text.to_str().and_then(|text| text.parse().ok());
    seed.map(Some).with_context(|| format!("reading CIPOLLA_SEED: {text:?} is not a whole number"))
}

/// `cargo test` over the workspace; its output goes to the person.
fn cargo_test(site: &Site) -> Result<bool> {
    let shell = xshell::Shell::new()?;
    shell.change_dir(&site.repo);
    let passed = xshell::cmd!(shell, "cargo test --workspace --quiet").quiet().run().is_ok();
    interrupted()?;
    Ok(passed)
}

/// Words of this machine that must not be in an image.
fn forbidden(site: &Site) -> BTreeMap<String, String> {
    let mut words = BTreeMap::from([
        ("the checkout's folder".to_owned(), site.repo.to_string()),
        ("the cache's folder".to_owned(), site.cache.root().to_string()),
    ]);
    if let Ok(name) = fs_err::read_to_string("/proc/sys/kernel/hostname") {
        words.insert("the host's name".into(), name.trim().into());
    }
    words
}
