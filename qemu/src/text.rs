//! Plain text out of what a terminal is sent.

use vte::{Params, Parser, Perform};

/// Turns a stream of terminal output into lines: escape sequences go, and so do carriage returns. A sequence
/// that moves the cursor to another line ends the current one, since what follows stands elsewhere on a screen.
#[derive(Default)]
pub(crate) struct PlainText {
    parser: Parser,
    sink: Sink,
}

impl PlainText {
    /// Takes the next bytes, however they are cut, and returns the text they make.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> String {
        self.parser.advance(&mut self.sink, bytes);
        std::mem::take(&mut self.sink.text)
    }
}

#[derive(Default)]
struct Sink {
    text: String,
    /// Whether the current line holds anything, including what was already taken away.
    started: bool,
}

impl Sink {
    fn end_line(&mut self) {
        self.text.push('\n');
        self.started = false;
    }
}

impl Perform for Sink {
    fn print(&mut self, c: char) {
        self.text.push(c);
        self.started = true;
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\t' => self.print('\t'),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, _: &Params, _: &[u8], _: bool, action: char) {
        if self.started && matches!(action, 'A' | 'B' | 'H' | 'J' | 'd' | 'f') {
            self.end_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_go_wherever_the_stream_is_cut() {
        let stream = b"\x1b[H\x1b[Jold\x1b[1;1Hcipolla: slot a\n\r\x1b[!p\x1b]104\x07\x1b[?7h[\x1b[0;32m OK \x1b[0m] d\xc3\xa9j\xc3\xa0\r\nvm login: ";
        let want = "old\ncipolla: slot a\n[ OK ] déjà\nvm login: ";
        assert_eq!(PlainText::default().feed(stream), want);
        let mut text = PlainText::default();
        let bytewise: String = stream.iter().map(|byte| text.feed(&[*byte])).collect();
        assert_eq!(bytewise, want);
    }
}
