//! Adds a caller to the cluster: looks, lets [`crate::grant`] decide, acts, and answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::time::sleep;

use crate::agent::desk::{Desk, Seat};
use crate::agent::findings::{Caller, Findings};
use crate::agent::server::ANSWER_LIMIT;
use crate::agent::snapshot::Progress;
use crate::digest::Id128;
use crate::etcd::ListedMember;
use crate::fault::{self, Point, cut};
use crate::grant::{GrantDecision, decide_grant};
use crate::message::{Answer, Grant, JoinRequest};
use crate::name::Fqdn;
use crate::record::{Audit, LOCK, MemberRecord, REMOVE_VOTER, audit_key, member_key};
use crate::state::{InitialMember, RaftId};
use crate::version::EtcdLine;
use crate::{clock, journal};

/// The lock's lease. For liveness only: a grantor that dies delays the next one by this much.
const LOCK_SECS: u64 = 60;
/// Between removing a member and adding one under the same name: etcd hashes the Unix second into the new id, and the same
/// second gives the removed id again (etcd refuses it for ever).
const REMOVAL_GAP: Duration = Duration::from_millis(2100);
/// How long an answer waits for the other members to be added too, so that the list it carries is still true when the caller's
/// etcd compares it with the cluster's. A member that is away must not hold up the others for longer.
const LIST_PATIENCE: Duration = Duration::from_millis(2500);
/// How long an answer waits for a snapshot. A longer one goes on, and the caller asks again.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(2);
/// A removal is not begun later than this after the question, where etcd has its usual beat: the addition that has to follow shall reach a
/// caller that still waits. With the most patience it is half of [`LOCK_SECS`].
const BEGIN_WITHIN: Duration = Duration::from_secs(ANSWER_LIMIT.as_secs() / 3);

/// [`LOCK_SECS`]; tests shorten it.
fn lock_secs() -> i64 {
    i64::try_from(fault::limit("KILN_LOCK_SECS", LOCK_SECS)).unwrap_or(i64::MAX)
}

/// Grants, refuses or puts off.
///
/// Runs to its end even when the caller hangs up: what was begun is finished, and the lock given back.
pub async fn grant(desk: &Arc<Desk>, caller: &Fqdn, remote: IpAddr, request: &JoinRequest) -> Answer {
    let (desk, caller) = (desk.clone(), Caller { fqdn: caller.clone(), remote, request: request.clone() });
    let outcome = tokio::spawn(async move {
        let outcome = try_grant(&desk, &caller).await;
        if let Ok(Answer::Granted(grant)) = &outcome {
            let text = format!("added {} as learner {}", caller.fqdn, grant.member);
            journal::tell(&journal::GRANT, &text, &[("KILN_PEER", caller.fqdn.as_str()), ("KILN_ANSWER", "granted")]);
        }
        outcome
    });
    let outcome = outcome.await.context("granting").and_then(|answer| answer);
    outcome.unwrap_or_else(|e| Answer::RetryAfter { millis: 500, reason: format!("{e:#}") })
}

async fn try_grant(desk: &Desk, caller: &Caller) -> Result<Answer> {
    let later = |millis, reason: &str| Ok(Answer::RetryAfter { millis, reason: reason.into() });
    let started = clock::monotonic();
    let Some(seat) = desk.seat() else { return later(500, "this agent has just started") };
    let Some(lineage) = seat.lineage else { return later(1000, "this node is not a member yet") };
    let Ok(one_at_a_time) = desk.granting.try_lock() else { return later(200, "another node is being added") };
    let hand = Hand { desk, seat: &seat, lineage, caller, started };
    // Looked at without the lock first: a caller that has to wait asks every second, and shall cost the cluster no writes.
    if let Some(answer) = hand.prepare().await? {
        return Ok(answer);
    }
    let lock = match desk.etcd.lock(LOCK, seat.own.as_str(), lock_secs()).await? {
        Ok(lock) => lock,
        Err(holder) => return later(300, &format!("{holder} is changing the members")),
    };
    cut(Point::GrantLocked);
    let outcome = hand.under_lock().await;
    desk.etcd.unlock(lock).await;
    let (raft_cluster, member) = match outcome? {
        Ok(added) => added,
        Err(answer) => return Ok(answer),
    };
    // Given back before this wait, so that others are added meanwhile.
    drop(one_at_a_time);
    let list = settled_list(desk, &seat, member).await?;
    Ok(Answer::Granted(Grant {
        nonce: caller.request.nonce,
        lineage,
        raft_cluster,
        member,
        initial_cluster: initial_cluster(&seat, &list),
    }))
}

/// What one grant works with.
struct Hand<'a> {
    desk: &'a Desk,
    seat: &'a Seat,
    lineage: Id128,
    caller: &'a Caller,
    started: Instant,
}

impl Hand<'_> {
    async fn decide(&self) -> Result<(Findings, GrantDecision)> {
        let findings = Findings::look(self.desk, self.seat, self.lineage, self.caller).await?;
        let decision = decide_grant(&findings.observation(self.seat, self.caller));
        Ok((findings, decision))
    }

    /// Answers a caller that gets no place now; nothing when it does, and then a snapshot lies ready if one is needed.
    async fn prepare(&self) -> Result<Option<Answer>> {
        let (findings, decision) = self.decide().await?;
        match decision {
            GrantDecision::Add | GrantDecision::RemoveLearner { .. } | GrantDecision::RemoveVoter { .. } => Ok(None),
            GrantDecision::TakeSnapshot => self.take_snapshot().await,
            GrantDecision::RetryAfter { millis, reason } => Ok(Some(Answer::RetryAfter { millis, reason })),
            GrantDecision::Refuse { reason, hint } => {
                self.refuse(&findings, None, &reason).await;
                Ok(Some(Answer::Refused { reason, hint }))
            }
            GrantDecision::Duplicate { member, reason, hint } => {
                self.refuse(&findings, Some(member), &reason).await;
                Ok(Some(Answer::Refused { reason, hint }))
            }
        }
    }

    async fn take_snapshot(&self) -> Result<Option<Answer>> {
        let later = |millis, reason| Ok(Some(Answer::RetryAfter { millis, reason }));
        match self.desk.snapshots.take(&self.desk.etcd, SNAPSHOT_PATIENCE).await {
            Progress::Taking => {
                later(1000, "all is in order; a snapshot is being taken before the old voter is removed".into())
            }
            Progress::Failed(why) => later(5000, format!("no snapshot could be taken before the removal: {why}")),
            Progress::Verified => {
                let revision = self.desk.snapshots.last().map_or(0, |snapshot| snapshot.revision).to_string();
                let text = format!("took and verified a snapshot, for {} to be replaced", self.caller.fqdn);
                journal::tell(&journal::SNAPSHOT, &text, &[("KILN_REVISION", &revision)]);
                self.audit("snapshot", None, &format!("it has revision {revision} and all before")).await?;
                Ok(None)
            }
        }
    }

    /// The caller's fresh id with the raft cluster's, or the answer that it gets none. Everything is looked at anew after each step.
    async fn under_lock(&self) -> Result<Result<(RaftId, RaftId), Answer>> {
        loop {
            let (findings, decision) = self.decide().await?;
            match decision {
                GrantDecision::Add => {
                    return Ok(self.add().await?.map(|member| (findings.own.raft_cluster, member)));
                }
                GrantDecision::RemoveLearner { member } => {
                    self.desk.etcd.remove(member).await?;
                    self.audit("remove-learner", Some(member), "").await?;
                    cut(Point::GrantRemoved);
                    sleep(REMOVAL_GAP).await;
                }
                GrantDecision::RemoveVoter { member } => {
                    if clock::monotonic().duration_since(self.started) > BEGIN_WITHIN * self.desk.etcd.patience {
                        return Ok(Err(Answer::RetryAfter {
                            millis: 50,
                            reason: "all is in order; the old voter is removed when you ask next".into(),
                        }));
                    }
                    self.remove_voter(&findings, member).await?;
                }
                GrantDecision::TakeSnapshot => {
                    return Ok(Err(Answer::RetryAfter { millis: 50, reason: "the snapshot has become old".into() }));
                }
                GrantDecision::RetryAfter { millis, reason } => return Ok(Err(Answer::RetryAfter { millis, reason })),
                GrantDecision::Refuse { reason, hint } | GrantDecision::Duplicate { reason, hint, .. } => {
                    return Ok(Err(Answer::Refused { reason, hint }));
                }
            }
        }
    }

    /// Notes the removal first, so that no crash hides it from the rule that counts removals; then removes, if the list is still
    /// the one that was decided on.
    async fn remove_voter(&self, findings: &Findings, member: RaftId) -> Result<()> {
        let why = format!("volume {} of the same name is blank and asks for its place", self.caller.request.instance);
        self.audit(REMOVE_VOTER, Some(member), &why).await?;
        if self.desk.etcd.members().await? != findings.members {
            return Ok(());
        }
        self.desk.etcd.remove(member).await?;
        cut(Point::GrantRemoved);
        let name = &self.caller.fqdn;
        let text = format!("removed voter {member}: {name} came back with a blank volume and takes its place");
        let fields = [("KILN_PEER", name.as_str()), ("KILN_MEMBER", &member.to_string())];
        journal::tell(&journal::REMOVED, &text, &fields);
        sleep(REMOVAL_GAP).await;
        Ok(())
    }

    async fn add(&self) -> Result<Result<RaftId, Answer>> {
        let caller = &self.caller.fqdn;
        let member = match self.desk.etcd.add_learner(&caller.peer_url()).await {
            Ok(member) => member,
            // "unhealthy cluster" for the first 5 s after a reconnect, "too many learner members", an election: all pass.
            Err(etcd_client::Error::GRpcStatus(status)) => {
                return Ok(Err(Answer::RetryAfter { millis: 500, reason: status.message().to_owned() }));
            }
            Err(e) => return Err(anyhow!(e).context("adding a learner")),
        };
        cut(Point::GrantAdded);
        let record = MemberRecord { instance: self.caller.request.instance, member, since: clock::now() };
        let (audit_key, audit) = self.audited("add-learner", Some(member), "")?;
        // Patiently: a caller that is told to ask again now has its place taken away first.
        self.desk.etcd.put_all(vec![(member_key(caller), serde_json::to_vec(&record)?), (audit_key, audit)]).await?;
        cut(Point::GrantRecorded);
        Ok(Ok(member))
    }

    /// Tells of a refusal, in the journal and, when there is a quorum, in etcd; not each time that the same caller asks again.
    async fn refuse(&self, findings: &Findings, duplicate: Option<RaftId>, reason: &str) {
        let caller = &self.caller.fqdn;
        if !self.desk.refuses_anew(caller, reason) {
            return;
        }
        let text = format!("refused {caller}: {reason}");
        let act = match duplicate {
            Some(member) => {
                let fields = [("KILN_PEER", caller.as_str()), ("KILN_MEMBER", &member.to_string())];
                journal::tell(&journal::DUPLICATE, &text, &fields);
                "duplicate"
            }
            None => {
                let fields = [("KILN_PEER", caller.as_str()), ("KILN_ANSWER", "refused")];
                journal::tell(&journal::GRANT, &text, &fields);
                "refuse"
            }
        };
        if findings.serving()
            && let Err(e) = self.audit(act, duplicate, reason).await
        {
            log::debug!("noting a refusal: {e:#}");
        }
    }

    async fn audit(&self, act: &str, member: Option<RaftId>, reason: &str) -> Result<()> {
        let (key, value) = self.audited(act, member, reason)?;
        self.desk.etcd.put(&key, value).await
    }

    /// The audit key of an act, and its value.
    fn audited(&self, act: &str, member: Option<RaftId>, reason: &str) -> Result<(String, Vec<u8>)> {
        let (by, subject) = (self.seat.own.clone(), self.caller.fqdn.clone());
        let audit = Audit { act: act.into(), by, subject, member, reason: reason.into() };
        Ok((audit_key(clock::now(), act, &audit.subject), serde_json::to_vec(&audit)?))
    }
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
