//! Whether the layers that something is made of are what they were: read through beside the work, and waited for before what was made of
//! them gets its name. Nothing is made twice as long as the disk is sound, and nothing made of damaged bytes is ever published.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Result;
use kiln_firstboot::digest::Sha256Digest;

use crate::store::{Damage, Entry};

/// A layer found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its name.
    pub layer: String,
    /// Its key.
    pub key: Sha256Digest,
    /// The first thing that is wrong with it.
    pub damage: Damage,
}

/// What was made must not be kept: something it was made of is damaged.
#[derive(Debug, thiserror::Error)]
#[error("a layer it is made of is damaged")]
pub struct Unsound;

/// Looks through layers on threads of their own.
#[derive(Debug, Default)]
pub struct Soundness {
    looking: Mutex<Vec<JoinHandle<Result<Option<Damaged>>>>>,
    damaged: Mutex<Vec<Damaged>>,
    spared: Mutex<BTreeSet<Sha256Digest>>,
}

impl Soundness {
    /// Layers that are not read to make this, so that their bytes have no say in it.
    pub fn spare(&self, keys: impl IntoIterator<Item = Sha256Digest>) {
        self.spared.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }

    /// Begins to read a layer that was in the store under this key, unless it is spared.
    pub fn look(&self, key: &Sha256Digest, entry: &Entry) {
        if !self.spared.lock().unwrap_or_else(PoisonError::into_inner).contains(key) {
            self.read(key, entry);
        }
    }

    /// Begins to read a layer, spared or not.
    pub fn read(&self, key: &Sha256Digest, entry: &Entry) {
        let (key, entry) = (*key, entry.clone());
        let look = move || {
            let damage = entry.check()?.into_iter().next();
            Ok(damage.map(|damage| Damaged { layer: entry.manifest.layer.clone(), key, damage }))
        };
        self.looking.lock().unwrap_or_else(PoisonError::into_inner).push(std::thread::spawn(look));
    }

    /// Waits until all that was begun is read.
    ///
    /// # Errors
    /// [`Unsound`] when any of it, ever, was found damaged; when something cannot be read.
    pub fn settle(&self) -> Result<()> {
        let looking = std::mem::take(&mut *self.looking.lock().unwrap_or_else(PoisonError::into_inner));
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in looking {
            damaged.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        if damaged.is_empty() { Ok(()) } else { Err(Unsound.into()) }
    }

    /// What was found damaged, once all is read.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn into_damaged(self) -> Result<Vec<Damaged>> {
        match self.settle() {
            Err(error) if !error.is::<Unsound>() => Err(error),
            _ => Ok(self.damaged.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}
