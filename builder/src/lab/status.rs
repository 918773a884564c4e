//! The state of a lab as data and as a table. Field names are a promise to scripts.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::message::{Holds, NodeStatus};
use kiln_firstboot::wait::utc;
use serde::Serialize;

use crate::profile::Node;

/// A whole lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LabStatus {
    /// Every node of the profile has seen the cluster activated.
    pub activated: bool,
    /// The formation all answering nodes with data belong to; nothing before one exists, or when they disagree.
    pub lineage: Option<String>,
    /// The key of the image that the profile's last build made; nothing when the store keeps none.
    pub built_image: Option<String>,
    /// The nodes, in the order of the profile.
    pub nodes: Vec<NodeRow>,
    /// The hypervisors, in the order of the profile; empty, and not there in JSON, where the lab plays none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostRow>,
}

/// One hypervisor that the lab plays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostRow {
    /// Its name.
    pub name: String,
    /// It is up.
    pub up: bool,
    /// The network between it and the other hypervisors is cut.
    pub cut: bool,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its full name.
    pub fqdn: String,
    /// The agent's word; `off` when it is powered off, `booting` when it is on and its agent does not answer.
    pub phase: String,
    /// Its raft member id in etcd's notation.
    pub member_id: Option<String>,
    /// It is a learner still.
    pub learner: bool,
    /// It has seen the cluster activated; nothing of a node that does not answer, as what it has seen is not known.
    pub activated: Option<bool>,
    /// Its etcd is a voter that answers linearizable reads, with no alarm.
    pub healthy: bool,
    /// The key of the image it runs.
    pub image_key: Option<String>,
    /// It runs another image than the profile's last build made. Never of a node that does not answer: what it runs is not known.
    pub drift: bool,
    /// The row of the decision table that holds on it; see ARCHITECTURE.md ("The decision").
    pub row: Option<u8>,
    /// What it waits for or why it halted, and what can be done; empty when it serves.
    pub waiting_for: String,
    /// Since when, Unix seconds; 0 when it serves.
    pub waiting_since: i64,
}

/// Brings power states and answers together. `nodes`, `powered` and `answers` go by the profile's order; `built` is the image that the
/// profile's last build made.
pub fn summarize(
    nodes: &[Node],
    powered: &[bool],
    answers: &[Result<NodeStatus, String>],
    built: Option<Sha256Digest>,
) -> LabStatus {
    let row = |((node, on), answer): ((_, &bool), &Result<_, _>)| row(node, *on, answer.as_ref().ok(), built);
    let rows: Vec<NodeRow> = nodes.iter().zip(powered).zip(answers).map(row).collect();
    let mut lineages: Vec<String> = answers.iter().flatten().filter_map(lineage).collect();
    lineages.sort();
    lineages.dedup();
    LabStatus {
        activated: rows.iter().all(|row| row.activated == Some(true)),
        lineage: if lineages.len() == 1 { lineages.pop() } else { None },
        built_image: built.map(|key| key.to_string()),
        nodes: rows,
        hosts: vec![],
    }
}

fn lineage(status: &NodeStatus) -> Option<String> {
    match &status.holds {
        Holds::Running(running) => Some(running.lineage.to_string()),
        Holds::Data { lineage } => Some(lineage.to_string()),
        Holds::Blank | Holds::Unknown => None,
    }
}

fn row(node: &Node, powered: bool, answer: Option<&NodeStatus>, built: Option<Sha256Digest>) -> NodeRow {
    let silent = |phase: &str, waiting_for: &str| NodeRow {
        name: node.name.clone(),
        fqdn: node.fqdn.to_string(),
        phase: phase.into(),
        member_id: None,
        learner: false,
        activated: None,
        healthy: false,
        image_key: None,
        drift: false,
        row: None,
        waiting_for: waiting_for.into(),
        waiting_since: 0,
    };
    let Some(status) = answer else {
        return if powered { silent("booting", "its agent does not answer yet") } else { silent("off", "") };
    };
    let running = match &status.holds {
        Holds::Running(running) => Some(running),
        Holds::Blank | Holds::Data { .. } | Holds::Unknown => None,
    };
    NodeRow {
        phase: status.phase.clone(),
        member_id: running.map(|r| r.member.to_string()),
        learner: running.is_some_and(|r| r.learner),
        activated: Some(status.activated),
        healthy: running.is_some_and(|r| r.linearizable && !r.learner && r.alarms.is_empty()),
        image_key: Some(status.image_key.to_string()),
        drift: built.is_some_and(|built| built != status.image_key),
        row: Some(status.row),
        waiting_for: status.waiting_for.clone(),
        waiting_since: status.waiting_since,
        ..silent("", "")
    }
}

/// As much of a key as tells it from others, and as `kiln store ls` shows.
fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

impl LabStatus {
    /// For people: a headline, a table, and under it what each node that does not serve waits for and what can be done.
    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["node", "phase", "member", "role", "healthy", "image", "row", "waits since"]);
        for node in &self.nodes {
            let role = match (&node.member_id, node.learner) {
                (None, _) => "",
                (Some(_), true) => "learner",
                (Some(_), false) => "voter",
            };
            let healthy = if node.healthy { "yes" } else { "no" };
            let member = node.member_id.as_deref().unwrap_or("");
            let since = if node.waiting_since == 0 { String::new() } else { utc(node.waiting_since) };
            let row = node.row.map(|row| row.to_string()).unwrap_or_default();
            let image = node.image_key.as_deref().map(short).unwrap_or_default();
            let image = if node.drift { format!("{image} (drift)") } else { image.to_owned() };
            table.add_row([&node.fqdn, &node.phase, member, role, healthy, &image, &row, &since]);
        }
        let lineage = self.lineage.as_deref().unwrap_or("none");
        let mut text = format!("{}, lineage {lineage}\n{table}\n", self.activation());
        for host in &self.hosts {
            let up = if host.up { "up" } else { "down" };
            let cut = if host.cut { ", cut off from the other hosts" } else { "" };
            text.push_str(&format!("host {}: {up}{cut}\n", host.name));
        }
        let drifted: Vec<&str> = self.nodes.iter().filter(|n| n.drift).map(|n| n.name.as_str()).collect();
        if let (Some(built), false) = (&self.built_image, drifted.is_empty()) {
            let (names, built) = (drifted.join(", "), short(built));
            // What is on hosts is theirs to change who put it there.
            let command =
                if self.hosts.is_empty() { "kiln lab reimage PROFILE NODE" } else { "kiln rollout PROFILE --lab" };
            text.push_str(&format!("\nThe last build made image {built}; to have it on {names}: `{command}`\n"));
        }
        let waiting: Vec<&NodeRow> = self.nodes.iter().filter(|node| !node.waiting_for.is_empty()).collect();
        for node in &waiting {
            let verb = if node.phase == "halted" || node.phase == "evicted" { "has halted" } else { "waits" };
            text.push_str(&format!("\n{} {verb}: {}\n", node.name, node.waiting_for));
        }
        if waiting.iter().any(|node| node.row.is_some()) {
            text.push_str("\nStep by step: `kiln lab exec PROFILE NODE -- firstboot explain`\n");
        }
        text
    }

    /// One node that has seen the cluster activated is enough: it stays so. That no node says it is evidence only where each was heard.
    fn activation(&self) -> String {
        if self.activated {
            return "activated".into();
        }
        let says = |said: Option<bool>| self.nodes.iter().any(|node| node.activated == said);
        if !says(Some(true)) {
            return if says(None) { "not known to be activated" } else { "not activated" }.into();
        }
        let unseen = self.nodes.iter().filter(|node| node.activated != Some(true));
        let unseen: Vec<&str> = unseen.map(|node| node.name.as_str()).collect();
        format!("activated (not said by {})", unseen.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::sample;
    use kiln_firstboot::digest::Id128;
    use kiln_firstboot::message::Running;
    use kiln_firstboot::state::RaftId;

    fn answer(node: &Node, holds: Holds, activated: bool) -> NodeStatus {
        NodeStatus { activated, ..sample::status(node.fqdn.clone(), holds) }
    }

    fn running(lineage: u8) -> Holds {
        let member = RaftId(0xabc);
        Holds::Running(Running { member, leader: Some(member), ..sample::running(Id128([lineage; 16])) })
    }

    #[test]
    fn a_node_that_is_off_is_not_one_that_boots() {
        let nodes = super::super::dns::tests::profile().nodes;
        let silent = || Err("no route".to_owned());
        let status = summarize(&nodes, &[true, false], &[silent(), silent()], Some(Sha256Digest([9; 32])));
        assert_eq!((status.nodes[0].phase.as_str(), status.nodes[1].phase.as_str()), ("booting", "off"));
        assert!(status.nodes.iter().all(|n| !n.drift && n.image_key.is_none() && n.activated.is_none()));
        assert!(!status.activated && status.lineage.is_none());
    }

    #[test]
    fn is_activated_when_every_node_says_so() {
        let nodes = super::super::dns::tests::profile().nodes;
        let all = |a: bool, b: bool| {
            let answers = [Ok(answer(&nodes[0], running(7), a)), Ok(answer(&nodes[1], running(7), b))];
            summarize(&nodes, &[true, true], &answers, None)
        };
        assert!(!all(true, false).activated);
        let status = all(true, true);
        assert!(status.activated && status.nodes.iter().all(|n| n.healthy));
        assert_eq!(status.lineage, Some(Id128([7; 16]).to_string()));
        assert_eq!(status.nodes[0].member_id.as_deref(), Some("abc"));
    }

    #[test]
    fn people_read_that_it_is_activated_where_one_node_says_so_and_that_it_is_not_where_each_was_heard() {
        let nodes = super::super::dns::tests::profile().nodes;
        let says = |activated: bool| Ok(answer(&nodes[0], running(7), activated));
        let silent = || Err("no route".to_owned());
        let headline = |answers: [Result<NodeStatus, String>; 2]| {
            let text = summarize(&nodes, &[true, true], &answers, None).table();
            text.split_once(", lineage").unwrap().0.to_owned()
        };
        let second = &nodes[1].name;
        assert_eq!(headline([says(true), says(true)]), "activated");
        assert_eq!(headline([says(true), says(false)]), format!("activated (not said by {second})"));
        assert_eq!(headline([says(true), silent()]), format!("activated (not said by {second})"));
        assert_eq!(headline([says(false), says(false)]), "not activated");
        assert_eq!(headline([says(false), silent()]), "not known to be activated");
        assert_eq!(headline([silent(), silent()]), "not known to be activated");
    }

    #[test]
    fn two_lineages_are_none() {
        let nodes = super::super::dns::tests::profile().nodes;
        let answers = [Ok(answer(&nodes[0], running(7), true)), Ok(answer(&nodes[1], running(8), true))];
        assert_eq!(summarize(&nodes, &[true, true], &answers, None).lineage, None);
    }

    #[test]
    fn people_read_what_each_node_waits_for_and_where_to_read_more() {
        let nodes = super::super::dns::tests::profile().nodes;
        let mut waits = answer(&nodes[0], Holds::Blank, false);
        (waits.phase, waits.row, waits.waiting_since) = ("blank".into(), 13, 1_700_001_000);
        waits.waiting_for = "etcd3 does not answer; start etcd3".into();
        let text =
            summarize(&nodes, &[true, true], &[Ok(waits), Ok(answer(&nodes[1], running(7), true))], None).table();
        assert!(text.contains(&format!("\n{} waits: etcd3 does not answer; start etcd3\n", nodes[0].name)), "{text}");
        assert!(text.contains("13") && text.contains("2023-11-14 22:30:00 UTC"), "{text}");
        assert!(text.ends_with("-- firstboot explain`\n"), "{text}");
        assert!(!text.contains(&format!("\n{} waits", nodes[1].name)), "{text}");
        let all = summarize(&nodes[..1], &[true], &[Ok(answer(&nodes[0], running(7), true))], None).table();
        assert!(!all.contains("Step by step"), "{all}");
    }

    #[test]
    fn a_node_with_another_image_than_the_last_build_made_has_drifted() {
        let nodes = super::super::dns::tests::profile().nodes;
        let (old, new) = (Sha256Digest([3; 32]), Sha256Digest([4; 32]));
        let mut reimaged = answer(&nodes[1], running(7), true);
        reimaged.image_key = new;
        let answers = [Ok(answer(&nodes[0], running(7), true)), Ok(reimaged)];
        let of = |built| summarize(&nodes, &[true, true], &answers, built);
        let drift = |built| of(built).nodes.iter().map(|n| n.drift).collect::<Vec<_>>();
        assert_eq!(drift(Some(new)), [true, false]);
        assert_eq!(drift(Some(old)), [false, true]);
        assert_eq!(drift(None), [false, false], "without a build there is nothing to differ from");
        let text = of(Some(new)).table();
        assert!(text.contains("030303030303 (drift)") && text.contains("image 040404040404; to have it on"), "{text}");
        assert!(!of(None).table().contains("drift"));
    }

    #[test]
    fn json_has_the_promised_fields() {
        let nodes = super::super::dns::tests::profile().nodes;
        let status = summarize(&nodes[..1], &[true], &[Ok(answer(&nodes[0], running(7), true))], None);
        let value = serde_json::to_value(&status).unwrap();
        let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&value), ["activated", "built_image", "lineage", "nodes"]);
        assert_eq!(
            keys(&value["nodes"][0]),
            [
                "activated",
                "drift",
                "fqdn",
                "healthy",
                "image_key",
                "learner",
                "member_id",
                "name",
                "phase",
                "row",
                "waiting_for",
                "waiting_since"
            ]
        );
    }
}
