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

/// Looks through layers on a thread of its own, one after the other: the other processors are for what is made of them.
#[derive(Debug, Default)]
pub struct Soundness {
    /// The last look, which waits for those before it and tells their findings too.
    looking: Mutex<Option<Look>>,
    damaged: Mutex<Vec<Damaged>>,
    spared: Mutex<BTreeSet<Sha256Digest>>,
}

type Look = JoinHandle<Result<Vec<Damaged>>>;

impl Soundness {
    /// Layers of which no large file is read to make this, so that only their papers have a say in it.
    pub fn spare(&self, keys: impl IntoIterator<Item = Sha256Digest>) {
        self.spared.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }

    /// Begins to read a layer that was in the store under this key; its papers only, if it is spared.
    pub fn look(&self, key: &Sha256Digest, entry: &Entry) {
        let spared = self.spared.lock().unwrap_or_else(PoisonError::into_inner).contains(key);
        self.begin(key, entry, if spared { Entry::glance } else { Entry::check });
    }

    /// Begins to read a layer, spared or not.
    pub fn read(&self, key: &Sha256Digest, entry: &Entry) {
        self.begin(key, entry, Entry::check);
    }

    fn begin(&self, key: &Sha256Digest, entry: &Entry, look: fn(&Entry) -> Result<Vec<Damage>>) {
        let (key, entry) = (*key, entry.clone());
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let before = looking.take();
        *looking = Some(std::thread::spawn(move || {
            let mut found = before.map_or_else(|| Ok(Vec::new()), told)?;
            let damage = look(&entry)?.into_iter().next();
            found.extend(damage.map(|damage| Damaged { layer: entry.manifest.layer.clone(), key, damage }));
            Ok(found)
        }));
    }

    /// Waits until all that was begun is read.
    ///
    /// # Errors
    /// [`Unsound`] when any of it, ever, was found damaged; when something cannot be read.
    pub fn settle(&self) -> Result<()> {
        let looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.extend(looking.map_or_else(|| Ok(Vec::new()), told)?);
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

/// What a look found.
fn told(look: Look) -> Result<Vec<Damaged>> {
    look.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
