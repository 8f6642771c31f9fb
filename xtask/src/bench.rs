//! `cargo xtask bench`.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::Common;
use crate::verbs::Site;

pub(crate) fn bench(_site: &Site, _common: &Common, _runs: usize) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
