//! Whether an entry's bytes are still what they were when it got its name.
//!
//! The sums cover the manifest, the manifest covers files and trees; where an entry is sealed, the signature covers the sums. So every
//! byte of an entry is covered by something, and what covers it lies in another file.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the store's files")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;
use ring::signature::{ED25519, UnparsedPublicKey};

use super::manifest::outside_trees;
use super::{Entry, MANIFEST, ManifestFile, SUMS, Store, remove_tree, tree};
use crate::digesting;
use crate::trust::provenance;
use crate::trust::seal::{PROVENANCE, SIGNATURE};
use crate::trust::sums::{Sum, Sums};

/// Files up to this are read at a glance: a recipe and a bill of materials have some 100 KB, the smallest disk has tens of MB.
const SMALL: u64 = 4 << 20;

/// Something whose bytes are not what they were when it was finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, or the entry without a readable manifest.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` {}", self.path.display(), self.what)
    }
}

impl Entry {
    /// Reads every byte and compares it with the manifest, the manifest with the sums, the sums with their signature.
    ///
    /// # Errors
    /// When a file cannot be read for another reason than that it is gone.
    pub fn check(&self) -> Result<Vec<Damage>> {
        let mut damaged = self.check_papers()?;
        for file in &self.manifest.files {
            damaged.extend(self.check_file(file)?);
        }
        for name in &self.manifest.trees {
            damaged.extend(self.check_tree(name)?);
        }
        damaged.extend(self.strangers()?);
        Ok(damaged)
    }

    /// [`Entry::check`] for what can be read in a moment: manifest, sums, signature, small files. For a disk the length must do, which
    /// [`Store::entry`] has compared.
    ///
    /// # Errors
    /// As [`Entry::check`].
    pub fn glance(&self) -> Result<Vec<Damage>> {
        let mut damaged = self.check_papers()?;
        for file in self.manifest.files.iter().filter(|f| f.sha256.is_some() && f.bytes <= SMALL) {
            damaged.extend(self.check_file(file)?);
        }
        Ok(damaged)
    }

    fn damage(&self, path: &str, what: impl Into<String>) -> Damage {
        Damage { path: self.dir.join(path), what: what.into() }
    }

    /// Manifest, sums, provenance and signature against each other.
    fn check_papers(&self) -> Result<Vec<Damage>> {
        let mut damaged = Vec::new();
        if self.dir.file_name().and_then(|name| name.to_str()) != Some(&self.manifest.key.to_string()) {
            damaged.push(self.damage(MANIFEST, format!("is that of {}", self.manifest.key)));
        }
        let Some(signed) = read(&self.dir.join(SUMS))? else {
            damaged.push(self.damage(SUMS, "is missing"));
            return Ok(damaged);
        };
        let manifest = Sha256Digest::of(&read(&self.dir.join(MANIFEST))?.unwrap_or_default());
        let statement = read(&self.dir.join(PROVENANCE))?;
        let signature = read(&self.dir.join(SIGNATURE))?;
        if statement.is_none() && signature.is_none() {
            let new = sums_text(&self.manifest.files, Some(manifest));
            // Entries of before the sums covered the manifest are as good as their sums.
            if signed != new.as_bytes() && signed != sums_text(&self.manifest.files, None).as_bytes() {
                damaged.push(self.damage(SUMS, format!("and `{MANIFEST}` do not agree: one of them was changed")));
            }
            return Ok(damaged);
        }
        let statement = statement.unwrap_or_default();
        match std::str::from_utf8(&signed).map_err(anyhow::Error::from).and_then(Sums::parse) {
            Err(error) => damaged.push(self.damage(SUMS, format!("cannot be read: {error:#}"))),
            Ok(sums) => {
                let papers = [(MANIFEST, manifest), (PROVENANCE, Sha256Digest::of(&statement))];
                for (path, found) in papers {
                    if sums.of(path) != Some(found) {
                        damaged.push(self.damage(path, format!("does not hash to what `{SUMS}` says")));
                    }
                }
                for file in &self.manifest.files {
                    // The raw disk has a digest of its own kind, which only the manifest says.
                    if file.sha256.is_some_and(|sum| sums.of(&file.path) != Some(sum)) {
                        let what = format!("and `{MANIFEST}` do not agree on `{}`", file.path);
                        damaged.push(self.damage(SUMS, what));
                    }
                }
            }
        }
        if let Some(signature) = signature {
            let sound = provenance::builder_of(&statement)
                .is_some_and(|key| UnparsedPublicKey::new(&ED25519, key.0).verify(&signed, &signature).is_ok());
            if !sound {
                damaged.push(self.damage(SIGNATURE, format!("is not the signature of `{SUMS}`")));
            }
        }
        Ok(damaged)
    }

    fn check_file(&self, file: &ManifestFile) -> Result<Option<Damage>> {
        let path = self.dir.join(&file.path);
        let opened = match fs_err::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Some(self.damage(&file.path, "is missing")));
            }
            other => other?.into_file(),
        };
        let (hashed, expected) = match (file.sha256, file.sparse) {
            (Some(expected), _) => (digesting::digest_of(&opened), expected),
            (None, Some(expected)) => (digesting::sparse_digest_of(&opened), expected),
            (None, None) => return Ok(Some(self.damage(MANIFEST, format!("has no digest of `{}`", file.path)))),
        };
        let (found, _) = hashed.with_context(|| format!("reading `{}`", path.display()))?;
        Ok((found != expected).then(|| self.damage(&file.path, format!("hashes to {found}, not to {expected}"))))
    }

    fn check_tree(&self, name: &str) -> Result<Option<Damage>> {
        let Some(expected) = self.manifest.tree_digests.get(name) else {
            return Ok(Some(self.damage(name, "was made by a kiln that took no digest of it")));
        };
        if !self.dir.join(name).is_dir() {
            return Ok(Some(self.damage(name, "is missing")));
        }
        let found = tree::digest(&self.dir.join(name))?;
        Ok((found != *expected).then(|| self.damage(name, format!("hashes to {found}, not to {expected}"))))
    }

    /// What lies in the entry and is not of it.
    fn strangers(&self) -> Result<Vec<Damage>> {
        let mut found = outside_trees(&self.dir, &self.manifest.trees)?;
        let known = |path: &String| {
            [MANIFEST, SUMS, PROVENANCE, SIGNATURE].contains(&path.as_str())
                || self.manifest.files.iter().any(|f| f.path == *path)
        };
        found.sort();
        Ok(found.iter().filter(|path| !known(path)).map(|path| self.damage(path, "is not of this entry")).collect())
    }
}

impl Store {
    /// Reads every byte of an entry and compares it with what it was.
    ///
    /// # Errors
    /// As [`Entry::check`].
    pub fn check_entry(&self, entry: &Entry) -> Result<Vec<Damage>> {
        entry.check()
    }

    /// Takes an entry away, whatever state it is in; waits for whoever makes it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard(&self, key: &Sha256Digest) -> Result<()> {
        let away = self.temp_path("discarded")?;
        let _held = self.lock(&key.to_string(), "another kiln makes this layer; waiting for it")?;
        match fs_err::rename(self.entry_dir(key), &away) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => {
                other?;
                remove_tree(&away)
            }
        }
    }
}

/// The sums of an entry that nobody sealed.
pub(super) fn sums_text(files: &[ManifestFile], manifest: Option<Sha256Digest>) -> String {
    let files: BTreeMap<&str, Sha256Digest> = files
        .iter()
        .filter_map(|f| Some((f.path.as_str(), f.sha256?)))
        .chain(manifest.map(|m| (MANIFEST, m)))
        .collect();
    Sums(files.into_iter().map(|(path, sha256)| Sum { path: path.to_owned(), sha256 }).collect()).render()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs_err::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
