//! B11 to B14: leaves that a name constraint lets pass and kiln does not, and issuers that are revoked.
#![expect(clippy::disallowed_methods, reason = "tests read the operator's lists")]

use kiln_builder::authority::{Authority, ROOT_SECS, Validity};
use kiln_firstboot::clock;
use kiln_firstboot::message::{Answer, Ask};
use kiln_firstboot::record::REVOKED_PEERS;
use kiln_firstboot::revocation::RevocationList;
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::imposter::{self, Credentials, PeerConnection, Seed, own_leaf};
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

/// Whether etcd and agent of `at` take a caller with these credentials of the third node's, from the third node's address.
fn admits(cluster: &Cluster, stolen: &Credentials, at: usize) -> (bool, bool) {
    taken_from(cluster, stolen, 2, at)
}

/// Whether etcd and agent of `at` take a caller with these credentials from the address of `from`.
fn taken_from(cluster: &Cluster, whose: &Credentials, from: usize, at: usize) -> (bool, bool) {
    let (from, node) = (&cluster.nodes[from], &cluster.nodes[at]);
    let answer = imposter::ask(&from.space, &Seed::of(from).tls(whose), &node.fqdn, node.ip, &Ask::Status);
    (imposter::etcd_peer_answers(&from.space, cluster, whose, node.ip), matches!(answer, Ok(Answer::Status(_))))
}

/// B14: the third node's issuer is on the list that an operator puts into etcd: every peer's etcd and agent refuse whoever it signs, at once,
/// and still after a restart. A list of another root, or an older one, changes nothing. A connection that stands outlives the revocation, and ends with
/// etcd. With its new seed and a blank disk the node is replaced.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b14_a_revoked_node_is_refused_by_every_peer_and_replaced_under_a_new_seed() {
    let mut cluster = Cluster::new(3);
    cluster.nodes.iter_mut().for_each(|node| node.set_faults(&[("KILN_UNHEARD_SECS", "3")]));
    cluster.power_on();
    cluster.wait_activated();
    cluster.wait_serving(&[0, 1, 2]);
    let before = cluster.member(2).expect("it is a member");
    let stolen = own_leaf(&cluster.nodes[2]);
    let all = || ([0, 1].map(|at| admits(&cluster, &stolen, at)) == [(true, true); 2]).then_some(());
    until("its certificate to be taken", PATIENCE, all, || cluster.story());
    // Not to the founder, whose etcd restarts once more when it has formed.
    let stands = PeerConnection::open(&cluster.nodes[2], &stolen, &cluster.nodes[1]);
    assert!(stands.answers());

    let put = |list: &str| {
        let said = cluster.etcdctl(&["put", "--", REVOKED_PEERS, list]);
        assert!(said.status.success(), "{said:?}");
    };
    let pki = cluster.pki();
    let empty = fs_err::read_to_string(pki.dir().join("peer-revoked.crl")).expect("reading a list");
    let member = pki.charter().member(&cluster.nodes[2].fqdn).expect("the charter has it").clone();
    let revoked = pki.revoke_node(&member, clock::now()).expect("revoking");
    let list = fs_err::read_to_string(&revoked.list).expect("reading a list");

    let stranger =
        Authority::mint("kiln unit peer root", 1, Validity::starting(clock::now(), ROOT_SECS)).expect("minting");
    let roots = fs_err::read_to_string(pki.peer_root()).expect("reading a root");
    let listed = RevocationList::from_pem(list.as_bytes(), &roots).expect("it is a list");
    put(&stranger.revocation_list(9, listed.serials(), clock::now()).expect("signing a list"));
    cluster.wait_said(
        0,
        "a revocation list is not taken: reading `/kiln/revoked/peers` in etcd: none of the roots signed",
    );
    assert_eq!([0, 1].map(|at| admits(&cluster, &stolen, at)), [(true, true); 2]);

    put(&list);
    until(
        "the revoked node to be refused",
        PATIENCE,
        || ([0, 1].map(|at| admits(&cluster, &stolen, at)) == [(false, false); 2]).then_some(()),
        || cluster.story(),
    );
    put(&empty);
    let good = own_leaf(&cluster.nodes[1]);
    assert_eq!(taken_from(&cluster, &good, 1, 0), (true, true), "who is not revoked is taken");
    assert!(stands.answers(), "a connection that stands outlives it");

    for index in [0, 1] {
        cluster.nodes[index].power_off();
        cluster.nodes[index].power_on();
        cluster.wait_serving(&[0, 1]);
    }
    assert!(!stands.answers(), "and ends with etcd");
    assert_eq!(
        [0, 1].map(|at| admits(&cluster, &stolen, at)),
        [(false, false); 2],
        "the list outlives a boot, an older one none"
    );

    cluster.nodes[2].power_off();
    cluster.nodes[2].wipe();
    cluster.give_seed(2);
    cluster.nodes[2].power_on();
    cluster.wait_serving(&[0, 1, 2]);
    assert_ne!(cluster.member(2), Some(before), "it is replaced");
    assert_eq!([0, 1].map(|at| admits(&cluster, &stolen, at)), [(false, false); 2]);
}
