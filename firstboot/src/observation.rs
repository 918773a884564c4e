//! Everything [`crate::decide::decide`] may know, as one value that can be stored, replayed and built by hand.
//!
//! A probe that failed is a fact like any other. Nothing in here is a handle, a clock or a future: `firstboot explain-decision`
//! reads an observation from a file, and a model checker makes its own.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::charter::Charter;
use crate::digest::Id128;
use crate::disk_fact::{DataFact, RootFact, WalFact};
use crate::message::NodeStatus;
use crate::name::Fqdn;
use crate::seed::SeedHeader;
use crate::state::State;
use crate::version::EtcdVersion;

/// What one round of looking found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// 1.
    pub schema: u32,
    /// The clock, Unix seconds. A value like any other: `decide` has no clock of its own.
    pub now: i64,
    /// The kernel's id of this boot: what another copy of this volume, counting the same boots, cannot have.
    pub boot_id: String,
    /// What the image says of itself and its cluster.
    pub image: ImageFact,
    /// The seed, after the charter's signature was verified with the key in the image.
    pub seed: SeedView,
    /// What `/` is.
    pub root: RootFact,
    /// The data volume.
    pub data: DataFact,
    /// The first record of etcd's write-ahead log.
    pub wal: WalFact,
    /// The agent's state file on the data volume.
    pub state: StateView,
    /// Whether an etcd process exists.
    pub etcd: EtcdProcess,
    /// The node's own name as DNS tells it.
    pub own: OwnName,
    /// SRV records `_etcd-server-ssl._tcp.DOMAIN`. They locate and warn; they never change who counts.
    pub srv: Lookup<SrvTarget>,
    /// One entry per other charter member, asked in this very round: an answer of an earlier round says nothing.
    pub peers: Vec<PeerObservation>,
    /// The highest count of boots that etcd, or a peer in an earlier round of this boot, remembers of this very volume *from another
    /// boot than this one*. Kept by the agent for as long as it runs: once told of a later boot, silence does not make it untold.
    pub recorded_boot: Option<u64>,
}

/// What of the image matters to a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFact {
    /// The environment the image was built for.
    pub env: String,
    /// The cluster the image was built for.
    pub cluster: Id128,
    /// The etcd in it.
    pub etcd_version: EtcdVersion,
    /// Unix seconds of the lock; no honest clock is before it.
    pub source_date_epoch: i64,
}

/// The seed after verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SeedView {
    /// The header, and the charter whose signature verified.
    Verified {
        /// Whom the seed is for.
        header: SeedHeader,
        /// Who may form.
        charter: Box<Charter>,
    },
    /// No seed disk, or nothing on it that is a seed; the sentence of the disk step.
    Missing(String),
    /// A seed that must not be believed: signature, format, content or issuer; the sentence of the check.
    Invalid(String),
}

/// The state file as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum StateView {
    /// There is none.
    Absent,
    /// There is one.
    Read(Box<State>),
    /// There is one that cannot be read, and why.
    Unreadable(String),
}

/// Whether an etcd process exists on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum EtcdProcess {
    /// None, and nothing is about to start one.
    Down,
    /// systemd starts it, runs it, or stops it.
    Up,
}

/// An answer of DNS. Failing to get one is not the same as the answer "there is none", and neither is evidence of absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Lookup<T> {
    /// Records, at least one.
    Found(Vec<T>),
    /// A server answered that there is no such name or no such record.
    None,
    /// No server answered usably: time-out, SERVFAIL, nonsense, no server known. Says which server and what.
    Failed(String),
}

impl<T> Lookup<T> {
    /// The records, none when there was no answer.
    pub fn records(&self) -> &[T] {
        match self {
            Self::Found(records) => records,
            Self::None | Self::Failed(_) => &[],
        }
    }
}

/// What DNS says of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnName {
    /// The node's own addresses, without loopback and link-local ones, with the PTR answer for each. Empty while the network is not up.
    pub addresses: Vec<OwnAddress>,
    /// A and AAAA of the seed's name, asked of the real servers, never of the local stub.
    pub forward: Lookup<IpAddr>,
}

/// One of the node's addresses and the names DNS gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// PTR targets as they came, in no canonical form.
    pub ptr: Lookup<String>,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SrvTarget {
    /// Its target as it came.
    pub target: String,
    /// Its port.
    pub port: u16,
}

/// What was seen of one other member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerObservation {
    /// The member, by its charter name.
    pub fqdn: Fqdn,
    /// Where DNS locates it.
    pub located: Lookup<IpAddr>,
    /// What its agent said.
    pub answer: PeerAnswer,
}

/// What a peer's agent said over mutual TLS, its certificate bearing exactly the peer's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PeerAnswer {
    /// Nothing that could be authenticated, and what happened instead. Never evidence of anything.
    Unreachable(String),
    /// Its status.
    Answered(Box<NodeStatus>),
}
