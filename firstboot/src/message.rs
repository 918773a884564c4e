//! What agents say to each other on port 2382, and what the agent says to its root helper.
//!
//! Agents: one request and one answer per connection, a big-endian `u32` length and that many bytes of JSON. The helper: one line of
//! JSON each way, as often as the connection lasts. Unknown fields are refused; a version is part of every agent request.

use serde::{Deserialize, Serialize};

use crate::digest::{Id128, Sha256Digest};
use crate::disk_fact::DiskFacts;
use crate::name::Fqdn;
use crate::record::BootRecord;
use crate::state::{InitialMember, RaftId};
use crate::version::EtcdVersion;

/// Version of the agent protocol.
pub const PROTOCOL: u32 = 1;
/// Largest message, either way: 64 KiB. A member list of 20 nodes is under 4 KiB.
pub const MAX_MESSAGE: u32 = 64 * 1024;

/// A request from one agent (or, for `Status` only, from an operator) to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRequest {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What can be asked of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// Where do you stand? Answered to peers in full and, read-only, to operators without [`Running::unheard`].
    Status,
    /// This is the boot my volume is in; remember it, and where do you stand? Peers only. Answered without
    /// [`Running::unheard`].
    Greet(BootRecord),
    /// Add me as a learner. Peers only, and only for the caller's own name.
    Join(JoinRequest),
}

/// A blank node asks to be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The cluster.
    pub cluster: Id128,
    /// The charter's generation.
    pub generation: u64,
    /// The charter's digest.
    pub charter: Sha256Digest,
    /// The caller; must be the one name in its certificate.
    pub fqdn: Fqdn,
    /// The caller's volume.
    pub instance: Id128,
    /// The etcd in the caller's image.
    pub etcd_version: EtcdVersion,
    /// Random; echoed, so that a late answer to an earlier request is not taken for this one's.
    pub nonce: Id128,
}

/// An agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// To [`Ask::Status`].
    Status(Box<NodeStatus>),
    /// To [`Ask::Join`]: you are a learner now.
    Granted(Grant),
    /// Not now; nothing was changed that will not be undone.
    RetryAfter {
        /// Milliseconds to wait.
        millis: u64,
        /// Why.
        reason: String,
    },
    /// Not at all, until somebody acts.
    Refused {
        /// What was seen and which rule applied.
        reason: String,
        /// What an operator can do.
        hint: String,
    },
}

/// A learner's assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The request's nonce.
    pub nonce: Id128,
    /// The lineage joined.
    pub lineage: Id128,
    /// Raft cluster id.
    pub raft_cluster: RaftId,
    /// The fresh member id.
    pub member: RaftId,
    /// The member list to start with, the caller included.
    pub initial_cluster: Vec<InitialMember>,
}

/// Where a node stands, as it tells peers and operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeStatus {
    /// Who answers.
    pub fqdn: Fqdn,
    /// Its environment.
    pub env: String,
    /// Its cluster.
    pub cluster: Id128,
    /// Its charter's generation.
    pub generation: u64,
    /// Its charter's digest.
    pub charter: Sha256Digest,
    /// The boot this answer is from.
    pub boot_id: String,
    /// The image it runs.
    pub image_key: Sha256Digest,
    /// The etcd in it.
    pub etcd_version: EtcdVersion,
    /// What its volume holds.
    pub holds: Holds,
    /// Phase as a word, `blank`, `founding`, `assigned`, `member`, `evicted`, or `halted` while a rule forbids every act.
    pub phase: String,
    /// Its volume's instance; none when the volume is not known.
    pub instance: Option<Id128>,
    /// Boot counter of its volume; 0 until this boot is counted there.
    pub boot_counter: u64,
    /// The highest boot counter it was told by each volume, since its own boot: what shows a rolled back or cloned disk.
    pub remembers: Vec<Remembered>,
    /// It has seen the cluster activated.
    pub activated: bool,
    /// The row of the decision table that holds.
    pub row: u8,
    /// What it waits for or why it halted, in one sentence; empty when it serves.
    pub waiting_for: String,
    /// Unix seconds since when, 0 when it serves.
    pub waiting_since: i64,
}

impl NodeStatus {
    /// A rule forbids it every act. One that says nothing of its volume for another reason has not made sure of its name yet.
    pub fn has_halted(&self) -> bool {
        matches!(self.phase.as_str(), "halted" | "evicted")
    }
}

/// The highest boot counter an agent was told by one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// The member.
    pub fqdn: Fqdn,
    /// Its volume.
    pub instance: Id128,
    /// The highest count it told, in an authenticated status.
    pub boot_counter: u64,
    /// The boot it was in when it first told that count.
    pub boot_id: String,
}

/// What a node's volume holds: the answer that forming and joining depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Holds {
    /// Positively blank: formatted, labelled, no raft data, and will stay so unless this node is asked to join.
    Blank,
    /// etcd runs here and answers.
    Running(Running),
    /// There is data, but etcd does not serve with a quorum right now.
    Data {
        /// The lineage the data belongs to.
        lineage: Id128,
    },
    /// The node says nothing of its volume: it has halted, or has not made sure of its name yet.
    Unknown,
}

/// A running etcd, as its own agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    /// Its lineage.
    pub lineage: Id128,
    /// Raft cluster id.
    pub raft_cluster: RaftId,
    /// Raft member id.
    pub member: RaftId,
    /// It is a learner still.
    pub learner: bool,
    /// The leader it knows.
    pub leader: Option<RaftId>,
    /// A linearizable read succeeded just now.
    pub linearizable: bool,
    /// Applied raft index.
    pub applied_index: u64,
    /// Store revision.
    pub revision: u64,
    /// Alarms raised, by etcd's names.
    pub alarms: Vec<String>,
    /// Other members with no connection to this one, and since when. A member that is not here is connected, or nothing is known of it.
    /// Told to a peer that asks for the status, for that is how it looks before a voter is taken away.
    #[serde(default)]
    pub unheard: Vec<Unheard>,
}

impl Running {
    /// For how long nothing was heard of a member; none when it is connected or nothing is known.
    pub fn unheard_secs(&self, member: RaftId) -> Option<u64> {
        self.unheard.iter().find(|unheard| unheard.member == member).map(|unheard| unheard.seconds)
    }
}

/// A member that an etcd has had no active peer connection with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unheard {
    /// Its raft id.
    pub member: RaftId,
    /// For how long, as this agent saw it: at most since the agent, and its etcd, started.
    pub seconds: u64,
}

/// What the agent asks of its root helper over [`crate::paths::Paths::control_socket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Look at the disks again.
    Observe,
    /// Start etcd. `empty` permits, once, a start on an empty log.
    StartEtcd {
        /// The log is empty and this is its one start.
        empty: bool,
    },
    /// Stop etcd.
    StopEtcd,
    /// Is etcd running?
    EtcdState,
    /// Remove what an etcd that never wrote a log left behind. Refused when there is a log.
    ClearEtcd,
    /// Let clients in (port 2379).
    OpenClients,
}

/// The helper's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlAnswer {
    /// Done.
    Done,
    /// To `Observe`.
    Disks(Box<DiskFacts>),
    /// To `EtcdState`.
    Etcd {
        /// systemd's word: `active`, `inactive`, `failed`, `activating`, ...
        active: String,
        /// The last lines etcd or precheck left, when it is not active.
        last_words: String,
    },
    /// It could not be done, and why.
    Failed(String),
}
