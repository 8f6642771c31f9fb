//! What a person does with a page: go there, wait, click, type, look.
//!
//! A wait is a promise inside the page that looks again whenever the page changes; when the page goes away under it,
//! it is asked again in the next one. Nothing sleeps.

use std::path::Path;

use anyhow::{Context as _, bail};
use qemu::Deadline;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Browser;
use super::protocol::Problem;
use super::record::{Response, exception};

/// Resolves once `COND` holds in `PAGE`. Beside mutations, what ends an animation or a load can make something visible;
/// a frame that loads gets another document, which is then watched as well.
const PROMISE: &str = "new Promise(done => {
    const kinds = ['transitionend', 'animationend', 'load', 'input', 'change', 'scroll',
        'readystatechange'];
    const watched = new Set();
    const watch = page => {
        watched.add(page);
        watcher.observe(page, { subtree: true, childList: true, attributes: true, characterData: true });
        kinds.forEach(kind => page.addEventListener(kind, look, true));
    };
    const look = () => {
        const document = PAGE;
        if (document && !watched.has(document)) watch(document);
        if (!document || !(COND)) return;
        watcher.disconnect();
        watched.forEach(page => kinds.forEach(kind => page.removeEventListener(kind, look, true)));
        done(true);
    };
    const watcher = new MutationObserver(look);
    watch(window.document);
    look();
})";

/// The first visible element of `PAGE` for a selector, in the middle of the view, if a click would reach it: its
/// centre in the tab as `[x, y]`, else null.
const SPOT: &str = "(document => {
    const found = [...(document?.querySelectorAll(SELECTOR) ?? [])].find(one => one.checkVisibility());
    if (!found) return null;
    found.scrollIntoView({ block: 'center', inline: 'center', behavior: 'instant' });
    const box = found.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const hit = document.elementFromPoint(x, y);
    if (!hit || !found.contains(hit)) return null;
    const frame = document.defaultView.frameElement;
    const around = frame?.getBoundingClientRect() ?? { x: 0, y: 0 };
    return [x + around.x + (frame?.clientLeft ?? 0), y + around.y + (frame?.clientTop ?? 0)];
})(PAGE)";

/// How Chromium says that the page went away while something ran in it.
const GONE: [&str; 3] =
    ["Execution context was destroyed", "Inspected target navigated or closed", "Promise was collected"];

/// How it says that the next page is not there yet.
const NOT_YET: &str = "Cannot find default execution context";

impl Browser {
    /// Goes to a URL, waits until it has loaded with all that belongs to it, and returns the answer's head: that of
    /// the last request when there were redirections.
    ///
    /// # Errors
    /// When the server cannot be reached, its certificate is not trusted, or the page has not loaded in time.
    pub fn navigate(&mut self, url: &str, deadline: Deadline) -> anyhow::Result<Response> {
        let gone = self.call("Page.navigate", &json!({ "url": url }), deadline)?;
        if let Some(problem) = gone["errorText"].as_str() {
            bail!("navigating to {url}: {problem}");
        }
        let loader = gone["loaderId"].as_str();
        let loader = loader.with_context(|| format!("{url} is another place of the same page"))?.to_owned();
        while self.record.loaded.as_deref() != Some(&loader) {
            self.event(&format!("loading {url}"), deadline)?;
        }
        let document = self.record.document(&loader).and_then(|request| request.response.clone());
        document.with_context(|| format!("nothing is known of the answer to {url}"))
    }

    /// Goes on inside a frame of the page, of the same origin, or with `None` in the page itself: what is waited for,
    /// clicked and typed into is there. Another page has to be looked at from the outside first.
    pub fn look_into(&mut self, frame: Option<&str>) {
        self.frame = frame.map(str::to_owned);
    }

    /// The document that is looked at, in JavaScript.
    fn page(&self) -> String {
        match &self.frame {
            Some(frame) => {
                format!("window.document.querySelector({})?.contentDocument", Value::from(frame.as_str()))
            }
            None => "window.document".to_owned(),
        }
    }

    /// The value of a JavaScript expression, awaited if it is a promise.
    ///
    /// # Errors
    /// When it throws, does not settle in time, or has another shape than `T`.
    pub fn eval<T: DeserializeOwned>(&mut self, expression: &str, deadline: Deadline) -> anyhow::Result<T> {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", &params, deadline)?;
        if answer["exceptionDetails"].is_object() {
            bail!("evaluating `{expression}`: {}", exception(&answer["exceptionDetails"]));
        }
        serde_json::from_value(answer["result"]["value"].clone())
            .with_context(|| format!("the value of `{expression}`"))
    }

    /// Waits until a JavaScript condition holds, across pages. `what` completes "waiting for".
    ///
    /// # Errors
    /// When it throws, or does not hold in time; the message tells what the page shows instead.
    pub fn wait_until(&mut self, what: &str, condition: &str, deadline: Deadline) -> anyhow::Result<()> {
        let promise = PROMISE.replace("PAGE", &self.page()).replace("COND", condition);
        loop {
            let Err(error) = self.eval::<serde::de::IgnoredAny>(&promise, deadline) else { return Ok(()) };
            let problem = error.downcast_ref::<Problem>().map(|problem| problem.message.clone());
            match problem {
                Some(message) if GONE.iter().any(|gone| message.contains(gone)) => {}
                Some(message) if message.contains(NOT_YET) => self.event(what, deadline)?,
                _ => {
                    let shown = self.shown();
                    return Err(error.context(format!("waiting for {what}, while the page shows {shown}")));
                }
            }
        }
    }

    /// Waits until an element for this selector is visible.
    ///
    /// # Errors
    /// As [`Browser::wait_until`].
    pub fn wait_for(&mut self, selector: &str, deadline: Deadline) -> anyhow::Result<()> {
        let all = format!("document.querySelectorAll({})", Value::from(selector));
        self.wait_until(selector, &format!("[...{all}].some(one => one.checkVisibility())"), deadline)
    }

    /// Waits until the page shows this text.
    ///
    /// # Errors
    /// As [`Browser::wait_until`].
    pub fn wait_for_text(&mut self, text: &str, deadline: Deadline) -> anyhow::Result<()> {
        let condition = format!("document.body?.innerText.includes({})", Value::from(text));
        self.wait_until(&format!("the text {text:?}"), &condition, deadline)
    }

    /// Clicks in the middle of the first visible element for this selector, once it is there and uncovered.
    ///
    /// # Errors
    /// As [`Browser::wait_until`].
    pub fn click(&mut self, selector: &str, deadline: Deadline) -> anyhow::Result<()> {
        let spot = SPOT.replace("PAGE", &self.page()).replace("SELECTOR", &Value::from(selector).to_string());
        self.wait_until(&format!("{selector} to be clickable"), &spot, deadline)?;
        let [x, y]: [f64; 2] = self.eval(&spot, deadline)?;
        for (kind, button, count) in
            [("mouseMoved", "none", 0), ("mousePressed", "left", 1), ("mouseReleased", "left", 1)]
        {
            let params = json!({ "type": kind, "x": x, "y": y, "button": button, "clickCount": count });
            self.call("Input.dispatchMouseEvent", &params, deadline)?;
        }
        Ok(())
    }

    /// Clicks into a field and replaces what is in it.
    ///
    /// # Errors
    /// As [`Browser::wait_until`].
    pub fn type_into(&mut self, selector: &str, text: &str, deadline: Deadline) -> anyhow::Result<()> {
        self.click(selector, deadline)?;
        let select = format!("({})?.activeElement?.select?.()", self.page());
        self.eval::<Value>(&select, deadline)?;
        self.call("Input.insertText", &json!({ "text": text }), deadline)?;
        Ok(())
    }

    /// Presses Enter where the cursor is.
    ///
    /// # Errors
    /// When the browser does not answer in time.
    pub fn press_enter(&mut self, deadline: Deadline) -> anyhow::Result<()> {
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { "\r" } else { "" };
            let key = json!({ "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": text });
            self.call("Input.dispatchKeyEvent", &key, deadline)?;
        }
        Ok(())
    }

    /// Lets pages believe that they are read in another time zone, by its name in the IANA database.
    ///
    /// # Errors
    /// When there is no such zone.
    pub fn move_to_zone(&mut self, name: &str, deadline: Deadline) -> anyhow::Result<()> {
        self.call("Emulation.setTimezoneOverride", &json!({ "timezoneId": name }), deadline)?;
        Ok(())
    }

    /// Writes what is visible as PNG and returns its width and height.
    ///
    /// # Errors
    /// When the picture is not made in time or cannot be written.
    pub fn screenshot(&mut self, file: &Path, deadline: Deadline) -> anyhow::Result<(u32, u32)> {
        let answer = self.call("Page.captureScreenshot", &json!({ "format": "png" }), deadline)?;
        let data = super::text(&answer, "data")?;
        let bytes = data_encoding::BASE64.decode(data.as_bytes()).context("decoding the screenshot")?;
        fs_err::write(file, &bytes)?;
        png_size(&bytes).context("the screenshot is no PNG")
    }

    /// Where the tab is and the first words it shows, for a failure.
    fn shown(&mut self) -> String {
        let words = "location.href + ' ' + JSON.stringify(document.title + ': ' + \
                     (document.body?.innerText ?? '').replace(/\\s+/g, ' ').slice(0, 300))";
        self.eval(words, Deadline::seconds(5)).unwrap_or_else(|_| "nothing".to_owned())
    }
}

/// Width and height of a PNG file (RFC 2083, section 3.2 and 4.1.1).
#[must_use]
pub fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    let header = rest.get(4..)?.strip_prefix(b"IHDR")?;
    let number = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    Some((number(0)?, number(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_pictures() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x03\x20\0\0\x02\x58\x08";
        assert_eq!(png_size(png), Some((800, 600)));
        assert_eq!(png_size(&png[..20]), None);
        assert_eq!(png_size(b"GIF89a"), None);
    }
}
