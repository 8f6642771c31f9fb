//! Which Debian mirror a build uses: the one that is named, else the one of the host's own apt configuration.
//!
//! No mirror's name is written in this project; locks and results hold pool paths and hashes only. Security updates
//! come from the host's own security mirror, or from the folder beside a named mirror where Debian keeps them.

use anyhow::{Result, bail};

use crate::exec::{Cmd, Log};

/// Release names whose repositories are Debian's own; a host's other repositories are not mirrors of Debian.
const RELEASES: [&str; 12] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "oldoldstable",
    "experimental",
];

/// Where packages come from, and through which proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The archive, without a slash at the end.
    pub main: String,
    /// The security archive.
    pub security: String,
    /// apt's `Acquire::http::Proxy`, if the host has one.
    pub proxy: Option<String>,
}

/// Chooses the mirror: `named` (from `--mirror` or the recipe) first, then the host's apt sources.
///
/// # Errors
/// apt is missing, or nothing was named and the host has no Debian source.
pub fn choose(named: Option<&str>, log: &Log) -> Result<Mirror> {
    let targets = Cmd::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
        .output(log)?;
    let proxy = Cmd::new("apt-config").args(["shell", "PROXY", "Acquire::http::Proxy"]).output(log)?;
    let proxy = proxy.trim().strip_prefix("PROXY='").and_then(|p| p.strip_suffix('\'')).map(str::to_owned);
    decide(named, &targets, proxy)
}

fn decide(named: Option<&str>, targets: &str, proxy: Option<String>) -> Result<Mirror> {
    let mut main = named.map(trim);
    let mut security = None;
    for line in targets.lines() {
        let mut words = line.split_whitespace();
        let (Some(uri), Some(release), Some("main")) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (base, is_security) = match release.strip_suffix("-security") {
            Some(base) => (base, true),
            None => (release.split('/').next().unwrap_or(release), release.ends_with("/updates")),
        };
        if !RELEASES.contains(&base) {
            continue;
        }
        let slot = if is_security { &mut security } else { &mut main };
        slot.get_or_insert_with(|| trim(uri));
    }
    let Some(main) = main else {
        bail!(
            "no Debian mirror: this machine's apt sources name none; \
             say which with `--mirror URL` or `mirror = \"URL\"` under [debian] in the recipe"
        );
    };
    // A named mirror is usually there because the host's own cannot be reached or must not be used.
    let security = match (named, security) {
        (None, Some(security)) => security,
        (None | Some(_), _) => match main.strip_suffix("/debian") {
            Some(stem) => format!("{stem}/debian-security"),
            None => format!("{main}-security"),
        },
    };
    Ok(Mirror { main, security, proxy })
}

fn trim(uri: &str) -> String {
    uri.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "http://mirror.example/debian/ bookworm main\n\
                        http://mirror.example/debian/ bookworm-updates main\n\
                        http://sec.example/debian-security/ bookworm-security main\n\
                        https://other.example/apt/ cloud-sdk-bookworm main\n";

    #[test]
    fn the_hosts_own_mirror() {
        let mirror = decide(None, HOST, None).unwrap();
        assert_eq!(mirror.main, "http://mirror.example/debian");
        assert_eq!(mirror.security, "http://sec.example/debian-security");
    }

    #[test]
    fn a_named_mirror_brings_its_own_security_folder() {
        let mirror =
            decide(Some("http://near.example/debian/"), HOST, Some("http://proxy.example:3142".into()));
        let mirror = mirror.unwrap();
        assert_eq!(mirror.main, "http://near.example/debian");
        assert_eq!(mirror.security, "http://near.example/debian-security");
        assert_eq!(mirror.proxy.as_deref(), Some("http://proxy.example:3142"));
    }

    #[test]
    fn foreign_repositories_are_no_mirror() {
        let error = decide(None, "https://other.example/apt/ cloud-sdk-bookworm main\n", None).unwrap_err();
        assert!(error.to_string().contains("--mirror"), "{error}");
    }
}
