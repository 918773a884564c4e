//! Forming and restarting: the real agent, a real etcd, a real DNS server, no machine. (DNS that fails is in catalogue/dns.rs.)
//!
//! Scenario ids are those of the fault catalogue (D1, A1, ...).
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]

use std::collections::BTreeSet;

use kiln_firstboot::state::Phase;
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::program::run;
use kiln_tests::wait::until;

fn stdout(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Every node is a voter of one raft cluster, each with an id of its own.
fn one_cluster(cluster: &Cluster) {
    let members: Vec<_> = (0..cluster.nodes.len()).map(|i| cluster.member(i).expect("it is a member")).collect();
    let clusters: BTreeSet<_> = members.iter().map(|m| m.0).collect();
    let ids: BTreeSet<_> = members.iter().map(|m| m.1).collect();
    assert_eq!(clusters.len(), 1, "one raft cluster id");
    assert_eq!(ids.len(), members.len(), "every member has its own id");
    let list = stdout(&cluster.etcdctl(&["member", "list"]));
    let voters = list.lines().filter(|line| line.contains("started") && line.ends_with("false")).count();
    assert_eq!(voters, members.len(), "{list}");
}

/// D1: blanks become one lineage, activated; clients are served with a certificate and refused without one.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn three_blank_nodes_form_one_cluster_that_serves_only_its_clients() {
    let mut cluster = Cluster::new(3);
    cluster.power_on();
    cluster.wait_activated();
    one_cluster(&cluster);
    cluster.put("k", "v");
    assert_eq!(cluster.get("k").as_deref(), Some("v"));

    let none = cluster.etcdctl_with(&[], &["get", "k"]);
    assert!(!none.status.success(), "a client without a certificate was served");
    let seed = cluster.nodes[0].paths().seed_dir();
    let issuer = [seed.join("issuer.crt"), seed.join("issuer.key")].map(|p| p.to_str().expect("UTF-8").to_owned());
    let peer = cluster.etcdctl_with(&["--cert", &issuer[0], "--key", &issuer[1]], &["get", "k"]);
    assert!(!peer.status.success(), "a certificate of the peers' root was served as a client");
    let key = cluster.scratch().join("other.key");
    let cert = cluster.scratch().join("other.crt");
    let (key, cert) = (key.to_str().expect("UTF-8"), cert.to_str().expect("UTF-8"));
    run(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=root",
        "-keyout",
        key,
        "-out",
        cert,
    ]);
    assert!(
        !cluster.etcdctl_with(&["--cert", cert, "--key", key], &["get", "k"]).status.success(),
        "another root was served"
    );
    let plain = cluster.nodes[0].exec(&["curl", "-s", "-m", "3", "http://127.0.0.1:2379/health"]);
    assert!(!String::from_utf8_lossy(&plain.stdout).contains("true"), "plain http was served: {}", stdout(&plain));
}

/// The six nodes of the tutorial, in one go.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn six_blank_nodes_form_one_cluster() {
    let mut cluster = Cluster::new(6);
    cluster.power_on();
    cluster.wait_activated();
    one_cluster(&cluster);
}

/// D2: power is lost in the middle of forming, again and again; what comes out is one lineage.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn power_lost_at_any_point_of_forming_leaves_one_lineage() {
    let mut cluster = Cluster::new(3);
    cluster.power_on();
    let founder = 0;
    until(
        "the founder to have chosen a lineage",
        PATIENCE,
        || cluster.nodes[founder].state().and_then(|s| lineage(&s.position)),
        || cluster.story(),
    );
    let chosen = cluster.nodes[founder].state().and_then(|s| lineage(&s.position));
    cluster.power_off();
    cluster.power_on();
    cluster.wait_activated();
    for node in &cluster.nodes {
        assert_eq!(node.state().and_then(|s| lineage(&s.position)), chosen, "{}", node.fqdn);
    }
    one_cluster(&cluster);
}

fn lineage(position: &Phase) -> Option<kiln_firstboot::digest::Id128> {
    match position {
        Phase::Blank => None,
        Phase::Founding { lineage }
        | Phase::Assigned { lineage, .. }
        | Phase::Member { lineage, .. }
        | Phase::Evicted { lineage, .. } => Some(*lineage),
    }
}
