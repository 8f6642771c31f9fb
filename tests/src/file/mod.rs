//! The image file without booting it: partition table, loaders, root file system, and what must not be in it.

mod contents;
mod layout;
mod scan;
mod secrets;

use std::borrow::Cow;

use qemu::Probe;

use crate::Context;
use crate::check::{Evidence, Phase, Scenario, check, gate};
use crate::image::Opened;

/// The scenario.
pub(crate) struct File;

impl Scenario for File {
    type State = Opened;

    fn name(&self) -> Cow<'static, str> {
        "file".into()
    }

    fn about(&self) -> Cow<'static, str> {
        "the image file, taken apart without booting it".into()
    }

    fn machines(&self) -> usize {
        0
    }

    fn start(&self, ctx: &Context, _: &Probe) -> anyhow::Result<Opened> {
        Opened::open(ctx, &self.name())
    }

    fn phases(&self, ctx: &Context) -> Vec<Phase<Opened>> {
        let mut checks = vec![
            gate("partition_table_valid", &[], layout::partition_table_valid),
            check("partitions_are_ours", &[], layout::partitions_are_ours),
        ];
        if ctx.arch == qemu::Arch::Amd64 {
            checks.push(check("bios_boot_code_in_place", &[], layout::bios_boot_code_in_place));
        }
        checks.extend([
            check("esp_has_both_loaders", &[], layout::esp_has_both_loaders),
            check("root_is_erofs_and_fits", &["R47"], layout::root_is_erofs_and_fits),
            check("manifest_matches_root", &["R10"], contents::manifest_matches_root),
            check("no_secret_in_any_byte", &["R49"], secrets::no_secret_in_any_byte),
            check("no_secret_file", &["R49"], secrets::no_secret_file),
            check("no_build_path_or_hostname", &[], secrets::no_build_path_or_hostname),
            check("setuid_set_is_known", &["R53"], contents::setuid_set_is_known),
            check("nothing_world_writable", &["R53"], contents::nothing_world_writable),
            check("no_compiler_no_pop3_no_telnet", &["R39", "R53"], contents::no_compiler_no_pop3_no_telnet),
            check("config_golden_per_arch", &[], contents::config_golden_per_arch),
        ]);
        vec![Phase::of(checks)]
    }

    fn evidence(&self, _: &mut Opened) -> Vec<Evidence> {
        Vec::new()
    }

    fn reach(&self, state: &Opened) -> Option<String> {
        Some(format!("the files are in {} and {}", state.root.display(), state.boot.display()))
    }
}
