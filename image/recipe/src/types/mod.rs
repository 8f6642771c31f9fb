//! The words of a recipe as types: what exists as a value has been checked.
//!
//! Every type here parses with [`std::str::FromStr`]; the error is [`Invalid`], which says what is wrong and,
//! where it can, what was probably meant.

mod arch;
mod debian;
mod glob;
mod names;
mod size;
mod time;

pub use arch::Arch;
pub use debian::{Component, Firmware, Mirror, Pocket, Suite};
pub use glob::{Glob, StripRules};
pub use names::{
    KernelArg, ModuleName, PackageName, RecipeName, ReleaseVersion, TreeName, UnitName, UserName,
};
pub use size::ByteSize;
pub(crate) use time::{from_datetime, unix_seconds};

/// Why a text is not a value of the type wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    problem: String,
    help: Option<String>,
    is_secret: bool,
}

impl Invalid {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), help: None, is_secret: false }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Proposes `better` in place of `text`, unless the type itself would refuse it. The check for that may be
    /// the very one that asks: a proposal that changes nothing ends there.
    pub(crate) fn did_you_mean(self, text: &str, better: &str, accepted: impl Fn(&str) -> bool) -> Self {
        if better != text && accepted(better) { self.help(format!("did you mean `{better}`?")) } else { self }
    }

    /// The text holds a secret and must not be shown.
    pub(crate) fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// Whether the text holds a secret and must not be shown.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        self.is_secret
    }

    /// What is wrong, for the label under the text.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// How to mend it.
    #[must_use]
    pub fn fix(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

impl std::error::Error for Invalid {}

/// A type that is written as a TOML string.
pub(crate) trait Word: std::str::FromStr<Err = Invalid> + Clone + Ord + std::fmt::Display {
    /// What it is called in messages: "bad {WHAT} `…`".
    const WHAT: &'static str;
}

/// An enum whose values are fixed words: parsing, display, and help that names the words.
macro_rules! keyword {
    ($type:ident, $what:literal, { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// All values, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that stands for it in a recipe.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $type {
            type Err = crate::types::Invalid;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(crate::types::Invalid::new(concat!("no such ", $what, " known here"))
                        .help(crate::suggest::one_of("known", word, &[$($word),+]))),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl crate::types::Word for $type {
            const WHAT: &'static str = $what;
        }
    };
}
pub(crate) use keyword;
