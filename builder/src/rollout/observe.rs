//! Looks at a cluster and its machines for a rollout. Touches nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow};
use kiln_firstboot::cluster::EtcdSettings;
use kiln_firstboot::custody::{self, PeerHash, Verdict};
use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::etcd::{EtcdStatus, ListedMember};
use kiln_firstboot::message::NodeStatus;

use super::hands::NodeHands;
use super::observation::{Agreement, NodeView, Observation};
use super::record::{NodeState, Record};
use crate::agents;
use crate::cluster_client::ClusterClient;
use crate::host::Seen;
use crate::pki::Pki;
use crate::reach::Reach;

/// Where a rollout looks.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// How the cluster is reached.
    pub reach: &'a Reach,
    /// The operator's keys.
    pub pki: &'a Pki,
    /// How the cluster's etcd is set.
    pub etcd: &'a EtcdSettings,
    /// A client of it; its nodes are the profile's.
    pub client: &'a ClusterClient,
    /// The machines.
    pub hands: &'a dyn NodeHands,
}

impl std::fmt::Debug for Sight<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sight").field("reach", self.reach).finish_non_exhaustive()
    }
}

/// What was asked all at once.
struct Answers {
    machines: BTreeMap<String, Result<Option<Seen>, String>>,
    agents: Vec<Result<NodeStatus>>,
    etcds: Vec<Result<EtcdStatus, String>>,
    members: Vec<ListedMember>,
    alarms: Vec<String>,
    known: BTreeMap<Sha256Digest, u64>,
}

impl Sight<'_> {
    /// One look at everything.
    ///
    /// # Errors
    /// When there is no quorum, or what this machine keeps cannot be read. A node, an etcd or a host that does not answer is part of what is
    /// seen.
    pub fn look(&self, record: &Record, now: i64) -> Result<Observation> {
        let Answers { mut machines, agents, etcds, members, alarms, mut known } = self.ask()?;
        for seen in machines.values().filter_map(|machine| machine.as_ref().ok()?.as_ref()) {
            for root in [seen.root, seen.previous].into_iter().flatten() {
                known.entry(root.image).or_insert(root.generation);
            }
        }
        let nodes = self.client.nodes().iter().zip(agents).zip(etcds).map(|((node, agent), etcd)| NodeView {
            name: node.name.clone(),
            fqdn: node.fqdn.clone(),
            etcd,
            agent: agent.map_err(|error| format!("{error:#}")),
            machine: machines.remove(&node.name).unwrap_or_else(|| Err("nobody looked for its machine".into())),
            agreement: Agreement::Unknown,
        });
        let mut seen = Observation { now, nodes: nodes.collect(), members, alarms, known };
        self.compare(&mut seen, record);
        Ok(seen)
    }

    fn ask(&self) -> Result<Answers> {
        std::thread::scope(|scope| {
            let machines = scope.spawn(|| self.hands.survey());
            let agents = scope.spawn(|| agents::ask_all(self.reach, self.pki, self.etcd, self.client.nodes()));
            let etcds = scope.spawn(|| self.client.statuses());
            let members = self.client.members().context("listing the members");
            let alarms = self.client.alarms();
            let died = || anyhow!("a thread that looked at the cluster died");
            Ok(Answers {
                machines: machines.join().map_err(|_| died())?,
                agents: agents.join().map_err(|_| died())??,
                etcds: etcds.join().map_err(|_| died())??,
                members: members?,
                alarms: alarms?,
                known: self.hands.known()?,
            })
        })
    }

    /// Compares the store of the node in hand with the leader's, once all else is in order with it: etcd reads its whole store for the answer.
    fn compare(&self, seen: &mut Observation, record: &Record) {
        let Some(held) = record.in_hand() else { return };
        let image = match &held.state {
            NodeState::RollingBack { before, .. } => before.image,
            NodeState::Taken { .. }
            | NodeState::Pending
            | NodeState::Already
            | NodeState::Done { .. }
            | NodeState::RolledBack { .. }
            | NodeState::Lost { .. } => record.target.root.image,
        };
        let ready = seen.node(&held.name).is_some_and(|node| seen.serves_on(node, image).is_ok());
        let Some(leader) = seen.leading().map(|leader| leader.name.clone()).filter(|_| ready) else { return };
        let agreement = self.agreement(&leader, &held.name);
        if let Some(node) = seen.nodes.iter_mut().find(|node| node.name == held.name) {
            node.agreement = agreement;
        }
    }

    fn agreement(&self, leader: &str, node: &str) -> Agreement {
        match self.client.hashes(&[leader, node]).as_deref() {
            Ok([own, theirs]) => match custody::compare(own, &PeerHash::Hash(*theirs)) {
                Verdict::Equal => Agreement::Same,
                Verdict::Differs => Agreement::Different,
                Verdict::Later | Verdict::Anew => Agreement::Unknown,
            },
            Ok(_) => Agreement::Unknown,
            Err(error) => {
                log::debug!("comparing {node} with {leader}: {error:#}");
                Agreement::Unknown
            }
        }
    }
}
