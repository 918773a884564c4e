//! Adds a caller to the cluster: looks, lets [`crate::grant`] decide, acts, and answers.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::agent::desk::{Desk, Seat, running};
use crate::clock;
use crate::etcd::ListedMember;
use crate::fault::{Point, cut};
use crate::grant::{GrantDecision, GrantObservation, PeerPort, decide_grant, is_callers};
use crate::journal;
use crate::message::{Answer, Grant, JoinRequest, Running};
use crate::name::Fqdn;
use crate::paths::PEER_PORT;
use crate::record::{Audit, LOCK, MemberRecord, audit_key, member_key};
use crate::replacement::Limits;
use crate::state::{InitialMember, RaftId};
use crate::version::EtcdLine;

/// The lock's lease. For liveness only: a grantor that dies delays the next one by this much.
const LOCK_SECS: i64 = 60;
/// Between removing a member and adding one under the same name: etcd hashes the Unix second into the new id, and the same
/// second gives the removed id again (etcd refuses it for ever).
const REMOVAL_GAP: Duration = Duration::from_millis(2100);
/// How long an answer waits for the other members to be added too, so that the list it carries is still true when the caller's
/// etcd compares it with the cluster's. A member that is away must not hold up the others for longer.
const LIST_PATIENCE: Duration = Duration::from_millis(2500);

/// Grants, refuses or puts off.
pub async fn grant(desk: &Desk, caller: &Fqdn, remote: IpAddr, request: &JoinRequest) -> Answer {
    let answer = match try_grant(desk, caller, remote, request).await {
        Ok(answer) => answer,
        Err(e) => Answer::RetryAfter { millis: 500, reason: format!("{e:#}") },
    };
    match &answer {
        Answer::Granted(grant) => {
            let text = format!("added {caller} as learner {}", grant.member);
            journal::tell(&journal::GRANT, &text, &[("KILN_PEER", caller.as_str()), ("KILN_ANSWER", "granted")]);
        }
        Answer::Refused { reason, .. } => {
            let text = format!("refused {caller}: {reason}");
            journal::tell(&journal::GRANT, &text, &[("KILN_PEER", caller.as_str()), ("KILN_ANSWER", "refused")]);
        }
        Answer::RetryAfter { .. } | Answer::Status(_) => {}
    }
    answer
}

async fn try_grant(desk: &Desk, caller: &Fqdn, remote: IpAddr, request: &JoinRequest) -> Result<Answer> {
    let later = |millis, reason: &str| Ok(Answer::RetryAfter { millis, reason: reason.into() });
    let Some(seat) = desk.seat() else { return later(500, "this agent has just started") };
    let Some(lineage) = seat.lineage else { return later(1000, "this node is not a member yet") };
    let Ok(_one_at_a_time) = desk.granting.try_lock() else { return later(200, "another node is being added") };
    let Some(own) = running(&desk.etcd, lineage).await else { return later(500, "etcd does not answer here") };
    let lock = match desk.etcd.lock(LOCK, seat.own.as_str(), LOCK_SECS).await? {
        Ok(lock) => lock,
        Err(holder) => return later(300, &format!("{holder} is changing the members")),
    };
    cut(Point::GrantLocked);
    let outcome = under_lock(desk, &seat, caller, remote, request, &own).await;
    desk.etcd.unlock(lock).await;
    let member = match outcome? {
        Ok(member) => member,
        Err(answer) => return Ok(answer),
    };
    // Given back before this wait, so that others are added meanwhile.
    drop(_one_at_a_time);
    let list = settled_list(desk, &seat, member).await?;
    Ok(Answer::Granted(Grant {
        nonce: request.nonce,
        lineage,
        raft_cluster: own.raft_cluster,
        member,
        initial_cluster: initial_cluster(&seat, &list),
    }))
}

/// The caller's fresh id, or the answer that it gets none.
async fn under_lock(
    desk: &Desk,
    seat: &Seat,
    caller: &Fqdn,
    remote: IpAddr,
    request: &JoinRequest,
    own: &Running,
) -> Result<Result<RaftId, Answer>> {
    let serving = own.linearizable && !own.learner;
    loop {
        let members = if serving { desk.etcd.members().await? } else { Vec::new() };
        let (recorded, _) = if serving { desk.etcd.read(&member_key(caller)).await? } else { (None, 0) };
        let recorded: Option<MemberRecord> = recorded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let listed = members.iter().any(|member| is_callers(member, caller));
        let seen = GrantObservation {
            charter: &seat.charter,
            own: &seat.own,
            own_version: seat.etcd_version,
            serving,
            own_member: own.member,
            leader: own.leader,
            running: Some(own),
            cluster_version: None,
            caller,
            request,
            members: &members,
            recorded: recorded.as_ref(),
            caller_port: if listed { peer_port(remote).await } else { PeerPort::Refuses },
            // Nobody is asked yet, so a voter stays where it is.
            voters: &[],
            snapshot: None,
            removals: &[],
            now: clock::now(),
            limits: Limits::DEFAULT,
        };
        match decide_grant(&seen) {
            GrantDecision::Add => return add(desk, seat, caller, request).await,
            GrantDecision::RemoveLearner { member } => {
                desk.etcd.remove(member).await?;
                cut(Point::GrantRemoved);
                audit(desk, seat, "remove-learner", caller, member).await?;
                sleep(REMOVAL_GAP).await;
            }
            GrantDecision::TakeSnapshot | GrantDecision::RemoveVoter { .. } => anyhow::bail!("nobody was asked"),
            GrantDecision::RetryAfter { millis, reason } => return Ok(Err(Answer::RetryAfter { millis, reason })),
            GrantDecision::Refuse { reason, hint } | GrantDecision::Duplicate { reason, hint, .. } => {
                return Ok(Err(Answer::Refused { reason, hint }));
            }
        }
    }
}

async fn add(desk: &Desk, seat: &Seat, caller: &Fqdn, request: &JoinRequest) -> Result<Result<RaftId, Answer>> {
    let member = match desk.etcd.add_learner(&caller.peer_url()).await {
        Ok(member) => member,
        // "unhealthy cluster" for the first 5 s after a reconnect, "too many learner members", an election: all pass.
        Err(etcd_client::Error::GRpcStatus(status)) => {
            return Ok(Err(Answer::RetryAfter { millis: 500, reason: status.message().to_owned() }));
        }
        Err(e) => return Err(anyhow!(e).context("adding a learner")),
    };
    cut(Point::GrantAdded);
    let record = MemberRecord { instance: request.instance, member, since: clock::now() };
    desk.etcd.put(&member_key(caller), serde_json::to_vec(&record)?).await?;
    audit(desk, seat, "add-learner", caller, member).await?;
    cut(Point::GrantRecorded);
    Ok(Ok(member))
}

async fn audit(desk: &Desk, seat: &Seat, act: &str, subject: &Fqdn, member: RaftId) -> Result<()> {
    let audit = Audit { act: act.into(), by: seat.own.clone(), subject: subject.clone(), member };
    desk.etcd.put(&audit_key(clock::now(), act, subject), serde_json::to_vec(&audit)?).await
}

/// The member list with the caller in it; where all learners are added at once, after everybody of the charter is in it.
async fn settled_list(desk: &Desk, seat: &Seat, member: RaftId) -> Result<Vec<ListedMember>> {
    let all_at_once = seat.etcd_version.line() != Some(EtcdLine::V3_5) && !seat.status.activated;
    let deadline = clock::monotonic() + LIST_PATIENCE;
    loop {
        let list = desk.etcd.members().await?;
        anyhow::ensure!(list.iter().any(|m| m.id == member), "the new member {member} is gone from the list already");
        if !all_at_once || list.len() >= seat.charter.members.len() || clock::monotonic() >= deadline {
            return Ok(list);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Names by the charter: a member that has not started has none yet, and etcd compares URLs only.
fn initial_cluster(seat: &Seat, list: &[ListedMember]) -> Vec<InitialMember> {
    let name = |url: &String| {
        let known = seat.charter.members.iter().find(|m| m.fqdn.peer_url() == *url);
        known.map_or_else(|| url.clone(), |m| m.fqdn.member_name().to_owned())
    };
    let mut members: Vec<InitialMember> = list
        .iter()
        .flat_map(|m| &m.peer_urls)
        .map(|url| InitialMember { name: name(url), peer_url: url.clone() })
        .collect();
    members.sort();
    members
}

async fn peer_port(remote: IpAddr) -> PeerPort {
    match timeout(Duration::from_secs(1), TcpStream::connect((remote, PEER_PORT))).await {
        Ok(Ok(_)) => PeerPort::Listens,
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => PeerPort::Refuses,
        Ok(Err(_)) | Err(_) => PeerPort::Silent,
    }
}
