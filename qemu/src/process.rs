//! The one place that starts programs which run beside the test: QEMU, and what a lab is made of.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::programs::{command_of, setpriv};
use crate::{Deadline, Error, Keep, Result, command_line};

/// How often a program is asked whether it has ended, or has made its socket, where the system offers no wait
/// with a limit.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// A running program that leads a process group of its own.
///
/// Unless kept, the whole group is killed with this value, and the program is waited for.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    keep: Keep,
}

impl Process {
    /// Starts an argument vector. Standard input is `stdin`; what the program writes goes to the file `log`.
    /// `name` is how errors call it. It is not kept until [`Process::keep`] says so.
    pub(crate) fn spawn(name: &str, line: &[OsString], stdin: Stdio, log: &Path) -> Result<Self> {
        let output = fs_err::File::create(log).map_err(Error::io("creating", log))?.into_parts().0;
        let errors = output.try_clone().map_err(Error::io("opening", log))?;
        let child =
            command_of(line).stdin(stdin).stdout(output).stderr(errors).process_group(0).spawn().map_err(
                |error| Error::Program { command: command_line(line), problem: error.to_string() },
            )?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), keep: Keep::No })
    }

    /// Its process id, which is also that of its group.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The other end of its standard input, if that is a pipe.
    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Decides whether it outlives this value.
    pub(crate) fn keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(Error::io("waiting for", &self.log))
    }

    /// How it ended, with its last words, if it did.
    pub(crate) fn end_story(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("{} ended with {status}: {}", self.name, last_words(&self.log)))
    }

    /// Asks `look` again and again until it finds something. Fails early when the program ends.
    pub(crate) fn wait<T>(
        &mut self,
        what: &str,
        deadline: Deadline,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if let Some(how) = self.end_story() {
                return Err(Error::Ended { what: what.to_owned(), how });
            }
            let Some(left) = deadline.left() else {
                return Err(Error::Deadline { what: what.to_owned(), waited: deadline.waited() });
            };
            std::thread::sleep(POLL.min(left));
        }
    }

    /// Waits until the program has made a socket and connects to it.
    pub(crate) fn connect(&mut self, socket: &Path, deadline: Deadline) -> Result<UnixStream> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        let what = format!("{} to start", self.name);
        self.wait(&what, deadline, || match UnixStream::connect(socket) {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(None),
            Err(error) => Err(Error::io("connecting to", socket)(error)),
        })
    }

    /// Kills its process group and waits for it.
    pub(crate) fn kill(&mut self) {
        // The group may be gone already. A group of a child that was not waited for cannot be another's.
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.keep == Keep::No {
            self.kill();
        }
    }
}

/// Makes a command line die with the thread that starts it: the wrapper's process by the host's setpriv, and
/// the program, should the wrapper have forked, by that of the tree, which dies with the wrapper. Without
/// setpriv on the host it stays as it is. `line` begins with `wrapper`.
#[must_use]
pub fn dies_with_us(line: &[OsString], wrapper: &[OsString]) -> Vec<OsString> {
    let Some(setpriv) = setpriv() else { return line.to_vec() };
    let dies = |program: &Path| [program.as_os_str().to_owned(), "--pdeathsig".into(), "KILL".into()];
    let mut all = dies(&setpriv).to_vec();
    all.extend_from_slice(wrapper);
    if !wrapper.is_empty() {
        all.extend(dies("setpriv".as_ref()));
    }
    all.extend_from_slice(&line[wrapper.len()..]);
    all
}

/// The end of what a program wrote to its log.
pub(crate) fn last_words(log: &Path) -> String {
    let text = fs_err::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Process {
        let line = ["sh", "-c", script].map(Into::into);
        Process::spawn("the shell", &line, Stdio::piped(), log).unwrap()
    }

    #[test]
    fn both_ends_of_a_wrapper_die_with_us() {
        let (line, wrapper) = (["in", "lab", "qemu", "-x"].map(Into::into), ["in", "lab"].map(Into::into));
        let all = command_line(&dies_with_us(&line, &wrapper));
        assert!(all.ends_with("setpriv --pdeathsig KILL in lab setpriv --pdeathsig KILL qemu -x"), "{all}");
        assert!(command_line(&dies_with_us(&line, &[])).ends_with("--pdeathsig KILL in lab qemu -x"));
    }

    #[test]
    fn a_wait_ends_with_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell("echo no more >&2; exit 4", &folder.path().join("log"));
        let error = process.wait("a sign", Deadline::seconds(60), || Ok(None::<()>)).unwrap_err();
        assert_eq!(error.to_string(), "waiting for a sign: the shell ended with exit status: 4: no more");
    }

    #[test]
    fn the_whole_group_ends() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("child");
        let mut process = shell(
            &format!("sleep 600 & echo $! >{0}.new; mv {0}.new {0}; wait", note.display()),
            &folder.path().join("log"),
        );
        let child = process
            .wait("the child", Deadline::seconds(60), || Ok(fs_err::read_to_string(&note).ok()))
            .unwrap();
        let child = Pid::from_raw(child.trim().parse().unwrap()).unwrap();
        drop(process);
        // A killed orphan stays visible until somebody has reaped it.
        let gone = Deadline::seconds(60);
        while rustix::process::test_kill_process(child).is_ok() && !is_zombie(child) {
            assert!(gone.left().is_some(), "the child lives on");
            std::thread::sleep(POLL);
        }
    }

    fn is_zombie(process: Pid) -> bool {
        let status = fs_err::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()));
        status.is_ok_and(|status| status.contains("State:\tZ"))
    }
}
