//! Walks a parsed TOML table and collects everything that is wrong with it.
//!
//! A key is asked for once, by name; what nobody asked for is unknown. A problem with one value never keeps
//! the others from being looked at.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;

/// Problems with their places, shared by the readers of all sections.
pub(super) type Found = Rc<RefCell<Vec<(Range<usize>, String)>>>;

/// One section of the file.
pub(super) struct Reader<'t> {
    /// The section's name as written between brackets; empty for the top.
    name: String,
    table: Option<&'t DeTable<'t>>,
    asked: Vec<&'static str>,
    found: Found,
}

impl<'t> Reader<'t> {
    pub(super) fn new(table: &'t DeTable<'t>, found: Found) -> Self {
        Self { name: String::new(), table: Some(table), asked: Vec::new(), found }
    }

    fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.asked.push(key);
        self.table?.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// A section below this one. A section that is not there reads as empty.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let value = self.get(key);
        let table = value.and_then(|v| v.get_ref().as_table());
        let name = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        if let (Some(value), None) = (value, table) {
            self.problem(value.span(), format!("`{name}` is a section: write it as [{name}]"));
        }
        Self { name, table, asked: Vec::new(), found: Rc::clone(&self.found) }
    }

    /// Whether the section is in the file.
    pub(super) fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the section has this key, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key))
    }

    /// A value, converted; `None` if it is not there or wrong.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.get(key)?;
        convert(value.get_ref())
            .map_err(|message| self.problem(value.span(), format!("`{key}`: {message}")))
            .ok()
    }

    /// A text, converted.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.value(key, |value| as_text(value).and_then(&convert))
    }

    /// A list of texts, each converted; every wrong one is reported.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        self.list(key, |value| as_text(value).and_then(&convert))
    }

    /// A list, each item converted; every wrong one is reported.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = self.get(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.problem(value.span(), format!("`{key}` is a list: put its items into [ and ]"));
            return None;
        };
        let mut converted = Vec::new();
        for item in items {
            match convert(item.get_ref()) {
                Ok(item) => converted.push(item),
                Err(message) => self.problem(item.span(), format!("`{key}`: {message}")),
            }
        }
        Some(converted)
    }

    /// All entries of a section whose keys are the owner's own words. Each key, and each text with its key, is
    /// converted; every wrong one is reported, and so is a key that says the same as an earlier one.
    pub(super) fn entries<K: Ord, T>(
        self,
        key: impl Fn(&str) -> Result<K, String>,
        text: impl Fn(&str, &str) -> Result<T, String>,
    ) -> Option<BTreeMap<K, T>> {
        let table = self.table?;
        let mut entries = BTreeMap::new();
        // A table is in the order of its names; the first of two is that of the file.
        let mut lines: Vec<_> = table.iter().collect();
        lines.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in lines {
            // `abc.onion = "…"` is a section `abc` to TOML.
            if value.get_ref().is_table() {
                let hint = "put the whole name before = into \"quotes\", as it has a dot";
                self.problem(name.span(), format!("`{}`: {hint}", name.get_ref()));
                continue;
            }
            let said = |message: String| format!("`{}`: {message}", name.get_ref());
            let converted_key =
                key(name.get_ref()).map_err(|message| self.problem(name.span(), said(message))).ok();
            let converted = as_text(value.get_ref()).and_then(|value| text(name.get_ref(), value));
            let converted = converted.map_err(|message| self.problem(value.span(), said(message))).ok();
            if let Some(new) = converted_key
                && entries.insert(new, converted).is_some()
            {
                self.problem(name.span(), said("the section has this already".to_owned()));
            }
        }
        Some(entries.into_iter().filter_map(|(key, text)| Some((key, text?))).collect())
    }

    /// Reports a problem with a key of this section, at the key's value or, if it is absent, at its start.
    pub(super) fn problem_with(&self, key: &str, message: &str) {
        let value = self.table.and_then(|t| t.iter().find(|(name, _)| name.get_ref() == key));
        let first = || self.table.and_then(|t| t.iter().next());
        let span = value.or_else(first).map_or(0..0, |(_, value)| value.span());
        self.problem(span, format!("`{key}`: {message}"));
    }

    fn problem(&self, span: Range<usize>, message: String) {
        self.found.borrow_mut().push((span, message));
    }

    /// Reports what nobody asked for. To be called last.
    pub(super) fn finish(self) {
        for (key, _) in self.table.into_iter().flatten() {
            let name = key.get_ref();
            if self.asked.contains(&name.as_ref()) {
                continue;
            }
            let place = if self.name.is_empty() { "here".to_owned() } else { format!("in [{}]", self.name) };
            let nearest = self.asked.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
            let hint = match nearest {
                Some(known) if strsim::damerau_levenshtein(known, name) <= 2 => {
                    format!("; did you mean `{known}`?")
                }
                _ => format!(
                    "; known are {}",
                    self.asked.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
                ),
            };
            self.problem(key.span(), format!("there is no `{name}` {place}{hint}"));
        }
    }
}

fn as_text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("this is {}, it must be a text in \"quotes\"", article(value)))
}

/// `an integer`, `a boolean`: for messages about values of a wrong type.
pub(super) fn article(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    let article = if kind.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// Sorts by place and counts lines.
pub(super) fn located(text: &str, found: &Found) -> Vec<Problem> {
    let mut found = found.borrow_mut();
    found.sort_by_key(|(span, _)| span.start);
    found.iter().map(|(span, message)| Problem::at(text, span, message.as_str())).collect()
}
