//! What is wrong with settings, and where.

use std::fmt;
use std::ops::Range;

/// One problem at one place. Its text never quotes the value of a secret setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, counted from 1; 0 if the file as a whole is meant.
    pub line: usize,
    /// Column in characters, counted from 1; 0 if the file as a whole is meant.
    pub column: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem of the whole file.
    #[must_use]
    pub fn of_file(message: impl Into<String>) -> Self {
        Self { line: 0, column: 0, message: message.into() }
    }

    /// A problem at a byte offset of `text`.
    #[must_use]
    pub fn at(text: &str, span: &Range<usize>, message: impl Into<String>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        }
    }
}

/// All problems of one source of settings, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The name of the source, as the owner knows it.
    pub source: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Problem { line, column, message }) in self.problems.iter().enumerate() {
            let newline = if number == 0 { "" } else { "\n" };
            match line {
                0 => write!(f, "{newline}{}: {message}", self.source)?,
                _ => write!(f, "{newline}{}:{line}:{column}: {message}", self.source)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
