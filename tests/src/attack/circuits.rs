//! A circuit is a client: each has limits of its own, and none says who it is but Tor.

use super::State;
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::PEER;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("two_circuits_two_limits", &["R19", "R29"], two_circuits_two_limits),
        check("forged_proxy_header_refused", &["R2", "R19"], forged_header),
    ]
}

fn two_circuits_two_limits(state: &mut State) -> Verdict {
    let mut held = Vec::new();
    let mut refused = None;
    for _ in 0..7 {
        match state.site()?.greeting("crowd") {
            Ok((smtp, greeting)) if greeting.code == 220 => held.push(smtp),
            Ok((_, greeting)) => {
                refused = Some(greeting.to_string());
                break;
            }
            Err(error) => {
                refused = Some(format!("{error:#}"));
                break;
            }
        }
    }
    let Some(refused) = refused else { return fail("seven connections of one circuit were let in") };
    let (_, other) = state.site()?.greeting("somebody else")?;
    if held.len() >= 4 && other.code == 220 {
        return PASS;
    }
    fail(format!("{} were let in, then: {refused}; another circuit: {other}", held.len()))
}

/// Tor writes the header; a client's own is part of the dialogue and is no header.
fn forged_header(state: &mut State) -> Verdict {
    let site = state.site()?;
    let deadline = qemu::Deadline::seconds(crate::site::DIALOGUE);
    let mut talk = clients::Talk::new(site.door.connect("forger", &site.mx, 25, deadline)?);
    talk.send("PROXY TCP6 fc00:dead:beef:4dad::1:1 ::1 1 25")?;
    let greeting = talk.line()?;
    let answer = talk.line()?;
    let mut findings = Vec::new();
    if !greeting.starts_with("220 ") {
        findings.push(format!("the greeting is {greeting}"));
    }
    if answer.starts_with("250") {
        findings.push(format!("the header was obeyed: {answer}"));
    }
    // Straight to the port, as Tor's user, with garbage where the header belongs.
    let script = "cat >/run/forge.py <<'END'\nimport os, pwd, socket\n\
                  who = pwd.getpwnam('debian-tor'); os.setgroups([]); os.setgid(who.pw_gid); os.setuid(who.pw_uid)\n\
                  for port in (10025, 10465, 10993, 10080):\n    \
                      for junk in (b'GET / HTTP/1.0\\r\\n\\r\\n', b'PROXY ', b'\\0' * 64, b'a' * 300 + b'\\r\\n'):\n        \
                          s = socket.create_connection(('127.0.0.1', port)); s.settimeout(15); s.sendall(junk)\n        \
                          try:\n            print(port, junk[:8], s.recv(100))\n        \
                          except (ConnectionError, TimeoutError) as e:\n            print(port, junk[:8], type(e).__name__)\n        \
                          s.close()\nEND\npython3 /run/forge.py; rm /run/forge.py";
    let output = state.resident.appliance.read(script)?;
    let served = output
        .lines()
        .filter(|line| line.contains("220") || line.contains("* OK") || line.contains("HTTP/1"));
    findings.extend(served.map(|line| format!("served without a header: {line}")));
    if output.lines().count() != 16 {
        findings.push(format!("16 answers were awaited: {output}"));
    }
    // And all go on as before.
    state.site()?.stranger("after the forger")?.demand(&format!("MAIL FROM:<x@{PEER}>"))?;
    none_of(&findings)
}
