//! Sizes as people write them: a whole number and a binary unit.

use std::fmt;
use std::str::FromStr;

use super::{Invalid, Word};

/// A size in bytes, written like `512MiB` (units B, KiB, MiB, GiB, TiB; IEC 80000-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ByteSize {
    /// From a number of bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// From a number of MiB; `None` if that does not fit 64 bits of bytes.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Option<Self> {
        match mib.checked_mul(1 << 20) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The smallest multiple of `step` that is not smaller; the largest there is, if 64 bits end before.
    #[must_use]
    pub const fn round_up(self, step: Self) -> Self {
        match self.0.checked_next_multiple_of(step.0) {
            Some(bytes) => Self(bytes),
            None => Self(u64::MAX - u64::MAX % step.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        if digits.is_empty() {
            return Err(Invalid::new("a size starts with a whole number").help("write it like `512MiB`"));
        }
        let Some((_, factor)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(bad_unit(digits, unit));
        };
        let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| Invalid::new("larger than any disk: more than 64 bits of bytes"))
    }
}

fn bad_unit(digits: &str, unit: &str) -> Invalid {
    let problem = match unit {
        "" => "the unit is missing".to_owned(),
        _ if unit.starts_with('.') => "not a whole number".to_owned(),
        _ => format!("`{}` is not a unit known here", unit.trim()),
    };
    let letter = unit.trim().chars().next().map(|letter| letter.to_ascii_uppercase());
    let meant = UNITS.iter().find(|(name, _)| name.chars().next() == letter && *name != "B");
    let help = match meant {
        Some((name, _)) => format!("did you mean `{digits}{name}`?"),
        None => "units: KiB, MiB, GiB and TiB (powers of 1024)".to_owned(),
    };
    Invalid::new(problem).help(help)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = (UNITS.into_iter())
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

impl Word for ByteSize {
    const WHAT: &'static str = "size";
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_binary_and_slips_are_explained() {
        assert_eq!("512MiB".parse::<ByteSize>().unwrap().bytes(), 512 << 20);
        let help = |text: &str| text.parse::<ByteSize>().unwrap_err().fix().unwrap_or_default().to_owned();
        assert_eq!(help("512MB"), "did you mean `512MiB`?");
        assert_eq!(help("512 MiB"), "did you mean `512MiB`?");
        assert_eq!(help("1g"), "did you mean `1GiB`?");
        assert_eq!(help("512"), "units: KiB, MiB, GiB and TiB (powers of 1024)");
        assert_eq!(help("MiB"), "write it like `512MiB`");
        assert!("18446744073709551615KiB".parse::<ByteSize>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(bytes: u64) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
        }

        #[test]
        fn any_text_parses_or_explains(text in ".{0,12}") {
            if let Err(invalid) = text.parse::<ByteSize>() {
                prop_assert!(!invalid.problem().is_empty());
            }
        }

        #[test]
        fn rounding_up_reaches_the_next_step(bytes in 0..u64::MAX / 2, step in 1..1u64 << 40) {
            let rounded = ByteSize::from_bytes(bytes).round_up(ByteSize::from_bytes(step)).bytes();
            prop_assert!(rounded >= bytes && rounded - bytes < step && rounded.is_multiple_of(step));
        }
    }
}
