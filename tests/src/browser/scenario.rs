//! The scenario `browser`: the driver and the real Chromium against a small server on loopback.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use qemu::{Deadline, Keep, Lab, Probe, Programs, RunDir};

use super::server::{Proxy, Seen, Server};
use super::{Browser, Login, Spec};
use crate::Context;
use crate::check::{Check, Evidence, PASS, Phase, Scenario, Verdict, check, fail, gate, none_of};
use crate::vantage::Vantage;
use crate::vantage::scenario::TlsServer;

/// The page's size in pixels.
const SIZE: (u32, u32) = (900, 700);

/// One step takes a fraction of a second.
fn soon() -> Deadline {
    Deadline::seconds(30)
}

/// The driver's test.
pub(crate) struct Driver;

/// A browser and the server that it looks at.
pub(crate) struct State {
    server: Server,
    login: Login,
    spec: Spec,
    scanners: Vantage,
    programs: Programs,
    browser: Option<Browser>,
}

impl Scenario for Driver {
    type State = State;

    fn name(&self) -> Cow<'static, str> {
        "browser".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "the browser of the web scenarios, on a page of its own".into()
    }

    fn wants_browser(&self) -> bool {
        true
    }

    fn machines(&self) -> usize {
        0
    }

    fn start(&self, ctx: &Context, _: &Probe) -> anyhow::Result<State> {
        let tree = ctx.browser.clone().context("no browser was prepared for this run")?;
        let folder = ctx.run_root.join("browser");
        fs_err::create_dir_all(&folder)?;
        let vantage = Vantage { namespace: Vec::new(), tree };
        let spec = Spec { vantage, folder, proxy: None, width: SIZE.0, height: SIZE.1 };
        let login = Login { user: "ada".into(), password: "très secret".into() };
        let scanners = Vantage { namespace: Vec::new(), tree: ctx.scanners.clone() };
        let browser = Some(Browser::start(&spec)?);
        let programs = ctx.programs.clone();
        Ok(State { server: Server::start(&login)?, login, spec, scanners, programs, browser })
    }

    fn phases(&self, _: &Context) -> Vec<Phase<State>> {
        let with_page: Vec<Check<State>> = vec![
            gate("without_a_password_the_refusal_is_shown", &[], refused),
            gate("basic_auth_is_answered", &[], answered),
            check("what_comes_late_is_waited_for", &[], late),
            check("fields_are_typed_into_and_forms_sent", &[], sent),
            check("a_frame_is_worked_in_from_page_to_page", &[], framed),
            check("a_covered_button_is_not_clicked", &[], covered),
            check("screenshot_is_png_of_the_asked_size", &[], screenshot),
            check("requests_and_complaints_are_listed", &[], listed),
            check("untrusted_certificate_is_refused", &[], certificate),
            check("browser_made_no_request_of_its_own", &[], own_requests),
        ];
        let without = vec![
            check("proxy_gets_names_and_nothing_goes_past_it", &[], proxied),
            check("in_a_labs_network_it_sees_only_that", &[], in_a_lab),
            check("no_process_outlives_it", &[], outlived),
        ];
        let leave = |state: &mut State| {
            state.browser = None;
            Ok(())
        };
        vec![Phase::of(with_page), Phase::after(leave, without)]
    }

    fn evidence(&self, state: &mut State) -> Vec<Evidence> {
        let log = state.spec.folder.join("browser.log");
        let text = fs_err::read_to_string(&log).unwrap_or_default();
        let lines = text.lines().rev().take(10).map(str::to_owned).collect::<Vec<_>>();
        vec![(format!("Chromium: {}", log.display()), lines.into_iter().rev().collect())]
    }

    fn reach(&self, _: &State) -> Option<String> {
        None
    }
}

impl State {
    /// The browser with the form in it.
    fn form(&mut self) -> anyhow::Result<&mut Browser> {
        let url = self.server.origin() + "/";
        let browser = self.browser.as_mut().context("the browser was closed")?;
        browser.log_in_as(Some(self.login.clone()));
        browser.forget();
        browser.navigate(&url, soon())?;
        Ok(browser)
    }

    fn screenshot_file(&self) -> PathBuf {
        self.spec.folder.join("form.png")
    }
}

fn refused(state: &mut State) -> Verdict {
    let url = state.server.origin() + "/";
    let browser = state.browser.as_mut().context("the browser was closed")?;
    let page = browser.navigate(&url, soon())?;
    browser.wait_for_text("Not without a password", soon())?;
    let asked = page.headers.get("www-authenticate").map(String::as_str);
    match (page.status, asked, state.server.seen().as_slice()) {
        (401, Some("Basic realm=\"test\""), []) => PASS,
        other => fail(format!("status, question and requests with a password were {other:?}")),
    }
}

fn answered(state: &mut State) -> Verdict {
    let url = state.server.origin() + "/";
    let browser = state.browser.as_mut().context("the browser was closed")?;
    browser.log_in_as(Some(state.login.clone()));
    let page = browser.navigate(&url, soon())?;
    let title: String = browser.eval("document.title", soon())?;
    match (page.status, page.headers.get("x-test").map(String::as_str), title.as_str()) {
        (200, Some("yes"), "Form") => PASS,
        other => fail(format!("status, header and title were {other:?}")),
    }
}

fn late(state: &mut State) -> Verdict {
    let browser = state.form()?;
    browser.wait_for("#late", soon())?;
    let text: String = browser.eval("document.querySelector('#late').textContent", soon())?;
    if text == "Better late" { PASS } else { fail(format!("the late line says {text:?}")) }
}

fn sent(state: &mut State) -> Verdict {
    let browser = state.form()?;
    browser.type_into("#name", "Zoë ✓", soon())?;
    browser.click("#send", soon())?;
    browser.wait_for_text("Thank you", soon())?;
    let want = Seen { line: "POST /sent".into(), body: "name=Zo%C3%AB+%E2%9C%93".into() };
    let seen = state.server.seen();
    if seen.contains(&want) { PASS } else { fail(format!("the server saw {seen:?}")) }
}

fn framed(state: &mut State) -> Verdict {
    let url = state.server.origin() + "/framed";
    let browser = state.form()?;
    browser.navigate(&url, soon())?;
    browser.look_into(Some("#inner"));
    browser.type_into("#name", "Framed", soon())?;
    browser.click("#send", soon())?;
    let thanked = browser.wait_for_text("Thank you", soon());
    browser.look_into(None);
    thanked?;
    browser.wait_for_text("Outside", soon())?;
    let want = Seen { line: "POST /sent".into(), body: "name=Framed".into() };
    let seen = state.server.seen();
    if seen.contains(&want) { PASS } else { fail(format!("the server saw {seen:?}")) }
}

fn covered(state: &mut State) -> Verdict {
    let browser = state.form()?;
    match browser.click("#covered", Deadline::after(Duration::from_millis(300))) {
        Ok(()) => fail("it was clicked"),
        Err(error) => {
            let text = format!("{error:#}");
            let good = text.contains("waiting for #covered to be clickable") && text.contains("Who are you?");
            if good { PASS } else { fail(text) }
        }
    }
}

fn screenshot(state: &mut State) -> Verdict {
    let file = state.screenshot_file();
    let browser = state.form()?;
    browser.wait_for("#late", soon())?;
    let size = browser.screenshot(&file, soon())?;
    if size == SIZE { PASS } else { fail(format!("{} has {size:?} pixels", file.display())) }
}

fn listed(state: &mut State) -> Verdict {
    let origin = state.server.origin();
    let browser = state.form()?;
    browser.wait_for("#late", soon())?;
    let mut findings = Vec::new();
    let record = browser.record();
    let home: Vec<_> = record.requests.iter().filter_map(|one| one.url.strip_prefix(&origin)).collect();
    if home != ["/", "/late"] {
        findings.push(format!("requests to the server: {home:?}"));
    }
    let away: Vec<_> =
        record.elsewhere(&origin).iter().map(|one| (one.url.clone(), one.failure.clone())).collect();
    let want = "http://elsewhere.invalid/pixel.png";
    if away != [(want.to_owned(), Some("net::ERR_NAME_NOT_RESOLVED".to_owned()))] {
        findings.push(format!("requests elsewhere: {away:?}"));
    }
    if !record.complaints.iter().any(|one| one == "console: a complaint 3") {
        findings.push(format!("complaints: {:?}", record.complaints));
    }
    none_of(&findings)
}

fn certificate(state: &mut State) -> Verdict {
    let tls = TlsServer::start(&state.scanners, &state.spec.folder, &[])?;
    let browser = state.browser.as_mut().context("the browser was closed")?;
    match browser.navigate(&format!("https://{}/", tls.address), soon()) {
        Ok(page) => fail(format!("the page was shown, with status {}", page.status)),
        Err(error) if error.to_string().ends_with("net::ERR_CERT_AUTHORITY_INVALID") => PASS,
        Err(error) => fail(format!("{error:#}")),
    }
}

fn own_requests(state: &mut State) -> Verdict {
    let origin = state.server.origin();
    let server = state.server.address().to_string();
    state.form()?;
    let log = state.browser.take().context("the browser was closed")?.close()?;
    let mut findings = Vec::new();
    if !log.addresses.contains(&server) {
        findings.push("the log does not know the server".to_owned());
    }
    // The server with the untrusted certificate is on loopback too.
    findings.extend(log.addresses.iter().filter(|one| !one.starts_with("127.0.0.1:")).cloned());
    let known = ["https://127.0.0.1:", "http://elsewhere.invalid/", "data:"];
    let asked = |url: &String| url.starts_with(&origin) || known.iter().any(|start| url.starts_with(start));
    findings.extend(log.urls.into_iter().filter(|url| !asked(url)));
    none_of(&findings)
}

fn proxied(state: &mut State) -> Verdict {
    let proxy = Proxy::start()?;
    let spec = Spec { proxy: Some(proxy.address), ..state.spec.clone() };
    let mut browser = Browser::start(&spec)?;
    let mut findings = Vec::new();
    for url in ["http://exampleexample.onion/", "http://127.0.0.1:8080/"] {
        match browser.navigate(url, soon()) {
            Ok(_) => findings.push(format!("{url} was shown")),
            Err(error) if error.to_string().ends_with("net::ERR_SOCKS_CONNECTION_FAILED") => {}
            Err(error) => findings.push(format!("{error:#}")),
        }
    }
    if !proxy.names().iter().any(|name| name == "exampleexample.onion") {
        findings.push(format!("the proxy was asked for {:?}", proxy.names()));
    }
    let log = browser.close()?;
    let other = log.addresses.iter().filter(|one| **one != proxy.address.to_string());
    findings.extend(other.map(|address| format!("it connected to {address}")));
    none_of(&findings)
}

fn in_a_lab(state: &mut State) -> Verdict {
    let run_dir = RunDir::create(&state.spec.folder.join("lab"))?;
    let lab = Lab::start(&state.programs, run_dir, Keep::No)?;
    let vantage = Vantage { namespace: lab.network(), tree: state.spec.vantage.tree.clone() };
    let mut browser = Browser::start(&Spec { vantage, ..state.spec.clone() })?;
    // The server is on the loopback of this program's network, not on that of the lab.
    match browser.navigate(&format!("{}/", state.server.origin()), soon()) {
        Ok(page) => fail(format!("the server outside of the lab answered {}", page.status)),
        Err(error) if error.to_string().ends_with("net::ERR_CONNECTION_REFUSED") => PASS,
        Err(error) => fail(format!("{error:#}")),
    }
}

fn outlived(state: &mut State) -> Verdict {
    let browser = Browser::start(&state.spec)?;
    let profile = super::argv::profile(&state.spec.folder);
    if processes(&profile)?.len() < 2 {
        return fail("the browser's processes do not name its profile, so they cannot be counted");
    }
    drop(browser);
    // Killed is not yet gone.
    let deadline = soon();
    loop {
        let left = processes(&profile)?;
        if left.is_empty() || deadline.left().is_none() {
            return none_of(&left);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Command lines that name a path.
fn processes(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc")? {
        // A process may end while it is looked at.
        let line = fs_err::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(path.to_string_lossy().as_ref()) {
            found.push(line);
        }
    }
    Ok(found)
}
