//! Ports 465 and 993 of the client onion: what the owner's mail programs may do, and what a guest may not.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{bail, ensure};
use clients::Reply;

use super::{Person, State, expect, tried, unless};
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::PEER;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("auth_needs_tls", &["R23"], auth_needs_tls),
        check("cert_san_is_onion_and_chain_verifies", &["R22"], chain_verifies),
        check("wrong_password_refused", &["R19", "R27"], wrong_password_refused),
        check("submission_needs_a_login", &["R27"], submission_needs_a_login),
        check("clearnet_recipient_refused_clearly", &["R36"], clearnet_recipient_refused),
        check("malformed_onion_refused_at_once", &["R36"], malformed_onion_refused),
        check("spoofed_envelope_denied", &["R28"], spoofed_envelope_denied),
        check("spoofed_from_header_denied", &["R28"], spoofed_from_header_denied),
        check("headers_no_ip_no_agent_no_zone", &["R31"], headers_tell_nothing),
        check("recipient_limit", &["R29"], recipient_limit),
        check("chroot_effective", &["R25"], chroot_effective),
        check("sleeping_peer_is_deferred", &["R36", "R38"], sleeping_peer_is_deferred),
        check("imap_absurd_literals_refused", &["R29"], absurd_literals_refused),
        check("imap_names_must_be_utf7", &["R29"], names_must_be_utf7),
    ]
}

fn auth_needs_tls(state: &mut State) -> Verdict {
    let site = state.site()?;
    let deadline = qemu::Deadline::seconds(crate::site::DIALOGUE);
    let mut findings = Vec::new();
    for (port, hello) in [(465, "EHLO x.example"), (993, "a1 LOGIN ada x")] {
        let channel = site.door.connect("clear text", &site.client, port, deadline)?;
        let mut talk = clients::Talk::new(channel);
        talk.send(hello)?;
        // TLS's own words (an alert, RFC 8446, 6) are no line.
        if let Ok(line) = talk.line() {
            findings.push(format!("port {port} speaks in clear: {line:?}"));
        }
    }
    none_of(&findings)
}

fn chain_verifies(state: &mut State) -> Verdict {
    let site = state.site()?;
    let mut findings = Vec::new();
    for port in [465, 993] {
        let deadline = qemu::Deadline::seconds(crate::site::DIALOGUE);
        let channel = site.door.connect("tls", &site.client, port, deadline)?;
        if let Err(error) = site.trust.secure(channel, &site.client) {
            findings.push(format!("port {port}: {error:#}"));
        }
        let channel = site.door.connect("tls", &site.client, port, deadline)?;
        if site.trust.secure(channel, &site.mx).is_ok() {
            findings.push(format!("port {port}: the certificate is good for another name, {}", site.mx));
        }
    }
    none_of(&findings)
}

fn wrong_password_refused(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let mut findings = Vec::new();
    let mut smtp = state.client("guest")?;
    let reply = smtp.auth_plain(&ada, "not the password")?;
    unless(&mut findings, "AUTH", &reply, 535, "5.7.8");
    smtp.command(&format!("MAIL FROM:<{ada}>"))?;
    unless(&mut findings, "RCPT afterwards", &smtp.command(&format!("RCPT TO:<{ada}>"))?, 554, "5.7.1");
    let (mut imap, greeting) = state.imap("guest at the mailbox")?;
    if !greeting.ends_with("Ready") {
        findings.push(format!("the greeting is {greeting:?}"));
    }
    if imap.login(&ada, "not the password")?.agreed() {
        findings.push("IMAP takes any password".to_owned());
    }
    none_of(&findings)
}

fn submission_needs_a_login(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let mut smtp = state.client("no login")?;
    smtp.command(&format!("MAIL FROM:<{ada}>"))?;
    expect(&smtp.command(&format!("RCPT TO:<{ada}>"))?, 554, "5.7.1")
}

/// The answer to one recipient of a logged-in user.
fn recipient(state: &State, to: &str) -> anyhow::Result<Reply> {
    let mut smtp = state.submission(&format!("ada writes to {to}"), Person::Ada)?;
    smtp.demand(&format!("MAIL FROM:<{}>", state.at("ada")?))?;
    let reply = tried(to, smtp.command(&format!("RCPT TO:<{to}>")))?;
    smtp.command("QUIT")?;
    Ok(reply)
}

fn clearnet_recipient_refused(state: &mut State) -> Verdict {
    let reply = recipient(state, "friend@example.com")?;
    expect(&reply, 550, "this server sends only to .onion addresses, over Tor")
}

fn malformed_onion_refused(state: &mut State) -> Verdict {
    let broken = PEER.replacen("6cx7", "6cx6", 1);
    let mut findings = Vec::new();
    for (domain, why) in [
        ("abc.onion".to_owned(), "56 characters are needed"),
        ("expyuzz4wqqyqhjn.onion".to_owned(), "56 characters are needed"),
        (PEER.replacen("6cx7", "6c17", 1), "a character other than a-z and 2-7"),
        (format!("{}.onion", "a".repeat(56)), "ends in d"),
        (broken, "its checksum does not match"),
    ] {
        unless(&mut findings, &domain, &recipient(state, &format!("x@{domain}"))?, 550, why);
    }
    let sub = recipient(state, &format!("x@mail.{PEER}"))?;
    unless(&mut findings, "a name below an onion", &sub, 250, "");
    none_of(&findings)
}

fn spoofed_envelope_denied(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let mut findings = Vec::new();
    for sender in [state.at("bob")?, format!("x@{PEER}"), "x@example.com".to_owned()] {
        let mut smtp = state.submission(&format!("ada as {sender}"), Person::Ada)?;
        let first = smtp.command(&format!("MAIL FROM:<{sender}>"))?;
        let reply = if first.agreed() { smtp.command(&format!("RCPT TO:<{ada}>"))? } else { first };
        unless(&mut findings, &sender, &reply, 553, "not owned by user");
    }
    none_of(&findings)
}

fn spoofed_from_header_denied(state: &mut State) -> Verdict {
    let (ada, bob) = (state.at("ada")?, state.at("bob")?);
    let refused = [
        format!("From: Bob <{bob}>"),
        format!("From: x@{PEER}"),
        format!("From: {ada}\r\nFrom: {ada}"),
        format!("From: {ada}, {bob}"),
        format!("From: \"{ada}\" <{bob}>"),
        format!("From: {ada} ({bob})"),
        format!("From: <{bob}> <{ada}>"),
        format!("From: g: {ada};"),
        format!("From: {ada}\r\nSender: {bob}"),
    ];
    // Without a From: Postfix writes the envelope's, which is bound to the login.
    let accepted = [
        format!("From: \"Ada, Countess\" <{ada}>"),
        format!("From: {}", ada.to_ascii_uppercase()),
        "Subject: nobody".to_owned(),
    ];
    // Eight refusals end a dialogue, and each one is answered later than the one before: so several dialogues, at once.
    let dialogue = |number: usize, headers: &[String], code: u16| {
        let mut findings = Vec::new();
        let mut smtp = state.submission(&format!("ada writes {number}"), Person::Ada)?;
        for header in headers {
            let letter = state.letter(&[header, "X: y"], "x");
            let reply = tried(header, smtp.mail(&ada, &[ada.as_str()], &letter))?;
            unless(&mut findings, header, &reply, code, "");
        }
        anyhow::Ok(findings)
    };
    let refused = refused.chunks(3).map(|headers| (headers, 554));
    let all = refused.chain([(&accepted[..], 250)]).enumerate();
    let findings = std::thread::scope(|scope| {
        let dialogue = &dialogue;
        let started: Vec<_> = all
            .map(|(number, (headers, code))| scope.spawn(move || dialogue(number, headers, code)))
            .collect();
        let join = |one: std::thread::ScopedJoinHandle<'_, anyhow::Result<Vec<String>>>| {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        started.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()
    })?;
    none_of(&findings.concat())
}

fn headers_tell_nothing(state: &mut State) -> Verdict {
    let (ada, bob, token) = (state.at("ada")?, state.at("bob")?, state.token());
    let letter = state.letter(
        &[
            "Received: from [192.168.7.9] by laptop.home; Sat, 21 Nov 2026 12:00:00 +0200",
            &format!("From: Ada <{ada}>"),
            &format!("To: <{bob}>"),
            &format!("Subject: {token}"),
            "Date: Sat, 21 Nov 2026 14:00:00 +0200",
            "Message-ID: <1234@laptop.home>",
            "User-Agent: Mozilla Thunderbird",
            "X-Mailer: Apple Mail (2.3774)",
            "X-Originating-IP: 192.168.7.9",
            "Organization: Home",
            "MIME-Version: 1.0 (Mac OS X Mail 16.0)",
            "Content-Type: text/plain; charset=utf-8",
        ],
        "Hello Bob.",
    );
    let reply = state.submission("ada writes", Person::Ada)?.mail(&ada, &[&bob], &letter)?;
    let mut findings = Vec::new();
    unless(&mut findings, "the message", &reply, 250, "2.0.0");
    let stored = String::from_utf8_lossy(&state.arrived(Person::Bob, "INBOX", &token)?).into_owned();
    for telltale in [
        "192.168.7.9",
        "laptop.home",
        "Thunderbird",
        "Apple Mail",
        "Mac OS X",
        "Organization",
        "+0200",
        "fc00:",
        "127.0.0.1",
        "localhost",
    ] {
        if stored.contains(telltale) {
            findings.push(format!("the stored message holds {telltale:?}"));
        }
    }
    let header = |name: &str| stored.lines().find(|line| line.to_lowercase().starts_with(name)).unwrap_or("");
    if !header("date:").contains("+0000") && !header("date:").contains("-0000") {
        findings.push(format!("the date is {:?}", header("date:")));
    }
    if !header("message-id:").ends_with(&format!("@{}>", state.site()?.mx)) {
        findings.push(format!("the Message-ID is {:?}", header("message-id:")));
    }
    if !findings.is_empty() {
        findings.push(stored);
    }
    none_of(&findings)
}

fn recipient_limit(state: &mut State) -> Verdict {
    let mx = state.site()?.mx.clone();
    let mut smtp = state.submission("ada writes to many", Person::Ada)?;
    smtp.demand(&format!("MAIL FROM:<ada@{mx}>"))?;
    for number in 1..=50 {
        let reply = smtp.command(&format!("RCPT TO:<bob+{number}@{mx}>"))?;
        if !reply.agreed() {
            return fail(format!("recipient {number} of 50: {reply}"));
        }
    }
    expect(&smtp.command(&format!("RCPT TO:<bob+51@{mx}>"))?, 452, "")
}

/// Daemons of Postfix that a message from a user to a neighbour and to an onion passes, and that live for a while after.
const PASSED: [&str; 6] = ["smtpd", "cleanup", "trivial-rewrite", "lmtp", "smtp", "pickup"];

/// How often mail is sent until all of [`PASSED`] are met in their places: on a slow computer the first have nothing more
/// to do, and end (postconf(5), `max_idle`), before the message has arrived; and one that has just started is not yet
/// where it will be.
const SENT: usize = 3;

/// Each process of Postfix is where master.cf's column 5 says, while mail is on its way.
fn chroot_effective(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    for _ in 0..SENT {
        findings = outside_while_mail_is_on_its_way(state)?;
        if findings.is_empty() {
            break;
        }
    }
    none_of(&findings)
}

fn outside_while_mail_is_on_its_way(state: &mut State) -> anyhow::Result<Vec<String>> {
    let (ada, token) = (state.at("ada")?, state.token());
    let letter = state.letter(&[&format!("From: <{ada}>"), &format!("Subject: {token}")], "x");
    let mut smtp = state.submission("ada writes near and far", Person::Ada)?;
    let reply = smtp.mail(&ada, &[&ada, &format!("sleeper@{PEER}")], &letter)?;
    ensure!(reply.code == 250, "{reply}");
    state.arrived(Person::Ada, "INBOX", &token)?;
    // Nobody comes to a peer that does not exist: smtp waits for Tor meanwhile.
    let script = "postconf -M; echo
                  for process in /proc/[0-9]*; do
                      case $(readlink $process/exe) in /usr/lib/postfix/sbin/*)
                          echo \"$(cat $process/comm) $(readlink $process/root)\"
                      esac
                  done
                  postsuper -d ALL 2>/dev/null";
    let output = state.resident.appliance.read(script)?;
    let Some((table, processes)) = output.split_once("\n\n") else { bail!("{output}") };
    Ok(outside(table, processes))
}

/// Processes (name and root) that are not where master.cf (`postconf -M`) has them, and those of [`PASSED`] that
/// do not run.
fn outside(table: &str, processes: &str) -> Vec<String> {
    let mut wanted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in table.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let (Some(chroot), Some(program)) = (words.get(4), words.get(7)) else { continue };
        let root = if *chroot == "y" { "/var/spool/postfix" } else { "/" };
        wanted.entry(program).or_default().insert(root);
    }
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, root) in processes.lines().filter_map(|line| line.split_once(' ')) {
        // The master itself is in no table.
        let Some(roots) = wanted.get(name) else { continue };
        seen.insert(name);
        if !roots.contains(root) {
            findings.push(format!("{name} has the root {root}, not {roots:?}"));
        }
    }
    let missing = PASSED.iter().filter(|name| !seen.contains(**name));
    findings.extend(missing.map(|name| format!("{name} does not run: {processes}")));
    // A table that chroots nothing would be obeyed as well.
    let free = PASSED.iter().filter(|name| wanted.get(**name) != Some(&["/var/spool/postfix"].into()));
    findings.extend(free.map(|name| format!("master.cf does not chroot {name}")));
    findings
}

/// A peer that does not answer: Tor finds no descriptor, and the message waits in the queue.
fn sleeping_peer_is_deferred(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let to = format!("sleeper@{PEER}");
    let letter = state.letter(&[&format!("From: <{ada}>"), &format!("To: <{to}>"), "Subject: wake up"], "x");
    let reply = state.submission("ada writes", Person::Ada)?.mail(&ada, &[&to], &letter)?;
    if reply.code != 250 {
        return fail(reply.to_string());
    }
    // Postfix gives Tor two minutes to find the way.
    let script =
        "for n in $(seq 170); do postqueue -j | grep -q delay_reason && break; sleep 1; done; postqueue -j";
    let queue = state.resident.appliance.read(script)?;
    if !queue.contains(&to) || !queue.contains("\"queue_name\": \"deferred\"") {
        return fail(format!("the queue holds {queue:?}"));
    }
    // Not thrown back to the sender; and not in the way of what follows.
    state.resident.appliance.read("postsuper -d ALL 2>&1")?;
    PASS
}

fn absurd_literals_refused(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    let (mut imap, _) = state.imap("absurd")?;
    imap.talk().send("a1 LOGIN {99999999999}")?;
    let line = imap.talk().line()?;
    if !(line.starts_with("* BYE") || line.contains(" BAD ") || line.contains(" NO ")) {
        findings.push(format!("before the login: {line}"));
    }
    let mut imap = state.mailbox("absurd, logged in", Person::Ada)?;
    imap.talk().send("x1 APPEND INBOX {9999999999}")?;
    let line = imap.talk().line()?;
    if line.starts_with('+') {
        findings.push("ten gigabytes are welcome".to_owned());
    }
    if !state.mailbox("after the absurd", Person::Ada)?.demand("NOOP")?.agreed() {
        findings.push("the service does not go on".to_owned());
    }
    none_of(&findings)
}

fn names_must_be_utf7(state: &mut State) -> Verdict {
    let mut imap = state.mailbox("odd names", Person::Ada)?;
    imap.talk().send_bytes(b"a77 CREATE \"\xff\xfe\"\r\n")?;
    let line = imap.talk().line()?;
    if !line.starts_with("a77 NO") && !line.starts_with("a77 BAD") {
        return fail(line);
    }
    imap.demand("NOOP")?;
    PASS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_where_the_table_has_them() {
        let line = |chroot: &str, program: &str| format!("x unix - - {chroot} - 0 {program} -o a=b\n");
        let table: String =
            PASSED.iter().map(|name| line("y", name)).collect::<String>() + &line("n", "qmgr");
        let process = |name: &str, root: &str| format!("{name} {root}\n");
        let jailed: String = PASSED.iter().map(|name| process(name, "/var/spool/postfix")).collect();
        let all = format!("{jailed}{}{}", process("qmgr", "/"), process("master", "/"));
        assert_eq!(outside(&table, &all), [""; 0]);
        let free = all.replace("cleanup /var/spool/postfix", "cleanup /");
        assert_eq!(outside(&table, &free), ["cleanup has the root /, not {\"/var/spool/postfix\"}"]);
        let less = outside(&table, &all.replace("lmtp ", "xmtp "));
        assert!(less.len() == 1 && less[0].starts_with("lmtp does not run: "), "{less:?}");
        let loose = outside(&(table + &line("n", "smtp")), &all);
        assert_eq!(loose, ["master.cf does not chroot smtp"]);
    }
}
