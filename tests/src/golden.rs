//! Golden listings: what is expected, as text in the repository, one line per thing.

use std::collections::BTreeSet;

use crate::Context;
use crate::check::{PASS, Verdict, fail};

/// Differences shown at most; a wrong rule changes every line.
const SHOWN: usize = 60;

/// Compares lines with a golden file; with [`Context::bless`] rewrites it and prints what moved.
pub(crate) fn compare(ctx: &Context, name: &str, lines: &[String]) -> Verdict {
    let file = ctx.golden.join(ctx.arch.name()).join(name);
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    let expected = match fs_err::read_to_string(&file) {
        Ok(expected) => expected,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && ctx.bless => String::new(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return fail(format!("there is no {}; make it with CIPOLLA_BLESS=1 and read it", file.display()));
        }
        Err(error) => return Err(error.into()),
    };
    let moved = differences(&expected, &text);
    if moved.is_empty() {
        return PASS;
    }
    if !ctx.bless {
        let hint =
            format!("differs from {}; if that is right, run again with CIPOLLA_BLESS=1", file.display());
        return fail(std::iter::once(hint).chain(moved).collect::<Vec<_>>().join("\n"));
    }
    if let Some(folder) = file.parent() {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::write(&file, text)?;
    println!("blessed {}\n{}", file.display(), moved.join("\n"));
    PASS
}

/// Lines that went (`-`) and came (`+`), in the order of the listing.
fn differences(expected: &str, found: &str) -> Vec<String> {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (expected.lines().collect(), found.lines().collect());
    let gone = expected.lines().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let come = found.lines().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    let mut all: Vec<_> = gone.chain(come).collect();
    // By what the line is about, so that the two sides of a change stand together.
    all.sort_by(|one, two| one[2..].split(' ').next_back().cmp(&two[2..].split(' ').next_back()));
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    if more > 0 {
        all.push(format!("and {more} more lines"));
    }
    if all.is_empty() && expected != found {
        all.push("the order differs".to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(golden: &std::path::Path, bless: bool) -> Context {
        Context { golden: golden.to_owned(), bless, ..crate::runner::context() }
    }

    #[test]
    fn missing_different_blessed_equal() {
        let folder = tempfile::tempdir().unwrap();
        let lines = |list: &[&str]| list.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let run =
            |bless, list: &[&str]| compare(&context(folder.path(), bless), "x.txt", &lines(list)).unwrap();
        assert!(run(false, &["0644 /a"]).unwrap_err().contains("CIPOLLA_BLESS=1"));
        assert!(run(true, &["0644 /a", "0755 /b"]).is_ok());
        assert!(run(false, &["0644 /a", "0755 /b"]).is_ok());
        let moved = run(false, &["0600 /a", "0755 /b"]).unwrap_err();
        assert!(moved.ends_with("\n- 0644 /a\n+ 0600 /a"), "{moved}");
    }
}
