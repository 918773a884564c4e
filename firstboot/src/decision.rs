//! What firstboot chose to do: a value to print, store, compare and apply. Its variants carry the evidence they rest on.

use serde::{Deserialize, Serialize};

use crate::digest::Id128;
use crate::name::Fqdn;
use crate::refusal::Refusal;
use crate::state::{InitialMember, RaftId, State};
use crate::wait::WaitReason;

/// What this round of looking leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Decision {
    /// No act is allowed, and no etcd may run. Looked at again each round: mending what was seen is enough.
    Halt(Refusal),
    /// Row 3. The volume is this node's and positively blank, but its state file is missing or of an earlier charter: write this one.
    RecordBlank {
        /// The state to persist.
        state: Box<State>,
    },
    /// Row 5. The log on disk is this member's: persist `Phase::Member` with these ids, then start etcd. Needs nobody.
    Restart {
        /// This is the founder, and it has not seen the cluster activated: see [`crate::render::Start::Restart`].
        forming: bool,
        /// Its lineage.
        lineage: Id128,
        /// Raft cluster id, as in the log.
        raft_cluster: RaftId,
        /// Raft member id, as in the log.
        member: RaftId,
    },
    /// Row 9. Persist `attempted`, then start etcd with `--initial-cluster-state existing` on an empty log.
    StartExisting {
        /// The lineage joined.
        lineage: Id128,
        /// Raft cluster id.
        raft_cluster: RaftId,
        /// The fresh member id; this is its one start from an empty log.
        member: RaftId,
        /// The member list as granted.
        initial_cluster: Vec<InitialMember>,
    },
    /// Row 10. There is no log, and the one start from an empty one was spent, or may have been since this boot is not the one it was granted in:
    /// clear what etcd left, go back to `Phase::Blank`.
    DropAssignment {
        /// The id that is never used again.
        member: RaftId,
    },
    /// Row 11. Start the one-voter etcd of this lineage with `--initial-cluster-state new`.
    StartFounding {
        /// The lineage in the state file.
        lineage: Id128,
        /// Raft cluster id that etcd will compute.
        raft_cluster: RaftId,
        /// Raft member id that etcd will compute.
        member: RaftId,
    },
    /// Row 12. Ask a running member's agent to be added as a learner.
    Join {
        /// Whom to ask first: the leader's agent if it answered, else the first voter in charter order.
        via: Fqdn,
        /// Whom to ask if `via` cannot serve, in charter order.
        also: Vec<Fqdn>,
        /// The lineage they all run.
        lineage: Id128,
        /// The raft cluster they all run.
        raft_cluster: RaftId,
    },
    /// Rows 13, 14, 16 and everything that lacks only time or somebody else's act.
    Wait(WaitReason),
    /// Row 15. Draw a lineage, persist `Phase::Founding`.
    Form {
        /// The other members, each of which said in this round that it is blank under the same charter.
        unanimous: Vec<Fqdn>,
    },
}

/// Why, in the three parts every refusal owes its reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// What was seen, with names, addresses and records.
    pub seen: String,
    /// Which rule applies to it.
    pub rule: String,
    /// What an operator can do about it; says so when there is nothing to do.
    pub hint: String,
}

impl Decision {
    /// The row of the decision table in ARCHITECTURE.md ("The decision") that matched.
    pub fn row(&self) -> u8 {
        match self {
            Self::Halt(refusal) => refusal.row(),
            Self::RecordBlank { .. } => 3,
            Self::Restart { .. } => 5,
            Self::StartExisting { .. } => 9,
            Self::DropAssignment { .. } => 10,
            Self::StartFounding { .. } => 11,
            Self::Join { .. } => 12,
            Self::Wait(reason) => reason.row(),
            Self::Form { .. } => 15,
        }
    }

    /// What is said of a choice not to act: what was seen, and what can be done. Nothing of one to act.
    pub fn inaction(&self) -> Option<String> {
        match self {
            Self::Halt(_) | Self::Wait(_) => {
                let Explanation { seen, hint, .. } = self.explain();
                Some(format!("{seen}; {hint}"))
            }
            Self::RecordBlank { .. }
            | Self::Restart { .. }
            | Self::StartExisting { .. }
            | Self::DropAssignment { .. }
            | Self::StartFounding { .. }
            | Self::Join { .. }
            | Self::Form { .. } => None,
        }
    }

    /// Why this was chosen, for the console, the journal and `explain-decision`.
    pub fn explain(&self) -> Explanation {
        let nothing = "nothing to do".to_owned();
        match self {
            Self::Halt(refusal) => refusal.explain(),
            Self::Wait(reason) => reason.explain(),
            Self::RecordBlank { state } => Explanation {
                seen: format!(
                    "the data volume of {} is formatted and blank, and has no current state file",
                    state.fqdn
                ),
                rule: "a blank volume is recorded as blank before anything else".into(),
                hint: nothing,
            },
            Self::Restart { raft_cluster, member, .. } => Explanation {
                seen: format!(
                    "etcd's log is that of member {member} of raft cluster {raft_cluster}, as the state says"
                ),
                rule: "a member with its own log restarts, whatever DNS and peers say".into(),
                hint: nothing,
            },
            Self::StartExisting { raft_cluster, member, .. } => Explanation {
                seen: format!(
                    "this node was added as learner {member} to raft cluster {raft_cluster}, and has no log yet"
                ),
                rule: "a fresh member id is started from an empty log once".into(),
                hint: nothing,
            },
            Self::DropAssignment { member } => Explanation {
                seen: format!("member id {member} has no log, and it was started once or granted in another boot"),
                rule: "a member id is started from an empty log at most once, so a new one must be asked for".into(),
                hint: nothing,
            },
            Self::StartFounding { lineage, .. } => Explanation {
                seen: format!("this founder chose lineage {lineage} and has no log yet"),
                rule: "a formation begun goes on under the same lineage".into(),
                hint: nothing,
            },
            Self::Join { via, lineage, .. } => Explanation {
                seen: format!("{via} runs lineage {lineage}, knows its leader and reads linearizably"),
                rule: "a blank node joins a running cluster through a member's agent".into(),
                hint: nothing,
            },
            Self::Form { unanimous } => Explanation {
                seen: match unanimous.len() {
                    0 => "the charter has no other member".into(),
                    n => format!(
                        "all {n} other members of the charter answered that they are blank under the same charter"
                    ),
                },
                rule: "the founder forms when nobody holds data and the window is open".into(),
                hint: nothing,
            },
        }
    }
}
