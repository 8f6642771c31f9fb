//! The commands that look after a running appliance: what there is to type, and what it runs.

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::Cli;
use super::run::{confirm, need_root, print};
use crate::commands::{bans, digest, renew, selftest, verify, watch};
use crate::machine::Machine;

/// The exit status for "it works, and it found something", which is neither an error (1) nor bad usage (2).
const FOUND: u8 = 3;

#[derive(Debug, Subcommand)]
pub(super) enum Upkeep {
    /// Show who is held off for guessing passwords or breaking rules, since when and until when.
    ///
    /// Most offenders are Tor circuits: their circuit was closed, and the number means nothing after Tor restarts.
    /// Addresses appear only if SSH is open to a network of yours.
    #[command(after_help = "Examples:\n  cipolla bans\n  cipolla bans --json")]
    Bans,
    /// Lift the ban on one client, or on all of them.
    ///
    /// A circuit that was closed does not come back: its owner connects again and is a new client.
    #[command(after_help = "Examples:\n  \
        cipolla unban 192.168.1.7    # you mistyped your SSH key's name once too often\n  \
        cipolla unban --all")]
    Unban {
        /// The address, as `cipolla bans` shows it.
        #[arg(required_unless_present_any = ["all", "circuits"])]
        address: Option<IpAddr>,
        /// All of them.
        #[arg(long, conflicts_with = "address")]
        all: bool,
        /// All circuits: after a restart of Tor their numbers mean nothing.
        #[arg(long, conflicts_with_all = ["address", "all"])]
        circuits: bool,
    },
    /// Compare configuration and keys with the record of how they were, and say what changed.
    ///
    /// The root file system cannot change. This is about what can, and should only when you change it: /etc, keys,
    /// mailbox tables, /root. A timer compares every day and the digest tells of it.
    ///
    /// Exit status 0: as recorded, 1: could not be compared, 3: something changed.
    #[command(after_help = "Examples:\n  \
        cipolla verify               # after three quiet weeks: did anything change?\n  \
        cipolla verify --accept      # after cipolla user add: yes, that was me")]
    Verify {
        /// Make what is there now the new record, after showing it and asking.
        #[arg(long)]
        accept: bool,
        /// Do not ask.
        #[arg(long, requires = "accept")]
        yes: bool,
    },
    /// Summarise the last day: mail, logins, bans, firewall, disk, integrity, certificates, Tor, clock.
    ///
    /// A timer mails it to the owner every day. It holds numbers and reasons, but nobody's address, since it lies in a
    /// mailbox. Another timer looks every ten minutes whether somebody is guessing passwords.
    #[command(after_help = "Examples:\n  \
        cipolla digest               # on this screen\n  \
        cipolla digest --hours 1     # what is going on right now?\n  \
        cipolla digest --mail        # to the owner's mailbox, as the timer does")]
    Digest {
        /// How far back to look, in hours.
        #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
        hours: u32,
        /// Send it to the owner's mailbox instead of printing it.
        #[arg(long)]
        mail: bool,
        /// Send nothing but a warning, and only if the last hour was an attack and no warning went out lately.
        #[arg(long, conflicts_with_all = ["mail", "hours"])]
        alert: bool,
    },
    /// Look whether the onion services can be reached from the Tor network, and mend it if not.
    ///
    /// A timer runs this every five minutes. If a service stays away, Tor is first reloaded, then restarted, and if
    /// that does not help either, `cipolla status` and the digest say so. Everything is looked at every half an hour
    /// and while something is wrong; in between, whether Tor is connected.
    ///
    /// Exit status 0: nothing is known to be wrong, 1: it could not look, 3: something is wrong.
    #[command(after_help = "Examples:\n  \
        cipolla watch --look         # can I be reached? changes nothing, takes up to some minutes\n  \
        cipolla watch                # what the timer does")]
    Watch {
        /// Look at everything now, and change nothing.
        #[arg(long)]
        look: bool,
    },
    /// Make those certificates anew that run out, and tell the servers. The keys of onions and authority stay.
    ///
    /// A timer runs this daily and whenever the clock is set; a start does the same. Devices notice nothing: they
    /// trust the appliance's authority, which lasts.
    #[command(after_help = "Example:\n  cipolla renew")]
    Renew,
    /// Check on this machine what the project promises, as far as it can be checked from inside. Takes a minute.
    ///
    /// Listeners, firewall, keys, certificates, what the mail server says to strangers, and the system below. Nothing
    /// is changed; the attempts appear in the journal. The names are those of the project's list of assertions.
    ///
    /// Exit status 0: everything is as it must be, 1: something is not, or could not be checked.
    #[command(after_help = "Examples:\n  \
        cipolla selftest\n  \
        cipolla selftest tls         # only checks with these letters in their name\n  \
        cipolla selftest --json | jq '.lines[] | select(.outcome != \"passed\")'")]
    Selftest {
        /// Only the checks with these letters in their name.
        #[arg(default_value = "")]
        filter: String,
    },
    /// What the self-test does as other users. For the self-test only.
    #[command(subcommand, hide = true)]
    Probe(Probe),
}

#[derive(Debug, Subcommand)]
pub(super) enum Probe {
    /// Try to reach addresses.
    #[command(hide = true)]
    Reach {
        /// Each `tcp:IP:PORT` or `udp:IP:PORT`.
        targets: Vec<String>,
    },
    /// Hold a dialogue.
    #[command(hide = true)]
    Talk {
        /// The server.
        address: SocketAddr,
        /// What to say, in hexadecimal.
        parts: Vec<String>,
    },
}

pub(super) fn run(cli: &Cli, command: &Upkeep, machine: &Machine<'_>) -> Result<ExitCode> {
    match command {
        Upkeep::Bans => {
            need_root("asking who is banned")?;
            let bans = bans::list(machine)?;
            print(cli, &bans, &bans.text())?;
        }
        Upkeep::Unban { address, circuits, .. } => {
            need_root("lifting bans")?;
            let lifted = match address {
                Some(address) => bans::unban(machine, *address)?,
                None if *circuits => bans::unban_circuits(machine)?,
                None => bans::unban_all(machine)?,
            };
            let said = match lifted {
                0 if address.is_none() => "nobody was banned".to_owned(),
                0 => "nobody was banned by that name; see: cipolla bans".to_owned(),
                1 => "one ban is lifted".to_owned(),
                n => format!("{n} bans are lifted"),
            };
            print(cli, &lifted, &said)?;
        }
        Upkeep::Verify { accept, yes } => {
            need_root("comparing with the record")?;
            return verify(cli, machine, *accept, *yes);
        }
        Upkeep::Digest { alert: true, .. } => {
            need_root("reading the journal")?;
            let warning = digest::alert(machine)?;
            print(cli, &warning, warning.as_deref().unwrap_or("no attack, or the owner was warned lately"))?;
        }
        Upkeep::Digest { hours, mail, .. } => {
            need_root("reading the journal")?;
            let summary = digest::read(machine, *hours)?;
            if *mail {
                digest::send(machine, &summary)?;
                print(cli, &true, "the digest is on its way to the owner's mailbox")?;
            } else {
                print(cli, &summary, &summary.text())?;
            }
        }
        Upkeep::Renew => {
            need_root("renewing certificates")?;
            let done = renew::run(machine, &mut |line| eprintln!("{line}"))?;
            let said = if done == 0 { "no certificate is due" } else { "the servers have new certificates" };
            print(cli, &done, said)?;
        }
        Upkeep::Selftest { filter } => {
            need_root("testing as other users")?;
            // For people only: on a terminal, each name gives way to the next.
            let terminal = std::io::stderr().is_terminal();
            let table = selftest::run(machine, filter, &mut |name| {
                if terminal {
                    eprint!("\r\x1b[K{name}");
                }
            });
            if terminal {
                eprint!("\r\x1b[K");
            }
            let table = table?;
            print(cli, &table, &table.text())?;
            return Ok(if table.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Upkeep::Probe(Probe::Reach { targets }) => std::print!("{}", selftest::probe::reach(targets)?),
        Upkeep::Probe(Probe::Talk { address, parts }) => {
            std::print!("{}", selftest::probe::talk(*address, parts)?);
        }
        Upkeep::Watch { look } => {
            need_root("looking after Tor")?;
            let seen = if *look {
                watch::look(machine)?
            } else {
                watch::run(machine, &mut |line| eprintln!("{line}"))?.0
            };
            print(cli, &seen, &seen.to_string())?;
            return Ok(if seen.is_well() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(cli: &Cli, machine: &Machine<'_>, accept: bool, yes: bool) -> Result<ExitCode> {
    if !accept {
        let comparison = verify::check(machine)?;
        print(cli, &comparison, &comparison.text())?;
        return Ok(if comparison.is_unchanged() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) });
    }
    let (comparison, accepted) = verify::accept(machine, &mut |comparison| {
        eprintln!("{}", comparison.text());
        Ok(yes || confirm("Is all of this your doing?")?)
    })?;
    let said = match (accepted, comparison.is_unchanged()) {
        (true, _) => "this is the record from now on".to_owned(),
        (false, true) => comparison.text(),
        (false, false) => "the old record stays".to_owned(),
    };
    print(cli, &accepted, &said)?;
    Ok(if accepted || comparison.is_unchanged() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}
