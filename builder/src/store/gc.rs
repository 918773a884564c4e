//! Collecting what no root reaches.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use super::{PARTIAL, Store, remove_tree};
use crate::exit::Refusal;

/// What a collection removes, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Directories of entries.
    pub entries: Vec<PathBuf>,
    /// Files of fetched inputs.
    pub blobs: Vec<PathBuf>,
    /// Bytes on the disk.
    pub bytes: u64,
}

impl Store {
    /// What no root reaches: finished entries, broken ones, fetched inputs.
    ///
    /// # Errors
    /// A [`Refusal`] when there is no root at all, or one whose reach is not known; nothing may then be removed.
    pub fn garbage(&self) -> Result<Garbage> {
        let roots = self.roots()?;
        if roots.is_empty() {
            return Err(Refusal::new(
                format!("the store `{}` has no root, so everything in it would be garbage", self.root.display()),
                "build what is to stay, or remove the directory",
            )
            .into());
        }
        let reached = self.reached(&roots)?;
        let (entries, broken) = self.entries()?;
        let mut garbage = Garbage {
            entries: entries
                .into_iter()
                .filter(|e| !reached.entries.contains(&e.manifest.key))
                .map(|e| e.dir)
                .collect(),
            ..Garbage::default()
        };
        // A broken entry of a root is left: `reached` has refused those it needs, and the others are only seen by `store verify`.
        garbage.entries.extend(broken.into_iter().map(|b| b.path).filter(|path| {
            let key = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            key.is_none_or(|key| !reached.entries.contains(&key))
        }));
        garbage.blobs =
            self.blobs()?.iter().filter(|digest| !reached.blobs.contains(digest)).map(|d| self.blob_path(d)).collect();
        for path in garbage.entries.iter().chain(&garbage.blobs) {
            garbage.bytes += on_disk(path)?;
        }
        Ok(garbage)
    }

    /// Removes what no root reaches, and tells what it was. Waits for builds that run; builds that begin wait for it. Stopped at any point, it
    /// leaves whole entries, and what it had begun to remove is swept by the next run.
    ///
    /// # Errors
    /// As [`Store::garbage`]; when something cannot be removed.
    pub fn gc(&self) -> Result<Garbage> {
        let _alone = self.hold_gc(FlockArg::LockExclusive, "another kiln uses the store; waiting for it")?;
        let garbage = self.garbage()?;
        let (bin, _held) = self.begin_session()?;
        for (i, path) in garbage.entries.iter().chain(&garbage.blobs).enumerate() {
            // Renamed first: a name under `entries/` or `blobs/` is whole at every moment.
            let away = bin.join(i.to_string());
            fs_err::rename(path, &away)?;
            if away.is_dir() {
                remove_tree(&away)?;
            } else {
                fs_err::remove_file(&away)?;
            }
        }
        for dir in ["entries", "blobs/sha256"] {
            let dir = self.root.join(dir);
            if dir.is_dir() {
                File::open(&dir)
                    .and_then(|dir| dir.sync_all())
                    .with_context(|| format!("syncing `{}`", dir.display()))?;
            }
        }
        // Nobody receives anything while we are alone, so what lies here was interrupted and not gone on with.
        match fs_err::rename(self.root.join(PARTIAL), bin.join(PARTIAL)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => {
                other?;
                remove_tree(&bin.join(PARTIAL))?;
            }
        }
        // Empty by now; the next run would sweep it as well.
        let _ = fs_err::remove_dir_all(&bin);
        let _ = fs_err::remove_file(bin.with_extension("lock"));
        Ok(garbage)
    }

    /// Bytes that a file or a directory of the store takes on the disk.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn on_disk(&self, path: &std::path::Path) -> Result<u64> {
        on_disk(path)
    }

    /// Takes the lock between builds (shared) and the collector (alone).
    pub(super) fn hold_gc(&self, how: FlockArg, waiting: &str) -> Result<Flock<File>> {
        self.lock_as("gc", how, waiting)
    }
}

/// Bytes that a file or a tree takes on the disk.
fn on_disk(path: &std::path::Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs_err::symlink_metadata(path)?;
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for found in fs_err::read_dir(path)? {
            bytes += on_disk(&found?.path())?;
        }
    }
    Ok(bytes)
}
