//! The Chrome `DevTools` Protocol over two pipes: JSON messages, each ended by a NUL byte.
//!
//! Source: <https://chromedevtools.github.io/devtools-protocol/> and the help of `--remote-debugging-pipe`. Knows
//! nothing of pages: methods and parameters pass through.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use anyhow::{Context as _, bail};
use qemu::Deadline;
use serde::Deserialize;
use serde_json::{Value, json};

/// What the browser answered instead of a result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Problem {
    /// JSON-RPC's number.
    pub(super) code: i64,
    /// Chromium's sentence.
    pub(super) message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the browser said: {} ({})", self.message, self.code)
    }
}

impl std::error::Error for Problem {}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// The session (tab) it belongs to; `None`: the browser.
    pub(super) session: Option<String>,
    /// Its name.
    pub(super) method: String,
    /// Its data.
    pub(super) params: Value,
}

/// A message as it comes. The protocol grows with every release, so unknown fields are no error.
#[derive(Debug, Deserialize)]
struct Message {
    id: Option<u64>,
    result: Option<Value>,
    error: Option<Problem>,
    #[serde(rename = "sessionId")]
    session: Option<String>,
    method: Option<String>,
    params: Option<Value>,
}

/// Both ends of the conversation.
pub(super) struct Protocol {
    to_browser: Box<dyn Write>,
    incoming: Receiver<anyhow::Result<Message>>,
    answers: BTreeMap<u64, Result<Value, Problem>>,
    last_id: u64,
    log: PathBuf,
}

impl Protocol {
    /// Takes over the pipes. `log` is what the browser writes to stderr, quoted when it ends early.
    pub(super) fn new(
        to_browser: impl Write + 'static,
        from_browser: impl Read + Send + 'static,
        log: PathBuf,
    ) -> Self {
        let (sender, incoming) = channel();
        std::thread::spawn(move || read(from_browser, &sender));
        Self { to_browser: Box::new(to_browser), incoming, answers: BTreeMap::new(), last_id: 0, log }
    }

    /// Sends a call and returns its number.
    pub(super) fn send(
        &mut self,
        session: Option<&str>,
        method: &str,
        params: &Value,
    ) -> anyhow::Result<u64> {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        let sent = self.to_browser.write_all(&bytes).and_then(|()| self.to_browser.flush());
        sent.with_context(|| format!("telling the browser {method}: {}", self.last_words()))?;
        Ok(self.last_id)
    }

    /// The answer to a call, if it has come.
    pub(super) fn answer(&mut self, id: u64) -> Option<Result<Value, Problem>> {
        self.answers.remove(&id)
    }

    /// Waits for the next message: an event, or `None` for an answer, which [`Protocol::answer`] then has.
    pub(super) fn receive(&mut self, what: &str, deadline: Deadline) -> anyhow::Result<Option<Event>> {
        let message = match self.incoming.recv_timeout(deadline.left().unwrap_or_default()) {
            Ok(message) => message?,
            Err(RecvTimeoutError::Timeout) => {
                bail!("the browser has not done {what} after {} s", deadline.waited().as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the browser ended during {what}: {}", self.last_words())
            }
        };
        if let Some(id) = message.id {
            let result = message.error.map_or_else(|| Ok(message.result.unwrap_or_default()), Err);
            self.answers.insert(id, result);
            return Ok(None);
        }
        let method = message.method.context("a message of the browser is neither answer nor event")?;
        let params = message.params.unwrap_or_default();
        Ok(Some(Event { session: message.session, method, params }))
    }

    /// Sends a call and waits for its answer; events are lost meanwhile.
    pub(super) fn call(
        &mut self,
        session: Option<&str>,
        method: &str,
        params: &Value,
        deadline: Deadline,
    ) -> anyhow::Result<Value> {
        let id = self.send(session, method, params)?;
        loop {
            if let Some(answer) = self.answer(id) {
                return answer.with_context(|| method.to_owned());
            }
            self.receive(method, deadline)?;
        }
    }

    /// Waits until the browser has closed its end.
    pub(super) fn ended(&mut self, deadline: Deadline) -> anyhow::Result<()> {
        loop {
            match self.incoming.recv_timeout(deadline.left().unwrap_or_default()) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the browser has not ended after {} s", deadline.waited().as_secs())
                }
            }
        }
    }

    /// The end of what the browser wrote to stderr.
    fn last_words(&self) -> String {
        let text = fs_err::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

/// Reads messages until the browser closes its end, or nobody listens.
fn read(pipe: impl Read, sender: &Sender<anyhow::Result<Message>>) {
    let mut pipe = BufReader::new(pipe);
    loop {
        let mut bytes = Vec::new();
        match pipe.read_until(0, &mut bytes) {
            // What has no NUL was cut off by the browser's end.
            Ok(_) if bytes.pop() == Some(0) => {
                let message = serde_json::from_slice(&bytes).context("reading a message of the browser");
                if sender.send(message).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(said: &'static str) -> Protocol {
        let log = PathBuf::from("/nowhere/browser.log");
        Protocol::new(Vec::new(), said.as_bytes(), log)
    }

    #[test]
    fn answers_find_their_call_and_events_pass_by() {
        let mut protocol = protocol(
            "{\"method\":\"A.b\",\"params\":{\"x\":1},\"sessionId\":\"s\"}\0{\"id\":1,\"result\":{\"y\":2}}\0",
        );
        let id = protocol.send(None, "C.d", &json!({})).unwrap();
        let event = protocol.receive("C.d", Deadline::seconds(20)).unwrap().unwrap();
        assert_eq!((event.method.as_str(), event.session.as_deref()), ("A.b", Some("s")));
        assert_eq!(protocol.answer(id), None);
        assert_eq!(protocol.receive("C.d", Deadline::seconds(20)).unwrap(), None);
        assert_eq!(protocol.answer(id).unwrap().unwrap(), json!({ "y": 2 }));
    }

    #[test]
    fn an_error_names_the_method() {
        let mut protocol = protocol("{\"id\":1,\"error\":{\"code\":-32601,\"message\":\"wasn't found\"}}\0");
        let error = protocol.call(None, "C.d", &json!({}), Deadline::seconds(20)).unwrap_err();
        assert_eq!(format!("{error:#}"), "C.d: the browser said: wasn't found (-32601)");
    }

    #[test]
    fn an_early_end_is_an_error() {
        let mut protocol = protocol("{\"id\":9,\"res");
        let error = protocol.call(None, "C.d", &json!({}), Deadline::seconds(20)).unwrap_err();
        assert!(error.to_string().starts_with("the browser ended during C.d"), "{error}");
    }
}
