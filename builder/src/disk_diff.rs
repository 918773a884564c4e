//! Where two disks differ: which partition, and which file of it. For people who ask why a build was not reproducible.
//!
//! Partitions are read from the table, never assumed. ext4 is read by debugfs and FAT by mtools, without mounting anything.
#![expect(clippy::disallowed_methods, reason = "an edge: reads disks and what was taken out of them")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::digesting;
use crate::disk::ToolTree;
use crate::tool::Tool;

const SECTOR: u64 = 512;
/// How much is compared at once.
const CHUNK: usize = 1 << 20;

/// One place in which two disks differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// `length`, `boot code and partition table`, or `partition 1`.
    pub place: String,
    /// The file in it; none when the bytes differ outside of any file.
    pub file: Option<String>,
    /// How it differs.
    pub what: String,
}

/// A partition, as the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partition {
    number: usize,
    start: u64,
    length: u64,
}

/// Compares two raw disks; empty when every byte is the same.
///
/// # Errors
/// When one cannot be read, or has no GPT.
pub fn diff(a: &Path, b: &Path, tools: &ToolTree, scratch: &Path) -> Result<Vec<Difference>> {
    let (file_a, file_b) = (fs_err::File::open(a)?.into_file(), fs_err::File::open(b)?.into_file());
    let (length_a, length_b) = (file_a.metadata()?.len(), file_b.metadata()?.len());
    if length_a != length_b {
        let what = format!("{length_a} bytes and {length_b} bytes");
        return Ok(vec![Difference { place: "length".into(), file: None, what }]);
    }
    let partitions =
        partitions(&file_a).with_context(|| format!("reading the partition table of `{}`", a.display()))?;
    let mut found = Vec::new();
    for (start, end) in outside(&partitions, length_a) {
        if let Some(at) = first_difference(&file_a, &file_b, start, end)? {
            let place = "boot code and partition table".to_owned();
            found.push(Difference { place, file: None, what: format!("from byte {at} on") });
        }
    }
    for partition in partitions {
        let end = partition.start + partition.length;
        let Some(at) = first_difference(&file_a, &file_b, partition.start, end)? else { continue };
        let place = format!("partition {}", partition.number);
        let kind = kind(&file_a, partition)?;
        let trees = [("a", a), ("b", b)].map(|(name, disk)| {
            let dir = scratch.join(format!("{}-{name}", partition.number));
            extract(kind, disk, partition, tools, &dir).map(|()| dir)
        });
        let [tree_a, tree_b] = trees;
        let files = match kind {
            Kind::Other => Vec::new(),
            Kind::Ext4 | Kind::Fat => compare_trees(&tree_a?, &tree_b?)?,
        };
        if files.is_empty() {
            let what = format!("no file differs; the bytes do from {} of the partition on", at - partition.start);
            found.push(Difference { place, file: None, what });
        } else {
            let of = |(file, what)| Difference { place: place.clone(), file: Some(file), what };
            found.extend(files.into_iter().map(of));
        }
    }
    Ok(found)
}

/// Reads a GPT's used entries.
fn partitions(disk: &File) -> Result<Vec<Partition>> {
    let mut header = [0; 512];
    disk.read_exact_at(&mut header, SECTOR)?;
    ensure!(&header[..8] == b"EFI PART", "there is no GPT");
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |n, b| (n << 8) | u64::from(*b));
    let (table, count, size) = (number(&header[72..80]), number(&header[80..84]), number(&header[84..88]));
    ensure!((128..=4096).contains(&size) && count <= 1024, "the table has {count} entries of {size} bytes");
    let mut entry = vec![0; usize::try_from(size)?];
    let mut found = Vec::new();
    for i in 0..count {
        disk.read_exact_at(&mut entry, table * SECTOR + i * size)?;
        if entry[..16].iter().all(|b| *b == 0) {
            continue;
        }
        let (first, last) = (number(&entry[32..40]), number(&entry[40..48]));
        ensure!(first <= last, "partition {} ends before it begins", i + 1);
        let length = (last - first + 1) * SECTOR;
        found.push(Partition { number: usize::try_from(i + 1)?, start: first * SECTOR, length });
    }
    found.sort_by_key(|p| p.start);
    Ok(found)
}

/// The stretches that no partition covers.
fn outside(partitions: &[Partition], length: u64) -> Vec<(u64, u64)> {
    let mut stretches = Vec::new();
    let mut at = 0;
    for partition in partitions {
        stretches.push((at, partition.start));
        at = partition.start + partition.length;
    }
    stretches.push((at, length));
    stretches.retain(|(start, end)| start < end);
    stretches
}

fn first_difference(a: &File, b: &File, start: u64, end: u64) -> io::Result<Option<u64>> {
    let (mut buffer_a, mut buffer_b) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = start;
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let (part_a, part_b) = (&mut buffer_a[..length], &mut buffer_b[..length]);
        a.read_exact_at(part_a, at)?;
        b.read_exact_at(part_b, at)?;
        if part_a != part_b {
            let offset = part_a.iter().zip(part_b.iter()).take_while(|(x, y)| x == y).count();
            return Ok(Some(at + offset as u64));
        }
        at += length as u64;
    }
    Ok(None)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ext4,
    Fat,
    Other,
}

fn kind(disk: &File, partition: Partition) -> Result<Kind> {
    let mut block = [0; 2048];
    if partition.length < block.len() as u64 {
        return Ok(Kind::Other);
    }
    disk.read_exact_at(&mut block, partition.start)?;
    Ok(if block[1080..1082] == [0x53, 0xef] {
        Kind::Ext4
    } else if block[82..87] == *b"FAT32" || block[54..57] == *b"FAT" {
        Kind::Fat
    } else {
        Kind::Other
    })
}

/// Takes every file out of a partition.
fn extract(kind: Kind, disk: &Path, partition: Partition, tools: &ToolTree, dir: &Path) -> Result<()> {
    fs_err::create_dir_all(dir)?;
    let tool = match kind {
        Kind::Other => return Ok(()),
        Kind::Ext4 => debugfs(tools, disk, partition, &format!("rdump / \"{}\"", dir.display())),
        Kind::Fat => {
            let mut image = disk.as_os_str().to_owned();
            image.push(format!("@@{}", partition.start));
            Tool::new("mcopy").args(["-s", "-n", "-m", "-i"]).arg(image).arg("::/").arg(dir)
        }
    };
    tool.read().map(|_| ()).with_context(|| format!("taking the files out of partition {}", partition.number))
}

fn debugfs(tools: &ToolTree, disk: &Path, partition: Partition, request: &str) -> Tool {
    let mut device = disk.as_os_str().to_owned();
    device.push(format!("?offset={}", partition.start));
    tools.tool("usr/sbin/debugfs").args(["-R", request]).arg(device)
}

/// Every path by what is told of it: kind, mode, owner, and content.
fn listing(top: &Path, at: &Path, into: &mut BTreeMap<String, String>) -> Result<()> {
    for found in fs_err::read_dir(top.join(at))? {
        let path = at.join(found?.file_name());
        let full = top.join(&path);
        let metadata = fs_err::symlink_metadata(&full)?;
        let content = if metadata.is_symlink() {
            format!("link to {}", fs_err::read_link(&full)?.display())
        } else if metadata.is_dir() {
            listing(top, &path, into)?;
            "directory".to_owned()
        } else if metadata.is_file() {
            let (digest, bytes) = digesting::digest_of(fs_err::File::open(&full)?)?;
            format!("{bytes} bytes, sha256 {digest}")
        } else {
            "special file".to_owned()
        };
        let mut told = format!("mode {:o}, owner {}:{}", metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        // Neither debugfs nor mcopy gives a link its own time back.
        if !metadata.is_symlink() {
            // Writing to a string cannot fail.
            let _ = write!(told, ", time {}", metadata.mtime());
        }
        let _ = write!(told, ", {content}");
        into.insert(format!("/{}", path.display()), told);
    }
    Ok(())
}

fn compare_trees(a: &Path, b: &Path) -> Result<Vec<(String, String)>> {
    let list = |top: &Path| {
        let mut files = BTreeMap::new();
        listing(top, Path::new(""), &mut files).map(|()| files)
    };
    let (a, b) = (list(a)?, list(b)?);
    let paths: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differs = |path: &&String| a.get(*path) != b.get(*path);
    let what = |path: &String| match (a.get(path), b.get(path)) {
        (Some(before), Some(after)) => told_apart(before, after),
        (None, _) => "only in the second".to_owned(),
        (_, None) => "only in the first".to_owned(),
    };
    Ok(paths.into_iter().filter(differs).map(|path| (path.clone(), what(path))).collect())
}

/// Only what differs of two descriptions.
fn told_apart(before: &str, after: &str) -> String {
    let pairs = before.split(", ").zip(after.split(", ")).filter(|(x, y)| x != y);
    pairs.map(|(x, y)| format!("{x} -> {y}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stretches_outside_of_partitions_cover_the_rest() {
        let partition = |start, length| Partition { number: 1, start, length };
        assert_eq!(outside(&[partition(10, 5), partition(15, 5)], 30), [(0, 10), (20, 30)]);
        assert_eq!(outside(&[partition(0, 30)], 30), []);
    }

    #[test]
    fn only_what_differs_is_told() {
        let before = "mode 644, owner 0:0, time 1, 3 bytes, sha256 aa";
        assert_eq!(told_apart(before, "mode 600, owner 0:0, time 1, 3 bytes, sha256 aa"), "mode 644 -> mode 600");
    }

    #[test]
    fn a_disk_without_a_table_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, vec![0; 4096]).unwrap();
        let error = diff(&path, &path, &ToolTree::new("/nonexistent"), dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("there is no GPT"), "{error:#}");
    }
}
