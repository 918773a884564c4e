//! What a node sees, in a few lines for a person: its disks, its name, the others.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::disk_fact::{DataFact, RootFact, WalFact};
use crate::message::Holds;
use crate::observation::{Observation, PeerAnswer, PeerObservation, StateView};
use crate::state::Phase;

/// One line each: what it is about, and what was seen of it.
pub fn sight(seen: &Observation) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut line = |about: &str, text: String| lines.push((about.to_owned(), text));
    match &seen.root {
        RootFact::Overlay => {}
        RootFact::Other(what) => line("root", what.clone()),
    }
    line("data disk", data(&seen.data));
    line("state", state(&seen.state));
    line("etcd's log", wal(&seen.wal));
    if !seen.own.addresses.is_empty() {
        let addresses = seen.own.addresses.iter().map(|own| own.address.to_string()).collect::<Vec<_>>();
        line("addresses", addresses.join(", "));
    }
    if seen.peers.is_empty() {
        line("others", "not asked: this node's own disk decides".into());
    }
    for peer in &seen.peers {
        line(peer.fqdn.as_str(), other(peer));
    }
    lines
}

fn data(data: &DataFact) -> String {
    match data {
        DataFact::Mounted { formatted_now: true, .. } => "this node's, formatted in this boot".into(),
        DataFact::Mounted { formatted_now: false, free_mib, .. } => format!("this node's, {free_mib} MiB free"),
        DataFact::Absent(why) => format!("none: {why}"),
        DataFact::Unusable(why) => format!("not usable: {why}"),
        DataFact::ReadOnly(why) => format!("read-only: {why}"),
    }
}

fn state(state: &StateView) -> String {
    let state = match state {
        StateView::Absent => return "none written yet".into(),
        StateView::Unreadable(why) => return format!("not readable: {why}"),
        StateView::Read(state) => state,
    };
    let position = match &state.position {
        Phase::Blank => "blank".to_owned(),
        Phase::Founding { lineage } => format!("founding lineage {lineage}"),
        Phase::Assigned { lineage, member, attempted: false, .. } => {
            format!("has a place as member {member} of lineage {lineage}")
        }
        Phase::Assigned { lineage, member, attempted: true, .. } => {
            format!("was started once as member {member} of lineage {lineage}")
        }
        Phase::Member { lineage, member, .. } => format!("member {member} of lineage {lineage}"),
        Phase::Evicted { lineage, member } => format!("was member {member} of lineage {lineage}, and removed"),
    };
    format!("{position}; count {} of this disk", state.boot_counter)
}

fn wal(wal: &WalFact) -> String {
    match wal {
        WalFact::Absent => "none".into(),
        WalFact::Present { member, raft_cluster } => format!("of member {member}, raft cluster {raft_cluster}"),
        WalFact::Bare { .. } => "begun, and nothing in it".into(),
        WalFact::Unreadable(why) => format!("not readable: {why}"),
        WalFact::Unknown => "not looked at".into(),
    }
}

fn other(peer: &PeerObservation) -> String {
    let status = match &peer.answer {
        PeerAnswer::Answered(status) => status,
        PeerAnswer::Unreachable(why) => return format!("does not answer: {why}"),
    };
    let holds = match &status.holds {
        Holds::Blank => "blank".to_owned(),
        Holds::Data { lineage } => format!("holds data of lineage {lineage}, does not serve"),
        Holds::Unknown => "says nothing of its disk".into(),
        Holds::Running(running) => {
            let what = match (running.learner, running.linearizable) {
                (true, _) => "runs, learner",
                (false, true) => "serves",
                (false, false) => "runs without a majority",
            };
            format!("{what}, member {} of lineage {}", running.member, running.lineage)
        }
    };
    match status.waiting_for.lines().next() {
        Some(waits) if !waits.is_empty() => format!("{} ({holds}): {waits}", status.phase),
        Some(_) | None => format!("{} ({holds})", status.phase),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{LINEAGE, member, observation, running};
    use crate::state::RaftId;

    #[test]
    fn tells_of_disk_state_log_and_every_member() {
        let mut seen = observation(1, 3);
        seen.peer_status(2).holds = running(2, 2);
        seen.peer_mut(3).answer = PeerAnswer::Unreachable("connection refused".into());
        let lines = sight(&seen).into_iter().map(|(about, text)| format!("{about}: {text}")).collect::<Vec<_>>();
        assert_eq!(
            lines,
            [
                "data disk: this node's, formatted in this boot".to_owned(),
                "state: blank; count 1 of this disk".into(),
                "etcd's log: none".into(),
                "addresses: 10.0.0.1".into(),
                format!("etcd2.lab.example: blank (serves, member 2 of lineage {LINEAGE})"),
                "etcd3.lab.example: does not answer: connection refused".into(),
            ]
        );
        let mut restarted = observation(1, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
        restarted.peers.clear();
        let lines = sight(&restarted);
        assert_eq!(lines[2].1, "of member a, raft cluster c");
        assert_eq!(lines.last().unwrap().1, "not asked: this node's own disk decides");
    }
}
