//! The leaf on disk: minted, renewed by one rename, never half written.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the TLS files")]

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rcgen::KeyPair;
use zeroize::Zeroizing;

use crate::charter::Charter;
use crate::durable;
use crate::leaf::{LeafError, LeafRequest, LeafWorth, worth};
use crate::paths::Paths;
use crate::seed;

/// Chain and key as they lie on disk now.
#[derive(Debug)]
pub struct LeafFiles {
    /// Leaf, then issuer, PEM.
    pub chain: String,
    /// The leaf's key, PEM.
    pub key: Zeroizing<String>,
    /// A new one was minted just now.
    pub minted: bool,
    /// Why the one on disk, which should be replaced, is not.
    pub doubt: Option<LeafError>,
}

/// Sees to it that a leaf that serves is on disk, and the roots beside it, and reads them.
///
/// Mints when there is none that serves, and renews when it is past half its life. A renewal that is impossible (clock
/// behind, issuer expired) leaves a leaf that still serves in place, and one that a clock which is behind calls too early: a member must
/// restart even while its clock is wrong. The key stays the same across renewals: etcd reads
/// certificate and key separately on every handshake, and so never sees a pair that does not match.
///
/// # Errors
/// When no leaf serves and none can be minted, or the files cannot be read or written.
pub fn ensure_leaf(paths: &Paths, charter: &Charter, request: &LeafRequest<'_>) -> Result<LeafFiles> {
    for (name, target) in [(seed::PEER_ROOTS, paths.peer_roots()), (seed::CLIENT_ROOTS, paths.client_roots())] {
        let roots = fs_err::read_to_string(paths.seed_dir().join(name))?;
        if fs_err::read_to_string(&target).ok().as_ref() != Some(&roots) {
            replace(&target, roots.as_bytes())?;
        }
    }
    let key_pem = match fs_err::read_to_string(paths.leaf_key()) {
        Ok(pem) => Zeroizing::new(pem),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate().context("drawing a key for the leaf")?;
            let pem = Zeroizing::new(key.serialize_pem());
            replace(&paths.leaf_key(), pem.as_bytes())?;
            pem
        }
        Err(e) => return Err(e.into()),
    };
    let key =
        KeyPair::from_pem(&key_pem).with_context(|| format!("reading the key `{}`", paths.leaf_key().display()))?;
    let present = match fs_err::read_to_string(paths.leaf_cert()) {
        Ok(chain) => Some(chain),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    let standing = present.as_deref().map_or(LeafWorth::Worthless, |chain| worth(chain, &key, request, charter));
    if let (LeafWorth::Fresh, Some(chain)) = (standing, &present) {
        return Ok(LeafFiles { chain: chain.clone(), key: key_pem, minted: false, doubt: None });
    }
    let issuer_key = Zeroizing::new(fs_err::read_to_string(paths.seed_dir().join(seed::ISSUER_KEY))?);
    match (request.mint(&issuer_key, &key), standing, present) {
        (Ok(chain), _, _) => {
            replace(&paths.leaf_cert(), chain.as_bytes())?;
            Ok(LeafFiles { chain, key: key_pem, minted: true, doubt: None })
        }
        (Err(e), LeafWorth::Aging, Some(chain)) => {
            log::warn!("the node's certificate cannot be renewed yet: {e}");
            Ok(LeafFiles { chain, key: key_pem, minted: false, doubt: Some(e) })
        }
        (Err(e @ LeafError::ClockBehind { .. }), LeafWorth::Early, Some(chain)) => {
            Ok(LeafFiles { chain, key: key_pem, minted: false, doubt: Some(e) })
        }
        (Err(e), _, _) => bail!("minting the node's certificate: {e}"),
    }
}

/// Readable by the group, which the directory's setgid bit makes etcd's.
const MODE: u32 = 0o640;

fn replace(target: &Path, bytes: &[u8]) -> Result<()> {
    durable::replace(target, bytes, MODE).with_context(|| format!("replacing `{}`", target.display()))
}

#[cfg(test)]
mod tests;
