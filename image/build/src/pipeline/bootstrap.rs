//! bootstrap: the solved packages become an installed system, as a tar with real owners.
//!
//! mmdebstrap runs from the tools tree, over an index of exactly the solved packages that lies beside them: apt has
//! nothing left to choose and nothing to download. The index is trusted because every `.deb` was checked against
//! the hash of a signed one.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use recipe::Plan;
use recipe::overlay::Kind as OverlayKind;

use super::{Builder, Facts, Work, line};
use crate::exec::Cmd;
use crate::pool;
use crate::rootfs::accounts::Accounts;
use crate::rootfs::tree::{self, Kind};
use crate::solve::Solution;
use crate::store::{Entry, Ingredients, sha256, sha256_file};

/// Raise when what this stage does changes its result.
const CODE_VERSION: u32 = 1;

/// Not systemd's own folder: it would complain about the accounts that packages declare there without a number.
const SYSUSERS: &str = "/usr/lib/cipolla/sysusers.d/";
const HOOK: &str = "usr/share/initramfs-tools/hooks/cipolla";
const CONF: &str = "etc/initramfs-tools/conf.d/cipolla";
/// Runs when the essential packages are configured and no other is: appends the accounts of the project's trees.
const ACCOUNTS_HOOK: &str = "--essential-hook=for f in passwd shadow group gshadow; do \
                             cat /hooks/accounts/etc/$f >>\"$1/etc/$f\"; done";

impl Builder<'_> {
    /// `base.tar`, and out of it `vmlinuz` and `initrd`.
    pub(super) fn bootstrap(
        &self,
        plan: &Plan,
        solution: Option<&Solution>,
        tools: Option<&Entry>,
    ) -> Result<Option<Entry>> {
        let (line, stage) = (line(plan), "bootstrap");
        let hooks = Hooks { initramfs: initramfs_hook(plan), accounts: self.accounts(plan)? };
        let ingredients = match (solution, tools) {
            (Some(solution), Some(tools)) => {
                let mut list = Ingredients::new(CODE_VERSION);
                for package in &solution.packages {
                    list.add(format!("package {}", package.name), package.sha256.clone());
                }
                list.add("the tools", tools.fact("solution")?);
                list.add("the initramfs modules", sha256(hooks.initramfs.as_bytes()));
                list.add("the initramfs configuration", sha256(INITRAMFS_CONF.as_bytes()));
                for (path, lines) in hooks.accounts.files() {
                    list.add(format!("the accounts in /{path}"), sha256(lines.as_bytes()));
                }
                list.add("the source date", self.date(plan)?.to_string());
                Some(list)
            }
            _ => None,
        };
        self.stage(&line, stage, ingredients, |work| {
            let solution = solution.context("the stage before has a result")?;
            let tools = tools.context("the stage before has a result")?;
            pool::verify(solution, &self.cache.pool())?;
            self.mmdebstrap(plan, solution, tools, Some(&hooks), work)?;
            extract_boot_files(&work.dir)?;
            let mut facts = Facts::new();
            for name in ["base.tar", "vmlinuz", "initrd"] {
                facts.insert(name.into(), sha256_file(&work.dir.join(name))?);
            }
            Ok(facts)
        })
    }

    /// How long plain mmdebstrap needs for the same packages from the same pool, to a tar: what `bench` compares a
    /// build with. Same tools, same space, none of our hooks.
    ///
    /// # Errors
    /// A stage failed.
    pub fn baseline(&self, plan: &Plan) -> Result<std::time::Duration> {
        let _lock =
            self.cache.lock(|| self.progress.note("another build is using the cache; waiting for it"))?;
        let tools =
            self.tools(plan, crate::tools::BUILDER)?.context("a build that is not a dry run has a result")?;
        let solution = self.solution(plan)?.context("a build that is not a dry run has a result")?;
        let log = self.log(&line(plan), "baseline")?;
        let scratch = self.cache.scratch("baseline")?;
        let dir = camino::Utf8PathBuf::try_from(scratch.path().to_owned())?;
        let work = Work { dir, log: &log, advance: &|_, _| () };
        let started = std::time::Instant::now();
        self.mmdebstrap(plan, &solution, &tools, None, &work)?;
        Ok(started.elapsed())
    }

    /// The accounts that the overlay trees declare; see sysusers.d(5).
    fn accounts(&self, plan: &Plan) -> Result<Accounts> {
        let (mut accounts, day) = (Accounts::default(), self.date(plan)? / 86_400);
        for entry in plan.overlay_entries() {
            let OverlayKind::File { .. } = entry.kind() else { continue };
            if entry.target().starts_with(SYSUSERS) {
                let text = fs_err::read_to_string(entry.source())?;
                accounts.declare(&text, day).with_context(|| format!("reading {}", entry.source()))?;
            }
        }
        Ok(accounts)
    }

    fn mmdebstrap(
        &self,
        plan: &Plan,
        solution: &Solution,
        tools: &Entry,
        hooks: Option<&Hooks>,
        work: &Work<'_>,
    ) -> Result<()> {
        let index = work.dir.join("index");
        fs_err::create_dir(&index)?;
        let arch = plan.arch().debian_name();
        let packages = packages_index(solution);
        fs_err::write(index.join("Release"), release_index(plan.suite().as_str(), arch, &packages))?;
        fs_err::write(index.join("Packages"), &packages)?;
        fs_err::create_dir(index.join("chroot"))?;
        fs_err::create_dir(index.join("accounts"))?;
        let files = hooks.map(|hooks| {
            let [passwd, shadow, group, gshadow] =
                hooks.accounts.files().map(|(path, lines)| (format!("accounts/{path}"), lines, 0o644));
            let hook = (format!("chroot/{HOOK}"), hooks.initramfs.as_str(), 0o755);
            [hook, (format!("chroot/{CONF}"), INITRAMFS_CONF, 0o644), passwd, shadow, group, gshadow]
        });
        for (path, text, mode) in files.into_iter().flatten() {
            let path = index.join(path);
            fs_err::create_dir_all(path.parent().context("a file has a folder")?)?;
            fs_err::write(&path, text)?;
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        }
        let include: Vec<&str> =
            solution.packages.iter().filter(|p| !p.essential).map(|p| p.name.as_str()).collect();
        let date = self.date(plan)?;
        let space = self
            .space(tools, work)
            .read_only(&self.cache.pool(), "/repository/pool")
            .read_only(&index.join("Release"), "/repository/Release")
            .read_only(&index.join("Packages"), "/repository/Packages")
            .read_only(&index.join("chroot"), "/hooks/chroot")
            .read_only(&index.join("accounts"), "/hooks/accounts");
        Cmd::new("mmdebstrap")
            .args(["--mode=root", "--variant=essential", "--format=tar"])
            .arg(format!("--architectures={arch}"))
            .arg(format!("--include={}", include.join(",")))
            .args(["--aptopt=APT::Sandbox::User \"root\"", "--aptopt=APT::Install-Recommends \"false\""])
            .args(hooks.map(|_| "--extract-hook=copy-in /hooks/chroot/etc /hooks/chroot/usr /"))
            .args(hooks.map(|_| ACCOUNTS_HOOK))
            .args([plan.suite().as_str(), "/work/base.tar", "deb [trusted=yes] copy:/repository ./"])
            .env("SOURCE_DATE_EPOCH", date.to_string())
            .within(&space)
            .run(work.log)?;
        fs_err::remove_dir_all(&index)?;
        Ok(())
    }
}

/// What the project adds while the packages are installed.
struct Hooks {
    initramfs: String,
    accounts: Accounts,
}

/// What the initramfs is made of. Only what the recipe names goes into the initramfs, and a name that the kernel does not know fails the build
/// instead of a boot.
fn initramfs_hook(plan: &Plan) -> String {
    let names: Vec<&str> = plan.initramfs_modules().iter().map(recipe::ModuleName::as_str).collect();
    format!(
        "#!/bin/sh\n\
         # The modules that the recipe names; see initramfs-tools(7).\n\
         set -e\n\
         [ \"$1\" != prereqs ] || exit 0\n\
         . /usr/share/initramfs-tools/hook-functions\n\
         for module in {}; do\n    \
             modprobe --set-version \"$version\" --show-depends \"$module\" >/dev/null || {{\n        \
                 echo \"cipolla: kernel $version has no module $module\" >&2\n        \
                 exit 1\n    \
             }}\n    \
             manual_add_modules \"$module\"\n\
         done\n",
        names.join(" ")
    )
}

/// See initramfs.conf(5). A light compression: the file is small, and is unpacked at every start.
const INITRAMFS_CONF: &str = "MODULES=list\nBUSYBOX=auto\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\nRESUME=none\n";

fn packages_index(solution: &Solution) -> String {
    let mut text = String::new();
    for package in &solution.packages {
        let _ = writeln!(text, "{}\nFilename: ./pool/{}.deb\n", package.stanza, package.sha256);
    }
    text
}

fn release_index(suite: &str, arch: &str, packages: &str) -> String {
    format!(
        "Suite: {suite}\nCodename: {suite}\nArchitectures: {arch}\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n\
         SHA256:\n {} {} Packages\n",
        sha256(packages.as_bytes()),
        packages.len()
    )
}

/// The kernel and its initramfs leave the tar for the boot partition.
fn extract_boot_files(dir: &Utf8Path) -> Result<()> {
    let base = dir.join("base.tar");
    let tree = tree::index(&base)?;
    for (prefix, name) in [("boot/vmlinuz-", "vmlinuz"), ("boot/initrd.img-", "initrd")] {
        let found: Vec<_> = tree.iter().filter(|(path, _)| path.starts_with(prefix)).collect();
        let [(_, node)] = found.as_slice() else {
            bail!("the bootstrap made {} files named /{prefix}…, and one is needed", found.len());
        };
        let Kind::File { source, size } = &node.kind else { bail!("/{prefix}… is no file") };
        let mut reader = tree::open(source, *size, &base)?;
        std::io::copy(&mut reader, &mut fs_err::File::create(dir.join(name))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offline_index_names_the_pool() {
        let package = crate::solve::Package {
            name: "tor".into(),
            version: "1".into(),
            arch: "amd64".into(),
            essential: false,
            path: "pool/main/t/tor/tor_1.deb".into(),
            security: false,
            size: 1,
            sha256: "ab".repeat(32),
            stanza: "Package: tor\nVersion: 1".into(),
        };
        let text = packages_index(&Solution { packages: vec![package] });
        assert_eq!(text, format!("Package: tor\nVersion: 1\nFilename: ./pool/{}.deb\n\n", "ab".repeat(32)));
        let release = release_index("trixie", "amd64", &text);
        assert!(release.contains("Codename: trixie\n") && release.ends_with("Packages\n"), "{release}");
    }
}
