//! Whole trees inside an entry: what is in one, and one digest over all of it.
//!
//! The digest covers paths, kinds, permission bits, bytes, targets of links and numbers of devices. Owners and times are left out: they
//! differ between those who unpack the same packages, and nothing that reads a tree looks at them.
#![expect(clippy::disallowed_methods, reason = "an edge: reads trees of the store")]

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use kiln_firstboot::digest::Sha256Digest;

use crate::digesting;

/// One thing in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its path inside the tree.
    pub(crate) path: String,
    /// Permission bits, without setuid, setgid and sticky.
    pub(crate) mode: u32,
    /// What it is.
    pub(crate) kind: NodeKind,
}

/// What something in a tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// A directory.
    Directory,
    /// A file of so many bytes.
    File(u64),
    /// A symbolic link to this.
    Link(String),
    /// A device, pipe or socket: its letter and numbers.
    Special(char, u64),
}

/// Everything in a tree, sorted by path, so that a directory comes before what is in it.
///
/// # Errors
/// When it cannot be read, or a name is not UTF-8.
pub(crate) fn walk(root: &Path) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    descend(root, "", &mut nodes)?;
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(nodes)
}

fn descend(root: &Path, at: &str, nodes: &mut Vec<Node>) -> Result<()> {
    for found in fs_err::read_dir(root.join(at))? {
        let found = found?;
        let name = found.file_name();
        let name = name.to_str().with_context(|| format!("`{}` is not UTF-8", found.path().display()))?;
        let path = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
        let metadata = found.metadata()?;
        let file_type = metadata.file_type();
        let kind = if file_type.is_dir() {
            NodeKind::Directory
        } else if file_type.is_file() {
            NodeKind::File(metadata.len())
        } else if file_type.is_symlink() {
            let target = fs_err::read_link(found.path())?;
            let target = target.to_str().with_context(|| format!("where `{path}` leads is not UTF-8"))?;
            NodeKind::Link(target.to_owned())
        } else {
            let letter = match () {
                () if file_type.is_char_device() => 'c',
                () if file_type.is_block_device() => 'b',
                () if file_type.is_fifo() => 'p',
                () => 's',
            };
            NodeKind::Special(letter, metadata.rdev())
        };
        nodes.push(Node { path: path.clone(), mode: metadata.mode() & 0o777, kind: kind.clone() });
        if kind == NodeKind::Directory {
            descend(root, &path, nodes)?;
        }
    }
    Ok(())
}

/// The digest of a tree: of a text with a line for each thing in it, in which a file stands with the digest of its bytes.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn digest(root: &Path) -> Result<Sha256Digest> {
    use std::fmt::Write as _;
    let mut text = String::from("kiln tree 1\n");
    for node in walk(root)? {
        let Node { path, mode, kind } = node;
        // Quoted as Rust does: no name can look like the end of a line. Writing to a string cannot fail.
        let _ = match kind {
            NodeKind::Directory => writeln!(text, "d {mode:o} {path:?}"),
            NodeKind::Link(target) => writeln!(text, "l {path:?} {target:?}"),
            NodeKind::Special(letter, numbers) => writeln!(text, "{letter} {mode:o} {numbers} {path:?}"),
            NodeKind::File(bytes) => {
                let file = fs_err::File::open(root.join(&path))?;
                let (digest, read) = digesting::digest_of(file).with_context(|| format!("reading `{path}`"))?;
                if read != bytes {
                    bail!("`{}` changes while it is read", root.join(&path).display());
                }
                writeln!(text, "f {mode:o} {digest} {path:?}")
            }
        };
    }
    Ok(Sha256Digest::of(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/file"), "content").unwrap();
        std::fs::write(dir.path().join("a.txt"), "").unwrap();
        std::os::unix::fs::symlink("b/file", dir.path().join("a/link")).unwrap();
        dir
    }

    #[test]
    fn the_same_tree_made_twice_has_one_digest() {
        assert_eq!(digest(tree().path()).unwrap(), digest(tree().path()).unwrap());
        let dir = tree();
        let paths: Vec<_> = walk(dir.path()).unwrap().into_iter().map(|n| n.path).collect();
        assert_eq!(paths, ["a", "a.txt", "a/b", "a/b/file", "a/link"]);
    }

    #[test]
    fn bytes_names_modes_and_links_all_count() {
        let change: [&dyn Fn(&Path); 5] = [
            &|at| std::fs::write(at.join("a/b/file"), "Content").unwrap(),
            &|at| std::fs::rename(at.join("a/b/file"), at.join("a/b/fil2")).unwrap(),
            &|at| std::fs::set_permissions(at.join("a/b"), PermissionsExt::from_mode(0o700)).unwrap(),
            &|at| {
                std::fs::remove_file(at.join("a/link")).unwrap();
                std::os::unix::fs::symlink("b/fill", at.join("a/link")).unwrap();
            },
            &|at| std::fs::create_dir(at.join("empty")).unwrap(),
        ];
        let whole = digest(tree().path()).unwrap();
        for change in change {
            let dir = tree();
            change(dir.path());
            assert_ne!(digest(dir.path()).unwrap(), whole);
        }
    }
}
