//! `make show-hosts`: the tutorial's six nodes on two hosts, or with PROFILE=pair three of them, deployed, reimaged, rolled out and back, cut
//! and lost, with a client that writes. Prints how long each act took; ends at the first thing that is not as promised.
#![expect(clippy::disallowed_methods, reason = "changes the project of the show")]
#![expect(clippy::print_stdout, reason = "its output is the result")]

use std::path::Path;

use kiln_tests::places::{Scratch, Seeding, tutorial};
use kiln_tests::show::Show;

/// Has a kernel leave out what an emulated processor pays for and has no use of: flushing what it might have guessed, the fifth level of its
/// page tables, and asking the ACPI timer for the time, a way out of the emulated code at each look.
const SPARING: &str = "mitigations=off no5lvl tsc=reliable";

fn main() {
    let scratch = Scratch::new(Seeding::Link);
    let (name, profile) = match std::env::args().nth(1).as_deref() {
        None | Some("k8s0") => ("k8s0", tutorial()),
        Some("pair") => ("pair", include_str!("profiles/pair.toml").to_owned()),
        Some(other) => panic!("there is a show of `k8s0` and of `pair`, none of `{other}`"),
    };
    scratch.add_profile(name, &at_a_slow_beat(&profile));
    wake_seldom(&scratch.places.project);
    complain_seldom(&scratch.places.project);
    tick_seldom(&scratch);
    scratch.add_kernel_words(SPARING);
    println!("           builds its image");
    scratch.places.ok(&["pki", "init", name]);
    scratch.places.ok(&["lock", name, "--update"]);
    scratch.places.ok(&["build", name]);
    let mut show = Show::begin(scratch.places.clone(), name);
    show.deploy();
    show.reimage();
    show.roll_there_and_back();
    show.cut();
    show.lose_a_host();
    let acts = show.end();
    let all: f64 = acts.iter().map(|act| act.took.as_secs_f64()).sum();
    println!("{all:7.1} s  all of it");
}

/// Six emulated nodes on two processors cannot keep etcd's usual beat of 100 ms ("leader failed to send out heartbeat on time"): elections
/// without end. Whoever has hosts that slow sets it as etcd's tuning guide says, and so does this profile.
fn at_a_slow_beat(profile: &str) -> String {
    let slow = profile.replacen("[etcd]\n", "[etcd]\nheartbeat_ms = 1000\nelection_ms = 10000\n", 1);
    assert_ne!(slow, profile, "the profile has settings of etcd");
    slow
}

/// Nodes of images built in `project` let timers be 10 ms late. A quarter of what an emulated etcd costs is the runtime of Go, which looks after
/// itself by naps of 20 microseconds for as long as anything runs; on a real processor, where a goroutine that syncs keeps others waiting until
/// then, this would be the wrong trade.
fn wake_seldom(project: &Path) {
    set(project, "usr/lib/systemd/system.conf.d/50-emulated.conf", "[Manager]\nTimerSlackNSec=10ms\n");
}

/// Their etcd tells of errors only. It complains of all that takes 100 ms, which here is every request: two or three lines a second, for each of
/// which an emulated processor forgets what it has translated twice, on the way to the journal and back.
fn complain_seldom(project: &Path) {
    let service = "[Service]\nExecStart=\nExecStart=/usr/bin/etcd $KILN_ETCD_ARGS --log-level=error\n";
    set(project, "usr/lib/systemd/system/etcd.service.d/50-emulated.conf", service);
}

/// Has images built in `project` hold `text` in a file of its own.
fn set(project: &Path, file: &str, text: &str) {
    let file = project.join("images/tree").join(file);
    fs_err::create_dir_all(file.parent().expect("a file is in a directory")).expect("making a directory of the image");
    fs_err::write(file, text).expect("writing a file of the image");
}

/// Nodes of images built here have the kernel of Ubuntu 22.04, in all else they are Ubuntu 24.04. Every kernel of 24.04 ticks a thousand times a
/// second for as long as anything runs (`CONFIG_HZ`), that of 22.04 a quarter as often; an emulated processor leaves its code for each tick twice,
/// and QEMU's main loop wakes twice.
fn tick_seldom(scratch: &Scratch) {
    scratch.change_image(r#""linux-image-virtual","#, r#""linux-image-virtual-5.15","#);
    scratch.change_image(r#""noble-security"]"#, r#""noble-security", "jammy-updates"]"#);
}
