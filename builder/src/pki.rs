//! A cluster's keys, charter and seeds, as they lie in one directory of the operator's.
//!
//! `private/` (roots' keys, charter's key), `seeds/NODE.tar` and `clients/NAME.{crt,key}` are for the owner's eyes only;
//! `trust.json`, `charter.{json,sig}`, `peer-root.crt`, `client-root.crt`, `peer-revoked.crl`, `client-revoked.crl` and `issuers/NODE.crt`
//! are public. Beside every certificate `NAME.serials` has the serials of all that were ever minted in its place, for [`revoke`].
//! [`mint`] makes such a directory, whole or not at all.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the directory of keys")]

pub mod mint;
pub mod revoke;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::charter::Charter;
use kiln_firstboot::digest::{Id128, PublicKey};
use kiln_firstboot::durable;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authority::{Authority, CLIENT_SECS, Validity};
use crate::exit::{Refusal, TryAgain};
use crate::profile::Profile;

/// The client certificate that `init` mints, and etcd's name for its all-powerful user.
pub const OPERATOR: &str = "root";

/// Mode of files only their owner may read.
const PRIVATE_FILE: u32 = 0o600;
/// Mode of files anyone may read.
const PUBLIC_FILE: u32 = 0o644;
const TRUST: &str = "trust.json";
const CHARTER: &str = "charter.json";
const CHARTER_SIGNATURE: &str = "charter.sig";
const CHARTER_KEY: &str = "private/charter.key";
const PEER_ROOT: &str = "peer-root.crt";
const PEER_ROOT_KEY: &str = "private/peer-root.key";
const CLIENT_ROOT: &str = "client-root.crt";
const CLIENT_ROOT_KEY: &str = "private/client-root.key";
const PEER_REVOKED: &str = "peer-revoked.crl";
const CLIENT_REVOKED: &str = "client-revoked.crl";

/// The public facts that every image of the cluster carries. They stay the same over all generations of its charter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// 1.
    pub schema: u32,
    /// The environment: the profile's name.
    pub env: String,
    /// The cluster.
    pub cluster: Id128,
    /// Key that charters are signed with.
    pub charter_key: PublicKey,
}

/// A directory of keys that was read and found whole.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: Utf8PathBuf,
    trust: Trust,
    charter: Charter,
}

/// Files of a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, PEM.
    pub cert: Utf8PathBuf,
    /// Its key, PEM.
    pub key: Utf8PathBuf,
    /// The root that the servers' certificates chain to, PEM.
    pub server_root: Utf8PathBuf,
}

impl Pki {
    /// Reads the keys of `profile` from `dir`.
    ///
    /// # Errors
    /// A [`Refusal`] that names `kiln pki init` when there are none or when they are another cluster's; otherwise what is damaged.
    pub fn load(dir: &Utf8Path, profile: &Profile) -> anyhow::Result<Self> {
        let pki = Self::open(dir)?.ok_or_else(|| {
            Refusal::new(
                format!("profile `{}` has no keys in `{dir}`", profile.name),
                format!("mint them: kiln pki init {}", profile.name),
            )
        })?;
        pki.is_for(profile)?;
        Ok(pki)
    }

    /// Reads `dir`; nothing when it does not exist.
    fn open(dir: &Utf8Path) -> anyhow::Result<Option<Self>> {
        if !dir.try_exists().with_context(|| format!("looking for keys in `{dir}`"))? {
            return Ok(None);
        }
        let trust = fs_err::read(dir.join(TRUST)).context("reading what the cluster trusts")?;
        let trust: Trust =
            serde_json::from_slice(&trust).with_context(|| format!("reading what the cluster trusts in `{dir}`"))?;
        let bytes = fs_err::read(dir.join(CHARTER)).context("reading the charter")?;
        let signature = fs_err::read(dir.join(CHARTER_SIGNATURE)).context("reading the charter's signature")?;
        let charter = Charter::open(&bytes, &signature, &trust.charter_key)
            .with_context(|| format!("reading the charter in `{dir}`"))?;
        Ok(Some(Self { dir: dir.to_owned(), trust, charter }))
    }

    fn is_for(&self, profile: &Profile) -> Result<(), Refusal> {
        if self.charter.env == profile.name && self.charter.domain == profile.domain {
            return Ok(());
        }
        Err(Refusal::new(
            format!(
                "the keys in `{}` are those of cluster `{}` in `{}`, not of `{}` in `{}`",
                self.dir, self.charter.env, self.charter.domain, profile.name, profile.domain
            ),
            "a cluster keeps its name and domain for life; say where this one's keys are (--pki DIR), or give the profile another name",
        ))
    }

    /// What images of this cluster carry.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The charter.
    pub fn charter(&self) -> &Charter {
        &self.charter
    }

    /// The directory.
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// The seed of a node, by its short name; an image of a disk.
    pub fn seed(&self, node: &str) -> Utf8PathBuf {
        self.dir.join("seeds").join(format!("{node}.tar"))
    }

    /// The certificate of a node's issuer, by the node's short name.
    pub fn issuer_cert(&self, node: &str) -> Utf8PathBuf {
        self.dir.join("issuers").join(format!("{node}.crt"))
    }

    /// The root of the peers, which is also what a client trusts a server by.
    pub fn peer_root(&self) -> Utf8PathBuf {
        self.dir.join(PEER_ROOT)
    }

    /// The root of the clients.
    pub fn client_root(&self) -> Utf8PathBuf {
        self.dir.join(CLIENT_ROOT)
    }

    /// Where the certificate of a client is, whether or not it was minted.
    pub fn client(&self, name: &str) -> ClientFiles {
        let path = |kind: &str| self.dir.join("clients").join(format!("{name}.{kind}"));
        ClientFiles { cert: path("crt"), key: path("key"), server_root: self.peer_root() }
    }

    /// Mints the certificate of a client. One that exists keeps its key and gets a new certificate, by one rename, so that whoever
    /// reads both at that moment never gets a pair that does not match.
    ///
    /// # Errors
    /// A [`Refusal`] when `name` cannot be a client's.
    pub fn mint_client(&self, name: &str, now: i64) -> anyhow::Result<ClientFiles> {
        let sound = (1..=64).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !sound {
            let rule = "use 1 to 64 letters, digits, `-`, `_` and `.`, starting with a letter or digit";
            return Err(Refusal::new(format!("`{name}` cannot be the name of a client"), rule).into());
        }
        let files = self.client(name);
        let old_key = match fs_err::read_to_string(&files.key) {
            Ok(key) => Some(Zeroizing::new(key)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("reading the client's key"),
        };
        let _lock = lock(&self.dir)?;
        let root = authority(&self.dir, CLIENT_ROOT, CLIENT_ROOT_KEY)?;
        let minted = root.client(name, old_key.as_ref().map(|k| k.as_str()), Validity::starting(now, CLIENT_SECS))?;
        revoke::note_serial(&files.cert, &minted.cert)?;
        // The key first: a certificate without its key is never seen.
        durable::replace(files.key.as_std_path(), minted.key.as_bytes(), PRIVATE_FILE)
            .context("writing the client's key")?;
        durable::replace(files.cert.as_std_path(), minted.cert.as_bytes(), PUBLIC_FILE)
            .context("writing the client's certificate")?;
        Ok(files)
    }
}

/// One process at a time changes the keys in `dir`.
fn lock(dir: &Utf8Path) -> anyhow::Result<Flock<std::fs::File>> {
    let (parent, name) = dir.parent().zip(dir.file_name()).with_context(|| format!("`{dir}` cannot hold keys"))?;
    let path = parent.join(format!(".{name}.lock"));
    let file = fs_err::File::create(&path).context("locking the keys")?.into_file();
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            TryAgain("another `kiln pki` is changing the same keys".into()).into()
        } else {
            anyhow::Error::new(errno).context(format!("locking `{path}`"))
        }
    })
}

fn authority(dir: &Utf8Path, cert: &str, key: &str) -> anyhow::Result<Authority> {
    let cert = fs_err::read_to_string(dir.join(cert)).context("reading a root's certificate")?;
    let path = dir.join(key);
    let key = Zeroizing::new(fs_err::read_to_string(&path).context("reading a root's key")?);
    Authority::from_pem(cert, &key).with_context(|| format!("reading `{path}`"))
}
