//! The edge: opens recipe files. Everything else in this crate, overlay trees excepted, works on text.

use camino::{Utf8Path, Utf8PathBuf};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::recipe::Recipe;
use crate::source::Source;
use crate::types::Arch;
use crate::{schema, suggest};

/// Parses a recipe. `file_name` is only shown.
///
/// # Errors
/// Every problem of the text, at once.
pub fn parse(file_name: &str, text: &str) -> Result<Recipe, Diagnostics> {
    parse_source(&Source::new(file_name, text))
}

fn parse_source(source: &Source) -> Result<Recipe, Diagnostics> {
    let mut findings = Diagnostics::new();
    let (recipe, _) = schema::read(source, &mut findings);
    findings.or(recipe)
}

/// Reads and parses a recipe file.
///
/// # Errors
/// If the file cannot be read (a missing one names the recipes beside it), is not UTF-8, or is not a sound
/// recipe: every problem at once.
pub fn load(recipe_path: &Utf8Path) -> Result<Recipe, Diagnostics> {
    parse_source(&open(recipe_path)?)
}

/// The whole way from files to the plan of one architecture.
///
/// # Errors
/// Every problem of recipe, overlay trees and owner table in one report.
pub fn plan(recipe_path: &Utf8Path, overlay_dir: &Utf8Path, arch: Arch) -> Result<Plan, Diagnostics> {
    let source = open(recipe_path)?;
    let mut findings = Diagnostics::new();
    let (recipe, trees) = schema::read(&source, &mut findings);
    findings.extend(recipe.as_ref().and_then(|recipe| recipe.check_arch(arch)));
    let overlay = Overlay::read(overlay_dir, &trees.unwrap_or_default(), arch, &mut findings);
    let (recipe, overlay) = findings.or(recipe.zip(overlay))?;
    recipe.resolve(arch, overlay)
}

fn open(path: &Utf8Path) -> Result<Source, Diagnostics> {
    match std::fs::read(path) {
        Ok(bytes) => Source::from_bytes(path.as_str(), &bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(missing(path).into()),
        Err(error) => Err(Diagnostic::error(format!("opening recipe {path}: {error}")).into()),
    }
}

fn missing(path: &Utf8Path) -> Diagnostic {
    let folder = match path.parent() {
        Some(parent) if !parent.as_str().is_empty() => parent,
        _ => Utf8Path::new("."),
    };
    let finding = Diagnostic::error(format!("no recipe {path}"));
    let Ok(entries) = folder.read_dir_utf8() else {
        return finding.help(format!("there is no folder {folder} either: run from the top of the checkout"));
    };
    let mut there: Vec<Utf8PathBuf> = (entries.flatten().map(|entry| entry.into_path()))
        .filter(|path| path.extension() == Some("toml") && path.is_file())
        .collect();
    there.sort();
    let stems: Vec<&str> = there.iter().filter_map(|path| path.file_stem()).collect();
    match suggest::closest(path.file_stem().unwrap_or_default(), stems.iter().copied()) {
        Some(stem) => finding.help(format!("did you mean {}?", folder.join(format!("{stem}.toml")))),
        None => finding.help(format!("recipes in {folder}: {}", suggest::listing(stems))),
    }
}
