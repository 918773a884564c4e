//! C12: a node whose data is lost takes its own place again.

use kiln_firstboot::agent::snapshot;
use kiln_tests::client::in_space;
use kiln_tests::cluster::Cluster;
use kiln_tests::node::text;
use kiln_tests::program::{etcd, run};

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
    let name = cluster.nodes[2].fqdn.to_string();
    let noted = |act: &str| audit.iter().filter(|key| key.ends_with(&format!("-{act}-{name}"))).count();
    assert_eq!(noted("remove-voter"), 1, "{audit:?}");
    assert!(noted("snapshot") >= 1 && noted("add-learner") >= 2, "{audit:?}");
    let taken: Vec<_> = cluster.nodes[..2].iter().map(|n| n.home.join("data/snapshots").join(snapshot::FILE)).collect();
    let file = taken.iter().find(|file| file.exists()).expect("the grantor kept the snapshot");
    let judged = run(&[&text(&etcd("etcdutl")), "snapshot", "status", &text(file), "-w", "json"]);
    let judged: serde_json::Value = serde_json::from_str(&judged).expect("etcdutl tells of it");
    assert!(judged["totalKey"].as_u64().is_some_and(|keys| keys >= KEYS as u64), "{judged}");
}
