//! A rollout as it is written down in the cluster's own etcd: what is to come, how far it is, who did what. Pure.
//!
//! The record is the only memory of a rollout. Whoever holds the [lock](super::lock) goes on from it, so that a terminal may die between any
//! two acts. What is about to be done to a node is written before it is done: a node that is not [`NodeState::Taken`] or
//! [`NodeState::RollingBack`] here was never touched.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::digest::Id128;
use kiln_firstboot::version::EtcdVersion;
use serde::{Deserialize, Serialize};

use super::decide::Act;
use crate::host::Root;

/// Where the record is in etcd.
pub const RECORD: &str = "/kiln/rollout/record";
/// Where the lock is in etcd.
pub const LOCK: &str = "/kiln/rollout/lock";
/// The schema that this kiln writes and reads.
pub const SCHEMA: u32 = 1;
/// How many lines of history are kept: some hundred bytes each, far below etcd's limit of 1.5 MiB for a value, and more than a rollout of
/// nine nodes with every retry writes.
const HISTORY: usize = 200;

/// What every node is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The root.
    pub root: Root,
    /// The etcd in it.
    pub etcd: EtcdVersion,
}

/// One rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Names this rollout among all others.
    pub id: Id128,
    /// Who started it.
    pub operator: String,
    /// When, Unix seconds.
    pub started: i64,
    /// What every node is to run.
    pub target: Target,
    /// Seconds a node is given to be back, on the new root and on the old one alike.
    pub back_within_secs: u32,
    /// The nodes, in the order of the profile.
    pub nodes: Vec<NodeRecord>,
    /// What the operators want of it.
    pub wish: Wish,
    /// How it ended; none while there is something to do.
    pub ended: Option<Ended>,
    /// What was done, oldest first; the latest 200.
    pub history: Vec<Event>,
}

/// One node of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// Its name: the first label of its FQDN, and the etcd member's name.
    pub name: String,
    /// How far it is.
    pub state: NodeState,
}

/// How far a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NodeState {
    /// Not touched.
    Pending,
    /// It ran the target before it was its turn.
    Already,
    /// It is being given the new root, or is on its way back with it.
    Taken {
        /// Since when, Unix seconds: of the latest attempt.
        since: i64,
        /// How often it was tried, this time included.
        attempts: u32,
        /// The root it had.
        before: Root,
    },
    /// It serves on the new root.
    Done {
        /// When it was taken, Unix seconds.
        since: i64,
        /// When it was seen to serve again, Unix seconds.
        until: i64,
    },
    /// It is being given its old root back, or is on its way back with it.
    RollingBack {
        /// Since when, Unix seconds: of the latest attempt.
        since: i64,
        /// How often it was tried, this time included.
        attempts: u32,
        /// The root it had and is to have again.
        before: Root,
        /// Why.
        why: String,
    },
    /// It serves on its old root.
    RolledBack {
        /// When it was seen to serve again, Unix seconds.
        at: i64,
        /// Why it was rolled back.
        why: String,
    },
    /// It came back neither on the new root nor on the old one.
    Lost {
        /// When it was given up, Unix seconds.
        at: i64,
        /// What was seen.
        why: String,
    },
}

/// What the operators want of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Wish {
    /// Go on.
    Go,
    /// Take no further node.
    Pause {
        /// Who said so.
        by: String,
        /// When, Unix seconds.
        at: i64,
    },
    /// Take no further node, and roll back the one that is not back yet.
    Abort {
        /// Who said so.
        by: String,
        /// When, Unix seconds.
        at: i64,
    },
}

/// How a rollout ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// When, Unix seconds.
    pub at: i64,
    /// How.
    pub how: Ending,
}

/// The ways a rollout ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ending", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ending {
    /// Every node runs the target.
    Done,
    /// A node was rolled back or lost, and no other one was touched after it.
    Stopped {
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// Somebody aborted it.
    Aborted {
        /// Who.
        by: String,
    },
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When, Unix seconds.
    pub at: i64,
    /// Who.
    pub by: String,
    /// What.
    pub what: String,
}

/// A record that cannot be gone on from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another kiln wrote it.
    #[error(
        "the record of the rollout has schema {0}, and this kiln reads {SCHEMA}\n  hint: go on with the kiln that wrote it"
    )]
    Schema(u64),
    /// It is damaged.
    #[error(
        "the record of the rollout is not what kiln writes: {0}\n  hint: look at it with `etcdctl get {RECORD}`; deleting it forgets the rollout"
    )]
    Damaged(String),
}

impl Record {
    /// A rollout of which nothing is done yet.
    pub fn new(id: Id128, operator: &str, now: i64, target: Target, back_within_secs: u32, nodes: &[String]) -> Self {
        let node = |name: &String| NodeRecord { name: name.clone(), state: NodeState::Pending };
        let mut record = Self {
            schema: SCHEMA,
            id,
            operator: operator.to_owned(),
            started: now,
            target,
            back_within_secs,
            nodes: nodes.iter().map(node).collect(),
            wish: Wish::Go,
            ended: None,
            history: Vec::new(),
        };
        record.tell(now, operator, format!("started towards generation {}", target.root.generation));
        record
    }

    /// Reads what [`Record::to_bytes`] wrote.
    ///
    /// # Errors
    /// As [`RecordError`] says.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Header {
            schema: u64,
        }
        let damaged = |error: serde_json::Error| RecordError::Damaged(error.to_string());
        let header: Header = serde_json::from_slice(bytes).map_err(damaged)?;
        if header.schema != u64::from(SCHEMA) {
            return Err(RecordError::Schema(header.schema));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// What is kept in etcd.
    ///
    /// # Panics
    /// Never: the record has no map.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has no map, and so no key that JSON cannot have")
    }

    /// The node in our hands: at most one ever is.
    pub fn in_hand(&self) -> Option<&NodeRecord> {
        self.nodes.iter().find(|node| match node.state {
            NodeState::Taken { .. } | NodeState::RollingBack { .. } => true,
            NodeState::Pending
            | NodeState::Already
            | NodeState::Done { .. }
            | NodeState::RolledBack { .. }
            | NodeState::Lost { .. } => false,
        })
    }

    /// Whether any node was touched by this rollout.
    pub fn touched(&self) -> bool {
        self.nodes.iter().any(|node| match node.state {
            NodeState::Pending | NodeState::Already => false,
            NodeState::Taken { .. }
            | NodeState::Done { .. }
            | NodeState::RollingBack { .. }
            | NodeState::RolledBack { .. }
            | NodeState::Lost { .. } => true,
        })
    }

    /// The node that came back only on its old root, or not at all.
    pub fn failed(&self) -> Option<(&str, &str)> {
        self.nodes.iter().find_map(|node| match &node.state {
            NodeState::RolledBack { why, .. } | NodeState::Lost { why, .. } => Some((node.name.as_str(), why.as_str())),
            NodeState::Pending
            | NodeState::Already
            | NodeState::Taken { .. }
            | NodeState::Done { .. }
            | NodeState::RollingBack { .. } => None,
        })
    }

    /// How far a node is; nothing for a node that is not part of it.
    pub fn state(&self, name: &str) -> Option<&NodeState> {
        self.nodes.iter().find(|node| node.name == name).map(|node| &node.state)
    }

    /// The record as it must be written before `act` is done. The same record where the act leaves no trace.
    #[must_use]
    pub fn before(&self, act: &Act, now: i64, by: &str) -> Self {
        let mut next = self.clone();
        match act {
            Act::Take { node, before, .. } => {
                let attempts = match self.state(node) {
                    Some(NodeState::Taken { attempts, .. }) => attempts + 1,
                    Some(
                        NodeState::Pending
                        | NodeState::Already
                        | NodeState::Done { .. }
                        | NodeState::RollingBack { .. }
                        | NodeState::RolledBack { .. }
                        | NodeState::Lost { .. },
                    )
                    | None => 1,
                };
                next.set(node, NodeState::Taken { since: now, attempts, before: *before });
                let again = if attempts > 1 { format!(", attempt {attempts}") } else { String::new() };
                next.tell(now, by, format!("taking {node}{again}"));
            }
            Act::RollBack { node, to, why } => {
                let attempts = match self.state(node) {
                    Some(NodeState::RollingBack { attempts, .. }) => attempts + 1,
                    Some(
                        NodeState::Pending
                        | NodeState::Already
                        | NodeState::Taken { .. }
                        | NodeState::Done { .. }
                        | NodeState::RolledBack { .. }
                        | NodeState::Lost { .. },
                    )
                    | None => 1,
                };
                next.set(node, NodeState::RollingBack { since: now, attempts, before: *to, why: why.clone() });
                next.tell(now, by, format!("rolling {node} back: {why}"));
            }
            Act::Note { node, state } => {
                next.set(node, state.clone());
                next.tell(now, by, format!("{node} {}", state.sentence()));
            }
            Act::End(how) => {
                next.ended = Some(Ended { at: now, how: how.clone() });
                next.tell(now, by, how.sentence());
            }
            Act::MoveLeader { .. } | Act::Wait(_) | Act::Refuse(_) | Act::Rest => {}
        }
        next
    }

    /// The record with what an operator wants of it from now on. A rollout that has ended wants nothing, nor one that is being aborted.
    #[must_use]
    pub fn wishing(&self, wish: Wish, now: i64, by: &str) -> Self {
        let mut next = self.clone();
        if self.ended.is_some() || matches!(self.wish, Wish::Abort { .. }) || self.wish == wish {
            return next;
        }
        next.tell(
            now,
            by,
            match wish {
                Wish::Go => "resumed".to_owned(),
                Wish::Pause { .. } => "paused".to_owned(),
                Wish::Abort { .. } => "aborting".to_owned(),
            },
        );
        next.wish = wish;
        next
    }

    fn set(&mut self, name: &str, state: NodeState) {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name == name) {
            node.state = state;
        }
    }

    /// Adds a line to the history.
    pub fn tell(&mut self, at: i64, by: &str, what: String) {
        self.history.push(Event { at, by: by.to_owned(), what });
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
    }
}

impl NodeState {
    /// The state as a word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Already => "already",
            Self::Taken { .. } => "taken",
            Self::Done { .. } => "done",
            Self::RollingBack { .. } => "rolling back",
            Self::RolledBack { .. } => "rolled back",
            Self::Lost { .. } => "lost",
        }
    }

    /// What follows the node's name in a sentence.
    pub fn sentence(&self) -> String {
        match self {
            Self::Pending => "has not been touched".into(),
            Self::Already => "runs the target already".into(),
            Self::Taken { .. } => "has been taken".into(),
            Self::Done { since, until } => format!("serves on the new root after {} s", until - since),
            Self::RollingBack { why, .. } => format!("is being rolled back: {why}"),
            Self::RolledBack { why, .. } => format!("serves on its old root again: {why}"),
            Self::Lost { why, .. } => format!("is lost: {why}"),
        }
    }

    /// Seconds from its taking to its serving again, once it does.
    pub fn seconds(&self) -> Option<i64> {
        match self {
            Self::Done { since, until } => Some(until - since),
            Self::Pending
            | Self::Already
            | Self::Taken { .. }
            | Self::RollingBack { .. }
            | Self::RolledBack { .. }
            | Self::Lost { .. } => None,
        }
    }
}

impl Ending {
    /// The ending in a sentence.
    pub fn sentence(&self) -> String {
        match self {
            Self::Done => "every node runs the target".into(),
            Self::Stopped { node, why } => format!("stopped at {node}: {why}"),
            Self::Aborted { by } => format!("aborted by {by}"),
        }
    }
}
