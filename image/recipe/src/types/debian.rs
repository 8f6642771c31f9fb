//! Debian's own words: suite, component, pocket, mirror; and the firmware a machine boots with.

use std::fmt;
use std::str::FromStr;

use super::{Invalid, Word, keyword};

/// A Debian release that Cipolla builds from, by code name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// Debian 13.
    Trixie,
}

impl Suite {
    /// All suites that Cipolla builds from.
    pub const ALL: &'static [Self] = &[Self::Trixie];

    /// The code name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
        }
    }

    /// The release number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Trixie => 13,
        }
    }

    /// The name of a pocket of this suite in an archive, as in `trixie-security`.
    #[must_use]
    pub fn pocket(self, pocket: Pocket) -> String {
        format!("{self}-{pocket}")
    }
}

impl FromStr for Suite {
    type Err = Invalid;

    fn from_str(word: &str) -> Result<Self, Invalid> {
        const ALIASES: &[&str] = &["stable", "testing", "unstable", "oldstable"];
        const OTHERS: &[&str] = &["buster", "bullseye", "bookworm", "forky", "duke", "sid"];
        match word {
            "trixie" => Ok(Self::Trixie),
            _ if ALIASES.contains(&word) => Err(Invalid::new("names another release as time goes by")
                .help("name the release itself: `trixie` (Debian 13)")),
            _ if OTHERS.contains(&word) => {
                Err(Invalid::new("a Debian release that this cipolla does not build from")
                    .help("this cipolla builds from `trixie` (Debian 13)"))
            }
            _ if word == "13" || word == "debian13" => {
                Err(Invalid::new("suites are named by code name").help("did you mean `trixie`?"))
            }
            _ => Err(Invalid::new("no Debian release known here").help(crate::suggest::one_of(
                "known",
                word,
                &["trixie"],
            ))),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Word for Suite {
    const WHAT: &'static str = "suite";
}

/// An archive area (Debian Policy 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// Free software that needs nothing outside main.
    Main,
    /// Free software that needs something outside main.
    Contrib,
    /// Everything else.
    NonFree,
    /// Firmware that is not free.
    NonFreeFirmware,
}

keyword!(Component, "component", {
    Main => "main", Contrib => "contrib", NonFree => "non-free", NonFreeFirmware => "non-free-firmware",
});

/// A part of a suite beside the release itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pocket {
    /// Changes of the next point release, early.
    Updates,
    /// Security fixes. Served under a path of its own in Debian's archive.
    Security,
    /// Newer versions from the next release, rebuilt.
    Backports,
}

keyword!(Pocket, "pocket", { Updates => "updates", Security => "security", Backports => "backports" });

/// A way to start a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Firmware {
    /// PC BIOS: GRUB in the BIOS boot partition.
    Bios,
    /// UEFI: signed shim and GRUB in the removable path.
    Uefi,
    /// The Raspberry Pi's own boot loader.
    RaspberryPi,
}

keyword!(Firmware, "firmware", { Bios => "bios", Uefi => "uefi", RaspberryPi => "raspberrypi" });

impl Firmware {
    /// Whether machines of this architecture exist with it.
    #[must_use]
    pub const fn runs_on(self, arch: super::Arch) -> bool {
        match self {
            Self::Bios => matches!(arch, super::Arch::Amd64),
            Self::Uefi => true,
            Self::RaspberryPi => matches!(arch, super::Arch::Arm64),
        }
    }
}

/// The address of a package archive: `http`, `https` or `file`, without login.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mirror(String);

impl Mirror {
    /// The address as written, without a slash at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Mirror {
    type Err = Invalid;

    fn from_str(url: &str) -> Result<Self, Invalid> {
        let shape = "write it as `http://HOST/PATH`, `https://HOST/PATH` or `file:///PATH`";
        if let Some(bad) = url.chars().find(|&c| !c.is_ascii_graphic() || "[]\"'<>\\^`{|}".contains(c)) {
            return Err(Invalid::new(format!("{bad:?} cannot stand in the address of a mirror")));
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(Invalid::new("not an address").help(shape));
        };
        let host = rest.split('/').next().unwrap_or_default();
        match scheme {
            "file" if rest.starts_with('/') => {}
            "file" => return Err(Invalid::new("a file address needs an absolute path").help(shape)),
            "http" | "https" if host.is_empty() => {
                return Err(Invalid::new("the host is missing").help(shape));
            }
            "http" | "https" if host.contains('@') => {
                return Err(Invalid::new("an address with a login, which would end up in logs")
                    .help("give logins to apt in auth.conf (see apt_auth.conf(5))")
                    .secret());
            }
            "http" | "https" if rest.contains(['?', '#']) => {
                return Err(Invalid::new("a mirror is a folder: no query, no fragment"));
            }
            "http" | "https" => {}
            _ => return Err(Invalid::new(format!("`{scheme}` is not supported")).help(shape)),
        }
        let trimmed = url.trim_end_matches('/');
        Ok(Self(if trimmed.ends_with(':') { url } else { trimmed }.to_owned()))
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Word for Mirror {
    const WHAT: &'static str = "mirror";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_plain_folders() {
        let ok = |url: &str| url.parse::<Mirror>().map(|mirror| mirror.to_string());
        assert_eq!(ok("http://localhost:8080/debian/").as_deref(), Ok("http://localhost:8080/debian"));
        assert_eq!(ok("file:///srv/debian").as_deref(), Ok("file:///srv/debian"));
        assert_eq!(ok("https://10.0.0.1").as_deref(), Ok("https://10.0.0.1"));
        for bad in [
            "",
            "localhost",
            "ftp://h/d",
            "http://",
            "http:///d",
            "file://d",
            "http://u:p@h/d",
            "http://h/ d",
        ] {
            assert!(ok(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn suites_explain_themselves() {
        let help = |word: &str| word.parse::<Suite>().unwrap_err().fix().map(str::to_owned);
        assert_eq!(help("trixei").as_deref(), Some("did you mean `trixie`?"));
        assert_eq!(help("13").as_deref(), Some("did you mean `trixie`?"));
        assert_eq!(help("bookworm").as_deref(), Some("this cipolla builds from `trixie` (Debian 13)"));
        assert_eq!(Suite::Trixie.pocket(Pocket::Security), "trixie-security");
    }
}
