//! The lab that plays the profile's hosts: their network, their libvirts, their loss. The operator's commands are
//! shown at work on them by `make show-hosts`.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "reads a profile")]

use std::time::Duration;

use kiln_tests::lab::{Lab, Traces};
use kiln_tests::places::{Scratch, Seeding};
use kiln_tests::program::workspace;
use kiln_tests::wait::until;

/// Two nodes on one host, one on the other.
const PROFILE: &str = "pair";
/// How long a host may take to come up on two busy cores; its libvirt asks QEMU for its features first.
const HOST_PATIENCE: Duration = Duration::from_secs(120);
/// Where a host of the test's own is on the nodes' network, and a port where nobody listens.
const ON_PVE1: &str = "10.79.0.91";
const ON_PVE2: &str = "10.79.0.92";
const ROUTER: &str = "10.79.0.1";

#[test]
#[ignore = "needs root, QEMU and libvirt"]
fn two_hosts_are_one_network_until_it_is_cut_and_leave_nothing() {
    let scratch = scratch();
    let lab = Lab::of(scratch.places.clone(), PROFILE);
    let before = Traces::now(&lab.dir());

    let up = lab.json(&["up", "--hosts", "2"]);
    let hosts = |status: &serde_json::Value| -> Vec<(String, bool, bool)> {
        let row = |h: &serde_json::Value| (h["name"].as_str().unwrap().to_owned(), h["up"] == true, h["cut"] == true);
        status["hosts"].as_array().expect("a lab that plays hosts has hosts").iter().map(row).collect()
    };
    assert_eq!(up["driver"], "hosts");
    assert_eq!(hosts(&up), [("pve1".into(), true, false), ("pve2".into(), true, false)]);
    assert!(up["nodes"].as_array().unwrap().iter().all(|n| n["phase"] == "off"), "the hosts are empty: {up}");
    address(&lab, "pve1", ON_PVE1);
    address(&lab, "pve2", ON_PVE2);
    assert!(reaches(&lab, "pve1", ON_PVE2) && reaches(&lab, "pve2", ON_PVE1), "the hosts see each other");
    assert!(reaches(&lab, "pve1", ROUTER) && reaches(&lab, "pve2", ROUTER), "the hosts see DHCP and DNS");

    lab.ok(&["net", "cut"]);
    assert_eq!(hosts(&lab.json(&["status"])), [("pve1".into(), true, true), ("pve2".into(), true, true)]);
    assert!(!reaches(&lab, "pve1", ON_PVE2) && !reaches(&lab, "pve2", ON_PVE1), "the hosts do not see each other");
    assert!(reaches(&lab, "pve1", ROUTER) && reaches(&lab, "pve2", ROUTER), "DHCP and DNS are still there");

    // What a libvirt was told outlives its host, and so does the cut.
    let volume = ["host", "--on", "pve2", "--", "virsh", "vol-create-as", "default", "kept.raw", "1M"];
    lab.ok(&volume);
    lab.ok(&["kill", "--host", "pve2"]);
    assert_eq!(hosts(&lab.json(&["status"])), [("pve1".into(), true, true), ("pve2".into(), false, true)]);
    let refused = lab.run(&["host", "--on", "pve2", "--", "true"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(78) && stderr.contains("kiln lab start pair --host pve2"), "{refused:?}");
    lab.ok(&["start", "--host", "pve2"]);
    address(&lab, "pve2", ON_PVE2);
    assert!(!reaches(&lab, "pve2", ON_PVE1), "a host that comes back does not mend what was cut");
    let list = ["host", "--on", "pve2", "--", "virsh", "vol-list", "default"];
    assert!(lab.ok(&list).contains("kept.raw"), "its volumes are there");

    lab.ok(&["net", "mend"]);
    let mended = || (reaches(&lab, "pve1", ON_PVE2) && reaches(&lab, "pve2", ON_PVE1)).then_some(());
    until("the hosts to see each other again", HOST_PATIENCE, mended, String::new);

    lab.ok(&["down"]);
    before.are_all(&lab.dir());
}

#[test]
#[ignore = "needs root, QEMU and libvirt"]
fn a_lab_of_hosts_that_crashed_is_taken_down_without_a_trace() {
    let scratch = scratch();
    let lab = Lab::of(scratch.places.clone(), PROFILE);
    let before = Traces::now(&lab.dir());
    // Each file is made at another stage.
    for stage in ["host.ready", "hosts/pve1/host.log", "hosts/pve2/host.ready", "hosts/pve2/libvirtd.log"] {
        let mut up = lab.start(&["up", "--hosts", "2"]);
        let file = lab.dir().join(stage);
        until(stage, HOST_PATIENCE, || file.exists().then_some(()), || format!("{up:?}"));
        up.kill().unwrap();
        up.wait().unwrap();
        lab.ok(&["down"]);
        before.are_all(&lab.dir());
    }
}

#[test]
#[ignore = "needs root, QEMU and libvirt"]
fn a_lab_plays_the_hosts_of_its_profile_and_no_others() {
    let scratch = scratch();
    let lab = Lab::of(scratch.places.clone(), PROFILE);
    let refused = lab.run(&["up", "--hosts", "3"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(78) && stderr.contains("on 2 hosts, not on 3"), "{stderr}");
    assert!(!lab.dir().exists(), "and nothing was begun");
}

fn scratch() -> Scratch {
    let scratch = Scratch::new(Seeding::Link);
    let text = fs_err::read_to_string(workspace().join("tests/profiles/pair.toml")).expect("reading a profile");
    scratch.add_profile(PROFILE, &text);
    scratch
}

/// Gives a host's bridge an address, which a real one might have there.
fn address(lab: &Lab, host: &str, address: &str) {
    lab.ok(&["host", "--on", host, "--", "ip", "addr", "add", &format!("{address}/24"), "dev", "kiln-pair"]);
}

/// Whether a host reaches an address: whoever has it answers that nobody listens there, and that is enough.
fn reaches(lab: &Lab, host: &str, address: &str) -> bool {
    let call = format!("LC_ALL=C timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/9' 2>&1");
    let done = lab.run(&["host", "--on", host, "--", "sh", "-c", &call]);
    String::from_utf8_lossy(&done.stdout).contains("Connection refused")
}
