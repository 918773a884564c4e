//! What lies beside an image and vouches for it, made while the image is still under its temporary name:
//!
//! ```text
//! provenance.json    who made it of what and when: an in-toto statement with SLSA provenance
//! sha256sums         sums of every file but the raw disk, the manifest's and the provenance's too, as `sha256sum --check` reads them
//! sha256sums.sig     64 bytes: the ed25519 signature of sha256sums
//! ```
//! These differ from build to build and from key to key; they are not listed in the manifest, and `kiln verify` does not compare them.
#![expect(clippy::disallowed_methods, reason = "an edge: hashes the image, writes the files beside it")]

use std::path::Path;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::durable;

use super::provenance;
use super::signing_key::SigningKey;
use super::sums::{Sum, Sums};
use crate::digesting;
use crate::recipe::Recipe;
use crate::store::{MANIFEST, Manifest, ManifestFile, SUMS};

/// The statement.
pub const PROVENANCE: &str = "provenance.json";
/// The signature.
pub const SIGNATURE: &str = "sha256sums.sig";

/// Who signs, and with what time.
#[derive(Clone, Debug)]
pub struct Sealer {
    /// Directory of the signing key.
    pub keys: Utf8PathBuf,
    /// Unix seconds.
    pub now: i64,
}

impl Sealer {
    /// Seals an entry in `dir` whose manifest is written; the signature comes last, so that what a crash leaves is unsigned.
    ///
    /// # Errors
    /// When a file cannot be read or written, or there is no key to be had.
    pub fn seal(&self, dir: &Path, manifest: &Manifest, recipe: &Recipe) -> Result<()> {
        let key = SigningKey::ensure(Utf8Path::new(&self.keys))?;
        match fs_err::remove_file(dir.join(SIGNATURE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        // The manifest has no plain sum of the raw disk, which is mostly holes: its own digest of it stands in for one. Hashing the holes
        // for a tool that cannot skip them would take longer than all the rest.
        let sum = |file: &ManifestFile| Some(Sum { path: file.path.clone(), sha256: file.sha256? });
        let mut sums: Vec<Sum> = manifest.files.iter().filter_map(sum).collect();
        let statement = provenance::render(recipe, &sums, &key.public(), self.now)?;
        put(dir, PROVENANCE, statement.as_bytes())?;
        for name in [MANIFEST, PROVENANCE] {
            sums.push(Sum { path: name.into(), sha256: digest_file(&dir.join(name))? });
        }
        let text = Sums(sums).render();
        put(dir, SUMS, text.as_bytes())?;
        put(dir, SIGNATURE, &key.sign(text.as_bytes()))
    }
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    durable::replace(&dir.join(name), bytes, 0o644).with_context(|| format!("writing `{name}`"))
}

fn digest_file(path: &Path) -> Result<Sha256Digest> {
    Ok(digesting::digest_of(fs_err::File::open(path)?).with_context(|| format!("reading `{}`", path.display()))?.0)
}
