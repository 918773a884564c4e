//! An operator's client of a cluster's etcd: gRPC over mutual TLS with the certificate of `kiln pki init`, from where the nodes are seen.
//!
//! etcd's own users are not used; who has a certificate of the clients' root may do everything. Nothing here outlives a call:
//! connections are made when they are needed and live as long as what is asked over them, so a node that was away in between is no matter.
#![expect(clippy::disallowed_methods, reason = "an edge: reads keys, speaks over the network")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use etcd_client::{Compare, CompareOp, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use hyper_util::rt::TokioIo;
use kiln_firstboot::custody::KvHash;
use kiln_firstboot::etcd::{Etcd, EtcdStatus, ListedMember};
use kiln_firstboot::paths::CLIENT_PORT;
use kiln_firstboot::state::RaftId;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

use crate::pki::{ClientFiles, OPERATOR, Pki};
use crate::profile::Node;
use crate::reach::Reach;

/// How long a connection may take to be made, handshake included: most of a second for a VM under emulation.
const CONNECT: Duration = Duration::from_secs(4);
/// How long one call may take. A linearizable read waits for a quorum, and a fresh leader for its first commit.
const CALL: Duration = Duration::from_secs(5);
/// How long a hash over a whole store may take: etcd reads every key and revision for it, 8 GiB at most by its own advice.
const HASH: Duration = Duration::from_secs(60);

/// A value as it was read, with what guards its replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision that wrote the value.
    pub mod_revision: i64,
}

/// What must be so for a value to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The key.
    pub key: String,
    /// What its revision must be; 0 for a key that must not be there.
    pub revision: Revision,
}

/// A revision that a key must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// Created by this one: another key of the same name is not meant.
    Created(i64),
    /// Written last by this one.
    Written(i64),
}

/// A client. Cheap to clone.
#[derive(Clone)]
pub struct ClusterClient {
    reach: Reach,
    tls: TlsConnector,
    nodes: Arc<Vec<Node>>,
    /// The node that answered last, asked first next time.
    lately: Arc<AtomicUsize>,
}

impl std::fmt::Debug for ClusterClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterClient").field("reach", &self.reach).finish_non_exhaustive()
    }
}

impl ClusterClient {
    /// A client of the cluster of these nodes. Connects to nothing yet.
    ///
    /// # Errors
    /// When the operator's certificate cannot be read.
    pub fn new(reach: &Reach, pki: &Pki, nodes: &[Node]) -> Result<Self> {
        let tls = connector(&pki.client(OPERATOR)).context("reading the operator's certificate")?;
        Ok(Self { reach: reach.clone(), tls, nodes: Arc::new(nodes.to_vec()), lately: Arc::default() })
    }

    /// The nodes, in the order they were given.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What each node's etcd says of itself, in their order; all are asked at once, and none needs a quorum for it.
    ///
    /// # Errors
    /// When the nodes' network cannot be entered; an etcd that does not answer is data.
    pub fn statuses(&self) -> Result<Vec<Result<EtcdStatus, String>>> {
        self.within(async |this| {
            let mut asked = Vec::new();
            for node in this.nodes.iter() {
                let (this, node) = (this.clone(), node.clone());
                asked.push(tokio::task::spawn_local(async move { this.etcd(&node).await?.status().await }));
            }
            let mut answers = Vec::new();
            for one in asked {
                let answer = one.await.unwrap_or_else(|e| Err(anyhow!(e)));
                answers.push(answer.map_err(|e| format!("{e:#}")));
            }
            Ok(answers)
        })
    }

    /// The member list, at least as fresh as this call.
    ///
    /// # Errors
    /// When no member reads linearizably.
    pub fn members(&self) -> Result<Vec<ListedMember>> {
        self.any(async |etcd| etcd.members().await)
    }

    /// Names of the alarms raised anywhere in the cluster.
    ///
    /// # Errors
    /// When no member answers.
    pub fn alarms(&self) -> Result<Vec<String>> {
        self.any(async |etcd| etcd.alarms().await)
    }

    /// Hands leadership from a node, which must be leading, to a member.
    ///
    /// # Errors
    /// When the node does not answer, does not lead, or the other one does not take over in time.
    pub fn move_leader(&self, from: &str, to: RaftId) -> Result<()> {
        self.within(async |this| this.etcd(this.named(from)?).await?.move_leader(to).await)
    }

    /// The hash of each of these nodes' stores, all at one revision.
    ///
    /// # Errors
    /// When one of them does not answer, or has compacted that revision away.
    pub fn hashes(&self, names: &[&str]) -> Result<Vec<KvHash>> {
        let (_, revision) = self.any(async |etcd| etcd.read("/kiln/lineage").await)?;
        self.within(async |this| {
            let mut hashes = Vec::new();
            for name in names {
                let channel = this.channel(this.named(name)?, HASH).await?;
                let mut client = Etcd::over(channel).client().await?;
                let answer = client.hash_kv(i64::try_from(revision)?).await;
                let answer = answer.with_context(|| format!("hashing the store of {name}"))?;
                let compact_revision = answer.compact_version();
                hashes.push(KvHash { revision, hash: answer.hash(), compact_revision });
            }
            Ok(hashes)
        })
    }

    /// A key, read linearizably.
    ///
    /// # Errors
    /// When there is no quorum.
    pub fn read(&self, key: &str) -> Result<Option<Versioned>> {
        self.any(async |etcd| {
            let answer = etcd.client().await?.get(key, None).await.with_context(|| format!("reading `{key}`"))?;
            Ok(answer.kvs().first().map(versioned))
        })
    }

    /// Writes a key while every guard holds, bound to a lease where one is given; the revision of the write, or nothing when a guard did not
    /// hold.
    ///
    /// # Errors
    /// When there is no quorum; whether the key was written is not known then.
    pub fn write(&self, key: &str, value: &[u8], guards: &[Guard], lease: Option<i64>) -> Result<Option<i64>> {
        let compare = |guard: &Guard| match guard.revision {
            Revision::Created(revision) => Compare::create_revision(guard.key.as_str(), CompareOp::Equal, revision),
            Revision::Written(revision) => Compare::mod_revision(guard.key.as_str(), CompareOp::Equal, revision),
        };
        let compares: Vec<Compare> = guards.iter().map(compare).collect();
        // Asked of one member only: a write whose answer was lost must not be repeated through another, where its own guard would refuse it.
        let done = self.any_once(async |etcd| {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease));
            let txn = Txn::new().when(compares).and_then([TxnOp::put(key, value, options)]);
            let done = etcd.client().await?.txn(txn).await.with_context(|| format!("writing `{key}`"))?;
            if !done.succeeded() {
                return Ok(None);
            }
            for answer in done.op_responses() {
                match answer {
                    TxnOpResponse::Put(put) => return Ok(put.header().map(etcd_client::ResponseHeader::revision)),
                    TxnOpResponse::Get(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => {}
                }
            }
            bail!("etcd did not say at which revision it wrote `{key}`")
        })?;
        Ok(done)
    }

    /// A lease of that many seconds.
    ///
    /// # Errors
    /// When there is no quorum.
    pub fn grant(&self, seconds: i64) -> Result<i64> {
        self.any(async |etcd| {
            let granted = etcd.client().await?.lease_grant(seconds, None::<LeaseGrantOptions>).await;
            Ok(granted.context("taking a lease")?.id())
        })
    }

    /// Renews a lease; `false` when it is gone.
    ///
    /// # Errors
    /// When nobody could be asked.
    pub fn keep_alive(&self, lease: i64) -> Result<bool> {
        self.any(async |etcd| match etcd.client().await?.lease_keep_alive(lease).await {
            Ok(_) => Ok(true),
            // etcd-client's words for an answer without a time to live.
            Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
            Err(error) => Err(error).context("renewing a lease"),
        })
    }

    /// Ends a lease, and with it the keys bound to it.
    ///
    /// # Errors
    /// When there is no quorum; it ends by itself then.
    pub fn revoke(&self, lease: i64) -> Result<()> {
        self.any(async |etcd| {
            etcd.client().await?.lease_revoke(lease).await.context("giving a lease back")?;
            Ok(())
        })
    }

    /// The first member that does as asked, beginning with the one that did last time.
    fn any<T: Send>(&self, ask: impl AsyncFn(&Etcd) -> Result<T> + Send + Sync) -> Result<T> {
        self.within(async |this| {
            let mut last = anyhow!("the cluster has no nodes");
            for n in this.order() {
                match this.etcd(&this.nodes[n]).await {
                    Ok(etcd) => match ask(&etcd).await {
                        Ok(answer) => {
                            this.lately.store(n, Ordering::Relaxed);
                            return Ok(answer);
                        }
                        Err(error) => last = error.context(format!("asking the etcd of {}", this.nodes[n].name)),
                    },
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }

    /// As [`Self::any`], but whoever could be connected to is the only one asked.
    fn any_once<T: Send>(&self, ask: impl AsyncFnOnce(&Etcd) -> Result<T> + Send) -> Result<T> {
        self.within(async |this| {
            let mut last = anyhow!("the cluster has no nodes");
            for n in this.order() {
                match this.etcd(&this.nodes[n]).await {
                    // One that knows no leader would only fail.
                    Ok(etcd) if etcd.status().await.is_ok_and(|status| status.leader.is_some() && !status.learner) => {
                        this.lately.store(n, Ordering::Relaxed);
                        return ask(&etcd).await.with_context(|| format!("asking the etcd of {}", this.nodes[n].name));
                    }
                    Ok(_) => last = anyhow!("the etcd of {} knows no leader", this.nodes[n].name),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }

    fn order(&self) -> impl Iterator<Item = usize> {
        let (first, count) = (self.lately.load(Ordering::Relaxed), self.nodes.len());
        (0..count).map(move |n| (first + n) % count)
    }

    fn named(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("there is no node `{name}`"))
    }

    /// Runs something where the nodes are seen.
    fn within<T: Send>(&self, ask: impl AsyncFnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        self.reach.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            tokio::task::LocalSet::new().block_on(&runtime, ask(self))
        })
    }

    async fn etcd(&self, node: &Node) -> Result<Etcd> {
        Ok(Etcd::over(self.channel(node, CALL).await?))
    }

    async fn channel(&self, node: &Node, limit: Duration) -> Result<tonic::transport::Channel> {
        let (tls, address, fqdn) = (self.tls.clone(), node.address, node.fqdn.as_str().to_owned());
        let name = ServerName::try_from(fqdn).context("naming the server")?;
        let dial = tower::service_fn(move |_| {
            let (tls, name) = (tls.clone(), name.clone());
            async move {
                let stream = TcpStream::connect((address, CLIENT_PORT)).await?;
                stream.set_nodelay(true)?;
                tls.connect(name, stream).await.map(TokioIo::new)
            }
        });
        // The scheme is tonic's business with TLS of its own; here the stream is encrypted already.
        let endpoint = Endpoint::from_shared(format!("http://{}", node.fqdn))?.timeout(limit);
        let connecting = tokio::time::timeout(CONNECT, endpoint.connect_with_connector(dial));
        let limit = || anyhow!("no connection within {} ms", CONNECT.as_millis());
        connecting
            .await
            .map_err(|_| limit())
            .and_then(|channel| channel.map_err(root_cause))
            .with_context(|| format!("connecting to the etcd of {}", node.name))
    }
}

/// tonic says "transport error" and keeps what happened for itself unless it is asked.
fn root_cause(error: tonic::transport::Error) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    let cause = error.root_cause().to_string();
    anyhow!(cause)
}

fn versioned(kv: &etcd_client::KeyValue) -> Versioned {
    Versioned { value: kv.value().to_vec(), create_revision: kv.create_revision(), mod_revision: kv.mod_revision() }
}

/// TLS to a cluster's etcd under a client's certificate: 1.3, HTTP/2, nothing resumed, no root but the peers'.
///
/// # Errors
/// When a file cannot be read or is none of the kind.
pub fn connector(files: &ClientFiles) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&fs_err::read(&files.server_root)?) {
        roots.add(root.context("reading the peers' root")?)?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&fs_err::read(&files.cert)?).collect();
    let key = zeroize::Zeroizing::new(fs_err::read(&files.key)?);
    let key = PrivateKeyDer::from_pem_slice(&key).context("reading the operator's key")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.context("reading the operator's certificate")?, key)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
