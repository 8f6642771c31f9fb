//! "Did you mean …?": the nearest of the words that would have been right.

/// The candidate with the smallest edit distance to `word`, if it is near enough to be a slip of the keyboard:
/// one edit per three characters. Equal distances: the first candidate wins.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "`a`, `b` and `c`", for help texts.
pub(crate) fn listing<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// Help for a word that is none of `candidates`: the likely one, or all of them.
pub(crate) fn one_of(what: &str, word: &str, candidates: &[&str]) -> String {
    match closest(word, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("{what}: {}", listing(candidates.iter().copied())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_near() {
        assert_eq!(closest("trixy", ["bookworm", "trixie"]), None);
        assert_eq!(closest("trixei", ["bookworm", "trixie"]), Some("trixie"));
        assert_eq!(closest("Trixie", ["trixie"]), Some("trixie"));
        assert_eq!(closest("x", ["boot", "root"]), None);
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!(listing([]), "none");
        assert_eq!(listing(["a"]), "`a`");
        assert_eq!(listing(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
