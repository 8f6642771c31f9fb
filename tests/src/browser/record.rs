//! What a tab asked the network for and what it complained about: a fold over the browser's events, without I/O.

use std::collections::BTreeMap;

use serde_json::Value;

/// One request that a page made, or tried to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    id: String,
    /// What was asked for.
    pub url: String,
    /// HTTP method.
    pub method: String,
    /// Chromium's word for what it is for: `Document`, `Script`, `Image`, `XHR` …
    pub kind: String,
    /// The answer, once there is one.
    pub response: Option<Response>,
    /// Why there is none: `net::ERR_…`, or `csp` when the page's own policy forbade it.
    pub failure: Option<String>,
}

/// An answer's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Header fields; names in lower case, repeated fields joined by a line feed.
    pub headers: BTreeMap<String, String>,
}

/// Everything noted about a tab.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// In the order in which they were made; a redirection makes a request of its own.
    pub requests: Vec<Request>,
    /// Errors on the console, exceptions nobody caught, what Chromium itself said against the page, and dialogs.
    pub complaints: Vec<String>,
    /// The document that has finished loading last, by Chromium's loader id.
    pub(super) loaded: Option<String>,
}

impl Record {
    /// Notes an event; those that say nothing about network or console are passed over.
    pub(super) fn take(&mut self, event: &str, params: &Value) {
        let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = params["requestId"].as_str().unwrap_or_default();
        match event {
            "Network.requestWillBeSent" => {
                if params["redirectResponse"].is_object() {
                    let answer = response(&params["redirectResponse"]);
                    self.answered(id, answer);
                }
                self.requests.push(Request {
                    id: id.to_owned(),
                    url: string(&params["request"]["url"]),
                    method: string(&params["request"]["method"]),
                    kind: string(&params["type"]),
                    response: None,
                    failure: None,
                });
            }
            "Network.responseReceived" => self.answered(id, response(&params["response"])),
            "Network.loadingFailed" => {
                let blocked = params["blockedReason"].as_str();
                let why = blocked.map_or_else(|| string(&params["errorText"]), str::to_owned);
                if let Some(request) = self.find(id) {
                    request.failure = Some(why);
                }
            }
            "Page.lifecycleEvent" if params["name"] == "load" => {
                self.loaded = params["loaderId"].as_str().map(str::to_owned);
            }
            "Page.javascriptDialogOpening" => {
                self.complaints.push(format!("dialog: {}", string(&params["message"])));
            }
            "Runtime.consoleAPICalled" if matches!(params["type"].as_str(), Some("error" | "assert")) => {
                let words = params["args"].as_array().into_iter().flatten().map(spoken);
                self.complaints.push(format!("console: {}", words.collect::<Vec<_>>().join(" ")));
            }
            "Runtime.exceptionThrown" => {
                self.complaints.push(format!("exception: {}", exception(&params["exceptionDetails"])));
            }
            "Log.entryAdded" if params["entry"]["level"] == "error" => {
                let entry = &params["entry"];
                let place = entry["url"].as_str().map_or(String::new(), |url| format!(" ({url})"));
                self.complaints.push(format!(
                    "{}: {}{place}",
                    string(&entry["source"]),
                    string(&entry["text"])
                ));
            }
            _ => {}
        }
    }

    /// The last request with this id: the end of a chain of redirections.
    fn find(&mut self, id: &str) -> Option<&mut Request> {
        self.requests.iter_mut().rev().find(|request| request.id == id)
    }

    fn answered(&mut self, id: &str, response: Response) {
        if let Some(request) = self.find(id) {
            request.response = Some(response);
        }
    }

    /// The main document of a loader: what its chain of redirections ended with.
    pub(super) fn document(&self, loader: &str) -> Option<&Request> {
        self.requests.iter().rev().find(|request| request.id == loader)
    }

    /// Requests that leave `origin`, such as `http://abc.onion`. What a page carries in itself (`data:`, `blob:`,
    /// `about:`) is no request.
    #[must_use]
    pub fn elsewhere(&self, origin: &str) -> Vec<&Request> {
        let at_home = |url: &str| {
            url.strip_prefix(origin).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
        };
        let inside = |url: &str| ["data:", "blob:", "about:"].iter().any(|scheme| url.starts_with(scheme));
        self.requests.iter().filter(|request| !at_home(&request.url) && !inside(&request.url)).collect()
    }
}

fn response(value: &Value) -> Response {
    let status = value["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or_default();
    let fields = value["headers"].as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Response { status, headers: fields.map(|(name, value)| (name.to_lowercase(), text(value))).collect() }
}

/// A console argument in a word.
fn spoken(argument: &Value) -> String {
    match (&argument["value"], argument["description"].as_str()) {
        (Value::String(text), _) => text.clone(),
        (Value::Null, Some(description)) => description.to_owned(),
        (value, _) => value.to_string(),
    }
}

/// An exception in a line.
pub(super) fn exception(details: &Value) -> String {
    let text = details["exception"]["description"].as_str().or(details["text"].as_str());
    text.unwrap_or("without words").lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sent(id: &str, url: &str) -> (&'static str, Value) {
        let request = json!({ "url": url, "method": "GET" });
        ("Network.requestWillBeSent", json!({ "requestId": id, "request": request, "type": "Document" }))
    }

    fn record(events: &[(&str, Value)]) -> Record {
        let mut record = Record::default();
        for (event, params) in events {
            record.take(event, params);
        }
        record
    }

    #[test]
    fn a_redirection_is_two_requests() {
        let mut second = sent("1", "http://a/new");
        second.1["redirectResponse"] = json!({ "status": 302, "headers": { "Location": "/new" } });
        let answer = json!({ "requestId": "1", "response": { "status": 200, "headers": {} } });
        let record = record(&[sent("1", "http://a/"), second, ("Network.responseReceived", answer)]);
        let status = |at: usize| record.requests[at].response.as_ref().unwrap().status;
        assert_eq!((status(0), status(1)), (302, 200));
        assert_eq!(record.requests[0].response.as_ref().unwrap().headers["location"], "/new");
        assert_eq!(record.document("1").unwrap().url, "http://a/new");
    }

    #[test]
    fn elsewhere_knows_look_alikes_and_blocked_ones() {
        let blocked = json!({ "requestId": "3", "errorText": "", "blockedReason": "csp" });
        let record = record(&[
            sent("1", "http://a.onion/x"),
            sent("2", "data:image/png;base64,"),
            sent("3", "http://a.onion.example/x"),
            ("Network.loadingFailed", blocked),
            sent("4", "http://a.onion"),
        ]);
        let found = record.elsewhere("http://a.onion");
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].url.as_str(), found[0].failure.as_deref()),
            ("http://a.onion.example/x", Some("csp"))
        );
    }

    #[test]
    fn complaints_say_where_they_come_from() {
        let record = record(&[
            (
                "Runtime.consoleAPICalled",
                json!({ "type": "error", "args": [{ "value": "no" }, { "value": 3 }] }),
            ),
            ("Runtime.consoleAPICalled", json!({ "type": "log", "args": [{ "value": "fine" }] })),
            ("Log.entryAdded", json!({ "entry": { "level": "error", "source": "security", "text": "csp" } })),
            (
                "Runtime.exceptionThrown",
                json!({ "exceptionDetails": { "text": "Uncaught", "exception": { "description": "Error: x\n at" } } }),
            ),
        ]);
        assert_eq!(record.complaints, ["console: no 3", "security: csp", "exception: Error: x"]);
    }
}
