//! TLS as scanners see it, on every port that has it, through Tor.

use anyhow::{Context as _, ensure};
use qemu::Deadline;

use super::State;
use super::forward::Forward;
use crate::check::{Check, Verdict, check, none_of};
use crate::site::{DIALOGUE, PEER};
use crate::vantage::testssl::{self, Depth, Severity};

/// One full run: some hundred handshakes with an emulated machine, over six relays.
const SCAN: u64 = 1800;

/// How many handshakes share a circuit. A service counts them, and a whole scan by one client would be an attack.
const TOGETHER: usize = 8;

/// A port with TLS.
#[derive(Clone, Copy)]
struct Port {
    number: u16,
    starttls: Option<&'static str>,
}

const PORTS: [Port; 3] = [
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

/// What takes minutes.
pub(super) fn scans() -> Vec<Check<State>> {
    let scan = |port: Port| {
        let name = format!("testssl_no_finding_above_low_{}", port.number);
        check(name, &["R23", "R24"], move |state: &mut State| no_grave_finding(state, port))
    };
    PORTS.map(scan).into()
}

impl Port {
    /// The onion that it belongs to.
    fn onion(self, state: &State) -> anyhow::Result<String> {
        let site = state.site()?;
        Ok(if self.number == 25 { site.mx.clone() } else { site.client.clone() })
    }

    fn forward(self, state: &State) -> anyhow::Result<Forward> {
        Forward::open(state, &self.onion(state)?, self.number, TOGETHER)
    }
}

/// OpenSSL offers one version at a time, with every cipher that it still knows.
fn old_versions_refused(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    for port in PORTS {
        let (onion, forward) = (port.onion(state)?, port.forward(state)?);
        for (version, wanted) in [("-tls1", false), ("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)]
        {
            let connect = forward.address.to_string();
            let mut argv = vec!["openssl", "s_client", "-connect", &connect, "-servername", &onion, version];
            argv.extend(["-cipher", "ALL:@SECLEVEL=0", "-brief"]);
            if let Some(protocol) = port.starttls {
                argv.extend(["-starttls", protocol]);
            }
            let said = state.tool(&argv, DIALOGUE)?;
            let agreed = said.stderr.contains("CONNECTION ESTABLISHED");
            if agreed != wanted {
                findings.push(format!("port {}, {version}: {}", port.number, said.stderr.trim()));
            }
        }
    }
    none_of(&findings)
}

/// What is made with the authority's key is good for the owner's onion and for nothing else, so that who imports the
/// authority risks nothing.
fn name_constrained(state: &mut State) -> Verdict {
    let site = state.site()?;
    let (client, authority) = (site.client.clone(), state.folder.join("ca.crt"));
    fs_err::write(&authority, &site.authority)?;
    let key = state.folder.join("ca.key");
    fs_err::write(&key, state.resident.appliance.read("cat /var/lib/cipolla/private/ca.pem")?)?;
    let path = |name: &str| state.folder.join(name).display().to_string();
    let run = |argv: &[&str]| -> anyhow::Result<String> {
        let ran = state.tool(argv, 60)?;
        ensure!(ran.status.success(), "{}: {}", argv.join(" "), ran.stderr);
        Ok(ran.stdout)
    };
    let mut findings = Vec::new();
    let shown = run(&[
        "openssl",
        "x509",
        "-noout",
        "-ext",
        "nameConstraints,basicConstraints",
        "-in",
        &path("ca.crt"),
    ])?;
    if !shown.contains("X509v3 Name Constraints: critical") {
        findings.push(format!("the constraints are not critical: {shown}"));
    }
    for (name, good) in [(client.as_str(), true), ("example.com", false), (PEER, false), ("onion", false)] {
        run(&[
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/",
            "-addext",
            &format!("subjectAltName=critical,DNS:{name}"),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            &path("ca.crt"),
            "-CAkey",
            &path("ca.key"),
            "-keyout",
            &path("leaf.key"),
            "-out",
            &path("leaf.crt"),
        ])?;
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
    let (onion, forward) = (port.onion(state)?, port.forward(state)?);
    let json = state.folder.join(format!("testssl-{}.json", port.number));
    if json.exists() {
        fs_err::remove_file(&json)?;
    }
    let argv = testssl::argv(forward.address, &onion, port.starttls, Depth::Full, &json);
    let output = state.scanners.output(&argv, Deadline::seconds(SCAN))?;
    let text = fs_err::read_to_string(&json).context(output.stdout)?;
    let findings = testssl::parse(&text)?;
    let accepted = ACCEPTED.map(|(id, _)| id);
    let grave = testssl::above(&findings, Severity::Low, &accepted);
    let told = grave.iter().map(|one| format!("{} {:?}: {}", one.id, one.severity, one.finding));
    none_of(&told.collect::<Vec<_>>())
}
