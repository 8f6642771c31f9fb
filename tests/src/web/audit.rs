//! The machine as an auditor with root's rights sees it, from inside.
//!
//! lynis(8) is a tree of shell scripts that start some ten thousand small programs; emulated, that takes minutes. It is
//! not in the image, so it comes in through the root shell, into memory, and runs with idle priority beside checks
//! that wait: for a peer that sleeps, for Tor.

use std::io::Write as _;

use anyhow::Context as _;
use data_encoding::BASE64;
use qemu::Deadline;

use super::State;
use crate::appliance::Appliance;
use crate::check::{Check, Verdict, check, none_of};
use crate::world::World;

/// From the last scan to the end of the audit.
const AUDIT: u64 = 600;

/// The least index: three below what was measured, since the auditor's list grows with its versions.
const FLOOR: u32 = 69;

/// The fewest tests that must have been performed. With less the audit says nothing.
const TESTS: u32 = 150;

/// Parts of lynis about software that the appliance does not have, about `php.ini`, which the webmail's pool replaces
/// (`pool.d/www.conf`), and about web servers: it wants HTTPS and a log of visits, which an onion service goes without
/// on purpose, and takes a fifth of the audit's time. Lynis goes on without them.
const ABSENT: &str = "containers databases dns kerberos ldap php printers_spoolers snmp squid storage_nfs virtualization webservers";

/// What counts here and what not.
const PROFILE: &str = include_str!("lynis.prf");

/// What lynis starts programs for that is not the audit: the date of each line of a log that nobody keeps, the time that
/// each test takes, the capital letters of its name, and whether it is left out by an old kind of profile. Together they
/// are half of all its processes.
const BESIDES: &str = "sed -i 's/^ *LOGTEXT=1$/LOGTEXT=0/' $d/include/consts && \
    sed -i -e 's/CURRENT_TS=$(GetTimestamp)/CURRENT_TS=0/' -e 's/VALUE=$(echo ${TEST_NO} | tr .*)/VALUE=${TEST_NO}/' \
    -e 's/FIND=$(echo \"${TEST_SKIP_ALWAYS}\" | grep .*)/FIND=/' $d/include/functions";

/// Bytes of base64 that one script carries.
const PIECE: usize = 96 * 1024;

pub(super) fn checks() -> Vec<Check<State>> {
    vec![check("lynis_index", &["R53"], lynis)]
}

/// Starts the audit beside what follows.
///
/// # Errors
/// When the lab's tree has no lynis, or the appliance does not take it.
pub(crate) fn start(world: &World, appliance: &mut Appliance) -> anyhow::Result<()> {
    // Of its profile, the values of other systems' kernels are left out: each costs six processes.
    let pack = format!(
        "d=$(mktemp -d) && cp -r /usr/share/lynis/include /usr/share/lynis/db /usr/sbin/lynis $d && mkdir $d/plugins && \
         for part in {ABSENT}; do rm $d/include/tests_$part || exit 1; done && {BESIDES} && \
         grep -vE '^(#|plugin=|config-data=sysctl;(security|kern|hw|net[.]inet6?)[.])' /etc/lynis/default.prf \
         >$d/default.prf && tar -C $d --owner=0 --group=0 -czf - . && rm -r $d"
    );
    let archive = world.lab().programs().output("sh", ["-c", &pack])?;
    appliance.read("mkdir -p /run/audit && : >/run/audit/tree.b64")?;
    let text = BASE64.encode(&archive);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(PIECE));
        appliance.read(&format!("printf %s '{piece}' >>/run/audit/tree.b64"))?;
        rest = after;
    }
    // The record of integrity is there after the first night, and lynis asks for it.
    let script = format!(
        "cd /run/audit && base64 -d tree.b64 | tar xz && cat >custom.prf <<'END'\n{PROFILE}END\n\
         systemctl start cipolla-integrity.service && \
         systemd-run --quiet --unit=audit --nice=19 --property=CPUWeight=idle --property=WorkingDirectory=/run/audit \
         sh ./lynis audit system --no-colors --quiet --no-log --report-file /run/audit/report"
    );
    appliance.read(&script).map(drop)
}

fn lynis(state: &mut State) -> Verdict {
    let script = "while systemctl is-active --quiet audit.service; do sleep 1; done; cat /run/audit/report; \
                  journalctl -b -o cat -u audit.service >&2";
    let output = state.resident.appliance.machine.run(script, Deadline::seconds(AUDIT))?;
    fs_err::write(state.folder.join("lynis-report.txt"), &output.stdout)?;
    let report = Report::parse(&output.stdout).with_context(|| output.stderr.clone())?;
    // After what was measured before.
    let figures = state.resident.appliance.machine.run_dir().file("figures.txt");
    let mut figures = fs_err::OpenOptions::new().append(true).create(true).open(figures)?;
    writeln!(figures, "hardening index of lynis: {} ({} tests)", report.index, report.tests)?;
    none_of(&report.findings())
}

/// What a report says.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    index: u32,
    /// Tests that were performed.
    tests: u32,
    /// Test and text of each warning.
    warnings: Vec<(String, String)>,
}

impl Report {
    /// Reads the report file, whose lines are `name=value`, with `name[]` for each item of a list; a warning is
    /// `TEST|text|details|solution|`.
    ///
    /// # Errors
    /// When it lacks the index or the number of tests: then lynis did not come to its end.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = || text.lines().filter_map(|line| line.split_once('='));
        let number = |name: &str| -> anyhow::Result<u32> {
            let line = lines().find(|(is, _)| *is == name);
            let (_, value) = line.with_context(|| format!("lynis came to no {name}: {text}"))?;
            value.trim().parse().with_context(|| format!("reading {name}={value:?}"))
        };
        let warnings = lines().filter(|(name, _)| *name == "warning[]").map(|(_, value)| {
            let mut fields = value.split('|').map(str::to_owned);
            (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
        });
        Ok(Self {
            index: number("hardening_index")?,
            tests: number("lynis_tests_done")?,
            warnings: warnings.collect(),
        })
    }

    /// What is not as it must be.
    fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        if self.index < FLOOR {
            findings.push(format!("the index is {}, below {FLOOR}", self.index));
        }
        if self.tests < TESTS {
            findings.push(format!("only {} tests were performed, not {TESTS}", self.tests));
        }
        findings.extend(self.warnings.iter().map(|(test, text)| format!("warning {test}: {text}")));
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "os=Linux\nwarning[]=FINT-4316|No AIDE database was found|-|-|\n\
        suggestion[]=TOOL-5002|Determine|-|-|\nlynis_tests_done=201\nhardening_index=71\nfinish=true\n";

    #[test]
    fn index_tests_and_warnings_are_lines_of_the_report() {
        let report = Report::parse(REPORT).unwrap();
        assert_eq!((report.index, report.tests), (71, 201));
        assert_eq!(report.findings(), ["warning FINT-4316: No AIDE database was found"]);
    }

    #[test]
    fn an_audit_that_did_not_end_is_none() {
        let cut = REPORT.split("hardening").next().unwrap();
        assert!(Report::parse(cut).unwrap_err().to_string().contains("no hardening_index"));
        assert!(Report::parse(&REPORT.replace("=71", "=")).is_err());
    }

    #[test]
    fn a_low_index_and_an_empty_audit_are_told() {
        let low = Report { index: FLOOR - 1, tests: TESTS - 1, warnings: Vec::new() };
        assert_eq!(low.findings().len(), 2);
        assert_eq!(Report { index: FLOOR, tests: TESTS, ..low }.findings(), [] as [String; 0]);
    }

    #[test]
    fn the_profile_holds_what_lynis_takes() {
        // Anything else makes it stop (include/profiles).
        let odd = |char: char| !char.is_ascii_alphanumeric() && !"/[]()_|,.:;= -".contains(char);
        let lines: Vec<_> =
            PROFILE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert!(lines.len() > 10);
        for line in lines {
            assert!(line.contains('=') && !line.contains(odd), "{line}");
        }
    }
}
