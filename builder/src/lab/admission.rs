//! Which images a lab lets its nodes run: those that a trusted key signed, unaltered, and no older than what the lab ran last.
#![expect(clippy::disallowed_methods, reason = "an edge: reads what the lab ran last")]

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::durable;
use serde::{Deserialize, Serialize};

use super::Lab;
use crate::exit::Refusal;
use crate::store::Store;
use crate::trust::{self, Depth, Keyring};

/// What the operator lets pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lenience {
    /// Images that nobody signed, or a key that is not trusted.
    pub unsigned: bool,
    /// Images older than what the lab ran last.
    pub older: bool,
}

/// What a lab ran last. It outlasts `down`: an old image is not let in by taking the lab down first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    /// 1.
    pub schema: u32,
    /// The image.
    pub key: Sha256Digest,
    /// The time of its inputs, Unix seconds. Two images of one time are taken for equally old, whatever agent is in them.
    pub source_date_epoch: i64,
}

impl Lab {
    /// Lets an image of the store be run, or not.
    ///
    /// # Errors
    /// As [`admit`].
    pub fn admit(&self, key: &Sha256Digest, depth: Depth, lenience: Lenience) -> Result<Ran> {
        admit(&Store::at(&self.store), &self.signing, key, depth, lenience)
    }

    /// Refuses an image that is older than what the lab ran last.
    ///
    /// # Errors
    /// A [`Refusal`]; when what it ran last cannot be read.
    pub fn refuse_older(&self, next: &Ran, lenience: Lenience) -> Result<()> {
        let last = read(&self.ran())?;
        let name = &self.profile.name;
        Ok(no_older(&format!("what the lab `{name}` ran last"), name, last.as_ref(), next, lenience)?)
    }

    /// Remembers that the lab runs an image.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn remember(&self, ran: &Ran) -> Result<()> {
        let file = self.ran();
        if read(&file)?.as_ref() == Some(ran) {
            return Ok(());
        }
        fs_err::create_dir_all(file.parent().context("a file has a directory")?)?;
        let text = serde_json::to_string_pretty(ran)? + "\n";
        durable::replace(file.as_std_path(), text.as_bytes(), 0o644)
            .with_context(|| format!("writing what the lab ran last, `{file}`"))
    }

    fn ran(&self) -> Utf8PathBuf {
        self.signing.join("ran").join(format!("{}.json", self.profile.name))
    }
}

fn read(file: &Utf8Path) -> Result<Option<Ran>> {
    match fs_err::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("reading what the lab ran last, `{file}`\nhint: remove the file to forget it")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lets an image of the store be run, or not; `signing` is the directory of the keys that images are signed with.
///
/// # Errors
/// A [`Refusal`] when it is unsigned, a stranger's, or not what was signed; when it is not there or cannot be read.
pub fn admit(store: &Store, signing: &Utf8Path, key: &Sha256Digest, depth: Depth, lenience: Lenience) -> Result<Ran> {
    let entry = store.entry(key)?.with_context(|| {
        format!("image {key} is not in the store `{}`\nhint: build it again: kiln build", store.root().display())
    })?;
    let standing = trust::standing(store, &entry, &Keyring::read(signing)?, depth)?;
    trust::admit(key, &standing, lenience.unsigned)?;
    let source_date_epoch = trust::recipe_of(&entry)?.source_date_epoch;
    Ok(Ran { schema: 1, key: *key, source_date_epoch })
}

/// Refuses an image that is older than `last`, which `what` says what it is.
///
/// # Errors
/// A [`Refusal`] that names both.
pub fn no_older(what: &str, profile: &str, last: Option<&Ran>, next: &Ran, lenience: Lenience) -> Result<(), Refusal> {
    let Some(last) = last.filter(|last| last.source_date_epoch > next.source_date_epoch && !lenience.older) else {
        return Ok(());
    };
    let told = |ran: &Ran| {
        let time = jiff::Timestamp::from_second(ran.source_date_epoch);
        format!("{:.12} of {}", ran.key.to_string(), time.map_or_else(|_| "no time".into(), |t| t.to_string()))
    };
    Err(Refusal::new(
        format!("image {} is older than {what}, {}", told(next), told(last)),
        format!("renew its inputs: kiln lock {profile} --update; or run it all the same: --allow-older"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_image_is_refused_and_only_unless_told() {
        let ran = |name: &str, source_date_epoch| Ran {
            schema: 1,
            key: Sha256Digest::of(name.as_bytes()),
            source_date_epoch,
        };
        let judge =
            |last, next: &Ran, older| no_older("what ran last", "lab", last, next, Lenience { older, unsigned: true });
        let (old, same, new) = (ran("old", 10), ran("same", 20), ran("new", 20));
        assert_eq!(judge(None, &old, false), Ok(()));
        assert_eq!(judge(Some(&new), &same, false), Ok(()));
        assert_eq!(judge(Some(&old), &new, false), Ok(()));
        assert_eq!(judge(Some(&new), &old, true), Ok(()));
        let refusal = judge(Some(&new), &old, false).unwrap_err();
        assert!(refusal.what.contains("of 1970-01-01T00:00:10Z is older than what ran last, "), "{}", refusal.what);
    }
}
