//! The owner's commands about mail: further addresses, lists, blocked senders, the queue.

use anyhow::{Result, bail};
use clap::Subcommand;

use super::Cli;
use super::run::{confirm, need_root, print};
use crate::commands::{alias, block, list, queue};
use crate::machine::Machine;
use crate::tor_control;

#[derive(Debug, Subcommand)]
pub(super) enum Mail {
    /// Give mailboxes further addresses.
    #[command(subcommand)]
    Alias(Alias),
    /// Keep mailing lists: one address, many people.
    #[command(subcommand)]
    List(List),
    /// Refuse mail of some senders.
    #[command(subcommand)]
    Block(Block),
    /// Look after mail that waits to be delivered.
    #[command(subcommand)]
    Queue(Queue),
}

#[derive(Debug, Subcommand)]
pub(super) enum Alias {
    /// Let mail for a further address reach a mailbox, whose user may then also write as that address.
    ///
    /// Several mailboxes share an alias if all are named. Roles such as postmaster or abuse reach the owner; an alias
    /// of such a name sends them elsewhere.
    #[command(after_help = "Examples:\n  \
        cipolla alias add sales ada\n  \
        cipolla alias add support ada bob")]
    Add {
        /// The part of the further address before the @.
        name: String,
        /// The mailboxes that it leads to.
        #[arg(required = true, value_name = "MAILBOX")]
        mailboxes: Vec<String>,
    },
    /// Remove an alias, or take mailboxes out of it.
    #[command(after_help = "Examples:\n  \
        cipolla alias remove sales\n  \
        cipolla alias remove support bob")]
    Remove {
        /// The part of the address before the @.
        name: String,
        /// Only these mailboxes.
        #[arg(value_name = "MAILBOX")]
        mailboxes: Vec<String>,
    },
    /// List the aliases.
    #[command(after_help = "Example:\n  cipolla alias list --json")]
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum List {
    /// Make a list. Members are mailboxes and aliases here, or addresses at other onions.
    ///
    /// Whoever knows the address can write to the list. Mail goes on in the writer's name, so a member at another
    /// Cipolla, which accepts its own addresses from its own users only, does not get what that member wrote.
    #[command(after_help = "Example:\n  cipolla list create team ada bob eve@ADDRESS.onion")]
    Create {
        /// The part of the list's address before the @.
        name: String,
        /// Its members.
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<String>,
    },
    /// Add members to a list.
    #[command(after_help = "Example:\n  cipolla list add team carol")]
    Add {
        /// The part of the list's address before the @.
        name: String,
        /// The new members.
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<String>,
    },
    /// Take members off a list.
    #[command(after_help = "Example:\n  cipolla list remove team bob")]
    Remove {
        /// The part of the list's address before the @.
        name: String,
        /// The members that leave.
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<String>,
    },
    /// Show a list and its members, or all lists.
    #[command(after_help = "Examples:\n  cipolla list show\n  cipolla list show team")]
    Show {
        /// The part of the list's address before the @.
        name: Option<String>,
    },
    /// Remove a list. Mail to its address is refused from then on.
    #[command(after_help = "Example:\n  cipolla list delete team")]
    Delete {
        /// The part of the list's address before the @.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Block {
    /// Refuse mail of a sender, or of everybody at an onion.
    #[command(after_help = "Examples:\n  \
        cipolla block add spammer@ADDRESS.onion\n  \
        cipolla block add ADDRESS.onion")]
    Add {
        /// Addresses or onions.
        #[arg(required = true, value_name = "SENDER")]
        senders: Vec<String>,
    },
    /// Take mail of a sender again.
    #[command(after_help = "Example:\n  cipolla block remove spammer@ADDRESS.onion")]
    Remove {
        /// Addresses or onions.
        #[arg(required = true, value_name = "SENDER")]
        senders: Vec<String>,
    },
    /// List the senders whose mail is refused.
    #[command(after_help = "Example:\n  cipolla block list")]
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum Queue {
    /// List the mail that waits, and why.
    #[command(after_help = "Example:\n  cipolla queue list")]
    List,
    /// Show the headers of a message, as its recipients will see them.
    #[command(after_help = "Example:\n  cipolla queue show 4gC7Xk1b0zz9xQ")]
    Show {
        /// The message's name in the list.
        id: String,
    },
    /// Try again now, instead of when it is due. Tor looks up where the peers are, as if for the first time.
    #[command(after_help = "Examples:\n  \
        cipolla queue retry                     # everything\n  \
        cipolla queue retry 4gC7Xk1b0zz9xQ")]
    Retry {
        /// Names of messages; none: all.
        #[arg(value_name = "ID")]
        ids: Vec<String>,
    },
    /// Keep messages in the queue until they are released.
    #[command(after_help = "Example:\n  cipolla queue hold 4gC7Xk1b0zz9xQ")]
    Hold {
        /// Names of messages.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Let messages that were held go on.
    #[command(after_help = "Example:\n  cipolla queue release 4gC7Xk1b0zz9xQ")]
    Release {
        /// Names of messages.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Delete messages for good; neither sender nor recipient is told. Asks first.
    #[command(after_help = "Example:\n  cipolla queue delete 4gC7Xk1b0zz9xQ")]
    Delete {
        /// Names of messages.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(cli: &Cli, command: &Mail, machine: &Machine<'_>) -> Result<()> {
    need_root("looking after mail")?;
    match command {
        Mail::Alias(command) => alias(cli, command, machine),
        Mail::List(command) => list(cli, command, machine),
        Mail::Block(command) => block(cli, command, machine),
        Mail::Queue(command) => queue(cli, command, machine),
    }
}

/// Says whether a command changed something: a second time, it did not, which is fine.
fn changed(cli: &Cli, changed: bool, said: &str) -> Result<()> {
    print(cli, &changed, if changed { said } else { "that is so already; nothing was changed" })
}

fn alias(cli: &Cli, command: &Alias, machine: &Machine<'_>) -> Result<()> {
    match command {
        Alias::Add { name, mailboxes } => {
            let said = format!("mail for {name} reaches {}", mailboxes.join(", "));
            changed(cli, alias::add(machine, name, mailboxes)?, &said)
        }
        Alias::Remove { name, mailboxes } => {
            let said = match &mailboxes[..] {
                [] => format!("the alias {name} is gone"),
                _ => format!("mail for {name} does not reach {} any more", mailboxes.join(", ")),
            };
            changed(cli, alias::remove(machine, name, mailboxes)?, &said)
        }
        Alias::List => {
            let list = alias::list(machine)?;
            print(cli, &list, &alias::text(&list))
        }
    }
}

fn list(cli: &Cli, command: &List, machine: &Machine<'_>) -> Result<()> {
    match command {
        List::Create { name, members } => {
            let said = format!("the list {name} reaches {}", members.join(", "));
            changed(cli, list::create(machine, name, members)?, &said)
        }
        List::Add { name, members } => {
            let said = format!("the list {name} also reaches {}", members.join(", "));
            changed(cli, list::add(machine, name, members)?, &said)
        }
        List::Remove { name, members } => {
            let said = format!("the list {name} does not reach {} any more", members.join(", "));
            changed(cli, list::remove(machine, name, members)?, &said)
        }
        List::Show { name } => {
            let lists = list::show(machine, name.as_deref())?;
            print(cli, &lists, &list::text(&lists))
        }
        List::Delete { name } => {
            changed(cli, list::delete(machine, name)?, &format!("the list {name} is gone"))
        }
    }
}

fn block(cli: &Cli, command: &Block, machine: &Machine<'_>) -> Result<()> {
    match command {
        Block::Add { senders } => changed(
            cli,
            block::add(machine, senders)?,
            &format!("refused from now on: {}", senders.join(", ")),
        ),
        Block::Remove { senders } => changed(
            cli,
            block::remove(machine, senders)?,
            &format!("not refused any more: {}", senders.join(", ")),
        ),
        Block::List => {
            let list = block::list(machine)?;
            print(cli, &list, &block::text(&list))
        }
    }
}

fn queue(cli: &Cli, command: &Queue, machine: &Machine<'_>) -> Result<()> {
    match command {
        Queue::List => {
            let messages = queue::list(machine)?;
            print(cli, &messages, &queue::text(&messages, machine.now))
        }
        Queue::Show { id } => {
            let headers = queue::show(machine, id)?;
            print(cli, &headers, &headers)
        }
        Queue::Retry { ids } => {
            queue::retry(machine, ids, || {
                if let Err(error) = tor_control::forget_peers() {
                    eprintln!("cipolla: Tor does not look the peers up anew: {error:#}; see: cipolla status");
                }
            })?;
            print(cli, ids, "Postfix tries again now; see: cipolla queue list")
        }
        Queue::Hold { ids } => {
            queue::hold(machine, ids)?;
            print(cli, ids, "held until: cipolla queue release")
        }
        Queue::Release { ids } => {
            queue::release(machine, ids)?;
            print(cli, ids, "released; Postfix delivers when it can")
        }
        Queue::Delete { ids, yes } => {
            if !yes && !confirm("Nobody will get this mail, nor be told. Delete it?")? {
                bail!("nothing was deleted");
            }
            queue::delete(machine, ids)?;
            print(cli, ids, "deleted")
        }
    }
}
