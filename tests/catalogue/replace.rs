//! C12, C5 and C19: a node whose data is lost takes its own place again, and waits while the store is full; what was taken before it is the way back.
#![expect(clippy::disallowed_methods, reason = "tests read and damage what was kept")]

use std::path::PathBuf;

use kiln_firstboot::agent::snapshot;
use kiln_firstboot::cluster::ClusterConfig;
use kiln_tests::client::in_space;
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::node::text;
use kiln_tests::program::{etcd, output, run};
use kiln_tests::wait::until;

/// A voter that was not heard of for so many seconds may be replaced; in earnest it is sixty.
const UNHEARD: (&str, &str) = ("KILN_UNHEARD_SECS", "3");
/// Keys written before a disk is lost.
const KEYS: usize = 200;

/// Three nodes that serve, with 200 keys in them.
fn filled() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.nodes.iter_mut().for_each(|node| node.set_faults(&[UNHEARD]));
    cluster.power_on();
    cluster.wait_activated();
    let operator = cluster.operator();
    let address = cluster.nodes[1].address;
    let written = in_space(&cluster.network.switch(), move || async move {
        let mut client = operator.connect(address).await?;
        for i in 0..KEYS {
            client.put(format!("c12/{i:03}"), format!("value {i}"), None).await?;
        }
        anyhow::Ok(())
    });
    written.join().expect("writing").expect("a cluster that serves takes writes");
    cluster
}

/// What one node's own etcd has of the keys, in order.
fn keys(cluster: &Cluster, node: usize) -> Vec<String> {
    let said = cluster.nodes[node].etcdctl(&["get", "c12/", "--prefix", "--print-value-only"]);
    String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect()
}

/// The acts on a node's membership that the cluster remembers.
fn audit(cluster: &Cluster, node: usize) -> Vec<String> {
    let said = cluster.nodes[node].etcdctl(&["get", "/kiln/audit/", "--prefix", "--keys-only"]);
    String::from_utf8_lossy(&said.stdout).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// C12: a node is imaged anew with its data wiped while the others have a quorum. It joins as a replacement of its earlier self: a
/// voter with a new id, three voters again, every key present; the audit tells of it, and a verified snapshot was taken before.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn c12_a_wiped_node_is_a_voter_again_with_a_new_id_and_every_key() {
    let mut cluster = filled();
    let before = cluster.member(2).expect("it is a member");
    let others = [cluster.member(0), cluster.member(1)];
    cluster.nodes[2].power_off();
    cluster.nodes[2].wipe();
    cluster.nodes[2].power_on();
    cluster.wait_serving(&[0, 1, 2]);

    let after = cluster.member(2).expect("it is a member again");
    assert_eq!(before.0, after.0, "the same raft cluster");
    assert_ne!(before.1, after.1, "under a new id");
    assert_eq!([cluster.member(0), cluster.member(1)], others, "and nobody else has another");
    cluster.assert_one_cluster();
    let expected: Vec<String> = (0..KEYS).map(|i| format!("value {i}")).collect();
    for node in 0..3 {
        assert_eq!(keys(&cluster, node), expected, "what node {node} itself has\n{}", cluster.story());
    }

    let audit = audit(&cluster, 0);
    let file = snapshot_taken(&cluster);
    let judged = run(&[&text(&etcd("etcdutl")), "snapshot", "status", &text(&file), "-w", "json"]);
    let judged: serde_json::Value = serde_json::from_str(&judged).expect("etcdutl tells of it");
    assert!(judged["totalKey"].as_u64().is_some_and(|keys| keys >= KEYS as u64), "{judged}");
    let name = cluster.nodes[2].fqdn.to_string();
    let noted = |act: &str| audit.iter().filter(|key| key.ends_with(&format!("-{act}-{name}"))).count();
    assert_eq!(noted("remove-voter"), 1, "{audit:?}");
    assert!(noted("snapshot") >= 1 && noted("add-learner") >= 2, "{audit:?}");
}

/// The snapshot that the grantor of the third node's place took.
fn snapshot_taken(cluster: &Cluster) -> PathBuf {
    let taken = cluster.nodes[..2].iter().map(|n| n.home.join("data/snapshots").join(snapshot::FILE));
    taken.into_iter().find(|file| file.exists()).expect("the grantor kept the snapshot")
}

/// C19: what was taken before a removal is the way back if everything else was wrong. etcd's own tool restores it; with one bit flipped, or
/// its end torn off, both etcd's tool and the agent's check refuse it.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn c19_a_snapshot_restores_and_a_corrupt_one_is_refused() {
    let mut cluster = filled();
    cluster.nodes[2].power_off();
    cluster.nodes[2].wipe();
    cluster.nodes[2].power_on();
    cluster.wait_serving(&[0, 1, 2]);
    let whole = fs_err::read(snapshot_taken(&cluster)).expect("reading a snapshot");
    let offered = cluster.scratch().join("offered.db");
    let restores = |bytes: &[u8], into: &str| {
        fs_err::write(&offered, bytes).expect("writing a snapshot");
        let agent = snapshot::verify(&mut std::io::Cursor::new(bytes)).is_ok();
        let into = text(&cluster.scratch().join(into));
        let said = output(&[&text(&etcd("etcdutl")), "snapshot", "restore", &text(&offered), "--data-dir", &into]);
        (agent, said.status.success())
    };
    assert_eq!(restores(&whole, "whole"), (true, true));
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    assert_eq!(restores(&flipped, "flipped"), (false, false));
    assert_eq!(restores(&whole[..whole.len() - 4096], "torn"), (false, false));
}

/// C5: the store reaches its quota, and etcd raises NOSPACE. A node that comes back blank meanwhile gets no place and nobody is removed, for the
/// alarm means that not everybody is well; when the operator has made room and disarmed it, the node is replaced.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn c05_a_store_without_space_grants_no_place_until_the_alarm_is_disarmed() {
    let mut cluster = Cluster::new(3);
    for node in &mut cluster.nodes {
        node.set_faults(&[UNHEARD]);
        let config = fs_err::read(node.home.join("image/usr/lib/kiln/cluster.json")).expect("reading an image");
        let mut config: ClusterConfig = serde_json::from_slice(&config).expect("it is JSON");
        config.etcd.quota_mib = 16;
        node.put_in_image("cluster.json", &serde_json::to_vec(&config).expect("JSON"));
    }
    cluster.power_on();
    cluster.wait_activated();
    let before: Vec<_> = (0..3).map(|index| cluster.member(index)).collect();
    let says = |args: &[&str]| String::from_utf8_lossy(&cluster.etcdctl(args).stdout).into_owned();
    let mut written = 0;
    until(
        "the store to be full",
        PATIENCE,
        || {
            cluster.put_large(&format!("large{written}"), 1 << 20);
            written += 1;
            says(&["alarm", "list"]).contains("NOSPACE").then_some(())
        },
        || cluster.story(),
    );

    cluster.nodes[2].power_off();
    cluster.nodes[2].wipe();
    cluster.nodes[2].power_on();
    cluster.wait_said(2, "the alarm NOSPACE is raised");
    assert_eq!([cluster.member(0), cluster.member(1)], before[..2]);
    let listed = |cluster: &Cluster| {
        let said = cluster.nodes[0].etcdctl(&["member", "list"]);
        String::from_utf8_lossy(&said.stdout).lines().count()
    };
    assert_eq!(listed(&cluster), 3, "nobody was removed");
    assert!(!audit(&cluster, 0).iter().any(|key| key.contains("remove-voter")), "{:?}", audit(&cluster, 0));

    let mend = |node: usize, args: &[&str]| {
        let said = cluster.nodes[node].etcdctl(args);
        assert!(said.status.success(), "{args:?}: {said:?}");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    mend(0, &["del", "large", "--prefix"]);
    let status: serde_json::Value =
        serde_json::from_str(&mend(0, &["endpoint", "status", "-w", "json"])).expect("etcdctl tells of it");
    mend(0, &["compact", &status[0]["Status"]["header"]["revision"].to_string()]);
    mend(0, &["defrag"]);
    mend(1, &["defrag"]);
    mend(0, &["alarm", "disarm"]);
    cluster.wait_serving(&[0, 1, 2]);
    assert_ne!(cluster.member(2), before[2], "it is replaced");
    cluster.assert_one_cluster();
}
