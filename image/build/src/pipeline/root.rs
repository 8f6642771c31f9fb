//! rootfs: the bootstrap's tar, the overlay and the agent become the tar of the image's root.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use recipe::Plan;
use recipe::overlay::Kind as OverlayKind;

use super::{Builder, Facts, Work, line};
use crate::disk::ids::DiskIds;
use crate::rootfs::edit::{self, Laid, own_dir, own_file, own_link};
use crate::rootfs::tree::{self, Kind, Node, Source, Tree};
use crate::rootfs::write;
use crate::store::{Entry, Ingredients, sha256, sha256_file};

const CODE_VERSION: u32 = 4;

/// Folders that the running system mounts things on; see ARCHITECTURE.md, "State".
const MOUNT_POINTS: [(&str, u32); 4] = [("data", 0o755), ("boot", 0o755), ("srv", 0o755), ("home", 0o755)];
/// The folder above dpkg's database, which no package brings.
const SYSIMAGE: (&str, u32) = ("usr/lib/sysimage", 0o755);

impl Builder<'_> {
    /// `root.tar` and `listing.json`.
    pub(super) fn rootfs(
        &self,
        plan: &Plan,
        base: Option<&Entry>,
        agent: Option<&Entry>,
    ) -> Result<Option<Entry>> {
        let (line, stage) = (line(plan), "rootfs");
        let ingredients = match (base, agent) {
            (Some(base), Some(agent)) => {
                Some(self.rootfs_ingredients(plan, base, agent, self.date(plan)?)?)
            }
            _ => None,
        };
        // The id names the inputs. The bootstrap's tar is none: it holds random keys and logs, which do not ship.
        let build_id = ingredients.clone().zip(base).map(|(mut list, base)| {
            list.add("the bootstrap", base.key());
            list.key().short().to_owned()
        });
        let build_id = build_id.unwrap_or_default();
        self.stage(&line, stage, ingredients, |work| {
            let base = base.context("the stage before has a result")?;
            let agent = agent.context("the stage before has a result")?;
            let date = self.date(plan)?;
            let facts = lay_out(plan, base, agent, date, &build_id, work)?;
            Ok(facts)
        })
    }

    fn rootfs_ingredients(&self, plan: &Plan, base: &Entry, agent: &Entry, date: u64) -> Result<Ingredients> {
        let mut list = Ingredients::new(CODE_VERSION);
        list.add("the bootstrap", base.fact("base.tar")?);
        list.add("the agent", agent.fact("cipolla")?);
        list.add("the version", plan.version().to_string()).add("the name", plan.name().to_string());
        list.add("the source date", date.to_string());
        list.add("the settings", sha256(plan.settings_toml().as_bytes()));
        let words = |items: Vec<&str>| items.join(" ");
        list.add("the stripped paths", words(plan.strip().paths().iter().map(|g| g.as_str()).collect()));
        list.add("the kept paths", words(plan.strip().keep().iter().map(|g| g.as_str()).collect()));
        list.add("the enabled units", words(plan.units_enable().iter().map(|u| u.as_str()).collect()));
        list.add("the masked units", words(plan.units_mask().iter().map(|u| u.as_str()).collect()));
        for entry in plan.overlay_entries() {
            let name = entry.source().strip_prefix(&self.repo).unwrap_or(entry.source());
            let about = format!(
                "{}:{} {:04o} {} {}",
                entry.user().as_str(),
                entry.group().as_str(),
                entry.mode().bits(),
                entry.explicit(),
                entry.target()
            );
            let content = match entry.kind() {
                OverlayKind::File { .. } => sha256_file(entry.source())?,
                OverlayKind::Dir => String::new(),
                OverlayKind::Symlink { target } => target.clone(),
            };
            list.add(name.as_str(), sha256(format!("{about} {content}").as_bytes()));
        }
        Ok(list)
    }
}

fn lay_out(
    plan: &Plan,
    base: &Entry,
    agent: &Entry,
    date: u64,
    build_id: &str,
    work: &Work<'_>,
) -> Result<Facts> {
    let tar = base.file("base.tar");
    let mut tree = tree::index(&tar)?;
    let whole = tree.clone();
    edit::drop_unwanted(&mut tree, |path| plan.strip().is_stripped(path));
    edit::settle_hardlinks(&mut tree, &whole)?;
    edit::relocate(&mut tree);
    drop(whole);

    let ids = |path: &str| Ok::<_, anyhow::Error>(edit::ids(&tree::text(&tree, path, &tar)?));
    let (users, groups) = (ids("etc/passwd")?, ids("etc/group")?);
    let shadow = edit::pin_shadow(&tree::text(&tree, "etc/shadow", &tar)?, date);
    if let Some(node) = tree.get_mut("etc/shadow") {
        node.kind = Kind::File { size: shadow.len() as u64, source: Source::Bytes(shadow.into_bytes()) };
    }
    for laid in overlay(plan, date, &users, &groups)? {
        edit::lay(&mut tree, laid)?;
    }
    for laid in own(plan, &tree, &tar, agent, date, build_id)? {
        edit::lay(&mut tree, laid)?;
    }
    for laid in units(plan, &tree, &tar, date)? {
        edit::lay(&mut tree, laid)?;
    }
    for node in tree.values_mut() {
        node.mtime = node.mtime.min(date);
    }
    let (listing, digest) =
        write::write(&tree, &tar, &work.dir.join("root.tar"), &|n, all| (work.advance)(n, all))?;
    fs_err::write(work.dir.join("listing.json"), serde_json::to_vec(&listing)?)?;
    let bytes: u64 = listing.iter().map(|l| l.size).sum();
    Ok(Facts::from([
        ("root.tar".into(), digest),
        ("build-id".into(), build_id.to_owned()),
        ("bytes".into(), bytes.to_string()),
    ]))
}

/// The overlay's entries with numeric owners; every unknown name in one error.
fn overlay(
    plan: &Plan,
    date: u64,
    users: &BTreeMap<String, u32>,
    groups: &BTreeMap<String, u32>,
) -> Result<Vec<Laid>> {
    let (mut laid, mut unknown) = (Vec::new(), Vec::new());
    for entry in plan.overlay_entries() {
        let (uid, gid) = (users.get(entry.user().as_str()), groups.get(entry.group().as_str()));
        let (Some(uid), Some(gid)) = (uid, gid) else {
            unknown.push(format!(
                "{} for {}:{}",
                entry.source(),
                entry.user().as_str(),
                entry.group().as_str()
            ));
            continue;
        };
        let kind = match entry.kind() {
            OverlayKind::File { size } => {
                Kind::File { source: Source::Host(entry.source().to_owned()), size: *size }
            }
            OverlayKind::Dir => Kind::Dir,
            OverlayKind::Symlink { target } => Kind::Symlink(target.clone()),
        };
        let node =
            Node { kind, mode: entry.mode().bits(), uid: *uid, gid: *gid, mtime: date, xattrs: vec![] };
        laid.push(Laid {
            path: entry.target().trim_start_matches('/').into(),
            node,
            explicit: entry.explicit(),
        });
    }
    if !unknown.is_empty() {
        bail!(
            "overlay/owners.toml gives files to users or groups that no package of the image makes:\n  {}",
            unknown.join("\n  ")
        );
    }
    Ok(laid)
}

/// What the builder itself adds.
fn own(
    plan: &Plan,
    tree: &Tree,
    tar: &Utf8Path,
    agent: &Entry,
    date: u64,
    build_id: &str,
) -> Result<Vec<Laid>> {
    let ids = DiskIds::derive(plan.name().as_str(), plan.arch(), plan.version().as_ref());
    let mut laid: Vec<Laid> =
        MOUNT_POINTS.iter().chain([&SYSIMAGE]).map(|(path, mode)| own_dir(path, *mode, date)).collect();
    laid.push(own_link(&format!("{}/lib/dpkg", edit::FACTORY_VAR), "../../usr/lib/sysimage/dpkg", date));
    // systemd never lets the clock start before the time of this file: systemd(1), "clock-epoch".
    laid.push(own_file("usr/lib/clock-epoch", "", date));
    let image = format!(
        "# This image; written by the builder.\nname = \"{}\"\nversion = \"{}\"\narch = \"{}\"\n\
         build_id = \"{build_id}\"\nsource_date = {date}\n",
        plan.name(),
        plan.version(),
        plan.arch()
    );
    laid.push(own_file("usr/lib/cipolla/image.toml", image, date));
    if !plan.settings_toml().is_empty() {
        laid.push(own_file("usr/lib/cipolla/defaults.toml", plan.settings_toml(), date));
    }
    let root_b = format!(
        "# The kernel command line of slot b names the UUID; the size is that of slot a.\n[Partition]\nUUID={}\n\
         SizeMinBytes={size}\nSizeMaxBytes={size}\n",
        ids.root_b,
        size = plan.disk().root().bytes()
    );
    laid.push(own_file("usr/lib/repart.d/50-root-b.conf.d/recipe.conf", root_b, date));
    let release = tree::text(tree, "usr/lib/os-release", tar)?;
    let release = format!(
        "{release}IMAGE_ID=cipolla-{}\nIMAGE_VERSION={}\nBUILD_ID={build_id}\n",
        plan.name(),
        plan.version()
    );
    laid.push(own_file("usr/lib/os-release", release, date));
    let program = agent.file("cipolla");
    let size = fs_err::metadata(&program)?.len();
    let kind = Kind::File { source: Source::Host(program), size };
    let node = Node { kind, mode: 0o755, uid: 0, gid: 0, mtime: date, xattrs: vec![] };
    laid.push(Laid { path: "usr/bin/cipolla".into(), node, explicit: true });
    Ok(laid)
}

/// Links that enable and mask units; every problem in one error.
fn units(plan: &Plan, tree: &Tree, tar: &Utf8Path, date: u64) -> Result<Vec<Laid>> {
    let (mut laid, mut problems) = (Vec::new(), Vec::new());
    for unit in plan.units_enable() {
        let unit = unit.as_str();
        let links = edit::unit_path(tree, unit)
            .and_then(|path| edit::enable(unit, &path, &tree::text(tree, &path, tar)?));
        match links {
            Ok(links) => laid.extend(links.iter().map(|(place, target)| own_link(place, target, date))),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    for unit in plan.units_mask() {
        let place = format!("etc/systemd/system/{}", unit.as_str());
        if matches!(tree.get(&place).map(|n| &n.kind), Some(Kind::File { .. })) {
            problems.push(format!("/{place} is a file, so the unit cannot be masked: remove one of the two"));
        }
        laid.push(own_link(&place, "/dev/null", date));
    }
    if !problems.is_empty() {
        bail!("[units] of the recipe does not fit the image:\n  {}", problems.join("\n  "));
    }
    Ok(laid)
}
