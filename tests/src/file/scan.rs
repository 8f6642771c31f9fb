//! Looks for needles in streams of any length.

use std::io::Read;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

/// A needle at a place, with what follows it.
pub(super) struct Hit<'a> {
    /// Which of the needles.
    pub(super) needle: usize,
    /// Byte of the stream.
    pub(super) at: u64,
    /// From the needle on, as many bytes as were asked for, unless the stream ends before.
    pub(super) bytes: &'a [u8],
}

/// Finds several needles in one pass. Of needles that overlap, one is told.
pub(super) struct Finder {
    automaton: AhoCorasick,
    look_ahead: usize,
}

impl Finder {
    /// For these needles; `look_ahead` bytes from a needle's start on are shown with each hit.
    pub(super) fn new(needles: &[impl AsRef<[u8]>], look_ahead: usize) -> anyhow::Result<Self> {
        let longest = needles.iter().map(|needle| needle.as_ref().len()).max().unwrap_or(0);
        // The large kind is the fast one; looking for first bytes first is slow in random data.

        let automaton =
            AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).prefilter(false).build(needles)?;
        Ok(Self { automaton, look_ahead: look_ahead.max(longest) })
    }

    /// Reads to the end and tells `each` of every hit, in order, once.
    pub(super) fn scan(&self, stream: impl Read, each: impl FnMut(Hit<'_>)) -> anyhow::Result<()> {
        self.scan_in_blocks(stream, 1 << 20, each)
    }

    fn scan_in_blocks(
        &self,
        mut stream: impl Read,
        block: u64,
        mut each: impl FnMut(Hit<'_>),
    ) -> anyhow::Result<()> {
        let mut window = Vec::new();
        // Where the window begins in the stream.
        let mut base = 0;
        loop {
            let read = stream.by_ref().take(block).read_to_end(&mut window)?;
            // A hit is told once everything that it shows has been read.
            let judged = if read == 0 { window.len() } else { window.len().saturating_sub(self.look_ahead) };
            // Most of an image is zeros, and no needle is.
            if window.iter().any(|byte| *byte != 0) {
                for found in self.automaton.find_iter(&window) {
                    let at = found.start();
                    if at < judged {
                        let end = window.len().min(at + self.look_ahead);
                        let needle = found.pattern().as_usize();
                        each(Hit { needle, at: base + at as u64, bytes: &window[at..end] });
                    }
                }
            }
            if read == 0 {
                return Ok(());
            }
            window.drain(..judged);
            base += judged as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hit_once_however_the_stream_is_cut() {
        let text = b"\0\0\0abc..abcabc.....xy";
        for block in 1..30 {
            let mut hits = Vec::new();
            let finder = Finder::new(&["abc", "xy"], 4).unwrap();
            finder
                .scan_in_blocks(text.as_slice(), block, |hit| {
                    hits.push((hit.at, hit.needle, String::from_utf8_lossy(hit.bytes).into_owned()));
                })
                .unwrap();
            let want = [(3, 0, "abc."), (8, 0, "abca"), (11, 0, "abc."), (19, 1, "xy")];
            assert_eq!(hits, want.map(|(at, needle, bytes)| (at, needle, bytes.to_owned())), "block {block}");
        }
    }
}
