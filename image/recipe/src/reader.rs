//! Reads a parsed TOML document with its spans, table by table, and goes on after every problem.
//!
//! serde stops at the first unknown field or wrong type; here each problem becomes a finding and the value is
//! left out, so that one run reports all of them. Knows TOML and [`Word`]s, nothing about recipes.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::source::{Located, Source, Spot};
use crate::suggest;
use crate::types::{Invalid, Word};

/// Parses TOML. Every syntax error is a finding, in the words of the TOML parser.
pub(crate) fn document<'a>(source: &'a Source, findings: &mut Diagnostics) -> Option<Spanned<DeTable<'a>>> {
    let (document, errors) = DeTable::parse_recoverable(source.text());
    let is_sound = errors.is_empty();
    findings.extend(errors.into_iter().map(|error| {
        let end = source.text().len();
        let spot = source.spot(error.span().unwrap_or(end..end));
        let (problem, expected) = error.message().split_once(", expected ").unwrap_or((error.message(), ""));
        let label = if expected.is_empty() { String::new() } else { format!("expected {expected}") };
        Diagnostic::error(format!("TOML syntax: {problem}")).at(spot, label)
    }));
    is_sound.then_some(document)
}

/// Collects findings while tables are read.
pub(crate) struct Reader<'a> {
    source: &'a Source,
    findings: &'a mut Diagnostics,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(source: &'a Source, findings: &'a mut Diagnostics) -> Self {
        Self { source, findings }
    }

    pub(crate) fn push(&mut self, finding: Diagnostic) {
        self.findings.push(finding);
    }

    pub(crate) fn spot(&self, span: Range<usize>) -> Spot {
        self.source.spot(span)
    }

    /// Reports items that stand in `list` twice, or in `before` and in `list`.
    pub(crate) fn refuse_duplicates<T: Word>(&mut self, before: &[Located<T>], list: &[Located<T>]) {
        let mut seen: BTreeMap<&T, &Spot> = BTreeMap::new();
        for item in before {
            seen.entry(&item.value).or_insert(&item.spot);
        }
        for item in list {
            match seen.get(&item.value) {
                None => {
                    seen.insert(&item.value, &item.spot);
                }
                Some(&first) => self.findings.push(
                    Diagnostic::error(format!("duplicate {} `{}`", T::WHAT, item.value))
                        .at(item.spot.clone(), "named again")
                        .also(first.clone(), "first named here")
                        .help("remove one of the two"),
                ),
            }
        }
    }

    /// Turns a refused value into a finding.
    pub(crate) fn refuse(&mut self, what: &str, text: &str, invalid: &Invalid, spot: Spot) {
        let finding = if invalid.is_secret() {
            // Reports end up in logs: neither the text nor its line is shown.
            Diagnostic::error(format!("bad {what}: {}", invalid.problem()))
                .in_file_line(self.source.name(), spot.line_column().0)
        } else {
            Diagnostic::error(format!("bad {what} `{text}`")).at(spot, invalid.problem())
        };
        self.push(match invalid.fix() {
            Some(help) => finding.help(help),
            None => finding,
        });
    }

    /// Reports a value of a type that the schema does not want there.
    pub(crate) fn wrong_type(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
        example: &str,
    ) {
        let found = with_article(value.get_ref().type_str());
        let finding = Diagnostic::error(format!("wrong type for `{path}`"))
            .at(self.spot(value.span()), format!("expected {wanted}, found {found}"));
        self.push(if example.is_empty() {
            finding
        } else {
            finding.help(format!("write it like `{example}`"))
        });
    }

    fn word<T: Word>(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        example: &str,
    ) -> Option<Located<T>> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(path, value, "a string", example);
            return None;
        };
        match text.parse::<T>() {
            Ok(parsed) => Some(Located { value: parsed, spot: self.spot(value.span()) }),
            Err(invalid) => {
                let spot = self.spot(value.span());
                self.refuse(T::WHAT, text, &invalid, spot);
                None
            }
        }
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// One key of a table, as the schema knows it.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// A whole line that would be right, for help texts.
    pub(crate) example: &'static str,
}

/// Shorthand for [`Key`].
pub(crate) const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

/// A table being read. Keys that nobody asked for are reported by [`Table::finish`].
pub(crate) struct Table<'t> {
    /// As written in front of a key: empty for the whole file.
    path: String,
    /// As shown in messages: `[debian]`, `[[rule]]`, or nothing for the whole file.
    title: String,
    header: Range<usize>,
    entries: &'t DeTable<'t>,
    known: Vec<&'static str>,
    /// Keys that are needed and not there; reported at the end, when misspelt keys are known.
    missing: Vec<(&'static str, Diagnostic)>,
}

impl<'t> Table<'t> {
    /// The whole document.
    pub(crate) fn root(document: &'t Spanned<DeTable<'t>>) -> Self {
        Self::new(String::new(), String::new(), document.span(), document.get_ref())
    }

    fn new(path: String, title: String, header: Range<usize>, entries: &'t DeTable<'t>) -> Self {
        Self { path, title, header, entries, known: vec![], missing: vec![] }
    }

    /// The place of the table's header.
    pub(crate) fn spot(&self, reader: &Reader<'_>) -> Spot {
        reader.spot(self.header.clone())
    }

    fn in_title(&self) -> String {
        if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn find(&mut self, name: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(name);
        self.entries.get(name)
    }

    fn missing_key(&mut self, reader: &Reader<'_>, key: Key) {
        let finding = Diagnostic::error(format!("missing key `{}`{}", key.name, self.in_title()))
            .at(self.spot(reader), "")
            .help(format!("add a line like `{}`", key.example));
        self.missing.push((key.name, finding));
    }

    /// The value of an optional key, with the place of the value.
    pub(crate) fn value(&mut self, key: Key) -> Option<&'t Spanned<DeValue<'t>>> {
        self.find(key.name)
    }

    /// Whether the table has the key, whatever its value.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.entries.contains_key(key.name)
    }

    /// A string of a checked type.
    pub(crate) fn word<T: Word>(&mut self, reader: &mut Reader<'_>, key: Key) -> Option<Located<T>> {
        let value = self.find(key.name)?;
        reader.word(&self.path_of(key.name), value, key.example)
    }

    /// Like [`Self::word`]; missing is a finding.
    pub(crate) fn required_word<T: Word>(&mut self, reader: &mut Reader<'_>, key: Key) -> Option<Located<T>> {
        if !self.has(key) {
            self.missing_key(reader, key);
        }
        self.word(reader, key)
    }

    /// A list of strings of a checked type; what is not right is left out. Missing is an empty list.
    pub(crate) fn words<T: Word>(&mut self, reader: &mut Reader<'_>, key: Key) -> Vec<Located<T>> {
        let path = self.path_of(key.name);
        let Some(value) = self.find(key.name) else { return vec![] };
        let Some(items) = value.get_ref().as_array() else {
            reader.wrong_type(&path, value, "an array of strings", key.example);
            return vec![];
        };
        let list: Vec<_> = items.iter().filter_map(|item| reader.word(&path, item, key.example)).collect();
        reader.refuse_duplicates(&[], &list);
        list
    }

    /// Like [`Self::words`]; missing or empty is a finding.
    pub(crate) fn required_words<T: Word>(&mut self, reader: &mut Reader<'_>, key: Key) -> Vec<Located<T>> {
        let Some(value) = self.entries.get(key.name) else {
            self.missing_key(reader, key);
            self.known.push(key.name);
            return vec![];
        };
        if value.get_ref().as_array().is_some_and(|items| items.is_empty()) {
            let finding = Diagnostic::error(format!("`{}` is empty", self.path_of(key.name)))
                .at(reader.spot(value.span()), "at least one is needed")
                .help(format!("write it like `{}`", key.example));
            reader.push(finding);
        }
        self.words(reader, key)
    }

    /// A truth value.
    pub(crate) fn flag(&mut self, reader: &mut Reader<'_>, key: Key) -> Option<bool> {
        let value = self.find(key.name)?;
        if value.get_ref().as_bool().is_none() {
            reader.wrong_type(&self.path_of(key.name), value, "a boolean", key.example);
        }
        value.get_ref().as_bool()
    }

    /// A table inside this one.
    pub(crate) fn table(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Option<Self> {
        let value = self.find(name)?;
        self.inner(reader, name, value)
    }

    /// Like [`Self::table`]; missing is a finding.
    pub(crate) fn required_table(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Option<Self> {
        if !self.entries.contains_key(name) {
            let finding = Diagnostic::error(format!("missing table [{}]", self.path_of(name)))
                .at(self.spot(reader), "")
                .help("every recipe needs it: see the reference, module `schema`");
            self.missing.push((name, finding));
        }
        self.table(reader, name)
    }

    fn inner(&self, reader: &mut Reader<'_>, name: &str, value: &'t Spanned<DeValue<'t>>) -> Option<Self> {
        let path = self.path_of(name);
        let Some(entries) = value.get_ref().as_table() else {
            reader.wrong_type(&path, value, "a table", &format!("[{path}]"));
            return None;
        };
        let title = format!("[{path}]");
        Some(Self::new(path, title, value.span(), entries))
    }

    /// Whether the table holds nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Tables inside this one whose names are keywords: `[hardware.amd64]`. Other names are findings.
    pub(crate) fn tables_by<T: Word>(&self, reader: &mut Reader<'_>) -> Vec<(T, Self)> {
        let mut tables = vec![];
        for (name, value) in self.entries {
            match name.get_ref().parse::<T>() {
                Ok(word) => {
                    let inner = self.inner(reader, name.get_ref(), value);
                    tables.extend(inner.map(|table| (word, table)));
                }
                Err(invalid) => {
                    let spot = reader.spot(name.span());
                    let what = format!("{}{}", T::WHAT, self.in_title());
                    reader.refuse(&what, name.get_ref(), &invalid, spot);
                }
            }
        }
        tables.sort_by_key(|(_, table)| table.header.start);
        tables
    }

    /// The tables of an array: every `[[rule]]`.
    pub(crate) fn array_of_tables(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Vec<Self> {
        let Some(value) = self.find(name) else { return vec![] };
        let Some(items) = value.get_ref().as_array() else {
            reader.wrong_type(name, value, "an array of tables", &format!("[[{name}]]"));
            return vec![];
        };
        let mut tables = vec![];
        for item in items {
            match item.get_ref().as_table() {
                Some(entries) => {
                    tables.push(Self::new(name.to_owned(), format!("[[{name}]]"), item.span(), entries));
                }
                None => reader.wrong_type(name, item, "a table", &format!("[[{name}]]")),
            }
        }
        tables
    }

    /// `schema = 1`. False if it is another one: then nothing else in the file can be judged.
    pub(crate) fn is_schema(&mut self, reader: &mut Reader<'_>, version: i64) -> bool {
        const SCHEMA: Key = key("schema", "schema = 1");
        let Some(value) = self.find(SCHEMA.name) else {
            self.missing_key(reader, SCHEMA);
            return true;
        };
        let Some(integer) = value.get_ref().as_integer() else {
            reader.wrong_type(SCHEMA.name, value, "an integer", SCHEMA.example);
            return true;
        };
        if i64::from_str_radix(integer.as_str(), integer.radix()) == Ok(version) {
            return true;
        }
        let finding = Diagnostic::error(format!("unknown schema {integer}"))
            .at(reader.spot(value.span()), format!("this cipolla reads schema {version}"))
            .help("use the cipolla that the file was written for, or bring the file to the schema this one reads");
        reader.push(finding);
        false
    }

    /// Reports every key that the schema does not know, and the keys that are missing: a missing key that is
    /// there misspelt is one finding, not two.
    pub(crate) fn finish(mut self, reader: &mut Reader<'_>) {
        for name in self.entries.keys().filter(|name| !self.known.contains(&name.get_ref().as_ref())) {
            let word = name.get_ref();
            let meant = suggest::closest(word, self.known.iter().copied());
            self.missing.retain(|(missing, _)| meant != Some(*missing));
            reader.push(
                Diagnostic::error(format!("unknown key `{word}`{}", self.in_title()))
                    .at(reader.spot(name.span()), "not known here")
                    .help(suggest::one_of("keys known here", word, &self.known)),
            );
        }
        reader.findings.extend(self.missing.into_iter().map(|(_, finding)| finding));
    }
}
