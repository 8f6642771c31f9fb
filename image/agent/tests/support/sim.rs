//! A file system in memory that knows what a power cut takes away.
//!
//! Names become durable when their folder is synced, contents when their file is (POSIX fsync(2)). At a chosen
//! step the power goes: that step and all later ones fail. What is found after the cut is one of three
//! things, since a disk may also have written what nobody asked it to.

use std::cell::RefCell;
use std::collections::BTreeMap;

use agent::fs::{Access, Entry, Fs, Kind, Lock, Replace, Space, atomic};
use anyhow::{Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

/// What the disk holds after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Only what was synced.
    EverythingUnsynced,
    /// All names, but unsynced contents are empty, as with delayed allocation.
    UnsyncedContents,
    /// Everything that was written, half of the last write included.
    Nothing,
}

impl Loss {
    pub(crate) const ALL: [Self; 3] = [Self::EverythingUnsynced, Self::UnsyncedContents, Self::Nothing];
}

#[derive(Debug, Clone, Copy)]
enum Node {
    Directory(Access),
    File(Access, usize),
}

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct State {
    names: BTreeMap<Utf8PathBuf, Node>,
    durable: BTreeMap<Utf8PathBuf, Node>,
    contents: Vec<Content>,
    steps: usize,
    cut_at: Option<usize>,
}

/// The file system.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimFs {
    state: RefCell<State>,
}

impl SimFs {
    /// The image and the owner's settings before the first start.
    pub(crate) fn before_first_start() -> Self {
        let fs = Self::default();
        {
            let mut state = fs.state.borrow_mut();
            state.names.insert("/".into(), Node::Directory(Access::root(0o755)));
            for folder in super::FOLDERS {
                state.make_folders(Utf8Path::new(folder));
            }
            for (path, content) in super::IMAGE {
                state.make_file(path, content);
            }
            state.make_file("/run/cipolla/boot/cipolla.toml", super::SETTINGS);
            state.durable = state.names.clone();
        }
        fs
    }

    /// How many steps were made.
    pub(crate) fn steps(&self) -> usize {
        self.state.borrow().steps
    }

    /// Lets the power go at this step, counted from now.
    pub(crate) fn cut_at(&self, step: usize) {
        let mut state = self.state.borrow_mut();
        state.steps = 0;
        state.cut_at = Some(step);
    }

    /// The file system at the next start.
    pub(crate) fn after_power_cut(&self, loss: Loss) -> Self {
        let old = self.state.borrow();
        let mut state = State { contents: old.contents.clone(), ..State::default() };
        state.names = if loss == Loss::EverythingUnsynced { old.durable.clone() } else { old.names.clone() };
        if loss != Loss::Nothing {
            for content in &mut state.contents {
                content.now.clone_from(&content.durable);
            }
        }
        // What lies in memory is gone in any case.
        let memory =
            |path: &Utf8Path| path.starts_with("/run/cipolla") && !path.starts_with("/run/cipolla/boot");
        state.names.retain(|path, _| path == "/run/cipolla" || !memory(path));
        let reachable = |names: &BTreeMap<Utf8PathBuf, Node>, path: &Utf8Path| {
            path.ancestors().skip(1).all(|folder| matches!(names.get(folder), Some(Node::Directory(_))))
        };
        let names = state.names.clone();
        state.names.retain(|path, _| reachable(&names, path));
        state.durable = state.names.clone();
        for content in &mut state.contents {
            content.durable.clone_from(&content.now);
        }
        Self { state: RefCell::new(state) }
    }

    /// All files with their contents.
    pub(crate) fn files(&self) -> BTreeMap<Utf8PathBuf, Vec<u8>> {
        let state = self.state.borrow();
        let file = |(path, node): (&Utf8PathBuf, &Node)| match node {
            Node::File(_, id) => Some((path.clone(), state.contents[*id].now.clone())),
            Node::Directory(_) => None,
        };
        state.names.iter().filter_map(file).collect()
    }

    fn step(&self) -> Result<()> {
        let mut state = self.state.borrow_mut();
        state.steps += 1;
        match state.cut_at {
            Some(cut) if state.steps >= cut => bail!("the power is gone"),
            _ => Ok(()),
        }
    }
}

impl State {
    fn make_folders(&mut self, path: &Utf8Path) {
        for folder in path.ancestors() {
            self.names.entry(folder.to_owned()).or_insert(Node::Directory(Access::root(0o755)));
        }
    }

    fn make_file(&mut self, path: &str, content: &str) {
        let path = Utf8Path::new(path);
        self.make_folders(path.parent().unwrap());
        let content = content.as_bytes().to_vec();
        self.contents.push(Content { now: content.clone(), durable: content });
        let node = Node::File(Access::root(0o644), self.contents.len() - 1);
        self.names.insert(path.to_owned(), node);
    }

    /// Whether the power was still there when this step began.
    fn at_or_before_cut(&self) -> bool {
        self.cut_at.is_none_or(|cut| self.steps <= cut)
    }

    fn in_folder(&self, path: &Utf8Path) -> Result<()> {
        match self.names.get(atomic::parent(path)) {
            Some(Node::Directory(_)) => Ok(()),
            _ => bail!("{path}: its folder is missing"),
        }
    }
}

impl Fs for SimFs {
    fn read(&self, path: &Utf8Path) -> Result<Option<Vec<u8>>> {
        let state = self.state.borrow();
        match state.names.get(path) {
            None => Ok(None),
            Some(Node::File(_, id)) => Ok(Some(state.contents[*id].now.clone())),
            Some(Node::Directory(_)) => bail!("{path} is a folder"),
        }
    }

    fn entry(&self, path: &Utf8Path) -> Result<Option<Entry>> {
        let state = self.state.borrow();
        // Nothing here depends on what is newer.
        let modified = std::time::SystemTime::UNIX_EPOCH;
        Ok(state.names.get(path).map(|node| match node {
            Node::Directory(access) => Entry {
                kind: Kind::Directory,
                size: 0,
                modified,
                mode: access.mode,
                owner: Some(access.owner),
            },
            Node::File(access, id) => Entry {
                kind: Kind::File,
                size: state.contents[*id].now.len() as u64,
                modified,
                mode: access.mode,
                owner: Some(access.owner),
            },
        }))
    }

    fn list(&self, dir: &Utf8Path) -> Result<Vec<String>> {
        let state = self.state.borrow();
        let inside = |path: &&Utf8PathBuf| path.as_path() != "/" && path.parent() == Some(dir);
        Ok(state.names.keys().filter(inside).filter_map(|p| p.file_name()).map(str::to_owned).collect())
    }

    fn mkdir(&self, path: &Utf8Path, access: Access) -> Result<()> {
        self.step()?;
        let mut state = self.state.borrow_mut();
        state.in_folder(path)?;
        if state.names.insert(path.to_owned(), Node::Directory(access)).is_some() {
            bail!("{path} exists");
        }
        Ok(())
    }

    fn create(&self, path: &Utf8Path, content: &[u8], access: Access) -> Result<()> {
        let cut = self.step();
        let mut state = self.state.borrow_mut();
        state.in_folder(path)?;
        if state.names.contains_key(path) {
            bail!("{path} exists");
        }
        // The cut may come in the middle of the write, but nothing is written after it.
        if state.at_or_before_cut() {
            let written = if cut.is_ok() { content } else { &content[..content.len() / 2] };
            state.contents.push(Content { now: written.to_vec(), durable: Vec::new() });
            let node = Node::File(access, state.contents.len() - 1);
            state.names.insert(path.to_owned(), node);
        }
        cut
    }

    fn set_access(&self, path: &Utf8Path, access: Access) -> Result<()> {
        self.step()?;
        match self.state.borrow_mut().names.get_mut(path) {
            Some(Node::Directory(old) | Node::File(old, _)) => *old = access,
            None => bail!("{path} is missing"),
        }
        Ok(())
    }

    fn sync(&self, path: &Utf8Path) -> Result<()> {
        self.step()?;
        let mut state = self.state.borrow_mut();
        match state.names.get(path).copied() {
            None => bail!("{path} is missing"),
            Some(Node::File(_, id)) => {
                let content = &mut state.contents[id];
                content.durable.clone_from(&content.now);
            }
            Some(Node::Directory(_)) => {
                let State { names, durable, .. } = &mut *state;
                let inside = |other: &Utf8PathBuf| other.parent() == Some(path);
                durable.retain(|other, _| !inside(other));
                durable.extend(names.iter().filter(|(other, _)| inside(other)).map(|(p, n)| (p.clone(), *n)));
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Utf8Path, to: &Utf8Path, replace: Replace) -> Result<()> {
        self.step()?;
        let mut state = self.state.borrow_mut();
        state.in_folder(to)?;
        if replace == Replace::Never && state.names.contains_key(to) {
            bail!("{to} exists");
        }
        let Some(node) = state.names.remove(from) else { bail!("{from} is missing") };
        state.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn overwrite(&self, path: &Utf8Path, size: usize) -> Result<()> {
        let cut = self.step();
        let mut state = self.state.borrow_mut();
        let Some(Node::File(_, id)) = state.names.get(path).copied() else { bail!("{path} is missing") };
        if state.at_or_before_cut() {
            let size = if cut.is_ok() { size } else { size / 2 };
            state.contents[id].now[..size].fill(b' ');
        }
        cut
    }

    fn lock(&self, _dir: &Utf8Path) -> Result<Lock> {
        Ok(Lock::default())
    }

    fn space(&self, _path: &Utf8Path) -> Result<Option<Space>> {
        Ok(None)
    }

    fn remove(&self, path: &Utf8Path) -> Result<()> {
        self.step()?;
        if self.state.borrow_mut().names.remove(path).is_none() {
            bail!("{path} is missing");
        }
        Ok(())
    }
}
