//! Globs over absolute paths, and the rules for what is left out of an image.

use std::fmt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{Invalid, Word};

/// A glob over absolute paths: `*` and `?` within a name, `**` across names (a component of its own), `[ab]`,
/// `[!ab]` and `[a-z]` for one character of a name, `{a,b}` for alternatives. There is no escape: `[*]` is a star.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob(String);

impl Glob {
    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn compile(&self) -> globset::Glob {
        compile(&self.0).expect("a Glob exists only if it compiles")
    }

    /// The globs of the folders that hold what this one matches, outermost first.
    fn ancestors(&self) -> impl Iterator<Item = Self> {
        let ends: Vec<usize> = self.0.match_indices('/').map(|(at, _)| at).filter(|&at| at > 0).collect();
        ends.into_iter().map(|at| Self(self.0[..at].to_owned()))
    }
}

/// globset lets a class match `/` where `*` may not, so that is closed here: `/` joins every negated class.
fn compile(pattern: &str) -> Result<globset::Glob, globset::Error> {
    let mut guarded = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(open) = rest.find('[') {
        let (before, class) = rest.split_at(open);
        guarded.push_str(before);
        let negated = class[1..].starts_with(['!', '^']);
        let first = if negated { 2 } else { 1 };
        // A `]` right after the opening is a member.
        let from = if class[first..].starts_with(']') { first + 1 } else { first };
        let Some(close) = class[from..].find(']').map(|at| at + from) else { break };
        guarded.push_str(&class[..close]);
        guarded.push_str(if negated { "/]" } else { "]" });
        rest = &class[close + 1..];
    }
    guarded.push_str(rest);
    GlobBuilder::new(&guarded).literal_separator(true).backslash_escape(false).build()
}

/// Whether a class has a range that runs over `/`, or a `-` at its end, which the guard would turn into one.
fn has_unsafe_class(pattern: &str) -> bool {
    let text: Vec<char> = pattern.chars().collect();
    let open =
        |at: usize| text[..at].iter().rposition(|&c| c == '[' || c == ']').is_some_and(|p| text[p] == '[');
    text.windows(3).enumerate().any(|(at, window)| match window {
        [low, '-', high] => open(at + 1) && (*high == ']' || *low <= '/' && *high >= '/'),
        _ => false,
    })
}

impl FromStr for Glob {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if !text.starts_with('/') {
            return Err(Invalid::new("not absolute")
                .did_you_mean(text, &format!("/{text}"), |t| t.parse::<Self>().is_ok()));
        }
        if text.contains('\\') {
            return Err(Invalid::new("`\\` cannot stand in a glob"));
        }
        let names = || text[1..].split('/');
        if names().any(|name| name == "." || name == "..") {
            return Err(Invalid::new("`.` and `..` match nothing"));
        }
        if names().any(str::is_empty) {
            return Err(
                Invalid::new("an empty name matches nothing").help("one `/` between names, none at the end")
            );
        }
        if names().any(|name| name.contains("**") && name != "**") {
            return Err(Invalid::new("`**` stands alone between slashes").help("within a name, write `*`"));
        }
        if has_unsafe_class(text) {
            return Err(
                Invalid::new("the class in brackets is not clear").help("name the characters one by one")
            );
        }
        compile(text).map_err(|error| Invalid::new(error.kind().to_string()))?;
        // So that a glob cut at any `/` is a glob again, which `ancestors` relies on.
        if names().any(|name| compile(name).is_err()) {
            return Err(Invalid::new("brackets and braces hold no `/`").help("write one glob for each"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Word for Glob {
    const WHAT: &'static str = "glob";
}

/// What is left out of an image.
///
/// A path is left out if `paths` match it or a folder above it, unless `keep` matches it or a folder above it.
/// The folders that hold what `keep` matches stay too, so a tree without them never comes about.
#[derive(Clone, Debug)]
pub struct StripRules {
    paths: Vec<Glob>,
    keep: Vec<Glob>,
    strip_set: GlobSet,
    keep_set: GlobSet,
    holders: GlobSet,
}

impl StripRules {
    /// Compiles the rules.
    #[must_use]
    pub fn new(paths: Vec<Glob>, keep: Vec<Glob>) -> Self {
        let holders: Vec<Glob> = keep.iter().flat_map(Glob::ancestors).collect();
        Self { strip_set: set(&paths), keep_set: set(&keep), holders: set(&holders), paths, keep }
    }

    /// The globs of what is left out.
    #[must_use]
    pub fn paths(&self) -> &[Glob] {
        &self.paths
    }

    /// The globs of what stays nevertheless.
    #[must_use]
    pub fn keep(&self) -> &[Glob] {
        &self.keep
    }

    /// Whether the file, folder or link at the absolute `path` is left out. A `/` at the end is ignored.
    #[must_use]
    pub fn is_stripped(&self, path: &str) -> bool {
        let path = path.strip_suffix('/').unwrap_or(path);
        let with_folders = |set: &GlobSet| lineage(path).any(|path| set.is_match(path));
        with_folders(&self.strip_set) && !with_folders(&self.keep_set) && !self.holders.is_match(path)
    }
}

/// `path` and the folders above it, without `/`.
fn lineage(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(folder, _)| folder))
        .filter(|path| !path.is_empty())
}

fn set(globs: &[Glob]) -> GlobSet {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        builder.add(glob.compile());
    }
    builder.build().expect("globs that compile alone compile together")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(glob: &str, path: &str) -> bool {
        glob.parse::<Glob>().unwrap().compile().compile_matcher().is_match(path)
    }

    fn rules(paths: &[&str], keep: &[&str]) -> StripRules {
        let parse = |globs: &[&str]| globs.iter().map(|glob| glob.parse().unwrap()).collect();
        StripRules::new(parse(paths), parse(keep))
    }

    #[test]
    fn stars_and_classes_end_at_slashes() {
        assert!(matches("/usr/share/*", "/usr/share/doc"));
        assert!(!matches("/usr/share/*", "/usr/share/doc/tor"));
        assert!(matches("/usr/share/**", "/usr/share/doc/tor"));
        assert!(!matches("/usr/share/**", "/usr/share"));
        assert!(matches("/a/**/b", "/a/b"));
        assert!(matches("/a/**/b", "/a/x/y/b"));
        assert!(matches("/a/{b,c}/.*", "/a/c/.hidden"));
        assert!(!matches("/a[!c]b", "/a/b"));
        assert!(!matches("/a[!]c]b", "/a/b"));
        assert!(matches("/a[!]c]b", "/axb"));
        assert!(!matches("/a?b", "/a/b"));
        assert!(matches("/[!c]*", "/x"));
    }

    #[test]
    fn unclear_globs_are_refused() {
        for glob in [
            "", "usr/*", "/usr/", "/a//b", "/a/../b", "/a**", "/a\\*", "/[a", "/[+-9]", "/[!a-]", "/{a,b",
            "/{a/b,c}", "/[/]",
        ] {
            assert!(glob.parse::<Glob>().is_err(), "{glob}");
        }
        assert_eq!("usr/*".parse::<Glob>().unwrap_err().fix(), Some("did you mean `/usr/*`?"));
    }

    #[test]
    fn keeping_a_file_keeps_the_folders_above_it() {
        let rules = rules(&["/usr/share/doc/**", "/opt"], &["/usr/share/doc/*/copyright", "/opt/a"]);
        assert!(!rules.is_stripped("/usr/share/doc"));
        assert!(!rules.is_stripped("/usr/share/doc/tor"));
        assert!(!rules.is_stripped("/usr/share/doc/tor/"));
        assert!(!rules.is_stripped("/usr/share/doc/tor/copyright"));
        assert!(rules.is_stripped("/usr/share/doc/tor/changelog.gz"));
        assert!(rules.is_stripped("/usr/share/doc/tor/examples"));
        assert!(rules.is_stripped("/usr/share/doc/tor/examples/copyright"));
        assert!(!rules.is_stripped("/opt") && !rules.is_stripped("/opt/a/b") && rules.is_stripped("/opt/b"));
        assert!(!rules.is_stripped("/usr/share/docs"));
    }

    proptest! {
        #[test]
        fn without_two_stars_a_glob_never_changes_depth(glob in "(/[ab?]{1,2}|/\\*[ab?]{0,2}|/[ab?]\\*|/a\\[!a\\]b|/\\[\\^b\\]){1,3}", path in "(/[ab/]{1,3}){1,4}") {
            if let Ok(glob) = glob.parse::<Glob>() && glob.compile().compile_matcher().is_match(&path) {
                prop_assert_eq!(glob.as_str().matches('/').count(), path.matches('/').count());
            }
        }

        #[test]
        fn any_text_parses_or_explains(text in "/[a-c*?\\[\\]{},!^/-]{0,12}") {
            if let Ok(glob) = text.parse::<Glob>() {
                let _ = StripRules::new(vec![glob.clone()], vec![glob]).is_stripped("/a/b/c");
            }
        }

        #[test]
        fn whatever_is_kept_can_be_reached(keep in "(/([ab][ab*]?|\\*|\\*\\*|\\{a,b\\})){1,3}", path in "(/[ab]{1,2}){1,4}") {
            let rules = rules(&["/**"], &[&keep]);
            if !rules.is_stripped(&path) {
                for folder in lineage(&path) {
                    prop_assert!(!rules.is_stripped(folder), "{} stays without {}", path, folder);
                }
            }
        }
    }
}
