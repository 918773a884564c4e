//! The other image definition: nodes of Debian 13.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]

use kiln_tests::lab::{CONTAINER_PATIENCE, Lab, Traces};
use kiln_tests::places::Places;

/// Its lock and its base stay for the next run, as the lab's do.
const PROFILE: &str = "tests/profiles/debian.toml";

#[test]
#[ignore = "needs root and a package archive"]
fn debian_nodes_form_and_bear_a_power_cut() {
    let places = Places::own();
    places.ensure_built(PROFILE);
    let lab = Lab::of(places, PROFILE);
    let before = Traces::now(&lab.dir());
    let up = lab.json(&["up", "--driver", "container"]);
    assert_eq!(up["activated"], true, "{up}");
    let system = lab.ok(&["exec", "etcd1", "--", "sh", "-c", ". /etc/os-release; echo $ID $VERSION_ID"]);
    assert_eq!(system, "debian 13\n");
    assert_eq!(lab.ok(&["exec", "etcd2", "--", "systemctl", "--failed", "--plain", "--no-legend"]), "");
    assert_eq!(lab.ok(&["etcdctl", "put", "greeting", "hello"]), "OK\n");

    lab.ok(&["kill", "--all"]);
    lab.ok(&["start", "--all"]);
    let back = lab.wait_serving(CONTAINER_PATIENCE);
    assert_eq!(back["lineage"], up["lineage"]);
    assert_eq!(lab.ok(&["etcdctl", "get", "greeting", "--print-value-only"]), "hello\n");

    lab.ok(&["down"]);
    before.are_all(&lab.dir());
}
