//! Power cuts: the machine is killed in the middle of what the agent does, twice on the same disk.
//!
//! What a cut left on the data partition is read from outside, from a copy whose journal e2fsck has replayed, as
//! the next boot does. A key that was there after any cut must be the key of the finished appliance. The agent's
//! own tests cut a simulated disk at every single step, and `power` a recorded one at twenty moments; here a machine is
//! cut twice, early and late.

use std::collections::BTreeMap;

use anyhow::Context as _;
use qemu::Deadline;

use super::{State, resume};
use crate::check::{Verdict, none_of};
use crate::left::{self, Left};

/// From power-on to the agent's line on the console, beside a busy neighbour.
const STEP: u64 = 400;

/// What the agent says on the console when the cut comes, and the file that its word vouches for from then on.
const CUTS: [(&str, &str); 2] = [
    ("make the key of the onion service client: done", "var/lib/tor/client/hs_ed25519_secret_key"),
    ("render /etc/postfix/main.cf: done", "etc/upper/postfix/main.cf"),
];

/// What is read after a cut, as places of the data partition.
const PLACES: [&str; 3] = ["var/lib/cipolla", "var/lib/tor", "etc/upper"];

/// Takes the data partition out of a disk that nobody uses. Arguments: disk, first byte, bytes, a file for it.
const EXTRACT: &str = r#"qemu-img convert -O raw --image-opts \
  "driver=raw,offset=$2,size=$3,file.driver=qcow2,file.file.filename=$1" "$4""#;

/// What a cut left behind.
pub(super) struct Cut {
    /// The agent's last word that was waited for.
    after: &'static str,
    left: Left,
}

/// Cuts the power at each of [`CUTS`], then starts the machine once more.
pub(super) fn cut(state: &mut State) -> anyhow::Result<()> {
    for (number, (line, _)) in CUTS.into_iter().enumerate() {
        resume(state, number == 0)?.machine.wait_for(line, Deadline::seconds(STEP))?;
        if let Some(appliance) = state.appliance.take() {
            appliance.cut_power()?;
        }
        let left = read(state).with_context(|| format!("reading the disk after the cut at {line:?}"))?;
        state.cuts.push(Cut { after: line, left });
    }
    resume(state, false).map(drop)
}

fn read(state: &State) -> anyhow::Result<Left> {
    let programs = &state.ctx.programs;
    let (start, size) = left::data_partition(&state.ctx)?;
    let (start, size) = (start.to_string(), size.to_string());
    let (disk, data) = (state.run_dir.overlay(), state.run_dir.file("data.img"));
    let arguments = ["-c".as_ref(), EXTRACT.as_ref(), "sh".as_ref(), disk.as_os_str(), start.as_ref()];
    programs.output("sh", arguments.into_iter().chain([size.as_ref(), data.as_os_str()]))?;
    let left = Left::read(programs, &data, &state.run_dir.file("cut"), "", &PLACES)?;
    fs_err::remove_file(data)?;
    Ok(left)
}

/// Every key that a cut found on the disk is the one that the appliance has now, what was said to be done was
/// done, and no half-written file is left.
pub(super) fn resumes(state: &mut State) -> Verdict {
    let places = left::LASTING.join(" ");
    let now =
        state.appliance()?.read(&format!("cd /data && find {places} -type f -exec sha256sum {{}} +"))?;
    let mut findings = judge(&state.cuts, &left::checksums(&now));
    let left = state.appliance()?.read("find /data -xdev -name '.*.cipolla-new*'")?;
    findings.extend(left.lines().map(|path| format!("{path} is left over")));
    let plan = state.appliance()?.read("cipolla boot --dry-run")?;
    if plan.trim() != "nothing to do" {
        findings.push(format!("the agent is not done: {}", plan.trim()));
    }
    none_of(&findings)
}

fn judge(cuts: &[Cut], now: &BTreeMap<String, String>) -> Vec<String> {
    let mut findings = Vec::new();
    for (cut, (_, vouched)) in cuts.iter().zip(CUTS) {
        let (after, files) = (cut.after, &cut.left.files);
        findings.extend(cut.left.damage.iter().map(|line| format!("after {after:?}: {line}")));
        if !files.contains_key(vouched) {
            findings.push(format!("{vouched} was not on the disk after {after:?}"));
        }
        for (path, file) in files.iter().filter(|(path, _)| left::is_lasting(path)) {
            match now.get(path) {
                Some(is) if *is == file.sum => {}
                Some(_) => findings.push(format!("{path} was there after {after:?} and is another one now")),
                None => findings.push(format!("{path} was there after {after:?} and is gone")),
            }
        }
    }
    // Otherwise the cuts came too late to show anything.
    let marked = |cut: &Cut| cut.left.files.contains_key("var/lib/cipolla/private/complete");
    if cuts.first().is_none_or(marked) {
        findings.push("no cut came before the identity was complete".to_owned());
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::left::File;

    const KEY: &str = "var/lib/tor/client/hs_ed25519_secret_key";

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(path, sum)| ((*path).to_owned(), (*sum).to_owned())).collect()
    }

    fn left(list: &[(&str, &str)]) -> Left {
        let file = |sum: String| File { mode: 0o600, sum };
        Left {
            files: files(list).into_iter().map(|(path, sum)| (path, file(sum))).collect(),
            ..Left::default()
        }
    }

    #[test]
    fn another_key_and_a_lost_one_are_found() {
        let cut = |list| vec![Cut { after: CUTS[0].0, left: left(list) }];
        let now = files(&[(KEY, "1"), ("var/lib/cipolla/private/rendered.json", "2")]);
        let same = cut(&[(KEY, "1"), ("var/lib/cipolla/private/rendered.json", "1")]);
        assert!(judge(&same, &now).is_empty());
        assert!(judge(&cut(&[(KEY, "0")]), &now)[0].ends_with("is another one now"));
        assert!(judge(&cut(&[(KEY, "1")]), &files(&[]))[0].ends_with("is gone"));
        assert!(judge(&cut(&[]), &now)[0].contains("was not on the disk"));
        let mut damaged = cut(&[(KEY, "1")]);
        damaged[0].left.damage.push("Inode 7".to_owned());
        assert!(judge(&damaged, &now)[0].ends_with("Inode 7"));
        let half = cut(&[(KEY, "1"), ("var/lib/tor/mx/.hostname.cipolla-new", "1")]);
        assert!(judge(&half, &now).is_empty());
    }

    #[test]
    fn cuts_that_came_too_late_do_not_count() {
        let late = [(KEY, "1"), ("var/lib/cipolla/private/complete", "1")];
        let findings = judge(&[Cut { after: CUTS[0].0, left: left(&late) }], &files(&late));
        assert_eq!(findings, ["no cut came before the identity was complete"]);
    }
}
