//! The tutorial's six nodes, simulated: the profile's two hypervisors are one lab host, its nodes are containers.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]

use std::collections::BTreeSet;

use kiln_tests::lab::{Lab, Traces};
use kiln_tests::places::{Scratch, Seeding, tutorial};

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn the_tutorials_six_nodes_form_one_cluster() {
    let scratch = Scratch::new(Seeding::Link);
    scratch.add_profile("k8s0", &tutorial());
    let lab = Lab::of(scratch.places.clone(), "k8s0");
    let before = Traces::now(&lab.dir());

    let up = lab.json(&["up", "--driver", "container"]);
    assert_eq!((&up["profile"], &up["activated"]), (&"k8s0".into(), &true.into()), "{up}");
    assert!(up["lineage"].is_string(), "one lineage: {up}");
    let nodes = up["nodes"].as_array().expect("a status has nodes");
    let names: Vec<_> = nodes.iter().map(|n| n["fqdn"].as_str().unwrap()).collect();
    assert_eq!(names, (1..=6).map(|n| format!("k8s0etcd{n}.kloud.lan")).collect::<Vec<_>>());
    assert!(nodes.iter().all(|n| n["healthy"] == true && n["learner"] == false), "{up}");

    let members: BTreeSet<&str> = nodes.iter().map(|n| n["member_id"].as_str().unwrap()).collect();
    let list = lab.ok(&["etcdctl", "member", "list"]);
    let started: BTreeSet<&str> = list
        .lines()
        .filter(|line| line.contains(", started, ") && line.ends_with(", false"))
        .filter_map(|line| line.split(',').next())
        .collect();
    assert_eq!((members.len(), list.lines().count()), (6, 6), "{list}");
    assert_eq!(started, members, "etcd's own list has the same six voters");

    assert_eq!(lab.ok(&["etcdctl", "put", "greeting", "hello"]), "OK\n");
    // Two are what six can lose.
    lab.ok(&["kill", "k8s0etcd1", "k8s0etcd4"]);
    let rest = ["etcdctl", "--endpoints", "https://10.103.0.103:2379", "get", "greeting", "--print-value-only"];
    assert_eq!(lab.ok(&rest), "hello\n");

    lab.ok(&["down"]);
    before.are_all(&lab.dir());
}
