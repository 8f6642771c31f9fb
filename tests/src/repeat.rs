//! The same run several times in a row, to find checks that do not always say the same.

use std::collections::BTreeMap;
use std::io::{Result, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::report::paint;
use crate::{Context, Problem, Report, run};

/// Runs the selected checks so many times in a row, then tells what differed. Of a run in which something failed the
/// folders of its scenarios are kept beside those of the next one, with the run's number behind the name; the `JUnit`
/// report of each run is, too. Returns the reports in the order of the runs.
///
/// # Errors
/// As [`run`].
pub fn repeat(ctx: &Context, times: NonZeroUsize, out: &mut (dyn Write + Send)) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for number in 1..=times.get() {
        writeln!(out, "run {number} of {times}\n")?;
        let report = run(ctx, out)?;
        fs_err::copy(ctx.results.join("scenarios.xml"), ctx.results.join(format!("scenarios-{number}.xml")))?;
        if number < times.get() {
            for folder in failed(&report) {
                if let Some(kept) = put_aside(&ctx.run_root, folder, number)? {
                    writeln!(out, "what {folder} left is kept in {}", kept.display())?;
                }
            }
        }
        writeln!(out)?;
        reports.push(report);
    }
    write_differences(&reports, ctx.colour, out)?;
    Ok(reports)
}

/// Scenarios in which something failed.
fn failed(report: &Report) -> Vec<&str> {
    let failures = report.outcomes.iter().filter(|outcome| outcome.problem.is_some());
    let mut names: Vec<_> = failures.map(|outcome| outcome.scenario.as_str()).collect();
    // Outcomes of a scenario stand together.
    names.dedup();
    names
}

/// Renames a scenario's folder, if it got as far as to have one. What an earlier command has put there goes.
fn put_aside(run_root: &Path, scenario: &str, number: usize) -> Result<Option<PathBuf>> {
    let (folder, kept) = (run_root.join(scenario), run_root.join(format!("{scenario}-{number}")));
    if !folder.exists() {
        return Ok(None);
    }
    if kept.exists() {
        fs_err::remove_dir_all(&kept)?;
    }
    fs_err::rename(folder, &kept)?;
    Ok(Some(kept))
}

/// Every check that did not pass in each run, with what each run said.
fn write_differences(reports: &[Report], colour: bool, out: &mut dyn Write) -> Result<()> {
    let all = said(reports);
    let mut differ = 0;
    for ((scenario, check), said) in &all {
        let agree = said.windows(2).all(|pair| pair[0] == pair[1]);
        differ += usize::from(!agree);
        if !agree || said.first() != Some(&PASSED) {
            let kind = if agree { "always" } else { "differs" };
            let line = format!("{kind}: {scenario}::{check}: {}", said.join(", "));
            writeln!(out, "{}", paint(colour, "31", &line))?;
        }
    }
    let differ = if differ == 0 { "no difference".to_owned() } else { format!("{differ} differ") };
    writeln!(out, "{} runs of {} checks: {differ}", reports.len(), all.len())
}

const PASSED: &str = "passed";

/// What each run said of each check. One that a run does not know is a difference as well.
fn said(reports: &[Report]) -> BTreeMap<(&str, &str), Vec<&'static str>> {
    let mut all = BTreeMap::new();
    for (number, report) in reports.iter().enumerate() {
        for outcome in &report.outcomes {
            let word = match outcome.problem {
                None => PASSED,
                Some(Problem::Failed(_)) => "FAILED",
                Some(Problem::NotChecked(_)) => "ERROR",
            };
            let key = (outcome.scenario.as_str(), outcome.check.as_str());
            let said = all.entry(key).or_insert_with(|| vec!["not made"; reports.len()]);
            if let Some(place) = said.get_mut(number) {
                *place = word;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Outcome;

    fn report(outcomes: &[(&str, Option<Problem>)]) -> Report {
        let outcomes = outcomes.iter().map(|(check, problem)| Outcome {
            scenario: "mail".into(),
            check: (*check).into(),
            requirements: &[],
            time: Duration::ZERO,
            problem: problem.clone(),
        });
        Report { outcomes: outcomes.collect() }
    }

    fn differences(reports: &[Report]) -> String {
        let mut out = Vec::new();
        write_differences(reports, false, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_differs_is_told_with_what_each_run_said() {
        let no = || Some(Problem::Failed("no".into()));
        let unknown = || Some(Problem::NotChecked("no QEMU".into()));
        let reports = [
            report(&[("a", None), ("b", no()), ("c", no())]),
            report(&[("a", None), ("b", no()), ("c", unknown()), ("d", None)]),
        ];
        assert_eq!(
            differences(&reports),
            "always: mail::b: FAILED, FAILED\n\
             differs: mail::c: FAILED, ERROR\n\
             differs: mail::d: not made, passed\n\
             2 runs of 4 checks: 2 differ\n"
        );
        assert_eq!(failed(&reports[0]), ["mail"]);
    }

    #[test]
    fn runs_that_agree_say_so() {
        let reports = [report(&[("a", None)]), report(&[("a", None)]), report(&[("a", None)])];
        assert_eq!(differences(&reports), "3 runs of 1 checks: no difference\n");
        assert!(failed(&reports[0]).is_empty());
    }

    #[test]
    fn what_a_failure_left_is_put_aside() {
        let root = tempfile::tempdir().unwrap();
        for text in ["first", "second"] {
            fs_err::create_dir_all(root.path().join("mail")).unwrap();
            fs_err::write(root.path().join("mail/console.log"), text).unwrap();
            let kept = put_aside(root.path(), "mail", 1).unwrap().unwrap();
            assert_eq!(fs_err::read_to_string(kept.join("console.log")).unwrap(), text);
        }
        assert!(!root.path().join("mail").exists());
        assert_eq!(put_aside(root.path(), "mail", 2).unwrap(), None);
    }
}
