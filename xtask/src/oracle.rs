//! Tests of `identity` against the real Tor and OpenSSH of the lab's tree.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use build::exec::interrupted;
use camino::{Utf8Path, Utf8PathBuf};

use crate::verbs::Site;

/// The variable that names a program to the tests, and its place in the tree.
const PROGRAMS: [(&str, &str); 2] =
    [("CIPOLLA_TOR", "usr/bin/tor"), ("CIPOLLA_SSH_KEYGEN", "usr/bin/ssh-keygen")];

/// Runs them. Returns whether they passed; their output goes to the person.
pub(crate) fn run(site: &Site, tree: &Utf8Path) -> Result<bool> {
    let folder = site.repo.join("target/oracle");
    fs_err::create_dir_all(&folder)?;
    let shell = xshell::Shell::new()?;
    shell.change_dir(&site.repo);
    for (variable, program) in PROGRAMS {
        shell.set_var(variable, starter(&folder, tree, program)?);
    }
    let features = "tor-oracle,openssh-oracle";
    let tests = ["--test", "tor_oracle", "--test", "openssh_oracle"];
    let test = xshell::cmd!(shell, "cargo test --quiet -p cipolla-identity --features {features} {tests...}");
    let passed = test.quiet().run().is_ok();
    interrupted()?;
    Ok(passed)
}

/// A script that becomes a program of the tree: by the tree's own loader and libraries, so neither depends on what
/// is installed here, and the tests' files need not be shown to a space.
fn starter(folder: &Utf8Path, tree: &Utf8Path, program: &str) -> Result<Utf8PathBuf> {
    let file = folder.join(Utf8Path::new(program).file_name().context("a program has a name")?);
    let loader = ["usr/lib64/ld-linux-x86-64.so.2", "usr/lib/ld-linux-aarch64.so.1"]
        .map(|path| tree.join(path))
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("{tree} has no program loader"))?;
    let libraries =
        ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|triple| format!("{tree}/usr/lib/{triple}")).join(":");
    let words =
        [loader.as_str(), "--library-path", &libraries, tree.join(program).as_str()].map(str::to_owned);
    let mut script = "#!/bin/sh\nexec".to_owned();
    for word in words {
        // Within single quotes everything but a single quote is itself.
        let _ = write!(script, " '{}'", word.replace('\'', r"'\''"));
    }
    fs_err::write(&file, script + " \"$@\"\n")?;
    fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    Ok(file)
}
