//! Whether an image may be run: who signed it, and whether its files are those that were signed.
//!
//! The signature covers `sha256sums`, that covers the manifest, and the manifest covers the disks, so that a look at a few small files
//! proves all but the disks' bytes, and the store's own check proves those.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the files beside an image, and trusted keys")]

pub mod crates;
pub mod installed;
pub mod provenance;
pub mod sbom;
pub mod seal;
pub mod signing_key;
pub mod sums;

use std::path::Path;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::digest::{PublicKey, Sha256Digest};
use kiln_firstboot::durable;
use ring::signature::{ED25519, UnparsedPublicKey};

use self::seal::{PROVENANCE, SIGNATURE};
use self::sums::Sums;
use crate::exit::Refusal;
use crate::recipe::Recipe;
use crate::store::{Entry, MANIFEST, SUMS, Store};

/// The bill of materials in an image's entry.
pub const SBOM: &str = "sbom.cdx.json";
/// What this home's own key is called.
pub const OWN: &str = "this home";
/// Where trusted keys are, below the directory of the signing key.
const TRUSTED: &str = "trusted";

/// The keys whose images may be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    /// Those in `trusted/` by name, and this home's own, which has none.
    pub keys: Vec<(Option<String>, PublicKey)>,
}

/// How far an image is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All but the bytes of the disks, whose lengths are compared.
    Small,
    /// Every byte.
    Whole,
}

/// Where an image stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its files are those that this key signed, and the key is trusted.
    Trusted {
        /// The key's name in the keyring.
        by: String,
        /// The key.
        key: PublicKey,
    },
    /// Its files are those that this key signed, and nobody said that it is to be trusted.
    Stranger {
        /// The key.
        key: PublicKey,
    },
    /// Nobody signed it.
    Unsigned,
    /// Its files are not those that were signed.
    Altered {
        /// How that shows.
        what: String,
    },
}

impl Keyring {
    /// Reads the keys below `dir`, the directory of the signing key; none when there is no such directory.
    ///
    /// # Errors
    /// When one cannot be read: leaving it out would call its images a stranger's.
    pub fn read(dir: &Utf8Path) -> Result<Self> {
        let mut keys = Vec::new();
        let own = signing_key::public_file(dir);
        if own.exists() {
            keys.push((None, read_key(&own)?));
        }
        let trusted = dir.join(TRUSTED);
        if trusted.exists() {
            let mut files: Vec<Utf8PathBuf> = Vec::new();
            for found in trusted.read_dir_utf8().with_context(|| format!("reading trusted keys in `{trusted}`"))? {
                files.push(found?.into_path());
            }
            files.sort();
            for file in files.iter().filter(|f| f.extension() == Some("pub")) {
                keys.push((file.file_stem().map(str::to_owned), read_key(file)?));
            }
        }
        Ok(Self { keys })
    }

    /// Trusts the key in a PEM file from now on, under a name, instead of the key that had it before.
    ///
    /// # Errors
    /// When it is none, or cannot be written.
    pub fn add(dir: &Utf8Path, name: &str, pem: &Utf8Path) -> Result<PublicKey> {
        let key = read_key(pem)?;
        fs_err::create_dir_all(dir.join(TRUSTED))?;
        let file = key_file(dir, Some(name));
        durable::replace(file.as_std_path(), signing_key::to_pem(&key).as_bytes(), 0o644)
            .with_context(|| format!("writing `{file}`"))?;
        Ok(key)
    }

    /// Trusts the key of that name no longer. Tells whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(dir: &Utf8Path, name: &str) -> Result<bool> {
        match fs_err::remove_file(key_file(dir, Some(name))) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true).map_err(Into::into),
        }
    }
}

/// Where the trusted key of that name is; without a name, this home's own.
pub fn key_file(dir: &Utf8Path, name: Option<&str>) -> Utf8PathBuf {
    name.map_or_else(|| signing_key::public_file(dir), |name| dir.join(TRUSTED).join(format!("{name}.pub")))
}

fn read_key(file: &Utf8Path) -> Result<PublicKey> {
    signing_key::from_pem(&fs_err::read_to_string(file)?).with_context(|| format!("reading the public key `{file}`"))
}

/// Where an image of the store stands.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn standing(store: &Store, entry: &Entry, keyring: &Keyring, depth: Depth) -> Result<Standing> {
    let altered = |what: String| Ok(Standing::Altered { what });
    let Some(signature) = read(&entry.dir.join(SIGNATURE))? else { return Ok(Standing::Unsigned) };
    let Some(signed) = read(&entry.dir.join(SUMS))? else { return altered(format!("`{SUMS}` is missing")) };
    let statement = read(&entry.dir.join(PROVENANCE))?.unwrap_or_default();
    let made = |key: &PublicKey| UnparsedPublicKey::new(&ED25519, key.0).verify(&signed, &signature).is_ok();
    let standing = match keyring.keys.iter().find(|(_, key)| made(key)) {
        Some((by, key)) => Standing::Trusted { by: by.clone().unwrap_or_else(|| OWN.into()), key: *key },
        None => match provenance::builder_of(&statement).filter(made) {
            Some(key) => Standing::Stranger { key },
            None => return altered(format!("`{SIGNATURE}` is not the signature of `{SUMS}`")),
        },
    };
    let sums = match std::str::from_utf8(&signed).map_err(anyhow::Error::from).and_then(Sums::parse) {
        Ok(sums) => sums,
        Err(error) => return altered(format!("`{SUMS}`: {error:#}")),
    };
    let unlisted = [MANIFEST, PROVENANCE].into_iter().map(str::to_owned);
    let sparse = |path: &str| entry.manifest.files.iter().any(|f| f.path == path && f.sparse.is_some());
    let large = |path: &str| Path::new(path).extension().is_some_and(|e| e == "qcow2");
    for path in entry.manifest.files.iter().map(|f| f.path.clone()).chain(unlisted) {
        if sparse(&path) {
            continue;
        }
        let Some(sum) = sums.of(&path) else { return altered(format!("`{path}` is not among the sums")) };
        if large(&path) {
            continue;
        }
        let found = read(&entry.dir.join(&path))?.map(|bytes| Sha256Digest::of(&bytes));
        if found != Some(sum) {
            return altered(format!("`{path}` is missing, or its bytes are others than those that were signed"));
        }
    }
    // A signed image in another's place is still signed.
    if entry.dir.file_name().and_then(|name| name.to_str()) != Some(&entry.manifest.key.to_string()) {
        return altered(format!("it is image {} under another name", entry.manifest.key));
    }
    if depth == Depth::Whole
        && let Some(damage) = store.check_entry(entry)?.first()
    {
        return altered(format!("`{}` {}", damage.path.display(), damage.what));
    }
    Ok(standing)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs_err::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lets an image be run that is signed by a key that is trusted; with `unsigned`, also one that nobody or a stranger signed. One that was
/// altered never.
///
/// # Errors
/// A [`Refusal`] that says what was seen and how to go on.
pub fn admit(key: &Sha256Digest, standing: &Standing, unsigned: bool) -> Result<(), Refusal> {
    let short = &key.to_string()[..12];
    match standing {
        Standing::Trusted { .. } => Ok(()),
        Standing::Unsigned | Standing::Stranger { .. } if unsigned => Ok(()),
        Standing::Unsigned => Err(Refusal::new(
            format!("image {short} is not signed"),
            format!(
                "if you know where it comes from, sign it: kiln trust sign {short}; or run it as it is: --allow-unsigned"
            ),
        )),
        Standing::Stranger { key } => Err(Refusal::new(
            format!("image {short} is signed by the key {key}, which is not trusted here"),
            "if it is its builder's, trust it: kiln trust add NAME FILE.pub; or run the image as it is: --allow-unsigned",
        )),
        Standing::Altered { what } => Err(Refusal::new(
            format!("image {short} is not what was signed: {what}"),
            format!("remove `entries/{key}` of the store, and build or import it again"),
        )),
    }
}

/// The recipe of an image.
///
/// # Errors
/// When it cannot be read.
pub fn recipe_of(entry: &Entry) -> Result<Recipe> {
    let path = entry.dir.join(crate::layer::image::RECIPE);
    serde_json::from_slice(&fs_err::read(&path)?).with_context(|| format!("reading recipe `{}`", path.display()))
}

#[cfg(test)]
mod tests;
