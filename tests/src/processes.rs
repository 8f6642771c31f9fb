//! Processes of this computer, as `/proc` shows them: what a lab or a build left running. Never: a signal to one.

use std::path::PathBuf;

/// A process, with what of it can be read: one that ends meanwhile has neither line nor network.
pub(crate) struct Process {
    folder: PathBuf,
    /// Its command line, with spaces between the words.
    pub(crate) line: String,
    /// Its network namespace, as the kernel names it.
    pub(crate) network: PathBuf,
}

impl Process {
    /// The finding that it is left.
    pub(crate) fn still_runs(&self) -> String {
        format!("{} still runs: {}", self.folder.display(), self.line)
    }
}

/// All of them. Processes come and go; one that is gone is not listed.
pub(crate) fn all() -> Vec<Process> {
    let folders = fs_err::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let process = |folder: PathBuf| {
        // Not `self` and its like, nor what is no process.
        folder.file_name()?.to_str()?.parse::<u32>().ok()?;
        let line = fs_err::read(folder.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let network = fs_err::read_link(folder.join("ns/net")).unwrap_or_default();
        Some(Process { folder, line, network })
    };
    folders.filter_map(process).collect()
}

/// Those whose command line names this.
pub(crate) fn naming(text: &str) -> Vec<Process> {
    all().into_iter().filter(|one| one.line.contains(text)).collect()
}
