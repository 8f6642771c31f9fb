//! What lies where in a FAT32, and the bytes of its tables and folders. Pure.
//!
//! Microsoft, "FAT: General Overview of On-Disk Format", version 1.03.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

use super::name::{ENTRY, Short, entries, long_entries, short_names};
use super::time::Stamp;
use super::{LABEL, Options};

const SECTOR: u32 = 512;
/// Fewer clusters than this make it FAT16 to every driver.
const MIN_CLUSTERS: u32 = 65_525;
const MAX_CLUSTERS: u32 = 0x0fff_fff4;
/// At least this many blocks before the first table; more are added so that clusters are aligned.
const RESERVED: u32 = 32;
const TABLES: u32 = 2;
/// Clusters count from 2; the root folder comes first.
const FIRST_CLUSTER: u32 = 2;
const INFO_BLOCK: u32 = 1;
const BACKUP_BLOCK: u32 = 6;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
const FOLDER: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const VOLUME: u8 = 0x08;

/// Blocks and clusters of a file system of some length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Geometry {
    sectors: u32,
    per_cluster: u8,
    reserved: u16,
    table_sectors: u32,
    clusters: u32,
}

impl Geometry {
    fn new(size: u64) -> Result<Self> {
        ensure!(
            size.is_multiple_of(SECTOR.into()),
            "laying out the boot file system: {size} bytes is no whole number of blocks"
        );
        let sectors = u32::try_from(size / u64::from(SECTOR)).with_context(|| {
            format!("laying out the boot file system: {size} bytes is above FAT32's 2 TiB")
        })?;
        // Clusters of 4 KiB, a memory page, where there are enough of them.
        [8, 1].into_iter().find_map(|per_cluster| Geometry::with_clusters(sectors, per_cluster)).with_context(
            || format!("laying out the boot file system: {size} bytes is too small or too large for FAT32"),
        )
    }

    fn with_clusters(sectors: u32, per_cluster: u8) -> Option<Self> {
        let cluster = u32::from(per_cluster);
        // As if the tables took no room: a table that is a little too long is allowed and costs nothing here.
        let most = (sectors.checked_sub(RESERVED)?) / cluster;
        let table_sectors = (most + FIRST_CLUSTER).div_ceil(SECTOR / 4);
        let before = (RESERVED + TABLES * table_sectors).next_multiple_of(cluster);
        let reserved = u16::try_from(before - TABLES * table_sectors).ok()?;
        let clusters = sectors.checked_sub(before)? / cluster;
        (MIN_CLUSTERS..=MAX_CLUSTERS).contains(&clusters).then_some(Geometry {
            sectors,
            per_cluster,
            reserved,
            table_sectors,
            clusters,
        })
    }

    fn cluster_bytes(&self) -> u32 {
        SECTOR * u32::from(self.per_cluster)
    }

    fn table_offset(&self, table: u32) -> u64 {
        u64::from(u32::from(self.reserved) + table * self.table_sectors) * u64::from(SECTOR)
    }

    fn cluster_offset(&self, cluster: u32) -> u64 {
        self.table_offset(TABLES) + u64::from(cluster - FIRST_CLUSTER) * u64::from(self.cluster_bytes())
    }
}

/// A run of clusters.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    clusters: u32,
}

/// A folder: its entries by name, folders and files together, each with its short name.
struct Folder<'a> {
    children: Vec<(&'a str, Short)>,
}

/// The whole file system. Folders have their path as name; the root's is empty.
pub(super) struct Plan<'a> {
    options: Options,
    geometry: Geometry,
    folders: BTreeMap<&'a str, Folder<'a>>,
    sizes: &'a BTreeMap<&'a str, u32>,
    /// Of folders and of files that are not empty.
    runs: BTreeMap<&'a str, Run>,
    next_free: u32,
}

impl<'a> Plan<'a> {
    /// Gives every folder and every file of `sizes` (name, length in bytes) its clusters.
    pub(super) fn new(options: Options, sizes: &'a BTreeMap<&'a str, u32>) -> Result<Self> {
        let geometry = Geometry::new(options.size)?;
        let folders = folders(sizes);
        let mut runs = BTreeMap::new();
        let mut next = u64::from(FIRST_CLUSTER);
        let mut place = |name, bytes: u64| {
            let clusters = bytes.div_ceil(geometry.cluster_bytes().into());
            // A run that does not fit is caught below; it is never used.
            let run = Run {
                first: u32::try_from(next).unwrap_or(u32::MAX),
                clusters: u32::try_from(clusters).unwrap_or(u32::MAX),
            };
            runs.insert(name, run);
            next += clusters;
        };
        // The root's path is the empty string, so it comes first and gets cluster 2.
        for (path, folder) in &folders {
            let own = if path.is_empty() { 1 } else { 2 };
            let count: usize = folder.children.iter().map(|(name, short)| entries(name, short)).sum();
            // One more, zero, ends the folder.
            place(*path, ((own + count + 1) * ENTRY) as u64);
        }
        for (name, size) in sizes.iter().filter(|(_, size)| **size > 0) {
            place(*name, u64::from(*size));
        }
        let end = u64::from(FIRST_CLUSTER + geometry.clusters);
        ensure!(
            next <= end,
            "laying out the boot file system: the files take {} bytes, it has room for {}; enlarge [disk] boot",
            (next - u64::from(FIRST_CLUSTER)) * u64::from(geometry.cluster_bytes()),
            u64::from(geometry.clusters) * u64::from(geometry.cluster_bytes())
        );
        let next_free = u32::try_from(next).context("laying out the boot file system")?;
        Ok(Plan { options, geometry, folders, sizes, runs, next_free })
    }

    /// Where a file's bytes go; `None` for an empty file.
    pub(super) fn offset(&self, name: &str) -> Option<u64> {
        self.runs.get(name).map(|run| self.geometry.cluster_offset(run.first))
    }

    /// Everything but the contents of files: (offset, bytes). What is not named is zero.
    pub(super) fn metadata(&self) -> Vec<(u64, Vec<u8>)> {
        let at = |block: u32| u64::from(block * SECTOR);
        let (boot, info, table) = (self.boot_block(), self.info_block(), self.table());
        let mut found = vec![
            (at(0), boot.clone()),
            (at(INFO_BLOCK), info.clone()),
            (at(BACKUP_BLOCK), boot),
            (at(BACKUP_BLOCK + INFO_BLOCK), info),
            (self.geometry.table_offset(0), table.clone()),
            (self.geometry.table_offset(1), table),
        ];
        for (path, folder) in &self.folders {
            let run = self.runs[path];
            found.push((self.geometry.cluster_offset(run.first), self.folder(path, folder)));
        }
        found
    }

    fn boot_block(&self) -> Vec<u8> {
        let Geometry { sectors, per_cluster, reserved, table_sectors, .. } = self.geometry;
        let mut block = vec![0; SECTOR as usize];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0xeb, 0x58, 0x90]); // jump behind this table, to…
        put(0x5a, &[0xf4, 0xeb, 0xfd]); // …a halt: nothing boots from here
        put(3, b"MSWIN4.1"); // the maker's name that the specification recommends
        put(11, &512u16.to_le_bytes());
        put(13, &[per_cluster]);
        put(14, &reserved.to_le_bytes());
        put(16, &[2]); // tables
        put(21, &[0xf8]); // medium: fixed disk
        put(24, &63u16.to_le_bytes()); // blocks per track and heads: the usual fiction
        put(26, &255u16.to_le_bytes());
        put(32, &sectors.to_le_bytes());
        put(36, &table_sectors.to_le_bytes());
        put(44, &FIRST_CLUSTER.to_le_bytes()); // root folder
        put(48, &1u16.to_le_bytes()); // INFO_BLOCK
        put(50, &6u16.to_le_bytes()); // BACKUP_BLOCK
        put(64, &[0x80]); // BIOS's number of a first hard disk
        put(66, &[0x29]); // the next three fields are there
        put(67, &self.options.id.0.to_le_bytes());
        put(71, &label());
        put(82, b"FAT32   ");
        put(510, &[0x55, 0xaa]);
        block
    }

    fn info_block(&self) -> Vec<u8> {
        let free = FIRST_CLUSTER + self.geometry.clusters - self.next_free;
        let mut block = vec![0; SECTOR as usize];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"RRaA");
        put(484, b"rrAa");
        put(488, &free.to_le_bytes());
        put(492, &self.next_free.to_le_bytes());
        put(510, &[0x55, 0xaa]);
        block
    }

    /// One table, as far as it is not zero.
    fn table(&self) -> Vec<u8> {
        // Entry 0 repeats the medium; entry 1's upper bits say "cleanly unmounted, no errors".
        let mut links = vec![0; self.next_free as usize];
        links[..2].copy_from_slice(&[0x0fff_fff8, END_OF_CHAIN]);
        for Run { first, clusters } in self.runs.values() {
            let last = first + clusters - 1;
            for cluster in *first..last {
                links[cluster as usize] = cluster + 1;
            }
            links[last as usize] = END_OF_CHAIN;
        }
        links.iter().flat_map(|link: &u32| link.to_le_bytes()).collect()
    }

    fn folder(&self, path: &str, folder: &Folder<'_>) -> Vec<u8> {
        let cluster = |name: &str| self.runs.get(name).map_or(0, |run| run.first);
        let mut bytes = Vec::new();
        let mut put = |short: &Short, kind, cluster, size| {
            bytes.extend_from_slice(&self.entry(short, kind, cluster, size));
        };
        if path.is_empty() {
            put(&label(), VOLUME, 0, 0);
        } else {
            // The root folder has number 0 here, though it starts at cluster 2.
            let parent = match path.rsplit_once('/') {
                None => 0,
                Some((parent, _)) => cluster(parent),
            };
            put(b".          ", FOLDER, cluster(path), 0);
            put(b"..         ", FOLDER, parent, 0);
        }
        for (name, short) in &folder.children {
            let full = if path.is_empty() { (*name).to_owned() } else { format!("{path}/{name}") };
            for long in long_entries(name, short) {
                bytes.extend_from_slice(&long);
            }
            let (kind, size) = match self.sizes.get(full.as_str()) {
                Some(size) => (ARCHIVE, *size),
                None => (FOLDER, 0),
            };
            bytes.extend_from_slice(&self.entry(short, kind, cluster(&full), size));
        }
        bytes
    }

    fn entry(&self, short: &Short, kind: u8, cluster: u32, size: u32) -> [u8; ENTRY] {
        let Stamp { date, time } = Stamp::new(self.options.time);
        let [low_0, low_1, high_0, high_1] = cluster.to_le_bytes();
        let mut entry = [0; ENTRY];
        let mut put = |at: usize, bytes: &[u8]| entry[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, short);
        put(11, &[kind]);
        put(14, &time.to_le_bytes()); // made
        put(16, &date.to_le_bytes());
        put(18, &date.to_le_bytes()); // read
        put(20, &[high_0, high_1]);
        put(22, &time.to_le_bytes()); // changed
        put(24, &date.to_le_bytes());
        put(26, &[low_0, low_1]);
        put(28, &size.to_le_bytes());
        entry
    }
}

fn label() -> Short {
    let mut label = [b' '; 11];
    label[..LABEL.len()].copy_from_slice(LABEL.as_bytes());
    label
}

/// All folders that the names imply, with their entries in sorted order.
fn folders<'a>(sizes: &BTreeMap<&'a str, u32>) -> BTreeMap<&'a str, Folder<'a>> {
    let mut children: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::from([("", BTreeSet::new())]);
    for name in sizes.keys() {
        let mut path = *name;
        while let Some((parent, child)) = path.rsplit_once('/') {
            children.entry(parent).or_default().insert(child);
            path = parent;
        }
        children.entry("").or_default().insert(path);
    }
    let folder = |names: BTreeSet<&'a str>| {
        let names: Vec<_> = names.into_iter().collect();
        let shorts = short_names(&names);
        Folder { children: names.into_iter().zip(shorts).collect() }
    };
    children.into_iter().map(|(path, names)| (path, folder(names))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_of_the_usual_sizes() {
        let design = Geometry::new(512 << 20).unwrap();
        assert_eq!((design.per_cluster, design.clusters), (8, 130_812));
        let small = Geometry::new(48 << 20).unwrap();
        assert_eq!(small.per_cluster, 1);
        for size in [1 << 20, 32 << 20, (48 << 20) + 1, 3 << 40] {
            assert!(Geometry::new(size).is_err(), "{size}");
        }
    }

    #[test]
    fn clusters_are_aligned_and_the_table_covers_them() {
        for mib in (40..2000).step_by(7) {
            let geometry = Geometry::new(mib << 20).unwrap();
            assert_eq!(
                geometry.cluster_offset(FIRST_CLUSTER) % u64::from(geometry.cluster_bytes()),
                0,
                "{mib}"
            );
            assert!(geometry.table_sectors * (SECTOR / 4) >= geometry.clusters + FIRST_CLUSTER, "{mib}");
            assert!(geometry.cluster_offset(FIRST_CLUSTER + geometry.clusters) <= mib << 20, "{mib}");
        }
    }

    #[test]
    fn the_last_cluster_can_be_used() {
        let options = Options { size: 48 << 20, id: super::super::VolumeId(1), time: 0 };
        let room = Geometry::new(options.size).unwrap().clusters * SECTOR - SECTOR; // one is the root folder
        for (size, fits) in [(room, true), (room + 1, false)] {
            let sizes = BTreeMap::from([("KERNEL", size)]);
            assert_eq!(Plan::new(options, &sizes).is_ok(), fits, "{size}");
        }
    }
}
