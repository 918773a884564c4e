//! The identifiers of a disk and its file systems: derived from keys, because random ones would make every build differ.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt;

use kiln_firstboot::digest::Sha256Digest;

/// A UUID, in the order it is written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The UUID of one `role` under a key: a "custom" UUID (version 8, RFC 9562), since its bits are a digest.
    pub fn derive(key: Sha256Digest, role: &str) -> Self {
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&digest(key, role).0[..16]);
        bytes[6] = (bytes[6] & 0x0f) | 0x80;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// The one that GPT stores as these bytes.
    pub fn from_gpt(stored: [u8; 16]) -> Self {
        // Swapping the bytes of the first three fields twice gives them back.
        Self(Self(stored).to_gpt())
    }

    /// As GPT stores it: the first three fields little-endian.
    pub fn to_gpt(self) -> [u8; 16] {
        let b = self.0;
        [b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The serial number of a FAT file system, eight hex digits as mtools takes it.
pub fn fat_serial(key: Sha256Digest) -> String {
    digest(key, "esp").0[..4].iter().map(|b| format!("{b:02x}")).collect()
}

fn digest(key: Sha256Digest, role: &str) -> Sha256Digest {
    Sha256Digest::of(&[b"kiln disk\0".as_slice(), &key.0, role.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_depend_on_key_and_role_and_on_nothing_else() {
        let (a, b) = (Sha256Digest::of(b"a"), Sha256Digest::of(b"b"));
        assert_eq!(Uuid::derive(a, "disk"), Uuid::derive(a, "disk"));
        assert_ne!(Uuid::derive(a, "disk"), Uuid::derive(a, "root"));
        assert_ne!(Uuid::derive(a, "disk"), Uuid::derive(b, "disk"));
        let text = Uuid::derive(a, "disk").to_string();
        assert_eq!((text.len(), &text[14..15]), (36, "8"));
        assert_eq!(fat_serial(a).len(), 8);
    }

    #[test]
    fn gpt_swaps_the_first_three_fields() {
        let uuid = Uuid([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(uuid.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(uuid.to_gpt(), [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(Uuid::from_gpt(uuid.to_gpt()), uuid);
    }
}
