//! A space: the namespaces in which a stage's tools run, with a Debian tree as their root.
//!
//! The parent side ([`Space::wrap`]) only builds an argument vector: `unshare` makes the namespaces (as an ordinary
//! user also a user namespace whose id 0 is that user and whose other ids come from `/etc/subuid`), then this very
//! program is entered again at [`enter`], which lays out the mounts and becomes the tool. When the tool's parent
//! dies, `--kill-child` ends process 1 of the pid namespace, and with it everything inside: mounts, processes and
//! the scratch `/tmp` vanish together. Nothing is ever mounted on the host.
//!
//! Layout seen by the tool: a fresh tmpfs as `/`, the tree's `/usr` and `/etc` bound read-only into it, private
//! `/proc`, `/dev` and `/tmp`, the binds that the stage asked for, and no network. A program that tests a network, such
//! as a browser, may ask for the one it is started in ([`Space::same_network`]); a build never does.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind_recursive, mount_remount, unmount};
use rustix::process::{geteuid, pivot_root, umask};
use serde::{Deserialize, Serialize};

/// The hidden first argument with which this program enters a space.
pub const ENTER: &str = "__enter";

/// What comes from the tree; all else is fresh, so that a bind may go anywhere outside of these.
const TREE_FOLDERS: [&str; 2] = ["usr", "etc"];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// One path of the host made visible inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bind {
    source: Utf8PathBuf,
    target: Utf8PathBuf,
    writable: bool,
}

/// What a tool can see and reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    entry: Utf8PathBuf,
    tree: Utf8PathBuf,
    binds: Vec<Bind>,
    devices: Vec<String>,
    same_network: bool,
}

/// What crosses from [`Space::wrap`] to [`enter`].
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    space: Space,
    env: BTreeMap<String, String>,
}

impl Space {
    /// A space over the Debian tree `tree`. `entry` is the program that dispatches [`ENTER`] to [`enter`]: the
    /// running `xtask` itself.
    pub fn new(entry: &Utf8Path, tree: &Utf8Path) -> Self {
        Space {
            entry: entry.to_owned(),
            tree: tree.to_owned(),
            binds: Vec::new(),
            devices: Vec::new(),
            same_network: false,
        }
    }

    /// Shows the host's `source` read-only at `target`.
    #[must_use]
    pub fn read_only(mut self, source: &Utf8Path, target: &str) -> Self {
        self.binds.push(Bind { source: source.to_owned(), target: target.into(), writable: false });
        self
    }

    /// Shows the host's `source` at `target`, writable.
    #[must_use]
    pub fn writable(mut self, source: &Utf8Path, target: &str) -> Self {
        self.binds.push(Bind { source: source.to_owned(), target: target.into(), writable: true });
        self
    }

    /// Shows a device of the host, such as `kvm`, when it exists.
    #[must_use]
    pub fn device(mut self, name: &str) -> Self {
        self.devices.push(name.to_owned());
        self
    }

    /// Leaves the tool in the network namespace that its command line is started in. As an ordinary user it gets no
    /// ids but that user's, so that this also works inside another user namespace.
    #[must_use]
    pub fn same_network(mut self) -> Self {
        self.same_network = true;
        self
    }

    /// The argument vector that runs `argv` inside, with exactly the environment `env` and a fixed base.
    pub fn wrap(&self, argv: &[OsString], env: &BTreeMap<String, OsString>) -> Vec<OsString> {
        let env = env.iter().map(|(k, v)| (k.clone(), v.to_string_lossy().into_owned())).collect();
        let order = Order { space: self.clone(), env };
        let order =
            serde_json::to_string(&order).unwrap_or_else(|e| unreachable!("an order is plain data: {e}"));
        let mut line: Vec<OsString> = self.prefix().into_iter().map(OsString::from).collect();
        line.extend([self.entry.as_str().into(), ENTER.into(), order.into(), "--".into()]);
        line.extend(argv.iter().cloned());
        line
    }

    fn prefix(&self) -> Vec<&'static str> {
        let mut words = vec!["unshare"];
        if !geteuid().is_root() {
            words.extend(["--user", "--map-root-user"]);
            if !self.same_network {
                words.push("--map-auto");
            }
        }
        words.extend(["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]);
        if !self.same_network {
            words.push("--net");
        }
        words.push("--");
        words
    }
}

/// Enters a space and becomes the tool; called by `main` when the first argument is [`ENTER`].
///
/// `args` are the words after [`ENTER`]: the order as JSON, `--`, the tool and its arguments.
///
/// # Errors
/// Only returns when something failed: a mount, or the tool cannot be executed.
pub fn enter(args: &[OsString]) -> Result<std::convert::Infallible> {
    let [order, dashes, tool, rest @ ..] = args else {
        bail!("{ENTER} is not meant for people; try --help");
    };
    if dashes != OsStr::new("--") {
        bail!("{ENTER} is not meant for people; try --help");
    }
    let order: Order =
        serde_json::from_str(&order.to_string_lossy()).context("reading the order of a space")?;
    lay_out(&order.space)?;
    umask(rustix::fs::Mode::from_bits_truncate(0o022));
    let mut command = Command::new(tool);
    command.args(rest).env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs([("HOME", "/tmp"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC0"), ("TMPDIR", "/tmp")]);
    command.envs(&order.env);
    let error = command.exec();
    Err(error).with_context(|| format!("executing {} inside {}", tool.to_string_lossy(), order.space.tree))
}

fn lay_out(space: &Space) -> Result<()> {
    // Any folder serves as the place of the new root; the tree's own /tmp always exists and is never needed.
    let root = space.tree.join("tmp");
    tmpfs(&root, "mode=0755,size=90%")?;
    for entry in fs_err::read_dir(&space.tree)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs_err::read_link(entry.path())?, root.join(name.as_ref()))?;
        } else if TREE_FOLDERS.contains(&name.as_ref()) {
            bind(&space.tree.join(name.as_ref()), &root.join(name.as_ref()), false)?;
        }
    }
    let tmp = root.join("tmp");
    fs_err::create_dir_all(&tmp)?;
    fs_err::set_permissions(&tmp, std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
    for folder in ["run", "root", "var/lib", "var/tmp", "var/cache"] {
        fs_err::create_dir_all(root.join(folder))?;
    }
    devices(&root.join("dev"), &space.devices)?;
    for item in &space.binds {
        let target = root.join(item.target.as_str().trim_start_matches('/'));
        bind(&item.source, &target, item.writable)?;
    }
    kernel_files(&root, space.same_network)?;
    rustix::system::sethostname(b"localhost").context("naming the space")?;
    std::env::set_current_dir(&root).with_context(|| format!("changing into {root}"))?;
    pivot_root(".", ".").context("making the new root")?;
    unmount(".", UnmountFlags::DETACH).context("leaving the old root")?;
    std::env::set_current_dir("/").context("changing into the new root")?;
    Ok(())
}

fn tmpfs(at: &Utf8Path, options: &str) -> Result<()> {
    fs_err::create_dir_all(at)?;
    let options = std::ffi::CString::new(options).context("tmpfs options")?;
    mount("tmpfs", at.as_std_path(), "tmpfs", MountFlags::NOSUID, options.as_c_str())
        .with_context(|| format!("mounting a tmpfs at {at}"))
}

fn bind(source: &Utf8Path, target: &Utf8Path, writable: bool) -> Result<()> {
    let meta = fs_err::metadata(source)?;
    if meta.is_dir() {
        fs_err::create_dir_all(target)?;
    } else {
        if let Some(dir) = target.parent() {
            fs_err::create_dir_all(dir)?;
        }
        fs_err::OpenOptions::new().create(true).append(true).open(target)?;
    }
    mount_bind_recursive(source.as_std_path(), target.as_std_path())
        .with_context(|| format!("binding {source} to {target}"))?;
    if !writable {
        // Flags the host's mount has are locked in a user namespace: they must be named again.
        let stat =
            rustix::fs::statvfs(target.as_std_path()).with_context(|| format!("asking about {target}"))?;
        let mut flags = MountFlags::BIND | MountFlags::RDONLY;
        for (has, flag) in [
            (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
            (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
            (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
            (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
            (rustix::fs::StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
            (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        ] {
            if stat.f_flag.contains(has) {
                flags |= flag;
            }
        }
        mount_remount(target.as_std_path(), flags, c"")
            .with_context(|| format!("making {target} read-only"))?;
    }
    Ok(())
}

fn devices(dev: &Utf8Path, extra: &[String]) -> Result<()> {
    fs_err::create_dir_all(dev)?;
    for name in DEVICES.into_iter().chain(extra.iter().map(String::as_str)) {
        let source = Utf8Path::new("/dev").join(name);
        if source.exists() {
            bind(&source, &dev.join(name), true)?;
        }
    }
    for (name, target) in
        [("fd", "self/fd"), ("stdin", "self/fd/0"), ("stdout", "self/fd/1"), ("stderr", "self/fd/2")]
    {
        symlink(format!("/proc/{target}"), dev.join(name))
            .with_context(|| format!("linking {name} in {dev}"))?;
    }
    tmpfs(&dev.join("shm"), "mode=1777")
}

fn kernel_files(root: &Utf8Path, same_network: bool) -> Result<()> {
    let proc = root.join("proc");
    fs_err::create_dir_all(&proc)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", proc.as_std_path(), "proc", flags, None::<&std::ffi::CStr>).context("mounting /proc")?;
    let sys = root.join("sys");
    if same_network {
        // A new sysfs shows the network namespace, and only that namespace's owner may mount one.
        return bind(Utf8Path::new("/sys"), &sys, false);
    }
    fs_err::create_dir_all(&sys)?;
    mount("sysfs", sys.as_std_path(), "sysfs", flags | MountFlags::RDONLY, None::<&std::ffi::CStr>)
        .context("mounting /sys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrap_is_plain_words() {
        let space = Space::new("/x/xtask".into(), "/t".into()).read_only("/p".into(), "/pool");
        let env = BTreeMap::from([("A".to_owned(), OsString::from("b"))]);
        let words = space.wrap(&["mkfs.erofs".into(), "--help".into()], &env);
        assert_eq!(words.first().unwrap(), "unshare");
        assert!(words.contains(&OsString::from("--net")));
        let shared = space.clone().same_network().wrap(&[], &env);
        assert!(!shared.contains(&OsString::from("--net")));
        let at = words.iter().position(|w| w == ENTER).unwrap();
        let order: Order = serde_json::from_str(words[at + 1].to_str().unwrap()).unwrap();
        assert_eq!(order.space, space);
        assert_eq!(order.env["A"], "b");
        assert_eq!(&words[at + 2..], ["--", "mkfs.erofs", "--help"]);
    }
}
