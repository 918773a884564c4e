//! B11 to B13: leaves that a name constraint lets pass and kiln does not.

use kiln_firstboot::message::{Answer, Ask};
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::imposter::{self, Credentials, Seed, own_leaf};
use kiln_tests::wait::until;

/// Whether the etcd and the agent of the first node take these credentials of its own issuer for a peer's, from the node's own address.
fn taken_for_a_peer(cluster: &Cluster, leaf: &Credentials) -> (bool, bool) {
    let node = &cluster.nodes[0];
    let etcd = imposter::etcd_peer_answers(&node.space, cluster, leaf, node.ip);
    let answer = imposter::ask(&node.space, &Seed::of(node).tls(leaf), &node.fqdn, node.ip, &Ask::Status);
    (etcd, matches!(answer, Ok(Answer::Status(_))))
}

/// A cluster of one, serving, that takes its node's right leaf: what is refused after that is refused for what is wrong with it.
fn serving_cluster_of_one() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.power_on();
    cluster.wait_activated();
    let own = own_leaf(&cluster.nodes[0]);
    // A founder restarts its etcd once more when it has formed.
    until(
        "the right leaf to be taken",
        PATIENCE,
        || (taken_for_a_peer(&cluster, &own) == (true, true)).then_some(()),
        || cluster.story(),
    );
    cluster
}

/// B11: a leaf with no SAN, which no name constraint looks at, whose common name is a peer's: refused by etcd (its flag) and by the agent.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b11_leaf_without_san_is_no_peer() {
    let cluster = serving_cluster_of_one();
    let seed = Seed::of(&cluster.nodes[0]);
    for common_name in ["n1.unit.kiln.test", "n2.unit.kiln.test", "n1"] {
        assert_eq!(taken_for_a_peer(&cluster, &seed.leaf(common_name, &[])), (false, false), "{common_name}");
    }
}

/// B12: a leaf of the peers' root whose common name is `root`, on the client port: refused, for clients have another root. With a SAN
/// that is right it is a peer still, and no client.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b12_root_by_common_name_is_no_client() {
    let cluster = serving_cluster_of_one();
    let seed = Seed::of(&cluster.nodes[0]);
    for names in [&[][..], &["n1.unit.kiln.test", "10.99.0.11"][..]] {
        let (cert, key) = seed.leaf("root", names).files(&cluster);
        let said = cluster.etcdctl_with(&["--cert", &cert, "--key", &key], &["put", "k", "v"]);
        assert!(!said.status.success(), "with {names:?}: {said:?}");
    }
    let operator = cluster.etcdctl(&["get", "k"]);
    assert!(operator.status.success(), "the operator is served: {operator:?}");
    assert_eq!(String::from_utf8_lossy(&operator.stdout), "", "nobody wrote anything");
}

/// B13: a wildcard or a subdomain of the node's name, which its issuer's constraint permits: refused by exact match. The agent wants one
/// name and refuses even a second one beside the right one; a name of somebody else no issuer but that one can sign.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b13_wildcard_or_subdomain_leaf_is_no_peer() {
    let cluster = serving_cluster_of_one();
    let seed = Seed::of(&cluster.nodes[0]);
    let own = "10.99.0.11";
    for name in ["*.n1.unit.kiln.test", "a.n1.unit.kiln.test", "*.unit.kiln.test", "n2.unit.kiln.test"] {
        assert_eq!(taken_for_a_peer(&cluster, &seed.leaf(name, &[name, own])), (false, false), "{name}");
    }
    let two = seed.leaf("n1.unit.kiln.test", &["n1.unit.kiln.test", "a.n1.unit.kiln.test", own]);
    assert!(!taken_for_a_peer(&cluster, &two).1, "the agent took a leaf with two names");
    let elsewhere = seed.leaf("n1.unit.kiln.test", &["n1.unit.kiln.test", "10.99.0.66"]);
    assert_eq!(taken_for_a_peer(&cluster, &elsewhere), (false, false), "an address that its issuer may not sign");
}
