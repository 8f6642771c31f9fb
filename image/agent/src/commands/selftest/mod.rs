//! `cipolla selftest`: the appliance checks on the device what can be checked from inside.
//!
//! The names are those of the project's list of assertions, the numbers those of its requirements. A check that
//! *fails* found something that is not as it must be; one that could *not be checked* says why, and counts as failed;
//! one that does not apply (there is no webmail on this image) is skipped with its reason. What needs a second
//! machine, a network or a browser is tested before a release, not here.
//!
//! Nothing is changed. Dialogues are held with the own servers on loopback, as Tor would hold them, and every
//! service's user is made to try what the firewall must forbid it; the attempts appear in the journal.

mod dialogue;
mod identity;
mod network;
pub mod probe;
mod refusals;
mod system;

use std::cell::OnceCell;
use std::fmt::Write as _;

use anyhow::{Result, bail};
use serde::Serialize;

use super::status;
use crate::accounts::Accounts;
use crate::machine::Machine;
use crate::programs::Ran;
use dialogue::Smtp;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it must be.
    Passed,
    /// It is not, and this is what is wrong.
    Failed(Vec<String>),
    /// It does not apply to this image or these settings, for this reason.
    Skipped(String),
    /// It could not be checked, for this reason.
    Unknown(String),
}

impl Outcome {
    /// Passed if nothing is wrong.
    fn of(wrong: Vec<String>) -> Self {
        if wrong.is_empty() { Self::Passed } else { Self::Failed(wrong) }
    }

    fn skipped(reason: &str) -> Self {
        Self::Skipped(reason.to_owned())
    }
}

/// What the checks stand on.
struct Ground<'g, 'm> {
    machine: &'g Machine<'m>,
    accounts: Accounts,
    /// The dialogue with the mx service, held once.
    smtp: OnceCell<Smtp>,
}

impl Ground<'_, '_> {
    /// What a program prints; it must succeed.
    fn ask(&self, argv: &[&str]) -> Result<String> {
        let ran = self.machine.programs.run(argv)?;
        if !ran.success {
            bail!("{}: {}", argv.join(" "), ran.stderr.trim());
        }
        Ok(ran.stdout)
    }

    /// What `cipolla probe` prints for each of these users and arguments. All run at once: most of their time is waiting
    /// for answers that must not come.
    fn probe_all(&self, probes: &[(&str, Vec<String>)]) -> Result<Vec<String>> {
        let line = |(user, arguments): &(&str, Vec<String>)| {
            let owner =
                if *user == "root" { crate::fs::Owner::ROOT } else { self.accounts.of_user(user, 0)?.owner };
            let (uid, gid) = (format!("--reuid={}", owner.uid), format!("--regid={}", owner.gid));
            let head = ["setpriv", &uid, &gid, "--clear-groups", "/usr/bin/cipolla", "probe"];
            Ok(head.into_iter().map(str::to_owned).chain(arguments.iter().cloned()).collect::<Vec<_>>())
        };
        let lines = probes.iter().map(line).collect::<Result<Vec<_>>>()?;
        let words: Vec<Vec<&str>> =
            lines.iter().map(|line| line.iter().map(String::as_str).collect()).collect();
        let end = |((user, _), ran): (&(&str, Vec<String>), Ran)| {
            if !ran.success {
                bail!("trying as {user}: {}", ran.stderr.trim().trim_start_matches("cipolla: "));
            }
            Ok(ran.stdout)
        };
        probes.iter().zip(self.machine.programs.run_all(&words)?).map(end).collect()
    }

    fn has_web(&self) -> bool {
        self.machine.programs.has("nginx")
    }

    fn has_mail(&self) -> bool {
        self.accounts.has_user("postfix")
    }
}

/// One check.
struct Check {
    name: &'static str,
    requirements: &'static str,
    look: fn(&Ground<'_, '_>) -> Result<Outcome>,
}

const fn check(
    name: &'static str,
    requirements: &'static str,
    look: fn(&Ground<'_, '_>) -> Result<Outcome>,
) -> Check {
    Check { name, requirements, look }
}

/// All checks, in the order in which they are shown.
const CHECKS: [Check; 49] = [
    check("listeners_exact_set", "R2 R12 R39", network::listeners),
    check("nft_drops_by_default", "R1 R7", network::policies),
    check("egress_denied_per_uid", "R4 R6 R16", network::egress),
    check("proxy_port_refuses_other_uids", "R4", network::loopback),
    check("resolver_is_tor", "R6", network::resolver),
    check("hs_dirs_0700_debian_tor", "R49", identity::folders),
    check("key_files_match_tor", "R49", identity::keys),
    check("client_authorization_is_closed", "R3", identity::authorization),
    check("no_secret_readable", "R22 R49", identity::secrets),
    check("credentials_never_in_journal", "R42 R49", identity::journal),
    check("welcome_has_no_secret", "R42 R49", identity::welcome),
    check("cert_san_is_onion", "R22", identity::certificates),
    check("ca_is_name_constrained", "R22", identity::authority),
    check("certificates_are_valid", "R22", identity::validity),
    check("banner_no_os", "R26", dialogue::banner),
    check("helo_required", "R29", dialogue::helo),
    check("auth_not_offered_on_25", "R23", dialogue::no_auth),
    check("vrfy_off", "R29", dialogue::no_vrfy),
    check("starttls_offered", "R23", dialogue::starttls),
    check("mx_rejects_own_domain_unauthenticated", "R28", dialogue::own_domain),
    check("relay_onion_to_clearnet_denied", "R27 R36", dialogue::no_relay),
    check("relay_percent_bang_source_route_denied", "R27", refusals::routes),
    check("relay_from_loopback_denied", "R27", refusals::loopback),
    check("unknown_recipient_refused", "R27", refusals::unknown),
    check("clearnet_recipient_refused", "R36", refusals::clearnet),
    check("malformed_onion_refused", "R36", refusals::malformed),
    check("size_limit", "R29", refusals::size),
    check("recipient_limit", "R29", refusals::recipient_limit),
    check("forged_proxy_header_refused", "R2 R19", refusals::forged_header),
    check("tls10_tls11_refused", "R23", dialogue::old_tls),
    check("auth_needs_tls", "R23", dialogue::submission_needs_tls),
    check("index_php_needs_basic_auth", "R14 R18", dialogue::web_password),
    check("wrong_host_444", "R13", dialogue::wrong_host),
    check("chroot_effective", "R25", system::chroot),
    check("configuration_is_valid", "R36", system::validators),
    check("ssh_keys_only", "R3", system::ssh),
    check("root_is_read_only", "R47", system::root_read_only),
    check("etc_not_drifted", "R47", system::drift),
    check("setuid_set_is_known", "R53", system::setuid),
    check("systemd_analyze_security_budget", "R53", system::exposure),
    check("sysctls", "R5 R53", system::sysctls),
    check("apparmor_enforced", "R53", system::apparmor),
    check("no_swap", "R53", system::swap),
    check("no_failed_unit", "R33", system::units),
    check("integrity_is_recorded", "R47", system::integrity),
    check("tor_is_connected", "R36", system::tor),
    check("clock_sane", "R36", system::clock),
    check("entropy_ready", "R49", system::entropy),
    check("disk_has_room", "R33", system::disk),
];

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The check.
    pub name: &'static str,
    /// The requirements that it is about.
    pub requirements: &'static str,
    /// What it found.
    pub outcome: Outcome,
}

/// The result of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// One line for each, in order.
    pub lines: Vec<Line>,
}

/// The names of all checks.
#[must_use]
pub fn names() -> Vec<&'static str> {
    CHECKS.iter().map(|check| check.name).collect()
}

/// Runs the checks whose name contains `filter`, and says each name before it begins.
///
/// # Errors
/// When no name contains it, or this is not the running system.
pub fn run(machine: &Machine<'_>, filter: &str, say: &mut dyn FnMut(&str)) -> Result<Table> {
    if !machine.programs.has("systemctl") {
        bail!("only the running system can be tested, from inside");
    }
    let ground = Ground { machine, accounts: Accounts::load(machine.fs)?, smtp: OnceCell::new() };
    let mut lines = Vec::new();
    for check in CHECKS.iter().filter(|check| check.name.contains(filter)) {
        say(check.name);
        let outcome = (check.look)(&ground).unwrap_or_else(|error| Outcome::Unknown(format!("{error:#}")));
        lines.push(Line { name: check.name, requirements: check.requirements, outcome });
    }
    if lines.is_empty() {
        bail!("no check has {filter} in its name; there are: {}", names().join(" "));
    }
    Ok(Table { lines })
}

impl Table {
    /// Whether nothing failed and everything could be checked.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lines.iter().all(|line| matches!(line.outcome, Outcome::Passed | Outcome::Skipped(_)))
    }

    /// The table as the owner reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut counts = [0; 4];
        for line in &self.lines {
            let (word, place, notes) = match &line.outcome {
                Outcome::Passed => ("ok", 0, Vec::new()),
                Outcome::Failed(wrong) => ("FAILED", 1, wrong.iter().map(String::as_str).collect()),
                Outcome::Unknown(why) => ("ERROR", 2, vec![why.as_str()]),
                Outcome::Skipped(why) => ("skipped", 3, vec![why.as_str()]),
            };
            counts[place] += 1;
            let _ = writeln!(text, "{word:8} {:40} {}", line.name, line.requirements);
            for note in notes {
                let _ = writeln!(text, "           {note}");
            }
        }
        let [passed, failed, unknown, skipped] = counts;
        let _ = write!(text, "\n{passed} passed, {failed} failed");
        for (count, word) in [(unknown, "could not be checked"), (skipped, "skipped")] {
            if count > 0 {
                let _ = write!(text, ", {count} {word}");
            }
        }
        text.push('\n');
        text
    }
}

/// How the appliance is, as `cipolla status` sees it.
fn status(ground: &Ground<'_, '_>) -> Result<status::Report> {
    status::read(ground.machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_requirements_named() {
        let mut names = names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
        for check in &CHECKS {
            assert!(check.requirements.split(' ').all(|id| id.starts_with('R')), "{}", check.name);
        }
    }

    #[test]
    fn the_table_counts_what_could_not_be_checked_as_bad() {
        let line = |name, outcome| Line { name, requirements: "R1", outcome };
        let mut table = Table {
            lines: vec![line("a", Outcome::Passed), line("b", Outcome::skipped("there is no webmail"))],
        };
        assert!(table.is_good());
        assert!(table.text().ends_with("\n1 passed, 0 failed, 1 skipped\n"), "{}", table.text());
        table.lines.push(line("c", Outcome::Unknown("no answer".into())));
        assert!(!table.is_good());
        table.lines[2].outcome = Outcome::of(vec!["port 25 is open".into()]);
        assert!(!table.is_good());
        assert!(table.text().contains("FAILED   c "), "{}", table.text());
        assert!(table.text().contains("           port 25 is open\n"));
    }
}
