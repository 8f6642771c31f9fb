//! Certificates that run out while the appliance runs: it makes new ones, and its servers have them at once.

use anyhow::Context as _;
use qemu::Deadline;

use super::State;
use super::tls::{PORTS, certify, take_authority};
use crate::check::{Check, Verdict, check, none_of};
use crate::site::{Account, DIALOGUE};
use crate::vantage::words;

/// From the setting of the clock to new files, in seconds.
const NOTICED: u64 = 120;

/// The beginning and the end of a certificate in PEM.
const PEM: [&str; 2] = ["-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"];

pub(super) fn checks() -> Vec<Check<State>> {
    vec![check("certificates_are_renewed_while_running", &["R22"], renewed)]
}

/// Both certificates are replaced by some with two days left. Then the clock is set, to the time that it has.
fn renewed(state: &mut State) -> Verdict {
    let site = &state.site;
    let onions = [("mx", site.mx.clone()), ("client", site.client.clone())];
    take_authority(state)?;
    for (name, onion) in &onions {
        let own = *name == "mx";
        certify(state, onion, !own)?;
        let mut text = String::new();
        for part in ["leaf.key", "leaf.crt", "ca.crt"].iter().filter(|part| !own || **part != "ca.crt") {
            text.push_str(&fs_err::read_to_string(state.folder.join(part))?);
        }
        let put = format!("cat >/var/lib/cipolla/private/{name}.pem <<'END'\n{text}END\n");
        state.resident.appliance.read(&put)?;
    }
    let servers = "systemctl show -P MainPID postfix.service dovecot.service";
    let before = state.resident.appliance.read(servers)?;
    let script = format!(
        "cd /var/lib/cipolla/private && mkdir /run/due && cp mx.pem client.pem /run/due
         systemctl is-active cipolla-renew.timer; systemctl show -P NextElapseUSecRealtime cipolla-renew.timer
         date -s \"$(date -uR)\" >&2
         for n in $(seq {NOTICED}); do
             cmp -s mx.pem /run/due/mx.pem || cmp -s client.pem /run/due/client.pem || break; sleep 1
         done
         until [ \"$(systemctl show -P ActiveState cipolla-renew.service)\" = inactive ]; do sleep 1; done
         systemctl show -P Result cipolla-renew.service
         test -e /run/cipolla/renewed && echo 'the servers were not told'
         cat /var/lib/cipolla/tls/mx.crt /var/lib/cipolla/tls/client.crt"
    );
    let said = state.resident.appliance.run(&script)?.stdout;
    let mut findings = Vec::new();
    let head = said.split(PEM[0]).next().unwrap_or_default();
    let lines: Vec<_> = head.lines().collect();
    if !matches!(lines[..], ["active", next, "success"] if !next.is_empty()) {
        findings.push(format!("the timer says {head:?}"));
    }
    if state.resident.appliance.read(servers)? != before {
        findings.push("a server was restarted, not reloaded".to_owned());
    }
    for port in PORTS {
        findings.extend(served(state, port, &said)?);
    }
    // Whoever trusts the authority goes on doing so.
    let account = Account { local: "ada", password: &state.site.password };
    state.site.mailbox("ada after the renewal", account)?.demand("LOGOUT")?;
    none_of(&findings)
}

/// Whether a port shows a certificate that is among `files` and lasts.
fn served(state: &State, port: super::tls::Port, files: &str) -> anyhow::Result<Option<String>> {
    let (onion, forward) = (port.onion(state)?, port.forward(state)?);
    let mut argv = words(["openssl", "s_client", "-servername", &onion, "-connect"]);
    argv.push(forward.address.to_string().into());
    if let Some(protocol) = port.starttls {
        argv.extend(words(["-starttls", protocol]));
    }
    let said = state.scanners.output(&argv, Deadline::seconds(DIALOGUE))?;
    let shown =
        certificate(&said.stdout).with_context(|| format!("port {}: {}", port.number, said.stderr))?;
    if !files.contains(shown) {
        return Ok(Some(format!("port {} shows another certificate than the new one: {shown}", port.number)));
    }
    let file = state.folder.join("shown.crt");
    fs_err::write(&file, shown)?;
    let month = ["-checkend", "2592000", "-in", &file.display().to_string()].map(str::to_owned);
    let argv: Vec<_> =
        ["openssl", "x509", "-noout"].into_iter().chain(month.iter().map(String::as_str)).collect();
    let lasts = state.tool(&argv, DIALOGUE)?;
    Ok((!lasts.status.success()).then(|| format!("port {}: {}", port.number, lasts.stdout.trim())))
}

/// The first certificate of a text.
fn certificate(text: &str) -> Option<&str> {
    let begin = text.find(PEM[0])?;
    let end = text[begin..].find(PEM[1])? + begin + PEM[1].len();
    text.get(begin..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_certificate_is_taken() {
        let text = format!("CONNECTED\n{0}\nabc\n{1}\nmore\n{0}\nxyz\n{1}\n", PEM[0], PEM[1]);
        assert_eq!(certificate(&text), Some(format!("{}\nabc\n{}", PEM[0], PEM[1]).as_str()));
        assert_eq!(certificate(PEM[0]), None);
    }
}
