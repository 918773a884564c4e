//! What an entry says it holds, and how that is found out.
#![expect(clippy::disallowed_methods, reason = "the place where an entry's files are hashed")]

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::digesting;

/// Name of the file with the sums of an entry's files, as `sha256sum --check` reads it.
pub(crate) const SUMS: &str = "sha256sums";
/// Files that are disks or file systems, mostly holes. By name and not by their blocks, which differ between the file systems of build hosts.
const SPARSE: [&str; 3] = [".raw", ".ext4", ".fat"];
/// Name of the file that makes a directory an entry.
pub(crate) const MANIFEST: &str = "manifest.json";

/// `manifest.json`: written last, so its presence says the entry is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 1.
    pub schema: u32,
    /// The entry's key.
    pub key: Sha256Digest,
    /// What kind of layer it is, for people.
    pub layer: String,
    /// How long it took to make, in milliseconds.
    pub millis: u64,
    /// Its files by path, sorted. Directories that hold whole trees are listed by [`Manifest::trees`] only.
    pub files: Vec<ManifestFile>,
    /// Subdirectories that are trees of their own (extracted packages), listed by name and not by file.
    pub trees: Vec<String>,
    /// The digest of each of them. Empty in manifests of before there were any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tree_digests: BTreeMap<String, Sha256Digest>,
}

/// One file of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Path inside the entry.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Digest of its bytes, as `sha256sum` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
    /// For a disk or a file system, instead: the digest of what is not zero ([`digesting::sparse_digest_of`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse: Option<Sha256Digest>,
}

/// What filled an entry's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Subdirectories that are trees of their own ([`Manifest::trees`]).
    pub trees: Vec<String>,
    /// Files that were hashed while others were still being made ([`hash_file`]); all others are hashed when the entry is published.
    pub hashed: Vec<ManifestFile>,
}

impl Made {
    /// Nothing is hashed yet.
    pub fn with_trees(trees: Vec<String>) -> Self {
        Self { trees, hashed: Vec::new() }
    }

    /// Every file in `dir` that lies in no tree, hashed and in the order of their paths; and the trees.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(super) fn hash_rest(self, dir: &Path) -> Result<(Vec<ManifestFile>, Vec<String>)> {
        let Self { trees, hashed: mut files } = self;
        let mut paths = outside_trees(dir, &trees)?;
        paths.retain(|path| files.iter().all(|file| file.path != *path));
        files.extend(hash_files(dir, &paths)?);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((files, trees))
    }
}

/// The manifest in `dir`.
///
/// # Errors
/// When it is missing or cannot be understood.
pub(crate) fn read_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    serde_json::from_slice(&fs_err::read(&path)?).with_context(|| format!("reading `{}`", path.display()))
}

/// Every file of an entry in `dir` that lies in none of its trees.
///
/// # Errors
/// When a directory cannot be read, or a name is not UTF-8.
pub(super) fn outside_trees(dir: &Path, trees: &[String]) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    list(dir, Path::new(""), trees, &mut paths)?;
    Ok(paths)
}

fn list(base: &Path, at: &Path, trees: &[String], paths: &mut Vec<String>) -> Result<()> {
    for found in fs_err::read_dir(base.join(at))? {
        let found = found?;
        let path = at.join(found.file_name());
        let name = path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?.to_owned();
        if trees.contains(&name) {
            continue;
        }
        if found.file_type()?.is_dir() {
            list(base, &path, trees, paths)?;
        } else {
            paths.push(name);
        }
    }
    Ok(())
}

/// Hashes a file of an entry that is being made in `base`; it must not change any more.
///
/// # Errors
/// When it cannot be read.
pub fn hash_file(base: &Path, path: &str) -> Result<ManifestFile> {
    let file = fs_err::File::open(base.join(path))?.into_file();
    let has_holes = SPARSE.iter().any(|suffix| path.ends_with(suffix));
    let hashed = if has_holes { digesting::sparse_digest_of(&file) } else { digesting::digest_of(&file) };
    let (digest, bytes) = hashed.with_context(|| format!("reading `{path}`"))?;
    let (sha256, sparse) = if has_holes { (None, Some(digest)) } else { (Some(digest), None) };
    Ok(ManifestFile { path: path.to_owned(), bytes, sha256, sparse })
}

/// Hashes files side by side: one processor can hash only one.
fn hash_files(base: &Path, paths: &[String]) -> Result<Vec<ManifestFile>> {
    std::thread::scope(|scope| {
        let started: Vec<_> = paths.iter().map(|path| scope.spawn(move || hash_file(base, path))).collect();
        started.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}
