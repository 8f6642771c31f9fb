//! A session of an owner with the webmail: a real browser, through Tor.
//!
//! What every reader and writer does is here; what a scenario wants to see beyond it, it does with the browser.
//! Everything is found by what the page shows. Never: a look into the webmail's own code or database.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;
use data_encoding::BASE64;
use qemu::Deadline;

use crate::browser::{Browser, Login, Spec};
use crate::site::{Account, DIALOGUE, Site};
use crate::vantage::Vantage;
use crate::world::World;

/// The page's size in pixels: a small laptop's.
const SIZE: (u32, u32) = (1280, 800);

/// The rows of the list of messages, in JavaScript.
const ROWS: &str = "[...document.querySelectorAll('#messagelist tr.message')]";

/// What downloads the first attachment of the message that is open. Resolves to its bytes in base64.
const ATTACHMENT: &str = "fetch(document.querySelector('#attachment-list a.filename').href + '&_download=1')
    .then(got => got.blob())
    .then(blob => new Promise((done, failed) => {
        const reader = new FileReader();
        reader.onload = () => done(reader.result.slice(reader.result.indexOf(',') + 1));
        reader.onerror = () => failed(reader.error);
        reader.readAsDataURL(blob);
    }))";

/// A page with all that belongs to it, on two emulated cores behind six relays.
pub(crate) fn soon() -> Deadline {
    Deadline::seconds(DIALOGUE)
}

/// A browser at the door of an appliance's webmail. It ends with this value.
pub(crate) struct Webmail {
    browser: Browser,
    /// `http://` and the client onion.
    origin: String,
    /// What is asked for at the door, before the webmail.
    login: Login,
}

impl Webmail {
    /// Starts a browser that knows the password of the door. `owner` is the name that goes with it: the first
    /// mailbox. `tree` is [`crate::Context::browser`]; screenshots and logs go to `folder`.
    pub(crate) fn open(
        world: &mut World,
        tree: &[OsString],
        folder: PathBuf,
        site: &Site,
        owner: &str,
    ) -> anyhow::Result<Self> {
        let proxy = world.client()?.tcp_socks(Deadline::seconds(30))?;
        let vantage = Vantage { namespace: world.lab().network(), tree: tree.to_vec() };
        let spec = Spec { vantage, folder, proxy: Some(proxy.into()), width: SIZE.0, height: SIZE.1 };
        let mut browser = Browser::start(&spec)?;
        let login = Login { user: owner.to_owned(), password: site.web.clone() };
        browser.log_in_as(Some(login.clone()));
        Ok(Self { browser, origin: format!("http://{}", site.client), login })
    }

    pub(crate) fn browser(&mut self) -> &mut Browser {
        &mut self.browser
    }

    /// The browser alone, to end it in order.
    pub(crate) fn into_browser(self) -> Browser {
        self.browser
    }

    /// `http://` and the client onion.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The address of a page.
    pub(crate) fn url(&self, query: &str) -> String {
        format!("{}/{query}", self.origin)
    }

    /// What is asked for at the door.
    pub(crate) fn login(&self) -> &Login {
        &self.login
    }

    /// Goes to a page.
    pub(crate) fn go(&mut self, query: &str) -> anyhow::Result<&mut Browser> {
        self.browser.look_into(None);
        let url = self.url(query);
        self.browser.navigate(&url, soon())?;
        Ok(&mut self.browser)
    }

    /// From the login page to the list of messages.
    pub(crate) fn log_in(&mut self, account: Account<'_>) -> anyhow::Result<()> {
        let browser = self.go("")?;
        // A check that failed may have left the session open.
        if browser.eval("!document.querySelector('#rcmloginuser')", soon())? {
            rest(browser)?;
            browser.click("#taskmenu a.logout", soon())?;
        }
        browser.type_into("#rcmloginuser", account.local, soon())?;
        browser.type_into("#rcmloginpwd", account.password, soon())?;
        browser.click("#rcmloginsubmit", soon())?;
        browser.wait_for("#messagelist", soon())?;
        rest(browser)
    }

    /// Leaves by the door.
    pub(crate) fn log_out(&mut self) -> anyhow::Result<()> {
        let browser = &mut self.browser;
        browser.look_into(None);
        rest(browser)?;
        browser.click("#taskmenu a.logout", soon())?;
        browser.wait_for("#rcmloginsubmit", soon())
    }

    /// Clicks on the message with this subject in the list, so that it shows beside the list. `text` is in it.
    pub(crate) fn look_at(&mut self, subject: &str, text: &str) -> anyhow::Result<()> {
        let browser = &mut self.browser;
        browser.wait_for_text(subject, soon())?;
        let row: String = browser.eval(&format!("{}.id", row(subject)?), soon())?;
        browser.click(&format!("[id={}] td.subject", serde_json::to_string(&row)?), soon())?;
        browser.look_into(Some("#messagecontframe"));
        browser.wait_for_text(text, soon())?;
        rest(browser)?;
        browser.look_into(None);
        Ok(())
    }

    /// Opens the message with this subject alone. `text` is in it.
    pub(crate) fn read(&mut self, subject: &str, text: &str) -> anyhow::Result<()> {
        let browser = &mut self.browser;
        let link: String =
            browser.eval(&format!("{}.querySelector('a[href*=_uid]').href", row(subject)?), soon())?;
        browser.navigate(&link, soon())?;
        browser.wait_for_text(text, soon())
    }

    /// Opens the folder of what was sent, from the list of another folder that has messages. A click is lost before
    /// that list is there: the webmail takes no command while it waits for an answer.
    pub(crate) fn open_sent(&mut self) -> anyhow::Result<()> {
        let browser = &mut self.browser;
        browser.wait_for("#messagelist tr.message", soon())?;
        rest(browser)?;
        browser.click("#mailboxlist li.sent a", soon())?;
        browser.wait_for("#mailboxlist li.sent.selected", soon())
    }

    /// The first attachment of the message that is open.
    pub(crate) fn attachment(&mut self) -> anyhow::Result<Vec<u8>> {
        let content: String = self.browser.eval(ATTACHMENT, soon())?;
        BASE64.decode(content.as_bytes()).context("decoding the attachment")
    }

    /// Sends what is being written and waits for the list of messages.
    pub(crate) fn send(&mut self) -> anyhow::Result<()> {
        self.browser.click("#compose-content button.send", soon())?;
        self.browser.wait_for("#messagelist", soon())?;
        rest(&mut self.browser)
    }

    /// Keeps what the page shows.
    pub(crate) fn picture(&mut self, name: &str) -> anyhow::Result<()> {
        rest(&mut self.browser)?;
        let file = self.browser.folder().join(name);
        self.browser.screenshot(&file, soon()).map(drop)
    }

    /// Adds to a failure where there is a picture of what the page showed then.
    pub(crate) fn witness(&mut self, error: anyhow::Error) -> anyhow::Error {
        let file = self.browser.folder().join("failed.png");
        match self.browser.screenshot(&file, Deadline::seconds(30)) {
            Ok(_) => error.context(format!("see {}", file.display())),
            // The first error is the one that counts.
            Err(_) => error,
        }
    }
}

/// The list's row with this subject, in JavaScript.
fn row(subject: &str) -> anyhow::Result<String> {
    Ok(format!("{ROWS}.find(row => row.innerText.includes({}))", serde_json::to_string(subject)?))
}

/// Waits until the page has all that belongs to it and says that it waits for nothing more. Before that its buttons
/// do nothing.
pub(crate) fn rest(browser: &mut Browser) -> anyhow::Result<()> {
    let condition = "document.readyState === 'complete' && !document.querySelector('#messagestack .loading')";
    browser.wait_until("the page to be at rest", condition, soon())
}
