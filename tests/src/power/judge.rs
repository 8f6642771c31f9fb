//! What a cut may leave, and what it may not. Pure.

use std::collections::BTreeSet;

use super::cut::Cut;
use super::history::History;
use crate::left::{self, Left};

/// Where the files lie whose every version is known, as places of the data partition.
pub(super) const STATE: [&str; 8] = [
    "etc/upper",
    "var/lib/cipolla/mail",
    "var/lib/cipolla/private",
    "var/lib/cipolla/tls",
    "var/lib/cipolla/web",
    "var/lib/tor/admin",
    "var/lib/tor/client",
    "var/lib/tor/mx",
];

/// Where mail lies, as places of the data partition.
pub(super) const MAIL: [&str; 2] = [QUEUE, MAILBOXES];
const QUEUE: &str = "var/spool/postfix";
const MAILBOXES: &str = "var/vmail";

/// Folders of Postfix's queue whose files are messages.
pub(super) const QUEUES: [&str; 5] = ["maildrop", "incoming", "active", "deferred", "hold"];

/// What a message says at its two ends, behind its name (grep -E).
pub(super) const ENDS: &str = "power-[a-z]+-[0-9]+-(begin|end)";

/// Among the lasting files, those that the owner's commands change.
const OWNERS: [&str; 3] = [
    "var/lib/cipolla/private/settings.toml",
    "var/lib/tor/admin/authorized_clients/",
    "var/lib/tor/client/authorized_clients/",
];

/// Whether a file of the data partition makes the appliance what it is, for ever.
pub(super) fn is_identity(path: &str) -> bool {
    left::is_lasting(path) && !OWNERS.iter().any(|one| path.starts_with(one))
}

/// Keys, certificates and secrets that the cut found are those that the appliance kept, and once the first start is
/// over none is missing.
pub(super) fn identity(cut: &Cut, left: &Left, history: &History) -> Vec<String> {
    let Some((_, made)) = history.states.first() else {
        return vec!["nothing is known of the appliance's identity".to_owned()];
    };
    let mut findings = Vec::new();
    for (path, file) in left.files.iter().filter(|(path, _)| is_identity(path)) {
        if made.get(path) != Some(&file.sum) {
            findings.push(format!("{cut}: {path} is not the one that the appliance kept"));
        }
    }
    if cut.at > history.booted() {
        let lost = made.keys().filter(|path| is_identity(path) && !left.files.contains_key(*path));
        findings.extend(lost.map(|path| format!("{cut}: {path} is gone")));
    }
    findings
}

/// Every file is as it was after the last command that had ended, or as the command that was about to end makes it:
/// nothing is half-written, and nothing that was promised is taken back.
pub(super) fn settings(cut: &Cut, left: &Left, history: &History) -> Vec<String> {
    let possible = history.possible(cut.at);
    let version = |number: usize, path: &str| possible[number].and_then(|sums| sums.get(path));
    let mut paths: BTreeSet<&String> = possible.iter().flatten().flat_map(|sums| sums.keys()).collect();
    let known = |path: &&String| STATE.iter().any(|place| path.starts_with(place));
    paths.extend(left.files.keys().filter(known));
    let mut findings = Vec::new();
    for path in paths.into_iter().filter(|path| !left::is_half_written(path)) {
        let now = left.files.get(path).map(|file| &file.sum);
        if now != version(0, path) && now != version(1, path) {
            let how = if now.is_some() { "neither the old nor the new one" } else { "gone" };
            findings.push(format!("{cut}: {path} is {how}"));
        }
    }
    findings
}

/// Every message that was accepted before the cut is whole in a mailbox or in the queue, and no mailbox shows half a
/// message.
pub(super) fn mail(cut: &Cut, left: &Left, history: &History) -> Vec<String> {
    let mut findings = lost(history.accepted(cut.at), &whole(left));
    findings.extend(half(left));
    findings.into_iter().map(|finding| format!("{cut}: {finding}")).collect()
}

/// Accepted messages that are nowhere.
pub(super) fn lost<'a>(accepted: impl Iterator<Item = &'a str>, whole: &BTreeSet<String>) -> Vec<String> {
    let lost = accepted.filter(|token| !whole.contains(*token));
    lost.map(|token| format!("the accepted message {token} is in no mailbox and not in the queue")).collect()
}

/// Messages that lie whole where Postfix or Dovecot find them.
pub(super) fn whole(left: &Left) -> BTreeSet<String> {
    let has = |word: &str, path: &str| left.words.iter().any(|(one, at)| one == word && at == path);
    let begins = left.words.iter().filter_map(|(word, path)| Some((word.strip_suffix("-begin")?, path)));
    begins
        .filter(|(token, path)| {
            (is_queued(left, path) || is_shown(path)) && has(&format!("{token}-end"), path)
        })
        .map(|(token, _)| token.to_owned())
        .collect()
}

/// Messages of mailboxes that were cut short.
fn half(left: &Left) -> Vec<String> {
    let has = |word: &str, path: &str| left.words.iter().any(|(one, at)| one == word && at == path);
    let begins = left.words.iter().filter_map(|(word, path)| Some((word.strip_suffix("-begin")?, path)));
    begins
        .filter(|(token, path)| is_shown(path) && !has(&format!("{token}-end"), path))
        .map(|(_, path)| format!("half a message is shown: {path}"))
        .collect()
}

/// Whether Postfix takes the file for a message of its queue: it sets the owner's execute bit when a message is
/// complete.
fn is_queued(left: &Left, path: &str) -> bool {
    let queue = path.strip_prefix(QUEUE).and_then(|rest| rest.strip_prefix('/')?.split('/').next());
    queue.is_some_and(|queue| QUEUES.contains(&queue))
        && left.files.get(path).is_some_and(|file| file.mode & 0o100 != 0)
}

/// Whether a mailbox shows the file as a message.
fn is_shown(path: &str) -> bool {
    let folder = path.rsplit('/').nth(1);
    path.starts_with(MAILBOXES) && matches!(folder, Some("new" | "cur"))
}

#[cfg(test)]
mod tests {
    use super::super::cut::tests::cut;
    use super::super::history::tests::history;
    use super::*;
    use crate::left::File;

    const QUEUED: &str = "var/spool/postfix/deferred/A/AB1";
    const SHOWN: &str = "var/vmail/ada/Maildir/new/1.a";

    fn left(mode: u32, words: &[(&str, &str)]) -> Left {
        let words: Vec<_> =
            words.iter().map(|(word, path)| ((*word).to_owned(), (*path).to_owned())).collect();
        let file = |path: &String| (path.clone(), File { mode, sum: String::new() });
        Left { damage: Vec::new(), files: words.iter().map(|(_, path)| file(path)).collect(), words }
    }

    #[test]
    fn a_message_counts_where_it_lies_whole() {
        let both = |path| [("power-webmail-0-begin", path), ("power-webmail-0-end", path)];
        let judged = |mode, words: &[_]| mail(&cut(24), &left(mode, words), &history());
        assert!(judged(0o700, &both(QUEUED)).is_empty());
        assert!(judged(0o600, &both(SHOWN)).is_empty());
        assert!(judged(0o600, &both(QUEUED))[0].ends_with("is in no mailbox and not in the queue"));
        assert!(!judged(0o600, &both("var/vmail/ada/Maildir/tmp/1.a")).is_empty());
        assert!(!judged(0o700, &both("var/spool/postfix/trace/A/AB1")).is_empty());
        let findings = judged(0o600, &both(SHOWN)[..1]);
        assert!(
            findings[0].contains("in no mailbox") && findings[1].contains("half a message"),
            "{findings:?}"
        );
        assert!(mail(&cut(19), &left(0, &[]), &history()).is_empty());
    }

    fn files(list: &[(&str, &str)]) -> Left {
        let file = |sum: &str| File { mode: 0o600, sum: sum.to_owned() };
        Left {
            files: list.iter().map(|(path, sum)| ((*path).to_owned(), file(sum))).collect(),
            ..Left::default()
        }
    }

    #[test]
    fn files_are_old_or_new() {
        let judged = |at, list: &[_]| settings(&cut(at), &files(list), &history());
        assert!(judged(45, &[("key", "aa"), ("old", "01")]).is_empty());
        assert!(judged(45, &[("key", "aa"), ("old", "02")]).is_empty());
        assert!(
            judged(45, &[("key", "aa"), ("old", "03")])[0]
                .ends_with("old is neither the old nor the new one")
        );
        assert!(judged(51, &[("key", "aa"), ("old", "01")])[0].contains("neither"), "taken back");
        assert!(judged(45, &[("old", "01")])[0].ends_with("key is gone"));
        assert!(judged(5, &[("old", "01")]).is_empty());
        assert!(judged(5, &[("etc/upper/x", "01")])[0].contains("neither"));
        assert!(judged(5, &[("etc/upper/.x.cipolla-new", "01")]).is_empty());
    }

    #[test]
    fn keys_stay() {
        let key = "var/lib/tor/mx/hs_ed25519_secret_key";
        let mut history = history();
        history.states[0].1.insert(key.to_owned(), "11".to_owned());
        assert!(identity(&cut(5), &files(&[(key, "11")]), &history).is_empty());
        assert!(identity(&cut(5), &files(&[]), &history).is_empty());
        assert!(
            identity(&cut(5), &files(&[(key, "12")]), &history)[0]
                .ends_with("is not the one that the appliance kept")
        );
        assert!(identity(&cut(20), &files(&[]), &history)[0].ends_with("is gone"));
    }
}
