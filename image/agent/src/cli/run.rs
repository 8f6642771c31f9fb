//! From a parsed command line to the machine, the command and its output.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Access, Cli, Command, Settings, User, Webmail, mail, serve, upkeep};
use crate::boot_partition::{MountedBootPartition, NoBootPartition};
use crate::commands::{access, credentials, settings, status, user, webmail};
use crate::fs::RealFs;
use crate::machine::{self, BootPartition, Machine};
use crate::programs::{NoPrograms, Programs, RealPrograms};
use crate::{access_check, boot, handover, initrd};

/// Where systemd keeps the credentials of the whole system (systemd.system-credentials(7)).
const SYSTEM_CREDENTIALS: &str = "/run/credentials/@system";

pub(super) fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Initrd { data } => {
            need_root("mounting the data partition")?;
            initrd::run(&cli.root, data)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Boot { dry_run } => {
            let partition = MountedBootPartition::find(&cli.root);
            with_machine(cli, &partition, |machine| boot(machine, *dry_run))
                .context("preparing this start")?;
            Ok(ExitCode::SUCCESS)
        }
        // What was handed over there is taken back, or looked at.
        Command::Ack | Command::Webmail(_) | Command::Upkeep(upkeep::Upkeep::Selftest { .. }) => {
            let partition = MountedBootPartition::find(&cli.root);
            with_machine(cli, &partition, |machine| owner(cli, &cli.command, machine))
        }
        Command::Serve(command) => serve::run(command, |work| with_machine(cli, &NoBootPartition, work)),
        command => with_machine(cli, &NoBootPartition, |machine| owner(cli, command, machine)),
    }
}

/// The machine that the command line names.
fn with_machine<T>(
    cli: &Cli,
    boot_partition: &dyn BootPartition,
    work: impl FnOnce(&Machine<'_>) -> Result<T>,
) -> Result<T> {
    let fs = RealFs::open(&cli.root)?;
    let running = cli.root == "/";
    let programs: &dyn Programs = if running { &RealPrograms } else { &NoPrograms };
    // By hand, `cipolla boot` has to see what its unit sees; only root can.
    let by_hand = || rustix::process::geteuid().is_root().then(|| SYSTEM_CREDENTIALS.to_owned());
    let folder = std::env::var("CREDENTIALS_DIRECTORY").ok().or_else(by_hand);
    let credentials = folder.filter(|_| running).map(Into::into);
    work(&Machine {
        fs: &fs,
        programs,
        boot_partition,
        rng: std::cell::RefCell::new(machine::system_rng()),
        now: SystemTime::now(),
        uptime: machine::uptime(),
        credentials,
    })
}

fn boot(machine: &Machine<'_>, dry_run: bool) -> Result<()> {
    if dry_run {
        let lines = boot::dry_run(machine)?;
        lines.iter().for_each(|line| println!("would {line}"));
        if lines.is_empty() {
            println!("nothing to do");
        }
        return Ok(());
    }
    let done = boot::run(machine, &mut |line| println!("{line}"));
    if let Err(error) = &done
        && let Err(second) = handover::console_of_failure(machine.fs, &format!("{error:#}"))
    {
        eprintln!("cipolla: the screen cannot say so: {second:#}");
    }
    if done? == 0 {
        println!("nothing to do");
    }
    Ok(())
}

fn owner(cli: &Cli, command: &Command, machine: &Machine<'_>) -> Result<ExitCode> {
    match command {
        Command::Status => {
            let report = status::read(machine)?;
            print(cli, &report, &report.to_string())?;
            return Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::ShowCredentials { yes } => {
            need_root("showing credentials")?;
            if !yes && !confirm("Passwords will be shown on this screen. Is nobody looking?")? {
                bail!("nothing was shown");
            }
            let text = credentials::show(machine)?;
            print(cli, &text.as_str(), &text)?;
        }
        Command::Ack => {
            need_root("acknowledging credentials")?;
            let forgotten = credentials::acknowledge(machine)?;
            let said = if forgotten {
                "the passwords are forgotten; what is written down is the only copy"
            } else {
                "there was nothing to acknowledge"
            };
            print(cli, &forgotten, said)?;
        }
        Command::Greet => {
            if let Some(greeting) = credentials::greet(machine)? {
                print(cli, &greeting.text.as_str(), &greeting.text)?;
                credentials::greeted(machine, &greeting)?;
            }
        }
        Command::Access(command) => access(cli, command, machine)?,
        Command::Mail(command) => mail::run(cli, command, machine)?,
        Command::User(command) => user(cli, command, machine)?,
        Command::Webmail(Webmail::Passwd { stdin }) => {
            need_root("setting the password in front of the webmail")?;
            let door = webmail::passwd(machine, password(*stdin)?, &mut |line| eprintln!("{line}"))?;
            print(cli, &door, &door.text())?;
        }
        Command::Settings(command) => return settings(cli, command, machine),
        Command::Boot { .. } | Command::Initrd { .. } | Command::Serve(_) => {
            bail!("this is not a command for owners")
        }
        Command::Upkeep(command) => return upkeep::run(cli, command, machine),
    }
    Ok(ExitCode::SUCCESS)
}

fn access(cli: &Cli, command: &Access, machine: &Machine<'_>) -> Result<()> {
    match command {
        Access::Add { name, service } => {
            need_root("letting a device in")?;
            let grant = access::add(machine, service.service.into(), name)?;
            print(cli, &grant, &grant.text()?)
        }
        Access::List => {
            need_root("listing devices")?;
            let list = access::list(machine)?;
            print(cli, &list, &access::text(&list))
        }
        Access::Check => {
            need_root("looking at the keys of devices")?;
            access_check::verify(machine.fs)
        }
        Access::Revoke { name, service } => {
            need_root("taking access away")?;
            let warning = access::revoke(machine, service.service.into(), name)?;
            let said = warning.unwrap_or_else(|| format!("{name} is not let in any more"));
            print(cli, &said, &said)
        }
    }
}

fn user(cli: &Cli, command: &User, machine: &Machine<'_>) -> Result<()> {
    need_root("looking after mailboxes")?;
    match command {
        User::Add { name, stdin } => {
            let account = user::add(machine, name, password(*stdin)?)?;
            print(cli, &account, &account.text())
        }
        User::Passwd { name, stdin } => {
            let account = user::passwd(machine, name, password(*stdin)?)?;
            print(cli, &account, &account.text())
        }
        User::List => {
            let list = user::list(machine)?;
            print(cli, &list, &user::text(&list))
        }
        User::Quota { name, size } => {
            let problems = user::quota(machine, name, size.as_deref())?;
            let mut said = match size {
                Some(size) => format!("{name} has room for {size} of mail"),
                None => format!("{name} has as much room as all"),
            };
            said.extend(problems.iter().map(|problem| format!("\n{problem}")));
            print(cli, &said, &said)
        }
        User::Remove { name } => {
            let problems = user::remove(machine, name)?;
            let mut said = format!("{name} is closed; the mail is still in /var/vmail");
            said.extend(problems.iter().map(|problem| format!("\n{problem}")));
            print(cli, &said, &said)
        }
    }
}

fn settings(cli: &Cli, command: &Settings, machine: &Machine<'_>) -> Result<ExitCode> {
    match command {
        Settings::Show => {
            need_root("reading the settings")?;
            let shown = settings::show(machine)?;
            print(cli, &shown.settings, &shown.text)?;
        }
        Settings::Check { file } => {
            let problems = settings::check(machine, &read_file(file)?, file.as_str())?;
            let said =
                if problems.is_empty() { "these settings are fine".into() } else { problems.join("\n") };
            print(cli, &problems, &said)?;
            if !problems.is_empty() {
                return Ok(ExitCode::from(2));
            }
        }
        Settings::Apply { file } => {
            need_root("changing the settings")?;
            let content = read_file(file)?;
            settings::apply(machine, &content, file.as_str(), &mut |line| eprintln!("{line}"))?;
            print(cli, &true, "the settings are in effect")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A file of the owner's, named as the shell sees it.
fn read_file(path: &Utf8Path) -> Result<Zeroizing<Vec<u8>>> {
    std::fs::read(path).map(Zeroizing::new).with_context(|| format!("opening settings {path}"))
}

pub(super) fn print(cli: &Cli, value: &impl Serialize, text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if cli.json {
        let json = Zeroizing::new(serde_json::to_string_pretty(value).context("writing JSON")?);
        writeln!(out, "{}", *json)?;
    } else {
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

pub(super) fn need_root(doing: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("{doing} needs root; try: sudo cipolla …, or log in as root")
}

pub(super) fn confirm(question: &str) -> Result<bool> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("reading the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// One line from standard input, if the command line says so. Never an argument: all users can read those.
fn password(stdin: bool) -> Result<Option<Zeroizing<String>>> {
    if !stdin {
        return Ok(None);
    }
    let mut line = Zeroizing::new(String::with_capacity(1024));
    std::io::stdin().lock().read_line(&mut line).context("reading the password")?;
    Ok(Some(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned())))
}
