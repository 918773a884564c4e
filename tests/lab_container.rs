//! The lab with the `container` driver: it serves, it bears crashes, and it leaves nothing behind.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]

use kiln_tests::lab::{CONTAINER_PATIENCE, Lab, Traces};
use kiln_tests::wait::until;

const UP: [&str; 3] = ["up", "--driver", "container"];

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn a_cluster_comes_up_bears_a_power_cut_and_leaves_nothing() {
    let lab = Lab::new();
    let before = Traces::now(&lab.dir());
    let up = lab.json(&UP);
    assert_eq!(up["activated"], true);
    assert_eq!(up["driver"], "container");
    let ids = members(&up);
    assert!(ids.iter().all(Option::is_some), "{up}");
    assert_eq!(lab.ok(&["etcdctl", "put", "greeting", "hello"]), "OK\n");
    lab.refuses_strangers();

    let again = lab.json(&UP);
    assert_eq!((members(&again), &again["lineage"]), (ids.clone(), &up["lineage"]), "a second `up` changes nothing");

    lab.ok(&["kill", "--all"]);
    let off = lab.json(&["status"]);
    assert!(off["nodes"].as_array().expect("a status has nodes").iter().all(|n| n["phase"] == "off"), "{off}");
    for node in ["etcd3", "etcd1", "etcd2"] {
        lab.ok(&["start", node]);
    }
    let back = lab.wait_serving(CONTAINER_PATIENCE);
    assert_eq!((members(&back), &back["lineage"]), (ids, &up["lineage"]), "the same members of the same cluster");
    assert_eq!(lab.ok(&["etcdctl", "get", "greeting", "--print-value-only"]), "hello\n");

    lab.ok(&["down"]);
    before.are_all(&lab.dir());
}

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn an_up_killed_at_any_point_is_taken_down_without_a_trace() {
    let lab = Lab::new();
    let before = Traces::now(&lab.dir());
    // Each file is made at another stage; the last ones while nodes already run.
    for stage in [
        "lock",
        "lab.json",
        "host.log",
        "host.ready",
        "dhcp.conf",
        "dns.log",
        "nodes/etcd1/seed.tar",
        "nodes/etcd3/console.log",
    ] {
        let mut up = lab.start(&UP);
        let file = lab.dir().join(stage);
        until(stage, CONTAINER_PATIENCE, || file.exists().then_some(()), || lab.story());
        up.kill().unwrap();
        up.wait().unwrap();
        lab.ok(&["down"]);
        println!("killed when `{stage}` had been made");
        before.are_all(&lab.dir());
    }
}

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn an_up_that_was_killed_goes_on_where_it_stopped() {
    let lab = Lab::new();
    let mut up = lab.start(&UP);
    let console = lab.dir().join("nodes/etcd1/console.log");
    until("the first node to start", CONTAINER_PATIENCE, || console.exists().then_some(()), || lab.story());
    up.kill().unwrap();
    up.wait().unwrap();
    assert_eq!(lab.json(&["up"])["activated"], true, "and with the driver it was started with");
}

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn mending_dns_is_enough() {
    let lab = Lab::new();
    // With only one node on, the cluster cannot have formed before DNS is bent.
    lab.ok(&[&UP[..], &["--nodes", "etcd1"]].concat());
    lab.ok(&["dns", "drop-ptr", "etcd2"]);
    lab.ok(&["start", "--all"]);
    let waiting = lab.wait_status("etcd2's console to name the missing record", CONTAINER_PATIENCE, |_| {
        lab.ok(&["console", "etcd2"]).contains("PTR")
    });
    assert_eq!(waiting["activated"], false);
    lab.ok(&["dns", "reset"]);
    lab.wait_serving(CONTAINER_PATIENCE);
}

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn a_member_restarts_and_serves_while_dns_is_down() {
    let lab = Lab::new();
    let up = lab.json(&UP);
    lab.ok(&["kill", "etcd2"]);
    lab.ok(&["dns", "stop"]);
    lab.ok(&["start", "etcd2"]);
    let back = lab.wait_serving(CONTAINER_PATIENCE);
    assert_eq!((members(&back), &back["lineage"]), (members(&up), &up["lineage"]));
}

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn a_wiped_voter_keeps_its_place_until_its_silence_has_lasted() {
    let lab = Lab::new();
    let ids = members(&lab.json(&UP));
    lab.ok(&["etcdctl", "put", "greeting", "hello"]);
    lab.ok(&["wipe", "etcd2"]);
    assert_eq!(lab.json(&["status"])["nodes"][1]["phase"], "off");
    lab.ok(&["start", "etcd2"]);
    // It is replaced after a minute (C12 waits for that); until then nothing changes, and it says so.
    let waiting = lab.wait_status("etcd2 to be put off", CONTAINER_PATIENCE, |status| {
        status["nodes"][1]["waiting_for"].as_str().unwrap().contains("heard nothing of member")
    });
    let now = members(&waiting);
    assert_eq!((&now[0], &now[1], &now[2]), (&ids[0], &None, &ids[2]));
    assert_eq!(lab.ok(&["etcdctl", "get", "greeting", "--print-value-only"]), "hello\n");
}

fn members(status: &serde_json::Value) -> Vec<Option<String>> {
    let nodes = status["nodes"].as_array().expect("a status has nodes");
    nodes.iter().map(|n| n["member_id"].as_str().map(str::to_owned)).collect()
}
