//! An appliance for tests: its files before the first start, in memory or in a folder.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

pub(crate) mod programs;
pub(crate) mod sim;

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use agent::fs::Fs;
use agent::machine::{self, BootPartition, Machine};
use agent::programs::Programs;
use anyhow::Result;

/// The passphrase in the owner's settings: it must not stay on the boot partition.
pub(crate) const WIFI_SECRET: &str = "correct horse battery";

/// The owner's settings, as they lie on the boot partition.
pub(crate) const SETTINGS: &str = "[owner]\r\nmailbox = \"ada\"\r\n\
    ssh_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS ada@laptop\"]\r\n\
    [network.wifi]\r\nssid = \"home\"\r\npassphrase = \"correct horse battery\"\r\ncountry = \"DE\"\r\n\
    [mail]\r\nquota = \"500M\"\r\n";

/// What the image ships, as far as the agent looks at it.
pub(crate) const IMAGE: [(&str, &str); 12] = [
    ("/usr/lib/os-release", "IMAGE_ID=mail\nIMAGE_VERSION=0.1.0\nBUILD_ID=test\n"),
    (
        "/etc/passwd",
        "root:x:0:0::/root:/bin/sh\ndebian-tor:x:102:105::/:/x\npostfix:x:104:107::/:/x\nvmail:x:800:800::/:/x\n",
    ),
    ("/etc/group", "root:x:0:\ndebian-tor:x:105:\ndovecot:x:110:\nwww-data:x:33:\nroundcube:x:111:\n"),
    ("/etc/ssh/sshd_config", "\n"),
    ("/etc/postfix/master.cf", "smtp unix - - y - - smtp\n"),
    ("/usr/sbin/wpa_supplicant", ""),
    ("/usr/lib/cipolla/defaults.toml", "[mail]\nmessage_size_mib = 40\n"),
    ("/usr/share/cipolla/templates/etc/postfix/main.cf.j2", "myhostname = {{ mx_onion }}\n"),
    (
        "/usr/share/cipolla/templates/etc/nftables.conf.j2",
        "define tor = {{ uid[\"debian-tor\"] }}\ndefine postfix = {{ uid.postfix }}\n",
    ),
    (
        "/usr/share/cipolla/templates/etc/made/deep/limits.conf.j2",
        "{{ settings.mail.message_size_mib }} {{ settings.mail.quota }} {{ owner }} {{ image.version }}\n",
    ),
    (
        "/usr/share/cipolla/templates/test.owners.toml",
        "schema = 1\n[[file]]\npath = \"/etc/nftables.conf\"\nmode = \"0600\"\n\
         validate = [\"nft\", \"-c\", \"-f\", \"{file}\"]\n[[file]]\npath = \"/etc/postfix/main.cf\"\n\
         validate = [\"postconf\", \"-c\", \"{dir}\", \"-n\"]\n",
    ),
    ("/var/lib/tor/state", ""),
];

/// Folders that are there besides those of files.
pub(crate) const FOLDERS: [&str; 3] = ["/root", "/run", "/run/cipolla/boot"];

/// A boot partition that is a folder of the same file system.
pub(crate) struct FolderBootPartition;

impl BootPartition for FolderBootPartition {
    fn is_there(&self) -> bool {
        true
    }

    fn make_writable(&self) -> Result<()> {
        Ok(())
    }
}

/// A machine with these files and programs, in 2026.
pub(crate) fn machine<'m>(fs: &'m dyn Fs, programs: &'m dyn Programs) -> Machine<'m> {
    Machine {
        fs,
        programs,
        boot_partition: &FolderBootPartition,
        rng: RefCell::new(machine::system_rng()),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000),
        uptime: Duration::from_secs(3600),
        credentials: None,
    }
}
