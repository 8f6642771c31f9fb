//! Traffic of others, in a Tor network that has none.
//!
//! A relay that has several circuits to end (a client of its went away) queues a DESTROY for each, but only the first one
//! makes it write to a channel that is idle; the rest go with the next cell of any circuit (Tor 0.4.9,
//! `circuitmux_append_destroy_cell`). Until then an introduction point acknowledges for a service that has ended, and
//! whoever asked there waits for minutes. Relays of the real network always have a next cell. Here every relay makes a
//! circuit to every other one, and closes it, again and again.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::Control;
use crate::{Deadline, Error, Result};

/// How long a channel between two relays may be idle. A circuit of four relays is gone after three times that.
pub(super) const ROUND: Duration = Duration::from_secs(5);

/// A relay answers its control socket within this time, in seconds, or is left alone.
const ANSWER: u64 = 30;

/// Keeps relays talking to each other. Ends with this value.
pub(super) struct Traffic {
    /// Nothing is ever sent: the other end notices when this one is dropped.
    going: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Begins, between relays of which each is given by its fingerprint and a control connection of its own. Until they
    /// know each other they refuse, which does no harm.
    pub(super) fn start(relays: Vec<(String, Control)>) -> Self {
        let fingerprints: Vec<_> = relays.iter().map(|(fingerprint, _)| fingerprint.clone()).collect();
        let mut relays: Vec<_> = relays
            .into_iter()
            .map(|(own, control)| Relay {
                control,
                others: fingerprints.iter().filter(|other| **other != own).cloned().collect(),
                circuits: Vec::new(),
            })
            .collect();
        let (going, gone) = channel::<()>();
        let thread = std::thread::spawn(move || {
            while gone.recv_timeout(ROUND) == Err(RecvTimeoutError::Timeout) {
                // One that does not answer any more has ended, or ends now: that is for others to tell.
                relays.retain_mut(|relay| relay.talk().is_ok());
            }
        });
        Self { going: Some(going), thread: Some(thread) }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        drop(self.going.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: a panic of its own is no fault of what is tested.
            let _ = thread.join();
        }
    }
}

struct Relay {
    control: Control,
    /// Fingerprints.
    others: Vec<String>,
    /// The circuits of the last round, by their numbers.
    circuits: Vec<String>,
}

impl Relay {
    /// Closes the circuits of the last round, and makes new ones.
    fn talk(&mut self) -> Result<()> {
        for circuit in std::mem::take(&mut self.circuits) {
            // It may have been closed from the other side.
            self.ask(&format!("CLOSECIRCUIT {circuit}"))?;
        }
        for number in 0..self.others.len() {
            let command = format!("EXTENDCIRCUIT 0 ${}", self.others[number]);
            let answer = self.ask(&command)?;
            self.circuits
                .extend(answer.iter().filter_map(|line| line.strip_prefix("EXTENDED ")).map(str::to_owned));
        }
        Ok(())
    }

    /// The answer to a command; none if it was refused.
    fn ask(&mut self, command: &str) -> Result<Vec<String>> {
        match self.control.ask(command, Deadline::seconds(ANSWER)) {
            Err(Error::Refused { .. }) => Ok(Vec::new()),
            answer => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn every_circuit_is_closed_in_the_next_round_and_a_refusal_ends_nothing() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let tor = std::thread::spawn(move || {
            let commands = BufReader::new(far.try_clone().unwrap()).lines();
            let mut said = Vec::new();
            for (command, circuit) in commands.map_while(std::result::Result::ok).zip(1..) {
                let answer = match command.split(' ').next() {
                    Some("EXTENDCIRCUIT") if command.ends_with("$B") => "552 No such router\r\n".to_owned(),
                    Some("EXTENDCIRCUIT") => format!("250 EXTENDED {circuit}\r\n"),
                    _ => "250 OK\r\n".to_owned(),
                };
                far.write_all(answer.as_bytes()).unwrap();
                said.push(command);
            }
            said
        });
        let control = Control::new(near, None, Deadline::seconds(5)).unwrap();
        let mut relay = Relay { control, others: vec!["A".into(), "B".into()], circuits: Vec::new() };
        relay.talk().unwrap();
        relay.talk().unwrap();
        drop(relay);
        let wanted = [
            "AUTHENTICATE",
            "EXTENDCIRCUIT 0 $A",
            "EXTENDCIRCUIT 0 $B",
            "CLOSECIRCUIT 2",
            "EXTENDCIRCUIT 0 $A",
            "EXTENDCIRCUIT 0 $B",
        ];
        assert_eq!(tor.join().unwrap(), wanted);
    }

    #[test]
    fn it_ends_at_once_when_dropped() {
        let since = std::time::Instant::now();
        drop(Traffic::start(Vec::new()));
        assert!(since.elapsed() < ROUND);
    }
}
