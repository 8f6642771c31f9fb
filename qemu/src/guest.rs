//! What the harness knows about the guest, as data: prompts, signs of a lost boot, the injected shell.

use crate::Credential;

/// What agetty writes when the machine is ready for a person.
pub const LOGIN_PROMPT: &str = "login: ";

/// What GRUB writes when it has chosen a slot, up to the slot's letter.
pub const GRUB_SLOT: &str = "cipolla: slot ";

/// What GRUB writes when neither slot can be started.
pub const GRUB_NO_SLOT: &str = "cipolla: no bootable slot";

/// A line on the console after which waiting is pointless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Badness {
    /// Name for the report.
    pub name: &'static str,
    /// Text that gives it away, anywhere in a line.
    pub text: &'static str,
    /// The same line is harmless if this text is in it.
    pub unless: Option<&'static str>,
    /// Whether it is a prompt, which has no line end.
    pub prompt: bool,
}

const fn bad(name: &'static str, text: &'static str) -> Badness {
    Badness { name, text, unless: None, prompt: false }
}

/// The kernel waits for itself before there is any program: an emulated processor has lost its timer (rcu then tells of
/// a "possible timer handling issue"), which was seen once in some hundred starts.
pub(crate) const STUCK: &str = "a lost timer";

/// Signs that the guest will not come up.
pub const BADNESS: &[Badness] = &[
    bad("a kernel panic", "Kernel panic - not syncing"),
    bad("a kernel panic", "end Kernel panic"),
    bad("a kernel stack trace of a bug", "kernel BUG at "),
    // An emulated processor that its host does not run for 20 s looks stuck to the guest; the host is at fault.
    Badness { name: "a kernel bug", text: "BUG: ", unless: Some("soft lockup"), prompt: false },
    bad("an undecompressed initramfs", "Initramfs unpacking failed"),
    bad("a missing root file system", "Gave up waiting for root"),
    Badness { name: "the initramfs shell", text: "(initramfs)", unless: None, prompt: true },
    bad("emergency mode", "You are in emergency mode"),
    Badness {
        name: "emergency mode",
        text: "Give root password for maintenance",
        unless: None,
        prompt: true,
    },
    bad("emergency mode", "Cannot open access to console, the root account is locked"),
    bad("units ordered in a circle", "ordering cycle"),
    bad(STUCK, "INFO: task swapper/0:1 blocked for more than"),
    bad("memory exhausted", "Out of memory: Killed"),
    Badness { name: "GRUB's rescue prompt", text: "grub rescue>", unless: None, prompt: true },
    Badness { name: "GRUB's prompt", text: "grub> ", unless: None, prompt: true },
];

/// The entry that a console line matches. `complete` says whether the line has ended.
#[must_use]
pub fn badness(line: &str, complete: bool) -> Option<&'static Badness> {
    BADNESS.iter().find(|bad| {
        (complete || bad.prompt)
            && line.contains(bad.text)
            && !bad.unless.is_some_and(|harmless| line.contains(harmless))
    })
}

/// Name of the virtio-serial port that the shell listens on.
pub const SHELL_PORT: &str = "org.cipolla.shell";

/// What the shell says when it starts, on a line of its own whatever was cut off before; the kernel's boot
/// identifier follows.
pub(crate) const SHELL_HELLO: &str = "hello ";

/// Opens the port for both directions, since it takes one opener only.
const SHELL_OPEN: &str = "exec 3<>/dev/virtio-ports/org.cipolla.shell || exit 1";

/// The shell itself, on descriptor 3. One request a line: number, time limit in seconds, script in base64. One answer a line:
/// `done`, number, exit status, stdout and stderr in base64, each after a `=` so that an empty one is seen.
pub(crate) const SHELL_LOOP: &str = r#"cd "$RUNTIME_DIRECTORY" || exit 1
read -r boot </proc/sys/kernel/random/boot_id
echo >&3
echo "hello $boot" >&3
while read -r number limit script <&3; do
  printf %s "$script" | base64 -d >in
  timeout -k 5 "$limit" /bin/sh in >out 2>err </dev/null 3>&-
  status=$?
  { printf "done %s %s =" "$number" "$status"; base64 -w0 out; printf " ="; base64 -w0 err; echo; } >&3
done"#;

/// What both units have in common. Nothing waits for them, and they end at once on shutdown, so that what the journal and
/// the boot order show is the image's own doing.
const SHELL_UNIT: &str = "[Unit]\n\
    Description=Shell of the test harness\n\
    DefaultDependencies=no\n\
    Conflicts=shutdown.target\n\
    Before=shutdown.target\n\
    IgnoreOnIsolate=yes\n";

/// The unit that starts the shell when its port is there. (A service that is bound to the port's device would be given up
/// after ninety seconds, and an emulated machine beside busy neighbours takes longer to find its devices.)
fn shell_path_unit() -> String {
    format!("{SHELL_UNIT}[Path]\nPathExists=/dev/virtio-ports/{SHELL_PORT}\n")
}

/// The unit that runs the shell.
fn shell_unit() -> String {
    // In a unit, `$` and `%` are systemd's, and the script has to be one quoted word on one line.
    let script = format!("{SHELL_OPEN}\n{SHELL_LOOP}");
    let script = script.replace('$', "$$").replace('%', "%%").replace('\n', "; ");
    let script = script.replace("do; ", "do ");
    format!(
        "{SHELL_UNIT}\
         [Service]\n\
         Type=exec\n\
         RuntimeDirectory=cipolla-shell\n\
         Environment=HOME=/root LC_ALL=C.UTF-8\n\
         StandardOutput=null\n\
         StandardError=null\n\
         TimeoutStopSec=5\n\
         ExecStart=/bin/sh -c '{script}'\n"
    )
}

/// The credentials that make systemd 256 or newer run the shell in an image that knows nothing of it
/// (systemd-debug-generator(8)).
#[must_use]
pub fn shell_credentials() -> [Credential; 3] {
    [
        Credential::new("systemd.extra-unit.cipolla-shell.service", shell_unit()),
        Credential::new("systemd.extra-unit.cipolla-shell.path", shell_path_unit()),
        Credential::new(
            "systemd.unit-dropin.sysinit.target~cipolla-shell",
            "[Unit]\nWants=cipolla-shell.path\n",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_boots_are_seen() {
        let name = |line, complete| badness(line, complete).map(|bad| bad.name);
        assert_eq!(name("[ 1.0] Kernel panic - not syncing: VFS", true), Some("a kernel panic"));
        assert_eq!(name("(initramfs) ", false), Some("the initramfs shell"));
        assert_eq!(
            name("systemd[1]: Found ordering cycle on a.service/start", true),
            Some("units ordered in a circle")
        );
        assert_eq!(name("[ 9.0] BUG: unable to handle page fault", true), Some("a kernel bug"));
        assert_eq!(name("watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", true), None);
        let stuck = "[  242.598856] INFO: task swapper/0:1 blocked for more than 120 seconds.";
        assert_eq!(name(stuck, true), Some(STUCK));
        assert_eq!(name("[ 1.0] Kernel panic - not sy", false), None);
        assert_eq!(name("debian login: ", false), None);
    }

    #[test]
    fn the_units_are_what_systemd_expects() {
        insta::assert_snapshot!(shell_path_unit() + &shell_unit());
    }

    #[test]
    fn the_script_has_no_quote_that_would_end_it() {
        assert!(!SHELL_LOOP.contains('\''));
        assert!(!SHELL_LOOP.contains('\\'));
    }
}
