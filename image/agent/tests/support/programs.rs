//! Programs for tests: postmap compiles by copying, validators refuse what holds the word `refuse`.

use agent::fs::{Access, Fs};
use agent::programs::{Programs, Ran};
use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

/// Programs that work on `fs`.
pub(crate) struct FakePrograms<'f> {
    pub(crate) fs: &'f dyn Fs,
}

impl FakePrograms<'_> {
    fn validate(&self, path: &Utf8Path) -> Result<Ran> {
        let content = self.fs.read(path)?.unwrap_or_default();
        let refused = String::from_utf8_lossy(&content).contains("refuse");
        Ok(Ran { success: !refused, stdout: String::new(), stderr: "line 1: not like this".into() })
    }
}

impl Programs for FakePrograms<'_> {
    fn has(&self, program: &str) -> bool {
        matches!(program, "postmap" | "nft" | "postconf")
    }

    fn run(&self, argv: &[&str]) -> Result<Ran> {
        match argv {
            ["postmap", table] => {
                let text = table.strip_prefix("lmdb:").unwrap();
                let content = self.fs.read(Utf8Path::new(text))?.unwrap();
                let compiled = Utf8PathBuf::from(format!("{text}.lmdb"));
                self.fs.create(&compiled, &content, Access::root(0o644))?;
                Ok(Ran { success: true, stdout: String::new(), stderr: String::new() })
            }
            ["nft", "-c", "-f", file] => self.validate(Utf8Path::new(file)),
            ["postconf", "-c", dir, "-n"] => {
                assert!(
                    self.fs.entry(&Utf8Path::new(dir).join("master.cf"))?.is_some(),
                    "neighbours are copied"
                );
                self.validate(&Utf8Path::new(dir).join("main.cf"))
            }
            other => panic!("nobody expected {other:?}"),
        }
    }
}
