//! A text file that diagnostics point into, and places inside it.
//!
//! Holds text only; reading files is the business of [`crate::load()`]. A leading byte order mark is dropped
//! here, once, so that every span counts from the first real character.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Diagnostics};

/// A named text. Cloning is cheap: every diagnostic carries the source it points into.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    name: String,
    text: String,
}

impl Source {
    /// `name` is what a person would type to open the file; it is shown, never opened.
    #[must_use]
    pub fn new(name: impl Into<String>, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        Self(Arc::new(Inner { name: name.into(), text }))
    }

    /// Checks that `bytes` are UTF-8, which TOML requires.
    ///
    /// # Errors
    /// One finding with the line and the offset of the first offending byte.
    pub fn from_bytes(name: impl Into<String>, bytes: &[u8]) -> Result<Self, Diagnostics> {
        let name = name.into();
        match str::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(name, text)),
            Err(error) => {
                let offset = error.valid_up_to();
                let line = bytes[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1;
                let message =
                    format!("not UTF-8: byte 0x{:02x} at offset {offset}, in line {line}", bytes[offset]);
                Err(Diagnostic::error(message)
                    .in_file_line(name, line)
                    .help("TOML files are UTF-8: save the file again with that encoding")
                    .into())
            }
        }
    }

    /// The name shown in front of line and column.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The text, without byte order mark.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The place of a byte range. Bounds outside the text or inside a character are moved to the nearest
    /// sound ones, so that rendering cannot fail.
    #[must_use]
    pub fn spot(&self, span: Range<usize>) -> Spot {
        let text = self.text();
        let start = text.floor_char_boundary(span.start);
        let end = text.ceil_char_boundary(span.end.max(start));
        Spot { source: self.clone(), span: start..end }
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.name())
    }
}

/// A byte range in a [`Source`].
#[derive(Clone, Debug)]
pub struct Spot {
    pub(crate) source: Source,
    pub(crate) span: Range<usize>,
}

impl Spot {
    /// The source pointed into.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Byte range in [`Source::text`].
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Line and column of the start, both from 1; the column counts characters.
    #[must_use]
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.source.text()[..self.span.start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// A value and the place it was read from.
#[derive(Clone, Debug)]
pub struct Located<T> {
    pub(crate) value: T,
    pub(crate) spot: Spot,
}

impl<T> Located<T> {
    /// The value.
    pub const fn value(&self) -> &T {
        &self.value
    }

    /// Where it stands.
    pub const fn spot(&self) -> &Spot {
        &self.spot
    }
}
