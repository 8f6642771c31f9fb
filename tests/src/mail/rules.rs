//! The owner's rules: aliases, lists, refused senders, another way for a domain; and what the queue promises.

use super::{Person, State, unless};
use crate::check::{Check, Verdict, check, none_of};
use crate::site::PEER;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("alias_and_list_deliver", &["R32"], alias_and_list),
        check("blocked_sender_refused", &["R34"], blocked_sender),
        check("domain_by_another_way", &["R37"], another_way),
        check("queue_times", &["R30"], queue_times),
        check("sasl_socket_is_postfixs_alone", &["R40"], sasl_socket),
        check("drops_are_counted_and_logged_within_limits", &["R8"], drops),
    ]
}

/// Sends as a stranger and returns the deciding reply.
fn send(state: &State, from: &str, to: &str, token: &str) -> anyhow::Result<clients::Reply> {
    let letter = state.letter(&[&format!("From: <{from}>"), &format!("Subject: {token}")], "x");
    state.stranger(&format!("{from} writes to {to}"))?.mail(from, &[to], &letter)
}

fn alias_and_list(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    state.resident.appliance.read("cipolla alias add sales ada && cipolla list create team ada bob")?;
    let (stranger, token) = (format!("x@{PEER}"), state.token());
    let reply = send(state, &stranger, &state.at("sales")?, &token)?;
    unless(&mut findings, "the alias", &reply, 250, "");
    state.arrived(Person::Ada, "INBOX", &token)?;
    let token = state.token();
    let reply = send(state, &stranger, &state.at("team")?, &token)?;
    unless(&mut findings, "the list", &reply, 250, "");
    for person in [Person::Ada, Person::Bob] {
        state.arrived(person, "INBOX", &token)?;
    }
    // One's own alias may be written from.
    let (ada, sales) = (state.at("ada")?, state.at("sales")?);
    let letter = state.letter(&[&format!("From: <{sales}>"), "Subject: from sales"], "x");
    let reply = state.submission("ada as sales", Person::Ada)?.mail(&sales, &[&ada], &letter)?;
    unless(&mut findings, "writing as the alias", &reply, 250, "");
    none_of(&findings)
}

fn blocked_sender(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    let (pest, other, ada) = (format!("pest@{PEER}"), format!("friend@{PEER}"), state.at("ada")?);
    state.resident.appliance.read(&format!("cipolla block add {pest} && cipolla block list"))?;
    let token = state.token();
    unless(&mut findings, "a blocked sender", &send(state, &pest, &ada, &token)?, 554, "5.7.1");
    unless(&mut findings, "another of the same onion", &send(state, &other, &ada, &token)?, 250, "");
    state.resident.appliance.read(&format!("cipolla block remove {pest}"))?;
    unless(&mut findings, "no longer blocked", &send(state, &pest, &ada, &token)?, 250, "");
    none_of(&findings)
}

/// A line of the transport table decides, before the rule for all onions does.
fn another_way(state: &mut State) -> Verdict {
    let (ada, to) = (state.at("ada")?, format!("elsewhere@{PEER}"));
    let table = "/var/lib/cipolla/mail/transport";
    state.resident.appliance.read(&format!(
        "echo '{PEER} error:5.1.2 by another way' >>{table} && postmap lmdb:{table} && postfix reload 2>&1"
    ))?;
    let letter = state.letter(&[&format!("From: <{ada}>"), "Subject: elsewhere"], "x");
    let reply = state.submission("ada elsewhere", Person::Ada)?.mail(&ada, &[&to], &letter)?;
    let script = format!(
        "for n in $(seq 40); do journalctl -b -o cat --no-pager | grep -F 'to=<{to}>' | grep -q 'by another way' \
         && echo found && break; sleep 0.5; done; : >{table}; postmap lmdb:{table}"
    );
    let mut findings = Vec::new();
    // Postfix may refuse at once, or after accepting.
    if reply.agreed() {
        let found = state.resident.appliance.read(&script)?;
        if !found.contains("found") {
            findings.push("the table was not asked".to_owned());
        }
    } else {
        unless(&mut findings, "submission", &reply, 550, "by another way");
        state.resident.appliance.read(&format!(": >{table}; postmap lmdb:{table}"))?;
    }
    none_of(&findings)
}

fn queue_times(state: &mut State) -> Verdict {
    let script = "postconf delay_warning_time maximal_queue_lifetime bounce_queue_lifetime notify_classes \
                  2bounce_notice_recipient";
    let output = state.resident.appliance.read(script)?;
    let wanted = [
        "delay_warning_time = 4h",
        "maximal_queue_lifetime = 5d",
        "bounce_queue_lifetime = 5d",
        "notify_classes = 2bounce, resource, software",
        "2bounce_notice_recipient = postmaster",
    ];
    let missing = wanted.iter().filter(|line| !output.lines().any(|seen| seen == **line));
    none_of(&missing.map(|line| format!("not `{line}`:\n{output}")).collect::<Vec<_>>())
}

fn sasl_socket(state: &mut State) -> Verdict {
    let output = state.resident.appliance.read("stat -c '%a %U %G' /var/spool/postfix/private/auth")?;
    let mut findings = Vec::new();
    if output.trim() != "660 postfix postfix" {
        findings.push(format!("the socket of passwords is {}", output.trim()));
    }
    none_of(&findings)
}

/// After the attempts of other checks: each was counted, and the journal was not filled with them.
fn drops(state: &mut State) -> Verdict {
    let script = "nft list chain inet cipolla output | grep -A1 'nft out drop' | grep -o 'counter packets [0-9]*'; \
                  journalctl -b -k -o cat --no-pager | grep -c 'nft out drop'; cut -d. -f1 /proc/uptime";
    let output = state.resident.appliance.read(script)?;
    let numbers: Vec<u64> = output.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    let mut findings = Vec::new();
    match numbers.as_slice() {
        [counted, logged, uptime] => {
            // Six a minute and twelve at once, as the rule says.
            if *counted == 0 || *logged == 0 || *logged > uptime / 10 + 12 {
                findings.push(format!("{counted} counted and {logged} logged in {uptime} s"));
            }
        }
        _ => findings.push(format!("no counter and no log: {output}")),
    }
    none_of(&findings)
}
