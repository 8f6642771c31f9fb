//! The setting `mail.imap = "webmail-only"`.

use std::time::Duration;

use clients::Refused;
use qemu::Deadline;

use super::State;
use crate::check::{Check, Verdict, check, none_of};
use crate::site::ONION;

/// From applied settings to closed ports: Tor reads them at once.
const SOON: u64 = 60;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![check("webmail_only_closes_993_and_465", &["R17"], webmail_only)]
}

fn webmail_only(state: &mut State) -> Verdict {
    let script = "{ cat /var/lib/cipolla/private/settings.toml; echo '[mail]'; echo 'imap = \"webmail-only\"'; } \
        >/run/webonly.toml && cipolla settings apply /run/webonly.toml";
    state.resident.appliance.read(script)?;
    let site = &state.site;
    let mut findings = Vec::new();
    let deadline = Deadline::seconds(SOON);
    for port in [993, 465] {
        // Every time a new circuit: an old one may have been made for the ports of before.
        let open = (0_u32..).find_map(|number| {
            let circuit = format!("webmail-only {port} {number}");
            match site.door.connect_once(&circuit, &site.client, port, Deadline::seconds(ONION)) {
                Err(error) if error.is::<Refused>() => Some(None),
                Err(error) => Some(Some(format!("port {port}: {error:#}"))),
                Ok(_) if deadline.left().is_none() => Some(Some(format!("port {port} is open"))),
                Ok(_) => {
                    std::thread::sleep(Duration::from_millis(500));
                    None
                }
            }
        });
        findings.extend(open.flatten());
    }
    let channel = site.door.connect("the webmail stays", &site.client, 80, Deadline::seconds(ONION))?;
    let page = clients::get(channel, &site.client, "/", Some(("ada", &site.web)))?;
    if page.status != 200 {
        findings.push(format!("the webmail answers {}", page.status));
    }
    none_of(&findings)
}
