//! What came out: kept for the caller, shown to a person, written as `JUnit`.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It was checked, and it is not so.
    Failed(String),
    /// It could not be checked.
    NotChecked(String),
}

impl Problem {
    /// What went wrong, one or more lines.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Failed(text) | Self::NotChecked(text) => text,
        }
    }
}

/// One check's result.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The scenario's name.
    pub scenario: String,
    /// The check's name.
    pub check: String,
    /// Rows of the requirements list that it shows.
    pub requirements: &'static [&'static str],
    /// How long it took.
    pub time: Duration,
    /// `None`: passed.
    pub problem: Option<Problem>,
}

/// Everything a run found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order in which they were checked.
    pub outcomes: Vec<Outcome>,
}

/// Terminal colours (ECMA-48).
pub(crate) fn paint(colour: bool, code: &str, text: &str) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

impl Report {
    /// How many checks passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.problem.is_none()).count()
    }

    /// How many did not, for whatever reason.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.outcomes.len() - self.passed()
    }

    /// One row per scenario, how long all `took`, which is less where they run side by side, then `N passed, N failed`
    /// alone on its line.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write_summary(&self, took: Duration, colour: bool, out: &mut dyn Write) -> std::io::Result<()> {
        let mut rows: Vec<(&str, usize, usize, Duration)> = Vec::new();
        for outcome in &self.outcomes {
            let failed = usize::from(outcome.problem.is_some());
            match rows.last_mut() {
                Some(row) if row.0 == outcome.scenario => {
                    *row = (row.0, row.1 + 1 - failed, row.2 + failed, row.3 + outcome.time);
                }
                _ => rows.push((&outcome.scenario, 1 - failed, failed, outcome.time)),
            }
        }
        writeln!(out, "{:28} {:>6} {:>6} {:>9}", "scenario", "passed", "failed", "time")?;
        for (name, passed, failed, time) in rows {
            let failed = format!("{failed:>6}");
            let failed = if failed.trim() == "0" { failed } else { paint(colour, "31", &failed) };
            writeln!(out, "{name:28} {passed:>6} {failed} {:>7.1} s", time.as_secs_f64())?;
        }
        writeln!(out, "{:42} {:>7.1} s", "from the start to the end", took.as_secs_f64())?;
        for outcome in self.outcomes.iter().filter(|outcome| outcome.problem.is_some()) {
            let line = format!("failed: {}::{}", outcome.scenario, outcome.check);
            writeln!(out, "{}", paint(colour, "31", &line))?;
        }
        writeln!(out, "\n{} passed, {} failed", self.passed(), self.failed())
    }

    /// Writes the report in the form that CI systems read.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_junit(&self, file: &Path) -> std::io::Result<()> {
        let mut report = quick_junit::Report::new("cipolla");
        for outcome in &self.outcomes {
            let mut case = TestCase::new(outcome.check.as_str(), status(outcome));
            case.set_classname(outcome.scenario.as_str()).set_time(outcome.time);
            if !outcome.requirements.is_empty() {
                case.add_property(("requirements", outcome.requirements.join(" ").as_str()));
            }
            match report.test_suites.last_mut() {
                Some(suite) if suite.name.as_str() == outcome.scenario => suite.add_test_case(case),
                _ => {
                    let mut suite = TestSuite::new(outcome.scenario.as_str());
                    suite.add_test_case(case);
                    report.add_test_suite(suite);
                    continue;
                }
            };
        }
        let text = report.to_string().map_err(std::io::Error::other)?;
        if let Some(folder) = file.parent() {
            fs_err::create_dir_all(folder)?;
        }
        fs_err::write(file, text)
    }
}

fn status(outcome: &Outcome) -> TestCaseStatus {
    let (kind, text) = match &outcome.problem {
        None => return TestCaseStatus::success(),
        Some(Problem::Failed(text)) => (NonSuccessKind::Failure, text),
        Some(Problem::NotChecked(text)) => (NonSuccessKind::Error, text),
    };
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(text.lines().next().unwrap_or_default()).set_description(text.as_str());
    status
}

/// The line of a check, and below it what went wrong. The scenario is named if `full`.
pub(crate) fn line(outcome: &Outcome, full: bool, colour: bool) -> String {
    let (word, code) = match outcome.problem {
        None => ("ok", "32"),
        Some(Problem::Failed(_)) => ("FAILED", "31"),
        Some(Problem::NotChecked(_)) => ("ERROR", "31"),
    };
    let word = paint(colour, code, &format!("{word:7}"));
    let name = if full { format!("{}::{}", outcome.scenario, outcome.check) } else { outcome.check.clone() };
    let width = if full { 66 } else { 44 };
    let mut text = format!("  {word} {name:width$} {:>7.1} s", outcome.time.as_secs_f64());
    if let Some(problem) = &outcome.problem {
        for line in problem.text().lines() {
            // Writing to a string does not fail.
            let _ = write!(text, "\n            {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let outcome = |scenario: &str, check: &str, problem| Outcome {
            scenario: scenario.into(),
            check: check.into(),
            requirements: &["R47"],
            time: Duration::from_millis(1500),
            problem,
        };
        Report {
            outcomes: vec![
                outcome("file", "partition_table_valid", None),
                outcome("file", "no_secret", Some(Problem::Failed("a <key>\nin a file".into()))),
                outcome("firmware_bios", "boots_bios", Some(Problem::NotChecked("no QEMU".into()))),
            ],
        }
    }

    #[test]
    fn the_last_line_counts() {
        let mut out = Vec::new();
        report().write_summary(Duration::from_secs(9), false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("\n\n1 passed, 2 failed\n"), "{text}");
        assert!(text.contains("failed: file::no_secret\n"), "{text}");
        assert!(text.contains("from the start to the end                      9.0 s\n"), "{text}");
        assert!(text.contains("file                              1      1     3.0 s\n"), "{text}");
    }

    #[test]
    fn junit_has_every_check_escaped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results/scenarios.xml");
        report().write_junit(&file).unwrap();
        let text = fs_err::read_to_string(file).unwrap();
        assert_eq!(text.matches("<testcase ").count(), 3, "{text}");
        assert_eq!(text.matches("<testsuite ").count(), 2, "{text}");
        assert!(text.contains("a &lt;key"), "{text}");
    }

    #[test]
    fn colours_only_when_asked() {
        let outcome = &report().outcomes[1];
        assert!(!line(outcome, false, false).contains('\x1b'));
        assert!(line(outcome, false, true).contains("\x1b[31mFAILED"));
        assert!(line(outcome, true, false).ends_with("\n            a <key>\n            in a file"));
    }
}
