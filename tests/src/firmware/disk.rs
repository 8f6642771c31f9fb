//! Partitions and mounts of a booted appliance.

use qemu::Arch;
use serde::Deserialize;

use super::{State, first};
use crate::appliance::{Appliance, DISK};
use crate::check::{PASS, Verdict, fail, none_of};

const GIB: u64 = 1 << 30;

/// A block device as `lsblk --json --bytes` tells it.
#[derive(Debug, Deserialize)]
struct Device {
    partlabel: Option<String>,
    parttype: Option<String>,
    size: u64,
    #[serde(default)]
    children: Vec<Device>,
}

#[derive(Deserialize)]
struct Devices {
    blockdevices: Vec<Device>,
}

/// A mount as `findmnt --json` tells it.
#[derive(Debug, Deserialize)]
struct Mount {
    target: String,
    source: String,
    fstype: String,
    options: String,
}

#[derive(Deserialize)]
struct Mounts {
    filesystems: Vec<Mount>,
}

impl Mount {
    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|one| one == option)
    }
}

/// Where something is mounted.
fn mount(appliance: &mut Appliance, path: &str) -> anyhow::Result<Mount> {
    let script = format!("findmnt --json --output TARGET,SOURCE,FSTYPE,OPTIONS --target {path}");
    let mut mounts: Mounts = serde_json::from_str(&appliance.read(&script)?)?;
    // Of several on top of each other, the last is what programs see.
    mounts.filesystems.pop().ok_or_else(|| anyhow::anyhow!("nothing is mounted for {path}"))
}

fn partition(appliance: &mut Appliance, label: &str) -> anyhow::Result<Option<Device>> {
    let script = "udevadm settle; lsblk --json --bytes --output PARTLABEL,PARTTYPE,SIZE,NAME";
    let devices: Devices = serde_json::from_str(&appliance.read(script)?)?;
    let mut all = devices.blockdevices.into_iter().flat_map(|disk| disk.children);
    Ok(all.find(|one| one.partlabel.as_deref() == Some(label)))
}

pub(super) fn data_grows_to_disk(appliance: &mut Appliance) -> Verdict {
    let mount = mount(appliance, "/data")?;
    let mut findings = Vec::new();
    if mount.target != "/data" || mount.fstype != "ext4" || !mount.has("rw") {
        findings.push(format!("/data is {mount:?}"));
    }
    // The other partitions take 2.5 GiB of the disk.
    let least = DISK - 3 * GIB;
    let size = appliance.read("findmnt --noheadings --bytes --output SIZE --target /data")?;
    let size: u64 = size.trim().parse()?;
    if size < least * 9 / 10 {
        findings.push(format!(
            "the file system on /data has {} MiB, at least {} expected",
            size >> 20,
            least >> 20
        ));
    }
    match partition(appliance, "data")? {
        Some(data) if data.size >= least => {}
        Some(data) => findings.push(format!("the partition data has {} MiB", data.size >> 20)),
        None => findings.push("there is no partition named data".to_owned()),
    }
    none_of(&findings)
}

/// The types of root partitions (UAPI Group, Discoverable Partitions Specification).
fn root_type(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        Arch::Arm64 => "b921b045-1df0-41c3-af44-4c6f280d3fae",
    }
}

pub(super) fn root_b_created(appliance: &mut Appliance, arch: Arch) -> Verdict {
    let Some(root_b) = partition(appliance, "root-b")? else {
        return fail("there is no partition named root-b");
    };
    if root_b.size == GIB && root_b.parttype.as_deref() == Some(root_type(arch)) {
        return PASS;
    }
    fail(format!("root-b has {} bytes and the type {:?}", root_b.size, root_b.parttype))
}

pub(super) fn root_is_read_only(appliance: &mut Appliance) -> Verdict {
    let mut findings = Vec::new();
    let mut want = |what: &str, mount: &Mount, good: bool| {
        if !good {
            findings.push(format!("{what} is {mount:?}"));
        }
    };
    let root = mount(appliance, "/")?;
    want("the root", &root, root.fstype == "erofs" && root.has("ro"));
    let usr = mount(appliance, "/usr")?;
    want("/usr", &usr, usr.target == "/" && usr.fstype == "erofs");
    let etc = mount(appliance, "/etc")?;
    want("/etc", &etc, etc.target == "/etc" && etc.fstype == "overlay" && etc.has("rw"));
    let data = mount(appliance, "/data")?;
    for folder in ["/var", "/home", "/root", "/srv"] {
        let found = mount(appliance, folder)?;
        // A bind mount's source is the device with the folder in brackets.
        let device = found.source.split('[').next() == Some(data.source.as_str());
        want(folder, &found, found.target == folder && device && found.has("rw"));
    }
    for path in ["/x", "/usr/x", "/usr/bin/x", "/boot/x"] {
        let touched = appliance.run(&format!("touch {path}"))?;
        if touched.status.success() || !touched.stderr.contains("Read-only file system") {
            findings.push(format!("touch {path}: {} {}", touched.status, touched.stderr.trim()));
        }
    }
    for folder in ["/etc", "/var", "/home", "/root", "/srv", "/tmp", "/run"] {
        let script = format!("t=$(mktemp -p {folder}) && echo x >\"$t\" && rm \"$t\"");
        let written = appliance.run(&script)?;
        if !written.status.success() {
            findings.push(format!("writing to {folder}: {}", written.stderr.trim()));
        }
    }
    none_of(&findings)
}

/// The script that prints what must not change about the disk: both copies of the partition table.
pub(super) const TABLE: &str = "disk=/dev/$(lsblk --noheadings --output PKNAME \"$(findmnt --noheadings --output SOURCE --target /data)\") \
     && dd if=$disk bs=512 count=34 status=none | sha256sum && blockdev --getsize64 $disk";

pub(super) fn partitions_stay(state: &mut State) -> Verdict {
    let now = state.appliance.read(TABLE)?;
    let before = &first(state)?.table;
    if now == *before { PASS } else { fail(format!("before: {before}now: {now}")) }
}
