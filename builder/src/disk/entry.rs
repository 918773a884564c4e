//! What the image puts on top of its base.
#![expect(clippy::disallowed_methods, reason = "reads the image definition's file tree")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// One file, directory or link of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Where, without a leading slash: `usr/bin/etcd`.
    pub path: String,
    /// Permission bits; links ignore them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What.
    pub content: Content,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory. One that the base has already keeps the base's owner and mode.
    Directory,
    /// A symbolic link to this.
    Symlink(String),
    /// A file of these bytes.
    Bytes(Vec<u8>),
    /// A file of the bytes of that file on the build host.
    File(PathBuf),
}

impl TreeEntry {
    /// A file of root's that everybody may read.
    pub fn file(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o644, uid: 0, gid: 0, content: Content::Bytes(bytes.into()) }
    }

    /// A program of root's that everybody may run.
    pub fn program(path: impl Into<String>, from: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o755, uid: 0, gid: 0, content: Content::File(from.into()) }
    }
}

/// Reads a directory as entries of root's, sorted by path. Modes are 0755 or 0644 by the owner's execute bit: a check-out's umask must not matter.
///
/// # Errors
/// What cannot be read, names that are not UTF-8, and anything but files, directories and symbolic links.
pub fn read_tree(dir: &Path) -> anyhow::Result<Vec<TreeEntry>> {
    let mut entries = Vec::new();
    read_into(dir, "", &mut entries).with_context(|| format!("reading file tree `{}`", dir.display()))?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn read_into(dir: &Path, prefix: &str, entries: &mut Vec<TreeEntry>) -> anyhow::Result<()> {
    for found in fs_err::read_dir(dir)? {
        let found = found?;
        let Ok(name) = found.file_name().into_string() else {
            bail!("`{}` has a name that is not UTF-8", found.path().display())
        };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let at = found.path();
        let meta = fs_err::symlink_metadata(&at)?;
        let content = if meta.is_dir() {
            read_into(&at, &path, entries)?;
            Content::Directory
        } else if meta.is_symlink() {
            let target = fs_err::read_link(&at)?;
            let Some(target) = target.to_str() else { bail!("link `{}` has a target that is not UTF-8", at.display()) };
            Content::Symlink(target.to_owned())
        } else if meta.is_file() {
            Content::Bytes(fs_err::read(&at)?)
        } else {
            bail!("`{}` is neither a file nor a directory nor a symbolic link", at.display())
        };
        let executable = meta.is_dir() || meta.permissions().mode() & 0o100 != 0;
        entries.push(TreeEntry { path, mode: if executable { 0o755 } else { 0o644 }, uid: 0, gid: 0, content });
    }
    Ok(())
}

/// Entries by path; of two with one path the later wins.
pub(super) fn by_path(entries: &[TreeEntry]) -> BTreeMap<&str, &TreeEntry> {
    entries.iter().map(|e| (e.path.as_str(), e)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_directory_sorted_and_with_plain_modes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        fs_err::create_dir(at("etc")).unwrap();
        fs_err::write(at("etc/b"), "b").unwrap();
        fs_err::set_permissions(at("etc/b"), std::fs::Permissions::from_mode(0o600)).unwrap();
        fs_err::write(at("a"), "#!").unwrap();
        fs_err::set_permissions(at("a"), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("/dev/null", at("etc/a")).unwrap();
        let entry = |path: &str, mode, content| TreeEntry { path: path.into(), mode, uid: 0, gid: 0, content };
        assert_eq!(
            read_tree(dir.path()).unwrap(),
            [
                entry("a", 0o755, Content::Bytes(b"#!".into())),
                entry("etc", 0o755, Content::Directory),
                // A link has no mode of its own.
                entry("etc/a", 0o755, Content::Symlink("/dev/null".into())),
                entry("etc/b", 0o644, Content::Bytes(b"b".into())),
            ]
        );
    }
}
