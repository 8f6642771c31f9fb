//! What templates can name.
//!
//! `mx_onion`, `client_onion`, `admin_onion` (with `.onion`), `owner` (local part of the first mailbox),
//! `settings` (see [`Settings`]), `uid` and `gid` (numbers by name, as in `uid["debian-tor"]`),
//! `image.name`, `image.version`, and `arch` as Debian calls it. Beside minijinja's own filters there is `hex`: the
//! bytes of a text as hexadecimal digits.

use anyhow::Result;
use minijinja::Value;
use serde_json::json;

use crate::accounts::Accounts;
use crate::boot::facts::roles;
use crate::image::Image;
use crate::machine::Machine;
use crate::onions::Onion;
use crate::settings::Settings;

/// Collects it. Addresses are missing in an image without Tor.
pub(super) fn make(machine: &Machine<'_>, settings: &Settings, accounts: &Accounts) -> Result<Value> {
    let image = Image::load(machine.fs)?;
    let mut context = json!({
        "owner": settings.owner.mailbox,
        "uid": accounts.uids(),
        "gid": accounts.gids(),
        "image": { "name": image.name, "version": image.version },
        "arch": debian_architecture(),
    });
    if roles(accounts).onion {
        for onion in Onion::ALL {
            context[format!("{onion}_onion")] = json!(onion.address(machine.fs)?.to_string());
        }
    }
    let context = Value::from_serialize(&context);
    // Not through JSON: the settings go straight to the templates, with their secret.
    let settings = Value::from_serialize(settings);
    Ok(minijinja::context! { settings, ..context })
}

fn debian_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
