//! One appliance loses its power, with mail in its queue; the other one writes to it: the mail waits, without bothering
//! its writer, and arrives when the peer is there again. The writer's Tor is restarted in between.
//!
//! Postfix would try again by itself after five minutes. Here it is asked to, as an owner may (`cipolla queue retry`),
//! and when it would have is looked at. After a power cut the network believes for some time that the peer is where it
//! was: that may cost a try, never the message.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use qemu::Deadline;

use super::{DELIVERY, State, attachment, message, unlike};
use crate::check::{Check, PASS, Verdict, check, fail, gate, none_of};
use crate::site::ONION;
use crate::web::audit;

/// Not the subject of any other message, and as long.
const SUBJECT: &str = "Wake up: спокойной ночи und guten Morgen, 起きて, it is high noon and the onion soup of \
    last night is still on the stove, untouched";

/// A word of it that is searched for.
const WORD: &str = "stove";

/// What the owner is told about a peer that does not answer.
const MEANING: &str = "the other server does not answer; it may be asleep";

/// The longest that a message may wait for its next try: as long as Tor does before it asks a directory again that had
/// no descriptor (`REND_HID_SERV_DIR_REQUERY_PERIOD` in its source). To try more often is in vain.
const PATIENCE: &str = "15m";

/// How often the owner asks Postfix to try again, until the relays have told everybody that the peer's old circuits are
/// dead.
const TRIES: u32 = 3;

/// What waits for the peer.
#[derive(Default)]
pub(super) struct Waiting {
    /// Postfix's name for it.
    id: String,
    /// When Postfix means to try again, in seconds since 1970.
    due: u64,
    /// How many messages the writer's mailbox had before.
    before: String,
    /// What was measured.
    figures: String,
}

/// A word in the subject of what is in the peer's queue when its power goes.
const QUEUED: &str = "halfway";

/// What the peer has accepted is in its queue and nowhere else, since its Dovecot is stopped. Then its power is cut. No
/// browser is needed any more. The other one is audited while there is little to do but to wait.
pub(super) fn fall_asleep(state: &mut State) -> anyhow::Result<()> {
    state.webmail = None;
    let ada = state.people[0].resident.as_mut().context("the writer's appliance is not up")?;
    audit::start(&state.world, &mut ada.appliance)?;
    let address = state.people[1].address()?;
    let letter = format!("From: <{address}>\r\nTo: <{address}>\r\nSubject: {QUEUED}\r\n\r\nThere.\r\n");
    let mut smtp = state.people[1].submission()?;
    state.people[1].read("systemctl stop dovecot")?;
    let reply = smtp.mail(&address, &[&address], letter.as_bytes())?;
    ensure!(reply.code == 250, "the peer does not take a message before its power goes: {reply}");
    let resident = state.people[1].resident.take().context("the peer is not up")?;
    state.asleep = Some(resident.cut_power()?);
    Ok(())
}

pub(super) fn while_asleep() -> Vec<Check<State>> {
    vec![
        gate("mail_to_a_sleeping_peer_is_accepted", &["R36", "R38"], accepted),
        check("sleeping_peer_is_told_in_plain_words", &["R36", "R38"], told_in_plain_words),
        check("sleeping_peer_is_tried_again_soon", &["R30"], tried_again_soon),
        gate("mail_to_a_sleeping_peer_survives_tors_restart", &["R38"], survives_restart),
    ]
}

/// The peer's power comes back.
pub(super) fn wake(state: &mut State) -> anyhow::Result<()> {
    let asleep = state.asleep.take().context("the peer was not switched off")?;
    state.people[1].resident = Some(asleep.wake()?);
    Ok(())
}

pub(super) fn afterwards() -> Vec<Check<State>> {
    vec![
        gate("peer_is_back", &[], back),
        check("queue_survives_power_cut", &["R38"], queue_survives),
        check("sleeping_peer_is_deferred_then_delivered", &["R30", "R36", "R38"], delivered),
    ]
}

/// Messages of ada's mailbox, in all folders.
const MESSAGES: &str =
    "find /var/vmail/ada/Maildir -type f -path '*/new/*' -o -type f -path '*/cur/*' | wc -l";

/// What came to the writer meanwhile.
fn bothered(state: &mut State) -> anyhow::Result<Option<String>> {
    let (before, after) = (state.waiting.before.clone(), state.people[0].read(MESSAGES)?);
    Ok((before != after)
        .then(|| format!("the writer had {} messages and has {}", before.trim(), after.trim())))
}

/// Postfix takes it, tries, and puts it off. After a power cut the relays hold the peer's circuits for alive, so Tor
/// waits for an answer as long as Postfix lets it: two minutes.
fn accepted(state: &mut State) -> Verdict {
    let (sender, recipient) = (state.people[0].address()?, state.people[1].address()?);
    state.waiting.before = state.people[0].read(MESSAGES)?;
    let text = message(&sender, &recipient, SUBJECT, &attachment(SUBJECT));
    let reply = state.people[0].submission()?.mail(&sender, &[&recipient], text.as_bytes())?;
    let said = reply.to_string();
    let Some((_, id)) = said.rsplit_once("queued as ") else {
        return fail(format!("submission answers {said}"));
    };
    state.waiting.id = id.trim().to_owned();
    // The time of a file among the deferred is that of the next try (qmgr(8)).
    let script = format!(
        "for n in $(seq 170); do\n\
         due=$(find /var/spool/postfix/deferred -name {} -printf '%Ts')\n\
         [ -n \"$due\" ] && break\n\
         sleep 1\n\
         done\n\
         echo $due; postqueue -j",
        state.waiting.id
    );
    let seen = state.people[0].read(&script)?;
    match seen.lines().next().unwrap_or_default().parse() {
        Ok(due) => state.waiting.due = due,
        Err(_) => return fail(format!("it was not tried and put off: {seen:?}")),
    }
    PASS
}

/// `cipolla queue list` explains, and nobody else is told: the notice comes after four hours.
fn told_in_plain_words(state: &mut State) -> Verdict {
    let list = state.people[0].read("cipolla queue list")?;
    let mut findings = Vec::new();
    for wanted in [MEANING, state.waiting.id.as_str(), &state.people[1].address()?] {
        if !list.contains(wanted) {
            findings.push(format!("the list lacks {wanted:?}: {list}"));
        }
    }
    findings.extend(bothered(state)?);
    none_of(&findings)
}

/// By its own clock for this message, and by the longest that any message has to wait.
fn tried_again_soon(state: &mut State) -> Verdict {
    let seen = state.people[0]
        .read("date +%s; postconf -h minimal_backoff_time maximal_backoff_time queue_run_delay")?;
    let mut lines = seen.lines();
    let now: u64 = lines.next().unwrap_or_default().parse().with_context(|| format!("reading {seen:?}"))?;
    let mut findings = Vec::new();
    let left = state.waiting.due.saturating_sub(now);
    if left > 300 {
        findings.push(format!("it is tried again in {left} s only"));
    }
    let times: Vec<_> = lines.collect();
    if times != ["5m", PATIENCE, "5m"] {
        findings.push(format!("Postfix waits at least, at most, and between two looks: {times:?}"));
    }
    none_of(&findings)
}

/// It waits as before, and its writer has not been told anything.
fn survives_restart(state: &mut State) -> Verdict {
    state.people[0].read("systemctl restart tor@default.service")?;
    let queue = state.people[0].read("postqueue -j")?;
    let mut findings = Vec::new();
    if queue.lines().count() != 1 || !queue.contains(&state.waiting.id) {
        findings.push(format!("the queue holds {queue:?}"));
    }
    findings.extend(bothered(state)?);
    none_of(&findings)
}

/// The peer has booted, and its services are found again.
fn back(state: &mut State) -> Verdict {
    let started = Instant::now();
    state.people[1].resident()?.appliance.wait_boot()?;
    note(
        state,
        &format!("{:.0} s from power to the end of the peer's boot", started.elapsed().as_secs_f64()),
    )?;
    let asked = state.people[1].site()?.wait_up_anew(&mut state.world, Deadline::seconds(ONION))?;
    note(state, &format!("the peer's services were asked for {asked} times"))?;
    note(state, &format!("{:.0} s from power to the peer's services", started.elapsed().as_secs_f64()))?;
    PASS
}

/// What was accepted before the power went is delivered after, once.
fn queue_survives(state: &mut State) -> Verdict {
    let script = format!(
        "for n in $(seq 120); do grep -rlsx 'Subject: {QUEUED}' /var/vmail/bob/Maildir/new && break; sleep 1; done; \
         postqueue -j"
    );
    let seen = state.people[1].read(&script)?;
    if seen.lines().count() == 1 && seen.starts_with("/var/vmail/") { PASS } else { fail(seen) }
}

/// Once, unchanged, and the queue is empty.
fn delivered(state: &mut State) -> Verdict {
    let started = Instant::now();
    // As in `back`: Postfix waits two minutes where the peer was. The owner's command looks it up anew.
    let script = "cipolla queue retry >&2; for n in $(seq 150); do [ -z \"$(postqueue -j)\" ] && break; sleep 1; done; \
                  postqueue -j";
    let mut tries = 1;
    while !state.people[0].read(script)?.trim().is_empty() && tries < TRIES {
        tries += 1;
    }
    note(state, &format!("{tries} tries from the peer's return to the delivery"))?;
    let bob = &state.people[1];
    let arrived = bob.site()?.arrived(bob.account()?, "INBOX", WORD, Deadline::seconds(DELIVERY))?;
    note(state, &format!("{:.0} s from the first try to the mailbox", started.elapsed().as_secs_f64()))?;
    let mut findings = unlike(&String::from_utf8_lossy(&arrived), SUBJECT, &attachment(SUBJECT));
    let bob = &state.people[1];
    let mut imap = bob.mailbox()?;
    imap.select("INBOX")?;
    let found = imap.demand(&format!("SEARCH HEADER SUBJECT {WORD}"))?;
    let places =
        found.untagged.iter().find_map(|line| std::str::from_utf8(line).ok()?.strip_prefix("SEARCH "));
    if places.is_none_or(|places| places.trim().parse::<u32>().is_err()) {
        findings.push(format!("it is not there once, but at the places {places:?}"));
    }
    let queue = state.people[0].read("cipolla queue list")?;
    if queue.trim() != "no mail waits" {
        findings.push(format!("the queue of the writer has {queue}"));
    }
    findings.extend(bothered(state)?);
    none_of(&findings)
}

/// Adds a line to what was measured.
fn note(state: &mut State, line: &str) -> anyhow::Result<()> {
    let waiting = &mut state.waiting;
    waiting.figures.push_str(line);
    waiting.figures.push('\n');
    let file = state.people[0].resident()?.appliance.machine.run_dir().file("figures.txt");
    Ok(fs_err::write(file, &waiting.figures)?)
}
