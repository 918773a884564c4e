//! What this agent tells others, and what it does for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use tokio::time::{Instant as Deadline, timeout_at};

use crate::agent::client::STATUS_LIMIT;
use crate::agent::reach::Reach;
use crate::agent::shared::Shared;
use crate::agent::snapshot::Snapshots;
use crate::agent::{grantor, metrics};
use crate::boots;
use crate::charter::Charter;
use crate::clock;
use crate::connections::Hearing;
use crate::digest::Id128;
use crate::etcd::Etcd;
use crate::message::{Answer, Ask, Holds, NodeStatus, Remembered, Running, Unheard};
use crate::name::Fqdn;
use crate::record::BootRecord;
use crate::state::RaftId;
use crate::tls::Role;
use crate::version::EtcdVersion;
use crate::witness::Witness;

/// How long a fresh look at etcd may take while callers wait for the status, where etcd has its usual beat.
const FRESH: Duration = Duration::from_millis(1500);
/// The longest rest between two fresh looks, likewise.
const REST: Duration = Duration::from_millis(1500);
/// What of a peer's patience is left for TLS and the way.
const WAY: Duration = Duration::from_millis(500);
/// How long it may take for this agent's own decisions, likewise: three calls, each of which etcd has two seconds for.
const THOROUGH: Duration = Duration::from_secs(6);

/// A refusal with the same reason is noted again after this.
const SAME_REFUSAL: Duration = Duration::from_secs(600);
/// And one with another reason after this.
const OTHER_REFUSAL: Duration = Duration::from_secs(10);

/// Where the node stands, as the loop last wrote it.
#[derive(Clone, Debug)]
pub struct Seat {
    /// The status without its freshest part: a running etcd is asked anew for every caller.
    pub status: NodeStatus,
    /// The charter.
    pub charter: Arc<Charter>,
    /// This node.
    pub own: Fqdn,
    /// The volume.
    pub instance: Option<Id128>,
    /// The lineage its data belongs to; none while it is blank or nothing is known.
    pub lineage: Option<Id128>,
    /// The etcd in its image.
    pub etcd_version: EtcdVersion,
}

/// How much callers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All but the members that etcd has not heard of: etcd takes longer to tell of its connections than for all else.
    Brief,
    /// These too.
    Full,
}

/// What etcd said to one look on callers' behalf.
#[derive(Clone, Debug)]
struct Look {
    /// None when it did not answer.
    running: Option<Running>,
    /// What it remembers of boots.
    remembers: Vec<Remembered>,
}

/// What the server answers from.
#[derive(Debug)]
pub struct Desk {
    /// The node's etcd.
    pub etcd: Etcd,
    /// Snapshots of it.
    pub(crate) snapshots: Snapshots,
    /// What was heard of the boots of others.
    pub(crate) witness: Arc<Witness>,
    seat: Mutex<Option<Seat>>,
    reach: Mutex<Option<Reach>>,
    hearing: Mutex<Hearing>,
    /// For who wants to know how this node is.
    looks: Shared<Look>,
    /// And for who wants to know whom its etcd has not heard of as well.
    full_looks: Shared<Look>,
    refused: Mutex<HashMap<Fqdn, (String, Instant)>>,
    /// One grant at a time in this agent; between agents the lock in etcd does the same.
    pub(crate) granting: tokio::sync::Mutex<()>,
}

impl Desk {
    /// A desk nobody has written to yet. Snapshots go to that directory.
    pub fn new(etcd: Etcd, snapshots: PathBuf) -> Self {
        let patience = etcd.patience;
        Self {
            etcd,
            snapshots: Snapshots::new(snapshots),
            witness: Arc::default(),
            seat: Mutex::new(None),
            reach: Mutex::new(None),
            hearing: Mutex::new(Hearing::default()),
            looks: Shared::resting(longest_rest(Extent::Brief, patience)),
            full_looks: Shared::resting(longest_rest(Extent::Full, patience)),
            refused: Mutex::new(HashMap::new()),
            granting: tokio::sync::Mutex::new(()),
        }
    }

    /// Until when a look for this agent's own decisions that begins now may take.
    pub(crate) fn thorough(&self) -> Deadline {
        Deadline::now() + THOROUGH * self.etcd.patience
    }

    /// Tells where the node stands. Called before an act that changes the answer, so that no caller hears of a blank volume that
    /// is about to hold data.
    pub fn write(&self, seat: Seat) {
        *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = Some(seat);
    }

    /// Where the node stands.
    pub fn seat(&self) -> Option<Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands it the way to the others, as of this round.
    pub fn equip(&self, reach: Reach) {
        *self.reach.lock().unwrap_or_else(PoisonError::into_inner) = Some(reach);
    }

    /// The way to the others; none before there is a certificate.
    pub fn reach(&self) -> Option<Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The status right now: `Running` only when etcd answered just now, to a look that began after this call. What it could not tell in
    /// time is not known of it: a read that is still waiting for a quorum leaves it running, and not serving.
    pub(crate) async fn status(&self, extent: Extent) -> Option<NodeStatus> {
        let seat = self.seat()?;
        let mut status = seat.status;
        status.remembers = self.witness.all();
        let halted = matches!(status.holds, Holds::Unknown);
        if let (Some(lineage), false) = (seat.lineage, halted) {
            let looks = match extent {
                Extent::Brief => &self.looks,
                Extent::Full => &self.full_looks,
            };
            let look = looks.get(self.look(extent, lineage, &seat.charter, &seat.own)).await;
            // What this agent heard itself stands beside it; whoever reads them looks for the worst.
            status.remembers.extend(look.remembers);
            // A look that another caller began may be at what this node held before.
            let running = look.running.filter(|running| running.lineage == lineage);
            status.holds = running.map_or(Holds::Data { lineage }, Holds::Running);
        }
        Some(status)
    }

    async fn look(&self, extent: Extent, lineage: Id128, charter: &Charter, own: &Fqdn) -> Look {
        // One limit for all that is asked.
        let limit = Deadline::now() + fresh(extent, self.etcd.patience);
        let running = match extent {
            Extent::Brief => running(&self.etcd, lineage, limit).await,
            Extent::Full => self.running(lineage, limit).await,
        };
        let mut remembers = Vec::new();
        if running.as_ref().is_some_and(|running| running.linearizable) {
            remembers = timeout_at(limit, boots::recorded(&self.etcd, charter, own)).await.unwrap_or_default();
        }
        Look { running, remembers }
    }

    /// What etcd says until then, the members it has not heard of included; none when it does not answer.
    pub async fn running(&self, lineage: Id128, limit: Deadline) -> Option<Running> {
        let mut running = running(&self.etcd, lineage, limit).await?;
        // Who asks needs it of one that serves only. Without a look just now nothing is known of its connections.
        if running.linearizable && matches!(timeout_at(limit, self.listen()).await, Ok(Ok(()))) {
            let members =
                timeout_at(limit, self.etcd.members()).await.map_or_else(|_| Vec::new(), Result::unwrap_or_default);
            running.unheard = self.unheard(members.iter().map(|m| m.id).filter(|id| *id != running.member));
        }
        Some(running)
    }

    /// Looks at etcd's connections and keeps what was seen.
    ///
    /// # Errors
    /// When etcd does not tell.
    pub async fn listen(&self) -> Result<()> {
        let look = metrics::look(self.etcd.patience).await?;
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner).note(look, clock::monotonic());
        Ok(())
    }

    /// How long ago the last look at etcd's connections was.
    pub(crate) fn quiet_for(&self) -> Option<Duration> {
        let hearing = self.hearing.lock().unwrap_or_else(PoisonError::into_inner);
        hearing.last_look().map(|at| clock::monotonic().duration_since(at))
    }

    fn unheard(&self, others: impl IntoIterator<Item = RaftId>) -> Vec<Unheard> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner).unheard(others)
    }

    /// The cluster's version, as etcd last told it.
    pub(crate) fn cluster_version(&self) -> Option<EtcdVersion> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner).cluster_version()
    }

    /// Whether a refusal is worth being noted: a node that is refused asks again every second. Another reason is noted after ten
    /// seconds, the same one after ten minutes.
    pub(crate) fn refuses_anew(&self, caller: &Fqdn, reason: &str) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::monotonic();
        let known = refused.get(caller).is_some_and(|(before, at)| {
            now.duration_since(*at) < if before == reason { SAME_REFUSAL } else { OTHER_REFUSAL }
        });
        if !known {
            refused.insert(caller.clone(), (reason.to_owned(), now));
        }
        !known
    }

    async fn tell(&self, extent: Extent) -> Answer {
        match self.status(extent).await {
            Some(status) => Answer::Status(Box::new(status)),
            None => Answer::RetryAfter { millis: 500, reason: "this agent has just started".into() },
        }
    }

    /// Answers one request of an authenticated caller.
    pub async fn answer(self: &Arc<Self>, role: &Role, remote: IpAddr, ask: Ask) -> Answer {
        match (ask, role) {
            (Ask::Status, Role::Peer(_)) => self.tell(Extent::Full).await,
            (Ask::Status, Role::Operator) => self.tell(Extent::Brief).await,
            (Ask::Greet(BootRecord { instance, boot_counter, boot_id }), Role::Peer(caller)) => {
                self.witness.note(Remembered { fqdn: caller.clone(), instance, boot_counter, boot_id });
                self.tell(Extent::Brief).await
            }
            (Ask::Join(request), Role::Peer(caller)) => grantor::grant(self, caller, remote, &request).await,
            (Ask::Greet(_) | Ask::Join(_), Role::Operator) => Answer::Refused {
                reason: "an operator's certificate may ask for the status only".into(),
                hint: "a node joins by itself when it boots with its seed".into(),
            },
        }
    }
}

/// How long a look may take while callers wait. One at etcd's connections takes longer than all else where etcd is slow, and the peers who ask
/// for it wait the longer for that: for two looks and the rest between them.
fn fresh(extent: Extent, patience: u32) -> Duration {
    match extent {
        Extent::Brief => FRESH * patience,
        Extent::Full => (STATUS_LIMIT * patience).saturating_sub(longest_rest(extent, patience) + WAY) / 2,
    }
}

/// The longest rest between two of them. What a look at the connections needs is not spent on resting.
fn longest_rest(extent: Extent, patience: u32) -> Duration {
    match extent {
        Extent::Brief => REST * patience,
        Extent::Full => REST,
    }
}

/// What etcd says of itself until then, its connections aside; none when it does not answer.
pub async fn running(etcd: &Etcd, lineage: Id128, limit: Deadline) -> Option<Running> {
    let status = timeout_at(limit, etcd.status()).await.ok()?.ok()?;
    let read = async {
        // A learner refuses linearizable reads; without a leader they only run into the time limit.
        if status.learner || status.leader.is_none() {
            return None;
        }
        let (_, revision) = etcd.read("/kiln/activated").await.ok()?;
        // The read has made this member apply every alarm that was raised before it. Alarms that nobody could tell of must not read as none:
        // that counts as no quorum.
        Some((revision, etcd.status().await.ok()?.alarms))
    };
    let read = timeout_at(limit, read).await.ok().flatten();
    let linearizable = read.is_some();
    let (revision, alarms) = read.unwrap_or_default();
    Some(Running {
        lineage,
        raft_cluster: status.raft_cluster,
        member: status.member,
        learner: status.learner,
        leader: status.leader,
        linearizable,
        applied_index: status.applied_index,
        revision,
        alarms,
        unheard: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_waits_for_two_looks_and_the_rest_between_them() {
        assert_eq!(
            [1, 2, 3].map(|patience| fresh(Extent::Full, patience)),
            [1500, 4000, 6500].map(Duration::from_millis)
        );
        for patience in 1..=3 {
            for extent in [Extent::Brief, Extent::Full] {
                assert!(
                    fresh(extent, patience) * 2 + longest_rest(extent, patience) < STATUS_LIMIT * patience,
                    "{extent:?} {patience}"
                );
            }
        }
    }
}
