//! The webmail in a real browser, as the owner uses it. Screenshots stay in the scenario's folder `web`,
//! numbered.

use anyhow::{Context as _, ensure};
use data_encoding::{BASE64, BASE64_MIME};
use qemu::Deadline;

use super::State;
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::{Account, DELIVERY, PEER};
use crate::webmail::{Webmail, rest, soon};

/// What ada's password becomes.
const NEW_PASSWORD: &str = "eleven quiet Harbours under snow";

/// What a stranger writes.
const SUBJECT: &str = "Zwiebelsuppe für alle – суп на всех";

/// In its text.
const GREETING: &str = "Приятного аппетита!";

/// What is attached to it.
const RECIPE: &str = "Zwölf Zwiebeln, ein Liter Brühe, Salz.\n";

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("browser_is_asked_for_a_password", &["R14", "R18"], asked_for_a_password),
        check("login_read_send_logout", &["R16"], |state: &mut State| seen(state, login_read_send_logout)),
        check("password_change_in_the_webmail", &["R16", "R42"], |state: &mut State| {
            seen(state, password_change)
        }),
        check("filter_saved_in_the_webmail_acts", &["R16"], |state: &mut State| seen(state, filter_acts)),
        check("headers_on_every_document", &["R18"], headers),
        check("pages_complain_of_nothing", &["R16"], no_complaints),
        check("no_external_request", &["R16"], no_external_request),
    ]
}

impl State {
    /// From the login page to the list of messages.
    fn log_in(&mut self) -> anyhow::Result<()> {
        let password = self.site.password.clone();
        self.webmail()?.log_in(Account { local: "ada", password: &password })
    }
}

/// Runs a check; if it comes to no end, what the page shows then is kept.
fn seen(state: &mut State, run: fn(&mut State) -> Verdict) -> Verdict {
    run(state).map_err(|error| match &mut state.webmail {
        Some(webmail) => webmail.witness(error),
        None => error,
    })
}

/// A header's value that is not ASCII (RFC 2047).
fn encoded(text: &str) -> String {
    format!("=?utf-8?B?{}?=", BASE64.encode(text.as_bytes()))
}

fn asked_for_a_password(state: &mut State) -> Verdict {
    let webmail = state.webmail()?;
    let (url, login) = (webmail.url(""), webmail.login().clone());
    let browser = webmail.browser();
    browser.log_in_as(None);
    let page = browser.navigate(&url, soon())?;
    let shown: String = browser.eval("document.title + document.body.innerText", soon())?;
    browser.log_in_as(Some(login));
    // The browser complains of a refusal as of a missing page.
    browser.forget();
    if page.status == 401 && shown.is_empty() {
        return PASS;
    }
    fail(format!("without the password the answer is {} and {shown:?}", page.status))
}

/// What a stranger's mail program sends: text, and a file if there is one.
fn stranger(
    state: &mut State,
    sender: &str,
    subject: &str,
    text: &str,
    file: Option<&str>,
) -> anyhow::Result<()> {
    let date = state.resident.appliance.read("date -R")?;
    let local = sender.to_lowercase();
    let attached = file.map_or_else(String::new, |content| {
        format!(
            "--onion\r\nContent-Type: text/plain; charset=utf-8; name=\"recipe.txt\"\r\n\
             Content-Disposition: attachment; filename=\"recipe.txt\"\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{}",
            BASE64_MIME.encode(content.as_bytes())
        )
    });
    let kind = if file.is_some() { "mixed" } else { "alternative" };
    let message = format!(
        "From: {sender} <{local}@{PEER}>\r\nTo: <{}>\r\nSubject: {}\r\nDate: {}\r\n\
         Message-ID: <{local}-1@{PEER}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/{kind}; boundary=\"onion\"\r\n\r\n\
         --onion\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{text}\r\n\
         {attached}--onion--\r\n",
        state.at("ada"),
        encoded(subject),
        date.trim(),
    );
    state.receive(&local, message.as_bytes())
}

fn login_read_send_logout(state: &mut State) -> Verdict {
    stranger(state, "Boris", "Meeting on Thursday", "Same place, same time.\r\n\r\nBoris", None)?;
    let text = format!("Liebe Ada,\r\n\r\ndas Rezept hängt an. {GREETING}\r\n\r\nOlivia");
    stranger(state, "Olivia", SUBJECT, &text, Some(RECIPE))?;
    // Dovecot looks for words as people read them.
    for word in ["Meeting", "Zwiebelsuppe"] {
        state.arrived("ada", word)?;
    }
    let webmail = state.webmail()?;
    webmail.go("")?.wait_for("#rcmloginsubmit", soon())?;
    webmail.picture("1-login.png")?;
    state.log_in()?;
    read(state.webmail()?)?;
    let findings = send(state)?;
    let webmail = state.webmail()?;
    webmail.log_out()?;
    webmail.picture("7-logged-out.png")?;
    // What was open before the end is closed after it.
    webmail.go("?_task=mail")?.wait_for("#rcmloginsubmit", soon())?;
    none_of(&findings)
}

/// The stranger's message in the list, beside the list, and alone; and the file that hangs on it.
fn read(webmail: &mut Webmail) -> anyhow::Result<()> {
    webmail.look_at(SUBJECT, GREETING)?;
    webmail.picture("2-mailbox.png")?;
    webmail.read(SUBJECT, GREETING)?;
    webmail.picture("3-message.png")?;
    let attached = String::from_utf8(webmail.attachment()?)?;
    // Lines of text travel with CR LF.
    ensure!(attached.replace('\r', "") == RECIPE, "the attachment reads {attached:?}");
    Ok(())
}

/// Writes to bob, who gets it; the copy is in Sent. Returns what is not as the owner would have it.
fn send(state: &mut State) -> anyhow::Result<Vec<String>> {
    let (ada, bob) = (state.at("ada"), state.at("bob"));
    let mut findings = Vec::new();
    let webmail = state.webmail()?;
    let browser = webmail.browser();
    rest(browser)?;
    browser.click("#taskmenu a.compose", soon())?;
    browser.wait_for("#composebody", soon())?;
    rest(browser)?;
    let from = "[...document.querySelectorAll('[name=_from]')].map(one => one.selectedOptions?.[0]?.text ?? one.value)";
    let from: Vec<String> = browser.eval(from, soon())?;
    if !from.iter().any(|from| from.contains(&ada)) {
        findings.push(format!("the sender preset is {from:?}, not {ada}"));
    }
    browser.type_into("#compose_to .recipient-input input", &format!("{bob},"), soon())?;
    browser.type_into("#compose-subject", "Soup tonight – приходи", soon())?;
    browser.type_into("#composebody", "Dear Bob,\n\nthere is onion soup at eight.\n\nAda", soon())?;
    webmail.picture("4-compose.png")?;
    webmail.send()?;
    webmail.open_sent()?;
    webmail.browser().wait_for_text("Soup tonight – приходи", soon())?;
    webmail.picture("5-sent.png")?;
    let received = state.arrived("bob", "Soup")?;
    let head = received.split("\r\n\r\n").next().unwrap_or_default();
    if !head.lines().any(|line| line.starts_with("From:") && line.contains(&ada)) {
        findings.push(format!("bob's message is not from ada: {head}"));
    }
    for trace in ["Roundcube", "User-Agent", "X-Mailer", "127.0.0.1", "fc00:"] {
        if head.contains(trace) {
            findings.push(format!("bob's message tells {trace:?}: {head}"));
        }
    }
    let webmail = state.webmail()?;
    webmail.go("?_task=settings&_action=preferences")?;
    webmail.picture("6-settings.png")?;
    Ok(findings)
}

fn password_change(state: &mut State) -> Verdict {
    state.log_in()?;
    let old = state.site.password.clone();
    let webmail = state.webmail()?;
    let browser = webmail.go("?_task=settings&_action=plugin.password")?;
    for (field, text) in
        [("#curpasswd", old.as_str()), ("#newpasswd", NEW_PASSWORD), ("#confpasswd", NEW_PASSWORD)]
    {
        browser.type_into(field, text, soon())?;
    }
    webmail.picture("8-password.png")?;
    let browser = webmail.browser();
    browser.click(".formbuttons .submit", soon())?;
    browser.wait_for_text("Successfully saved.", soon())?;
    let mut findings = Vec::new();
    if state.opens(&old)? {
        findings.push("the old password still opens the mailbox");
    }
    if !state.opens(NEW_PASSWORD)? {
        findings.push("the new password does not open the mailbox");
    }
    state.site.password = NEW_PASSWORD.to_owned();
    // The session goes on, and the next one begins, with the new one.
    let webmail = state.webmail()?;
    webmail.go("?_task=mail")?.wait_for_text(SUBJECT, soon())?;
    webmail.log_out()?;
    state.log_in()?;
    state.webmail()?.log_out()?;
    if findings.is_empty() { PASS } else { fail(findings.join("\n")) }
}

fn filter_acts(state: &mut State) -> Verdict {
    state.log_in()?;
    let webmail = state.webmail()?;
    let browser = webmail.go("?_task=settings&_action=plugin.managesieve")?;
    rest(browser)?;
    browser.click("#toolbar-menu a.create:not(.disabled)", soon())?;
    browser.look_into(Some("#filter-box"));
    rest(browser)?;
    browser.type_into("#_name", "soup first", soon())?;
    browser.type_into("#rules .multi-input input, #rules textarea", "soup", soon())?;
    // What follows from it is preset: to move the message. The list of folders is the page's own.
    let chosen: String = browser.eval(CHOOSE_DRAFTS, soon())?;
    ensure!(chosen == "Drafts", "the filter can move messages to {chosen}");
    browser.look_into(None);
    webmail.picture("9-filter.png")?;
    let browser = webmail.browser();
    browser.look_into(Some("#filter-box"));
    browser.click(".formbuttons button.submit", soon())?;
    browser.look_into(None);
    browser.wait_until(
        "the filter to be listed",
        "document.querySelector('#filterslist')?.innerText.includes('soup first')",
        soon(),
    )?;
    webmail.picture("10-filters.png")?;
    webmail.log_out()?;
    let script =
        state.resident.appliance.read("find /var/vmail/ada -name '*.sieve' -type f -exec cat {} +")?;
    if !script.contains("soup first") || !script.contains("\"soup\"") {
        return fail(format!("the mailbox has the filters {script:?}"));
    }
    // The next message with that word goes where the filter says, and one without it does not.
    stranger(state, "Petra", "Onion soup at noon", "x", None)?;
    stranger(state, "Quentin", "Onion tart at noon", "x", None)?;
    let site = &state.site;
    let ada = Account { local: "ada", password: &site.password };
    site.arrived(ada, "Drafts", "soup", Deadline::seconds(DELIVERY))?;
    site.arrived(ada, "INBOX", "tart", Deadline::seconds(DELIVERY))?;
    PASS
}

/// Chooses the folder that a new filter moves messages to, or tells which there are.
const CHOOSE_DRAFTS: &str = "(() => {
    const page = document.querySelector('#filter-box').contentDocument;
    const list = page.querySelector('select[name=\"_action_mailbox[0]\"]');
    list.value = 'Drafts';
    list.dispatchEvent(new Event('change', { bubbles: true }));
    return list.value || [...list.options].map(one => one.value).join(', ');
})()";

/// Not only the first page: whatever the browser was given as a document.
fn headers(state: &mut State) -> Verdict {
    let wanted = [
        ("content-security-policy", "default-src 'none'"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
        ("cache-control", "no-store"),
    ];
    let mut findings = Vec::new();
    let mut seen = 0;
    let documents =
        state.webmail()?.browser().record().requests.iter().filter(|request| request.kind == "Document");
    for request in documents.filter(|request| request.url.starts_with("http")) {
        let Some(response) = &request.response else { continue };
        seen += 1;
        for (name, part) in wanted {
            let value = response.headers.get(name);
            if !value.is_some_and(|value| value.contains(part)) && !request.url.contains("/skins/") {
                findings.push(format!("{}: {name} is {value:?}", request.url));
            }
        }
        for name in ["server", "x-powered-by"] {
            findings.extend(
                response.headers.get(name).map(|value| format!("{}: {name} is {value}", request.url)),
            );
        }
    }
    if seen < 8 {
        findings.push(format!("only {seen} documents were seen"));
    }
    none_of(&findings)
}

fn no_complaints(state: &mut State) -> Verdict {
    // Tor Browser takes an onion for as good as HTTPS. Chromium does not, and then has no use for that header.
    let known = "The Cross-Origin-Opener-Policy header has been ignored";
    let complaints = state.webmail()?.browser().record().complaints.iter().filter(|one| !one.contains(known));
    none_of(&complaints.cloned().collect::<Vec<_>>())
}

/// By what the pages asked for, and by what the whole browser connected to.
fn no_external_request(state: &mut State) -> Verdict {
    let proxy = state.world.client()?.tcp_socks(Deadline::seconds(30))?.to_string();
    let webmail = state.webmail.take().context("no browser was started")?;
    let origin = webmail.origin().to_owned();
    let browser = webmail.into_browser();
    let mut findings: Vec<_> = browser
        .record()
        .elsewhere(&origin)
        .iter()
        .map(|request| format!("a page asked for {}", request.url))
        .collect();
    if browser.record().requests.is_empty() {
        findings.push("no page asked for anything".to_owned());
    }
    let log = browser.close()?;
    let home = |url: &&String| url.strip_prefix(&origin).is_some_and(|rest| rest.starts_with('/'));
    let inside = |url: &&String| ["data:", "blob:"].iter().any(|scheme| url.starts_with(scheme));
    let away = log.urls.iter().filter(|url| !home(url) && !inside(url));
    findings.extend(away.map(|url| format!("the browser fetched {url}")));
    let others = log.addresses.iter().filter(|address| **address != proxy);
    findings.extend(others.map(|address| format!("the browser connected to {address}")));
    none_of(&findings)
}
