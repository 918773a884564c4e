//! What a grantor looks at before it decides on a caller.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::agent::desk::{Desk, Seat};
use crate::agent::reach::Reach;
use crate::agent::voters;
use crate::digest::Id128;
use crate::etcd::ListedMember;
use crate::grant::{GrantObservation, PeerPort, Removal, SnapshotFact, Voter, is_callers};
use crate::message::{JoinRequest, Running};
use crate::name::Fqdn;
use crate::paths::PEER_PORT;
use crate::record::{AUDIT_END, MemberRecord, audit_from, member_key, parse_removal};
use crate::replacement::Limits;
use crate::version::EtcdVersion;
use crate::{clock, fault};

/// How long a connection to a peer port may take to be accepted or refused.
const PROBE: Duration = Duration::from_secs(1);
/// How far back removals are read: a day, by any clock that is at most a day off.
const REMOVALS_SECS: i64 = 2 * 24 * 3600;

/// Who asks, for what, from where.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The name in its certificate.
    pub fqdn: Fqdn,
    /// Its address.
    pub remote: IpAddr,
    /// What it asks.
    pub request: JoinRequest,
}

/// Everything seen for one decision, at one time.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The grantor's own etcd.
    pub own: Running,
    /// The member list.
    pub members: Vec<ListedMember>,
    cluster_version: Option<EtcdVersion>,
    recorded: Option<MemberRecord>,
    caller_port: PeerPort,
    voters: Vec<Voter>,
    snapshot: Option<SnapshotFact>,
    removals: Vec<Removal>,
}

impl Findings {
    /// Looks. Asks others only when a voter of the caller's name is listed.
    ///
    /// # Errors
    /// When etcd does not answer here, or loses its quorum meanwhile.
    pub async fn look(desk: &Desk, seat: &Seat, lineage: Id128, caller: &Caller) -> Result<Self> {
        let own = desk.running(lineage, desk.thorough()).await.context("etcd does not answer here")?;
        let mut findings = Self {
            cluster_version: desk.cluster_version(),
            snapshot: desk.snapshots.last(),
            members: Vec::new(),
            recorded: None,
            caller_port: PeerPort::Refuses,
            voters: Vec::new(),
            removals: Vec::new(),
            own,
        };
        if !findings.serving() {
            return Ok(findings);
        }
        findings.members = desk.etcd.members().await?;
        let Some(earlier) = findings.members.iter().find(|member| is_callers(member, &caller.fqdn)) else {
            return Ok(findings);
        };
        if earlier.learner {
            findings.caller_port = peer_port(caller.remote).await;
            return Ok(findings);
        }
        let (recorded, _) = desk.etcd.read(&member_key(&caller.fqdn)).await?;
        findings.recorded =
            recorded.map(|bytes| serde_json::from_slice(&bytes)).transpose().context("reading its record")?;
        for (key, value) in desk.etcd.range(&audit_from(clock::now() - REMOVALS_SECS), AUDIT_END).await? {
            findings.removals.extend(parse_removal(&key, &value)?);
        }
        let reach = desk.reach();
        let (port, voters) = tokio::join!(
            ports_of_name(reach.as_ref(), seat, caller),
            voters::ask(reach.as_ref(), desk.etcd.patience, seat, &findings.members, findings.own.member, &caller.fqdn)
        );
        (findings.caller_port, findings.voters) = (port, voters);
        Ok(findings)
    }

    /// The own etcd is a voter that just read linearizably.
    pub fn serving(&self) -> bool {
        self.own.linearizable && !self.own.learner
    }

    /// As the decision takes it.
    pub fn observation<'a>(&'a self, seat: &'a Seat, caller: &'a Caller) -> GrantObservation<'a> {
        GrantObservation {
            charter: &seat.charter,
            own: &seat.own,
            own_version: seat.etcd_version,
            serving: self.serving(),
            own_member: self.own.member,
            leader: self.own.leader,
            running: Some(&self.own),
            cluster_version: self.cluster_version,
            caller: &caller.fqdn,
            request: &caller.request,
            members: &self.members,
            recorded: self.recorded.as_ref(),
            caller_port: self.caller_port,
            voters: &self.voters,
            snapshot: self.snapshot,
            removals: &self.removals,
            now: clock::now(),
            limits: limits(),
        }
    }
}

/// The numbers of a replacement; tests shorten them.
fn limits() -> Limits {
    let Limits { unheard_secs, snapshot_secs, same_name_secs, lag } = Limits::DEFAULT;
    Limits {
        unheard_secs: fault::limit("KILN_UNHEARD_SECS", unheard_secs),
        snapshot_secs: fault::limit("KILN_SNAPSHOT_SECS", snapshot_secs),
        same_name_secs: fault::limit("KILN_SAME_NAME_SECS", same_name_secs),
        lag,
    }
}

/// The peer port of every address that the caller's name has. One that listens is enough to find two nodes; that nothing listens, only
/// the address that the caller itself is at can tell.
async fn ports_of_name(reach: Option<&Reach>, seat: &Seat, caller: &Caller) -> PeerPort {
    let mut addresses = seat.charter.member(&caller.fqdn).map_or_else(Vec::new, |member| member.addresses.clone());
    if let Some(reach) = reach {
        addresses.extend(reach.addresses(&seat.charter, &caller.fqdn).await);
    }
    addresses.sort_unstable();
    addresses.dedup();
    let mut probes = JoinSet::new();
    for other in addresses.into_iter().filter(|address| *address != caller.remote) {
        probes.spawn(peer_port(other));
    }
    let (own, others) = tokio::join!(peer_port(caller.remote), probes.join_all());
    if others.contains(&PeerPort::Listens) { PeerPort::Listens } else { own }
}

async fn peer_port(address: IpAddr) -> PeerPort {
    match timeout(PROBE, TcpStream::connect((address, PEER_PORT))).await {
        Ok(Ok(_)) => PeerPort::Listens,
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => PeerPort::Refuses,
        Ok(Err(_)) | Err(_) => PeerPort::Silent,
    }
}
