//! What image a node runs: `/usr/lib/kiln/image.json`.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::version::EtcdVersion;

/// Written by the builder into every image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageMeta {
    /// 1.
    pub schema: u32,
    /// The image's key in the store.
    pub key: Sha256Digest,
    /// Name of the image definition, `ubuntu-24.04`.
    pub definition: String,
    /// The etcd in it.
    pub etcd_version: EtcdVersion,
    /// Which source the etcd was taken from, `release` or `packages`, as the recipe records it.
    pub etcd_source: String,
    /// sha256 of the agent in it.
    pub firstboot: Sha256Digest,
    /// Unix seconds of the lock; no clock on a node can honestly be before it.
    pub source_date_epoch: i64,
}
