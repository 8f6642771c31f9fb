//! Which packages, in which versions, from where: apt decides, over signed indices, in a folder of its own.
//!
//! apt runs with a private configuration: the host's sources, preferences and installed packages play no part, its
//! indices are checked against Debian's archive keys, and every file it fetches has a timeout. The result is a
//! [`Solution`]: package stanzas with pool path, size and SHA-256, from which everything later follows offline.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::exec::{Cmd, Log};
use crate::mirror::Mirror;
use crate::store::{Cache, sha256};

/// Debian's archive keys, from the package `debian-archive-keyring`.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt gives up on a silent server after this many seconds, and tries again twice.
const SILENCE: u32 = 20;
/// The whole update of indices (some 20 MB) must fit into this.
const UPDATE_DEADLINE: Duration = Duration::from_secs(600);

/// What apt is asked for.
#[derive(Clone, Debug)]
pub struct Want {
    /// The suite, such as `trixie`.
    pub suite: String,
    /// Archive areas, such as `main`.
    pub components: Vec<String>,
    /// Pockets beside the suite: `updates`, `security`, `backports`.
    pub pockets: Vec<String>,
    /// Debian architecture, such as `amd64`.
    pub arch: String,
    /// Packages by name; essential ones come on top.
    pub packages: Vec<String>,
    /// Packages to take from the backports pocket.
    pub backports: Vec<String>,
}

/// One package of a solution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture: that of the image, or `all`.
    pub arch: String,
    /// Whether dpkg holds it to be essential.
    pub essential: bool,
    /// Path below the archive's root.
    pub path: String,
    /// Whether the path is in the security archive.
    pub security: bool,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the `.deb`.
    pub sha256: String,
    /// The index stanza without `Filename`, for the offline index of the bootstrap.
    pub stanza: String,
}

/// The closed set of packages, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Solution {
    /// All packages.
    pub packages: Vec<Package>,
}

impl Solution {
    /// A digest over names, versions and hashes.
    pub fn digest(&self) -> String {
        let mut text = String::new();
        for p in &self.packages {
            let _ = writeln!(text, "{} {} {} {}", p.name, p.version, p.arch, p.sha256);
        }
        sha256(text.as_bytes())
    }
}

/// Asks apt, over the network.
///
/// # Errors
/// The mirror is out of reach, silent or unsigned; a package does not exist or cannot be installed with the others.
pub fn solve(want: &Want, mirror: &Mirror, cache: &Cache, log: &Log) -> Result<Solution> {
    if !Utf8Path::new(KEYRING).exists() {
        bail!("Debian's archive keys are missing ({KEYRING}); run `cargo xtask doctor --fix`");
    }
    let sources = sources(want, mirror);
    let dir = cache.root().join("apt").join(&sha256(format!("{}{sources}", want.arch).as_bytes())[..16]);
    let conf = prepare(&dir, want, mirror, &sources)?;
    let apt = |program: &str| Cmd::new(program).env("APT_CONFIG", &conf).env("LC_ALL", "C.UTF-8");

    apt("apt-get")
        .args(["update", "--error-on=any"])
        .deadline(UPDATE_DEADLINE)
        .run(log)
        .with_context(|| format!("fetching the package indices of {} from {}", want.suite, mirror.main))?;
    let mut ask: Vec<String> = vec!["?essential".into()];
    ask.extend(want.packages.iter().cloned());
    ask.extend(want.backports.iter().map(|p| format!("{p}/{}-backports", want.suite)));
    let simulated = apt("apt-get")
        .args(["install", "--simulate", "--no-install-recommends", "--yes"])
        .args(&ask)
        .output(log)
        .context("solving the package set (the names come from the recipe's [packages])")?;
    let chosen = installs(&simulated)?;
    let stanzas = apt("apt-cache")
        .args(["show", "--no-all-versions"])
        .args(chosen.iter().map(|(name, version)| format!("{name}={version}")))
        .output(log)?;
    let security_lists = security_paths(&apt, &chosen, &mirror.security, log)?;
    let mut packages = stanzas
        .split("\n\n")
        .filter(|s| !s.trim().is_empty())
        .map(parse_stanza)
        .collect::<Result<Vec<_>>>()?;
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    packages.dedup_by(|a, b| a.name == b.name);
    for package in &mut packages {
        package.security = security_lists.contains(&package.path);
    }
    if packages.len() != chosen.len() {
        bail!("apt chose {} packages but described {}", chosen.len(), packages.len());
    }
    Ok(Solution { packages })
}

fn sources(want: &Want, mirror: &Mirror) -> String {
    let components = want.components.join(" ");
    let mut lines = String::new();
    let mut line = |uri: &str, suite: &str| {
        let _ = writeln!(lines, "deb [arch={} signed-by={KEYRING}] {uri} {suite} {components}", want.arch);
    };
    line(&mirror.main, &want.suite);
    for pocket in &want.pockets {
        let suite = format!("{}-{pocket}", want.suite);
        line(if pocket == "security" { &mirror.security } else { &mirror.main }, &suite);
    }
    lines
}

fn prepare(dir: &Utf8Path, want: &Want, mirror: &Mirror, sources: &str) -> Result<Utf8PathBuf> {
    for sub in [
        "etc/apt.conf.d",
        "etc/preferences.d",
        "etc/trusted.gpg.d",
        "state/lists/partial",
        "cache/archives/partial",
    ] {
        fs_err::create_dir_all(dir.join(sub))?;
    }
    fs_err::write(dir.join("etc/sources.list"), sources)?;
    fs_err::write(dir.join("status"), "")?;
    let mut conf = format!(
        "Dir \"{dir}\";\nDir::State \"state\";\nDir::State::status \"{dir}/status\";\nDir::Cache \"cache\";\n\
         Dir::Etc \"etc\";\nAPT::Architecture \"{arch}\";\nAPT::Architectures {{\"{arch}\";}};\n\
         APT::Install-Recommends \"false\";\nAPT::Get::Assume-Yes \"true\";\nAPT::Sandbox::User \"\";\n\
         Acquire::Languages \"none\";\nAcquire::Retries \"2\";\nAcquire::http::Timeout \"{SILENCE}\";\n\
         Acquire::https::Timeout \"{SILENCE}\";\nDir::Log \"/dev/null\";\n",
        arch = want.arch
    );
    if let Some(proxy) = &mirror.proxy {
        let _ = writeln!(conf, "Acquire::http::Proxy \"{proxy}\";");
    }
    let path = dir.join("apt.conf");
    fs_err::write(&path, conf)?;
    Ok(path)
}

/// Reads the `Inst NAME (VERSION ORIGIN [ARCH])` lines of a simulation.
fn installs(simulated: &str) -> Result<Vec<(String, String)>> {
    let mut chosen = Vec::new();
    for line in simulated.lines() {
        let Some(rest) = line.strip_prefix("Inst ") else { continue };
        let (name, rest) = rest.split_once(" (").with_context(|| format!("reading apt's line `{line}`"))?;
        let version =
            rest.split([' ', ')']).next().with_context(|| format!("reading apt's line `{line}`"))?;
        chosen.push((name.to_owned(), version.to_owned()));
    }
    if chosen.is_empty() {
        bail!("apt would install nothing");
    }
    Ok(chosen)
}

/// Pool paths are below two archives' roots; `apt-get --print-uris` is the one place that says which.
fn security_paths(
    apt: &dyn Fn(&str) -> Cmd,
    chosen: &[(String, String)],
    security: &str,
    log: &Log,
) -> Result<std::collections::BTreeSet<String>> {
    let uris = apt("apt-get")
        .args(["install", "--print-uris", "--no-install-recommends", "--yes"])
        .args(chosen.iter().map(|(name, version)| format!("{name}={version}")))
        .output(log)?;
    let mut paths = std::collections::BTreeSet::new();
    for line in uris.lines() {
        let Some(uri) = line.strip_prefix('\'').and_then(|l| l.split('\'').next()) else { continue };
        if let Some((base, path)) = uri.split_once("/pool/")
            && base == security
        {
            paths.insert(format!("pool/{}", percent_decode(path)));
        }
    }
    Ok(paths)
}

fn percent_decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                out.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                out.push(b'%');
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn parse_stanza(text: &str) -> Result<Package> {
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')))
            .map(|value| value.trim().to_owned())
    };
    let name = field("Package").context("an index stanza without a Package field")?;
    let need = |what: &str| field(what).with_context(|| format!("the index stanza of {name} has no {what}"));
    let size = need("Size")?.parse().with_context(|| format!("the size of {name}"))?;
    let path = need("Filename")?.trim_start_matches("./").to_owned();
    if path.split('/').any(|part| part == "..") || path.starts_with('/') {
        bail!("the index stanza of {name} has a pool path that leads elsewhere: {path}");
    }
    let sha256 = need("SHA256")?;
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        bail!("the index stanza of {name} has a damaged SHA256: {sha256}");
    }
    let stanza: Vec<&str> = text.trim().lines().filter(|l| !l.starts_with("Filename:")).collect();
    Ok(Package {
        version: need("Version")?,
        arch: need("Architecture")?,
        essential: field("Essential").as_deref() == Some("yes"),
        path,
        security: false,
        size,
        sha256,
        stanza: stanza.join("\n"),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulation_lines() {
        let text = "NOTE: only a simulation\nInst gcc-14-base (14.2.0-19 Debian:13.7/stable [amd64])\n\
                    Inst tor (0.4.9.15-0+deb13u1 Debian:13.7/stable, Debian-Security:13/stable-security [amd64]) []\n\
                    Conf tor (0.4.9.15-0+deb13u1 Debian:13.7/stable [amd64])\n";
        let got = installs(text).unwrap();
        assert_eq!(got[1], ("tor".to_owned(), "0.4.9.15-0+deb13u1".to_owned()));
        assert_eq!(got.len(), 2);
        assert!(installs("nothing\n").is_err());
    }

    #[test]
    fn stanza_is_checked() {
        let sha = "a".repeat(64);
        let good = format!(
            "Package: tor\nVersion: 1\nArchitecture: amd64\nFilename: pool/main/t/tor/tor_1.deb\nSize: 12\nSHA256: {sha}\n"
        );
        let package = parse_stanza(&good).unwrap();
        assert_eq!((package.size, package.essential), (12, false));
        assert!(!package.stanza.contains("Filename"));
        assert!(parse_stanza(&good.replace("pool/main", "pool/../..")).is_err());
        assert!(parse_stanza(&good.replace(&sha, "beef")).unwrap_err().to_string().contains("SHA256"));
    }

    #[test]
    fn percent_codes() {
        assert_eq!(percent_decode("libstdc%2b%2b6_1%3a2.deb"), "libstdc++6_1:2.deb");
        assert_eq!(percent_decode("100%"), "100%");
    }

    #[test]
    fn sources_name_each_pocket() {
        let want = Want {
            suite: "trixie".into(),
            components: vec!["main".into(), "non-free-firmware".into()],
            pockets: vec!["updates".into(), "security".into()],
            arch: "amd64".into(),
            packages: vec![],
            backports: vec![],
        };
        let mirror = Mirror {
            main: "http://m.example/debian".into(),
            security: "http://s.example/sec".into(),
            proxy: None,
        };
        let text = sources(&want, &mirror);
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("http://s.example/sec trixie-security main non-free-firmware"), "{text}");
    }
}
