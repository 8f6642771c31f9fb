//! What can be wrong with files: recipes that are not there, overlay trees, the owner table. One snapshot each.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use camino::{Utf8Path, Utf8PathBuf};
use recipe::overlay::Kind;
use recipe::{Arch, ContentSizes, Plan};

const RECIPE: &str = r#"schema = 1
name = "mail"
version = "1.2.0"
[debian]
suite = "trixie"
components = ["main"]
[packages]
common = ["tor", "less"]
amd64 = ["linux-image-amd64"]
backports = ["tor"]
[hardware.amd64]
firmware = ["uefi", "bios"]
cmdline = ["quiet", "console=tty0"]
[disk]
boot = "512MiB"
root = "1GiB"
data = "64MiB"
[overlay]
trees = ["common", "mail"]
[settings]
z = 1 # a comment
[settings.b]
a = "x"
[release]
source_date = 2025-11-01T00:00:00Z
"#;

const OWNERS: &str = r#"schema = 1
[[rule]]
path = "/**"
user = "root"
group = "root"
file = "0644"
dir = "0755"
"#;

/// A folder with a recipe, an owner table and two empty trees, and what tests add to it.
struct House(tempfile::TempDir);

impl House {
    fn new() -> Self {
        let house = Self(tempfile::tempdir().unwrap());
        house.write("recipes/mail.toml", RECIPE).write("overlay/owners.toml", OWNERS);
        house.folder("overlay/common").folder("overlay/mail")
    }

    fn path(&self, path: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.0.path()).unwrap().join(path)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    fn folder(self, path: &str) -> Self {
        std::fs::create_dir_all(self.path(path)).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    fn plan(&self) -> Result<Plan, String> {
        recipe::plan(&self.path("recipes/mail.toml"), &self.path("overlay"), Arch::Amd64)
            .map_err(|findings| self.hide(&findings.to_string()))
    }

    fn report(&self) -> String {
        self.plan().expect_err("the plan passed")
    }

    /// Takes the name of the temporary folder out of a report.
    fn hide(&self, report: &str) -> String {
        report.replace(self.path("").as_str(), "")
    }
}

fn lines(plan: &Plan) -> String {
    let line = |entry: &recipe::overlay::Entry| {
        let kind = match entry.kind() {
            Kind::File { size } => format!("file of {size}"),
            Kind::Dir => "folder".to_owned(),
            Kind::Symlink { target } => format!("link to {target}"),
        };
        let explicit = if entry.explicit() { " explicit" } else { "" };
        format!("{} {}:{} {} {kind}{explicit}", entry.target(), entry.user(), entry.group(), entry.mode())
    };
    let part = |entries: &[recipe::overlay::Entry]| entries.iter().map(line).collect::<Vec<_>>().join("\n");
    format!("root\n{}\n\ninitramfs\n{}", part(plan.overlay_entries()), part(plan.initramfs_overlay()))
}

#[test]
fn a_plan_has_all_that_a_build_needs() {
    let plan = House::new().plan().unwrap();
    let words =
        |list: &[recipe::PackageName]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(plan.file_stem(), "cipolla-mail-1.2.0-amd64");
    assert_eq!(words(plan.packages()), "less linux-image-amd64 tor");
    assert_eq!(words(plan.backports_packages()), "tor");
    assert_eq!(plan.kernel_package().as_str(), "linux-image-amd64");
    assert_eq!(plan.pockets(), recipe::Pocket::ALL);
    assert_eq!(plan.firmware(), [recipe::Firmware::Bios, recipe::Firmware::Uefi]);
    assert_eq!(plan.cmdline().iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["quiet", "console=tty0"]);
    assert_eq!(plan.disk().root().bytes(), 1 << 30);
    assert_eq!(plan.settings_toml(), "z = 1\n\n[b]\na = \"x\"\n");
    assert_eq!(plan.source_date(), Some(1_761_955_200));
    assert!(plan.mirror().is_none() && !plan.strip().is_stripped("/usr/share/doc/tor"));
}

#[test]
fn trees_are_laid_in_order_and_the_initramfs_apart() {
    let house = House::new();
    let rules = "\n[[rule]]\npath = \"/var/lib/mail\"\nuser = \"mail\"\ndir = \"0700\"\n\
                 [[rule]]\npath = \"/initramfs/scripts/**\"\nfile = \"0755\"\n\
                 [[rule]]\npath = \"/etc/motd\"\noverride = true\n";
    house
        .write("overlay/owners.toml", format!("{OWNERS}{rules}"))
        .write("overlay/common/etc/hosts", "12345")
        .write("overlay/common/etc/motd", "common")
        .write("overlay/mail/etc/motd", "mail")
        .write("overlay/mail/var/lib/mail/x", "")
        .write("overlay/amd64/etc/amd64", "")
        .write("overlay/arm64/etc/arm64", "")
        .write("overlay/common/initramfs/scripts/init-bottom/cipolla", "#!/bin/sh\n")
        .link("overlay/mail/etc/localtime", "/usr/share/zoneinfo/UTC")
        .link("overlay/mail/etc/alias", "../usr/x");
    let plan = house.plan().unwrap();
    insta::assert_snapshot!("laid_overlay", lines(&plan));
    let motd = plan.overlay_entries().iter().find(|entry| entry.target() == "/etc/motd").unwrap();
    assert_eq!(motd.source(), house.path("overlay/mail/etc/motd"));
}

#[test]
fn recipe_that_is_not_there() {
    let house = House::new();
    house.write("recipes/gateway.toml", "").write("recipes/mail.amd64.lock", "");
    let load = |name: &str| house.hide(&recipe::load(&house.path(name)).unwrap_err().to_string());
    insta::assert_snapshot!("no_recipe_near", load("recipes/mial.toml"));
    insta::assert_snapshot!("no_recipe_far", load("recipes/store.toml"));
    insta::assert_snapshot!("no_recipe_folder", load("recipe/mail.toml"));
}

#[test]
fn recipe_that_is_not_utf8() {
    let house = House::new();
    house.write("recipes/mail.toml", b"schema = 1\nname = \"m\xe4il\"\n");
    insta::assert_snapshot!("not_utf8", house.report());
}

#[test]
fn architecture_the_recipe_lacks() {
    let house = House::new();
    let findings =
        recipe::plan(&house.path("recipes/mail.toml"), &house.path("overlay"), Arch::Arm64).unwrap_err();
    insta::assert_snapshot!("no_such_architecture", house.hide(&findings.to_string()));
    let recipe = recipe::load(&house.path("recipes/mail.toml")).unwrap();
    let overlay = |arch| recipe::Overlay::load(&house.path("overlay"), &recipe, arch).unwrap();
    assert!(recipe.resolve(Arch::Arm64, overlay(Arch::Arm64)).is_err());
    assert!(recipe.resolve(Arch::Amd64, overlay(Arch::Arm64)).is_err());
    assert!(recipe.resolve(Arch::Amd64, overlay(Arch::Amd64)).is_ok());
}

#[test]
fn tree_that_is_not_there() {
    let house = House::new();
    std::fs::remove_dir(house.path("overlay/mail")).unwrap();
    insta::assert_snapshot!("tree_missing", house.report());
    house.write("overlay/mial/etc/x", "");
    insta::assert_snapshot!("tree_misspelt", house.report());
    house.link("overlay/mail", "mial");
    insta::assert_snapshot!("tree_is_a_link", house.report());
}

#[test]
fn clashes_between_trees() {
    let house = House::new();
    house
        .write("overlay/common/etc/hosts", "")
        .write("overlay/mail/etc/hosts", "")
        .write("overlay/common/etc/tor", "")
        .write("overlay/mail/etc/tor/torrc", "")
        .write("overlay/common/etc/fstab", "")
        .write("overlay/amd64/etc/fstab", "");
    insta::assert_snapshot!("clashes", house.report());
}

#[test]
fn override_joins_files_but_never_a_file_and_a_folder() {
    let house = House::new();
    house
        .write("overlay/owners.toml", OWNERS.replace("file =", "override = true\nfile ="))
        .write("overlay/common/etc/hosts", "")
        .write("overlay/mail/etc/hosts", "")
        .write("overlay/common/etc/tor", "")
        .write("overlay/mail/etc/tor/torrc", "");
    insta::assert_snapshot!("override_of_a_folder", house.report());
}

#[test]
fn paths_without_owner() {
    let house = House::new();
    let table =
        "schema = 1\n[[rule]]\npath = \"/etc/**\"\nuser = \"root\"\ngroup = \"root\"\nfile = \"0644\"\n";
    house
        .write("overlay/owners.toml", table)
        .write("overlay/mail/etc/hosts", "")
        .link("overlay/mail/srv/x", "/y");
    for name in 0..12 {
        house.write(&format!("overlay/mail/opt/{name}"), "");
    }
    insta::assert_snapshot!("no_owner", house.report());
    house.write("overlay/owners.toml", "schema = 1\n");
    insta::assert_snapshot!("no_rule_at_all", house.report());
}

#[test]
fn things_that_do_not_belong_into_an_overlay() {
    let house = House::new();
    house
        .write("overlay/mail/etc/hosts~", "")
        .write("overlay/mail/etc/.#hosts", "")
        .write("overlay/mail/etc/.hosts.swp", "")
        .write("overlay/mail/.DS_Store", "")
        .write("overlay/mail/srv/.gitkeep", "")
        .write("overlay/mail/etc/shadow", "root:*:1::::::\n")
        .write("overlay/mail/etc/machine-id", "")
        .write("overlay/mail/etc/ssh/ssh_host_ed25519_key", "")
        .write("overlay/mail/etc/ssl/key.pem", "-----BEGIN PRIVATE KEY-----\nMIIE\n")
        .write("overlay/mail/var/lib/tor/hs_ed25519_secret_key", "== ed25519v1-secret: type0 ==\0\0\0")
        .write("overlay/mail/bin/tool", "")
        .write("overlay/mail/run/x", "")
        .write("overlay/mail/initramfs/lib/x", "")
        .link("overlay/mail/etc/up", "../../outside");
    let path = house.path("overlay/mail/etc/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, path.as_str(), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(house.path("overlay/mail/etc/socket")).unwrap();
    insta::assert_snapshot!("misplaced", house.report());
}

#[test]
fn initramfs_that_is_a_file() {
    let house = House::new();
    house.write("overlay/mail/initramfs", "");
    insta::assert_snapshot!("initramfs_is_a_file", house.report());
}

#[test]
fn names_that_are_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let house = House::new();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    std::fs::write(house.path("overlay/mail").as_std_path().join(name), "").unwrap();
    insta::assert_snapshot!("name_not_utf8", house.report());
}

#[test]
fn owner_table_that_is_wrong() {
    let house = House::new();
    house.write("overlay/mail/etc/hosts", "");
    let table = r#"schema = 1
[[rule]]
path = "/**"
user = "Root"
group = 0
file = "644"
dir = "0777"
[[rule]]
path = "/usr/bin/*"
file = "4755"
[[rule]]
path = "/usr/sbin/*"
file = "4755"
setuid_ok = true
[[rule]]
path = "/opt/**"
[[rule]]
file = 0o644
overide = true
[[rules]]
path = "/x"
"#;
    house.write("overlay/owners.toml", table);
    insta::assert_snapshot!("owner_table", house.report());
    std::fs::remove_file(house.path("overlay/owners.toml")).unwrap();
    insta::assert_snapshot!("owner_table_missing", house.report());
}

/// Recipe, trees and owner table are judged in the same run.
#[test]
fn one_report_for_all_files() {
    let house = House::new();
    house
        .write(
            "recipes/mail.toml",
            RECIPE.replace("\"trixie\"", "\"trixe\"").replace("\"mail\"]", "\"mial\"]"),
        )
        .write("overlay/owners.toml", OWNERS.replace("0644", "0646"))
        .write("overlay/common/etc/hosts~", "");
    insta::assert_snapshot!("one_report", house.report());
}

#[test]
fn content_that_does_not_fit() {
    let recipe = recipe::parse("recipes/mail.toml", RECIPE).unwrap();
    let report = |boot: u64, root: u64, data: u64| {
        let content = ContentSizes { boot: boot << 20, root: root << 20, data: data << 20 };
        recipe.disk().check_capacity(content)
    };
    assert!(report(100, 800, 64).is_empty());
    let tight = report(100, 960, 64);
    assert!(!tight.has_errors());
    insta::assert_snapshot!("nearly_full", tight);
    insta::assert_snapshot!("too_small", report(513, 1025, 65));
}
