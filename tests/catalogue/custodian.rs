//! What the leader's agent and each node's own do about members that must not be: removed ones, learners that differ, volumes that went
//! back in time.
#![expect(clippy::disallowed_methods, reason = "tests bend files")]

use std::path::Path;

use kiln_firstboot::digest::Id128;
use kiln_firstboot::state::{Phase, RaftId};
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::node::text;
use kiln_tests::program::run;
use kiln_tests::wait::until;

/// Waits until the node knows that the cluster removed it, has halted, and runs no etcd.
fn wait_evicted(cluster: &Cluster, index: usize, id: RaftId) {
    let node = &cluster.nodes[index];
    until(
        &format!("{} to be evicted", node.fqdn),
        PATIENCE,
        || match node.state()?.position {
            Phase::Evicted { member, .. } if member == id => (!node.etcd_runs()).then_some(()),
            Phase::Evicted { .. }
            | Phase::Blank
            | Phase::Founding { .. }
            | Phase::Assigned { .. }
            | Phase::Member { .. } => None,
        },
        || cluster.story(),
    );
    cluster.wait_said(index, &format!("has removed this node's member {id}"));
}

/// As an operator does it: etcd refuses for five seconds after members have connected anew, and the answer may get lost with the member
/// that gave it, so what counts is the list.
fn remove(cluster: &Cluster, id: RaftId) {
    until(
        "etcd to remove a member",
        PATIENCE,
        || {
            drop(cluster.etcdctl(&["member", "remove", &id.to_string()]));
            let list = cluster.etcdctl(&["member", "list"]);
            let text = String::from_utf8_lossy(&list.stdout).into_owned();
            (list.status.success() && !text.contains(&format!("{id}, "))).then_some(())
        },
        || cluster.story(),
    );
}

/// E20: member removed by operator while down: EVICTED on return. And one that is removed while it runs.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn e20_a_member_removed_by_the_operator_is_evicted() {
    let mut cluster = Cluster::new(3);
    cluster.power_on();
    cluster.wait_activated();
    let id = |cluster: &Cluster, index| cluster.member(index).expect("it is a member").1;

    let third = id(&cluster, 2);
    cluster.nodes[2].power_off();
    remove(&cluster, third);
    cluster.nodes[2].power_on();
    wait_evicted(&cluster, 2, third);

    let second = id(&cluster, 1);
    remove(&cluster, second);
    wait_evicted(&cluster, 1, second);

    // Nothing of it touches the member that is left, and another boot changes nothing.
    cluster.nodes[2].power_off();
    cluster.nodes[2].power_on();
    wait_evicted(&cluster, 2, third);
    cluster.put("after", "all");
}

/// C17: VM snapshot rolled back. Everything loses its power, so nobody's memory but etcd's own tells of the later boot.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn c17_a_volume_rolled_back_by_one_boot_halts_by_etcds_record_of_its_boots() {
    let mut cluster = Cluster::new(3);
    cluster.power_on();
    cluster.wait_activated();
    cluster.nodes[2].power_off();
    let (data, kept) = (cluster.nodes[2].home.join("data"), cluster.nodes[2].home.join("kept"));
    run(&["cp", "-a", &text(&data), &text(&kept)]);
    cluster.nodes[2].power_on();
    let key = format!("/kiln/boots/{}", cluster.nodes[2].fqdn);
    let boots = || -> Option<u64> {
        let said = cluster.etcdctl(&["get", "--print-value-only", &key]);
        let record: serde_json::Value = serde_json::from_slice(&said.stdout).ok()?;
        record["boot_counter"].as_u64()
    };
    until("its second boot to be written down", PATIENCE, || boots().filter(|count| *count == 2), || cluster.story());

    cluster.power_off();
    run(&["rm", "-r", &text(&data)]);
    run(&["mv", &text(&kept), &text(&data)]);
    cluster.power_on();
    cluster.wait_said(2, "remembers boot 2 of the same volume");
    until("its etcd to be stopped", PATIENCE, || (!cluster.nodes[2].etcd_runs()).then_some(()), || cluster.story());
    cluster.wait_serving(&[0, 1]);
    cluster.put("still", "serving");
    kiln_tests::wait::holds(
        "it stays down",
        std::time::Duration::from_secs(5),
        || !cluster.nodes[2].etcd_runs(),
        || cluster.story(),
    );
}

/// Replaces every occurrence of `from` in a file by `to`, of the same length; how often.
fn bend(file: &Path, from: &str, to: &str) -> usize {
    assert_eq!(from.len(), to.len(), "nothing is to move");
    let mut bytes = fs_err::read(file).expect("reading a store");
    let places: Vec<usize> =
        bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(at, _)| at).collect();
    for at in &places {
        bytes[*at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    fs_err::write(file, bytes).expect("writing a store");
    places.len()
}

/// A learner that differs is refused and removed: what etcd itself would promote, for its log has caught up. A real store, with one
/// value damaged on the disk.
#[test]
#[ignore = "needs root, etcd, dnsmasq and a firstboot with faults"]
fn a_learner_whose_store_differs_from_the_leaders_is_removed_instead_of_promoted() {
    let mut cluster = Cluster::new(3);
    cluster.power_on();
    cluster.wait_activated();
    let third = cluster.member(2).expect("it is a member").1;
    cluster.nodes[2].power_off();
    remove(&cluster, third);
    cluster.nodes[2].wipe();
    // The third gets a place and goes dark; then nobody is there to promote it while it catches up.
    cluster.nodes[2].set_faults(&[("KILN_CUT", "assigned")]);
    cluster.nodes[2].power_on();
    until(
        "the third to be cut with its place",
        PATIENCE,
        || (cluster.nodes[2].console().contains("cut at assigned") && !cluster.nodes[2].agent_runs()).then_some(()),
        || cluster.story(),
    );
    for index in [0, 1] {
        cluster.nodes[index].crash_agent();
    }
    // In the same boot: in another one it would give the place up.
    cluster.nodes[2].set_faults(&[]);
    cluster.nodes[2].restart_agent();
    let db = cluster.nodes[2].home.join("data/etcd/member/snap/db");
    let instance = cluster.nodes[1].state().expect("it has a state").instance.to_string();
    // etcd commits ten times a second; what is in the file when it is killed stays there.
    until(
        "the learner to hold the second's record",
        PATIENCE,
        || {
            cluster.member(2)?;
            let bytes = fs_err::read(&db).ok()?;
            bytes.windows(instance.len()).any(|window| window == instance.as_bytes()).then_some(())
        },
        || cluster.story(),
    );
    cluster.nodes[2].power_off();
    let member = cluster.member(2).expect("it has its id").1;
    assert!(bend(&db, &instance, &Id128([0xee; 16]).to_string()) > 0, "nothing was bent");
    cluster.nodes[2].power_on();
    for index in [0, 1] {
        cluster.nodes[index].restart_agent();
    }
    wait_evicted(&cluster, 2, member);
    let alarm = format!("ALARM: the store of learner {member}");
    assert!((0..2).any(|index| cluster.nodes[index].console().contains(&alarm)), "{}", cluster.story());
    for index in [0, 1] {
        let promoted = cluster.nodes[index].console().contains(&format!("member {member} has caught up"));
        assert!(!promoted, "{}", cluster.story());
    }
    // Its disk wiped on purpose, it enters as anybody does.
    cluster.nodes[2].power_off();
    cluster.nodes[2].wipe();
    cluster.nodes[2].power_on();
    cluster.wait_serving(&[2]);
    assert_ne!(cluster.member(2).expect("it is a member").1, member);
}
