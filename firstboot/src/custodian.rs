//! The leader's agent looks after the cluster: promotes learners that hold what the leader holds as soon as etcd accepts them, removes
//! those that differ or never catch up, and activates a complete cluster. A new leader's agent begins anew with what it sees.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::agent::desk::{Desk, Seat};
use crate::agent::reach::Reach;
use crate::charter::Charter;
use crate::custody::{KvHash, LEARNER_PATIENCE_SECS, Verdict, compare, complete, hopeless, promotable};
use crate::digest::Id128;
use crate::etcd::{Created, Etcd, EtcdStatus};
use crate::fault::{Point, cut};
use crate::name::Fqdn;
use crate::record::{ACTIVATED, ActivationRecord, Audit, LINEAGE, LineageRecord, MemberRecord, audit_key, member_key};
use crate::rest::{self, rest, sparing};
use crate::state::RaftId;
use crate::{clock, fault, journal, peer_hash};

/// Between two looks while the cluster forms: what a learner waits for at most after it has caught up.
const FORMING: Duration = Duration::from_millis(200);
/// Between two looks at an activated cluster, or at who leads it while another does.
const SETTLED: Duration = Duration::from_secs(2);
/// And at most where etcd is slow to answer.
const SLOWLY: Duration = Duration::from_secs(5);

/// How long one look waits for a learner's hash; a small store has it within milliseconds, a large one by a later look.
const AT_ONCE: Duration = Duration::from_secs(1);
/// For how long an equal store stays proven while etcd still finds the learner's log too far behind. Then it is hashed again.
const EQUAL_FOR: Duration = Duration::from_secs(10);
/// A learner that cannot be asked for this long is told of.
const COMPLAIN_AFTER: Duration = Duration::from_secs(10);

/// Looks for ever. Every agent runs this; only the one whose etcd leads acts.
pub async fn tend(desk: Arc<Desk>) {
    let mut custodian = Custodian { learners: HashMap::new(), recorded: false, activated: false };
    loop {
        let began = clock::monotonic();
        let mut settled = custodian.activated;
        if let Some(seat) = desk.seat()
            && let Some(lineage) = seat.lineage
            && let Ok(status) = desk.etcd.status().await
        {
            if status.leader != Some(status.member) {
                // Where another leads, its agent looks after the cluster.
                settled |= status.leader.is_some();
            } else if let Err(e) = custodian.look(&desk, &seat, lineage, &status).await {
                log::debug!("looking after the cluster: {e:#}");
            }
        }
        let took = clock::monotonic().duration_since(began);
        sleep(if settled { sparing(SETTLED, took, SLOWLY) } else { rest(FORMING, took, rest::LONGEST) }).await;
    }
}

struct Custodian {
    /// The learners there are, as this agent has come to know them.
    learners: HashMap<RaftId, Learner>,
    recorded: bool,
    activated: bool,
}

/// What this agent knows of a learner.
struct Learner {
    /// Since when it has seen it.
    since: Instant,
    /// Our own hash, which it has not reached yet. Kept, for under constant writes it never catches up with a fresh one.
    own: Option<KvHash>,
    /// The question on its way.
    asking: Option<JoinHandle<Result<(KvHash, Verdict)>>>,
    /// How often in a row its store differed.
    differed: u8,
    /// Until when its store counts as equal.
    equal_until: Option<Instant>,
    /// That it cannot be asked was told.
    told: bool,
}

impl Custodian {
    async fn look(&mut self, desk: &Desk, seat: &Seat, lineage: Id128, status: &EtcdStatus) -> Result<()> {
        if !self.recorded {
            record(desk, seat, lineage, status).await?;
            self.recorded = true;
        }
        let mut members = desk.etcd.members().await?;
        let now = clock::monotonic();
        self.learners.retain(|id, _| members.iter().any(|m| m.id == *id && m.learner));
        for member in members.iter().filter(|m| m.learner) {
            self.learners.entry(member.id).or_insert_with(|| Learner::seen_first(now));
        }
        for (member, fqdn) in promotable(&members, &seat.charter) {
            let Some(learner) = self.learners.get_mut(&member) else { continue };
            match learner.verdict(desk, seat, status.raft_cluster, &fqdn).await {
                Some(Verdict::Equal) => {
                    promote(desk, seat, &fqdn, member).await?;
                    members = desk.etcd.members().await?;
                }
                Some(Verdict::Differs) => refuse(desk, seat, &fqdn, member).await?,
                Some(Verdict::Later | Verdict::Anew) | None => {}
            }
        }
        let learners = &self.learners;
        let patience = fault::limit("KILN_LEARNER_PATIENCE", LEARNER_PATIENCE_SECS);
        let since = |id: RaftId| learners.get(&id).map_or(0, |known| now.duration_since(known.since).as_secs());
        for (member, fqdn) in hopeless(&members, &seat.charter, patience, since) {
            desk.etcd.remove(member).await?;
            journal::tell(&journal::NOTICE, &format!("learner {member} never caught up; its place is given up"), &[]);
            audit(desk, seat, "remove-learner", &fqdn, member).await?;
        }
        if !self.activated && complete(&members, &seat.charter) {
            cut(Point::Complete);
            let record = ActivationRecord { lineage, by: seat.own.clone(), at: clock::now() };
            desk.etcd.create(ACTIVATED, serde_json::to_vec(&record)?).await?;
            cut(Point::Activated);
            self.activated = true;
        }
        Ok(())
    }
}

impl Learner {
    fn seen_first(now: Instant) -> Self {
        Self { since: now, own: None, asking: None, differed: 0, equal_until: None, told: false }
    }

    /// Whether its store is ours; none while that is not known. Differing counts when it was seen twice, the second time against a
    /// fresh hash of ours: a learner is removed on it.
    async fn verdict(&mut self, desk: &Desk, seat: &Seat, raft_cluster: RaftId, fqdn: &Fqdn) -> Option<Verdict> {
        let now = clock::monotonic();
        if self.equal_until.is_some_and(|until| now < until) {
            return Some(Verdict::Equal);
        }
        let mut asking = match self.asking.take() {
            Some(asking) => asking,
            None => {
                let (etcd, reach, charter) = (desk.etcd.clone(), desk.reach()?, seat.charter.clone());
                tokio::spawn(compare_stores(etcd, reach, charter, raft_cluster, fqdn.clone(), self.own))
            }
        };
        let Ok(answer) = timeout(AT_ONCE, &mut asking).await else {
            self.asking = Some(asking);
            return None;
        };
        let (own, verdict) = match answer {
            Ok(Ok(compared)) => compared,
            Ok(Err(e)) => {
                self.complain(now, fqdn, &format!("{e:#}"));
                return None;
            }
            Err(e) => {
                self.complain(now, fqdn, &e.to_string());
                return None;
            }
        };
        self.own = (verdict == Verdict::Later).then_some(own);
        self.differed = if verdict == Verdict::Differs { self.differed + 1 } else { 0 };
        match verdict {
            Verdict::Equal => {
                self.equal_until = Some(now + EQUAL_FOR);
                Some(verdict)
            }
            Verdict::Differs => (self.differed >= 2).then_some(verdict),
            Verdict::Later | Verdict::Anew => Some(verdict),
        }
    }

    /// Tells, once, that a learner cannot be asked. In its first seconds that is nothing special.
    fn complain(&mut self, now: Instant, fqdn: &Fqdn, why: &str) {
        log::debug!("comparing the store of {fqdn} with ours: {why}");
        if !self.told && now.duration_since(self.since) > COMPLAIN_AFTER {
            let text =
                format!("{fqdn} stays a learner until its store can be compared with the leader's, which fails: {why}");
            journal::tell(&journal::NOTICE, &text, &[("KILN_PEER", fqdn.as_str())]);
            self.told = true;
        }
    }
}

async fn compare_stores(
    etcd: Etcd,
    reach: Reach,
    charter: Arc<Charter>,
    raft_cluster: RaftId,
    fqdn: Fqdn,
    own: Option<KvHash>,
) -> Result<(KvHash, Verdict)> {
    let own = match own {
        Some(own) => own,
        None => etcd.hash().await?,
    };
    let addresses = reach.addresses(&charter, &fqdn).await;
    let theirs = peer_hash::ask(&reach.tls, raft_cluster, &fqdn, &addresses, own.revision).await?;
    Ok((own, compare(&own, &theirs)))
}

async fn promote(desk: &Desk, seat: &Seat, fqdn: &Fqdn, member: RaftId) -> Result<()> {
    // etcd itself judges whether the learner's log has caught up.
    if let Err(e) = desk.etcd.promote(member).await {
        log::debug!("{e:#}");
        return Ok(());
    }
    cut(Point::Promoted);
    let text = format!("member {member} has caught up, holds what the leader holds, and votes now");
    journal::tell(&journal::PROMOTED, &text, &[("KILN_MEMBER", &member.to_string())]);
    audit(desk, seat, "promote", fqdn, member).await
}

/// A learner whose store is not the leader's gets no vote: it would serve what the others do not have.
async fn refuse(desk: &Desk, seat: &Seat, fqdn: &Fqdn, member: RaftId) -> Result<()> {
    let text = format!(
        "ALARM: the store of learner {member} ({fqdn}) is not the leader's; it is not promoted but removed\n\
         hint: one of the two disks, or etcd, is damaged: compare the voters with `etcdctl endpoint hashkv --cluster`; \
         if they agree, wipe the data disk of {fqdn} on purpose"
    );
    journal::tell(
        &journal::LEARNER_DIFFERS,
        &text,
        &[("KILN_MEMBER", &member.to_string()), ("KILN_PEER", fqdn.as_str())],
    );
    desk.etcd.remove(member).await?;
    audit(desk, seat, "remove-differing-learner", fqdn, member).await
}

async fn audit(desk: &Desk, seat: &Seat, act: &str, subject: &Fqdn, member: RaftId) -> Result<()> {
    let audit = Audit {
        act: act.into(),
        by: seat.own.clone(),
        subject: subject.clone(),
        member: Some(member),
        reason: String::new(),
    };
    desk.etcd.put(&audit_key(clock::now(), act, subject), serde_json::to_vec(&audit)?).await
}

/// Says in etcd which formation this is, and with which volume the founder founded it.
async fn record(desk: &Desk, seat: &Seat, lineage: Id128, status: &EtcdStatus) -> Result<()> {
    let charter = &seat.charter;
    let ours =
        LineageRecord { cluster: charter.cluster, generation: charter.generation, lineage, charter: charter.digest() };
    if let Created::Before(bytes) = desk.etcd.create(LINEAGE, serde_json::to_vec(&ours)?).await? {
        let theirs: LineageRecord = serde_json::from_slice(&bytes)?;
        ensure!(theirs.lineage == lineage, "etcd belongs to lineage {}, this volume to {lineage}", theirs.lineage);
    }
    cut(Point::LineageRecorded);
    if let (Some(instance), true) = (seat.instance, charter.founder == seat.own) {
        let founder = MemberRecord { instance, member: status.member, since: clock::now() };
        desk.etcd.create(&member_key(&seat.own), serde_json::to_vec(&founder)?).await?;
    }
    Ok(())
}
