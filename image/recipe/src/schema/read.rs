//! TOML to [`Recipe`], section by section. Each section reads its own keys; what spans sections is in
//! [`super::rules`].

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{VERSION, rules};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::disk::{ALIGNMENT, Disk};
use crate::reader::{self, Key, Reader, Table, key};
use crate::recipe::{Debian, Hardware, Packages, Recipe, Units};
use crate::source::{Located, Source};
use crate::types::{self, Arch, ByteSize, Pocket, StripRules, TreeName};

/// The overlay trees of a recipe, known even when other parts of it are wrong.
type Trees = Vec<Located<TreeName>>;

/// Reads a recipe. The recipe is there only if there are no errors; the trees whenever they could be read.
pub(crate) fn read(
    source: &Source,
    findings: &mut Diagnostics,
) -> (Option<Recipe>, Option<Vec<Located<TreeName>>>) {
    let Some(document) = reader::document(source, findings) else { return (None, None) };
    let mut reader = Reader::new(source, findings);
    let mut root = Table::root(&document);
    if !root.is_schema(&mut reader, VERSION) {
        return (None, None);
    }
    let recipe = read_root(&mut reader, root, source, &document);
    let trees = recipe.trees.clone();
    (recipe.build(source).filter(|_| !findings.has_errors()), Some(trees))
}

/// A recipe of which parts may be missing.
struct Draft {
    name: Option<Located<types::RecipeName>>,
    version: Option<Located<types::ReleaseVersion>>,
    debian: Option<Debian>,
    packages: Packages,
    hardware: Vec<(Arch, Hardware)>,
    disk: Option<Disk>,
    trees: Trees,
    units: Units,
    strip: StripRules,
    settings: Option<String>,
    source_date: Option<u64>,
}

impl Draft {
    fn build(self, source: &Source) -> Option<Recipe> {
        Some(Recipe {
            source: source.clone(),
            name: self.name?.value,
            version: self.version?.value,
            debian: self.debian?,
            packages: self.packages,
            hardware: self.hardware.into_iter().collect(),
            disk: self.disk?,
            trees: self.trees,
            units: self.units,
            strip: self.strip,
            settings: self.settings?,
            source_date: self.source_date,
        })
    }
}

fn read_root(
    reader: &mut Reader<'_>,
    mut root: Table<'_>,
    source: &Source,
    document: &Spanned<DeTable<'_>>,
) -> Draft {
    let name = root.required_word(reader, key("name", "name = \"mail\""));
    let version = root.required_word(reader, key("version", "version = \"1.0.0\""));
    let debian_table = root.required_table(reader, "debian");
    let packages = root.required_table(reader, "packages").map(|table| packages(reader, table));
    let hardware = root.required_table(reader, "hardware").map(|table| hardware(reader, &table));
    let has_backports = packages.as_ref().is_some_and(|packages| !packages.backports.is_empty());
    let debian = debian_table.and_then(|table| debian(reader, table, has_backports));
    let disk = root.required_table(reader, "disk").and_then(|table| disk(reader, table));
    let trees = root.table(reader, "overlay").map(|table| overlay(reader, table)).unwrap_or_default();
    let units = root.table(reader, "units").map(|table| units(reader, table)).unwrap_or_default();
    let strip = root.table(reader, "strip").map(|table| strip(reader, table));
    let settings = settings(reader, &mut root, source, document);
    let source_date = root.table(reader, "release").and_then(|table| release(reader, table));
    root.finish(reader);

    // Without any table that could be read, every package list would look unused.
    if let (Some(packages), Some(hardware)) = (&packages, &hardware)
        && !hardware.is_empty()
    {
        rules::hardware(reader, packages, hardware, debian.as_ref());
    }
    Draft {
        name,
        version,
        debian,
        packages: packages.unwrap_or_default(),
        hardware: hardware.unwrap_or_default(),
        disk,
        trees,
        units,
        strip: strip.unwrap_or_else(|| StripRules::new(vec![], vec![])),
        settings,
        source_date,
    }
}

fn debian(reader: &mut Reader<'_>, mut table: Table<'_>, has_backports: bool) -> Option<Debian> {
    const POCKETS: Key = key("pockets", "pockets = [\"updates\", \"security\"]");
    let suite = table.required_word(reader, key("suite", "suite = \"trixie\""));
    let components = table.required_words(reader, key("components", "components = [\"main\"]"));
    let mirror = table.word(reader, key("mirror", "mirror = \"file:///srv/mirror/debian\""));
    let is_named = table.has(POCKETS);
    let named = Some(table.words(reader, POCKETS)).filter(|_| is_named);
    rules::components(reader, &components);
    if let Some(pockets) = &named {
        rules::pockets(reader, &table, pockets, has_backports);
    }
    table.finish(reader);
    let default =
        [Pocket::Updates, Pocket::Security].into_iter().chain(has_backports.then_some(Pocket::Backports));
    Some(Debian {
        suite: suite?.value,
        components: components.iter().map(|component| component.value).collect(),
        mirror: mirror.map(|mirror| mirror.value),
        pockets: named
            .map_or_else(|| default.collect(), |named| named.iter().map(|pocket| pocket.value).collect()),
        component_spots: components,
    })
}

fn packages(reader: &mut Reader<'_>, mut table: Table<'_>) -> Packages {
    let common = table.required_words(reader, key("common", "common = [\"systemd-sysv\"]"));
    let amd64 = table.words(reader, key("amd64", "amd64 = [\"linux-image-amd64\"]"));
    let arm64 = table.words(reader, key("arm64", "arm64 = [\"linux-image-arm64\"]"));
    let backports = table.words(reader, key("backports", "backports = [\"linux-image-arm64\"]"));
    table.finish(reader);
    let packages = Packages { common, amd64, arm64, backports };
    rules::packages(reader, &packages);
    packages
}

fn hardware(reader: &mut Reader<'_>, table: &Table<'_>) -> Vec<(Arch, Hardware)> {
    let header = table.spot(reader);
    let tables = table.tables_by::<Arch>(reader);
    if table.is_empty() {
        reader.push(
            Diagnostic::error("no architecture in [hardware]")
                .at(header, "")
                .help("add a table [hardware.amd64] or [hardware.arm64]"),
        );
    }
    tables.into_iter().map(|(arch, table)| (arch, hardware_of(reader, arch, table))).collect()
}

fn hardware_of(reader: &mut Reader<'_>, arch: Arch, mut table: Table<'_>) -> Hardware {
    let firmware = table.required_words(reader, key("firmware", "firmware = [\"uefi\"]"));
    let cmdline = table.words(reader, key("cmdline", "cmdline = [\"quiet\", \"loglevel=4\"]"));
    let modules = table.words(reader, key("initramfs_modules", "initramfs_modules = [\"erofs\", \"ext4\"]"));
    let header = table.spot(reader);
    table.finish(reader);
    rules::firmware(reader, arch, &firmware);
    Hardware {
        header,
        firmware,
        cmdline: cmdline.into_iter().map(|item| item.value).collect(),
        initramfs_modules: modules.into_iter().map(|item| item.value).collect(),
    }
}

fn disk(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<Disk> {
    let boot = partition(reader, &mut table, key("boot", "boot = \"512MiB\""), 64);
    let root = partition(reader, &mut table, key("root", "root = \"1GiB\""), 64);
    let data = partition(reader, &mut table, key("data", "data = \"64MiB\""), 16);
    table.finish(reader);
    Some(Disk { boot: boot?, root: root?, data: data? })
}

fn partition(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    key: Key,
    least: u64,
) -> Option<Located<ByteSize>> {
    let size = table.required_word::<ByteSize>(reader, key)?;
    let finding = Diagnostic::error(format!("bad size `{}` of the {} partition", size.value, key.name));
    let least = ByteSize::from_mib(least).expect("least sizes are small");
    if size.value < least {
        reader.push(
            finding
                .at(size.spot.clone(), format!("at least {least}"))
                .help(format!("write `{}`", key.example)),
        );
    } else if !size.value.bytes().is_multiple_of(ALIGNMENT.bytes()) {
        let help = format!("write `{} = \"{}\"`", key.name, size.value.round_up(ALIGNMENT));
        reader.push(finding.at(size.spot.clone(), "not a multiple of 1MiB").help(help));
    }
    Some(size)
}

fn overlay(reader: &mut Reader<'_>, mut table: Table<'_>) -> Trees {
    let named: Trees = table.words(reader, key("trees", "trees = [\"common\", \"mail\"]"));
    table.finish(reader);
    // A tree named twice has its finding already; walking it twice would make each file clash with itself.
    let mut trees: Trees = vec![];
    for tree in named {
        if !trees.iter().any(|known| known.value == tree.value) {
            trees.push(tree);
        }
    }
    trees
}

fn units(reader: &mut Reader<'_>, mut table: Table<'_>) -> Units {
    let enable = table.words(reader, key("enable", "enable = [\"ssh.service\"]"));
    let mask = table.words(reader, key("mask", "mask = [\"apt-daily.timer\"]"));
    table.finish(reader);
    rules::units(reader, &enable, &mask);
    Units {
        enable: enable.into_iter().map(|unit| unit.value).collect(),
        mask: mask.into_iter().map(|unit| unit.value).collect(),
    }
}

fn strip(reader: &mut Reader<'_>, mut table: Table<'_>) -> StripRules {
    let paths = table.words(reader, key("paths", "paths = [\"/usr/share/man/**\"]"));
    let keep = table.words(reader, key("keep", "keep = [\"/usr/share/doc/*/copyright\"]"));
    table.finish(reader);
    let globs = |list: Vec<Located<_>>| list.into_iter().map(|glob| glob.value).collect();
    StripRules::new(globs(paths), globs(keep))
}

/// The table as TOML of its own: same values, keys in order, comments gone, so that a new comment in the recipe
/// does not change the image.
fn settings(
    reader: &mut Reader<'_>,
    root: &mut Table<'_>,
    source: &Source,
    document: &Spanned<DeTable<'_>>,
) -> Option<String> {
    const SETTINGS: Key = key("settings", "[settings]");
    let Some(value) = root.value(SETTINGS) else { return Some(String::new()) };
    if !value.get_ref().is_table() {
        reader.wrong_type(SETTINGS.name, value, "a table", SETTINGS.example);
        return None;
    }
    // Numbers are range-checked only now, and in the whole file; those of other sections have their own checks.
    let mut whole = match toml::from_str::<toml::Table>(source.text()) {
        Ok(whole) => whole,
        Err(error) => {
            let span = error.span().unwrap_or_else(|| document.span());
            let spot = reader.spot(span);
            reader.push(Diagnostic::error("number out of range").at(spot, "does not fit 64 bits"));
            return None;
        }
    };
    let settings = whole.remove(SETTINGS.name)?;
    Some(toml::to_string(&settings).expect("a TOML table is valid TOML"))
}

fn release(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<u64> {
    const SOURCE_DATE: Key = key("source_date", "source_date = 2025-11-01T00:00:00Z");
    let value = table.value(SOURCE_DATE);
    table.finish(reader);
    let value = value?;
    let (text, result) = match value.get_ref() {
        DeValue::Datetime(datetime) => (datetime.to_string(), types::from_datetime(datetime)),
        DeValue::Integer(integer) => {
            let seconds = i64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i64::MIN);
            (integer.to_string(), types::unix_seconds(seconds))
        }
        _ => {
            let wanted = "a date-time or seconds since 1970";
            reader.wrong_type("release.source_date", value, wanted, SOURCE_DATE.example);
            return None;
        }
    };
    match result {
        Ok(seconds) => Some(seconds),
        Err(invalid) => {
            let spot = reader.spot(value.span());
            reader.refuse("source date", &text, &invalid, spot);
            None
        }
    }
}
