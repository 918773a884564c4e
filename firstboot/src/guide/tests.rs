//! What somebody reads at three in the night.

use super::guide;
use crate::decide::decide;
use crate::message::Holds;
use crate::observation::{Observation, PeerAnswer};
use crate::sample::*;
use crate::state::RaftId;

fn silent(seen: &mut Observation, n: u8) {
    seen.peer_mut(n).answer = PeerAnswer::Unreachable("connection refused".into());
}

fn text(seen: &Observation) -> String {
    guide(seen, &decide(seen), None).join("\n")
}

/// C13: two of three wiped while the third is down: they wait for ever, say why, and print the operator's way out.
#[test]
fn c13_two_wiped_members_say_why_they_wait_and_what_the_way_out_is() {
    let mut seen = observation(1, 3);
    silent(&mut seen, 3);
    let told = text(&seen);
    for words in [
        "This node's data disk is blank.",
        "etcd3.lab.example has not said so, and may hold the only copy of everything this cluster has acknowledged",
        "no end of its own, on purpose",
        "1. Bring back etcd3.lab.example, each with its own data disk. As soon as 2 of 3 members run with data",
        "2 of 3 members are blank, which leaves fewer than 2",
        "attach the old disk",
        "2. If the data disks of a majority are gone for good",
        "a. Save what is left, before anything else",
        "b. `kiln pki init lab --generation 2`",
        "c. Give every node its new seed and a blank data disk",
        "etcdctl del --prefix /kiln/",
        "make-mirror --dest-cacert CA --dest-cert CERT --dest-key KEY https://etcd1.lab.example:2379",
        "If this is a new cluster that has never served",
    ] {
        assert!(told.contains(words), "{words:?} is not in\n{told}");
    }
    // The third is back with its data: it is no majority, and says so; nobody forms.
    let mut back = observation(1, 3);
    back.peer_status(3).holds = Holds::Data { lineage: LINEAGE };
    let told = text(&back);
    assert!(told.contains("etcd3.lab.example holds data of a cluster that does not serve"), "{told}");
    assert!(told.contains("--generation 2") && !told.contains("has never served"), "{told}");
    let mut third = observation(3, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
    third.peers.clear();
    let own = status(3, &charter(3), Holds::Data { lineage: LINEAGE });
    let told = guide(&third, &decide(&third), Some(&own)).join("\n");
    assert!(told.contains("fewer than 2 of 3 members do") && told.contains("--generation 2"), "{told}");
    let serving = status(3, &charter(3), running(3, 3));
    assert!(guide(&third, &decide(&third), Some(&serving)).is_empty(), "a member that serves needs no advice");
}

#[test]
fn who_waits_for_a_formation_is_sent_to_those_that_form() {
    let mut seen = observation(3, 3);
    seen.peer_status(1).holds = Holds::Data { lineage: LINEAGE };
    let told = text(&seen);
    assert!(told.contains("1. If this lasts, see what etcd1.lab.example waits for"), "{told}");
    assert!(told.contains("as soon as what there is of the cluster serves"), "{told}");
    assert!(!told.contains("Bring back"), "{told}");
}

#[test]
fn one_wiped_member_of_three_is_told_that_its_peers_suffice() {
    let mut seen = observation(1, 3);
    silent(&mut seen, 2);
    silent(&mut seen, 3);
    let told = text(&seen);
    assert!(told.contains("1. Bring back etcd2.lab.example and etcd3.lab.example"), "{told}");
    assert!(!told.contains("which leaves fewer"), "the two others are a majority: {told}");
}

#[test]
fn after_the_window_the_operator_says_whether_there_ever_was_data() {
    let mut seen = observation(1, 3);
    seen.now = seen.charter_mut().form_until + 1;
    let told = text(&seen);
    assert!(
        told.contains("1. There never was a cluster") && told.contains("kiln pki init lab --generation 2"),
        "{told}"
    );
    assert!(told.contains("2. If the data disks of a majority are gone"), "{told}");
}

#[test]
fn a_halted_member_is_wiped_only_where_the_others_serve() {
    let mut seen = observation(1, 3).in_phase(member());
    seen.peers.clear();
    let told = text(&seen);
    assert!(told.contains("If they do not, do not touch this disk"), "{told}");
    let mut foreign = observation(1, 3);
    foreign.image.env = "other".into();
    assert_eq!(text(&foreign), "", "the hint says it all");
}
