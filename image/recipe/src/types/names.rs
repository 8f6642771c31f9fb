//! Names that go to Debian, the kernel or systemd, each with the grammar its reader has.

use std::fmt;
use std::str::FromStr;

use super::{Invalid, Word};

/// A checked string: the type, what it is called in messages, and the check.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                $check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Word for $type {
            const WHAT: &'static str = $what;
        }
    };
}

name! {
    /// A Debian package (Debian Policy 5.6.1), without version, suite or architecture.
    PackageName, "package name", package
}
name! {
    /// The name of a recipe: lower case letters, digits and single hyphens, at most 32. Part of file names.
    RecipeName, "recipe name", recipe
}
name! {
    /// The folder of an overlay tree: same grammar as [`RecipeName`].
    TreeName, "overlay tree", tree
}
name! {
    /// The version of what a recipe builds: `MAJOR.MINOR.PATCH`, with `-PRERELEASE` (Semantic Versioning 2.0.0,
    /// no build metadata). Part of file names.
    ReleaseVersion, "version", version
}
name! {
    /// A kernel module as the kernel lists it: with `_` where the file may have `-`.
    ModuleName, "kernel module", module
}
name! {
    /// A systemd unit with its type suffix (systemd.unit(5)).
    UnitName, "unit", unit
}
name! {
    /// One word of the kernel command line. Characters that GRUB or the kernel treat specially are refused.
    KernelArg, "kernel argument", kernel_arg
}
name! {
    /// A user or group of the image (useradd(8): lower case, at most 32 characters).
    UserName, "user or group name", user
}

const UNIT_TYPES: [&str; 11] = [
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "timer",
    "slice",
    "scope",
];

impl UnitName {
    /// Whether the unit is a template without instance, as in `getty@.service`.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.0.rsplit_once('.').is_some_and(|(stem, _)| stem.ends_with('@'))
    }
}

impl PackageName {
    /// Whether the package is a kernel.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        self.0.starts_with("linux-image-")
    }
}

fn not_allowed(text: &str, allowed: impl Fn(char) -> bool) -> Result<(), Invalid> {
    match text.chars().find(|&c| !allowed(c)) {
        None => Ok(()),
        Some(' ') => Err(Invalid::new("a space cannot stand here")),
        Some(bad) => Err(Invalid::new(format!("{bad:?} cannot stand here"))),
    }
}

fn package(text: &str) -> Result<(), Invalid> {
    if let Some((_, suite)) = text.split_once('/') {
        return Err(Invalid::new(format!("a package name has no suite (`/{suite}`)"))
            .help("to take a package from backports, name it in `packages.backports` too"));
    }
    if let Some((name, _)) = text.split_once('=') {
        return Err(Invalid::new("a package name has no version")
            .help(format!("write `{name}`: versions are pinned by the lock file")));
    }
    if let Some((name, _)) = text.split_once(':') {
        return Err(Invalid::new("a package name has no architecture")
            .help(format!("write `{name}` in the list of that architecture")));
    }
    if let Some(name) = text.strip_suffix('-') {
        return Err(Invalid::new("apt reads a `-` at the end as \"remove\"").did_you_mean(
            text,
            name,
            |name| package(name).is_ok(),
        ));
    }
    not_allowed(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c)).map_err(
        |invalid| {
            let better = text.trim().to_lowercase().replace([' ', '_'], "-");
            invalid.did_you_mean(text, &better, |better| package(better).is_ok())
        },
    )?;
    if text.len() < 2 {
        return Err(Invalid::new("at least two characters"));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(Invalid::new("starts with a letter or a digit"));
    }
    Ok(())
}

fn recipe(text: &str) -> Result<(), Invalid> {
    let better = || text.trim().to_lowercase().replace([' ', '_', '.'], "-");
    let refuse =
        |problem: &str| Err(Invalid::new(problem).did_you_mean(text, &better(), |name| recipe(name).is_ok()));
    if text.is_empty() {
        return Err(Invalid::new("empty"));
    }
    if text.len() > 32 {
        return refuse("more than 32 characters");
    }
    if !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return refuse("lower case letters, digits and hyphens only");
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return refuse("starts with a letter");
    }
    if text.ends_with('-') || text.contains("--") {
        return refuse("hyphens stand alone, between letters or digits");
    }
    Ok(())
}

fn tree(text: &str) -> Result<(), Invalid> {
    recipe(text)?;
    if super::Arch::ALL.iter().any(|arch| arch.as_str() == text) {
        return Err(Invalid::new("the tree of an architecture is laid last by itself")
            .help(format!("remove `{text}` from the list")));
    }
    Ok(())
}

fn version(text: &str) -> Result<(), Invalid> {
    let shape = |problem: &str| {
        let better = text.strip_prefix('v').unwrap_or(text);
        let padded = format!("{better}{}", ".0".repeat(2_usize.saturating_sub(better.matches('.').count())));
        let invalid = Invalid::new(problem).help("write it like `1.2.3` or `1.2.3-rc.1`");
        if padded == text {
            invalid
        } else {
            invalid.did_you_mean(text, &padded, |text| version(text).is_ok())
        }
    };
    let number = |part: &str| {
        part == "0"
            || !part.is_empty()
                && part.len() < 10
                && !part.starts_with('0')
                && part.bytes().all(|b| b.is_ascii_digit())
    };
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let parts: Vec<&str> = core.split('.').collect();
    if parts.len() != 3 {
        return Err(shape("not three numbers"));
    }
    if !parts.iter().all(|part| number(part)) {
        return Err(shape("each part is a plain number without leading zero"));
    }
    let identifier = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && (number(part) || part.bytes().any(|b| !b.is_ascii_digit()))
    };
    if text.len() > 64 || pre.is_some_and(|pre| !pre.split('.').all(identifier)) {
        return Err(shape("not a pre-release part"));
    }
    Ok(())
}

fn module(text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::new("empty"));
    }
    not_allowed(text, |c| c.is_ascii_alphanumeric() || c == '_').map_err(|invalid| {
        let better = text.trim().trim_end_matches(".zst").trim_end_matches(".xz").trim_end_matches(".ko");
        invalid.did_you_mean(text, &better.replace('-', "_"), |better| module(better).is_ok())
    })
}

fn unit(text: &str) -> Result<(), Invalid> {
    not_allowed(text, |c| c.is_ascii_alphanumeric() || ":_.\\-@".contains(c))?;
    let Some((stem, suffix)) = text.rsplit_once('.') else {
        return Err(Invalid::new("the type is missing").help(format!("did you mean `{text}.service`?")));
    };
    if !UNIT_TYPES.contains(&suffix) {
        let help = match crate::suggest::closest(suffix, UNIT_TYPES) {
            Some(better) => format!("did you mean `{stem}.{better}`?"),
            None => format!("types: {}", crate::suggest::listing(UNIT_TYPES)),
        };
        return Err(Invalid::new(format!("`.{suffix}` is not a type of unit")).help(help));
    }
    if stem.is_empty() || stem.starts_with('@') || text.len() > 255 {
        return Err(Invalid::new("1 to 255 characters, with a name before the type"));
    }
    Ok(())
}

fn kernel_arg(text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::new("empty"));
    }
    if text.contains(char::is_whitespace) {
        return Err(
            Invalid::new("white space separates arguments").help("write each argument as its own string")
        );
    }
    not_allowed(text, |c| c.is_ascii_graphic())?;
    not_allowed(text, |c| !"\"'`\\$;|&<>{}#".contains(c))
        .map_err(|invalid| invalid.help("GRUB would read it as its own syntax"))
}

fn user(text: &str) -> Result<(), Invalid> {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c));
    if text.chars().all(|c| c.is_ascii_digit()) && !text.is_empty() {
        return Err(
            Invalid::new("a number").help("write the name: numbers are given by the image's own passwd")
        );
    }
    if !first || !rest || text.len() > 32 {
        return Err(Invalid::new("lower case letters, digits, `_` and `-`, at most 32 characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<T: FromStr<Err = Invalid>>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text} is good");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text} is bad");
        }
    }

    #[test]
    fn grammars() {
        all::<PackageName>(
            &["tor", "libstdc++6", "g++", "0ad", "linux-image-6.12.1-amd64"],
            &["", "x", "Tor", "tor_x", "tor/trixie", "tor=1", "tor:arm64", "tor-", "-tor", "törr", "a b"],
        );
        all::<RecipeName>(
            &["mail", "a1", "web-mail"],
            &["", "Mail", "1a", "a-", "a--b", "a.b", "../a", "a/b"],
        );
        all::<TreeName>(&["mail"], &["amd64", "arm64", ".."]);
        all::<ReleaseVersion>(
            &["0.1.0", "1.2.3-rc.1", "2025.11.1", "1.0.0-0a"],
            &["", "1", "1.0", "v1.0.0", "01.0.0", "1.0.0+b", "1.0.0-", "1.0.0-01", "1.0.x", "1.0.0/.."],
        );
        all::<ModuleName>(&["virtio_blk", "8021q"], &["", "virtio-blk", "ext4.ko", "a b"]);
        all::<UnitName>(
            &["ssh.service", "getty@tty1.service", "dev-sda1.device", "a\\x2db.mount"],
            &["ssh", "ssh.servce", ".service", "@.service", "a b.service", "a/b.service"],
        );
        all::<KernelArg>(
            &["quiet", "console=ttyS0,115200", "a.b=c:d"],
            &["", "a b", "a=\"b\"", "a$b", "a;b", "é"],
        );
        all::<UserName>(&["root", "_apt", "debian-tor"], &["", "0", "Root", "-a", "a b"]);
    }

    #[test]
    fn suggestions_are_themselves_valid() {
        let package =
            |text: &str| text.parse::<PackageName>().unwrap_err().fix().unwrap_or_default().to_owned();
        assert_eq!(package("Tor"), "did you mean `tor`?");
        assert_eq!(package("nano_tiny"), "did you mean `nano-tiny`?");
        assert_eq!(package("ä"), "");
        let version =
            |text: &str| text.parse::<ReleaseVersion>().unwrap_err().fix().unwrap_or_default().to_owned();
        assert_eq!(version("v1.2.0"), "did you mean `1.2.0`?");
        assert_eq!(version("1.2"), "did you mean `1.2.0`?");
        assert_eq!(version("x"), "write it like `1.2.3` or `1.2.3-rc.1`");
        let module =
            |text: &str| text.parse::<ModuleName>().unwrap_err().fix().unwrap_or_default().to_owned();
        assert_eq!(module("usb-storage.ko.xz"), "did you mean `usb_storage`?");
    }
}
