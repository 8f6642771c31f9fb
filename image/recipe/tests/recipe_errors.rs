//! Every way in which a recipe file can be wrong, as a person sees it. One snapshot each.

const GOOD: &str = r#"schema = 1
name = "mail"
version = "1.2.0"

[debian]
suite = "trixie"
components = ["main", "non-free-firmware"]

[packages]
common = ["systemd-sysv", "tor"]
amd64 = ["linux-image-amd64"]

[hardware.amd64]
firmware = ["bios", "uefi"]
cmdline = ["quiet"]
initramfs_modules = ["erofs"]

[disk]
boot = "512MiB"
root = "1GiB"
data = "64MiB"

[overlay]
trees = ["common"]

[units]
enable = ["ssh.service"]
mask = ["apt-daily.timer"]

[strip]
paths = ["/usr/share/man/**"]

[settings]
size = 1

[release]
source_date = 2025-11-01T00:00:00Z
"#;

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(GOOD.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from:?} stands once in the recipe");
        text.replace(from, to)
    })
}

fn report(text: &str) -> String {
    match recipe::parse("recipes/mail.toml", text) {
        Ok(_) => panic!("the recipe passed:\n{text}"),
        Err(findings) => findings.to_string(),
    }
}

/// `name: from => to, …`: a test that edits the good recipe and compares the report with the snapshot `name`.
macro_rules! wrong {
    ($($name:ident: $($from:literal => $to:literal),+;)+) => {
        $(#[test] fn $name() {
            insta::assert_snapshot!(stringify!($name), report(&edited(&[$(($from, $to)),+])));
        })+
    };
}

#[test]
fn the_unedited_recipe_is_good() {
    recipe::parse("recipes/mail.toml", GOOD).unwrap();
}

wrong! {
    unknown_key: "suite =" => "siute =";
    unknown_key_far_from_all: "suite = \"trixie\"" => "suite = \"trixie\"\nx-ray = 1";
    misspelt_required_table: "[hardware.amd64]" => "[hardwear.amd64]";
    hardware_without_machine: "[hardware.amd64]\nfirmware = [\"bios\", \"uefi\"]\ncmdline = [\"quiet\"]\ninitramfs_modules = [\"erofs\"]\n"
        => "[hardware]\n";
    unknown_table: "[units]" => "[unit]";
    unknown_key_in_hardware: "initramfs_modules" => "initramfs_module";
    wrong_type_string: "\"mail\"" => "1";
    wrong_type_list: "[\"ssh.service\"]" => "\"ssh.service\"";
    wrong_type_item: "[\"quiet\"]" => "[\"quiet\", 4]";
    wrong_type_table: "[settings]\nsize = 1\n" => "", "schema = 1" => "schema = 1\nsettings = \"x\"";
    wrong_type_hardware: "[hardware.amd64]\nfirmware = [\"bios\", \"uefi\"]\ncmdline = [\"quiet\"]\ninitramfs_modules = [\"erofs\"]\n"
        => "[hardware]\namd64 = true\n";
    missing_key: "suite = \"trixie\"\n" => "";
    missing_top_level_key: "version = \"1.2.0\"\n" => "";
    missing_table: "[disk]\nboot = \"512MiB\"\nroot = \"1GiB\"\ndata = \"64MiB\"\n" => "";
    empty_list: "[\"bios\", \"uefi\"]" => "[]";
    schema_of_tomorrow: "schema = 1" => "schema = 2", "suite =" => "series =";
    schema_missing: "schema = 1\n" => "";
    bad_recipe_name: "\"mail\"" => "\"Mail Server\"";
    bad_version: "\"1.2.0\"" => "\"v1.2\"";
    unknown_suite: "\"trixie\"" => "\"trixe\"";
    suite_that_moves: "\"trixie\"" => "\"stable\"";
    suite_of_another_release: "\"trixie\"" => "\"bookworm\"";
    bad_component: "\"non-free-firmware\"" => "\"nonfree-firmware\"";
    main_missing: "\"main\", " => "";
    bad_mirror: "suite = \"trixie\"" => "suite = \"trixie\"\nmirror = \"ftp://localhost/debian\"";
    mirror_with_login: "suite = \"trixie\"" => "suite = \"trixie\"\nmirror = \"https://me:secret@localhost/debian\"";
    bad_pocket: "suite = \"trixie\"" => "suite = \"trixie\"\npockets = [\"security\", \"update\"]";
    backports_without_pocket: "suite = \"trixie\"" => "suite = \"trixie\"\npockets = [\"security\"]",
        "amd64 = [\"linux" => "backports = [\"tor\"]\namd64 = [\"linux";
    backports_not_installed: "amd64 = [\"linux" => "backports = [\"torr\"]\namd64 = [\"linux";
    bad_package_name: "\"tor\"" => "\"Tor\"";
    package_with_suite: "\"tor\"" => "\"tor/trixie-backports\"";
    package_with_version: "\"tor\"" => "\"tor=0.4.9.1-1\"";
    duplicate_package_in_list: "\"tor\"]" => "\"tor\", \"less\", \"tor\"]";
    duplicate_package_across_lists: "[\"linux-image-amd64\"]" => "[\"linux-image-amd64\", \"tor\"]";
    kernel_in_common: "\"tor\"" => "\"tor\", \"linux-image-cloud-amd64\"";
    no_kernel: "\"linux-image-amd64\"" => "\"less\"";
    two_kernels: "[\"linux-image-amd64\"]" => "[\"linux-image-amd64\", \"linux-image-rt-amd64\"]";
    packages_without_hardware: "amd64 = [\"linux" => "arm64 = [\"raspi-firmware\"]\namd64 = [\"linux";
    unknown_arch_in_hardware: "[hardware.amd64]" => "[hardware.amd46]";
    unknown_arch_in_packages: "amd64 = [\"linux" => "riscv64 = [\"less\"]\namd64 = [\"linux";
    unknown_firmware: "\"bios\"" => "\"boot-rom\"";
    firmware_of_another_arch: "\"bios\"" => "\"raspberrypi\"";
    pi_without_firmware_component: "[hardware.amd64]" => "[hardware.arm64]\nfirmware = [\"raspberrypi\"]\n\n[hardware.amd64]",
        "amd64 = [\"linux" => "arm64 = [\"linux-image-arm64\"]\namd64 = [\"linux", ", \"non-free-firmware\"" => "";
    bad_kernel_argument_space: "\"quiet\"" => "\"quiet loglevel=4\"";
    bad_kernel_argument_quote: "\"quiet\"" => "'init=\"/bin/sh\"'";
    bad_module_name: "\"erofs\"" => "\"usb-storage\"";
    bad_size: "\"512MiB\"" => "\"512MB\"";
    bad_size_without_unit: "\"512MiB\"" => "\"512\"";
    size_as_number: "\"512MiB\"" => "536870912";
    size_not_aligned: "\"1GiB\"" => "\"1048577KiB\"";
    sizes_below_the_least: "\"512MiB\"" => "\"63MiB\"", "\"1GiB\"" => "\"1MiB\"", "\"64MiB\"" => "\"15MiB\"";
    size_beyond_all_disks: "\"1GiB\"" => "\"99999999999TiB\"";
    bad_tree_name: "[\"common\"]" => "[\"../common\"]";
    tree_of_an_arch: "[\"common\"]" => "[\"common\", \"amd64\"]";
    unit_without_type: "\"ssh.service\"" => "\"ssh\"";
    unit_with_unknown_type: "\"ssh.service\"" => "\"ssh.servcie\"";
    unit_enabled_and_masked: "\"apt-daily.timer\"" => "\"apt-daily.timer\", \"ssh.service\"";
    template_enabled: "\"ssh.service\"" => "\"getty@.service\"";
    glob_not_absolute: "\"/usr/share/man/**\"" => "\"usr/share/man/**\"";
    glob_with_stuck_stars: "\"/usr/share/man/**\"" => "\"/usr/share/man**\"";
    glob_that_does_not_compile: "\"/usr/share/man/**\"" => "\"/usr/share/{man,info\"";
    source_date_without_offset: "2025-11-01T00:00:00Z" => "2025-11-01";
    source_date_too_old: "2025-11-01T00:00:00Z" => "0";
    source_date_as_string: "2025-11-01T00:00:00Z" => "\"yesterday\"";
    settings_number_out_of_range: "size = 1\n" => "size = 99999999999999999999\n";
    syntax_value_missing: "suite = \"trixie\"" => "suite =";
    syntax_several: "[packages]" => "[packages", "root = \"1GiB\"" => "root = 1GiB";
    syntax_key_twice: "name = \"mail\"" => "name = \"mail\"\nname = \"mail\"";
    syntax_string_open: "\"64MiB\"" => "\"64MiB";
    syntax_no_such_day: "2025-11-01T" => "2025-02-30T";
    multi_byte_text_before: "suite = \"trixie\"" => "# größer, 大きい, 📧\nmirror = \"file:///srv/größer\"\nsuite = \"trixie\"";
    tab_before: "suite = \"trixie\"" => "\tsuite =\t\"trixe\"";
}

#[test]
fn many_errors_in_one_run() {
    let text = edited(&[
        ("\"mail\"", "\"Mail\""),
        ("suite = \"trixie\"", "suit = \"trixie\""),
        ("\"tor\"", "\"tor\", \"Less\", \"tor\""),
        ("\"bios\"", "\"raspberrypi\""),
        ("\"quiet\"", "\"quiet loglevel=4\""),
        ("\"1GiB\"", "\"1GB\""),
        ("\"apt-daily.timer\"", "\"apt-daily.timr\", \"ssh.service\""),
        ("[settings]", "[seting]"),
    ]);
    insta::assert_snapshot!("many_errors", report(&text));
}

#[test]
fn an_empty_file_lacks_everything() {
    insta::assert_snapshot!("empty_file", report(""));
}

/// Windows line ends and a byte order mark move no span: the reports say the same.
#[test]
fn line_ends_and_byte_order_mark_change_nothing() {
    let text = edited(&[("\"trixie\"", "\"trixe\""), ("\"ssh.service\"", "\"ssh\"")]);
    let crlf = text.replace('\n', "\r\n");
    assert_eq!(report(&crlf), report(&text));
    assert_eq!(report(&format!("\u{feff}{crlf}")), report(&text));
}

#[test]
fn colours_only_when_told() {
    let findings = recipe::parse("r.toml", &edited(&[("\"trixie\"", "\"trixe\"")])).unwrap_err();
    assert!(!findings.render(recipe::Style::Plain).contains('\u{1b}'));
    assert!(findings.render(recipe::Style::Coloured).contains('\u{1b}'));
}

#[test]
fn findings_say_where_they_are() {
    let findings = recipe::parse("r.toml", &edited(&[("\"mail\"", "\"Mail\"")])).unwrap_err();
    let finding = findings.iter().next().unwrap();
    assert_eq!(finding.message(), "bad recipe name `Mail`");
    assert_eq!(finding.severity(), recipe::Severity::Error);
    assert_eq!(finding.spot().unwrap().line_column(), (2, 8));
}

proptest::proptest! {
    /// Whatever is cut out of a recipe, the report renders.
    #[test]
    fn no_damage_makes_the_reader_panic(start in 0..GOOD.len(), length in 0_usize..80, filler in "[\\[\\]\"=a-c \n\u{e9}]{0,4}") {
        let end = (start + length).min(GOOD.len());
        let text = format!("{}{filler}{}", &GOOD[..start], &GOOD[end..]);
        if let Err(findings) = recipe::parse("r.toml", &text) {
            proptest::prop_assert!(findings.to_string().contains("error"));
        }
    }
}
