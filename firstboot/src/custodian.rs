//! The leader's agent looks after the cluster: promotes learners as soon as etcd accepts them, and activates a complete one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::agent::desk::{Desk, Seat};
use crate::clock;
use crate::custody::{complete, hopeless, promotable};
use crate::digest::Id128;
use crate::etcd::{Created, EtcdStatus};
use crate::fault::{Point, cut};
use crate::journal;
use crate::record::{ACTIVATED, ActivationRecord, LINEAGE, LineageRecord, MemberRecord, member_key};
use crate::state::RaftId;

/// Between two looks while the cluster forms: what a learner waits for at most after it has caught up.
const FORMING: Duration = Duration::from_millis(200);
/// Between two looks at an activated cluster.
const SETTLED: Duration = Duration::from_secs(2);

/// Looks for ever. Every agent runs this; only the one whose etcd leads acts.
pub async fn tend(desk: Arc<Desk>) {
    let mut custodian = Custodian { learners: HashMap::new(), recorded: false, activated: false };
    loop {
        if let Some(seat) = desk.seat()
            && let Some(lineage) = seat.lineage
            && let Ok(status) = desk.etcd.status().await
            && status.leader == Some(status.member)
            && let Err(e) = custodian.look(&desk, &seat, lineage, &status).await
        {
            log::debug!("looking after the cluster: {e:#}");
        }
        sleep(if custodian.activated { SETTLED } else { FORMING }).await;
    }
}

struct Custodian {
    /// Since when this agent has seen them as learners.
    learners: HashMap<RaftId, Instant>,
    recorded: bool,
    activated: bool,
}

impl Custodian {
    async fn look(&mut self, desk: &Desk, seat: &Seat, lineage: Id128, status: &EtcdStatus) -> Result<()> {
        if !self.recorded {
            record(desk, seat, lineage, status).await?;
            self.recorded = true;
        }
        let members = desk.etcd.members().await?;
        let now = clock::monotonic();
        self.learners.retain(|id, _| members.iter().any(|m| m.id == *id && m.learner));
        for member in members.iter().filter(|m| m.learner) {
            self.learners.entry(member.id).or_insert(now);
        }
        for member in promotable(&members, &seat.charter) {
            match desk.etcd.promote(member).await {
                Ok(()) => {
                    cut(Point::Promoted);
                    let text = format!("member {member} has caught up and votes now");
                    journal::tell(&journal::PROMOTED, &text, &[("KILN_MEMBER", &member.to_string())]);
                }
                Err(e) => log::debug!("{e:#}"),
            }
        }
        let learners = &self.learners;
        let since = |id: RaftId| learners.get(&id).map_or(0, |first| now.duration_since(*first).as_secs());
        for member in hopeless(&members, &seat.charter, since) {
            journal::tell(&journal::NOTICE, &format!("learner {member} never caught up; its place is given up"), &[]);
            desk.etcd.remove(member).await?;
        }
        if !self.activated && complete(&desk.etcd.members().await?, &seat.charter) {
            cut(Point::Complete);
            let record = ActivationRecord { lineage, by: seat.own.clone(), at: clock::now() };
            desk.etcd.create(ACTIVATED, serde_json::to_vec(&record)?).await?;
            cut(Point::Activated);
            self.activated = true;
        }
        Ok(())
    }
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
