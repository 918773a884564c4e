//! Keys: sha256 over fields that our own code frames, so that no serialisation library can move them.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::digest::Sha256Digest;
use ring::digest::{Context, SHA256};

/// Which derivation of keys new recipes follow. Raise it when the same recipe makes other bytes than before, and have [`Recipe::keys`] move
/// the keys of the layers that do, and still derive what earlier recipes were: their images are in stores, and must be known there.
///
/// [`Recipe::keys`]: crate::recipe::Recipe::keys
pub const BUILD_FORMAT: u32 = 2;
/// What every key begins with, of whatever format: a lock must not be renewed because a later kiln builds otherwise.
const FRAMING: u64 = 1;

/// Hashes named fields, each framed by the length of its name and of its value.
pub struct KeyHasher(Context);

impl std::fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHasher")
    }
}

impl KeyHasher {
    /// Begins a key of one kind; keys of different kinds never meet.
    pub fn new(kind: &str) -> Self {
        let mut hasher = Self(Context::new(&SHA256));
        hasher.text("kind", kind);
        hasher.number("build-format", FRAMING);
        hasher
    }

    /// Adds a field of bytes.
    pub fn bytes(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    /// Adds a text.
    pub fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, value.as_bytes());
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: u64) {
        self.bytes(name, &value.to_be_bytes());
    }

    /// Adds a signed number.
    pub fn signed(&mut self, name: &str, value: i64) {
        self.bytes(name, &value.to_be_bytes());
    }

    /// Adds a digest.
    pub fn digest(&mut self, name: &str, value: &Sha256Digest) {
        self.bytes(name, &value.0);
    }

    /// Adds a list of texts in its order, with its length.
    pub fn texts<T: AsRef<str>>(&mut self, name: &str, values: &[T]) {
        self.number(name, values.len() as u64);
        for value in values {
            self.text(name, value.as_ref());
        }
    }

    /// The key.
    pub fn finish(self) -> Sha256Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Sha256Digest(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_cannot_run_into_each_other() {
        let key = |fields: &[(&str, &str)]| {
            let mut hasher = KeyHasher::new("t");
            fields.iter().for_each(|(name, value)| hasher.text(name, value));
            hasher.finish()
        };
        assert_ne!(key(&[("ab", "c")]), key(&[("a", "bc")]));
        assert_ne!(key(&[("a", "b"), ("c", "")]), key(&[("a", ""), ("b", "c")]));
    }

    #[test]
    fn the_framing_is_fixed() {
        let mut hasher = KeyHasher::new("golden");
        hasher.texts("names", &["a", "b"]);
        hasher.signed("epoch", -1);
        // Computed by hand (in another language): sha256 of length, name, length, value; lengths are 8 bytes, big-endian.
        assert_eq!(hasher.finish().to_string(), "314cf69505f0c50fb22d1443d6ba79c2015e153498a776fb8df0522724b04a21");
    }
}
