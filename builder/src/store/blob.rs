//! Fetched inputs, named by what is in them.
#![expect(clippy::disallowed_methods, reason = "the place where blobs are read and written")]

use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;

use super::Store;
use crate::digesting::{self, Hashing};

/// What a look at a blob found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// There, and its bytes are what its name says.
    Sound,
    /// Not there.
    Absent,
    /// It was there with other bytes than its name says; it has been removed.
    WasCorrupt {
        /// What its bytes hashed to.
        found: Sha256Digest,
    },
}

/// A file being written into the store.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    temp: PathBuf,
    file: Hashing<fs_err::File>,
}

impl Store {
    /// Where the blob with this digest is, if it is there.
    pub fn blob_path(&self, digest: &Sha256Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.to_string())
    }

    /// Whether a blob is there, without reading it.
    pub fn has_blob(&self, digest: &Sha256Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Reads a blob and compares it with its name. A corrupt one is removed, so that it is fetched anew.
    ///
    /// # Errors
    /// When it can be neither read nor removed.
    pub fn check_blob(&self, digest: &Sha256Digest) -> Result<BlobState> {
        let path = self.blob_path(digest);
        let file = match fs_err::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BlobState::Absent),
            Err(error) => return Err(error.into()),
        };
        let (found, _) = digesting::digest_of(file).with_context(|| format!("reading `{}`", path.display()))?;
        if found == *digest {
            return Ok(BlobState::Sound);
        }
        fs_err::remove_file(&path)?;
        Ok(BlobState::WasCorrupt { found })
    }

    /// Begins a blob whose digest is not yet known to be right.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn begin_blob(&self) -> Result<BlobWriter<'_>> {
        let temp = self.temp_path("blob")?;
        let file = Hashing::new(fs_err::File::create(&temp)?);
        Ok(BlobWriter { store: self, temp, file })
    }
}

impl io::Write for BlobWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter<'_> {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// Makes it a blob if its bytes are the expected ones; else returns what they are, and nothing is kept.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn commit(self, expected: &Sha256Digest) -> Result<Result<PathBuf, (Sha256Digest, u64)>> {
        let Self { store, temp, file } = self;
        let (file, digest, bytes) = file.finish();
        if digest != *expected {
            fs_err::remove_file(&temp)?;
            return Ok(Err((digest, bytes)));
        }
        file.sync_all()?;
        let place = store.blob_path(&digest);
        store.rename(&temp, &place)?;
        Ok(Ok(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::scratch;
    use std::io::Write as _;

    #[test]
    fn keeps_a_blob_only_if_it_is_the_one_expected() {
        let (_dir, store) = scratch();
        let good = Sha256Digest::of(b"good");
        let mut writer = store.begin_blob().unwrap();
        writer.write_all(b"evil").unwrap();
        assert_eq!(writer.commit(&good).unwrap(), Err((Sha256Digest::of(b"evil"), 4)));
        assert_eq!(store.check_blob(&good).unwrap(), BlobState::Absent);
        let mut writer = store.begin_blob().unwrap();
        writer.write_all(b"good").unwrap();
        assert_eq!(writer.commit(&good).unwrap(), Ok(store.blob_path(&good)));
        assert_eq!(store.check_blob(&good).unwrap(), BlobState::Sound);
    }

    #[test]
    fn a_flipped_byte_is_found_and_removed() {
        let (_dir, store) = scratch();
        let good = Sha256Digest::of(b"good");
        let mut writer = store.begin_blob().unwrap();
        writer.write_all(b"good").unwrap();
        writer.commit(&good).unwrap().unwrap();
        std::fs::write(store.blob_path(&good), b"gooD").unwrap();
        assert_eq!(store.check_blob(&good).unwrap(), BlobState::WasCorrupt { found: Sha256Digest::of(b"gooD") });
        assert_eq!(store.check_blob(&good).unwrap(), BlobState::Absent);
    }
}
