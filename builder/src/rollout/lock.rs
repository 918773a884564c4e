//! One operator at a time: a key in etcd on a lease, which a thread keeps alive.
//!
//! The lock is for order; what makes it safe is that every write of the record is guarded by the very key: an operator whose lease has ended,
//! knowing it or not, writes nothing any more, and what is not written is not done.
#![expect(clippy::disallowed_methods, reason = "an edge: a lease is a matter of time")]

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use kiln_firstboot::cluster::EtcdSettings;
use kiln_firstboot::digest::Id128;
use serde::{Deserialize, Serialize};

use super::record::LOCK;
use crate::cluster_client::{ClusterClient, Guard, Revision};

/// How long a lock outlives its operator, at least. Longer than an election and a few lost connections take together, so that a working operator
/// keeps it through a move of leadership; short enough for a second one to wait for.
const TTL: Duration = Duration::from_secs(20);
/// And so many election timeouts, where those are long: one passes before anybody stands, another while the votes are split.
const TIMEOUTS: u32 = 6;
/// How often it is renewed: three may fail in a row.
const EVERY: Duration = Duration::from_secs(5);
/// How much earlier than etcd its operator takes it for lost: clocks run at different speeds, but not that different.
const MARGIN: Duration = Duration::from_secs(2);

/// Who has the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Who.
    pub operator: String,
    /// Since when, Unix seconds.
    pub since: i64,
    /// Tells this taking from all others.
    pub token: Id128,
}

/// The lock, held. Dropping it gives it back.
#[derive(Debug)]
pub struct Lock {
    client: ClusterClient,
    lease: i64,
    created: i64,
    pulse: Arc<Pulse>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Pulse {
    ttl: Duration,
    beat: Mutex<Beat>,
    changed: Condvar,
}

#[derive(Debug)]
struct Beat {
    until: Instant,
    ended: bool,
}

impl Lock {
    /// Takes the lock, or tells who has it. It outlives its operator by `ttl`.
    ///
    /// # Errors
    /// When there is no quorum.
    pub fn take(client: &ClusterClient, operator: &str, ttl: Duration, now: i64) -> Result<Result<Self, Holder>> {
        let token = Id128::random().map_err(|_| anyhow!("the system gives no random numbers"))?;
        let holder = Holder { operator: operator.to_owned(), since: now, token };
        let asked = Instant::now();
        let lease = client.grant(i64::try_from(ttl.as_secs())?)?;
        let free = Guard { key: LOCK.into(), revision: Revision::Created(0) };
        let written = client.write(LOCK, &serde_json::to_vec(&holder)?, &[free], Some(lease));
        let created = match written {
            Ok(Some(revision)) => revision,
            // Somebody has it; or it is our own write, the answer to which was lost.
            Ok(None) | Err(_) => match holder_of(client) {
                Ok(Some((found, revision))) if found.token == token => revision,
                Ok(Some((found, _))) => {
                    give_back(client, lease);
                    return Ok(Err(found));
                }
                Ok(None) => {
                    give_back(client, lease);
                    return Err(anyhow!("the lock was given back just now")).context("taking the lock of the rollout");
                }
                Err(error) => {
                    give_back(client, lease);
                    return Err(error);
                }
            },
        };
        let beat = Beat { until: asked + ttl - MARGIN, ended: false };
        let pulse = Arc::new(Pulse { ttl, beat: Mutex::new(beat), changed: Condvar::new() });
        let thread = {
            let (client, pulse) = (client.clone(), pulse.clone());
            std::thread::Builder::new().name("lease".into()).spawn(move || pulse.keep_alive(&client, lease))?
        };
        Ok(Ok(Self { client: client.clone(), lease, created, pulse, thread: Some(thread) }))
    }

    /// Whether it is held for certain, now.
    pub fn is_held(&self) -> bool {
        let beat = self.pulse.beat.lock().unwrap_or_else(PoisonError::into_inner);
        !beat.ended && Instant::now() < beat.until
    }

    /// Whether the key is still the one that was taken, as etcd tells: it is gone once the lease has ended, or somebody has deleted it.
    ///
    /// # Errors
    /// When there is no quorum.
    pub fn is_there(&self) -> Result<bool> {
        Ok(self.client.read(LOCK)?.is_some_and(|found| found.create_revision == self.created))
    }

    /// What lets a write through only while it is held.
    pub fn guard(&self) -> Guard {
        Guard { key: LOCK.into(), revision: Revision::Created(self.created) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.pulse.beat.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.pulse.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: a lease that could not be renewed ends by itself.
            let _ = thread.join();
        }
        give_back(&self.client, self.lease);
    }
}

impl Pulse {
    fn keep_alive(&self, client: &ClusterClient, lease: i64) {
        loop {
            let beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.changed.wait_timeout_while(beat, EVERY, |beat| !beat.ended);
            if waited.unwrap_or_else(PoisonError::into_inner).0.ended {
                return;
            }
            let asked = Instant::now();
            let renewed = client.keep_alive(lease);
            let mut beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
            match renewed {
                Ok(true) => beat.until = asked + self.ttl - MARGIN,
                Ok(false) => {
                    beat.ended = true;
                    return;
                }
                Err(error) => log::debug!("renewing the lock of the rollout: {error:#}"),
            }
        }
    }
}

/// How long the lock of a cluster with these settings outlives its operator.
pub fn ttl(settings: &EtcdSettings) -> Duration {
    TTL.max(TIMEOUTS * settings.election_timeout())
}

/// Who has the lock, and the revision that created it.
///
/// # Errors
/// When there is no quorum, or what is there is not a lock.
pub fn holder_of(client: &ClusterClient) -> Result<Option<(Holder, i64)>> {
    let Some(found) = client.read(LOCK)? else { return Ok(None) };
    let holder = serde_json::from_slice(&found.value).with_context(|| format!("understanding `{LOCK}`"))?;
    Ok(Some((holder, found.create_revision)))
}

fn give_back(client: &ClusterClient, lease: i64) {
    if let Err(error) = client.revoke(lease) {
        log::debug!("giving the lock of the rollout back: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_outlives_an_election_of_the_cluster() {
        let of = |election_ms| ttl(&EtcdSettings { election_ms, ..EtcdSettings::default() }).as_secs();
        assert_eq!([1000, 3000, 10_000, 50_000].map(of), [20, 20, 60, 300]);
    }
}
