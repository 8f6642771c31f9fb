//! `cipolla password-server`: the webmail's way to another password.
//!
//! The protocol is poppassd's, one line each way: `user`, `pass` with the present password, `newpass`, `quit`.
//! systemd starts one program per connection to a socket that only the webmail's user may open. Roundcube has the
//! user's session, but neither the right to change the passwd-file nor anything that a stolen session could change
//! without the present password.

use std::io::{BufRead, Write};
use std::str;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use identity::mailbox::{LocalPart, Mailbox};
use identity::{dovecot, policy};

use super::line;
use crate::commands::services;
use crate::machine::Machine;
use crate::mailboxes::{Writer, users};
use crate::onions::Onion;

/// The longest line, in bytes.
const MAX_LINE: usize = 8 * 1024;
/// How long the answer to a wrong password is held back.
pub const DELAY: Duration = Duration::from_secs(3);
/// The answer to what does not belong here.
const UNEXPECTED: &str = "500 expected user, pass, newpass or quit, in this order";
/// The answer when the appliance is at fault. Why is for the journal.
const FAILED: &str =
    "500 the password cannot be changed now; the owner finds the reason in the appliance's journal";

/// What the conversation is about.
pub trait Passwords {
    /// Whether this is the present password of that mailbox.
    ///
    /// # Errors
    /// When it cannot be found out.
    fn verify(&mut self, login: &str, password: &str) -> Result<bool>;

    /// Sets a new password, if the present one is still the one that [`Passwords::verify`] approved. The inner
    /// error is why the new one is refused, for the person who chose it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn change(&mut self, login: &str, new: &str) -> Result<Result<(), String>>;

    /// Holds back the answer to a wrong password.
    fn wait(&mut self);
}

/// How far the conversation is.
enum Stage {
    Greeted,
    Named(String),
    Known(String),
    Over,
}

/// Speaks until `quit` or the end of the input. A guess costs [`DELAY`] and the connection.
///
/// # Errors
/// When a line is too long or broken off, when reading or writing fails, and when passwords cannot be checked or
/// written; the other side was told then.
pub fn serve(
    input: &mut impl BufRead,
    output: &mut impl Write,
    passwords: &mut impl Passwords,
) -> Result<()> {
    let mut say = |answer: &str| -> Result<()> {
        write!(output, "{answer}\r\n").and_then(|()| output.flush()).context("answering the webmail")
    };
    say("200 ready")?;
    let mut stage = Stage::Greeted;
    while let Some(line) = line(input, MAX_LINE).context("listening to the webmail")? {
        let text = str::from_utf8(&line).unwrap_or_default();
        let (command, argument) = text.split_once(' ').unwrap_or((text, ""));
        stage = match (command.to_ascii_lowercase().as_str(), stage) {
            ("quit", _) => {
                say("200 bye")?;
                return Ok(());
            }
            ("user", Stage::Greeted) => {
                say("300 ok")?;
                Stage::Named(argument.to_owned())
            }
            ("pass", Stage::Named(login)) => match passwords.verify(&login, argument) {
                Ok(true) => {
                    say("200 ok")?;
                    Stage::Known(login)
                }
                Ok(false) => {
                    passwords.wait();
                    say("500 wrong password")?;
                    Stage::Over
                }
                Err(error) => {
                    say(FAILED)?;
                    return Err(error);
                }
            },
            ("newpass", Stage::Known(login)) => match passwords.change(&login, argument) {
                Ok(Ok(())) => {
                    say("200 password changed")?;
                    Stage::Over
                }
                Ok(Err(reason)) => {
                    say(&format!("500 {}", printable(&reason)))?;
                    Stage::Known(login)
                }
                Err(error) => {
                    say(FAILED)?;
                    return Err(error);
                }
            },
            _ => {
                say(UNEXPECTED)?;
                Stage::Over
            }
        };
    }
    Ok(())
}

/// One line of ASCII.
fn printable(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

/// The mailboxes of this appliance.
pub struct Mailboxes<'w, 'm> {
    machine: &'w Machine<'m>,
    /// The hash that the present password was found to have.
    approved: Option<String>,
}

impl<'w, 'm> Mailboxes<'w, 'm> {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(machine: &'w Machine<'m>) -> Self {
        Self { machine, approved: None }
    }

    /// Which mailbox is meant: a login may leave out our domain, and is of any case, as with Dovecot. `None` if it
    /// can be none of ours.
    fn mailbox(&self, login: &str) -> Result<Option<(LocalPart, String)>> {
        let domain = Onion::Mx.address(self.machine.fs)?;
        let login = login.to_ascii_lowercase();
        let local = match login.contains('@') {
            true => login.parse::<Mailbox>().ok().filter(|mailbox| mailbox.onion == domain).map(|m| m.local),
            false => login.parse().ok(),
        };
        Ok(local.map(|local| (local.clone(), format!("{local}@{domain}"))))
    }
}

impl Passwords for Mailboxes<'_, '_> {
    fn verify(&mut self, login: &str, password: &str) -> Result<bool> {
        self.approved = None;
        let Some((_, address)) = self.mailbox(login)? else { return Ok(false) };
        let users = users::load(self.machine.fs)?;
        let Some(hash) = users::hash(&users, &address) else { return Ok(false) };
        let right = dovecot::verify(hash, password).with_context(|| format!("checking {address}"))?;
        self.approved = right.then(|| hash.to_owned());
        Ok(right)
    }

    fn change(&mut self, login: &str, new: &str) -> Result<Result<(), String>> {
        let (Some((local, address)), Some(approved)) = (self.mailbox(login)?, &self.approved) else {
            bail!("a new password came before the present one");
        };
        if let Err(refused) = policy::check(new, &local) {
            return Ok(Err(refused.to_string()));
        }
        let hash = dovecot::hash(new, &mut **self.machine.rng.borrow_mut())?;
        let writer = Writer::lock(self.machine)?;
        let users = writer.users()?;
        if users::hash(&users, &address) != Some(approved) {
            return Ok(Err("the password was changed by somebody else meanwhile".to_owned()));
        }
        let changed = users::with_hash(&users, &address, &hash).context("the mailbox vanished")?;
        writer.put_users(&changed)?;
        self.approved = None;
        // The password is changed, whatever comes of this; the journal gets to know.
        services::forget_login(self.machine, &address, false)?
            .iter()
            .for_each(|problem| eprintln!("{problem}"));
        Ok(Ok(()))
    }

    fn wait(&mut self) {
        std::thread::sleep(DELAY);
    }
}

impl std::fmt::Debug for Mailboxes<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailboxes").finish_non_exhaustive()
    }
}

/// A whole conversation on standard input and output.
///
/// # Errors
/// As [`serve`].
pub fn run(machine: &Machine<'_>) -> Result<()> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    serve(&mut input, &mut output, &mut Mailboxes::new(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ada's password is `old`; new ones are fine unless they are short.
    #[derive(Default)]
    struct Ada {
        set: Vec<String>,
        waits: usize,
        broken: bool,
    }

    impl Passwords for Ada {
        fn verify(&mut self, login: &str, password: &str) -> Result<bool> {
            if self.broken {
                bail!("out of memory");
            }
            Ok(login == "ada" && password == "old")
        }

        fn change(&mut self, _login: &str, new: &str) -> Result<Result<(), String>> {
            if new.len() < 12 {
                return Ok(Err("too short\r\n200 é".to_owned()));
            }
            self.set.push(new.to_owned());
            Ok(Ok(()))
        }

        fn wait(&mut self) {
            self.waits += 1;
        }
    }

    fn talk(ada: &mut Ada, said: &[u8]) -> (String, Result<()>) {
        let mut answers = Vec::new();
        let result = serve(&mut &*said, &mut answers, ada);
        (String::from_utf8(answers).unwrap().replace("\r\n", "|"), result)
    }

    #[test]
    fn a_password_is_changed() {
        for newline in ["\n", "\r\n"] {
            let mut ada = Ada::default();
            let said = ["user ada", "pass old", "newpass seven tall  giraffes ", "quit", ""].join(newline);
            let (answers, result) = talk(&mut ada, said.as_bytes());
            assert_eq!(answers, "200 ready|300 ok|200 ok|200 password changed|200 bye|");
            assert!(result.is_ok());
            assert_eq!(ada.set, ["seven tall  giraffes "]);
            assert_eq!(ada.waits, 0);
        }
    }

    #[test]
    fn a_guess_costs_time_and_the_conversation() {
        for said in ["user ada\npass guess\npass old\nquit\n", "user eve\npass old\nnewpass x\nquit\n"] {
            let mut ada = Ada::default();
            let (answers, _) = talk(&mut ada, said.as_bytes());
            assert_eq!(answers, format!("200 ready|300 ok|500 wrong password|{UNEXPECTED}|200 bye|"),);
            assert_eq!((ada.waits, ada.set.len()), (1, 0));
        }
    }

    #[test]
    fn a_refused_password_can_be_tried_again() {
        let mut ada = Ada::default();
        let said =
            b"user ada\npass old\nnewpass short\nnewpass a longer one than that\nnewpass again and again\n";
        let (answers, result) = talk(&mut ada, said);
        assert_eq!(
            answers,
            format!("200 ready|300 ok|200 ok|500 too short??200 ?|200 password changed|{UNEXPECTED}|"),
            "a reason cannot forge an answer, and one conversation changes one password"
        );
        assert!(result.is_ok());
        assert_eq!(ada.set.len(), 1);
    }

    #[test]
    fn nothing_works_out_of_order() {
        for said in ["pass old\n", "newpass abc\n", "HELO x\n", "\n", "userada\n"] {
            let (answers, _) = talk(&mut Ada::default(), said.as_bytes());
            assert_eq!(answers, format!("200 ready|{UNEXPECTED}|"), "{said:?}");
        }
        let mut ada = Ada::default();
        let (answers, _) = talk(&mut ada, b"user ada\nnewpass abcdefghijklmnop\npass old\n");
        assert_eq!(answers, format!("200 ready|300 ok|{UNEXPECTED}|{UNEXPECTED}|"));
        assert!(ada.set.is_empty());
    }

    #[test]
    fn broken_input_ends_it() {
        let long = format!("user ada\npass {}\n", "x".repeat(MAX_LINE));
        for said in [long.as_bytes(), b"user ada\npass ol"] {
            let (answers, result) = talk(&mut Ada::default(), said);
            assert_eq!(answers, "200 ready|300 ok|");
            assert!(result.is_err());
        }
        // Bytes that are no text are no password.
        let (answers, _) = talk(&mut Ada::default(), b"user ada\npass \xff\xfe\n");
        assert_eq!(answers, format!("200 ready|300 ok|{UNEXPECTED}|"));
    }

    #[test]
    fn a_fault_of_ours_is_said_and_logged() {
        let mut ada = Ada { broken: true, ..Ada::default() };
        let (answers, result) = talk(&mut ada, b"user ada\npass old\nnewpass abcdefghijklmnop\n");
        assert_eq!(answers, format!("200 ready|300 ok|{FAILED}|"));
        assert_eq!(result.unwrap_err().to_string(), "out of memory");
    }
}
