//! Whether this volume went back in time or runs twice: its boots, as counted on it, told to others, and remembered by them and in etcd.
//!
//! Each boot counts itself on the volume, synced, before anything is told or started, and once more every few minutes while it runs, for a
//! snapshot is mostly rolled back to a moment within one long boot. So whoever remembers the same count of another boot, or a higher one,
//! has spoken with a later or a second life of this volume. What was heard once is kept for as long as the agent
//! runs: etcd is stopped on it, and then nobody can be asked again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::agent::desk::{Desk, Seat};
use crate::charter::Charter;
use crate::decision::Decision;
use crate::disk_fact::DataFact;
use crate::etcd::Etcd;
use crate::message::Remembered;
use crate::name::Fqdn;
use crate::observation::{Observation, PeerAnswer, StateView};
use crate::paths::Paths;
use crate::record::{BOOTS, BOOTS_END, BootRecord, boot_key};
use crate::refusal::Refusal;
use crate::witness::Witness;
use crate::{clock, state_file};

/// How often a running boot counts on. A volume rolled back by less is not told from its later self; each count is one small synced write.
const AGE: Duration = Duration::from_secs(300);
/// Between two tries to reach an etcd that reads linearizably; there is no last one.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two looks once this boot is written down: a copy of the volume that boots elsewhere writes itself down too.
const SETTLED: Duration = Duration::from_secs(60);

/// What etcd's record says about this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Testimony {
    /// A later or a second life of this volume wrote this count.
    Later(u64),
    /// This boot is not written down yet.
    New,
    /// It is.
    Known,
}

/// Compares the record with this boot.
pub fn testimony(recorded: Option<&BootRecord>, own: &BootRecord) -> Testimony {
    match recorded {
        // The volume before this one; it was wiped.
        Some(recorded) if recorded.instance != own.instance => Testimony::New,
        Some(recorded) if recorded == own => Testimony::Known,
        Some(recorded) if recorded.boot_counter >= own.boot_counter => Testimony::Later(recorded.boot_counter),
        Some(_) | None => Testimony::New,
    }
}

/// What this agent knows of boots: its own, and those of others, for whom it is a witness.
#[derive(Debug)]
pub(crate) struct Boots {
    /// When this agent counted last; none before it has counted this boot.
    counted: Option<Instant>,
    /// What was heard of the boots of others.
    witness: Arc<Witness>,
    /// The highest boot of this volume, another than this one, that a peer told of.
    told: Option<u64>,
    /// The same, by etcd.
    recorded: watch::Receiver<Option<u64>>,
}

impl Boots {
    /// Nothing was heard yet; starts to ask etcd, for ever.
    pub(crate) fn watch(desk: Arc<Desk>) -> Self {
        let (sender, recorded) = watch::channel(None);
        let witness = desk.witness.clone();
        tokio::spawn(tend(desk, sender));
        Self { counted: None, witness, told: None, recorded }
    }

    /// Whether this boot is counted on the volume, and may be told.
    pub(crate) fn counted(&self) -> bool {
        self.counted.is_some()
    }

    /// What a caller tells of this boot, as soon as it is counted: whoever is asked is a witness from then on.
    pub(crate) fn own(&self, seen: &Observation) -> Option<BootRecord> {
        let StateView::Read(state) = &seen.state else { return None };
        let record =
            || BootRecord { instance: state.instance, boot_counter: state.boot_counter, boot_id: seen.boot_id.clone() };
        self.counted().then(record)
    }

    /// Counts this boot on the volume, before anything is told or started, and its age every [`AGE`]; and puts what was heard of others into
    /// `seen`. On a disk that takes no more, this boot is judged by the count that it would have, and tells none.
    pub(crate) fn count(&mut self, paths: &Paths, seen: &mut Observation) {
        seen.recorded_boot = self.told.max(*self.recorded.borrow());
        let StateView::Read(state) = &mut seen.state else { return };
        // Only a state that belongs here is written to.
        let ours = matches!(&seen.data, DataFact::Mounted { label, .. } if label.instance == state.instance);
        let now = clock::monotonic();
        if !ours || self.counted.is_some_and(|counted| now.duration_since(counted) < AGE) {
            return;
        }
        let mut next = state.clone();
        next.boot_counter += 1;
        match state_file::write(paths, &next) {
            Ok(()) => self.counted = Some(now),
            // The count of a boot before this one, with this boot's id, would read like a volume that went back in time.
            Err(e) if self.counted.is_none() => log::warn!("counting this boot: {e:#}"),
            Err(e) => {
                log::warn!("counting on: {e:#}");
                return;
            }
        }
        *state = next;
    }

    /// Keeps what the peers in `seen` say of their boots.
    pub(crate) fn remember(&self, seen: &Observation) {
        for peer in &seen.peers {
            let PeerAnswer::Answered(status) = &peer.answer else { continue };
            let Some(instance) = status.instance else { continue };
            let (boot_counter, boot_id) = (status.boot_counter, status.boot_id.clone());
            self.witness.note(Remembered { fqdn: peer.fqdn.clone(), instance, boot_counter, boot_id });
        }
    }

    /// Keeps the testimony that led to `decision`, if one did.
    pub(crate) fn heed(&mut self, decision: &Decision) {
        if let Decision::Halt(Refusal::RolledBack { remembered, .. }) = decision {
            self.told = self.told.max(Some(*remembered));
        }
    }
}

/// What etcd remembers of the other members' boots: a member whose own etcd does not come up any more hears it from those that serve.
/// Of what this one has applied: to be asked right after a linearizable read. What cannot be read is left out.
pub(crate) async fn recorded(etcd: &Etcd, charter: &Charter, own: &Fqdn) -> Vec<Remembered> {
    let records = etcd.range_applied(BOOTS, BOOTS_END).await.unwrap_or_default();
    let others = charter.members.iter().map(|member| &member.fqdn).filter(|fqdn| *fqdn != own);
    others
        .filter_map(|fqdn| {
            let (_, value) = records.iter().find(|(key, _)| *key == boot_key(fqdn).into_bytes())?;
            let BootRecord { instance, boot_counter, boot_id } = serde_json::from_slice(value).ok()?;
            Some(Remembered { fqdn: fqdn.clone(), instance, boot_counter, boot_id })
        })
        .collect()
}

/// Reads etcd's record of this volume as soon as that is possible, and writes this boot down.
async fn tend(desk: Arc<Desk>, told: watch::Sender<Option<u64>>) {
    loop {
        let mut pause = AGAIN;
        if let Some((seat, own)) = desk.seat().and_then(|seat| own(&seat).map(|own| (seat, own))) {
            match ask(&desk.etcd, &seat.own, &own).await {
                Ok(Testimony::Later(count)) => {
                    told.send_if_modified(|told| {
                        let more = Some(count) > *told;
                        *told = (*told).max(Some(count));
                        more
                    });
                }
                Ok(Testimony::Known) => pause = SETTLED,
                // Written by nobody, or not by us: looked at again.
                Ok(Testimony::New) => {}
                Err(e) => log::debug!("asking etcd for the boots of this volume: {e:#}"),
            }
        }
        sleep(pause).await;
    }
}

/// This boot; none while the volume is not a member's.
fn own(seat: &Seat) -> Option<BootRecord> {
    seat.lineage?;
    let boot_counter = Some(seat.status.boot_counter).filter(|counter| *counter > 0)?;
    Some(BootRecord { instance: seat.instance?, boot_counter, boot_id: seat.status.boot_id.clone() })
}

async fn ask(etcd: &Etcd, fqdn: &Fqdn, own: &BootRecord) -> Result<Testimony> {
    let key = boot_key(fqdn);
    let (value, revision) = etcd.read_versioned(&key).await?;
    let recorded: Option<BootRecord> = match value {
        Some(value) => Some(serde_json::from_slice(&value).with_context(|| format!("understanding `{key}`"))?),
        None => None,
    };
    let testimony = testimony(recorded.as_ref(), own);
    let written = testimony == Testimony::New && etcd.replace(&key, revision, serde_json::to_vec(own)?).await?;
    Ok(if written { Testimony::Known } else { testimony })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::decide;
    use crate::digest::Id128;
    use crate::sample;
    use crate::state::RaftId;

    fn record(instance: u8, boot_counter: u64, boot: &str) -> BootRecord {
        BootRecord { instance: Id128([instance; 16]), boot_counter, boot_id: boot.into() }
    }

    /// C5: a boot that a full disk cannot count is no rolled back one, and no peer is told that it were.
    #[test]
    fn c05_a_boot_that_cannot_be_counted_is_told_to_nobody() {
        let scratch = tempfile::tempdir().unwrap();
        let paths = Paths::new(scratch.path());
        let mut boots = Boots { counted: None, witness: Arc::default(), told: None, recorded: watch::channel(None).1 };
        // There is no directory for the state yet: nothing can be written.
        let mut seen = sample::observation(1, 3).in_phase(sample::member()).with_wal((RaftId(0xa), RaftId(0xc)));
        let before = Remembered {
            fqdn: sample::fqdn(1),
            instance: sample::INSTANCE,
            boot_counter: seen.state_mut().boot_counter,
            boot_id: "the boot before".into(),
        };
        seen.peer_status(2).remembers = vec![before];
        boots.count(&paths, &mut seen);
        assert_eq!(seen.state_mut().boot_counter, 2);
        assert!(matches!(decide(&seen), Decision::Restart { .. }), "{:?}", decide(&seen));
        assert!(!boots.counted());

        fs_err::create_dir_all(paths.state_dir()).unwrap();
        seen.state_mut().boot_counter = 1;
        boots.count(&paths, &mut seen);
        assert!(boots.counted() && state_file::read(&paths) == seen.state);
    }

    #[test]
    fn c17_knows_a_later_and_a_second_life_from_an_earlier_one() {
        let own = record(1, 7, "this");
        let says = |recorded: BootRecord| testimony(Some(&recorded), &own);
        assert_eq!(testimony(None, &own), Testimony::New);
        assert_eq!(says(own.clone()), Testimony::Known);
        assert_eq!(says(record(1, 6, "before")), Testimony::New);
        assert_eq!(says(record(1, 6, "this")), Testimony::New, "it counted on within one boot");
        assert_eq!(says(record(1, 8, "later")), Testimony::Later(8), "rolled back by several boots");
        assert_eq!(says(record(1, 7, "other")), Testimony::Later(7), "rolled back by one boot, or a clone");
        assert_eq!(says(record(2, 9, "other")), Testimony::New, "the volume was wiped since");
    }
}
