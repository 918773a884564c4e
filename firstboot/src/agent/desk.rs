//! What this agent tells others, and what it does for them.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use crate::agent::grantor;
use crate::agent::reach::Reach;
use crate::charter::Charter;
use crate::digest::Id128;
use crate::etcd::Etcd;
use crate::message::{Answer, Ask, Holds, NodeStatus, Running};
use crate::name::Fqdn;
use crate::tls::Role;
use crate::version::EtcdVersion;

/// How long a fresh look at etcd may take while a caller waits for the status.
const FRESH: Duration = Duration::from_millis(1500);

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

/// What the server answers from.
#[derive(Debug)]
pub struct Desk {
    /// The node's etcd.
    pub etcd: Etcd,
    seat: Mutex<Option<Seat>>,
    reach: Mutex<Option<Reach>>,
    /// One grant at a time in this agent; between agents the lock in etcd does the same.
    pub(crate) granting: tokio::sync::Mutex<()>,
}

impl Desk {
    /// A desk nobody has written to yet.
    pub fn new(etcd: Etcd) -> Self {
        Self { etcd, seat: Mutex::new(None), reach: Mutex::new(None), granting: tokio::sync::Mutex::new(()) }
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

    /// The status right now: `Running` only when etcd answered just now.
    pub async fn status(&self) -> Option<NodeStatus> {
        let seat = self.seat()?;
        let mut status = seat.status;
        let halted = matches!(status.holds, Holds::Unknown);
        if let (Some(lineage), false) = (seat.lineage, halted) {
            let running = timeout(FRESH, running(&self.etcd, lineage)).await.ok().flatten();
            status.holds = running.map_or(Holds::Data { lineage }, Holds::Running);
        }
        Some(status)
    }

    /// Answers one request of an authenticated caller.
    pub async fn answer(&self, role: &Role, remote: IpAddr, ask: Ask) -> Answer {
        match (ask, role) {
            (Ask::Status, _) => match self.status().await {
                Some(status) => Answer::Status(Box::new(status)),
                None => Answer::RetryAfter { millis: 500, reason: "this agent has just started".into() },
            },
            (Ask::Join(request), Role::Peer(caller)) => grantor::grant(self, caller, remote, &request).await,
            (Ask::Join(_), Role::Operator) => Answer::Refused {
                reason: "an operator's certificate may ask for the status only".into(),
                hint: "a node joins by itself when it boots with its seed".into(),
            },
        }
    }
}

/// What etcd says right now; none when it does not answer.
pub async fn running(etcd: &Etcd, lineage: Id128) -> Option<Running> {
    let status = etcd.status().await.ok()?;
    // A learner refuses linearizable reads; without a leader they only run into the time limit.
    let read = if status.learner || status.leader.is_none() { None } else { etcd.read("/kiln/activated").await.ok() };
    let alarms = match &read {
        Some(_) => etcd.alarms().await.unwrap_or_default(),
        None => Vec::new(),
    };
    Some(Running {
        lineage,
        raft_cluster: status.raft_cluster,
        member: status.member,
        learner: status.learner,
        leader: status.leader,
        linearizable: read.is_some(),
        applied_index: status.applied_index,
        revision: read.map_or(0, |(_, revision)| revision),
        alarms,
        unheard: Vec::new(),
    })
}
