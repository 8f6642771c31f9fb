//! What a first start makes, that it never makes it twice, and who gets to know it.
//!
//! [`phase`] looks at a finished appliance from all sides. It has no machine of its own: `power` has one that lost its
//! power in its first start. `settings` is the scenario of an owner whose settings are wrong. (A machine without
//! settings is that of the scenarios of the firmware.)

mod cases;
mod faults;
mod keys;
mod secrets;
mod settings;
mod wifi;

pub(crate) use keys::identity;
pub(crate) use secrets::owner_key;
pub(crate) use settings::WrongSettings;

use qemu::RunDir;

use crate::appliance::Appliance;
use crate::check::{Phase, check};

/// A machine in its first start, and what is known of it.
pub(crate) struct State {
    pub(crate) appliance: Appliance,
    /// Where the owner's SSH key lies.
    owner: RunDir,
    waiting: secrets::Waiting,
}

impl State {
    /// Of a machine that was just switched on, with settings that name the key that [`owner_key`] made in that folder.
    pub(crate) fn new(appliance: Appliance, owner: RunDir) -> Self {
        Self { appliance, owner, waiting: secrets::Waiting::default() }
    }

    /// Waits for the end of the boot, and sees all command lines on the way there.
    pub(crate) fn wait_boot(&mut self) -> anyhow::Result<()> {
        secrets::watch_command_lines(&mut self.appliance)?;
        self.appliance.wait_boot()
    }
}

/// What the machine is once its first start is over. Later checks change it more than earlier ones.
pub(crate) fn phase() -> Phase<State> {
    let checks = vec![
        check("key_files_match_tor", &["R3"], keys::key_files_match_tor),
        check("hs_dirs_0700_debian_tor", &["R3", "R42"], keys::hs_dirs),
        check("console_shows_hand_over", &["R49"], secrets::console),
        check("credentials_never_in_journal", &["R42", "R49"], secrets::never_in_journal),
        check("credentials_not_readable_by_others", &["R42", "R49"], secrets::not_readable_by_others),
        check("claim_by_ssh_key_decrypts", &["R49"], secrets::claim),
        check("claimed_credentials_log_in", &["R14", "R49"], secrets::log_in),
        check("welcome_has_no_secret", &["R49"], secrets::welcome),
        check("refused_configuration_changes_nothing", &[], faults::refused),
        check("disk_full_explains", &[], faults::disk_full),
        check("first_login_shows_credentials_once", &["R49"], secrets::first_login),
        check("ack_forgets_credentials", &["R42", "R49"], secrets::acknowledged),
    ];
    Phase::after(secrets::learn, checks)
}
