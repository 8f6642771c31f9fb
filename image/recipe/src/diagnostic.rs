//! What is wrong, where, and how to mend it, as text a person reads on a terminal.
//!
//! A [`Diagnostic`] carries the source it points into, so it can be rendered anywhere. Colours appear only
//! when asked for ([`Style::Coloured`]); whether the output is a terminal is the caller's knowledge.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::source::Spot;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing can be built.
    Error,
    /// A build is possible, but the owner of the recipe should know.
    Warning,
}

/// Plain text or terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No escape codes.
    Plain,
    /// ANSI escape codes.
    Coloured,
}

#[derive(Clone, Debug)]
enum Place {
    Nowhere,
    File { name: String, line: Option<usize> },
    Spot { spot: Spot, label: Option<String> },
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    place: Place,
    related: Vec<(Spot, String)>,
    notes: Vec<String>,
    helps: Vec<String>,
}

impl Diagnostic {
    /// A finding that stops the build. `message` is lower case, names the thing and ends without a full stop.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into())
    }

    /// A finding that does not stop the build.
    #[must_use]
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into())
    }

    fn new(severity: Severity, message: String) -> Self {
        Self { severity, message, place: Place::Nowhere, related: vec![], notes: vec![], helps: vec![] }
    }

    /// Underlines `spot`, with `label` under it.
    #[must_use]
    pub fn at(mut self, spot: Spot, label: impl Into<String>) -> Self {
        let label = label.into();
        self.place = Place::Spot { spot, label: (!label.is_empty()).then_some(label) };
        self
    }

    /// Names a file whose text is not shown: unreadable, binary, or secret.
    #[must_use]
    pub fn in_file(mut self, name: impl Into<String>) -> Self {
        self.place = Place::File { name: name.into(), line: None };
        self
    }

    /// Like [`Self::in_file`], with a line counted from 1.
    #[must_use]
    pub fn in_file_line(mut self, name: impl Into<String>, line: usize) -> Self {
        self.place = Place::File { name: name.into(), line: Some(line) };
        self
    }

    /// Underlines a second place that plays a part.
    #[must_use]
    pub fn also(mut self, spot: Spot, label: impl Into<String>) -> Self {
        self.related.push((spot, label.into()));
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Adds a way to mend it.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.helps.push(text.into());
        self
    }

    /// How much it matters.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.severity
    }

    /// The headline.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The underlined place, if the finding has one.
    #[must_use]
    pub const fn spot(&self) -> Option<&Spot> {
        match &self.place {
            Place::Spot { spot, .. } => Some(spot),
            Place::Nowhere | Place::File { .. } => None,
        }
    }

    fn group(&self) -> Group<'_> {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&self.message);
        let mut group = match &self.place {
            Place::Nowhere => Group::with_title(title),
            Place::File { name, line } => {
                let origin = Origin::path(name);
                title.element(match line {
                    Some(line) => origin.line(*line),
                    None => origin,
                })
            }
            Place::Spot { spot, label } => {
                let primary = AnnotationKind::Primary.span(spot.span()).label(label.as_deref());
                let near = self.related.iter().filter(|(other, _)| other.source.same(&spot.source));
                title.element(
                    Snippet::source(spot.source.text())
                        .path(spot.source.name())
                        .annotation(primary)
                        .annotations(near.map(|(spot, label)| context(spot, label))),
                )
            }
        };
        for (spot, label) in &self.related {
            if !self.spot().is_some_and(|main| main.source.same(&spot.source)) {
                let snippet = Snippet::source(spot.source.text()).path(spot.source.name());
                group = group.element(snippet.annotation(context(spot, label)));
            }
        }
        group
            .elements(self.notes.iter().map(|note| Level::NOTE.message(note)))
            .elements(self.helps.iter().map(|help| Level::HELP.message(help)))
    }
}

fn context<'a>(spot: &'a Spot, label: &'a str) -> annotate_snippets::Annotation<'a> {
    AnnotationKind::Context.span(spot.span()).label(label)
}

/// All findings of one run, in the order of the text they point into.
///
/// Also the error type of everything here that can fail: `Display` renders it plain.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// No findings yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { list: vec![] }
    }

    /// Adds one finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds all findings of another collection, after those that are here.
    pub fn append(&mut self, other: Self) {
        self.list.extend(other.list);
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether something stops the build.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// The findings.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// Orders findings by the place they point at, file by file in the order in which files were first named.
    pub(crate) fn sort(&mut self) {
        let mut sources: Vec<crate::source::Source> = vec![];
        let keys: Vec<(usize, usize)> = (self.list.iter())
            .map(|diagnostic| match diagnostic.spot() {
                None => (usize::MAX, 0),
                Some(spot) => {
                    let known = sources.iter().position(|source| source.same(&spot.source));
                    let index = known.unwrap_or_else(|| {
                        sources.push(spot.source.clone());
                        sources.len() - 1
                    });
                    (index, spot.span.start)
                }
            })
            .collect();
        let mut keyed: Vec<_> = keys.into_iter().zip(std::mem::take(&mut self.list)).collect();
        keyed.sort_by_key(|(key, _)| *key);
        self.list = keyed.into_iter().map(|(_, diagnostic)| diagnostic).collect();
    }

    /// `value` if nothing stops the build, else all findings, sorted.
    pub(crate) fn or<T>(mut self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if !self.has_errors() => Ok(value),
            _ => {
                self.sort();
                Err(self)
            }
        }
    }

    /// The report: every finding with its source line, and a count at the end. Ends with a line break.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        if self.is_empty() {
            return String::new();
        }
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        let mut report = String::new();
        for diagnostic in &self.list {
            report.push_str(&renderer.render(&[diagnostic.group()]));
            report.push_str("\n\n");
        }
        report.push_str(&self.summary());
        report.push('\n');
        report
    }

    fn summary(&self) -> String {
        let many = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        match (self.count(Severity::Error), self.count(Severity::Warning)) {
            (errors, 0) => many(errors, "error"),
            (0, warnings) => many(warnings, "warning"),
            (errors, warnings) => format!("{}, {}", many(errors, "error"), many(warnings, "warning")),
        }
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, findings: I) {
        self.list.extend(findings);
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { list: vec![diagnostic] }
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Style::Plain).trim_end())
    }
}

impl std::error::Error for Diagnostics {}
