//! A restarted member, from its kernel's start until it serves, beside a plain boot of the same image to multi-user.

use std::time::Duration;

use kiln_firstboot::journal;
use kiln_tests::lab::{Lab, VM_PATIENCE};
use kiln_tests::places::{Scratch, Seeding};
use kiln_tests::program::workspace;
use kiln_tests::wait::until;
use serde_json::Value;

/// Boots of each kind; the median is printed.
const RUNS: usize = 3;
const PROFILE: &str = "one";
const NODE: &str = "etcd1";
/// All that kiln starts. What is left is the distribution's own boot, with the same network, firewall and name resolution.
const OURS: [&str; 5] =
    ["kiln-disk.service", "kiln-journal.service", "kiln-control.socket", "firstboot.service", "etcd.service"];

/// One machine alone, a cluster of one voter: nobody else's boot is in the way, and it needs nobody's vote to serve.
pub(crate) fn compare() {
    let scratch = Scratch::new(Seeding::Link);
    scratch.add_profile(PROFILE, &profile());
    let lab = Lab::of(scratch.places.clone(), PROFILE);
    lab.ok(&["up", "--driver", "vm"]);

    let (mut serving, mut etcd) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        boots(&lab, "kiln: clients are admitted", || {
            lab.ok(&["kill", NODE]);
            lab.ok(&["start", NODE]);
        });
        let up = entered(&lab, "etcd.service");
        etcd.push(up);
        serving.push(admitted(&lab).max(up));
    }

    // Its kernel's command line masks what is ours.
    scratch.add_kernel_words(&OURS.map(|unit| format!("systemd.mask={unit}")).join(" "));
    let mut plain = Vec::new();
    for _ in 0..RUNS {
        boots(&lab, "multi-user.target", || drop(lab.ok(&["reimage", NODE])));
        plain.push(entered(&lab, "multi-user.target"));
    }
    lab.ok(&["down"]);

    let [serving, etcd, plain] = [serving, etcd, plain].map(super::middle);
    println!(
        "VM, kernel start → member serves  {serving:6.1} s   {:+.1} s beside a plain boot to multi-user ({plain:.1} s); etcd ready {etcd:.1} s",
        serving - plain
    );
}

/// The lab's first node alone, under a name of its own.
fn profile() -> String {
    let lab = fs_err::read_to_string(workspace().join("profiles/lab.toml")).expect("reading the lab's profile");
    let second = lab.match_indices("[[node]]").nth(1).expect("the lab has several nodes").0;
    lab[..second].replace("name = \"lab\"", &format!("name = \"{PROFILE}\""))
}

/// Lets `act` boot the node, and waits until its console says `words` once more. Nobody asks it anything meanwhile: every answer would
/// cost an emulated machine a tenth of a second.
fn boots(lab: &Lab, words: &str, act: impl FnOnce()) {
    let console = lab.dir().join("nodes").join(NODE).join("console.log");
    let said = || String::from_utf8_lossy(&fs_err::read(&console).unwrap_or_default()).matches(words).count();
    let before = said();
    act();
    until(words, VM_PATIENCE, || (said() > before).then_some(()), || lab.story());
}

/// Seconds from the kernel's start until a unit was up.
fn entered(lab: &Lab, unit: &str) -> f64 {
    let ask = ["exec", NODE, "--", "systemctl", "show", "--value", "--property=ActiveEnterTimestampMonotonic", unit];
    patiently(lab, &ask, |said| said.trim().parse().ok().filter(|micros| *micros > 0.0))
}

/// Seconds from the kernel's start until clients were let in.
fn admitted(lab: &Lab) -> f64 {
    let event = format!("MESSAGE_ID={}", journal::CLIENTS_OPEN.id);
    let ask = ["exec", NODE, "--", "journalctl", "--boot", "--output=json", "--no-pager", &event];
    patiently(lab, &ask, |said| {
        let entry: Value = serde_json::from_str(said.lines().next()?).ok()?;
        entry["__MONOTONIC_TIMESTAMP"].as_str()?.parse().ok()
    })
}

/// Asks until there is an answer: the guest agent may start last of all. Microseconds become seconds.
fn patiently(lab: &Lab, ask: &[&str], read: impl Fn(&str) -> Option<f64>) -> f64 {
    let look = || {
        let done = lab.run(ask);
        if done.status.success() { read(&String::from_utf8_lossy(&done.stdout)) } else { None }
    };
    until(&ask.join(" "), Duration::from_secs(300), look, || lab.story()) / 1e6
}
