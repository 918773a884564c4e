//! Looking through a store: what is in it, and whether its bytes are still what they were.

use std::path::{Path, PathBuf};

use anyhow::Result;
use kiln_firstboot::digest::Sha256Digest;

use super::{Damage, Entry, MANIFEST, Manifest, Store};
use crate::exit::Refusal;

/// Fewest digits of a key that name an entry.
const LEAST_DIGITS: usize = 8;

impl Store {
    /// Every finished entry, by key; those that cannot be read are in the second list.
    ///
    /// # Errors
    /// When the store's directory cannot be read.
    pub fn entries(&self) -> Result<(Vec<Entry>, Vec<Damage>)> {
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        for name in names(&self.root.join("entries"))? {
            let Ok(key) = name.parse::<Sha256Digest>() else { continue };
            match self.entry(&key) {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => damaged.push(Damage { path: self.entry_dir(&key), what: format!("has no {MANIFEST}") }),
                Err(error) => damaged.push(Damage { path: self.entry_dir(&key), what: format!("{error:#}") }),
            }
        }
        Ok((entries, damaged))
    }

    /// The digests of all blobs, sorted.
    ///
    /// # Errors
    /// When the store's directory cannot be read.
    pub fn blobs(&self) -> Result<Vec<Sha256Digest>> {
        Ok(names(&self.root.join("blobs/sha256"))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The directory of the entry that `name`, the first eight digits of a key or more, names; none when it is no key of this store.
    ///
    /// # Errors
    /// A [`Refusal`] when several keys begin like that.
    pub fn find_entry(&self, name: &str) -> Result<Option<PathBuf>> {
        let digits =
            name.len() >= LEAST_DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        if !digits {
            return Ok(None);
        }
        let mut found: Vec<String> =
            names(&self.root.join("entries"))?.into_iter().filter(|key| key.starts_with(name)).collect();
        if found.len() > 1 {
            return Err(Refusal::new(format!("several entries begin with `{name}`"), found.join(", ")).into());
        }
        Ok(found.pop().map(|key| self.root.join("entries").join(key)))
    }
}

impl Manifest {
    /// Bytes of all its files, as their lengths say; sparse files take less on the disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Names in a directory, sorted; none when it does not exist.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let found = match fs_err::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in found {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> (tempfile::TempDir, Store, Sha256Digest) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("store"));
        let key = Sha256Digest::of(b"key");
        let make = |at: &Path| {
            std::fs::write(at.join("a"), "content").unwrap();
            std::fs::write(at.join("disk.raw"), [1_u8; 10_000]).unwrap();
            Ok(Vec::new())
        };
        store.ensure_entry(&key, "image", make).unwrap();
        (dir, store, key)
    }

    #[test]
    fn a_flipped_bit_is_found_in_every_kind_of_file() {
        for name in ["a", "disk.raw"] {
            let (_dir, store, key) = filled();
            let entry = store.entry(&key).unwrap().unwrap();
            assert_eq!(store.check_entry(&entry).unwrap(), []);
            let path = entry.dir.join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[3] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let damaged = store.check_entry(&entry).unwrap();
            assert_eq!(damaged.len(), 1);
            assert_eq!(damaged[0].path, path);
        }
    }

    #[test]
    fn an_entry_is_found_by_the_beginning_of_its_key() {
        let (_dir, store, key) = filled();
        let text = key.to_string();
        assert_eq!(store.find_entry(&text[..8]).unwrap(), Some(store.entry_dir(&key)));
        assert_eq!(store.find_entry(&text).unwrap(), Some(store.entry_dir(&key)));
        assert_eq!(store.find_entry(&text[..7]).unwrap(), None);
        assert_eq!(store.find_entry("lab").unwrap(), None);
    }

    #[test]
    fn an_entry_without_a_manifest_is_damage_and_a_missing_store_is_empty() {
        let (_dir, store, key) = filled();
        std::fs::remove_file(store.entry_dir(&key).join(MANIFEST)).unwrap();
        let (entries, damaged) = store.entries().unwrap();
        assert!(entries.is_empty() && damaged.len() == 1);
        let nowhere = Store::at("/nonexistent/store");
        assert!(nowhere.entries().unwrap().0.is_empty() && nowhere.blobs().unwrap().is_empty());
    }
}
