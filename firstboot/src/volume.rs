//! The label of a data volume: whose it is. Written once, when the volume is formatted, and never changed.

use serde::{Deserialize, Serialize};

use crate::digest::Id128;
use crate::name::Fqdn;

/// Whose data volume this is. A volume with another label than the seed's is foreign, which is a halt and never "blank".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeLabel {
    /// 1.
    pub schema: u32,
    /// The environment.
    pub env: String,
    /// The cluster.
    pub cluster: Id128,
    /// The charter's generation when it was formatted.
    pub generation: u64,
    /// The node.
    pub fqdn: Fqdn,
    /// Random, drawn at mkfs: tells a wiped volume from the one before it.
    pub instance: Id128,
}
