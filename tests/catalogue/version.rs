//! G. Versions, as far as one release of etcd can show them. (G1 and G5 need two.)
#![expect(clippy::disallowed_methods, reason = "tests bend what an image and a volume say")]

use std::time::Duration;

use kiln_firstboot::state::Phase;
use kiln_firstboot::version::EtcdVersion;
use kiln_tests::cluster::{Cluster, PATIENCE, etcd_version};
use kiln_tests::membership::members;
use kiln_tests::wait::{holds, until};

/// How long a node is watched doing nothing: several of its rounds.
const A_WHILE: Duration = Duration::from_secs(6);

/// Boots a powered-off node from an image that says it has this etcd.
fn boot_with(cluster: &mut Cluster, index: usize, version: EtcdVersion) {
    let node = &mut cluster.nodes[index];
    node.power_off();
    let file = node.home.join("image/usr/lib/kiln/image.json");
    let mut image: serde_json::Value =
        serde_json::from_slice(&fs_err::read(&file).expect("an image says what it has")).expect("in JSON");
    image["etcd_version"] = version.to_string().into();
    fs_err::write(&file, image.to_string()).expect("changing an image");
    node.power_on();
}

/// Makes a powered-off node's volume remember that this etcd has run on it.
fn remember(cluster: &Cluster, index: usize, version: EtcdVersion) {
    let file = cluster.nodes[index].home.join("data/state/state.json");
    let mut state: serde_json::Value =
        serde_json::from_slice(&fs_err::read(&file).expect("a member has a state")).expect("in JSON");
    state["max_etcd"] = version.to_string().into();
    fs_err::write(&file, state.to_string()).expect("changing a state");
}

/// G2, G3, G7: a joiner whose etcd is older than what the charter admits halts, also where it is a 3.5 with zombie members; one that is two
/// minor versions ahead is refused by every grantor. With the right image it joins.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn g02_g03_g07_a_joiner_with_an_etcd_too_old_or_too_new_gets_no_place() {
    let mut cluster = Cluster::new(3);
    let right = etcd_version();
    let blank = |cluster: &Cluster| cluster.nodes[2].state().is_none_or(|state| state.position == Phase::Blank);
    for old in [EtcdVersion { patch: 25, ..right }, EtcdVersion { minor: right.minor - 1, ..right }] {
        boot_with(&mut cluster, 2, old);
        cluster.wait_said(2, &old.to_string());
        holds("nothing is started", A_WHILE, || blank(&cluster) && !cluster.nodes[2].etcd_runs(), || cluster.story());
    }
    let new = EtcdVersion { minor: right.minor + 2, patch: 1, ..right };
    boot_with(&mut cluster, 2, new);
    cluster.nodes[0].power_on();
    cluster.nodes[1].power_on();
    cluster.wait_said(2, &format!("brings etcd {new}"));
    holds(
        "nobody gives it a place",
        A_WHILE,
        || blank(&cluster) && members(&cluster.nodes[0]).is_none_or(|list| list.len() < 3),
        || cluster.story(),
    );
    boot_with(&mut cluster, 2, right);
    cluster.wait_activated();
    cluster.assert_one_cluster();
}

/// G4, G6: etcd of an earlier minor version is not started on a volume that a later one has run on; the others go on without it. An earlier
/// patch of the same line is, and says so.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn g04_g06_an_older_etcd_is_not_started_on_newer_data_but_an_older_patch_is() {
    let mut cluster = Cluster::new(3);
    cluster.power_on();
    cluster.wait_activated();
    let (right, before) = (etcd_version(), cluster.member(2));
    cluster.nodes[2].power_off();
    remember(&cluster, 2, EtcdVersion { minor: right.minor + 1, patch: 0, ..right });
    cluster.nodes[2].power_on();
    cluster.wait_said(2, "has run on this volume");
    holds("its etcd is not started", A_WHILE, || !cluster.nodes[2].etcd_runs(), || cluster.story());
    until(
        "the others to take writes",
        PATIENCE,
        || cluster.etcdctl(&["put", "g06", "served"]).status.success().then_some(()),
        || cluster.story(),
    );
    cluster.nodes[2].power_off();
    remember(&cluster, 2, EtcdVersion { patch: right.patch + 1, ..right });
    cluster.nodes[2].power_on();
    cluster.wait_said(2, "within one minor version etcd allows it");
    cluster.wait_serving(&[2]);
    assert_eq!(cluster.member(2), before, "the same member");
    cluster.assert_one_cluster();
}
