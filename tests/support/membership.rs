//! What a cluster's own member list says, read from any of its etcds.

use std::collections::BTreeSet;

use kiln_firstboot::digest::Id128;
use kiln_firstboot::state::{Phase, RaftId, State};

use crate::cluster::Cluster;
use crate::node::Node;

/// One member, as `etcdctl member list` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Raft id.
    pub id: RaftId,
    /// Empty until it has started.
    pub name: String,
    /// Its first peer URL.
    pub peer_url: String,
    /// It has published its client URLs.
    pub started: bool,
    /// No vote yet.
    pub learner: bool,
}

/// The member list that a node's etcd reads linearizably; none while it has no quorum or does not run.
pub fn members(node: &Node) -> Option<Vec<Listed>> {
    let said = node.etcdctl(&["member", "list", "-w", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&said.stdout).ok()?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let listed = list["members"].as_array()?.iter().map(|m| Listed {
        id: RaftId(m["ID"].as_u64().unwrap_or_default()),
        name: text(&m["name"]),
        peer_url: text(&m["peerURLs"][0]),
        started: m["clientURLs"].as_array().is_some_and(|urls| !urls.is_empty()),
        learner: m["isLearner"].as_bool().unwrap_or_default(),
    });
    Some(listed.collect())
}

/// The leader's id that a node's etcd knows.
pub fn leader(node: &Node) -> Option<RaftId> {
    let said = node.etcdctl(&["endpoint", "status", "-w", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&said.stdout).ok()?;
    status[0]["Status"]["leader"].as_u64().filter(|id| *id != 0).map(RaftId)
}

/// The lineage that a volume's data belongs to.
pub fn lineage(state: &State) -> Option<Id128> {
    match &state.position {
        Phase::Blank => None,
        Phase::Founding { lineage }
        | Phase::Assigned { lineage, .. }
        | Phase::Member { lineage, .. }
        | Phase::Evicted { lineage, .. } => Some(*lineage),
    }
}

impl Cluster {
    /// Wants every node to be a started voter of one raft cluster and one lineage, each under the id that its own volume names, and
    /// nobody else to be listed.
    ///
    /// # Panics
    /// When it is not so, with what every console said.
    pub fn assert_one_cluster(&self) {
        let states: Vec<_> = (0..self.nodes.len())
            .map(|i| self.member(i).unwrap_or_else(|| panic!("node {i} is no member\n{}", self.story())))
            .collect();
        let clusters: BTreeSet<_> = states.iter().map(|(cluster, _)| *cluster).collect();
        let lineages: BTreeSet<_> = self.nodes.iter().filter_map(|n| lineage(&n.state()?)).collect();
        assert_eq!((clusters.len(), lineages.len()), (1, 1), "one raft cluster, one lineage\n{}", self.story());
        let mine: BTreeSet<_> = states.iter().map(|(_, member)| *member).collect();
        assert_eq!(mine.len(), self.nodes.len(), "every member has an id of its own\n{}", self.story());
        let list = members(&self.nodes[0]).unwrap_or_else(|| panic!("no member list\n{}", self.story()));
        let listed: BTreeSet<_> = list.iter().map(|m| m.id).collect();
        assert_eq!(listed, mine, "{list:?}\n{}", self.story());
        assert!(list.iter().all(|m| m.started && !m.learner), "{list:?}\n{}", self.story());
    }
}
