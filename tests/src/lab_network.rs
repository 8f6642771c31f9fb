//! The private network by itself: Tor comes up, an onion service can be used, and nothing is left afterwards.
//!
//! Other scenarios stand on this. If it fails, their failures say nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use anyhow::{anyhow, ensure};
use clients::{Channel, Door, Refused};
use qemu::{Deadline, Keep, Lab, Probe, Programs, RunDir, TorClient, TorNetwork};

use crate::Context;
use crate::check::{Evidence, PASS, Phase, Scenario, Verdict, check, fail, gate, none_of};
use crate::processes;

/// Keys, eight starts of Tor, the first consensus: 15 to 30 s on two busy cores.
const READY: u64 = 180;

/// A descriptor published or fetched, a circuit built.
const ONION: u64 = 90;

/// Until every relay knows that a service is gone, in seconds: each of the four on the way tells the next within five.
const GONE: u64 = 60;

/// Until an introduction point that knows a service's end has said so, in seconds.
const NO: u64 = 10;

/// The port of the test's onion service.
const PORT: u16 = 7;

/// So many relays and authorities a lab has.
const TORS: usize = 8;

pub(crate) struct LabNetwork;

/// Fields are dropped in this order.
pub(crate) struct State {
    network: Option<Network>,
    programs: Programs,
    run_dir: RunDir,
    /// The lab's network namespace, as the kernel names it.
    namespace: String,
    onion: Option<String>,
}

struct Network {
    client: Option<TorClient>,
    server: Option<TorClient>,
    tor: TorNetwork,
    lab: Lab,
}

impl Scenario for LabNetwork {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "lab_network".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "the private Tor network of the tests, without machines".into()
    }

    fn machines(&self) -> usize {
        0
    }

    fn start(&self, ctx: &Context, _: &Probe) -> anyhow::Result<State> {
        let run_dir = RunDir::create(&ctx.run_root.join("lab_network"))?;
        let keep = if ctx.keep { Keep::Yes } else { Keep::No };
        let lab = Lab::start(&ctx.programs, run_dir.clone(), keep)?;
        let namespace = namespace(&lab)?;
        let tor = TorNetwork::start(&lab, Deadline::seconds(READY))?;
        Ok(State {
            network: Some(Network { client: None, server: None, tor, lab }),
            programs: ctx.programs.clone(),
            run_dir,
            namespace,
            onion: None,
        })
    }

    fn phases(&self, ctx: &Context) -> Vec<Phase<State>> {
        let mut first = vec![
            gate("tor_network_usable", &[], tor_network_usable),
            check("lab_has_no_way_out", &[], lab_has_no_way_out),
            gate("onion_service_published", &[], onion_service_published),
            check("two_circuits_reach_it", &[], two_circuits_reach_it),
            check("unknown_onion_is_not_found", &[], unknown_onion_is_not_found),
            check("ended_service_is_known_to_be_gone", &[], ended_service_is_known_to_be_gone),
            check("no_relay_died", &[], no_relay_died),
        ];
        if !ctx.keep {
            first.push(check("nothing_is_left", &[], nothing_is_left));
        }
        first.push(check("panic_leaves_nothing", &[], panic_leaves_nothing));
        vec![Phase::of(first)]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        ["client", "server", "auth1"]
            .map(|name| {
                let log = state.run_dir.file("tor").join(name).join("tor.log");
                let text = fs_err::read_to_string(&log).unwrap_or_else(|error| error.to_string());
                let mut lines: Vec<_> = text.lines().rev().take(12).map(str::to_owned).collect();
                lines.reverse();
                (format!("Tor {name}: {}", log.display()), lines)
            })
            .into()
    }

    fn reach(&self, state: &State) -> Option<String> {
        state.network.as_ref().map(|network| network.lab.how_to_reach())
    }
}

impl State {
    fn network(&mut self) -> anyhow::Result<&mut Network> {
        self.network.as_mut().ok_or_else(|| anyhow!("the lab has ended"))
    }
}

fn joined(client: &mut Option<TorClient>) -> anyhow::Result<&mut TorClient> {
    client.as_mut().ok_or_else(|| anyhow!("this Tor did not join the network"))
}

fn tor_network_usable(state: &mut State) -> Verdict {
    let Network { client, server, tor, lab } = state.network()?;
    let deadline = Deadline::seconds(READY);
    *client = Some(tor.client(lab, "client", deadline)?);
    *server = Some(tor.client(lab, "server", deadline)?);
    PASS
}

/// Whoever is in the lab cannot send anything out of it.
fn lab_has_no_way_out(state: &mut State) -> Verdict {
    let programs = state.network()?.lab.programs().clone();
    let ask = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
        Ok(String::from_utf8(programs.output(program, arguments)?)?)
    };
    let mut findings = Vec::new();
    for line in ask("ip", &["-o", "link"])?.lines() {
        let name = line.split(": ").nth(1).unwrap_or_default();
        if name != "lo" && name != "br0" {
            findings.push(format!("a device that is not the lab's: {line}"));
        }
    }
    for line in ask("ip", &["route", "show", "table", "main"])?.lines() {
        if !line.starts_with("10.77.0.0/24 ") {
            findings.push(format!("a route: {line}"));
        }
    }
    let forwards = ask("cat", &["/proc/sys/net/ipv4/ip_forward"])?;
    if forwards.trim() != "0" {
        findings.push("the lab forwards packets".to_owned());
    }
    none_of(&findings)
}

fn onion_service_published(state: &mut State) -> Verdict {
    let socket = state.run_dir.file("echo.sock");
    echo(&socket)?;
    let server = joined(&mut state.network()?.server)?;
    let onion = server.publish(PORT, &socket, Deadline::seconds(ONION))?;
    state.onion = Some(onion);
    PASS
}

/// Answers every connection with what it says, as long as this program lives.
fn echo(socket: &Path) -> anyhow::Result<()> {
    // Left by an earlier run.
    let _ = fs_err::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut block = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut block) {
                    if stream.write_all(&block[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(())
}

fn two_circuits_reach_it(state: &mut State) -> Verdict {
    let onion = state.onion.clone().ok_or_else(|| anyhow!("no service is published"))?;
    let client = joined(&mut state.network()?.client)?;
    let door = Door::new(client.socks());
    let connect = |circuit| door.connect_when_up(circuit, &onion, PORT, Deadline::seconds(ONION));
    let mut all = [connect("one")?, connect("one")?, connect("two")?];
    for (number, channel) in all.iter_mut().enumerate() {
        let word = format!("word {number}");
        let answer = echoed(channel, &word)?;
        if answer != word {
            return fail(format!("the service answered {answer:?} to {word:?}"));
        }
    }
    let streams = client.streams(Deadline::seconds(ONION))?;
    let circuits: BTreeSet<_> = streams.iter().map(|(circuit, _)| circuit).collect();
    if streams.len() == 3 && circuits.len() == 2 {
        return PASS;
    }
    fail(format!("three connections under two names use these circuits: {streams:?}"))
}

fn echoed(channel: &mut Channel, word: &str) -> anyhow::Result<String> {
    channel.until(Deadline::seconds(ONION));
    channel.write_all(word.as_bytes())?;
    let mut answer = vec![0; word.len()];
    channel.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A valid address that nobody publishes: its public key is the curve's base point.
fn unknown_onion_is_not_found(state: &mut State) -> Verdict {
    let onion = "lbtgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztmn5ad.onion";
    let door = Door::new(joined(&mut state.network()?.client)?.socks());
    match door.connect_once("three", onion, PORT, Deadline::seconds(ONION)) {
        Ok(_) => fail("Tor connected to a service that does not exist"),
        Err(error) if error.downcast_ref() == Some(&Refused::NOT_FOUND) => PASS,
        Err(error) => fail(format!("{error:#}")),
    }
}

/// Whoever still has the descriptor of a service whose Tor is gone hears so from the introduction points: relays have told
/// each other. In a network without any traffic they would acknowledge, and the caller would wait for two minutes.
fn ended_service_is_known_to_be_gone(state: &mut State) -> Verdict {
    let onion = state.onion.clone().ok_or_else(|| anyhow!("no service is published"))?;
    let network = state.network()?;
    drop(network.server.take());
    let door = Door::new(joined(&mut network.client)?.socks());
    let deadline = Deadline::seconds(GONE);
    let mut tries = 0;
    loop {
        tries += 1;
        match door.connect_once(&format!("late {tries}"), &onion, PORT, Deadline::seconds(NO)) {
            Ok(_) => return fail("a service whose Tor is gone was connected to"),
            Err(error) if error.downcast_ref() == Some(&Refused::NOT_INTRODUCED) => return PASS,
            Err(error) if deadline.left().is_none() => return fail(format!("after {GONE} s: {error:#}")),
            Err(_) => {}
        }
    }
}

fn no_relay_died(state: &mut State) -> Verdict {
    none_of(&state.network()?.tor.casualties())
}

/// The lab's network namespace, as the kernel names it.
fn namespace(lab: &Lab) -> qemu::Result<String> {
    let name = lab.programs().output("readlink", ["/proc/self/ns/net"])?;
    Ok(String::from_utf8_lossy(&name).trim().to_owned())
}

/// What runs in a network, as findings.
fn running_in(namespace: &str) -> Vec<String> {
    let all = processes::all().into_iter();
    all.filter(|one| one.network == Path::new(namespace)).map(|one| one.still_runs()).collect()
}

/// Ends the lab as the end of any scenario does; then no process may be in its network any more.
fn nothing_is_left(state: &mut State) -> Verdict {
    drop(state.network.take());
    none_of(&running_in(&state.namespace))
}

/// A second lab, whose user panics while its Tors run: they end on the way out.
fn panic_leaves_nothing(state: &mut State) -> Verdict {
    let mut place = String::new();
    let used = catch_unwind(AssertUnwindSafe(|| -> anyhow::Result<Infallible> {
        let run_dir = RunDir::create(&state.run_dir.file("panic"))?;
        let lab = Lab::start(&state.programs, run_dir, Keep::No)?;
        place = namespace(&lab)?;
        let _tor = TorNetwork::start(&lab, Deadline::seconds(READY))?;
        let running = running_in(&place).len();
        ensure!(running > TORS, "{running} processes run in this lab: there is nothing to be left");
        // Unwinds like a panic, without the words on the terminal that would look like a fault of the tests.
        resume_unwind(Box::new("a panic on purpose"))
    }));
    match used {
        Ok(Err(error)) => Err(error),
        Err(_) => none_of(&running_in(&place)),
    }
}
