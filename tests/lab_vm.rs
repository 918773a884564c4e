//! The lab with the `vm` driver: the baked disk image, booted by QEMU under libvirt.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]

use kiln_tests::lab::{Lab, Traces, VM_PATIENCE};

#[test]
#[ignore = "needs root, QEMU and a built image: tests/run"]
fn three_machines_from_one_image_form_and_bear_a_power_cut() {
    let lab = Lab::new();
    let before = Traces::now(&lab.dir());
    let up = lab.json(&["up", "--driver", "vm"]);
    assert_eq!((&up["activated"], &up["driver"]), (&true.into(), &"vm".into()));
    let list = lab.ok(&["etcdctl", "member", "list"]);
    assert_eq!(list.lines().filter(|l| l.contains(", started, ") && l.ends_with(", false")).count(), 3, "{list}");
    assert_eq!(lab.ok(&["etcdctl", "put", "greeting", "hello"]), "OK\n");

    lab.refuses_strangers();

    assert_eq!(lab.ok(&["exec", "etcd2", "--", "cat", "/sys/class/net/lo/operstate"]).trim(), "unknown");
    // Nobody outside is asked for the time, not even for want of a server.
    let fallback = ["exec", "etcd2", "--", "timedatectl", "show-timesync", "--value", "--property=FallbackNTPServers"];
    assert_eq!(lab.ok(&fallback).trim(), "");

    lab.ok(&["kill", "--all"]);
    for node in ["etcd2", "etcd3", "etcd1"] {
        lab.ok(&["start", node]);
    }
    let back = lab.wait_serving(VM_PATIENCE);
    assert_eq!(back["lineage"], up["lineage"]);
    assert_eq!(lab.ok(&["etcdctl", "get", "greeting", "--print-value-only"]), "hello\n");

    lab.ok(&["kill", "etcd2"]);
    lab.ok(&["dns", "stop"]);
    lab.ok(&["start", "etcd2"]);
    lab.wait_serving(VM_PATIENCE);

    lab.ok(&["down"]);
    before.are_all(&lab.dir());
}
