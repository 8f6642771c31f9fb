//! The webmail in a real browser, as the owner uses it. Screenshots stay in the scenario's folder, numbered.

use anyhow::{Context as _, ensure};
use data_encoding::{BASE64, BASE64_MIME};
use qemu::Deadline;

use super::State;
use crate::browser::{Browser, Login};
use crate::check::{Check, PASS, Verdict, check, fail, none_of};
use crate::site::{DIALOGUE, PEER};

/// What ada's password becomes.
const NEW_PASSWORD: &str = "eleven quiet Harbours under snow";

/// What a stranger writes.
const SUBJECT: &str = "Zwiebelsuppe für alle – суп на всех";

/// What is attached to it.
const RECIPE: &str = "Zwölf Zwiebeln, ein Liter Brühe, Salz.\n";

/// A page with all that belongs to it, on two emulated cores behind six relays.
fn soon() -> Deadline {
    Deadline::seconds(DIALOGUE)
}

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("browser_is_asked_for_a_password", &["R14", "R18"], asked_for_a_password),
        check("login_read_send_logout", &["R16"], |state: &mut State| seen(state, login_read_send_logout)),
        check("password_change_in_the_webmail", &["R16", "R42"], |state: &mut State| {
            seen(state, password_change)
        }),
        check("filter_saved_in_the_webmail", &["R16"], |state: &mut State| seen(state, filter_saved)),
        check("headers_on_every_document", &["R18"], headers),
        check("pages_complain_of_nothing", &["R16"], no_complaints),
        check("no_external_request", &["R16"], no_external_request),
    ]
}

impl State {
    /// `http://` and the client onion.
    fn origin(&self) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.site()?.client))
    }

    /// The browser, and where it is to go.
    fn at_webmail(&mut self, query: &str) -> anyhow::Result<(&mut Browser, String)> {
        let url = format!("{}/{query}", self.origin()?);
        Ok((self.browser()?, url))
    }

    /// From the login page to the list of messages.
    fn log_in(&mut self) -> anyhow::Result<()> {
        let password = self.site()?.password.clone();
        let (browser, url) = self.at_webmail("")?;
        browser.look_into(None);
        browser.navigate(&url, soon())?;
        // A check that failed may have left the session open.
        if browser.eval("!document.querySelector('#rcmloginuser')", soon())? {
            rest(browser)?;
            browser.click("#taskmenu a.logout", soon())?;
        }
        browser.type_into("#rcmloginuser", "ada", soon())?;
        browser.type_into("#rcmloginpwd", &password, soon())?;
        browser.click("#rcmloginsubmit", soon())?;
        browser.wait_for("#messagelist", soon())?;
        rest(browser)
    }

    /// Leaves by the door.
    fn log_out(&mut self) -> anyhow::Result<()> {
        let browser = self.browser()?;
        browser.look_into(None);
        rest(browser)?;
        browser.click("#taskmenu a.logout", soon())?;
        browser.wait_for("#rcmloginsubmit", soon())
    }
}

/// Waits until the page has all that belongs to it and says that it waits for nothing more. Before that its buttons
/// do nothing.
fn rest(browser: &mut Browser) -> anyhow::Result<()> {
    let condition = "document.readyState === 'complete' && !document.querySelector('#messagestack .loading')";
    browser.wait_until("the page to be at rest", condition, soon())
}

/// Keeps what the page shows.
fn picture(browser: &mut Browser, name: &str) -> anyhow::Result<()> {
    rest(browser)?;
    let file = browser.folder().join(name);
    browser.screenshot(&file, soon()).map(drop)
}

/// Runs a check; if it comes to no end, what the page shows then is kept.
fn seen(state: &mut State, run: fn(&mut State) -> Verdict) -> Verdict {
    run(state).map_err(|error| {
        let shot = state.browser().and_then(|browser| {
            let file = browser.folder().join("failed.png");
            browser.screenshot(&file, Deadline::seconds(30))?;
            Ok(file)
        });
        match shot {
            Ok(file) => error.context(format!("see {}", file.display())),
            // The first error is the one that counts.
            Err(_) => error,
        }
    })
}

/// A header's value that is not ASCII (RFC 2047).
fn encoded(text: &str) -> String {
    format!("=?utf-8?B?{}?=", BASE64.encode(text.as_bytes()))
}

fn asked_for_a_password(state: &mut State) -> Verdict {
    let login = Login { user: "ada".into(), password: state.site()?.web.clone() };
    let (browser, url) = state.at_webmail("")?;
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
        state.at("ada")?,
        encoded(subject),
        date.trim(),
    );
    state.receive(&local, message.as_bytes())
}

fn login_read_send_logout(state: &mut State) -> Verdict {
    stranger(state, "Boris", "Meeting on Thursday", "Same place, same time.\r\n\r\nBoris", None)?;
    let text = "Liebe Ada,\r\n\r\ndas Rezept hängt an. Приятного аппетита!\r\n\r\nOlivia";
    stranger(state, "Olivia", SUBJECT, text, Some(RECIPE))?;
    // Dovecot looks for words as people read them.
    for word in ["Meeting", "Zwiebelsuppe"] {
        state.arrived("ada", word)?;
    }
    let (browser, url) = state.at_webmail("")?;
    browser.navigate(&url, soon())?;
    browser.wait_for("#rcmloginsubmit", soon())?;
    picture(browser, "1-login.png")?;
    state.log_in()?;
    read(state)?;
    let findings = send(state)?;
    state.log_out()?;
    let browser = state.browser()?;
    picture(browser, "7-logged-out.png")?;
    // What was open before the end is closed after it.
    let (browser, url) = state.at_webmail("?_task=mail")?;
    browser.navigate(&url, soon())?;
    browser.wait_for("#rcmloginsubmit", soon())?;
    none_of(&findings)
}

/// The stranger's message in the list, beside the list, and alone; and the file that hangs on it.
fn read(state: &mut State) -> anyhow::Result<()> {
    let browser = state.browser()?;
    browser.wait_for_text(SUBJECT, soon())?;
    let found = format!(
        "[...document.querySelectorAll('#messagelist tr.message')].find(row => row.innerText.includes({}))",
        serde_json::to_string(SUBJECT)?
    );
    let row: String = browser.eval(&format!("{found}.id"), soon())?;
    browser.click(&format!("[id={}] td.subject", serde_json::to_string(&row)?), soon())?;
    browser.look_into(Some("#messagecontframe"));
    browser.wait_for_text("Приятного аппетита!", soon())?;
    rest(browser)?;
    browser.look_into(None);
    picture(browser, "2-mailbox.png")?;
    let link: String = browser.eval(&format!("{found}.querySelector('a[href*=_uid]').href"), soon())?;
    browser.navigate(&link, soon())?;
    browser.wait_for_text("Приятного аппетита!", soon())?;
    picture(browser, "3-message.png")?;
    let attached: String = browser.eval(
        "fetch(document.querySelector('#attachment-list a.filename').href + '&_download=1').then(got => got.text())",
        soon(),
    )?;
    // Lines of text travel with CR LF.
    ensure!(attached.replace('\r', "") == RECIPE, "the attachment reads {attached:?}");
    Ok(())
}

/// Writes to bob, who gets it; the copy is in Sent. Returns what is not as the owner would have it.
fn send(state: &mut State) -> anyhow::Result<Vec<String>> {
    let (ada, bob) = (state.at("ada")?, state.at("bob")?);
    let mut findings = Vec::new();
    let browser = state.browser()?;
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
    picture(browser, "4-compose.png")?;
    browser.click("#compose-content button.send", soon())?;
    browser.wait_for("#messagelist", soon())?;
    rest(browser)?;
    browser.click("#mailboxlist li.sent a", soon())?;
    browser.wait_for_text("Soup tonight – приходи", soon())?;
    picture(browser, "5-sent.png")?;
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
    let (browser, url) = state.at_webmail("?_task=settings&_action=preferences")?;
    browser.navigate(&url, soon())?;
    picture(browser, "6-settings.png")?;
    Ok(findings)
}

fn password_change(state: &mut State) -> Verdict {
    state.log_in()?;
    let old = state.site()?.password.clone();
    let (browser, url) = state.at_webmail("?_task=settings&_action=plugin.password")?;
    browser.navigate(&url, soon())?;
    for (field, text) in
        [("#curpasswd", old.as_str()), ("#newpasswd", NEW_PASSWORD), ("#confpasswd", NEW_PASSWORD)]
    {
        browser.type_into(field, text, soon())?;
    }
    picture(browser, "8-password.png")?;
    browser.click(".formbuttons .submit", soon())?;
    browser.wait_for_text("Successfully saved.", soon())?;
    let mut findings = Vec::new();
    if state.opens(&old)? {
        findings.push("the old password still opens the mailbox");
    }
    if !state.opens(NEW_PASSWORD)? {
        findings.push("the new password does not open the mailbox");
    }
    state.site.as_mut().context("the site was reached above")?.password = NEW_PASSWORD.to_owned();
    // The session goes on, and the next one begins, with the new one.
    let (browser, url) = state.at_webmail("?_task=mail")?;
    browser.navigate(&url, soon())?;
    browser.wait_for_text(SUBJECT, soon())?;
    state.log_out()?;
    state.log_in()?;
    state.log_out()?;
    if findings.is_empty() { PASS } else { fail(findings.join("\n")) }
}

fn filter_saved(state: &mut State) -> Verdict {
    state.log_in()?;
    let (browser, url) = state.at_webmail("?_task=settings&_action=plugin.managesieve")?;
    browser.navigate(&url, soon())?;
    rest(browser)?;
    browser.click("#toolbar-menu a.create:not(.disabled)", soon())?;
    browser.look_into(Some("#filter-box"));
    rest(browser)?;
    browser.type_into("#_name", "soup first", soon())?;
    browser.type_into("#rules .multi-input input, #rules textarea", "soup", soon())?;
    browser.look_into(None);
    picture(browser, "9-filter.png")?;
    browser.look_into(Some("#filter-box"));
    browser.click(".formbuttons button.submit", soon())?;
    browser.look_into(None);
    browser.wait_until(
        "the filter to be listed",
        "document.querySelector('#filterslist')?.innerText.includes('soup first')",
        soon(),
    )?;
    picture(browser, "10-filters.png")?;
    state.log_out()?;
    let script =
        state.resident.appliance.read("find /var/vmail/ada -name '*.sieve' -type f -exec cat {} +")?;
    if script.contains("soup first") && script.contains("\"soup\"") {
        return PASS;
    }
    fail(format!("the mailbox has the filters {script:?}"))
}

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
    let documents = state.browser()?.record().requests.iter().filter(|request| request.kind == "Document");
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
    let complaints = state.browser()?.record().complaints.iter().filter(|one| !one.contains(known));
    none_of(&complaints.cloned().collect::<Vec<_>>())
}

/// By what the pages asked for, and by what the whole browser connected to.
fn no_external_request(state: &mut State) -> Verdict {
    let origin = state.origin()?;
    let proxy = state.world.client()?.tcp_socks(Deadline::seconds(30))?.to_string();
    let browser = state.browser.take().context("no browser was started")?;
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
