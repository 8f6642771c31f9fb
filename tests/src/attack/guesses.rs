//! Wrong passwords: nothing that a guesser does keeps the owner out, and the owner hears of it.

use anyhow::{Context as _, bail};
use clients::Page;
use qemu::Deadline;

use super::State;
use crate::check::{Check, Verdict, check, fail, none_of};
use crate::site::{DELIVERY, DIALOGUE, Site};

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("webmail_locks_nobody_out", &["R19"], webmail_locks_nobody_out),
        check("attack_is_told_at_once", &["R21"], attack_is_told_at_once),
    ]
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
