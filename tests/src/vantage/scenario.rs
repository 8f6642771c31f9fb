//! The scenario `scanners`: each scanner of the lab's tree against a server on loopback that it must find fault with.

use std::borrow::Cow;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use qemu::{Deadline, Probe};

use super::testssl::{Depth, Severity};
use super::{Group, Vantage, nmap, openssl, ssh_audit, testssl, words};
use crate::Context;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, check, fail, none_of};

/// A tool against loopback takes seconds; emulation plays no part.
const TOOL: u64 = 120;

/// Runs the scanners.
pub(crate) struct Scanners;

/// Where they run, and what they look at.
pub(crate) struct State {
    vantage: Vantage,
    folder: PathBuf,
    tls: TlsServer,
}

impl Scenario for Scanners {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "scanners".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "the scanners of the lab, on servers with known faults".into()
    }

    fn machines(&self) -> usize {
        0
    }

    fn start(&self, ctx: &Context, _: &Probe) -> anyhow::Result<State> {
        let folder = ctx.run_root.join("scanners");
        fs_err::create_dir_all(&folder)?;
        let vantage = Vantage { namespace: Vec::new(), tree: ctx.scanners.clone() };
        let tls = TlsServer::start(&vantage, &folder, &[])?;
        Ok(State { vantage, folder, tls })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<State>> {
        let checks = vec![
            check("nmap_finds_the_one_open_port", &[], open_port),
            check("testssl_finds_the_untrusted_certificate", &[], untrusted),
            check("openssl_agrees_to_old_versions", &[], old_versions),
            check("ssh_audit_finds_weak_key_exchange", &[], weak),
        ];
        vec![Phase::of(checks)]
    }

    fn evidence(&self, _: &mut State) -> Vec<Evidence> {
        Vec::new()
    }

    fn reach(&self, _: &State) -> Option<String> {
        None
    }
}

fn open_port(state: &mut State) -> Verdict {
    let (address, port) = (state.tls.address.ip(), state.tls.address.port());
    let range = format!("{}-{}", port.saturating_sub(1), port.saturating_add(1));
    let argv = nmap::argv(address, nmap::Protocol::Tcp, &range);
    let output = state.vantage.output(&argv, Deadline::seconds(TOOL))?;
    let scan = nmap::parse(&output.stdout).context(output.stderr)?;
    // What has the ports beside it is not ours to say.
    if scan.open().contains(&port) { PASS } else { fail(format!("nmap found {scan:?}, not port {port}")) }
}

fn untrusted(state: &mut State) -> Verdict {
    let json = state.folder.join("testssl.json");
    if json.exists() {
        fs_err::remove_file(&json)?;
    }
    let argv = testssl::argv(state.tls.address, "localhost", None, Depth::Quick, &json);
    let output = state.vantage.output(&argv, Deadline::seconds(TOOL))?;
    let text = fs_err::read_to_string(&json).context(output.stdout)?;
    let findings = testssl::parse(&text)?;
    let grave = testssl::above(&findings, Severity::Low, &[]);
    let found = grave.iter().any(|one| one.id == "cert_chain_of_trust");
    if found { PASS } else { fail(format!("testssl found {grave:?}")) }
}

/// The client that must be refused by an appliance is not one that refuses.
fn old_versions(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    for version in ["-tls1", "-tls1_1"] {
        let options = [&[version][..], &openssl::EVERY_CIPHER].concat();
        let server = TlsServer::start(&state.vantage, &state.folder, &options)?;
        let argv = openssl::argv(server.address, "localhost", version, None);
        let said = state.vantage.output(&argv, Deadline::seconds(TOOL))?;
        if !openssl::agreed(&said.stderr) {
            findings.push(format!("{version}: {}", said.stderr.trim()));
        }
    }
    none_of(&findings)
}

fn weak(state: &mut State) -> Verdict {
    let key = state.folder.join("ssh-host-key");
    if key.exists() {
        fs_err::remove_file(&key)?;
    }
    let mut make = words(["dropbearkey", "-t", "ed25519", "-f"]);
    make.push(key.clone().into());
    let made = state.vantage.output(&make, Deadline::seconds(TOOL))?;
    ensure!(made.status.success(), "making a host key: {}", made.stderr);
    // In the foreground, told about errors, without passwords. A port of the kernel's choice is freed for it.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut serve = words(["dropbear", "-F", "-E", "-s", "-P", "/tmp/dropbear.pid"]);
    serve.extend(words(["-p", &port.to_string(), "-r"]));
    serve.push(key.into());
    let mut server = state.vantage.spawn(&serve, Stdio::null(), Stdio::null(), Stdio::piped())?;
    // It listens before it says this.
    first_line(&mut server, "Not backgrounding")?;
    let output = state.vantage.output(&ssh_audit::argv(port), Deadline::seconds(TOOL))?;
    let audit = ssh_audit::parse(&output.stdout).context(output.stderr)?;
    let found = audit.failures.iter().any(|one| one.starts_with("kex ecdh-sha2-nistp256: "));
    if found { PASS } else { fail(format!("ssh-audit found {audit:?}")) }
}

/// `openssl s_server` on loopback with a fresh self-signed certificate. It ends with this value.
pub(crate) struct TlsServer {
    _group: Group,
    pub(crate) address: SocketAddr,
}

impl TlsServer {
    /// Makes the certificate in `folder` and starts the server, with these options on top (openssl-s_server(1)).
    pub(crate) fn start(vantage: &Vantage, folder: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let (key, certificate) = (folder.join("tls-key.pem"), folder.join("tls-cert.pem"));
        let mut make = words(["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
        make.extend(words(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=localhost", "-keyout"]));
        make.extend([key.clone().into(), "-out".into(), certificate.clone().into()]);
        let made = vantage.output(&make, Deadline::seconds(TOOL))?;
        ensure!(made.status.success(), "making a certificate: {}", made.stderr);
        let mut serve = words(["openssl", "s_server", "-accept", "127.0.0.1:0", "-www", "-cert"]);
        serve.extend([certificate.into(), "-key".into(), key.into()]);
        serve.extend(words(options));
        let mut group = vantage.spawn(&serve, Stdio::null(), Stdio::piped(), Stdio::null())?;
        let line = first_line(&mut group, "ACCEPT ")?;
        let address = line.trim_start_matches("ACCEPT ").trim().parse();
        let address = address.with_context(|| format!("reading openssl's line {line:?}"))?;
        Ok(Self { _group: group, address })
    }
}

/// The first line with `text` on the one stream of a server that is a pipe. The rest is read and dropped, so that
/// the pipe never fills up.
pub(crate) fn first_line(server: &mut Group, text: &'static str) -> anyhow::Result<String> {
    let pipe: Box<dyn std::io::Read + Send> = match (server.0.stdout.take(), server.0.stderr.take()) {
        (Some(stdout), _) => Box::new(stdout),
        (None, Some(stderr)) => Box::new(stderr),
        (None, None) => anyhow::bail!("the server has no pipe"),
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if line.contains(text) {
                // Only the first is waited for.
                let _ = sender.send(line);
            }
        }
    });
    let deadline = std::time::Duration::from_secs(TOOL);
    receiver.recv_timeout(deadline).with_context(|| format!("waiting for the server's line {text:?}"))
}
