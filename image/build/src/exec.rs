//! The one place of a build that starts processes.
//!
//! A [`Cmd`] is data until [`Cmd::run`]: its `Display` is the line a person can paste into a shell, used by the
//! trace (`-v`), by the stage logs and by errors. What happens to the streams: stdin is `/dev/null`; stdout and
//! stderr go to the stage's log, unless [`Cmd::output`] collects stdout. Every child leads its own process group,
//! dies with us (`PR_SET_PDEATHSIG`), and is killed when its deadline passes or when a person presses Ctrl-C.
//!
//! Never: a shell, a command assembled from strings, a wait without an end for something that uses the network.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::space::Space;

/// How much of a failed command's log an error shows.
const TAIL_LINES: usize = 25;

/// A command as data: program, arguments, environment, and where it runs.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<String, OsString>,
    cwd: Option<Utf8PathBuf>,
    space: Option<Space>,
    deadline: Option<Duration>,
}

impl Cmd {
    /// A command that runs `program`, found in `PATH` (of the host, or of the space it is put in).
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Cmd {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
            space: None,
            deadline: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(key.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn cwd(mut self, dir: &Utf8Path) -> Self {
        self.cwd = Some(dir.to_owned());
        self
    }

    /// Runs inside a [`Space`]: own namespaces, another Debian tree as root, no network unless the space has it.
    #[must_use]
    pub fn within(mut self, space: &Space) -> Self {
        self.space = Some(space.clone());
        self
    }

    /// Kills the command and fails once it has run for this long.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The argument vector that is really executed.
    pub fn argv(&self) -> Vec<OsString> {
        let mut argv = vec![self.program.clone()];
        argv.extend(self.args.iter().cloned());
        match &self.space {
            Some(space) => space.wrap(&argv, &self.env),
            None => argv,
        }
    }

    /// Runs to the end; stdout and stderr go to `log`.
    ///
    /// # Errors
    /// The command could not start, ended badly, passed its deadline, or a person interrupted; the message holds
    /// the command line and the end of the log.
    pub fn run(&self, log: &Log) -> Result<()> {
        log.trace(self)?;
        let from = log.position()?;
        let (out, err) = (log.file()?, log.file()?);
        let child = self.spawn(out.into(), err.into())?;
        let status = self.wait(child)?;
        if !status.success() {
            return Err(anyhow!("{}", log.tail(from)).context(format!("{self} ended with {status}")));
        }
        Ok(())
    }

    /// Runs to the end and returns its stdout; stderr goes to `log`.
    ///
    /// # Errors
    /// As [`Cmd::run`]; also when stdout is not UTF-8.
    pub fn output(&self, log: &Log) -> Result<String> {
        log.trace(self)?;
        let from = log.position()?;
        let mut child = self.spawn(Stdio::piped(), log.file()?.into())?;
        let mut pipe = child.stdout.take().context("taking the pipe of a child")?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        let status = self.wait(child)?;
        let text = reader.join().map_err(|_| anyhow!("the reader of {self} panicked"))?;
        if !status.success() {
            return Err(anyhow!("{}", log.tail(from)).context(format!("{self} ended with {status}")));
        }
        text.with_context(|| format!("reading what {self} printed"))
    }

    /// Runs to the end on the person's own terminal, so that it can ask for a password. No space, no deadline.
    ///
    /// # Errors
    /// The command could not start, or ended badly.
    pub fn run_attached(&self, log: &Log) -> Result<()> {
        log.trace(self)?;
        let mut command = Command::new(&self.program);
        let status =
            command.args(&self.args).envs(&self.env).status().with_context(|| format!("starting {self}"))?;
        interrupted()?;
        if !status.success() {
            bail!("{self} ended with {status}");
        }
        Ok(())
    }

    fn spawn(&self, stdout: Stdio, stderr: Stdio) -> Result<Running> {
        interrupted()?;
        let argv = self.argv();
        // setpriv is in util-linux, which is essential: the child dies when this process does, however it dies.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&argv);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        if self.space.is_none() {
            command.envs(&self.env);
        }
        if let Some(dir) = &self.cwd {
            command.current_dir(dir);
        }
        let child = command.spawn().with_context(|| format!("starting {self}"))?;
        Ok(Running::new(child))
    }

    fn wait(&self, mut child: Running) -> Result<ExitStatus> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = child.try_wait().with_context(|| format!("waiting for {self}"))? {
                child.forget();
                interrupted()?;
                return Ok(status);
            }
            interrupted()?;
            if self.deadline.is_some_and(|d| started.elapsed() > d) {
                bail!("{self} did not end within {} s, so it was stopped", started.elapsed().as_secs());
            }
            // A child's end wakes nobody here; the pause grows to 20 ms, which no stage notices.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = &self.cwd {
            write!(f, "cd {} && ", quote(dir.as_str()))?;
        }
        if self.space.is_none() {
            for (key, value) in &self.env {
                write!(f, "{key}={} ", quote(&value.to_string_lossy()))?;
            }
        }
        let argv = self.argv();
        let words: Vec<String> = argv.iter().map(|a| quote(&a.to_string_lossy())).collect();
        f.write_str(&words.join(" "))
    }
}

/// Quotes a word for a POSIX shell when it needs it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A running child whose whole process group is killed when this is dropped.
struct Running {
    child: Option<Child>,
    pid: Option<Pid>,
}

impl Running {
    fn new(child: Child) -> Self {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Running { child: Some(child), pid }
    }

    fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.try_wait(),
            None => Ok(None),
        }
    }

    /// The child has ended and was reaped: its number may belong to another process now.
    fn forget(&mut self) {
        self.child = None;
    }
}

impl std::ops::Deref for Running {
    type Target = Child;
    fn deref(&self) -> &Child {
        self.child.as_ref().unwrap_or_else(|| unreachable!("a running child is only taken when it is reaped"))
    }
}

impl std::ops::DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        self.child.as_mut().unwrap_or_else(|| unreachable!("a running child is only taken when it is reaped"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Some(pid) = self.pid {
            // The group may be gone already; there is nothing better to do about a failure here.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = child.wait();
    }
}

/// A stage's log: everything its commands print, and the commands themselves.
#[derive(Clone, Debug)]
pub struct Log {
    path: Utf8PathBuf,
    file: Arc<Mutex<File>>,
    echo: bool,
}

impl Log {
    /// Starts the log file anew. With `echo`, each command is also shown on stderr (`-v`).
    ///
    /// # Errors
    /// The file or its folder cannot be made.
    pub fn create(path: &Utf8Path, echo: bool) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs_err::create_dir_all(dir)?;
        }
        fs_err::File::create(path)?;
        let file = fs_err::OpenOptions::new().append(true).read(true).open(path)?.into_parts().0;
        Ok(Log { path: path.to_owned(), file: Arc::new(Mutex::new(file)), echo })
    }

    /// Where the log is.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Writes a line of our own.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn line(&self, text: &str) -> Result<()> {
        let mut file = self.file.lock().map_err(|_| anyhow!("the log {} is poisoned", self.path))?;
        writeln!(file, "{text}").with_context(|| format!("writing {}", self.path))
    }

    fn trace(&self, cmd: &Cmd) -> Result<()> {
        if self.echo {
            eprintln!("+ {cmd}");
        }
        self.line(&format!("+ {cmd}"))
    }

    fn file(&self) -> Result<File> {
        let file = self.file.lock().map_err(|_| anyhow!("the log {} is poisoned", self.path))?;
        file.try_clone().with_context(|| format!("sharing {}", self.path))
    }

    fn position(&self) -> Result<u64> {
        Ok(fs_err::metadata(&self.path)?.len())
    }

    /// The last lines written since `from`, for an error message.
    fn tail(&self, from: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.path)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(from.max(len.saturating_sub(64 * 1024))))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("its last words (all of it: {}):\n    {}", self.path, shown.join("\n    "))
    }
}

/// A person pressed Ctrl-C, or the machine asked us to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Turns SIGINT, SIGTERM and SIGHUP into [`Interrupted`] errors, so that everything half-made is cleaned up by
/// the ordinary way out. A second signal ends the process at once.
///
/// # Errors
/// The kernel refuses the signal handlers.
pub fn catch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // The order matters: the second signal finds the flag set by the first.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))
            .context("catching signals")?;
        signal_hook::flag::register(signal, Arc::clone(flag)).context("catching signals")?;
    }
    Ok(())
}

/// From here on a signal ends the process at once: for work that leaves nothing half-made, since children die with
/// their parent.
///
/// # Errors
/// [`Interrupted`] by a signal that came before, which nobody would ask for later. The kernel refuses the signal
/// handlers.
pub fn exit_on_signals() -> Result<()> {
    interrupted()?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::new(AtomicBool::new(true)))
            .context("catching signals")?;
    }
    Ok(())
}

/// Fails with [`Interrupted`] once a signal has come. Long loops call it.
///
/// # Errors
/// [`Interrupted`].
pub fn interrupted() -> Result<(), Interrupted> {
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Interrupted),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("stage.log")).unwrap();
        let log = Log::create(&path, false).unwrap();
        (dir, log)
    }

    #[test]
    fn display_can_be_pasted() {
        let cmd = Cmd::new("printf").args(["%s", "it's", "", "a b"]).env("LC_ALL", "C.UTF-8");
        assert_eq!(cmd.to_string(), r"LC_ALL=C.UTF-8 printf %s 'it'\''s' '' 'a b'");
    }

    #[test]
    fn failure_names_command_and_last_words() {
        let (_dir, log) = log();
        let error = Cmd::new("ls").arg("/nowhere/at/all").run(&log).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("ls /nowhere/at/all ended with"), "{text}");
        assert!(text.contains("No such file"), "{text}");
    }

    #[test]
    fn deadline_stops_the_whole_group() {
        let (_dir, log) = log();
        let started = Instant::now();
        let error = Cmd::new("sh")
            .args(["-c", "sleep 600 & echo $!; wait"])
            .deadline(Duration::from_millis(200))
            .run(&log)
            .unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error:#}");
        assert!(started.elapsed() < Duration::from_secs(20));
        let printed = fs_err::read_to_string(log.path()).unwrap();
        let pid: i32 = printed.lines().last().unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        // A killed orphan may stay a zombie until init reaps it: it counts as gone.
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            stat.is_ok_and(|s| !s.contains(") Z "))
        };
        let until = Instant::now() + Duration::from_secs(5);
        while alive() && Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(!alive(), "the grandchild {pid:?} is still there");
    }

    #[test]
    fn output_is_collected() {
        let (_dir, log) = log();
        assert_eq!(Cmd::new("echo").arg("ciao").output(&log).unwrap(), "ciao\n");
    }
}
