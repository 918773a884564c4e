//! Looks: disks through the root helper, seed and state on disk, DNS, the other agents. What cannot be seen is a fact too.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the image's and the seed's files")]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::agent::client::{Kept, STATUS_LIMIT};
use crate::charter::Charter;
use crate::cluster::ClusterConfig;
use crate::control_client::{self, EtcdUnit};
use crate::disk_fact::{DataFact, DiskFacts, RootFact, SeedFact, WalFact};
use crate::dns::Dns;
use crate::image::ImageMeta;
use crate::message::{Answer, Ask};
use crate::name::Fqdn;
use crate::observation::{
    EtcdProcess, ImageFact, Lookup, Observation, OwnAddress, OwnName, PeerAnswer, PeerObservation, SeedView,
};
use crate::paths::Paths;
use crate::record::BootRecord;
use crate::seed::{self, SeedHeader};
use crate::tls::AgentTls;
use crate::{address, clock, resolv, state_file};

/// What stays the same for a whole boot.
#[derive(Clone, Debug)]
pub struct Image {
    /// Of the image.
    pub meta: ImageMeta,
    /// Of its cluster.
    pub cluster: ClusterConfig,
    /// The kernel's id of this boot.
    pub boot_id: String,
}

impl Image {
    /// Reads what the builder wrote.
    ///
    /// # Errors
    /// When a file is missing or of another schema: the image is not whole.
    pub fn read(paths: &Paths) -> Result<Self> {
        let (meta, cluster) = (paths.image_json(), paths.cluster_json());
        let meta =
            serde_json::from_slice(&fs_err::read(&meta)?).with_context(|| format!("reading `{}`", meta.display()))?;
        let cluster = serde_json::from_slice(&fs_err::read(&cluster)?)
            .with_context(|| format!("reading `{}`", cluster.display()))?;
        let boot_id = fs_err::read_to_string(paths.boot_id())?.trim().to_owned();
        Ok(Self { meta, cluster, boot_id })
    }
}

/// What the root helper says, from which everything local follows.
#[derive(Clone, Debug)]
pub struct Local {
    /// The disks.
    pub disks: DiskFacts,
    /// etcd's unit.
    pub etcd: EtcdUnit,
}

/// Asks the root helper.
///
/// # Errors
/// When it does not answer. What was seen before still stands then; at first, [`unseen`] does.
pub async fn look_locally(paths: &Paths) -> Result<Local> {
    let socket = paths.control_socket();
    Ok(Local { disks: control_client::disks(&socket).await?, etcd: control_client::etcd(&socket).await? })
}

/// Nothing is known, and what is not known is never blank. etcd counts as up: nothing is started beside one that may be running.
pub fn unseen(why: &str) -> Local {
    Local {
        disks: DiskFacts {
            root: RootFact::Overlay,
            data: DataFact::Unusable(why.to_owned()),
            seed: SeedFact::Unreadable(why.to_owned()),
            wal: WalFact::Unknown,
        },
        etcd: EtcdUnit { active: "reloading".into(), last_words: why.to_owned() },
    }
}

/// Everything that needs no network. `own`, `srv` and `peers` say that nobody was asked.
pub fn assemble(paths: &Paths, image: &Image, local: &Local) -> Observation {
    let not_asked = || "not asked: this node's own disk decides".to_owned();
    Observation {
        schema: 1,
        now: clock::now(),
        boot_id: image.boot_id.clone(),
        image: ImageFact {
            env: image.cluster.env.clone(),
            cluster: image.cluster.cluster,
            etcd_version: image.meta.etcd_version,
            source_date_epoch: image.meta.source_date_epoch,
        },
        seed: read_seed(paths, &image.cluster, &local.disks.seed),
        root: local.disks.root.clone(),
        data: local.disks.data.clone(),
        wal: local.disks.wal.clone(),
        state: match &local.disks.data {
            DataFact::Mounted { .. } => state_file::read(paths),
            DataFact::Absent(_) | DataFact::Unusable(_) | DataFact::ReadOnly(_) => {
                crate::observation::StateView::Absent
            }
        },
        etcd: if local.etcd.is_up() { EtcdProcess::Up } else { EtcdProcess::Down },
        own: OwnName { addresses: Vec::new(), forward: Lookup::Failed(not_asked()) },
        srv: Lookup::Failed(not_asked()),
        peers: Vec::new(),
        recorded_boot: None,
    }
}

fn read_seed(paths: &Paths, cluster: &ClusterConfig, fact: &SeedFact) -> SeedView {
    match fact {
        SeedFact::Absent(why) => return SeedView::Missing(why.clone()),
        SeedFact::Unreadable(why) => return SeedView::Invalid(why.clone()),
        SeedFact::Unpacked => {}
    }
    let read = |name: &str| fs_err::read(paths.seed_dir().join(name)).map_err(|e| e.to_string());
    let verified = || {
        let header: SeedHeader =
            serde_json::from_slice(&read(seed::HEADER)?).map_err(|e| format!("{}: {e}", seed::HEADER))?;
        let charter = Charter::open(&read(seed::CHARTER)?, &read(seed::CHARTER_SIGNATURE)?, &cluster.charter_key)
            .map_err(|e| e.to_string())?;
        Ok::<_, String>((header, charter))
    };
    match verified() {
        Ok((header, charter)) => SeedView::Verified { header, charter: Box::new(charter) },
        Err(why) => SeedView::Invalid(why),
    }
}

/// The DNS servers of this network, asked themselves.
pub fn dns(paths: &Paths, cluster: &ClusterConfig) -> Dns {
    if !cluster.dns_servers.is_empty() {
        return Dns::new(&cluster.dns_servers);
    }
    // Not there yet means that the network is not up yet.
    let text = fs_err::read_to_string(paths.resolv_conf()).unwrap_or_default();
    Dns::new(&resolv::parse_nameservers(&text))
}

/// What DNS says of this node.
pub async fn own_name(dns: &Dns, fqdn: &Fqdn) -> OwnName {
    let addresses = address::own_addresses().unwrap_or_else(|e| {
        log::warn!("listing the node's addresses: {e}");
        Vec::new()
    });
    let mut asked = JoinSet::new();
    for (index, address) in addresses.iter().copied().enumerate() {
        let dns = dns.clone();
        asked.spawn(async move {
            let ptr = dns.pointers(address).await.into_lookup();
            (index, OwnAddress { address, ptr })
        });
    }
    let forward = dns.addresses(fqdn).await.into_lookup();
    OwnName { addresses: in_order(asked.join_all().await), forward }
}

/// What the other members' agents say, all asked at once and told of this boot; they are waited for so many times longer than usual.
pub async fn peers(
    kept: &Kept,
    patience: u32,
    dns: &Dns,
    tls: Option<&AgentTls>,
    charter: &Charter,
    own: &Fqdn,
    boot: Option<BootRecord>,
) -> Vec<PeerObservation> {
    let mut asked = JoinSet::new();
    let ask = boot.map_or(Ask::Status, Ask::Greet);
    for (index, member) in charter.members.iter().filter(|m| m.fqdn != *own).enumerate() {
        let (kept, dns, tls, fqdn, ask) = (kept.clone(), dns.clone(), tls.cloned(), member.fqdn.clone(), ask.clone());
        asked.spawn(async move {
            let located = dns.addresses(&fqdn).await.into_lookup();
            let answer = match (&tls, located.records()) {
                (None, _) => PeerAnswer::Unreachable("this node has no certificate yet".into()),
                (Some(_), []) => PeerAnswer::Unreachable("DNS gives it no address".into()),
                (Some(tls), addresses) => status(&kept, STATUS_LIMIT * patience, tls, &fqdn, addresses, &ask).await,
            };
            (index, PeerObservation { fqdn, located, answer })
        });
    }
    in_order(asked.join_all().await)
}

async fn status(
    kept: &Kept,
    limit: Duration,
    tls: &AgentTls,
    fqdn: &Fqdn,
    addresses: &[IpAddr],
    ask: &Ask,
) -> PeerAnswer {
    match kept.ask(tls, fqdn, addresses, ask, limit).await {
        Ok(Answer::Status(status)) => PeerAnswer::Answered(status),
        Ok(Answer::RetryAfter { reason, .. } | Answer::Refused { reason, .. }) => PeerAnswer::Unreachable(reason),
        Ok(Answer::Granted(_)) => PeerAnswer::Unreachable("it answered something that was not asked".into()),
        Err(e) => PeerAnswer::Unreachable(format!("{e:#}")),
    }
}

fn in_order<T>(mut indexed: Vec<(usize, T)>) -> Vec<T> {
    indexed.sort_by_key(|(index, _)| *index);
    indexed.into_iter().map(|(_, value)| value).collect()
}
