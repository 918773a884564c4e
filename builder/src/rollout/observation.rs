//! What a rollout sees of a cluster before each act. Data only; errors are part of it.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeMap;

use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::etcd::{EtcdStatus, ListedMember};
use kiln_firstboot::message::{Holds, NodeStatus, Running};
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::state::RaftId;
use kiln_firstboot::version::EtcdVersion;

use crate::host::Seen;

/// How many entries of the log a member may be behind the one that is furthest. etcd's leader keeps the last 5000 for members that lag
/// (`DefaultSnapshotCatchUpEntries`, `server/etcdserver/server.go` of 3.5 to 3.7); who is further behind needs a snapshot. A fifth of that
/// leaves room for the entries that are written while the members are asked one after the other.
pub const LAG: u64 = 1000;

/// One look at everything.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Unix seconds.
    pub now: i64,
    /// The nodes, in the order of the profile.
    pub nodes: Vec<NodeView>,
    /// The member list, read linearizably.
    pub members: Vec<ListedMember>,
    /// Alarms raised anywhere, by etcd's names.
    pub alarms: Vec<String>,
    /// The images of all generations the cluster ever had, by key, each with its latest generation.
    pub known: BTreeMap<Sha256Digest, u64>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its full name.
    pub fqdn: Fqdn,
    /// What its etcd said through its client port, or why it said nothing.
    pub etcd: Result<EtcdStatus, String>,
    /// What its agent said, or why it said nothing.
    pub agent: Result<NodeStatus, String>,
    /// Its machine, where its host was asked. Nothing when the host has none for it; an error when that is not known.
    pub machine: Result<Option<Seen>, String>,
    /// Whether its store is the leader's; looked at only for the node in hand, once everything else is in order.
    pub agreement: Agreement,
}

/// Whether a member's store is the leader's: etcd's own hash over every key and revision, compared at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// Not looked at, or not to be told now: the two had compacted at different revisions.
    Unknown,
    /// The same.
    Same,
    /// Different.
    Different,
}

impl Observation {
    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The entry of the member list that is a node's.
    pub fn member(&self, node: &NodeView) -> Option<&ListedMember> {
        let url = node.fqdn.peer_url();
        self.members.iter().find(|member| member.peer_urls.contains(&url))
    }

    /// The applied index of the member that is furthest.
    fn furthest(&self) -> u64 {
        self.nodes.iter().filter_map(|node| node.etcd.as_ref().ok()).map(|etcd| etcd.applied_index).max().unwrap_or(0)
    }

    /// How many entries a node is behind the one that is furthest; nothing when its etcd does not answer.
    pub fn lag(&self, node: &NodeView) -> Option<u64> {
        node.etcd.as_ref().ok().map(|etcd| self.furthest().saturating_sub(etcd.applied_index))
    }

    /// The leader, where every member that answers names the same one.
    pub fn leader(&self) -> Option<RaftId> {
        let mut named = self.nodes.iter().filter_map(|node| node.etcd.as_ref().ok()).map(|etcd| etcd.leader);
        let first = named.next()??;
        named.all(|leader| leader == Some(first)).then_some(first)
    }

    /// The node that leads.
    pub fn leading(&self) -> Option<&NodeView> {
        let leader = self.leader()?;
        self.nodes.iter().find(|node| self.member(node).is_some_and(|member| member.id == leader))
    }

    /// The node votes, serves, and reads with the others. Why not, if not.
    pub fn serves(&self, node: &NodeView) -> Result<(), String> {
        let Some(member) = self.member(node) else { return Err("it is no member of the cluster".into()) };
        if member.learner || member.client_urls.is_empty() {
            return Err("it does not vote yet".into());
        }
        let status = node.agent.as_ref().map_err(|why| format!("its agent does not answer: {why}"))?;
        let running = running(status)?;
        if running.member != member.id {
            return Err("it runs another member than the cluster lists".into());
        }
        if !running.linearizable {
            return Err("its etcd does not read with the others".into());
        }
        let etcd = node.etcd.as_ref().map_err(|why| format!("its etcd does not answer clients: {why}"))?;
        if etcd.leader.is_none() {
            return Err("its etcd knows no leader".into());
        }
        Ok(())
    }

    /// As [`Observation::serves`], on that image and with no more lag than [`LAG`].
    pub fn serves_on(&self, node: &NodeView, image: Sha256Digest) -> Result<(), String> {
        if let Ok(status) = &node.agent
            && status.image_key != image
        {
            return Err(format!("it runs image {:.12}", status.image_key.to_string()));
        }
        self.serves(node)?;
        match self.lag(node) {
            Some(lag) if lag > LAG => Err(format!("it is {lag} entries behind")),
            Some(_) | None => Ok(()),
        }
    }
}

impl NodeView {
    /// The version its etcd runs.
    pub fn version(&self) -> Option<EtcdVersion> {
        self.etcd.as_ref().ok()?.version.parse().ok()
    }

    /// The image its agent says it runs.
    pub fn image(&self) -> Option<Sha256Digest> {
        self.agent.as_ref().ok().map(|status| status.image_key)
    }
}

fn running(status: &NodeStatus) -> Result<&Running, String> {
    match &status.holds {
        Holds::Running(running) if running.learner => Err("it does not vote yet".into()),
        Holds::Running(running) => Ok(running),
        Holds::Blank | Holds::Data { .. } | Holds::Unknown if status.waiting_for.is_empty() => {
            Err("its etcd does not run".into())
        }
        Holds::Blank | Holds::Data { .. } | Holds::Unknown => Err(status.waiting_for.clone()),
    }
}
