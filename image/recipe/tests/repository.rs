//! The recipes and the overlay of this repository, as they are.

use camino::Utf8PathBuf;
use recipe::{Arch, Plan};

fn root() -> Utf8PathBuf {
    Utf8PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn mail() -> Plan {
    let plan = recipe::plan(&root().join("recipes/mail.toml"), &root().join("overlay"), Arch::Amd64);
    plan.unwrap_or_else(|findings| panic!("{findings}"))
}

#[test]
fn every_recipe_plans_for_all_its_architectures() {
    let mut count = 0;
    for entry in root().join("recipes").read_dir_utf8().unwrap() {
        let path = entry.unwrap().into_path();
        if path.extension() == Some("toml") {
            let recipe = recipe::load(&path).unwrap_or_else(|findings| panic!("{findings}"));
            assert_eq!(path.file_stem(), Some(recipe.name().as_str()), "a recipe's file has its name");
            for arch in recipe.architectures() {
                let plan = recipe::plan(&path, &root().join("overlay"), arch);
                plan.unwrap_or_else(|findings| panic!("{findings}"));
                count += 1;
            }
        }
    }
    assert!(count > 0);
}

#[test]
fn mail_leaves_out_documentation_and_keeps_licences() {
    let mail = mail();
    let strip = mail.strip();
    for gone in [
        "/usr/share/doc/tor/changelog.Debian.gz",
        "/usr/share/doc/tor/NEWS.gz",
        "/usr/share/doc/tor/examples/torrc",
        "/usr/share/doc/tor/contrib/copyright",
        "/usr/share/man/man1/tor.1.gz",
        "/usr/share/man/de/man1/ls.1.gz",
        "/usr/share/info/dir",
        "/usr/share/lintian/overrides/tor",
        "/usr/share/bug/tor/control",
        "/usr/share/locale/de",
        "/usr/share/locale/de/LC_MESSAGES/systemd.mo",
        "/usr/share/locale/lt/LC_MESSAGES/systemd.mo",
    ] {
        assert!(strip.is_stripped(gone), "{gone}");
    }
    for kept in [
        "/usr/share/doc",
        "/usr/share/doc/tor",
        "/usr/share/doc/tor/copyright",
        "/usr/share/common-licenses/GPL-3",
        "/usr/share/locale",
        "/usr/share/locale/locale.alias",
        "/usr/share/zoneinfo/UTC",
        "/usr/bin/tor",
        "/etc/tor/torrc",
    ] {
        assert!(!strip.is_stripped(kept), "{kept}");
    }
}

/// The example on the reference page is a recipe, for both architectures.
#[test]
fn the_example_of_the_reference_is_a_recipe() {
    let example = include_str!("../src/schema/example.toml");
    let recipe = recipe::parse("example.toml", example).unwrap_or_else(|findings| panic!("{findings}"));
    assert_eq!(recipe.architectures().collect::<Vec<_>>(), Arch::ALL);
}
