//! The message that has arrived, in its recipient's webmail: a real browser over Tor. Screenshots stay in the
//! scenario's folder `webmail`, numbered.

use anyhow::Context as _;
use qemu::Deadline;

use super::{DELIVERY, SUBJECT, State, TEXT, attachment, head, receive, told};
use crate::check::{Verdict, none_of};
use crate::webmail::{Webmail, rest, soon};

/// Where the reader's computer says that it is. Its offset is in the test's list of traces.
const ZONE: &str = "Asia/Colombo";

/// What the reader answers.
const ANSWER: &str = "Ich komme gern: буду в восемь. 🧅";

/// Runs a part of a check with the webmail; if it comes to no end, what the page shows then is kept.
fn seen(
    state: &mut State,
    run: impl FnOnce(&mut Webmail) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<Vec<String>> {
    let webmail = state.webmail.as_mut().context("the webmail was never opened")?;
    run(webmail).map_err(|error| webmail.witness(error))
}

/// Bob finds ada's message in the list, and opens it: subject, text and attachment are those that she sent.
pub(super) fn shows(state: &mut State) -> Verdict {
    let [ada, bob] = &state.people[..] else { anyhow::bail!("there are two people") };
    let sent = attachment(&ada.address()?);
    let (sender, account) = (ada.address()?, bob.account()?);
    let webmail = Webmail::open(&mut state.world, &state.tree, state.folder.clone(), bob.site()?, bob.name)?;
    let webmail = state.webmail.insert(webmail);
    webmail.browser().move_to_zone(ZONE, soon())?;
    let entered = webmail.log_in(account);
    entered.map_err(|error| webmail.witness(error))?;
    none_of(&seen(state, |webmail| read(webmail, &sender, &sent))?)
}

fn read(webmail: &mut Webmail, sender: &str, sent: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let zone: String = webmail.browser().eval("Intl.DateTimeFormat().resolvedOptions().timeZone", soon())?;
    if zone != ZONE {
        findings.push(format!("the browser is in {zone}, so that nothing is shown by what it does not tell"));
    }
    webmail.look_at(SUBJECT, TEXT)?;
    webmail.picture("1-mailbox.png")?;
    webmail.read(SUBJECT, TEXT)?;
    webmail.picture("2-message.png")?;
    // In full, and not cut off at the edge.
    let (heading, whole): (String, bool) = webmail.browser().eval(
        "(heading => [heading.innerText, heading.scrollWidth <= heading.clientWidth])\
         (document.querySelector('#message-header h2.subject'))",
        soon(),
    )?;
    if !heading.contains(SUBJECT) || !whole {
        findings.push(format!("the page's heading is {heading:?}{}", if whole { "" } else { ", cut off" }));
    }
    let from: String =
        webmail.browser().eval("document.querySelector('#message-header').innerText", soon())?;
    if !from.contains(sender) {
        findings.push(format!("the page does not say that {sender} wrote: {from:?}"));
    }
    if webmail.attachment()? != sent {
        findings.push("the attachment is not what was sent".to_owned());
    }
    Ok(findings)
}

/// Bob answers from the message that is open; ada gets it in the thread of hers.
pub(super) fn reply(state: &mut State) -> Verdict {
    let (to, from) = (state.people[0].address()?, state.people[1].address()?);
    let mut findings = seen(state, |webmail| answer(webmail, &to))?;
    // Nothing more is asked of the browser.
    state.webmail = None;
    let [ada, bob] = &state.people[..] else { anyhow::bail!("there are two people") };
    let asked = receive(bob)?;
    let asked = header(head(&asked), "Message-ID").context("what ada wrote has no Message-ID")?;
    let word = "Re:";
    let got = ada.site()?.arrived(ada.account()?, "INBOX", word, Deadline::seconds(DELIVERY))?;
    let got = String::from_utf8_lossy(&got).into_owned();
    let head = head(&got);
    for (name, wanted) in [("In-Reply-To", &asked), ("References", &asked), ("From", &from), ("To", &to)] {
        let value = header(head, name);
        if !value.as_ref().is_some_and(|value| value.contains(wanted.as_str())) {
            findings.push(format!("{name} is {value:?}, without {wanted}"));
        }
    }
    let date = header(head, "Date");
    if !date.as_ref().is_some_and(|date| date.contains("+0000")) {
        findings.push(format!("Date is {date:?}, not in UTC"));
    }
    let client = bob.site()?.client.trim_end_matches(".onion");
    findings.extend(told(head, &["Roundcube", "Chrom", "Mozilla", "Colombo", client]));
    none_of(&findings)
}

fn answer(webmail: &mut Webmail, to: &str) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let browser = webmail.browser();
    rest(browser)?;
    browser.click("#layout-content a.reply:not(.disabled)", soon())?;
    browser.wait_for("#composebody", soon())?;
    rest(browser)?;
    let field = |id: &str| format!("document.querySelector('{id}').value");
    let recipient: String = browser.eval(&field("#_to"), soon())?;
    if !recipient.contains(to) {
        findings.push(format!("the answer would go to {recipient:?}, not {to}"));
    }
    let subject: String = browser.eval(&field("#compose-subject"), soon())?;
    if subject != format!("Re: {SUBJECT}") {
        findings.push(format!("the answer's subject is {subject:?}"));
    }
    let quoted: String = browser.eval(&field("#composebody"), soon())?;
    if !quoted.contains(&format!("> {TEXT}")) {
        findings.push(format!("the answer does not quote {TEXT:?}: {quoted:?}"));
    }
    browser.type_into("#composebody", &format!("{ANSWER}\n\n{quoted}"), soon())?;
    webmail.picture("3-answer.png")?;
    webmail.send()?;
    webmail.open_sent()?;
    webmail.browser().wait_for_text(&subject, soon())?;
    webmail.picture("4-sent.png")?;
    webmail.log_out()?;
    Ok(findings)
}

/// The value of a header, unfolded (RFC 5322, 2.2.3).
fn header(head: &str, name: &str) -> Option<String> {
    let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_headers_are_one_line() {
        let head = "Subject: a\r\nREFERENCES: <1@x>\r\n\t<2@x>\r\n <3@x>\r\nTo: b";
        assert_eq!(header(head, "References").unwrap(), "<1@x> <2@x> <3@x>");
        assert_eq!(header(head, "to").unwrap(), "b");
        assert_eq!(header(head, "Cc"), None);
    }
}
