//! What kiln keeps in etcd, all under `/kiln/`. Evidence for agents and operators; no decision rests on it alone.

use serde::{Deserialize, Serialize};

use crate::digest::{Id128, Sha256Digest};
use crate::name::Fqdn;
use crate::state::RaftId;

/// Held while members are changed.
pub const LOCK: &str = "/kiln/lock";
/// Created once: which formation this is.
pub const LINEAGE: &str = "/kiln/lineage";
/// Created once: the formation is complete and clients are admitted.
pub const ACTIVATED: &str = "/kiln/activated";

/// Where a member's record is.
pub fn member_key(fqdn: &Fqdn) -> String {
    format!("/kiln/members/{fqdn}")
}

/// Where an act on the membership is noted; sorts by time.
pub fn audit_key(now: i64, act: &str, subject: &Fqdn) -> String {
    format!("/kiln/audit/{now:012}-{act}-{subject}")
}

/// Where etcd remembers the boots of a member's volume.
pub fn boot_key(fqdn: &Fqdn) -> String {
    format!("/kiln/boots/{fqdn}")
}

/// Value of [`LINEAGE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageRecord {
    /// The cluster.
    pub cluster: Id128,
    /// The charter's generation.
    pub generation: u64,
    /// The formation.
    pub lineage: Id128,
    /// The charter's digest.
    pub charter: Sha256Digest,
}

/// Value of [`member_key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRecord {
    /// The volume it was added with.
    pub instance: Id128,
    /// Its raft id.
    pub member: RaftId,
    /// Unix seconds.
    pub since: i64,
}

/// Value of [`ACTIVATED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationRecord {
    /// The formation.
    pub lineage: Id128,
    /// Whose agent found it complete.
    pub by: Fqdn,
    /// Unix seconds.
    pub at: i64,
}

/// Value of [`audit_key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// `add-learner`, `remove-learner`, `remove-differing-learner`, `promote`.
    pub act: String,
    /// Whose agent.
    pub by: Fqdn,
    /// Whom it was about.
    pub subject: Fqdn,
    /// With which raft id.
    pub member: RaftId,
}

/// Value of [`boot_key`]: the latest boot that etcd was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootRecord {
    /// The volume.
    pub instance: Id128,
    /// How many boots it had counted.
    pub boot_counter: u64,
    /// The kernel's id of that boot.
    pub boot_id: String,
}
