//! The process that holds a lab's namespaces.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use crate::process::Process;
use crate::{Deadline, Error, Keep, Programs, Result, RunDir};

/// How long the namespaces may take; they are a matter of milliseconds.
const START: Duration = Duration::from_secs(60);

/// How long the kernel may take to end all that runs inside.
const END: Duration = Duration::from_secs(10);

/// Process 1 of the lab. `wait` also reaps whoever loses its parent: a killed machine leaves its QEMU behind.
/// What reads standard input gets it as descriptor 3, since a shell gives nothing to what it runs beside itself.
const HOLD: &str = r#"exec 3<&0
case $1 in
  keep) sleep infinity & ;;
  *) cat <&3 >/dev/null & ;;
esac
echo ready
wait $!"#;

/// The holder. Dropping it, unless it is kept, ends everything in the lab and waits until it has ended.
pub(super) struct Holder {
    process: Process,
    /// The lab lives as long as this pipe is open.
    line: Option<ChildStdin>,
    wrapper: Vec<OsString>,
    network: Vec<OsString>,
}

impl Holder {
    pub(super) fn start(programs: &Programs, run_dir: &RunDir, keep: Keep) -> Result<Self> {
        let (stdin, word) = match keep {
            Keep::No => (Stdio::piped(), "end"),
            Keep::Yes => (Stdio::null(), "keep"),
        };
        let mut line = programs.line("sh");
        line.extend(["-c", HOLD, "sh", word].map(OsString::from));
        let log = run_dir.file("holder.log");
        let mut process = Process::spawn("the lab's holder", &line, stdin, &log)?;
        let line = process.take_stdin();
        let deadline = Deadline::after(START);
        process.wait("the lab's namespaces", deadline, || {
            Ok(fs_err::read_to_string(&log).is_ok_and(|text| text.contains("ready")).then_some(()))
        })?;
        let inside = child_of(process.id())?;
        let environment = fs_err::read(format!("/proc/{inside}/environ"))
            .map_err(Error::io("reading the environment in", Path::new("/proc")))?;
        let root = rustix::process::geteuid().is_root();
        let (wrapper, network) = (wrapper(inside, root, &environment), network(inside, root));
        process.keep(keep);
        Ok(Self { process, line, wrapper, network })
    }

    /// What enters the lab, to be put before every program.
    pub(super) fn wrapper(&self) -> &[OsString] {
        &self.wrapper
    }

    /// What enters the lab's network only.
    pub(super) fn network(&self) -> Vec<OsString> {
        self.network.clone()
    }

    /// The process group to kill for the end of everything.
    pub(super) fn group(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.line.take().is_some() {
            // Ends in order: process 1 has ended only when all others have.
            let _ = self.process.wait("the lab to end", Deadline::after(END), || Ok(None::<()>));
        }
    }
}

/// The process that `unshare --fork` waits for: process 1 of the pid namespace.
fn child_of(parent: u32) -> Result<u32> {
    let proc = PathBuf::from("/proc");
    let entries = fs_err::read_dir(&proc).map_err(Error::io("reading", &proc))?;
    let parent = format!("PPid:\t{parent}");
    let found = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs_err::read_to_string(entry.path().join("status")).ok()?;
        status.lines().any(|line| line == parent).then_some(pid)
    });
    found.last().ok_or_else(|| {
        Error::Spec("the wrapper of the lab's programs makes no pid namespace to enter".to_owned())
    })
}

/// Enters the namespaces of a process with its environment. Of another's namespaces an ordinary user may enter
/// the user namespace first, and has the rights for the others there.
fn wrapper(pid: u32, root: bool, environment: &[u8]) -> Vec<OsString> {
    let mut line = enter(pid, root);
    line.extend(["--mount", "--pid", "--uts", "--ipc", "--net", "--", "/usr/bin/env", "-i"].map(Into::into));
    let variables = environment.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    line.extend(variables.map(|variable| OsStr::from_bytes(variable).to_owned()));
    line
}

/// Enters the network namespace of a process; files and processes stay the host's.
fn network(pid: u32, root: bool) -> Vec<OsString> {
    let mut line = enter(pid, root);
    line.extend(["--net", "--"].map(Into::into));
    line
}

fn enter(pid: u32, root: bool) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["nsenter".into(), format!("--target={pid}").into()];
    if !root {
        line.push("--user".into());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enters_with_the_environment_inside() {
        let line = |root| wrapper(7, root, b"PATH=/bin\0TZ=UTC0\0").join(OsStr::new(" "));
        let rest = "--mount --pid --uts --ipc --net -- /usr/bin/env -i PATH=/bin TZ=UTC0";
        assert_eq!(line(true).to_string_lossy(), format!("nsenter --target=7 {rest}"));
        assert_eq!(line(false).to_string_lossy(), format!("nsenter --target=7 --user {rest}"));
        let network = network(7, false).join(OsStr::new(" "));
        assert_eq!(network.to_string_lossy(), "nsenter --target=7 --user --net --");
    }

    #[test]
    fn without_namespaces_there_is_no_lab() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(folder.path()).unwrap();
        let programs = Programs::debian(crate::Arch::Amd64, vec!["false".into()]);
        let error = Holder::start(&programs, &run_dir, Keep::No).map(drop).unwrap_err();
        assert!(error.to_string().contains("the lab's holder ended with exit status: 1"), "{error}");
    }
}
