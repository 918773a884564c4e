//! The agent's state on the data volume. Evidence that is checked against the disk, never permission by itself.

use serde::{Deserialize, Serialize};

use crate::digest::Id128;
use crate::name::Fqdn;
use crate::version::EtcdVersion;

/// A raft identifier as etcd prints it: 16 hex digits at most, no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RaftId(pub u64);

impl std::fmt::Display for RaftId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}
impl TryFrom<String> for RaftId {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}
impl From<RaftId> for String {
    fn from(id: RaftId) -> Self {
        id.to_string()
    }
}

/// One entry of etcd's `--initial-cluster`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitialMember {
    /// Member name.
    pub name: String,
    /// Peer URL.
    pub peer_url: String,
}

/// Where this volume stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Phase {
    /// Formatted, belongs to no raft group.
    Blank,
    /// The founder chose a lineage and may start a one-voter etcd with it.
    Founding {
        /// Random, drawn once for this formation.
        lineage: Id128,
    },
    /// A grantor added this node as a learner.
    Assigned {
        /// The lineage joined.
        lineage: Id128,
        /// Raft cluster id.
        raft_cluster: RaftId,
        /// The fresh raft member id; it starts from an empty log at most once.
        member: RaftId,
        /// The member list to start with.
        initial_cluster: Vec<InitialMember>,
        /// Set, durably, before etcd's first start with this id.
        attempted: bool,
        /// The boot it was granted in. In another one this may be a snapshot of the volume, and the id started since.
        boot_id: String,
    },
    /// A member with data.
    Member {
        /// Its lineage.
        lineage: Id128,
        /// Raft cluster id.
        raft_cluster: RaftId,
        /// Raft member id.
        member: RaftId,
    },
    /// The cluster removed this member. Terminal: only an operator's reset leads out.
    Evicted {
        /// Its former lineage.
        lineage: Id128,
        /// Its former raft member id.
        member: RaftId,
    },
}

/// The state file, `/var/lib/kiln/state/state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// 1.
    pub schema: u32,
    /// The environment.
    pub env: String,
    /// The cluster.
    pub cluster: Id128,
    /// The charter's generation.
    pub generation: u64,
    /// The node.
    pub fqdn: Fqdn,
    /// The volume's instance; must equal its label's.
    pub instance: Id128,
    /// Where the volume stands.
    pub position: Phase,
    /// This node has seen the cluster activated; later restarts open the client port without asking anybody.
    pub activated_seen: bool,
    /// Highest clock ever seen, Unix seconds; the clock may not go back behind it.
    pub max_seen_time: i64,
    /// Newest etcd that ever ran on this volume; an older one is not started.
    pub max_etcd: Option<EtcdVersion>,
    /// Counts boots of this volume, incremented and synced before etcd starts, and every few minutes of each. Peers and etcd remember the
    /// highest they were told.
    pub boot_counter: u64,
}

impl State {
    /// The state of a volume just formatted.
    pub fn blank(label: &crate::volume::VolumeLabel) -> Self {
        Self {
            schema: 1,
            env: label.env.clone(),
            cluster: label.cluster,
            generation: label.generation,
            fqdn: label.fqdn.clone(),
            instance: label.instance,
            position: Phase::Blank,
            activated_seen: false,
            max_seen_time: 0,
            max_etcd: None,
            boot_counter: 0,
        }
    }
}
