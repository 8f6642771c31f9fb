//! The command line: what there is to type, and what it runs. No logic of its own.

mod mail;
mod run;
mod serve;
mod upkeep;

use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::onions::Onion;

/// Looks after a Cipolla appliance: its identity, its settings, its owner's access.
///
/// The appliance is a mail server that is reached over Tor only. It made its own keys at its first start. With
/// this command its owner sees how it is, lets devices in, and adds mailboxes.
#[derive(Debug, Parser)]
#[command(name = "cipolla", version, max_term_width = 100)]
#[command(after_help = "First steps:\n  \
    cipolla show-credentials         # the passwords that were made at the first start\n  \
    cipolla ack                      # they are written down: forget them\n  \
    cipolla access add laptop        # a key for another device\n  \
    cipolla status                   # is everything well?")]
pub struct Cli {
    /// Work on the appliance below this folder instead of the running one.
    #[arg(long, value_name = "DIR", default_value = "/", global = true, hide_short_help = true)]
    root: Utf8PathBuf,
    /// Print the result as JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show how the appliance is, on one screen. Exit status 0: well, 1: something needs attention.
    #[command(after_help = "Example:\n  cipolla status || echo 'look at the appliance'")]
    Status,
    /// Show addresses and the passwords that wait to be acknowledged. Root only; asks first.
    #[command(after_help = "Example:\n  cipolla show-credentials")]
    ShowCredentials {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Acknowledge the passwords: they are written down, and the appliance forgets them in clear.
    #[command(after_help = "Example:\n  cipolla ack")]
    Ack,
    /// Decide which devices may see the services at all (Tor client authorization).
    #[command(subcommand)]
    Access(Access),
    /// Add, change, list and remove mailboxes.
    #[command(subcommand)]
    User(User),
    /// Look after the way into the webmail.
    #[command(subcommand)]
    Webmail(Webmail),
    #[command(flatten)]
    Mail(mail::Mail),
    /// Look at the owner's settings, try new ones, put them into effect.
    #[command(subcommand)]
    Settings(Settings),
    #[command(flatten)]
    Upkeep(upkeep::Upkeep),
    /// Make what this start needs: keys, identity, configuration. Runs before the network at every start.
    ///
    /// Keys that are there are never replaced; with everything in place it says "nothing to do".
    #[command(after_help = "Example:\n  cipolla boot --dry-run    # what would be done")]
    Boot {
        /// Print the plan and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what waits for the owner. For /etc/profile.d only.
    #[command(hide = true)]
    Greet,
    #[command(flatten)]
    Serve(serve::Serve),
    /// Mount the writable parts of the root file system. For the initramfs only.
    #[command(hide = true)]
    Initrd {
        /// The data partition's device node.
        #[arg(long, value_name = "DEVICE")]
        data: Utf8PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Access {
    /// Let a device in. Prints the key to enter there, once; it is not kept here.
    ///
    /// Once one device has a key for a service, devices without a key do not see the service any more.
    #[command(after_help = "Examples:\n  \
        cipolla access add laptop                    # to the services for your devices\n  \
        cipolla access add desk --service admin      # to SSH")]
    Add {
        /// A name for the device: a to z, 0 to 9 and -.
        name: String,
        #[command(flatten)]
        service: ServiceArg,
    },
    /// List the devices that have a key.
    #[command(after_help = "Example:\n  cipolla access list")]
    List,
    /// Check that the keys protect what they should. Tor is not started, nor told to read them again, without.
    ///
    /// Tor passes over a key file that it cannot read; with none left it would admit everybody.
    #[command(after_help = "Example:\n  cipolla access check")]
    Check,
    /// Take a device's access away. Connections that it has open end when Tor is reloaded, which this does.
    #[command(after_help = "Example:\n  cipolla access revoke laptop")]
    Revoke {
        /// The device's name.
        name: String,
        #[command(flatten)]
        service: ServiceArg,
    },
}

#[derive(Debug, Args)]
struct ServiceArg {
    /// The service.
    #[arg(long, value_enum, default_value_t = Service::Client)]
    service: Service,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Service {
    /// Mail and webmail for your devices.
    Client,
    /// SSH.
    Admin,
}

impl From<Service> for Onion {
    fn from(service: Service) -> Self {
        match service {
            Service::Client => Self::Client,
            Service::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Subcommand)]
enum User {
    /// Make a mailbox. A password is made and printed once, unless one is given on standard input.
    #[command(
        after_help = "Examples:\n  cipolla user add ada\n  cipolla user add ada --stdin < password-file"
    )]
    Add {
        /// The part of the address before the @.
        name: String,
        /// Read the password from standard input, one line.
        #[arg(long)]
        stdin: bool,
    },
    /// Set a new password. One is made and printed once, unless one is given on standard input.
    #[command(after_help = "Example:\n  cipolla user passwd ada")]
    Passwd {
        /// The part of the address before the @.
        name: String,
        /// Read the password from standard input, one line.
        #[arg(long)]
        stdin: bool,
    },
    /// List the mailboxes, and their room where it is not that of all.
    #[command(after_help = "Example:\n  cipolla user list")]
    List,
    /// Give a mailbox other room than the settings give to all.
    #[command(after_help = "Examples:\n  \
        cipolla user quota ada 5G\n  \
        cipolla user quota ada            # the same as all again")]
    Quota {
        /// The part of the address before the @.
        name: String,
        /// A number and M, G or T; left out, the mailbox gets what the settings say.
        size: Option<String>,
    },
    /// Close a mailbox: nobody can log in, mail to it is refused. Its mail stays on the disk.
    #[command(after_help = "Example:\n  cipolla user remove ada")]
    Remove {
        /// The part of the address before the @.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum Webmail {
    /// Set a new password in front of the webmail. One is made and printed once, unless one is given on standard input.
    ///
    /// Everybody with a mailbox needs it besides the password of the mailbox. The user name is the owner's mailbox.
    #[command(after_help = "Examples:\n  \
        cipolla webmail passwd\n  \
        cipolla webmail passwd --stdin < password-file")]
    Passwd {
        /// Read the password from standard input, one line.
        #[arg(long)]
        stdin: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Settings {
    /// Show the settings that are in effect, without secrets.
    #[command(after_help = "Example:\n  cipolla settings show")]
    Show,
    /// Check a settings file and say everything that is wrong with it. Changes nothing.
    #[command(after_help = "Example:\n  cipolla settings check cipolla.toml")]
    Check {
        /// The file.
        file: Utf8PathBuf,
    },
    /// Check a settings file and put it into effect: configuration is rendered anew and services reloaded.
    #[command(after_help = "Example:\n  cipolla settings apply cipolla.toml")]
    Apply {
        /// The file.
        file: Utf8PathBuf,
    },
}

/// Runs the command and prints an error, if there is one, for a person at the console.
#[must_use]
pub fn main(cli: &Cli) -> ExitCode {
    match run::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cipolla: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// All commands that can be run, with their whole name.
    fn leaves(command: &clap::Command, name: &str) -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("{name} {}", sub.get_name());
            if sub.has_subcommands() {
                found.extend(leaves(sub, &name));
            } else {
                found.push((name, sub.clone()));
            }
        }
        found
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        let leaves = leaves(&Cli::command(), "cipolla");
        assert!(leaves.len() > 30, "{}", leaves.len());
        for (name, mut command) in leaves.into_iter().filter(|(_, command)| !command.is_hide_set()) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{name} has no example");
            assert!(help.contains(&name), "the example of {name} shows another command: {help}");
            assert!(command.get_about().is_some(), "{name} does not say what it does");
        }
    }
}
