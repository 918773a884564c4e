//! The root file system as one tar: the base's members as they are, without those that the image replaces, then the image's own, sorted.
//!
//! Members are copied with their headers, byte for byte, so that capabilities and other attributes survive; runs of kept members are copied by the
//! kernel without passing through here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::Context as _;

use super::archive::{self, Member};
use super::entry::{Content, TreeEntry, by_path};

/// Directories of the base whose contents are not the root's: /boot is a partition of its own, /dev is the kernel's.
const EMPTIED: [&str; 2] = ["boot", "dev"];

/// Why the image's files cannot go on top of the base.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// `lib/x` where the base has `lib` as a link.
    #[error("`{path}` would lie in `{parent}`, which is not a directory\nhint: put it where `{parent}` points")]
    NoDirectory {
        /// The entry.
        path: String,
        /// What is not a directory.
        parent: String,
    },
    /// A directory where the base has something else.
    #[error("`{0}` is a directory in the image's files and something else in the base")]
    Shadowed(String),
    /// A hard link to a member that is replaced.
    #[error("`{link}` of the base is a hard link to `{target}`, which the image replaces\nhint: replace `{link}` too")]
    BrokenLink {
        /// The link.
        link: String,
        /// Its target.
        target: String,
    },
}

/// What becomes of base and entries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection<'a> {
    /// Ranges of the base's tar that stay.
    pub kept: Vec<Range<u64>>,
    /// Members of the base that go because an entry takes their place, in the tar's order.
    pub replaced: Vec<&'a Member>,
    /// What comes, by path: entries, and directories that none of them names but some of them need.
    pub added: BTreeMap<&'a str, Option<&'a TreeEntry>>,
}

impl Selection<'_> {
    /// What is left to do where `done` is done: a selection of the same base, of some of the entries.
    pub(super) fn without(mut self, done: &Selection<'_>) -> Self {
        self.replaced.retain(|member| !done.replaced.contains(member));
        self.added.retain(|path, _| !done.added.contains_key(path));
        self
    }
}

fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

pub(super) fn select<'a>(members: &'a [Member], entries: &'a [TreeEntry]) -> Result<Selection<'a>, ComposeError> {
    let entries = by_path(entries);
    let is_directory = |path: &str| entries.get(path).map(|e| e.content == Content::Directory);
    let is_replaced = |member: &Member| {
        is_directory(&member.path).is_some_and(|directory| !(directory && member.kind == b'5'))
            || ancestors(&member.path).any(|a| is_directory(a) == Some(false))
    };
    let mut replaced = Vec::new();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut base: BTreeMap<&str, u8> = BTreeMap::new();
    for member in members {
        if ancestors(&member.path).any(|a| EMPTIED.contains(&a)) {
            continue;
        }
        if is_replaced(member) {
            if member.kind != b'5' && is_directory(&member.path) == Some(true) {
                return Err(ComposeError::Shadowed(member.path.clone()));
            }
            replaced.push(member);
            continue;
        }
        base.insert(&member.path, member.kind);
        match ranges.last_mut() {
            Some(last) if last.end == member.bytes.start => last.end = member.bytes.end,
            _ => ranges.push(member.bytes.clone()),
        }
    }
    for member in members.iter().filter(|m| m.kind == b'1' && base.contains_key(m.path.as_str())) {
        if !base.contains_key(member.link.as_str()) {
            return Err(ComposeError::BrokenLink { link: member.path.clone(), target: member.link.clone() });
        }
    }
    let mut added = BTreeMap::new();
    for (path, entry) in &entries {
        for parent in ancestors(path) {
            match (is_directory(parent), base.get(parent)) {
                (Some(false), _) | (None, Some(0..b'5' | b'6'..)) => {
                    return Err(ComposeError::NoDirectory { path: (*path).to_owned(), parent: parent.to_owned() });
                }
                (Some(true), _) | (None, Some(b'5')) => {}
                (None, None) => drop(added.insert(parent, None)),
            }
        }
        // A directory that the base has stays the base's.
        if !base.contains_key(path) {
            added.insert(*path, Some(*entry));
        }
    }
    Ok(Selection { kept: ranges, replaced, added })
}

/// Writes base and entries as one tar into `out`, all times of the entries being `epoch`.
///
/// `out` is a file or pipe, so that the kernel can copy.
///
/// # Errors
/// [`ComposeError`]; what cannot be read or written.
pub fn compose(
    base: &Path,
    entries: &[TreeEntry],
    epoch: u64,
    mut out: impl io::Write + CopyTarget,
) -> anyhow::Result<()> {
    let (mut file, members) = archive::open(base)?;
    let selection = select(&members, entries)?;
    for range in &selection.kept {
        file.seek(SeekFrom::Start(range.start))?;
        let length = range.end - range.start;
        let copied = out.copy_from(&mut file, length).context("writing the root's archive")?;
        anyhow::ensure!(copied == length, "archive `{}` was cut while it was read", base.display());
    }
    let mut builder = tar::Builder::new(out);
    for (path, entry) in &selection.added {
        append(&mut builder, path, *entry, epoch)
            .with_context(|| format!("writing `{path}` into the root's archive"))?;
    }
    builder.into_inner().and_then(|mut out| out.flush()).context("writing the root's archive")
}

/// Where a stretch of a file can be copied to by the kernel; `io::copy` does that for files and pipes when it knows their type.
pub trait CopyTarget {
    /// Copies `length` bytes from the file's position; returns how many there were.
    ///
    /// # Errors
    /// As `io::copy`.
    fn copy_from(&mut self, file: &mut File, length: u64) -> io::Result<u64>;
}

impl CopyTarget for File {
    fn copy_from(&mut self, file: &mut File, length: u64) -> io::Result<u64> {
        io::copy(&mut file.take(length), self)
    }
}

impl CopyTarget for io::PipeWriter {
    fn copy_from(&mut self, file: &mut File, length: u64) -> io::Result<u64> {
        io::copy(&mut file.take(length), self)
    }
}

pub(super) fn append<W: Write>(
    builder: &mut tar::Builder<W>,
    path: &str,
    entry: Option<&TreeEntry>,
    epoch: u64,
) -> anyhow::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mtime(epoch);
    header.set_mode(entry.map_or(0o755, |e| e.mode));
    header.set_uid(entry.map_or(0, |e| e.uid).into());
    header.set_gid(entry.map_or(0, |e| e.gid).into());
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Directory);
    match entry.map(|e| &e.content) {
        None | Some(Content::Directory) => builder.append_data(&mut header, path, io::empty())?,
        Some(Content::Symlink(target)) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            builder.append_link(&mut header, path, target)?;
        }
        Some(Content::Bytes(bytes)) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes.as_slice())?;
        }
        Some(Content::File(from)) => append_file(builder, header, path, from)?,
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "reads a program that goes into the image")]
fn append_file<W: Write>(
    builder: &mut tar::Builder<W>,
    mut header: tar::Header,
    path: &str,
    from: &Path,
) -> anyhow::Result<()> {
    let file = fs_err::File::open(from)?;
    let length = file.metadata()?.len();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(length);
    // A file that grows meanwhile must not spoil the archive's framing; one that shrinks must not pass.
    let mut counted = Counted { inner: file.take(length), left: length };
    builder.append_data(&mut header, path, io::BufReader::with_capacity(1 << 20, &mut counted))?;
    anyhow::ensure!(counted.left == 0, "`{}` was cut while it was read", from.display());
    Ok(())
}

struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// The one regular file in the base's /boot whose name begins with `prefix`: the kernel, or its initrd.
pub(super) fn only<'a>(members: &'a [Member], prefix: &str) -> anyhow::Result<&'a Member> {
    let found: BTreeSet<&str> = members
        .iter()
        .filter(|m| m.kind == b'0' && m.path.strip_prefix("boot/").is_some_and(|name| name.starts_with(prefix)))
        .map(|m| m.path.as_str())
        .collect();
    let first = found.first().with_context(|| {
        format!("the base has no `boot/{prefix}*`\nhint: the image definition's packages need a kernel")
    })?;
    anyhow::ensure!(
        found.len() == 1,
        "the base has several of `boot/{prefix}*`: {}",
        found.iter().copied().collect::<Vec<_>>().join(", ")
    );
    members.iter().find(|m| m.path == *first).context("it was found a moment ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &[(&str, u8, &str)]) -> Vec<Member> {
        let member = |(i, (path, kind, link)): (usize, &(&str, u8, &str))| {
            let start = i as u64 * 1024;
            Member {
                path: (*path).into(),
                kind: *kind,
                link: (*link).into(),
                bytes: start..start + 1024,
                data: start + 512..start + 1024,
            }
        };
        list.iter().enumerate().map(member).collect()
    }

    fn link(path: &str) -> TreeEntry {
        TreeEntry { path: path.into(), mode: 0o777, uid: 0, gid: 0, content: Content::Symlink("x".into()) }
    }

    fn directory(path: &str) -> TreeEntry {
        TreeEntry { path: path.into(), mode: 0o700, uid: 0, gid: 0, content: Content::Directory }
    }

    #[test]
    fn replaced_members_and_what_is_below_them_are_left_out() {
        let base = members(&[
            ("", b'5', ""),
            ("boot", b'5', ""),
            ("boot/vmlinuz", b'0', ""),
            ("dev", b'5', ""),
            ("dev/null", b'3', ""),
            ("etc", b'5', ""),
            ("etc/fstab", b'0', ""),
            ("etc/fstab.d", b'5', ""),
            ("etc/init", b'5', ""),
            ("etc/init/x", b'0', ""),
        ]);
        let entries = [
            directory("etc"),
            TreeEntry::file("etc/fstab", "#"),
            link("etc/init"),
            TreeEntry::file("usr/lib/kiln/x", ""),
        ];
        let selection = select(&base, &entries).unwrap();
        let replaced: Vec<_> = selection.replaced.iter().map(|m| m.path.as_str()).collect();
        assert_eq!(replaced, ["etc/fstab", "etc/init", "etc/init/x"]);
        assert_eq!(selection.kept, [0..2048, 3072..4096, 5120..6144, 7168..8192]);
        let added: Vec<_> = selection.added.iter().map(|(path, entry)| (*path, entry.is_some())).collect();
        assert_eq!(
            added,
            [
                ("etc/fstab", true),
                ("etc/init", true),
                ("usr", false),
                ("usr/lib", false),
                ("usr/lib/kiln", false),
                ("usr/lib/kiln/x", true)
            ]
        );
    }

    #[test]
    fn of_two_entries_with_one_path_the_later_wins() {
        let entries = [TreeEntry::file("a", "tree"), TreeEntry::file("a", "rendered")];
        assert_eq!(select(&[], &entries).unwrap().added["a"], Some(&entries[1]));
    }

    #[test]
    fn refuses_what_would_write_through_a_link_or_break_one() {
        let base = members(&[("lib", b'2', "usr/lib"), ("a", b'0', ""), ("b", b'1', "a")]);
        let no_directory =
            |path: &str, parent: &str| ComposeError::NoDirectory { path: path.into(), parent: parent.into() };
        assert_eq!(select(&base, &[TreeEntry::file("lib/x", "")]), Err(no_directory("lib/x", "lib")));
        assert_eq!(select(&[], &[TreeEntry::file("c", ""), TreeEntry::file("c/d", "")]), Err(no_directory("c/d", "c")));
        assert_eq!(select(&base, &[directory("lib")]), Err(ComposeError::Shadowed("lib".into())));
        assert_eq!(
            select(&base, &[TreeEntry::file("a", "")]),
            Err(ComposeError::BrokenLink { link: "b".into(), target: "a".into() })
        );
    }

    #[test]
    fn the_kernel_is_found_only_if_there_is_one() {
        let base = members(&[("boot/vmlinuz", b'2', "x"), ("boot/vmlinuz-6.8", b'0', "")]);
        assert_eq!(only(&base, "vmlinuz-").unwrap().path, "boot/vmlinuz-6.8");
        assert!(only(&base, "initrd.img-").unwrap_err().to_string().starts_with("the base has no `boot/initrd.img-*`"));
        let two = members(&[("boot/vmlinuz-1", b'0', ""), ("boot/vmlinuz-2", b'0', "")]);
        assert_eq!(
            only(&two, "vmlinuz-").unwrap_err().to_string(),
            "the base has several of `boot/vmlinuz-*`: boot/vmlinuz-1, boot/vmlinuz-2"
        );
    }
}
