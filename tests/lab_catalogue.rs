//! Rows of the catalogue that take a node from the baked image: reimaged, rolled back, cloned, powered off. Driver `container`.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "reads a profile, writes another agent")]

use std::time::Duration;

use kiln_tests::lab::{CONTAINER_PATIENCE, Lab};
use kiln_tests::lab_writer::Writer;
use kiln_tests::places::{Scratch, Seeding};
use kiln_tests::program::{firstboot, workspace};
use kiln_tests::wait::{holds, until};
use serde_json::Value;

/// How long a place of a silent member stays its own before it may be given to another machine, and then some.
const REPLACED_WITHIN: Duration = Duration::from_secs(300);
/// For how long what must not happen is watched. The agents' own rounds are under a second.
const WATCHED: Duration = Duration::from_secs(15);
/// The client writes for half of the time.
const REST: u32 = 1;

/// Three containers, activated, with one key in them.
fn cluster(lab: &Lab) -> Value {
    let up = lab.json(&["up", "--driver", "container"]);
    assert_eq!(up["activated"], true, "{up}");
    assert_eq!(lab.ok(&["etcdctl", "put", "greeting", "hello"]), "OK\n");
    up
}

fn members(status: &Value) -> Vec<Option<String>> {
    let nodes = status["nodes"].as_array().expect("a status has nodes");
    nodes.iter().map(|n| n["member_id"].as_str().map(str::to_owned)).collect()
}

fn greeting(lab: &Lab) -> String {
    lab.ok(&["etcdctl", "get", "greeting", "--print-value-only"])
}

fn node(status: &Value, index: usize, field: &str) -> String {
    status["nodes"][index - 1][field].as_str().unwrap_or_default().to_owned()
}

/// Waits until the second node votes under another id than it had.
fn replaced(lab: &Lab, up: &Value) -> Value {
    let old = members(up)[1].clone().expect("it was a member");
    lab.wait_status("etcd2 to vote again", REPLACED_WITHIN, |status| {
        let all = |nodes: &Vec<Value>| nodes.iter().all(|n| n["healthy"] == true);
        let healthy = status["nodes"].as_array().is_some_and(all);
        healthy && members(status)[1].as_ref().is_some_and(|id| *id != old)
    })
}

/// Reimage with the data kept: a restart under the same id, and no membership change.
#[test]
#[ignore = "needs root and a built image: tests/run"]
fn c11_a_node_reimaged_with_its_data_is_the_same_member() {
    let lab = Lab::new();
    let up = cluster(&lab);
    let list = lab.ok(&["etcdctl", "member", "list"]);
    let report = lab.json(&["reimage", "etcd2"]);
    assert_eq!((&report["node"], &report["data"]), (&"etcd2".into(), &"kept".into()), "{report}");
    let back = lab.wait_serving(CONTAINER_PATIENCE);
    assert_eq!((members(&back), &back["lineage"]), (members(&up), &up["lineage"]));
    assert_eq!(lab.ok(&["etcdctl", "member", "list"]), list);
    assert_eq!(greeting(&lab), "hello\n");
}

/// Reimage with the data wiped while there is a quorum: joined as a replacement, as many voters as before, all keys.
#[test]
#[ignore = "needs root and a built image: tests/run"]
fn c12_a_wiped_node_is_a_voter_again_under_a_new_id_with_every_acknowledged_key() {
    let lab = Lab::new();
    let up = cluster(&lab);
    let writer = Writer::start(&lab, REST);
    let report = lab.json(&["reimage", "etcd2", "--wipe-data"]);
    assert_eq!(report["data"], "wiped", "{report}");
    let old = members(&up)[1].clone().expect("it was a member");
    let back = replaced(&lab, &up);
    let (before, now) = (members(&up), members(&back));
    assert_eq!((&now[0], &now[2], &back["lineage"]), (&before[0], &before[2], &up["lineage"]));
    let list = lab.ok(&["etcdctl", "member", "list"]);
    assert_eq!(list.lines().filter(|l| l.contains(", started, ") && l.ends_with(", false")).count(), 3, "{list}");
    assert_eq!((list.lines().count(), list.contains(&old)), (3, false), "{list}");
    // On the new voter alone, from its own disk.
    writer.stop().all_are_there(&lab, &["--endpoints", "https://10.77.0.12:2379", "--consistency=s"]);
    assert_eq!(greeting(&lab), "hello\n");
}

/// Two of three reimaged with wiped data while the third is down: they wait for ever. When it returns with its data there is no
/// quorum, still nobody forms, and the way out is told.
#[test]
#[ignore = "needs root and a built image: tests/run"]
fn c13_two_wiped_nodes_never_form_beside_the_third() {
    let lab = Lab::new();
    let up = cluster(&lab);
    lab.ok(&["kill", "etcd3"]);
    // The founder is among them, and its time to form is not over.
    for wiped in ["etcd1", "etcd2"] {
        lab.ok(&["reimage", wiped, "--wipe-data"]);
    }
    let waits = |status: &Value| {
        (1..=2).all(|i| node(status, i, "phase") == "blank" && !node(status, i, "waiting_for").is_empty())
    };
    lab.wait_status("both to wait", CONTAINER_PATIENCE, waits);
    let blank = |what: &str| {
        let still = || waits(&lab.json(&["status"]));
        holds(what, WATCHED, still, || lab.story());
    };
    blank("both wait while the third is down");
    let alone = lab.json(&["status"]);
    assert!(node(&alone, 1, "waiting_for").contains("etcd3.lab.kiln.test"), "the founder names who is silent: {alone}");

    lab.ok(&["start", "etcd3"]);
    let third = lab.wait_status("the third to tell that it holds data", CONTAINER_PATIENCE, |status| {
        let alone = node(status, 3, "waiting_for");
        node(status, 3, "phase") == "member"
            && (alone.contains("once a majority of its members run") || alone.contains("too few members are up"))
            && (1..=2).all(|i| node(status, i, "waiting_for").contains("holds data"))
    });
    blank("both wait beside a third that has the data and no quorum");
    assert_eq!(members(&third)[..2], [None, None], "{third}");
    let console = lab.ok(&["console", "etcd1"]);
    assert!(console.contains("has no quorum to serve it; start the other members that hold data"), "{console}");
    // Its data is as it was; without a quorum etcd itself reads it to nobody.
    lab.ok(&["exec", "etcd3", "--", "sh", "-c", "grep -q greeting /var/lib/kiln/etcd/member/wal/*.wal"]);
    assert_eq!(lab.json(&["status"])["lineage"], up["lineage"]);
}

/// VM snapshot rolled back: halt.
#[test]
#[ignore = "needs root and a built image: tests/run"]
fn c17_a_disk_that_went_back_in_time_halts_its_node() {
    let lab = Lab::new();
    let up = cluster(&lab);
    lab.ok(&["checkpoint", "etcd2"]);
    // Life goes on: another boot, and writes that the checkpoint does not have.
    lab.ok(&["kill", "etcd2"]);
    lab.ok(&["start", "etcd2"]);
    lab.wait_serving(CONTAINER_PATIENCE);
    lab.ok(&["etcdctl", "put", "greeting", "good day"]);
    lab.ok(&["rollback", "etcd2"]);
    let halted =
        lab.wait_status("the rolled back node to halt", CONTAINER_PATIENCE, |s| node(s, 2, "phase") == "halted");
    let why = node(&halted, 2, "waiting_for");
    assert!(why.contains("boot"), "{why}");
    // 3: systemd's word for a unit that is not active.
    let stopped =
        || lab.run(&["exec", "etcd2", "--", "systemctl", "is-active", "--quiet", "etcd"]).status.code() == Some(3);
    until("its etcd to be stopped", CONTAINER_PATIENCE, || stopped().then_some(()), || lab.story());
    holds("it stays halted", WATCHED, || node(&lab.json(&["status"]), 2, "phase") == "halted", || lab.story());
    assert_eq!(greeting(&lab), "good day\n");
    let now = lab.json(&["status"]);
    assert_eq!((&members(&now)[0], &members(&now)[2]), (&members(&up)[0], &members(&up)[2]));
    assert_eq!(lab.ok(&["etcdctl", "member", "list"]).lines().count(), 3, "nobody is removed for it");
}

/// Power cut of all three at once: all restart, and the revision is at least the last acknowledged one.
#[test]
#[ignore = "needs root and a built image: tests/run"]
fn c20_nothing_acknowledged_is_lost_when_all_lose_power_at_once() {
    let lab = Lab::new();
    let up = cluster(&lab);
    let writer = Writer::start(&lab, REST);
    until("some writes", CONTAINER_PATIENCE, || (writer.acknowledged() >= 20).then_some(()), || lab.story());
    lab.ok(&["kill", "--all"]);
    let written = writer.stop();
    lab.ok(&["start", "--all"]);
    let back = lab.wait_serving(CONTAINER_PATIENCE);
    assert_eq!((members(&back), &back["lineage"]), (members(&up), &up["lineage"]));
    written.all_are_there(&lab, &[]);
}

/// A clone booted beside the original: at most one of the two is heard, nobody is removed, and nothing acknowledged is lost.
#[test]
#[ignore = "needs root and a built image: tests/run"]
fn d05_e08_a_clone_beside_its_original_costs_no_data_and_no_place() {
    let lab = Lab::new();
    let up = cluster(&lab);
    let writer = Writer::start(&lab, REST);
    lab.ok(&["clone", "etcd2"]);
    let consoles = || ["etcd2", "etcd2-clone"].map(|name| lab.ok(&["console", name]));
    until(
        "one of the two to halt",
        CONTAINER_PATIENCE,
        || consoles().iter().any(|said| said.contains("kiln: halted")).then_some(()),
        || lab.story(),
    );
    assert_eq!(lab.ok(&["etcdctl", "member", "list"]).lines().count(), 3, "nobody is removed for it");
    lab.ok(&["kill", "etcd2-clone"]);
    lab.ok(&["kill", "etcd2"]);
    let rest = lab.json(&["status"]);
    assert_eq!((&members(&rest)[0], &members(&rest)[2]), (&members(&up)[0], &members(&up)[2]));
    assert_eq!(rest["lineage"], up["lineage"]);
    writer.stop().all_are_there(&lab, &[]);
}

/// The packet filter is loaded anew under open streams: they live on, and clients are let in again without a hand.
#[test]
#[ignore = "needs root and a built image: tests/run"]
fn f08_a_reload_of_the_packet_filter_breaks_no_stream() {
    let lab = Lab::new();
    let up = cluster(&lab);
    let watch = lab.spawn(&["etcdctl", "--endpoints", "https://10.77.0.12:2379", "watch", "--prefix", "stream/"]);
    let seen = |key: &str| {
        // A watch that is not there yet sees nothing of the past.
        let put = || lab.run(&["etcdctl", "--command-timeout=2s", "put", key, "value"]).status.success();
        until(
            &format!("the watch to tell of {key}"),
            CONTAINER_PATIENCE,
            || (put() && watch.said().contains(key)).then_some(()),
            || format!("{}\n{}", watch.said(), lab.story()),
        );
    };
    seen("stream/before");
    for name in ["etcd1", "etcd2", "etcd3"] {
        lab.ok(&["exec", name, "--", "nft", "-f", "/etc/nftables.conf"]);
    }
    seen("stream/after");
    assert!(watch.is_running(), "the same watch, over the same connection");
    let back = lab.wait_serving(CONTAINER_PATIENCE);
    assert_eq!((members(&back), &back["lineage"]), (members(&up), &up["lineage"]));
}

/// G1, as far as one release of etcd shows it, and root swap under a running cluster: every node gets the root of another image, one after the other, while clients write.
#[test]
#[ignore = "needs root and a built image: tests/run"]
fn g01_the_root_of_every_node_is_swapped_under_a_running_cluster() {
    let scratch = Scratch::new(Seeding::Link);
    let text = fs_err::read_to_string(workspace().join("profiles/lab.toml")).expect("reading the lab's profile");
    scratch.add_profile("lab", &text);
    // What follows the last section of an ELF file is not loaded: another agent to the recipe, the same one to a node.
    let other = scratch.dir.path().join("firstboot");
    let mut bytes = fs_err::read(firstboot()).expect("reading firstboot");
    bytes.extend(b"another image");
    fs_err::write(&other, bytes).expect("writing a changed firstboot");
    let lab = Lab::of(scratch.places.clone(), "lab");
    let up = cluster(&lab);
    let old = up["image_key"].as_str().expect("up tells the image").to_owned();

    let writer = Writer::start(&lab, REST);
    let mut new = String::new();
    for name in ["etcd1", "etcd2", "etcd3"] {
        let report = lab.json(&["reimage", name, "--firstboot", other.to_str().expect("a UTF-8 path")]);
        new = report["image_key"].as_str().expect("reimage tells the image").to_owned();
        assert_ne!(new, old);
        let status = lab.wait_serving(CONTAINER_PATIENCE);
        for i in 1..=3 {
            assert_eq!(status["nodes"][i - 1]["drift"], node(&status, i, "image_key") != new, "{status}");
        }
        let now = writer.acknowledged();
        until("clients to go on", CONTAINER_PATIENCE, || (writer.acknowledged() > now).then_some(()), || lab.story());
    }
    let back = lab.json(&["status"]);
    assert!((1..=3).all(|i| node(&back, i, "image_key") == new), "{back}");
    assert_eq!((members(&back), &back["lineage"]), (members(&up), &up["lineage"]));
    writer.stop().all_are_there(&lab, &[]);
}

/// B14 as an operator types it: a node is revoked, the running members are handed the list, and the node is imaged again with its data wiped. It has
/// its new seed then, and is replaced; its old one would be refused by everybody.
#[test]
#[ignore = "needs root and a built image: tests/run"]
fn b14_a_revoked_node_imaged_again_votes_under_its_new_seed() {
    let scratch = Scratch::new(Seeding::Link);
    let text = fs_err::read_to_string(workspace().join("profiles/lab.toml")).expect("reading the lab's profile");
    scratch.add_profile("lab", &text);
    let lab = Lab::of(scratch.places.clone(), "lab");
    let up = cluster(&lab);
    let revoked = scratch.places.json(&["pki", "revoke", "lab", "--node", "etcd2"]);
    let said = |field: &str| revoked[field].as_str().expect("a revocation tells where its list goes").to_owned();
    let list = fs_err::read_to_string(said("list")).expect("reading a list");
    assert_eq!(lab.ok(&["etcdctl", "put", "--", &said("key"), &list]), "OK\n");
    let taken = |name: &str| lab.ok(&["console", name]).contains("revocation list 2 of the peers");
    until(
        "every member to take the list",
        CONTAINER_PATIENCE,
        || ["etcd1", "etcd2", "etcd3"].into_iter().all(taken).then_some(()),
        || lab.story(),
    );
    lab.ok(&["reimage", "etcd2", "--wipe-data"]);
    let back = replaced(&lab, &up);
    assert_eq!(back["lineage"], up["lineage"]);
    assert_eq!(greeting(&lab), "hello\n");
}
