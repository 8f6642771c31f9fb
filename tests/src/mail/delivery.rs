//! What becomes of accepted mail: quotas, passwords, how fast it goes.

use std::time::Instant;

use super::{Person, State, unless};
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::PEER;

/// Messages of the figure for throughput: below what one circuit may send in a minute.
const MANY: usize = 25;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("quota_warns_then_refuses", &["R41"], quota_warns_then_refuses),
        check("weak_passwords_refused", &["R42"], weak_passwords_refused),
        check("throughput_is_stated", &["R38"], throughput),
    ]
}

/// A mailbox of a megabyte, filled with messages of a seventh: the sixth comes to more than 80 %, the seventh to more
/// than 95.
fn quota_warns_then_refuses(state: &mut State) -> Verdict {
    let mx = state.site()?.mx.clone();
    let appliance = &mut state.resident.appliance;
    // Dovecot knows the mailbox already when it gets other room.
    let small = format!(
        "echo '{}' | cipolla user add small --stdin >/dev/null && doveadm user small@{mx} >/dev/null && \
         cipolla user quota small 1M && doveadm user small@{mx}",
        super::BOB
    );
    let known = appliance.read(&small)?;
    if !known.lines().any(|line| line.starts_with("quota_storage_size") && line.ends_with("\t1M")) {
        return fail(format!("after `cipolla user quota small 1M` Dovecot says {known}"));
    }
    let body = format!("{}\r\n", "x".repeat(70)).repeat(2130);
    let mut replies = Vec::new();
    for number in 0..9 {
        let letter =
            state.letter(&[&format!("From: <x@{PEER}>"), &format!("Subject: filler{number}")], &body);
        let reply = state.stranger(&format!("filler {number}"))?.mail(
            &format!("x@{PEER}"),
            &[&format!("small@{mx}")],
            &letter,
        )?;
        let refused = reply.code != 250;
        replies.push(reply);
        if refused {
            break;
        }
        // Delivered before the next is asked for, or the quota would be looked at too early.
        state
            .resident
            .appliance
            .read("for n in $(seq 60); do postqueue -p | grep -q empty && break; sleep 0.5; done")?;
    }
    let mut findings = Vec::new();
    let Some(last) = replies.last() else { return fail("nothing was sent") };
    unless(&mut findings, "the message too many", last, 452, "The mailbox is full");
    let subjects = "for n in $(seq 20); do grep -rhs '^Subject: Your mailbox' /var/vmail/small/Maildir | sort > /run/w; \
                    test $(wc -l </run/w) -ge 2 && break; sleep 0.5; done; cat /run/w; rm /run/w";
    let subjects = state.resident.appliance.read(subjects)?;
    let warned: Vec<_> = subjects.lines().map(str::trim_end).collect();
    if warned != ["Subject: Your mailbox is 80 % full", "Subject: Your mailbox is 95 % full"] {
        findings.push(format!("the warnings are {warned:?}, after {} messages", replies.len()));
    }
    none_of(&findings)
}

fn weak_passwords_refused(state: &mut State) -> Verdict {
    let mut findings = Vec::new();
    for weak in ["short", "password1234", "qwertyuiop123456", "aaaaaaaaaaaaaaaa"] {
        let output =
            state.resident.appliance.run(&format!("echo '{weak}' | cipolla user passwd bob --stdin"))?;
        if output.status.success() {
            findings.push(format!("{weak:?} was taken"));
        }
    }
    if findings.is_empty() {
        // Nothing changed.
        state.mailbox("bob, as before", Person::Bob)?.demand("NOOP")?;
    }
    none_of(&findings)
}

/// From port 465 to the mailbox, as fast as it goes. A figure, not a limit.
fn throughput(state: &mut State) -> Verdict {
    let (ada, bob) = (state.at("ada")?, state.at("bob")?);
    let mut smtp = state.submission("ada writes a lot", Person::Ada)?;
    smtp.until(qemu::Deadline::seconds(300));
    let token = state.token();
    let started = Instant::now();
    for _ in 0..MANY {
        let letter = state.letter(&[&format!("From: <{ada}>"), &format!("Subject: {token}")], "x");
        let reply = smtp.mail(&ada, &[&bob], &letter)?;
        if reply.code != 250 {
            return fail(reply.to_string());
        }
    }
    let script = format!(
        "for n in $(seq 240); do [ $(grep -rls 'Subject: {token}' /var/vmail/bob/Maildir/new /var/vmail/bob/Maildir/cur | wc -l) = {MANY} ] && break; \
         sleep 0.5; done; grep -rls 'Subject: {token}' /var/vmail/bob/Maildir/new /var/vmail/bob/Maildir/cur | wc -l"
    );
    let count = state.resident.appliance.read(&script)?;
    let took = started.elapsed().as_secs_f64();
    let file = state.resident.appliance.machine.run_dir().file("throughput.txt");
    fs_err::write(
        file,
        format!(
            "{:.1} messages a second from port 465 to the mailbox\n",
            f64::from(u8::try_from(MANY)?) / took
        ),
    )?;
    if count.trim() == MANY.to_string() { PASS } else { fail(format!("{} of {MANY} arrived", count.trim())) }
}
