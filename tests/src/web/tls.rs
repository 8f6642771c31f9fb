//! TLS as scanners see it, on every port that has it, through Tor.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use qemu::Deadline;

use super::State;
use super::forward::Forward;
use crate::check::{Check, Verdict, check, none_of};
use crate::site::{DIALOGUE, PEER};
use crate::vantage::testssl::{self, Depth, Finding, Severity};
use crate::vantage::{Vantage, openssl};

/// One full run: some hundred handshakes with an emulated machine, over six relays.
const SCAN: u64 = 1800;

/// How many handshakes share a circuit. A service counts them, and a whole scan by one client would be an attack.
const TOGETHER: usize = 8;

/// A port with TLS.
#[derive(Clone, Copy)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) starttls: Option<&'static str>,
}

pub(super) const PORTS: [Port; 3] = [
    Port { number: 25, starttls: Some("smtp") },
    Port { number: 465, starttls: None },
    Port { number: 993, starttls: None },
];

/// Findings that say nothing here, and why.
const ACCEPTED: [(&str, &str); 4] = [
    (
        "cert_chain_of_trust",
        "no public authority knows an onion; what the owner's own is worth has checks of its own",
    ),
    (
        "cert_revocation",
        "an authority for one machine renews its leaf and revokes nothing; nobody could ask it",
    ),
    ("cert_crlDistributionPoints", "the same"),
    ("cert_ocspURL", "the same"),
];

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("tls10_tls11_refused", &["R23", "R24"], old_versions_refused),
        check("ca_is_name_constrained", &["R22"], name_constrained),
    ]
}

/// What testssl found, by port.
pub(super) type Scans = BTreeMap<u16, anyhow::Result<Vec<Finding>>>;

/// Scans all ports at once: a scan waits for circuits more than anybody works.
pub(super) fn scan(state: &mut State) -> anyhow::Result<()> {
    let scans = PORTS.map(|port| Scan::of(state, port));
    let scanners = &state.scanners;
    state.scans = std::thread::scope(|scope| {
        let running = scans.map(|scan| scope.spawn(move || scan?.run(scanners)));
        let done = running.map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        PORTS.map(|port| port.number).into_iter().zip(done).collect()
    });
    Ok(())
}

/// A scan that is ready to run.
struct Scan {
    argv: Vec<OsString>,
    json: PathBuf,
    _forward: Forward,
}

impl Scan {
    fn of(state: &State, port: Port) -> anyhow::Result<Self> {
        let (onion, forward) = (port.onion(state)?, port.forward(state)?);
        let json = state.folder.join(format!("testssl-{}.json", port.number));
        if json.exists() {
            fs_err::remove_file(&json)?;
        }
        let argv = testssl::argv(forward.address, &onion, port.starttls, Depth::Full, &json);
        Ok(Self { argv, json, _forward: forward })
    }

    fn run(self, scanners: &Vantage) -> anyhow::Result<Vec<Finding>> {
        let output = scanners.output(&self.argv, Deadline::seconds(SCAN))?;
        testssl::parse(&fs_err::read_to_string(&self.json).context(output.stdout)?)
    }
}

pub(super) fn scans() -> Vec<Check<State>> {
    let scan = |port: Port| {
        let name = format!("testssl_no_finding_above_low_{}", port.number);
        check(name, &["R23", "R24"], move |state: &mut State| no_grave_finding(state, port))
    };
    PORTS.map(scan).into()
}

impl Port {
    /// The onion that it belongs to.
    pub(super) fn onion(self, state: &State) -> anyhow::Result<String> {
        let site = &state.site;
        Ok(if self.number == 25 { site.mx.clone() } else { site.client.clone() })
    }

    pub(super) fn forward(self, state: &State) -> anyhow::Result<Forward> {
        Forward::open(state, &self.onion(state)?, self.number, TOGETHER)
    }
}

/// One version is offered at a time. That this client would speak the old ones is shown in `scanners`.
fn old_versions_refused(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    for port in PORTS {
        let (onion, forward) = (port.onion(state)?, port.forward(state)?);
        for (version, wanted) in [("-tls1", false), ("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)]
        {
            let argv = openssl::argv(forward.address, &onion, version, port.starttls);
            let said = state.scanners.output(&argv, Deadline::seconds(DIALOGUE))?;
            if openssl::agreed(&said.stderr) != wanted {
                findings.push(format!("port {}, {version}: {}", port.number, said.stderr.trim()));
            }
        }
    }
    none_of(&findings)
}

/// Runs a tool that has to succeed and returns what it wrote.
fn run(state: &State, argv: &[&str]) -> anyhow::Result<String> {
    let ran = state.tool(argv, 60)?;
    ensure!(ran.status.success(), "{}: {}", argv.join(" "), ran.stderr);
    Ok(ran.stdout)
}

/// Puts the appliance's authority into the folder, `ca.crt` and `ca.key`, as a thief of the key would.
pub(super) fn take_authority(state: &mut State) -> anyhow::Result<()> {
    fs_err::write(state.folder.join("ca.crt"), &state.site.authority)?;
    let key = state.resident.appliance.read("cat /var/lib/cipolla/private/ca.pem")?;
    Ok(fs_err::write(state.folder.join("ca.key"), key)?)
}

/// Makes a key and a server's certificate for two days, `leaf.key` and `leaf.crt` in the folder; signed by the authority
/// that [`take_authority`] put there, or by itself.
pub(super) fn certify(state: &State, name: &str, by_authority: bool) -> anyhow::Result<()> {
    let path = |name: &str| state.folder.join(name).display().to_string();
    let alternative = format!("subjectAltName=critical,DNS:{name}");
    let (key, certificate) = (path("leaf.key"), path("leaf.crt"));
    let mut argv = vec!["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    argv.extend(["-nodes", "-days", "2", "-subj", "/", "-addext", &alternative]);
    argv.extend(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &certificate]);
    let authority = [path("ca.crt"), path("ca.key")];
    if by_authority {
        argv.extend(["-CA", &authority[0], "-CAkey", &authority[1]]);
    }
    run(state, &argv).map(drop)
}

/// What is made with the authority's key is good for the owner's onion and for nothing else, so that who imports the
/// authority risks nothing.
fn name_constrained(state: &mut State) -> Verdict {
    take_authority(state)?;
    let client = state.site.client.clone();
    let path = |name: &str| state.folder.join(name).display().to_string();
    let mut findings = Vec::new();
    let extensions = ["-ext", "nameConstraints,basicConstraints", "-in", &path("ca.crt")];
    let shown = run(state, &[&["openssl", "x509", "-noout"], &extensions[..]].concat())?;
    if !shown.contains("X509v3 Name Constraints: critical") {
        findings.push(format!("the constraints are not critical: {shown}"));
    }
    for (name, good) in [(client.as_str(), true), ("example.com", false), (PEER, false), ("onion", false)] {
        certify(state, name, true)?;
        let verified = state.tool(
            &["openssl", "verify", "-x509_strict", "-CAfile", &path("ca.crt"), &path("leaf.crt")],
            60,
        )?;
        let said = format!("{}{}", verified.stdout.trim(), verified.stderr.trim());
        if verified.status.success() != good || (!good && !said.contains("permitted subtree violation")) {
            findings.push(format!("a certificate for {name}: {said}"));
        }
    }
    none_of(&findings)
}

fn no_grave_finding(state: &mut State, port: Port) -> Verdict {
    let findings = state.scans.remove(&port.number).context("the port was not scanned")??;
    let accepted = ACCEPTED.map(|(id, _)| id);
    let grave = testssl::above(&findings, Severity::Low, &accepted);
    let told = grave.iter().map(|one| format!("{} {:?}: {}", one.id, one.severity, one.finding));
    none_of(&told.collect::<Vec<_>>())
}
