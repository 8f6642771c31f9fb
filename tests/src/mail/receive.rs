//! Port 25 of the mx onion: what strangers may do, and what they may not.

use clients::Trust;

use super::{Person, State, expect, tried, unless};
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::PEER;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("banner_no_os", &["R26"], banner_no_os),
        check("helo_required", &["R29"], helo_required),
        check("auth_not_offered_on_25", &["R23"], auth_not_offered),
        check("vrfy_off", &["R26"], vrfy_off),
        check("unknown_recipient_refused", &["R27"], unknown_recipient_refused),
        check("relay_onion_to_clearnet_denied", &["R27"], relay_denied),
        check("relay_percent_bang_source_route_denied", &["R27"], routes_denied),
        check("mx_rejects_own_domain_unauthenticated", &["R28"], own_domain_denied),
        check("sender_must_be_a_valid_onion", &["R35"], sender_must_be_onion),
        check("own_name_in_helo_denied", &["R28"], own_name_denied),
        check("stranger_cannot_spoof_our_from_header", &["R28"], from_header_denied),
        check("bare_newline_smuggling_denied", &["R29"], smuggling_denied),
        check("hop_limit", &["R29"], hop_limit),
        check("eight_bit_headers_refused", &["R29"], eight_bit_refused),
        check("malformed_mime_does_no_harm", &["R29"], malformed_mime),
        check("ten_thousand_recipients_cut_off", &["R29"], many_recipients),
        check("mail_from_a_stranger_arrives_clean", &["R26", "R31", "R41"], arrives_clean),
        check("spam_goes_to_junk", &["R43"], spam_goes_to_junk),
        check("alias_root_postmaster", &["R32"], alias_root_postmaster),
        check("plus_address", &["R41"], plus_address),
    ]
}

fn banner_no_os(state: &mut State) -> Verdict {
    let (mut smtp, greeting) = state.greeting("banner")?;
    let want = format!("{} ESMTP", state.site()?.mx);
    let ehlo = smtp.command(&format!("EHLO {PEER}"))?;
    let mut findings = Vec::new();
    if greeting.lines != [want.clone()] {
        findings.push(format!("the banner is {greeting}, not 220 {want}"));
    }
    let words = format!("{greeting}{ehlo}").to_ascii_lowercase();
    let telltales =
        ["debian", "ubuntu", "linux", "postfix", "exim", "cipolla", "localhost", "127.0.0.1", "fc00:"];
    findings.extend(telltales.iter().filter(|t| words.contains(**t)).map(|t| format!("it tells {t:?}")));
    none_of(&findings)
}

fn helo_required(state: &mut State) -> Verdict {
    let (mut smtp, _) = state.greeting("helo")?;
    expect(&smtp.command(&format!("MAIL FROM:<x@{PEER}>"))?, 503, "5.5.1")
}

/// Neither before TLS nor in it.
fn auth_not_offered(state: &mut State) -> Verdict {
    // Its certificate is signed by itself, so that it leads to nothing else of the appliance's.
    let trust = Trust::in_authority(&state.resident.appliance.read("cat /var/lib/cipolla/tls/mx.crt")?)?;
    let (mut smtp, _) = state.greeting("auth")?;
    let mut findings = Vec::new();
    for (place, inside) in [("in clear", false), ("in TLS", true)] {
        if inside {
            smtp = smtp.starttls(&trust, &state.site()?.mx)?;
        }
        let ehlo = smtp.command(&format!("EHLO {PEER}"))?;
        for word in ["AUTH", "VRFY", "ETRN", "DSN", "CHUNKING", "SMTPUTF8"] {
            if ehlo.offers(word) {
                findings.push(format!("{word} is offered {place}"));
            }
        }
        if ehlo.offers("STARTTLS") == inside {
            findings.push(format!("{place}, what is said of STARTTLS is wrong: {ehlo}"));
        }
        let reply = smtp.command("AUTH PLAIN AGFkYQBhZGE=")?;
        unless(&mut findings, &format!("AUTH PLAIN {place}"), &reply, 503, "5.5.1");
    }
    none_of(&findings)
}

fn vrfy_off(state: &mut State) -> Verdict {
    let mut smtp = state.stranger("vrfy")?;
    let mut findings = Vec::new();
    unless(&mut findings, "VRFY", &smtp.command("VRFY ada")?, 502, "5.5.1");
    let reply = smtp.command("EXPN postmaster")?;
    if reply.agreed() {
        findings.push(format!("EXPN: {reply}"));
    }
    none_of(&findings)
}

/// The answers to a recipient, each in a dialogue of its own: several wrong ones end a dialogue.
fn recipient(state: &State, sender: &str, to: &str) -> anyhow::Result<clients::Reply> {
    let mut smtp = state.stranger(&format!("rcpt {to}"))?;
    let reply = smtp.command(&format!("MAIL FROM:<{sender}>"))?;
    if !reply.agreed() {
        return Ok(reply);
    }
    let reply = tried(to, smtp.command(&format!("RCPT TO:<{to}>")))?;
    smtp.command("QUIT")?;
    Ok(reply)
}

fn unknown_recipient_refused(state: &mut State) -> Verdict {
    let reply = recipient(state, &format!("x@{PEER}"), &state.at("nobody-here")?)?;
    expect(&reply, 550, "5.1.1")
}

fn relay_denied(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    let client = state.site()?.client.clone();
    for to in ["x@example.com".to_owned(), format!("x@{client}"), format!("y@{PEER}")] {
        let reply = recipient(state, &format!("x@{PEER}"), &to)?;
        unless(&mut findings, &to, &reply, 554, "5.7.1");
    }
    none_of(&findings)
}

fn routes_denied(state: &mut State) -> Verdict {
    let mx = state.site()?.mx.clone();
    let mut findings = Vec::new();
    for to in [
        format!("x%example.com@{mx}"),
        format!("example.com!x@{mx}"),
        format!("@{mx}:x@example.com"),
        format!("\"x@example.com\"@{mx}"),
    ] {
        let reply = recipient(state, &format!("x@{PEER}"), &to)?;
        if !(500..600).contains(&reply.code) {
            findings.push(format!("{to}: {reply}"));
        }
    }
    none_of(&findings)
}

fn own_domain_denied(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    for sender in ["ada", "nobody-here"] {
        let reply = recipient(state, &state.at(sender)?, &state.at("ada")?)?;
        unless(&mut findings, sender, &reply, 550, "log in");
    }
    none_of(&findings)
}

fn sender_must_be_onion(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let mut findings = Vec::new();
    unless(
        &mut findings,
        "a clearnet sender",
        &recipient(state, "x@example.com", &ada)?,
        550,
        "valid onion address",
    );
    let broken = PEER.replacen("6cx7", "6cx6", 1);
    let reply = recipient(state, &format!("x@{broken}"), &ada)?;
    unless(&mut findings, "a wrong checksum", &reply, 550, "checksum does not match");
    let reply = recipient(state, "", &ada)?;
    if !reply.agreed() {
        findings.push(format!("the null sender of bounces: {reply}"));
    }
    none_of(&findings)
}

fn own_name_denied(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let mut findings = Vec::new();
    for name in [state.site()?.mx.clone(), state.site()?.client.clone(), "localhost".to_owned()] {
        let (mut smtp, _) = state.greeting("own name")?;
        smtp.command(&format!("EHLO {name}"))?;
        smtp.command(&format!("MAIL FROM:<x@{PEER}>"))?;
        let reply = smtp.command(&format!("RCPT TO:<{ada}>"))?;
        if reply.agreed() {
            findings.push(format!("EHLO {name} was believed: {reply}"));
        }
    }
    none_of(&findings)
}

/// Sends as a stranger and returns the deciding reply.
fn send(state: &State, to: &str, message: &[u8]) -> anyhow::Result<clients::Reply> {
    state.stranger("sends")?.mail(&format!("x@{PEER}"), &[to], message)
}

fn from_header_denied(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let mut findings = Vec::new();
    let forged = state.letter(&[&format!("From: Ada <{ada}>"), "Subject: forged"], "x");
    unless(&mut findings, "our address in From:", &send(state, &ada, &forged)?, 554, "address of ours");
    let two =
        state.letter(&[&format!("From: <a@{PEER}>"), &format!("From: <b@{PEER}>"), "Subject: two"], "x");
    unless(&mut findings, "two From: headers", &send(state, &ada, &two)?, 554, "more than one From:");
    none_of(&findings)
}

fn smuggling_denied(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let mut smtp = state.stranger("smuggler")?;
    smtp.demand(&format!("MAIL FROM:<x@{PEER}>"))?;
    smtp.demand(&format!("RCPT TO:<{ada}>"))?;
    smtp.demand("DATA")?;
    let inner = format!("Subject: one\r\n\r\nx\n.\nMAIL FROM:<y@{PEER}>\r\nRCPT TO:<{ada}>\r\nDATA\r\n.\r\n");
    smtp.talk().send_bytes(inner.as_bytes())?;
    expect(&smtp.reply()?, 550, "5.5.2")
}

fn hop_limit(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let hop = format!("Received: from a ({PEER}) by b; Mon, 1 Jan 2026 00:00:00 +0000");
    let mut headers = vec![hop.as_str(); 21];
    headers.push("Subject: far travelled");
    expect(&send(state, &ada, &state.letter(&headers, "x"))?, 554, "5.4.0")
}

fn eight_bit_refused(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let raw = state.letter(&[&format!("From: <x@{PEER}>"), "Subject: gr\u{fc}n"], "x");
    expect(&send(state, &ada, &raw)?, 550, "5.6.0")
}

fn malformed_mime(state: &mut State) -> Verdict {
    let ada = state.at("ada")?;
    let mut findings = Vec::new();
    let deep: String = (0..200).fold(String::new(), |inner, level| {
        format!("--b{level}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n{inner}", level + 1)
    });
    let cases = [
        ("no boundary", "multipart/mixed", "--x\r\n\r\ny".to_owned()),
        ("an endless boundary", &format!("multipart/mixed; boundary=\"{}", "b".repeat(500)), String::new()),
        ("a broken encoding", "text/plain; charset=\"\\", "=ZZ=\u{1}".to_owned()),
        ("200 levels", "multipart/mixed; boundary=b199", deep),
    ];
    for (what, kind, body) in &cases {
        let headers = [&format!("From: <x@{PEER}>"), "MIME-Version: 1.0", &format!("Content-Type: {kind}")];
        let reply = tried(what, send(state, &ada, &state.letter(&headers, body)))?;
        if !(reply.code == 250 || (500..600).contains(&reply.code)) {
            findings.push(format!("{what}: {reply}"));
        }
    }
    // Whatever became of them, the service is as before.
    let token = state.token();
    let plain = state.letter(&[&format!("From: <x@{PEER}>"), &format!("Subject: {token}")], "x");
    unless(&mut findings, "afterwards", &send(state, &ada, &plain)?, 250, "");
    state.arrived(Person::Ada, "INBOX", &token)?;
    none_of(&findings)
}

fn many_recipients(state: &mut State) -> Verdict {
    let mx = state.site()?.mx.clone();
    let mut smtp = state.stranger("harvester")?;
    smtp.demand(&format!("MAIL FROM:<x@{PEER}>"))?;
    let connected = "journalctl -b -o cat -t postfix/mx/smtpd | grep '^connect from' | tail -n 1 | tr -d '[]' | \
                     sed 's/.*unknown//'";
    let address = state.resident.appliance.read(connected)?.trim().to_owned();
    let mut end = None;
    for number in 0..400 {
        match smtp.command(&format!("RCPT TO:<ada+{number}@{mx}>")) {
            Ok(reply) if reply.code == 421 => end = Some(Ok(reply.to_string())),
            Ok(_) => continue,
            Err(error) => end = Some(Err(error)),
        }
        break;
    }
    match end {
        None => return fail("400 recipients and still talking"),
        Some(Ok(_)) => {}
        // Closed in mid-sentence: a ban of this circuit does that, and nothing else may.
        Some(Err(error)) => {
            let script = format!(
                "for n in $(seq 20); do cipolla bans --json | grep -F '\"{address}\"' && break; sleep 0.5; done"
            );
            let bans = state.resident.appliance.read(&script)?;
            if !address.starts_with("fc00:dead:beef:4dad:") || bans.is_empty() {
                return fail(format!("{address} is not banned, and its dialogue ends: {error:#}"));
            }
        }
    }
    // Somebody else is served as ever.
    let reply = recipient(state, &format!("x@{PEER}"), &state.at("ada")?)?;
    expect(&reply, 250, "2.1.5")
}

fn arrives_clean(state: &mut State) -> Verdict {
    let (ada, token) = (state.at("ada")?, state.token());
    let letter = state.letter(
        &[
            &format!("From: Peer <x@{PEER}>"),
            &format!("To: <{ada}>"),
            &format!("Subject: {token}"),
            "X-Spam: Yes",
        ],
        "A stranger's letter.",
    );
    let mut findings = Vec::new();
    unless(&mut findings, "the message", &send(state, &ada, &letter)?, 250, "2.0.0");
    let stored = String::from_utf8_lossy(&state.arrived(Person::Ada, "INBOX", &token)?).into_owned();
    let received: Vec<_> = stored.lines().filter(|line| line.starts_with("Received:")).collect();
    if received.len() != 1 {
        findings.push(format!("Received: headers: {received:?}"));
    }
    for telltale in ["fc00:", "127.0.0.1", "[::1]", "Debian", "debian", "localhost", "X-Spam: Yes"] {
        if stored.contains(telltale) {
            findings.push(format!("the stored message holds {telltale:?}:\n{stored}"));
        }
    }
    if !stored.contains("A stranger's letter.") {
        findings.push(format!("the body is gone:\n{stored}"));
    }
    none_of(&findings)
}

fn spam_goes_to_junk(state: &mut State) -> Verdict {
    let (ada, token) = (state.at("ada")?, state.token());
    let test = "YJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";
    let letter = state.letter(&[&format!("From: <x@{PEER}>"), &format!("Subject: {token}")], test);
    let reply = send(state, &ada, &letter)?;
    if reply.code != 250 {
        return fail(format!("spam is refused instead of filed: {reply}"));
    }
    state.arrived(Person::Ada, "Junk", &token)?;
    PASS
}

fn alias_root_postmaster(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    for local in ["root", "postmaster", "abuse"] {
        let token = state.token();
        let letter = state.letter(&[&format!("From: <x@{PEER}>"), &format!("Subject: {token}")], "x");
        let to = state.at(local)?;
        unless(&mut findings, local, &send(state, &to, &letter)?, 250, "");
        state.arrived(Person::Ada, "INBOX", &token)?;
    }
    // RFC 5321, 4.5.1: without a domain.
    let mut smtp = state.stranger("bare postmaster")?;
    smtp.demand(&format!("MAIL FROM:<x@{PEER}>"))?;
    unless(&mut findings, "bare postmaster", &smtp.command("RCPT TO:<postmaster>")?, 250, "");
    none_of(&findings)
}

fn plus_address(state: &mut State) -> Verdict {
    let (to, token) = (state.at("ada+list")?, state.token());
    let letter = state.letter(&[&format!("From: <x@{PEER}>"), &format!("Subject: {token}")], "x");
    let reply = send(state, &to, &letter)?;
    if reply.code != 250 {
        return fail(reply.to_string());
    }
    state.arrived(Person::Ada, "INBOX", &token)?;
    PASS
}
