//! `make bench`: kiln beside the plainest way to do the same thing, same machine, same run. Prints ratios; asserts nothing.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock, runs programs and writes scratch files")]
#![expect(clippy::print_stdout, reason = "its output is the result")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use kiln_tests::node::text;
use kiln_tests::places::{Scratch, Seeding};
use kiln_tests::program::{firstboot, kiln, output, run, workspace};
use serde_json::Value;

mod boot;
mod cold;
mod debian_tree;
mod formation;
mod growth;
mod mkosi;
mod nothing;
mod replacement;
mod upload;

/// Runs of each short measurement; the median is printed.
const RUNS: usize = 5;
/// Runs of a copy and of the image layer, which are over in a moment.
const COPY_RUNS: usize = 9;
/// Runs of virt-customize, which take half a minute each under emulation; the median is printed.
const APPLIANCE_RUNS: usize = 3;

fn main() {
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    println!(
        "kiln bench: medians of {RUNS} runs on {} processors",
        std::thread::available_parallelism().map_or(1, usize::from)
    );
    if wanted("image") {
        image();
    }
    if wanted("nothing") {
        nothing::compare();
    }
    if wanted("cold") {
        cold::compare();
    }
    if wanted("growth") {
        growth::measure();
    }
    if wanted("size") {
        size();
    }
    if wanted("formation") {
        formation::compare();
    }
    if wanted("replacement") {
        replacement::compare();
    }
    if wanted("upload") {
        upload::compare();
    }
    if wanted("boot") {
        boot::compare();
    }
}

/// The image layer after a change of firstboot alone, beside copying the image's bytes.
fn image() {
    let scratch = lab_scratch();
    let places = &scratch.places;
    let raw = PathBuf::from(places.json(&["build", "lab"])["raw"].as_str().expect("build --json has raw"));
    // The collector is to leave this one alone; it takes every image that follows.
    let key =
        raw.parent().and_then(Path::file_name).and_then(|key| key.to_str()).expect("an entry is named by its key");
    places.ok(&["store", "pin", "copied", key]);
    let agent = scratch.dir.path().join("firstboot");
    let target = text(&scratch.dir.path().join("copy.raw"));
    let (mut copies, mut layers, mut wholes) = (Vec::new(), Vec::new(), Vec::new());
    // In turn, and nothing waits for what the other still writes. What one has written is removed before the next: a virtual machine's memory
    // is quick if the guest had it before and slow if its host has to give it first, and both are to have the former.
    for n in 0..=COPY_RUNS {
        run(&["sync"]);
        let copy = timed(|| run(&["cp", "--sparse=auto", &text(&raw), &target])).0;
        std::fs::remove_file(&target).expect("removing a copy");
        run(&["sync"]);
        write_agent(&agent, &format!("bench {n} {}", std::process::id()));
        let (whole, built) = timed(|| places.json(&["build", "lab", "--firstboot", &text(&agent)]));
        let layer = built["layers"].as_array().and_then(|l| l.iter().find(|l| l["name"] == "image")).cloned();
        let layer = layer.expect("build --json lists the image layer");
        assert_eq!(layer["built"], true, "a changed firstboot is a changed image");
        places.ok(&["store", "gc"]);
        // The first of each only warms up.
        if n > 0 {
            copies.push(copy);
            layers.push(layer["seconds"].as_f64().expect("seconds"));
            wholes.push(whole);
        }
    }
    let [quickest_copy, quickest] = [&copies, &layers].map(|all| all.iter().copied().fold(f64::INFINITY, f64::min));
    let [copy, layer, whole] = [copies, layers, wholes].map(middle);
    println!(
        "image layer, firstboot changed   {layer:8.3} s   {:5.2} x cp of the raw ({copy:.3} s); whole command {whole:.3} s",
        layer / copy
    );
    println!(
        "  the quickest of {COPY_RUNS}               {quickest:8.3} s   {:5.2} x the quickest cp ({quickest_copy:.3} s)",
        quickest / quickest_copy
    );
    let appliance = virt_customize(&raw, &agent, scratch.dir.path());
    println!(
        "  beside virt-customize          {appliance:8.2} s   {:5.1} x the image layer's time, to put the same file into the same raw",
        appliance / layer
    );
    let mkosi = mkosi::Mkosi::of("debian-13");
    let mkosi = median(|n| mkosi.changed(n));
    println!(
        "  beside mkosi                   {mkosi:8.2} s   {:5.1} x the image layer's time, {:4.1} x the whole command's; incremental, Debian 13",
        mkosi / layer,
        mkosi / whole
    );
}

/// Seconds for virt-customize to put one file into a copy of the raw; the copy is not counted. Emulated if hardware virtualisation does not
/// start its appliance, as for kiln's own use of it.
fn virt_customize(raw: &Path, agent: &Path, scratch: &Path) -> f64 {
    let copy = text(&scratch.join("customized.raw"));
    run(&["cp", "--sparse=always", &text(raw), &copy]);
    let upload = format!("{}:/usr/bin/firstboot", text(agent));
    let what =
        ["--no-network", "--format", "raw", "-a", &copy, "--upload", &upload, "--chmod", "0755:/usr/bin/firstboot"];
    let with = |settings: &str| {
        let settings = format!("LIBGUESTFS_BACKEND_SETTINGS={settings}");
        let enter = ["env", "LIBGUESTFS_BACKEND=direct", &settings, "timeout", "600", "virt-customize"];
        [&enter[..], &what].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<String>>()
    };
    let words =
        |line: &[String]| -> bool { output(&line.iter().map(String::as_str).collect::<Vec<_>>()).status.success() };
    // The first run also makes its appliance, once for this machine, and tells whether it starts.
    let line =
        [with("force_kvm"), with("force_tcg")].into_iter().find(|line| words(line)).expect("virt-customize works");
    middle((0..APPLIANCE_RUNS).map(|_| timed(|| assert!(words(&line), "virt-customize works")).0).collect())
}

/// A store that has every layer of the lab's image except the image itself.
fn lab_scratch() -> Scratch {
    let scratch = Scratch::new(Seeding::Link);
    let profile = std::fs::read_to_string(workspace().join("profiles/lab.toml")).expect("reading the lab's profile");
    scratch.add_profile("lab", &profile);
    scratch.take_public_keys("lab");
    scratch
}

/// Writes another agent to the recipe, the same one to a node: what follows the last section of an ELF file is not loaded.
fn write_agent(to: &Path, mark: &str) {
    let agent = std::fs::read(firstboot()).expect("reading firstboot");
    std::fs::write(to, [&agent, mark.as_bytes()].concat()).expect("writing a changed firstboot");
}

/// Sizes that a user pays for.
fn size() {
    let agent = std::fs::metadata(firstboot()).expect("firstboot is built").len();
    println!("firstboot on disk                {:8.2} MB", mega(agent));
    let compressed = build(&["--compress"]);
    let image = compressed["image"].as_str().expect("build --json has image");
    println!(
        "compressed image                 {:8.2} MB",
        mega(std::fs::metadata(image).expect("the image is there").len())
    );
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn build(more: &[&str]) -> Value {
    let program = text(&kiln());
    let project = text(&workspace());
    let mut argv = vec![program.as_str(), "-C", &project, "--json", "build", "lab"];
    argv.extend(more);
    serde_json::from_str(&run(&argv)).expect("build --json prints JSON")
}

fn timed<T>(act: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = act();
    (start.elapsed().as_secs_f64(), result)
}

/// The median of so many runs.
fn median(measure: impl FnMut(usize) -> f64) -> f64 {
    middle((0..RUNS).map(measure).collect())
}

/// The median of what was measured.
fn middle(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
