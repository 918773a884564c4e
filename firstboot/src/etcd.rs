//! The node's own etcd, over its local socket: what it says, and the few things the agent asks of it.
//!
//! The socket needs no client certificate; only the agent's group reaches it. No node holds etcd rights on another node.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use etcd_client::{
    Channel, Client, Compare, CompareOp, Error, EventType, GetOptions, LeaseGrantOptions, MemberAddOptions, PutOptions,
    SnapshotStreaming, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchStream,
};
use tonic::transport::Endpoint;

use crate::custody::KvHash;
use crate::peer_hash;
use crate::state::RaftId;

/// How long one call may take. Local, but a linearizable read waits for a quorum, and a fresh leader for its first commit.
const CALL: Duration = Duration::from_secs(2);
/// What a member without a leader has among the errors of its status (etcd 3.5 and 3.6, `ErrNoLeader`).
const NO_LEADER: &str = "etcdserver: no leader";

/// One entry of etcd's member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMember {
    /// Raft id.
    pub id: RaftId,
    /// Empty until it has started.
    pub name: String,
    /// Peer URLs.
    pub peer_urls: Vec<String>,
    /// Client URLs; empty until it has published them, which is what "started" means here. (A member of a static bootstrap is
    /// listed with its name before it ever ran; its client URLs are not.)
    pub client_urls: Vec<String>,
    /// No vote yet.
    pub learner: bool,
}

/// What etcd says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdStatus {
    /// Raft cluster id.
    pub raft_cluster: RaftId,
    /// Its member id.
    pub member: RaftId,
    /// The leader it knows.
    pub leader: Option<RaftId>,
    /// No vote yet.
    pub learner: bool,
    /// Version, `3.6.14`.
    pub version: String,
    /// Applied raft index.
    pub applied_index: u64,
    /// Bytes of its database file: the size of a snapshot.
    pub db_size: u64,
    /// Names of the alarms raised anywhere in the cluster, as far as this member has applied its log.
    pub alarms: Vec<String>,
}

/// A key that may be created once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// By this call.
    Now,
    /// Earlier, with this value.
    Before(Vec<u8>),
}

/// Keys with their values.
pub type Written = Vec<(Vec<u8>, Vec<u8>)>;

/// What is written to a range of keys, as [`Etcd::follow`] hears of it.
#[derive(Debug)]
pub struct Changes {
    present: Option<Written>,
    stream: WatchStream,
}

impl Changes {
    /// First what is there, then what is written, as it is written; what is deleted is left out. Nothing when etcd has ended it.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Written>> {
        if let Some(present) = self.present.take() {
            return Ok(Some(present));
        }
        let Some(heard) = self.stream.message().await? else { return Ok(None) };
        if heard.canceled() {
            return Ok(None);
        }
        let put = heard.events().iter().filter(|event| event.event_type() == EventType::Put);
        Ok(Some(put.filter_map(|event| Some(event.kv()?.clone().into_key_value())).collect()))
    }
}

/// A connection that is made when it is first needed, and again when etcd was away.
#[derive(Clone)]
pub struct Etcd {
    channel: tonic::transport::Channel,
    /// For what takes etcd long.
    patient: tonic::transport::Channel,
    /// How many times longer than usual it is waited for.
    pub(crate) patience: u32,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").finish_non_exhaustive()
    }
}

impl Etcd {
    /// The etcd behind `socket`, asked so many times as patiently as usual. Must be called inside a runtime; connects later.
    ///
    /// # Errors
    /// When the path is not UTF-8.
    pub fn at(socket: &Path, patience: u32) -> Result<Self> {
        let path = socket.to_str().with_context(|| format!("naming the socket `{}`", socket.display()))?;
        let endpoint = Endpoint::from_shared(format!("unix:{path}"))?.connect_timeout(CALL).timeout(CALL * patience);
        let patient = endpoint.clone().timeout(peer_hash::LIMIT);
        Ok(Self { channel: endpoint.connect_lazy(), patient: patient.connect_lazy(), patience })
    }

    /// The etcd at the other end of a channel, for an operator's client.
    pub fn over(channel: tonic::transport::Channel) -> Self {
        Self { patient: channel.clone(), channel, patience: 1 }
    }

    /// A client of it, for what is not asked here.
    ///
    /// # Errors
    /// When the channel cannot be used.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::from_channel(Channel::Tonic(self.channel.clone()), None).await?)
    }

    /// Its status, whether or not there is a quorum.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<EtcdStatus> {
        let status = self.client().await?.status().await.context("asking etcd for its status")?;
        let header = status.header().context("etcd's answer has no header")?;
        Ok(EtcdStatus {
            raft_cluster: RaftId(header.cluster_id()),
            member: RaftId(header.member_id()),
            leader: Some(RaftId(status.leader())).filter(|leader| leader.0 != 0),
            learner: status.is_learner(),
            version: status.version().to_owned(),
            applied_index: status.raft_applied_index(),
            db_size: u64::try_from(status.db_size()).unwrap_or(0),
            alarms: status.errors().iter().filter_map(|error| alarm(error)).collect(),
        })
    }

    /// A linearizable read of one key: the value, and the store's revision.
    ///
    /// # Errors
    /// When there is no quorum, or this member is a learner.
    pub async fn read(&self, key: &str) -> Result<(Option<Vec<u8>>, u64)> {
        let answer = self.client().await?.get(key, None).await.with_context(|| format!("reading `{key}`"))?;
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok((answer.kvs().first().map(|kv| kv.value().to_vec()), u64::try_from(revision).unwrap_or(0)))
    }

    /// As [`Self::read`], with the revision at which the value was written: 0 when there is none.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_versioned(&self, key: &str) -> Result<(Option<Vec<u8>>, i64)> {
        let answer = self.client().await?.get(key, None).await.with_context(|| format!("reading `{key}`"))?;
        let found = answer.kvs().first();
        Ok((found.map(|kv| kv.value().to_vec()), found.map_or(0, etcd_client::KeyValue::mod_revision)))
    }

    /// Writes a key if it is still as [`Self::read_versioned`] found it; whether it was.
    ///
    /// # Errors
    /// When there is no quorum.
    pub async fn replace(&self, key: &str, mod_revision: i64, value: Vec<u8>) -> Result<bool> {
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
            .and_then([TxnOp::put(key, value, None)]);
        let done = self.client().await?.txn(txn).await.with_context(|| format!("replacing `{key}`"))?;
        Ok(done.succeeded())
    }

    /// The hash of this member's own store, at the revision it has applied.
    ///
    /// # Errors
    /// When etcd does not answer; it reads its whole store for the answer.
    pub async fn hash(&self) -> Result<KvHash> {
        let channel = Channel::Tonic(self.patient.clone());
        let answer = Client::from_channel(channel, None).await?.hash_kv(0).await.context("hashing the store")?;
        let revision = answer.header().context("etcd's answer has no header")?.revision();
        Ok(KvHash {
            revision: u64::try_from(revision)?,
            hash: answer.hash(),
            compact_revision: answer.compact_version(),
        })
    }

    /// A linearizable read of all keys from `first` on and before `end`, in order.
    ///
    /// # Errors
    /// When there is no quorum, or this member is a learner.
    pub async fn range(&self, first: &str, end: &str) -> Result<Written> {
        self.range_with(first, GetOptions::new().with_range(end)).await
    }

    /// As [`Self::range`], of what this member has applied: right after a linearizable read it is as fresh as
    /// one, and asks no quorum again.
    ///
    /// # Errors
    /// When this member does not answer.
    pub async fn range_applied(&self, first: &str, end: &str) -> Result<Written> {
        self.range_with(first, GetOptions::new().with_range(end).with_serializable()).await
    }

    async fn range_with(&self, first: &str, options: GetOptions) -> Result<Written> {
        let asked = self.client().await?.get(first, Some(options)).await;
        let mut answer = asked.with_context(|| format!("reading from `{first}` on"))?;
        Ok(answer.take_kvs().into_iter().map(etcd_client::KeyValue::into_key_value).collect())
    }

    /// Listens to what is written to the keys from `first` on and before `end`, beginning with what this member has there. Asks no quorum.
    ///
    /// # Errors
    /// When this member does not answer.
    pub async fn follow(&self, first: &str, end: &str) -> Result<Changes> {
        let mut client = self.client().await?;
        let options = GetOptions::new().with_range(end).with_serializable();
        let mut present =
            client.get(first, Some(options)).await.with_context(|| format!("reading from `{first}` on"))?;
        let revision = present.header().map_or(0, |header| header.revision());
        let options = WatchOptions::new().with_range(end).with_start_revision(revision + 1);
        let stream =
            client.watch(first, Some(options)).await.with_context(|| format!("listening from `{first}` on"))?;
        let present = present.take_kvs().into_iter().map(etcd_client::KeyValue::into_key_value).collect();
        Ok(Changes { present: Some(present), stream })
    }

    /// Streams a snapshot of this member's database. The last 32 bytes are the sha256 of what comes before.
    ///
    /// # Errors
    /// When it does not begin.
    pub async fn snapshot(&self) -> Result<SnapshotStreaming> {
        self.client().await?.snapshot().await.context("asking etcd for a snapshot")
    }

    /// The member list, at least as fresh as this call.
    ///
    /// etcd-client asks for a list that may be stale. A linearizable read just before makes this member apply everything that was
    /// committed until then, membership changes included, so that its own list is fresh enough.
    ///
    /// # Errors
    /// When there is no quorum, or this member is a learner.
    pub async fn members(&self) -> Result<Vec<ListedMember>> {
        self.read("/kiln/lineage").await?;
        let list = self.client().await?.member_list().await.context("listing the members")?;
        Ok(list.members().iter().map(listed).collect())
    }

    /// Adds a learner and gives its id.
    ///
    /// # Errors
    /// With etcd's own words, to be judged by [`Self::refusal`].
    pub async fn add_learner(&self, peer_url: &str) -> Result<RaftId, Error> {
        let mut client = self.client().await.map_err(|e| Error::EndpointError(format!("{e:#}")))?;
        let added = client.member_add([peer_url], Some(MemberAddOptions::new().with_is_learner())).await?;
        added
            .member()
            .map(|member| RaftId(member.id()))
            .ok_or_else(|| Error::EndpointError("no member in the answer".into()))
    }

    /// Removes a member.
    ///
    /// # Errors
    /// When etcd does not.
    pub async fn remove(&self, member: RaftId) -> Result<()> {
        self.client().await?.member_remove(member.0).await.with_context(|| format!("removing member {member}"))?;
        Ok(())
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// When it has not caught up or not started, or etcd refuses for another reason.
    pub async fn promote(&self, member: RaftId) -> Result<()> {
        self.client().await?.member_promote(member.0).await.with_context(|| format!("promoting member {member}"))?;
        Ok(())
    }

    /// Hands leadership over; only the leader can.
    ///
    /// # Errors
    /// When it does not succeed in time.
    pub async fn move_leader(&self, to: RaftId) -> Result<()> {
        self.client().await?.move_leader(to.0).await.with_context(|| format!("handing leadership to {to}"))?;
        Ok(())
    }

    /// Creates a key unless it exists.
    ///
    /// # Errors
    /// When there is no quorum.
    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Created> {
        self.create_leased(key, value, None).await
    }

    async fn create_leased(&self, key: &str, value: Vec<u8>, lease: Option<i64>) -> Result<Created> {
        let options = lease.map(|lease| PutOptions::new().with_lease(lease));
        let txn = Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key, value, options)])
            .or_else([TxnOp::get(key, None)]);
        let done = self.client().await?.txn(txn).await.with_context(|| format!("creating `{key}`"))?;
        if done.succeeded() {
            return Ok(Created::Now);
        }
        for answer in done.op_responses() {
            if let TxnOpResponse::Get(found) = answer
                && let Some(kv) = found.kvs().first()
            {
                return Ok(Created::Before(kv.value().to_vec()));
            }
        }
        bail!("etcd neither created `{key}` nor told its value")
    }

    /// Writes a key.
    ///
    /// # Errors
    /// When there is no quorum.
    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.client().await?.put(key, value, None).await.with_context(|| format!("writing `{key}`"))?;
        Ok(())
    }

    /// Writes these keys, all or none, and waits for that as long as it takes etcd: what depends on it cannot be taken back.
    ///
    /// # Errors
    /// When there is no quorum.
    pub async fn put_all(&self, keys: Vec<(String, Vec<u8>)>) -> Result<()> {
        let named = keys.iter().map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let puts: Vec<TxnOp> = keys.into_iter().map(|(key, value)| TxnOp::put(key, value, None)).collect();
        let mut client = Client::from_channel(Channel::Tonic(self.patient.clone()), None).await?;
        client.txn(Txn::new().and_then(puts)).await.with_context(|| format!("writing {named}"))?;
        Ok(())
    }

    /// Takes the lock `key` for at most `seconds`, or tells who has it. The caller sees to it that `owner` asks one call at a time: a
    /// lock that `owner` holds already was left by a crash, and is taken over.
    ///
    /// # Errors
    /// When there is no quorum.
    pub async fn lock(&self, key: &str, owner: &str, seconds: i64) -> Result<Result<Lock, String>> {
        let lease =
            self.client().await?.lease_grant(seconds, None::<LeaseGrantOptions>).await.context("taking a lease")?.id();
        match self.create_leased(key, owner.into(), Some(lease)).await {
            Ok(Created::Now) => Ok(Ok(Lock { lease })),
            Ok(Created::Before(holder)) => {
                // Its own, from before it crashed: nobody else takes a lock in this name, so there is nothing to wait for.
                if holder == owner.as_bytes() && self.take_over(key, owner, lease).await? {
                    return Ok(Ok(Lock { lease }));
                }
                self.unlock(Lock { lease }).await;
                Ok(Err(String::from_utf8_lossy(&holder).into_owned()))
            }
            Err(e) => {
                self.unlock(Lock { lease }).await;
                Err(e)
            }
        }
    }

    /// Moves a lock that `owner` holds already to another lease; `false` when it has gone to somebody else meanwhile.
    async fn take_over(&self, key: &str, owner: &str, lease: i64) -> Result<bool> {
        let txn = Txn::new().when([Compare::value(key, CompareOp::Equal, owner)]).and_then([TxnOp::put(
            key,
            owner,
            Some(PutOptions::new().with_lease(lease)),
        )]);
        Ok(self.client().await?.txn(txn).await.with_context(|| format!("taking `{key}` over"))?.succeeded())
    }

    /// Gives a lock back. If that fails, its lease ends by itself.
    pub async fn unlock(&self, lock: Lock) {
        if let Ok(mut client) = self.client().await
            && let Err(e) = client.lease_revoke(lock.lease).await
        {
            log::debug!("giving a lease back: {e}");
        }
    }

    /// Names of the alarms raised anywhere in the cluster, at least as fresh as this call.
    ///
    /// Not by etcd's own question for them, which every member writes to its log and syncs: whoever asks often would keep the disks of the
    /// whole cluster busy. A linearizable read just before makes this member apply every alarm that was raised until then.
    ///
    /// # Errors
    /// When there is no quorum, or this member is a learner.
    pub async fn alarms(&self) -> Result<Vec<String>> {
        self.read("/kiln/lineage").await?;
        Ok(self.status().await?.alarms)
    }
}

/// The alarm that an error in a member's status tells of; none for a missing leader, which is known by other means. An error of another
/// kind, which no etcd up to 3.6 has, counts as an alarm: with it something is wrong that nobody here knows.
fn alarm(error: &str) -> Option<String> {
    if error == NO_LEADER {
        return None;
    }
    let name = error.split_whitespace().find_map(|field| field.strip_prefix("alarm:"));
    Some(name.unwrap_or(error).to_owned())
}

/// A lock held by a lease, for liveness only: every step under it is guarded by raft itself.
#[derive(Debug)]
#[must_use = "a lock that is not given back blocks others until its lease ends"]
pub struct Lock {
    lease: i64,
}

fn listed(member: &etcd_client::Member) -> ListedMember {
    ListedMember {
        id: RaftId(member.id()),
        name: member.name().to_owned(),
        peer_urls: member.peer_urls().to_vec(),
        client_urls: member.client_urls().to_vec(),
        learner: member.is_learner(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_told_from_a_missing_leader() {
        let told = |error: &str| alarm(error);
        // As etcd 3.5 and 3.6 print them, and as a later protobuf might.
        assert_eq!(told("memberID:10276657743932975437 alarm:NOSPACE "), Some("NOSPACE".to_owned()));
        assert_eq!(told("memberID:1  alarm:CORRUPT"), Some("CORRUPT".to_owned()));
        assert_eq!(told(NO_LEADER), None);
        assert_eq!(told("something new"), Some("something new".to_owned()));
    }
}
