//! Looking at an appliance from outside: where the tools for that run, and what they say.
//!
//! | module | what |
//! |---|---|
//! | [`nmap`] | open ports, TCP and UDP |
//! | [`openssl`] | whether a TLS port agrees to one version |
//! | [`ssh_audit`] | weak algorithms of an SSH server |
//! | [`testssl`] | findings about a TLS port |
//!
//! Each has a function that makes the argument vector, which does nothing, and one that reads the tool's output,
//! which takes text; [`Vantage::output`] does the work between the two.
//!
//! Never: an address that the caller did not name, a look-up of names, a tool that is not in a tools tree.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context as _, bail};
use qemu::{Deadline, command_line, dies_with_us};
use rustix::process::{Pid, Signal, kill_process_group};

pub mod nmap;
pub mod openssl;
pub(crate) mod scenario;
pub mod ssh_audit;
pub mod testssl;

/// A point from which to look: a network namespace, and the tools tree whose programs look.
#[derive(Clone, Debug, Default)]
pub struct Vantage {
    /// Argument vector that enters a network namespace, such as that of [`qemu::Lab::network`]; empty for our own.
    pub namespace: Vec<OsString>,
    /// Argument vector that enters the tree and keeps the network: [`crate::Context::scanners`] or
    /// [`crate::Context::browser`]; empty for the host's own programs.
    pub tree: Vec<OsString>,
}

/// What a tool left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Vantage {
    /// A program at this point as an argument vector that dies with the thread that starts it.
    #[must_use]
    pub fn line(&self, argv: &[OsString]) -> Vec<OsString> {
        let wrapper = [self.namespace.as_slice(), &self.tree].concat();
        dies_with_us(&[wrapper.as_slice(), argv].concat(), &wrapper)
    }

    /// Starts a program at this point as the leader of its own process group, which dies with the [`Group`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        &self,
        argv: &[OsString],
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    ) -> anyhow::Result<Group> {
        let line = self.line(argv);
        let mut command = Command::new(line.first().map_or(OsStr::new(""), OsString::as_os_str));
        command.args(line.iter().skip(1)).stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
        let child = command.spawn().with_context(|| format!("starting `{}`", command_line(argv)))?;
        Ok(Group(child))
    }

    /// Runs a program to its end, whatever its status; stdin is empty.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended by the deadline: it is killed then.
    pub fn output(&self, argv: &[OsString], deadline: Deadline) -> anyhow::Result<Output> {
        let mut group = self.spawn(argv, Stdio::null(), Stdio::piped(), Stdio::piped())?;
        let stdout = group.0.stdout.take().map(collect);
        let stderr = group.0.stderr.take().map(collect);
        let text = |pipe: Option<Receiver<Vec<u8>>>| {
            let left = deadline.left().unwrap_or_default();
            let bytes = pipe.and_then(|pipe| pipe.recv_timeout(left).ok());
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let (Some(stdout), Some(stderr)) = (text(stdout), text(stderr)) else {
            bail!("`{}` has not ended after {} s", command_line(argv), deadline.waited().as_secs());
        };
        Ok(Output { status: group.0.wait()?, stdout, stderr })
    }
}

/// Reads a pipe to its end on a thread of its own, so that neither of two pipes fills up.
fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if pipe.read_to_end(&mut bytes).is_ok() {
            // Nobody waits any more once the deadline has passed.
            let _ = sender.send(bytes);
        }
    });
    receiver
}

/// A child with its process group: dropping it kills the group and waits for the child.
#[derive(Debug)]
pub struct Group(pub Child);

impl Drop for Group {
    fn drop(&mut self) {
        // A group of a child that was not waited for cannot be another's.
        if matches!(self.0.try_wait(), Ok(None))
            && let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Words as an argument vector.
pub(crate) fn words<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Vec<OsString> {
    words.into_iter().map(|word| word.as_ref().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_namespace_is_entered_before_the_tree() {
        let vantage = Vantage { namespace: words(["in", "net"]), tree: words(["in", "tree"]) };
        let line = command_line(&vantage.line(&words(["nmap", "-V"])));
        assert!(line.contains("in net in tree") && line.ends_with(" nmap -V"), "{line}");
    }

    #[test]
    fn both_streams_and_the_status_come_back() {
        let argv = words(["sh", "-c", "echo out; echo err >&2; exit 3"]);
        let output = Vantage::default().output(&argv, Deadline::seconds(20)).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_tool_that_hangs_is_killed_with_its_children() {
        let start = Instant::now();
        let deadline = Deadline::after(Duration::from_millis(300));
        let error = Vantage::default().output(&words(["sh", "-c", "sleep 99 & wait"]), deadline).unwrap_err();
        assert!(error.to_string().contains("has not ended after 0 s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
