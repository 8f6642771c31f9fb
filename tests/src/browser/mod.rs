//! A real browser, driven from a test: headless Chromium, one tab.
//!
//! ```no_run
//! # use scenarios::browser::{Browser, Login, Spec};
//! # use qemu::Deadline;
//! # fn example(spec: &Spec) -> anyhow::Result<()> {
//! let mut browser = Browser::start(spec)?;
//! browser.log_in_as(Some(Login { user: "owner".into(), password: "x".into() }));
//! let page = browser.navigate("http://127.0.0.1:8080/", Deadline::seconds(60))?;
//! assert_eq!(page.status, 200);
//! browser.type_into("#name", "Ada", Deadline::seconds(20))?;
//! browser.click("#send", Deadline::seconds(20))?;
//! browser.wait_for_text("Thank you, Ada", Deadline::seconds(60))?;
//! browser.screenshot("thanks.png".as_ref(), Deadline::seconds(20))?;
//! # Ok(()) }
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`argv()`] | Chromium's command line |
//! | `protocol` | the Chrome `DevTools` Protocol over two pipes |
//! | `page` | what a person does: navigate, wait, click, type |
//! | [`record`] | what the page asked the network for, and what it complained about |
//! | [`netlog`] | what the whole browser connected to, by its own account |
//! | `server` | the small server that the scenario holds all this against |
//!
//! The protocol goes over pipes (`--remote-debugging-pipe`), so no port is opened and it works from another network
//! namespace. Clicks and keys are real input: what is hidden, covered or not there cannot be clicked.
//!
//! Never: a fixed sleep, a certificate error overlooked, a request of the browser's own, an element clicked by script.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use qemu::Deadline;
use serde_json::{Value, json};

use crate::vantage::Group;

mod argv;
pub mod netlog;
mod page;
mod protocol;
pub mod record;
pub(crate) mod scenario;
mod server;

pub use argv::{Spec, argv};
pub use page::png_size;
pub use record::Record;

use netlog::NetLog;
use protocol::{Event, Protocol};

/// How long Chromium may take to answer for the first time, and to end in order: it needs half a second.
const START: u64 = 60;

/// A name and password for HTTP basic authentication (RFC 7617).
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// A running browser with one tab. It ends with this value, and its whole process group with it; it also ends when
/// the thread that started it does.
pub struct Browser {
    protocol: Protocol,
    group: Group,
    session: String,
    record: Record,
    login: Option<Login>,
    /// The frame that is looked into; `None`: the page itself.
    frame: Option<String>,
    folder: PathBuf,
}

impl Browser {
    /// Starts Chromium with an empty profile and opens its tab.
    ///
    /// # Errors
    /// When a file in the folder cannot be written, or Chromium does not start; the message has its last words.
    pub fn start(spec: &Spec) -> anyhow::Result<Self> {
        fs_err::create_dir_all(&spec.folder)?;
        let profile = argv::profile(&spec.folder);
        if profile.exists() {
            fs_err::remove_dir_all(&profile)?;
        }
        let log = spec.folder.join("browser.log");
        let stderr = fs_err::File::create(&log)?.into_parts().0;
        let mut group = spec.vantage.spawn(&argv(spec), Stdio::piped(), Stdio::piped(), stderr.into())?;
        let (stdin, stdout) = (group.0.stdin.take(), group.0.stdout.take());
        let (stdin, stdout) = stdin.zip(stdout).context("a child with pipes has both")?;
        let mut protocol = Protocol::new(stdin, stdout, log);
        let deadline = Deadline::seconds(START);
        let target =
            protocol.call(None, "Target.createTarget", &json!({ "url": "about:blank" }), deadline)?;
        let attach = json!({ "targetId": text(&target, "targetId")?, "flatten": true });
        let attached = protocol.call(None, "Target.attachToTarget", &attach, deadline)?;
        let session = text(&attached, "sessionId")?;
        let mut browser = Self {
            protocol,
            group,
            session,
            record: Record::default(),
            login: None,
            frame: None,
            folder: spec.folder.clone(),
        };
        for domain in ["Page.enable", "Runtime.enable", "Network.enable", "Log.enable"] {
            browser.call(domain, &json!({}), deadline)?;
        }
        browser.call("Page.setLifecycleEventsEnabled", &json!({ "enabled": true }), deadline)?;
        // Every request stops until it is waved on, since only then are passwords asked for here.
        let all = json!({ "patterns": [{ "urlPattern": "*" }], "handleAuthRequests": true });
        browser.call("Fetch.enable", &all, deadline)?;
        Ok(browser)
    }

    /// What to answer when a server asks for basic authentication; `None`: nothing, so its refusal is shown.
    pub fn log_in_as(&mut self, login: Option<Login>) {
        self.login = login;
    }

    /// What the tab did since the start or the last [`Browser::forget`].
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Begins a new record.
    pub fn forget(&mut self) {
        self.record = Record::default();
    }

    /// The folder of screenshots and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends the browser in order and returns what it connected to, by its own log.
    ///
    /// # Errors
    /// When it does not end by itself, or its log cannot be read.
    pub fn close(mut self) -> anyhow::Result<NetLog> {
        let deadline = Deadline::seconds(START);
        self.protocol.call(None, "Browser.close", &json!({}), deadline)?;
        self.protocol.ended(deadline)?;
        self.group.0.wait()?;
        NetLog::load(&argv::net_log(&self.folder))
    }

    /// Calls a method of the tab's session and takes note of every event until the answer.
    fn call(&mut self, method: &str, params: &Value, deadline: Deadline) -> anyhow::Result<Value> {
        let id = self.protocol.send(Some(&self.session), method, params)?;
        loop {
            if let Some(answer) = self.protocol.answer(id) {
                return answer.map_err(|problem| anyhow::Error::new(problem).context(method.to_owned()));
            }
            self.event(method, deadline)?;
        }
    }

    /// Waits for the next message and takes note of it, if it is an event.
    fn event(&mut self, what: &str, deadline: Deadline) -> anyhow::Result<()> {
        let Some(event) = self.protocol.receive(what, deadline)? else { return Ok(()) };
        if event.session.as_deref() == Some(&self.session) {
            if let Some((method, params)) = reply(&event, self.login.as_ref()) {
                self.protocol.send(Some(&self.session), method, &params)?;
            }
            self.record.take(&event.method, &event.params);
        }
        Ok(())
    }
}

/// What an event that stops the page is answered with.
fn reply(event: &Event, login: Option<&Login>) -> Option<(&'static str, Value)> {
    let request = &event.params["requestId"];
    match event.method.as_str() {
        "Fetch.requestPaused" => Some(("Fetch.continueRequest", json!({ "requestId": request }))),
        "Fetch.authRequired" => {
            let answer = match login {
                Some(Login { user, password }) if !event.params["authChallenge"]["source"].eq("Proxy") => {
                    json!({ "response": "ProvideCredentials", "username": user, "password": password })
                }
                _ => json!({ "response": "CancelAuth" }),
            };
            let params = json!({ "requestId": request, "authChallengeResponse": answer });
            Some(("Fetch.continueWithAuth", params))
        }
        // "Do you really want to leave" and the like; what it said is in the record.
        "Page.javascriptDialogOpening" => Some(("Page.handleJavaScriptDialog", json!({ "accept": true }))),
        _ => None,
    }
}

/// A text field of an answer.
fn text(answer: &Value, field: &str) -> anyhow::Result<String> {
    let text = answer[field].as_str();
    Ok(text.with_context(|| format!("the browser's answer has no {field}: {answer}"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(method: &str, params: Value) -> Event {
        Event { session: None, method: method.to_owned(), params }
    }

    #[test]
    fn passwords_go_to_servers_that_ask_and_to_no_proxy() {
        let login = Login { user: "ada".into(), password: "secret".into() };
        let ask = |source: &str| {
            let params = json!({ "requestId": "1", "authChallenge": { "source": source } });
            event("Fetch.authRequired", params)
        };
        let given = |event: &Event, login: Option<&Login>| {
            let (_, params) = reply(event, login).unwrap();
            params["authChallengeResponse"]["response"].as_str().unwrap().to_owned()
        };
        assert_eq!(given(&ask("Server"), Some(&login)), "ProvideCredentials");
        assert_eq!(given(&ask("Proxy"), Some(&login)), "CancelAuth");
        assert_eq!(given(&ask("Server"), None), "CancelAuth");
    }

    #[test]
    fn nothing_else_is_answered() {
        let paused = event("Fetch.requestPaused", json!({ "requestId": "7" }));
        assert_eq!(reply(&paused, None), Some(("Fetch.continueRequest", json!({ "requestId": "7" }))));
        assert_eq!(reply(&event("Page.loadEventFired", json!({})), None), None);
    }
}
