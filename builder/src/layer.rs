//! Making the layers of an image, each an entry of the store:
//!
//! ```text
//! tools, boot-packages   pinned packages, unpacked          etcd    its three programs
//! base                   rootfs.tar, by mmdebstrap          boot    root with etcd, /boot, ESP, boot sectors
//! customized             the base after commands ran in it; a cloud image's disk
//! hygiene                what the base holds that an image must not
//! image                  disk.raw and disk.qcow2            compressed, tree: the same in other forms
//! ```
//! A layer reads its inputs and the layers below it, and nothing else.

pub mod base;
pub mod customized;
pub mod etcd;
pub mod hygiene;
pub mod image;
pub mod packages;
pub mod soundness;

use std::path::{Path, PathBuf};

use anyhow::Result;
use kiln_firstboot::digest::Sha256Digest;

use crate::store::{Entry, Made, Seal, Store};

/// What was done for one layer.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LayerReport {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: Sha256Digest,
    /// Whether it was made in this run.
    pub built: bool,
    /// How long that took; 0 if it was there.
    pub seconds: f64,
}

/// Ensures one layer and reports what was done. `make` gets an empty directory and a log.
///
/// # Errors
/// `make`'s and the store's.
pub fn ensure(
    store: &Store,
    name: &str,
    key: &Sha256Digest,
    reports: &mut Vec<LayerReport>,
    make: impl FnOnce(&Path, &Path) -> Result<Vec<String>>,
) -> Result<Entry> {
    ensure_sealed(store, name, key, reports, |dir, log| make(dir, log).map(Made::with_trees), &|_, _| Ok(()))
}

/// [`ensure`], with files beside the layer's that vouch for it ([`Store::ensure_sealed_entry`]).
///
/// # Errors
/// `make`'s, `seal`'s and the store's.
pub fn ensure_sealed(
    store: &Store,
    name: &str,
    key: &Sha256Digest,
    reports: &mut Vec<LayerReport>,
    make: impl FnOnce(&Path, &Path) -> Result<Made>,
    seal: Seal<'_>,
) -> Result<Entry> {
    let log = log_of(store, name, key);
    let fill = |dir: &Path| {
        log::info!("{name}: making it");
        if let Some(parent) = log.parent() {
            fs_err::create_dir_all(parent)?;
        }
        match fs_err::remove_file(&log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        make(dir, &log)
    };
    let (entry, built) = store.ensure_sealed_entry(key, name, fill, seal)?;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds for a person to read")]
    let seconds = if built { entry.manifest.millis as f64 / 1000.0 } else { 0.0 };
    if built {
        log::info!("{name}: made in {seconds:.1} s");
    }
    reports.push(LayerReport { name: name.to_owned(), key: *key, built, seconds });
    Ok(entry)
}

/// Where the output of a layer's programs is kept, also when they fail.
pub fn log_of(store: &Store, name: &str, key: &Sha256Digest) -> PathBuf {
    store.root().join("log").join(format!("{name}-{:.12}.log", key.to_string()))
}
