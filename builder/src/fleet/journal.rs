//! How far a node is in being imaged again or rolled back: a file per node, gone when it is done.
//!
//! It decides nothing but where the same command goes on after it was cut off. Without it a data volume would be wiped a second time, of a
//! node that may have come back with it meanwhile.
#![expect(clippy::disallowed_methods, reason = "an edge: reads and writes the journal")]

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::durable;
use serde::{Deserialize, Serialize};

use crate::host::Root;

/// What is being done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Doing {
    /// It is imaged again.
    Reimage {
        /// With this root.
        root: Root,
        /// And a blank data volume.
        wipe_data: bool,
    },
    /// It is given the root back that it had.
    Rollback {
        /// That root.
        to: Root,
    },
}

/// How far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// 1.
    pub schema: u32,
    /// What.
    pub doing: Doing,
    /// It had that very root when this began, and is to have it anew.
    pub anew: bool,
    /// Its disks are ready: all that is left is to power it on and wait for it. From here on no disk of it is touched.
    pub ready: bool,
}

/// The journal of one node.
#[derive(Clone, Debug)]
pub struct Journal(Utf8PathBuf);

impl Entry {
    /// Nothing is done yet.
    pub fn begun(doing: Doing, anew: bool) -> Self {
        Self { schema: 1, doing, anew, ready: false }
    }
}

impl Journal {
    /// Of a node, in the directory of its cluster.
    pub fn of(dir: &Utf8Path, node: &str) -> Self {
        Self(dir.join(format!("{node}.json")))
    }

    /// What is under way; nothing when nothing is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> Result<Option<Entry>> {
        match fs_err::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| {
                format!("reading how far a node is, `{}`\n  hint: remove the file to begin anew", self.0)
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes how far it is. On the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, entry: &Entry) -> Result<()> {
        let text = serde_json::to_string_pretty(entry)? + "\n";
        durable::replace(self.0.as_std_path(), text.as_bytes(), 0o600).with_context(|| format!("writing `{}`", self.0))
    }

    /// It is done.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn close(&self) -> Result<()> {
        match fs_err::remove_file(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        // One that came back with a power cut would have the same command do nothing.
        let dir = self.0.parent().context("a file has a directory")?;
        durable::sync_directory(dir.as_std_path()).with_context(|| format!("syncing `{dir}`"))
    }
}
