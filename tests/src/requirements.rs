//! Holds `docs/requirements.md` to the code: every check of a scenario stands in the rows that it says it shows, and
//! the table names no check that is not there. Tests only.

use std::collections::{BTreeMap, BTreeSet};

use crate::{runner, scenarios};

/// Row and the cell *shown by*.
fn rows(text: &str) -> BTreeMap<&str, &str> {
    let cells = text.lines().filter(|line| line.starts_with("| R")).map(|line| line.trim().trim_matches('|'));
    cells
        .filter_map(|line| {
            let mut cells = line.split(" | ");
            Some((cells.next()?.trim(), cells.last()?))
        })
        .collect()
}

/// What stands between backticks before the names of self-tests.
fn names(cell: &str) -> BTreeSet<&str> {
    let cell = cell.split("self-test:").next().unwrap_or_default();
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_table_of_requirements_names_every_check() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/requirements.md");
    let text = fs_err::read_to_string(file).unwrap();
    let rows = rows(&text);
    let ctx = runner::context();
    let checks: Vec<_> = scenarios(&ctx).iter().flat_map(|scenario| scenario.checks(&ctx)).collect();
    let mut wrong = Vec::new();
    for (name, requirements) in &checks {
        for requirement in *requirements {
            // `testssl_no_finding_above_low_25` and its like are one line for all ports.
            let listed = rows.get(requirement).is_some_and(|cell| {
                names(cell).iter().any(|listed| name == listed || name.starts_with(&format!("{listed}_")))
            });
            if !listed {
                wrong.push(format!("{requirement} lacks `{name}`"));
            }
        }
    }
    for (row, cell) in &rows {
        for listed in names(cell) {
            let shows = |(name, requirements): &(String, &[&str])| {
                (name == listed || name.starts_with(&format!("{listed}_"))) && requirements.contains(row)
            };
            if !checks.iter().any(shows) {
                wrong.push(format!("{row} names `{listed}`, and no check of that name shows it"));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "docs/requirements.md:\n{}", wrong.join("\n"));
}
