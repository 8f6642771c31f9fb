//! TOML to [`Recipe`] to [`Plan`]: what an image is made of, checked before anything is made.
//!
//! The way in is [`plan()`]: recipe file, overlay folder and architecture in; a [`Plan`] out, or every problem of
//! all those files in one report ([`Diagnostics`]), each with its source line underlined and a way to mend it.
//! The reference of the recipe file is [`schema`], that of overlay trees is [`overlay`], that of the owner table
//! is [`owners`].
//!
//! Never here: running commands, network, writing files, the time of day. Reading happens in [`load()`], [`plan()`]
//! and [`Overlay::load`] only.

mod diagnostic;
mod disk;
mod load;
pub mod overlay;
pub mod owners;
mod plan;
mod reader;
mod recipe;
pub mod schema;
mod source;
mod suggest;
pub mod types;

pub use diagnostic::{Diagnostic, Diagnostics, Severity, Style};
pub use disk::{ContentSizes, Disk};
pub use load::{load, parse, plan};
pub use overlay::Overlay;
pub use owners::{Mode, Owners};
pub use plan::Plan;
pub use recipe::Recipe;
pub use source::{Located, Source, Spot};
pub use types::{
    Arch, ByteSize, Component, Firmware, Glob, KernelArg, Mirror, ModuleName, PackageName, Pocket,
    RecipeName, ReleaseVersion, StripRules, Suite, TreeName, UnitName, UserName,
};
