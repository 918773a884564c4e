//! The seed: the per-node secret document. A raw ustar archive on its own small disk; the files in it are named here.
//!
//! The builder writes it (`kiln pki init`), the agent's disk step unpacks it. Nothing of it is ever in an image.

use serde::{Deserialize, Serialize};

use crate::digest::Id128;
use crate::name::Fqdn;

/// [`SeedHeader`] as JSON.
pub const HEADER: &str = "seed.json";
/// The charter's signed bytes.
pub const CHARTER: &str = "charter.json";
/// The charter's ed25519 signature, 64 raw bytes.
pub const CHARTER_SIGNATURE: &str = "charter.sig";
/// Certificate of the node's own issuer, PEM.
pub const ISSUER_CERT: &str = "issuer.crt";
/// Key of the node's own issuer, PEM (PKCS #8). The one secret.
pub const ISSUER_KEY: &str = "issuer.key";
/// Roots of the peers, PEM.
pub const PEER_ROOTS: &str = "peer-roots.pem";
/// Roots of the clients, PEM. Never the peers' roots.
pub const CLIENT_ROOTS: &str = "client-roots.pem";

/// Which issuers the peers' root does not stand for any more, PEM ([`crate::revocation`]).
pub const PEER_REVOKED: &str = "peer-revoked.crl";
/// Which clients the clients' root does not stand for any more, PEM.
pub const CLIENT_REVOKED: &str = "client-revoked.crl";

/// All files of a seed, in archive order.
pub const FILES: [&str; 9] = [
    HEADER,
    CHARTER,
    CHARTER_SIGNATURE,
    ISSUER_CERT,
    ISSUER_KEY,
    PEER_ROOTS,
    CLIENT_ROOTS,
    PEER_REVOKED,
    CLIENT_REVOKED,
];

/// Largest seed the agent reads: 1 MiB. A real one is under 20 KiB.
pub const MAX_BYTES: u64 = 1 << 20;

/// Whom a seed is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedHeader {
    /// 1.
    pub schema: u32,
    /// The environment: the profile's name.
    pub env: String,
    /// The cluster.
    pub cluster: Id128,
    /// The charter's generation.
    pub generation: u64,
    /// The node; the name found in DNS must equal it.
    pub fqdn: Fqdn,
}
