//! Wrong passwords: they get slower, account by account; nothing that a guesser does keeps the owner out; whoever
//! goes on loses the circuit; and the owner hears of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clients::Page;
use qemu::Deadline;

use super::{State, held};
use crate::check::{Check, Verdict, check, fail, none_of};
use crate::site::{DELIVERY, DIALOGUE, Site};

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("wrong_passwords_get_slower", &["R19"], wrong_passwords_get_slower),
        check("webmail_locks_nobody_out", &["R19"], webmail_locks_nobody_out),
        check("every_filter_bans", &["R19", "R20"], every_filter_bans),
        check("attack_is_told_at_once", &["R21"], attack_is_told_at_once),
    ]
}

/// The time that a login at 993 takes, and whether it is let in.
fn imap_login(site: &Site, circuit: &str, password: &str) -> anyhow::Result<(Duration, bool)> {
    let (mut imap, _) = site.imap(circuit)?;
    let started = Instant::now();
    let answer = imap.login(&site.at("ada"), password)?;
    Ok((started.elapsed(), answer.agreed()))
}

/// Each wrong password comes on a circuit of its own, so nothing is counted but the account.
fn wrong_passwords_get_slower(state: &mut State) -> Verdict {
    state.forgive()?;
    let State { resident, site: Some(site), .. } = state else { bail!("the services were never reached") };
    let mut findings = Vec::new();
    let (first, _) = imap_login(site, "first guess", "guess 1")?;
    // These are counted when they are found wrong; their answers, after 2, 4 and 8 seconds, are not waited for.
    let mut waiting = Vec::new();
    for number in 2..5 {
        let (mut imap, _) = site.imap(&format!("guess {number}"))?;
        let wrong = "journalctl -b -o cat -t dovecot | grep -c 'Password mismatch'";
        let before = resident.appliance.run(wrong)?.stdout;
        imap.talk().send(&format!("g LOGIN {} guess{number}", site.at("ada")))?;
        let found = format!(
            "for n in $(seq 60); do [ $({wrong}) -gt {} ] && exit; sleep 0.2; done; exit 1",
            before.trim()
        );
        resident.appliance.read(&found).context("waiting until a guess is found wrong")?;
        waiting.push(imap);
    }
    let (fifth, let_in) = imap_login(site, "fifth guess", "guess 5")?;
    // 16 seconds are due.
    if let_in || fifth < first + Duration::from_secs(12) || fifth > Duration::from_secs(60) {
        findings.push(format!("the first wrong password took {first:.1?}, the fifth {fifth:.1?}"));
    }
    // Postfix asks Dovecot, and has no patience for long waits.
    let mut smtp = site.client("guess at submission")?;
    let started = Instant::now();
    let reply = smtp.auth_plain(&site.at("ada"), "guess 6")?;
    let submission = started.elapsed();
    if reply.code != 535 || submission < Duration::from_secs(5) {
        findings.push(format!("at submission the sixth took {submission:.1?}: {reply}"));
    }
    let (right, let_in) = imap_login(site, "owner", &site.password)?;
    // The next wrong one would wait for more than half a minute.
    if !let_in || right > Duration::from_secs(8) {
        findings.push(format!("the right one took {right:.1?}, let in: {let_in}"));
    }
    let started = Instant::now();
    let reply = site.client("owner writes")?.auth_plain(&site.at("ada"), &site.password)?;
    if reply.code != 235 {
        findings.push(format!("the right one at submission took {:.1?}: {reply}", started.elapsed()));
    }
    // Without what slows them, wrong passwords are wrong and right ones right.
    resident.appliance.read("systemctl stop cipolla-tarpit.socket cipolla-tarpit.service")?;
    let (_, guessed) = imap_login(site, "guess at nobody's watch", "guess 7")?;
    let (_, let_in) = imap_login(site, "owner at nobody's watch", &site.password)?;
    if guessed || !let_in {
        findings.push(format!("with the tarpit away: guess let in: {guessed}, owner let in: {let_in}"));
    }
    resident.appliance.read("systemctl start cipolla-tarpit.socket")?;
    none_of(&findings)
}

/// A page of the webmail, on the circuit that is at its door.
fn page(site: &Site, path: &str, sent: Option<(&str, &str)>) -> anyhow::Result<Page> {
    let channel = site.door.connect("webmail", &site.client, 80, Deadline::seconds(DIALOGUE))?;
    let login = Some(("ada", site.web.as_str()));
    match sent {
        None => clients::get(channel, &site.client, path, login),
        Some((cookie, form)) => clients::post(channel, &site.client, path, login, cookie, form),
    }
}

/// Whether the webmail lets ada in with a password of letters, digits and hyphens.
fn webmail_login(site: &Site, password: &str) -> anyhow::Result<bool> {
    let entry = page(site, "/", None)?;
    let cookie = entry.header("set-cookie").and_then(|cookie| cookie.split(';').next());
    let cookie = cookie.with_context(|| format!("the login page sets no cookie: {:?}", entry.headers))?;
    let text = String::from_utf8_lossy(&entry.body);
    let token = text.split_once("name=\"_token\" value=\"").and_then(|(_, rest)| rest.split_once('"'));
    let (token, _) = token.context("the login page has no token")?;
    let form = format!("_token={token}&_task=login&_action=login&_user=ada&_pass={password}");
    Ok(page(site, "/?_task=login", Some((cookie, &form)))?.status == 302)
}

fn webmail_locks_nobody_out(state: &mut State) -> Verdict {
    let site = state.site()?;
    if !site.password.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        bail!("a generated password that a form would have to encode");
    }
    // The webmail counts wrong passwords of those whom it knows.
    let mut findings = Vec::new();
    if !webmail_login(site, &site.password)? {
        return fail("the owner is not let in, with nobody there");
    }
    for guess in 0..7 {
        if webmail_login(site, &format!("guess-{guess}"))? {
            findings.push(format!("guess {guess} is let in"));
        }
    }
    if !webmail_login(site, &site.password)? {
        findings.push("after seven guesses the owner is not let in".to_owned());
    }
    none_of(&findings)
}

/// Real lines of Postfix and nginx. (Dovecot's are in `ban_closes_only_the_offender`.)
fn every_filter_bans(state: &mut State) -> Verdict {
    state.forgive()?;
    let State { resident, site: Some(site), .. } = state else { bail!("the services were never reached") };
    let mut relay = site.stranger("relay seeker")?;
    relay.demand(&format!("MAIL FROM:<x@{}>", crate::site::PEER))?;
    for number in 0..5 {
        // The circuit may be gone after the last one, or before its answer.
        match relay.command(&format!("RCPT TO:<x{number}@example.com>")) {
            Ok(reply) if reply.agreed() => return fail(format!("relayed: {reply}")),
            Ok(_) => {}
            Err(_) if number == 4 => {}
            Err(error) => return Err(error),
        }
    }
    for number in 0..5 {
        let channel = site.door.connect("door knocker", &site.client, 80, Deadline::seconds(DIALOGUE))?;
        let guess = format!("guess {number}");
        match clients::get(channel, &site.client, "/", Some(("ada", &guess))) {
            Ok(page) if page.status != 401 => return fail(format!("the door answers {}", page.status)),
            Ok(_) => {}
            Err(_) if number == 4 => {}
            Err(error) => return Err(error.context(format!("wrong password {number} at the door"))),
        }
    }
    let script = "for n in $(seq 60); do
            [ \"$(fail2ban-client get postfix-circuit banip)\" ] && [ \"$(fail2ban-client get nginx-circuit banip)\" ] && break
            sleep 0.5
        done; cipolla bans --json";
    let bans = held(&resident.appliance.read(script)?)?;
    let mut findings = Vec::new();
    for jail in ["postfix-circuit", "nginx-circuit"] {
        let addresses: Vec<_> = bans.iter().filter(|(name, _)| name == jail).map(|(_, one)| one).collect();
        if !matches!(addresses[..], [one] if one.starts_with("fc00:dead:beef:4dad:")) {
            findings.push(format!("{jail} holds {addresses:?}"));
        }
    }
    resident.appliance.read("cipolla unban --all")?;
    none_of(&findings)
}

/// Sixty wrong passwords in an hour are an attack; Dovecot's lines are written here in its place.
fn attack_is_told_at_once(state: &mut State) -> Verdict {
    let script = "warnings() { grep -ls '^Subject: Somebody is guessing passwords' /var/vmail/ada/Maildir/*/* | wc -l; }
        systemctl stop cipolla-alert.timer cipolla-alert.service; rm -f /run/cipolla/alerted.json
        before=$(warnings)
        for n in $(seq 60); do
            logger -t dovecot 'auth(x@example.onion,fc00:dead:beef:4dad::7:7,sasl:plain): passwd-file: unknown user'
        done
        journalctl --sync
        systemctl start cipolla-alert.service || exit 1
        until [ $(warnings) -gt $before ]; do sleep 0.5; done
        systemctl start cipolla-alert.service || exit 1
        # Nothing is on its way.
        until postqueue -p | grep -q empty; do sleep 0.5; done
        echo $(($(warnings) - before))
        systemctl start cipolla-alert.timer; cipolla unban --all >/dev/null";
    let output = state.resident.appliance.machine.run(script, Deadline::seconds(DELIVERY))?;
    match output.stdout.trim() {
        "1" if output.status.success() => crate::check::PASS,
        other => fail(format!("{other} warnings: {}", output.stderr)),
    }
}
