//! The key that images are signed with: made once for a home, never in an image, never printed.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the signing key")]

use std::os::unix::fs::DirBuilderExt as _;

use anyhow::{Context as _, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::digest::PublicKey;
use kiln_firstboot::durable;
use nix::fcntl::{Flock, FlockArg};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

/// The secret key, PKCS #8.
const SECRET: &str = "signing.key";
/// The public key, PEM.
const PUBLIC: &str = "signing.pub";
/// What an ed25519 key in a `SubjectPublicKeyInfo` begins with (RFC 8410); 32 bytes of the key follow.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key of this home.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public()).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The key in `dir`, made if there is none. Two that make it at once get the same one; what lies there is whole at every moment.
    ///
    /// # Errors
    /// When it cannot be read or made; a key that is there and damaged is never replaced.
    pub fn ensure(dir: &Utf8Path) -> Result<Self> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("making room for the signing key: `{dir}`"))?;
        let file = fs_err::OpenOptions::new().create(true).append(true).open(dir.join(".lock"))?.into_file();
        let _held = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| std::io::Error::from(errno))
            .with_context(|| format!("locking the signing key in `{dir}`"))?;
        let path = dir.join(SECRET);
        if !path.try_exists().with_context(|| format!("looking for the signing key `{path}`"))? {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map_err(|_| anyhow!("the system gives no random numbers"))?;
            let pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
            durable::replace(path.as_std_path(), &pkcs8, 0o600).context("writing the signing key")?;
            log::info!("made the key that images are signed with, in `{dir}`");
        }
        let pkcs8 = Zeroizing::new(fs_err::read(&path).context("reading the signing key")?);
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|error| {
            anyhow!("reading the signing key `{path}`: {error}\nhint: put it back from a copy; without it, move it away, and what it has signed is trusted by its public key only")
        })?;
        let key = Self { pair };
        let public = dir.join(PUBLIC);
        let text = to_pem(&key.public());
        if fs_err::read_to_string(&public).ok().as_deref() != Some(&text) {
            durable::replace(public.as_std_path(), text.as_bytes(), 0o644).context("writing the public signing key")?;
        }
        Ok(key)
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    /// The signature of some bytes, 64 raw bytes.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }
}

/// Where the public half of a home's key is, once there is one.
pub fn public_file(dir: &Utf8Path) -> Utf8PathBuf {
    dir.join(PUBLIC)
}

/// A public key as PEM, as `openssl pkey -pubin` reads it.
pub fn to_pem(key: &PublicKey) -> String {
    let der = [&SPKI[..], &key.0].concat();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64(&der))
}

/// The public key in a PEM.
///
/// # Errors
/// When it is none, or not one of ed25519.
pub fn from_pem(text: &str) -> Result<PublicKey> {
    use rustls_pki_types::pem::PemObject as _;
    let der = rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes())
        .map_err(|error| anyhow!("this is no public key in PEM: {error}"))?;
    let Some(key) = der.strip_prefix(&SPKI[..]) else { bail!("this is no ed25519 key") };
    Ok(PublicKey(key.try_into().context("this is no ed25519 key")?))
}

/// Base64 of a few bytes, on one line; only for lengths that end in at most one `=`, as a key's does.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn is_made_once_for_the_owner_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(scratch.path()).unwrap().join("signing");
        let key = SigningKey::ensure(&dir).unwrap();
        assert_eq!(SigningKey::ensure(&dir).unwrap().public(), key.public());
        let mode = |path: Utf8PathBuf| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(dir.clone()), mode(dir.join(SECRET)), mode(public_file(&dir))), (0o700, 0o600, 0o644));
        assert_eq!(from_pem(&fs_err::read_to_string(public_file(&dir)).unwrap()).unwrap(), key.public());
        // A damaged key is never replaced by a new one: what it has signed would be strangers' work.
        fs_err::write(dir.join(SECRET), b"half").unwrap();
        assert!(SigningKey::ensure(&dir).unwrap_err().to_string().contains("hint: put it back"));
    }

    #[test]
    fn the_pem_is_the_one_of_the_standard() {
        // RFC 8410, section 10.1.
        let text = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let key = from_pem(text).unwrap();
        assert_eq!(to_pem(&key), text);
        assert!(from_pem("nothing").is_err());
        assert!(from_pem(&text.replace("MCow", "MCox")).is_err());
    }
}
