//! The owner's rules: aliases, lists, refused senders, another way for a domain, filters; and what the queue promises.

use qemu::Deadline;

use super::sink::Sink;
use super::{Person, State, unless};
use crate::check::{Check, Verdict, check, none_of};
use crate::site::{ONION, PEER};
use crate::world::Bridges;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("alias_and_list_deliver", &["R32"], alias_and_list),
        check("blocked_sender_refused", &["R34"], blocked_sender),
        check("domain_by_another_way", &["R37"], another_way),
        check("filters_forward_and_answer", &["R16", "R36"], filters_act),
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

/// The owner's settings send the mail of one onion to another: there it arrives, for the address that was written to.
fn another_way(state: &mut State) -> Verdict {
    let socket = state.world.lab().run_dir().file("sink.sock");
    let sink = Sink::open(&socket)?;
    let other = state.world.client()?.publish(25, &socket, Deadline::seconds(ONION))?;
    let plain = state.world.settings(&"ada".into(), &Bridges::default())?;
    apply(state, &format!("{plain}[mail.transport]\n\"{PEER}\" = \"{other}\"\n"))?;
    let (ada, to, token) = (state.at("ada")?, format!("elsewhere@{PEER}"), state.token());
    let letter = state.letter(&[&format!("From: <{ada}>"), &format!("Subject: {token}")], "x");
    let reply = state.submission("ada elsewhere", Person::Ada)?.mail(&ada, &[&to], &letter)?;
    let mut findings = Vec::new();
    unless(&mut findings, "submission", &reply, 250, "");
    if findings.is_empty() {
        let taken = sink.wait(Deadline::seconds(ONION))?;
        if taken.recipients != [format!("<{to}>")] || !taken.message.contains(&token) {
            findings.push(format!("the other onion got {taken:?}"));
        }
    }
    // Without the line, mail goes where it is addressed to: nobody is there.
    apply(state, &plain)?;
    let letter = state.letter(&[&format!("From: <{ada}>"), "Subject: there"], "x");
    let reply = state.submission("ada there", Person::Ada)?.mail(&ada, &[&to], &letter)?;
    unless(&mut findings, "submission afterwards", &reply, 250, "");
    findings.extend(waits(state, &to, "")?);
    state.resident.appliance.read("postsuper -d ALL 2>&1")?;
    none_of(&findings)
}

/// Puts settings into effect.
fn apply(state: &mut State, settings: &str) -> anyhow::Result<()> {
    let script = format!("cat >/run/new.toml <<'END'\n{settings}END\ncipolla settings apply /run/new.toml");
    state.resident.appliance.read(&script).map(drop)
}

/// Waits until a delivery to this address was put off and the message stays in the queue, from the sender that
/// `from` begins. A finding otherwise.
fn waits(state: &mut State, to: &str, from: &str) -> anyhow::Result<Option<String>> {
    let script = format!(
        "for n in $(seq 120); do postqueue -j | grep -F '\"address\": \"{to}\"' | grep delay_reason && exit; sleep 1; \
         done; postqueue -j"
    );
    let queue = state.resident.appliance.read(&script)?;
    let from = format!("\"sender\": \"{from}");
    let good =
        queue.lines().any(|line| line.contains(to) && line.contains("delay_reason") && line.contains(&from));
    Ok((!good).then(|| format!("no message to {to} from {from:?} waits: {queue}")))
}

/// What an owner's filter may do to a message. Forwards and answers leave through the port that is the filters' own.
const FILTER: &str = r#"require ["vacation", "copy"];
if header :contains "subject" "soup" { redirect "ada@example.com"; }
elsif header :contains "subject" "stew" { redirect "friend@PEER"; }
elsif header :contains "subject" "tea" { vacation "gone to the kitchen"; }
"#;

/// A forward to the clear network is refused, and the message stays; one to an onion is sent; an answer is sent from
/// nobody, so that it cannot be answered by another machine.
fn filters_act(state: &mut State) -> Verdict {
    let (ada, stranger) = (state.at("ada")?, format!("x@{PEER}"));
    let filter = FILTER.replace("PEER", PEER);
    let put = format!("doveadm sieve put -u {ada} -a kitchen <<'END'\n{filter}END\n");
    state.resident.appliance.read(&put)?;
    let mut findings = Vec::new();
    let write = |state: &mut State, word: &str, findings: &mut Vec<String>| -> anyhow::Result<String> {
        let token = state.token();
        let reply = send(state, &stranger, &ada, &format!("{word} {token}"))?;
        unless(findings, word, &reply, 250, "");
        Ok(token)
    };
    let token = write(state, "soup", &mut findings)?;
    state.arrived(Person::Ada, "INBOX", &token)?;
    let token = write(state, "tea", &mut findings)?;
    state.arrived(Person::Ada, "INBOX", &token)?;
    findings.extend(waits(state, &stranger, "MAILER-DAEMON")?);
    write(state, "stew", &mut findings)?;
    findings.extend(waits(state, &format!("friend@{PEER}"), "")?);
    let clean = format!(
        "doveadm sieve deactivate -u {ada}; doveadm sieve delete -u {ada} kitchen; \
         postqueue -j | grep -F example.com; postsuper -d ALL 2>/dev/null; true"
    );
    let clearnet = state.resident.appliance.read(&clean)?;
    if !clearnet.is_empty() {
        findings.push(format!("mail for the clear network is in the queue: {clearnet}"));
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
