//! What a running appliance costs: part of `cargo xtask bench`.
//!
//! Memory when nothing happens but Tor, each service's share, the size of the image as it is handed out, and how fast
//! mail goes from a local client to a mailbox, and from the owner's mail program.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use data_encoding::BASE64;
use qemu::{Deadline, Machine, Programs};
use serde::Serialize;

/// The most memory that a system with nothing to do may use, in MiB.
const MEMORY_LIMIT: u64 = 350;
/// The most that the compressed image may have, in bytes.
const IMAGE_LIMIT: u64 = 250_000_000;
/// Messages of the figures for throughput.
const MESSAGES: u32 = 100;

/// Used memory in MiB, then `KIB UNIT` for each process: its proportional share (`proc_pid_smaps_rollup(5)`) and the
/// unit that it belongs to.
const MEMORY: &str = r#"awk '/^MemTotal/{t=$2}/^MemAvailable/{a=$2}END{print int((t-a)/1024)}' /proc/meminfo
for process in /proc/[0-9]*; do
    pss=$(awk '/^Pss:/{print $2}' "$process/smaps_rollup" 2>/dev/null)
    [ -n "$pss" ] && echo "$pss $(sed -n 's#.*/\([^/]*\)$#\1#p' "$process/cgroup")"
done; true"#;

/// `arrive COMMAND…`: milliseconds from the start of the command to the last of its messages in a mailbox.
const ARRIVE: &str = r#"domain=$(cat /var/lib/tor/mx/hostname)
count() { find /var/vmail -path '*/new/*' -type f | wc -l; }
arrive() {
    before=$(count); start=$(date +%s%N)
    "$@" || exit 1
    for try in $(seq 1200); do [ $(($(count) - before)) -ge MESSAGES ] && break; sleep 0.1; done
    end=$(date +%s%N)
    [ $(($(count) - before)) -ge MESSAGES ] && echo $(((end - start) / 1000000))
}
"#;

/// A mail filter's client: it comes as the mailboxes' user, is not slowed by limits that are meant for circuits, needs
/// no password, and nobody asks whether it is spam.
const FILTER: &str = r#"owner=$(head -n 1 /var/lib/cipolla/mail/mailboxes | cut -d@ -f1)
arrive setpriv --reuid=vmail --regid=vmail --clear-groups smtp-source -s 4 -m MESSAGES -l 2000 \
    -f "$owner@$domain" -t "$owner@$domain" 127.0.0.1:10588"#;

/// The owner's mail program, as it comes out of Tor.
const SUBMISSION: &str = r#"password=$(tr -dc a-z </dev/urandom | head -c 24)
echo "$password" | cipolla user add bench --stdin >/dev/null || exit 1
submit() {
    echo "$password" | setpriv --reuid=debian-tor --regid=debian-tor --clear-groups \
        python3 -c "$(echo SCRIPT | base64 -d)" "bench@$domain"
}
arrive submit"#;

/// The same client for [`SUBMISSION`].
const SUBMIT: &str = include_str!("submit.py");

/// The figures.
#[derive(Debug, Serialize)]
pub(crate) struct Costs {
    /// Memory that is not available to others, in MiB, after the boot.
    memory_mib: u64,
    memory_limit_mib: u64,
    /// Proportional share of each unit's processes in MiB, the largest first.
    services_mib: Vec<(String, u64)>,
    /// Bytes of the image, compressed with `zstd -9`.
    compressed: u64,
    compressed_limit: u64,
    /// From a mail filter's client to the mailbox, each message of 2000 bytes flushed to the disk.
    messages_per_second: f64,
    /// The same from the owner's mail program: through TLS and the check for spam.
    submitted_per_second: f64,
}

impl Costs {
    pub(crate) fn is_within_limits(&self) -> bool {
        self.memory_mib <= self.memory_limit_mib && self.compressed <= self.compressed_limit
    }

    /// For the person who reads the table.
    pub(crate) fn lines(&self) -> String {
        let word = |within: bool| if within { "within" } else { "OVER" };
        let shares: Vec<_> =
            self.services_mib.iter().take(12).map(|(unit, mib)| format!("{unit} {mib}")).collect();
        format!(
            "idle memory: {} MiB, {} the limit of {} MiB\n  shares in MiB: {}\n\
             compressed image: {:.1} MB, {} the limit of {:.0} MB\n\
             mail: {:.1} messages a second from a local client to the mailbox, {:.1} through submission\n",
            self.memory_mib,
            word(self.memory_mib <= self.memory_limit_mib),
            self.memory_limit_mib,
            shares.join(", "),
            self.compressed as f64 / 1e6,
            word(self.compressed <= self.compressed_limit),
            self.compressed_limit as f64 / 1e6,
            self.messages_per_second,
            self.submitted_per_second
        )
    }
}

/// Measures a machine that has booted and has nothing to do.
pub(crate) fn measure(
    machine: &mut Machine,
    programs: &Programs,
    image: &Utf8Path,
    deadline: Deadline,
) -> Result<Costs> {
    let mut ask = |script: &str| -> Result<String> {
        let answer = machine.run(script, deadline)?;
        if !answer.status.success() {
            bail!("{}: {}{}", answer.status, answer.stdout.trim(), answer.stderr.trim());
        }
        Ok(answer.stdout)
    };
    let (memory_mib, services_mib) = memory(&ask(MEMORY).context("asking for the memory")?)?;
    let mut messages_per_second = |client: &str| -> Result<f64> {
        let script = format!("{ARRIVE}{client}")
            .replace("MESSAGES", &MESSAGES.to_string())
            .replace("SCRIPT", &BASE64.encode(SUBMIT.as_bytes()));
        let took = ask(&script)?;
        let milliseconds: f64 = took.trim().parse().with_context(|| format!("reading {took:?}"))?;
        Ok(f64::from(MESSAGES) * 1000.0 / milliseconds)
    };
    let filter = messages_per_second(FILTER).context("sending mail as a mail filter")?;
    let submission = messages_per_second(SUBMISSION).context("submitting mail")?;
    Ok(Costs {
        memory_mib,
        memory_limit_mib: MEMORY_LIMIT,
        services_mib,
        compressed: compressed(programs, image)?,
        compressed_limit: IMAGE_LIMIT,
        messages_per_second: filter,
        submitted_per_second: submission,
    })
}

/// The used memory and each unit's share, the largest first.
fn memory(answer: &str) -> Result<(u64, Vec<(String, u64)>)> {
    let mut lines = answer.lines();
    let used = lines.next().and_then(|line| line.parse().ok()).context("reading the used memory")?;
    let mut shares: BTreeMap<&str, u64> = BTreeMap::new();
    for line in lines {
        let (kib, unit) = line.split_once(' ').with_context(|| format!("reading {line:?}"))?;
        // What the bench itself runs in the guest is not the appliance's.
        if !unit.starts_with("cipolla-shell") {
            *shares.entry(unit).or_default() += kib.parse::<u64>()?;
        }
    }
    let mut shares: Vec<_> = shares.into_iter().map(|(unit, kib)| (unit.to_owned(), kib >> 10)).collect();
    shares.sort_by(|(_, one), (_, two)| two.cmp(one));
    Ok((used, shares))
}

/// Bytes after `zstd -9`, which is what a download costs at most.
fn compressed(programs: &Programs, image: &Utf8Path) -> Result<u64> {
    let mut command = programs.command("zstd");
    let mut child = command.args(["-q", "-9", "-T0", "-c", image.as_str()]).stdout(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().context("opening a pipe")?;
    let (mut bytes, mut block) = (0, vec![0; 1 << 16]);
    loop {
        match stdout.read(&mut block)? {
            0 => break,
            count => bytes += count as u64,
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("compressing {image}: zstd ended with {status}");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_summed_by_unit() {
        let (used, shares) = memory(
            "301\n2048 postfix.service\n1024 postfix.service\n9216 rspamd.service\n1 cipolla-shell.service\n",
        )
        .unwrap();
        assert_eq!(used, 301);
        assert_eq!(shares, [("rspamd.service".to_owned(), 9), ("postfix.service".to_owned(), 3)]);
        assert!(memory("x\n").is_err());
    }
}
