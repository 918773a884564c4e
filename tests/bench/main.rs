//! `make bench`: kiln beside the plainest way to do the same thing, same machine, same run. Prints ratios; asserts nothing.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock, runs programs and writes scratch files")]
#![expect(clippy::print_stdout, reason = "its output is the result")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use kiln_tests::node::text;
use kiln_tests::program::{firstboot, kiln, run, workspace};
use serde_json::Value;

mod boot;
mod cold;
mod formation;
mod growth;
mod nothing;
mod replacement;

/// Runs of each short measurement; the median is printed.
const RUNS: usize = 5;

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
    if wanted("boot") {
        boot::compare();
    }
}

/// The image layer after a change of firstboot alone, beside copying the image's bytes.
fn image() {
    let built = build(&[]);
    let raw = PathBuf::from(built["raw"].as_str().expect("build --json has raw"));
    let scratch =
        tempfile::tempdir_in(raw.parent().and_then(Path::parent).expect("the raw is in the store")).expect("scratch");
    let copy = median(|n| {
        let target = text(&scratch.path().join(format!("copy-{n}")));
        timed(|| run(&["cp", "--sparse=auto", &text(&raw), &target])).0
    });
    let agent = scratch.path().join("firstboot");
    let mut layers = Vec::new();
    let whole = median(|n| {
        let mut bytes = std::fs::read(firstboot()).expect("reading firstboot");
        // What follows the last section of an ELF file is not loaded: another agent to the recipe, the same one to a node.
        bytes.extend(format!("bench {n} {}", std::process::id()).into_bytes());
        std::fs::write(&agent, bytes).expect("writing a changed firstboot");
        let (seconds, built) = timed(|| build(&["--firstboot", &text(&agent)]));
        let layer = built["layers"].as_array().and_then(|l| l.iter().find(|l| l["name"] == "image")).cloned();
        let layer = layer.expect("build --json lists the image layer");
        assert_eq!(layer["built"], true, "a changed firstboot is a changed image");
        layers.push(layer["seconds"].as_f64().expect("seconds"));
        seconds
    });
    layers.sort_by(f64::total_cmp);
    let layer = layers[layers.len() / 2];
    println!(
        "image layer, firstboot changed   {layer:8.3} s   {:5.2} x cp of the raw ({copy:.3} s); whole command {whole:.3} s",
        layer / copy
    );
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

fn median(mut measure: impl FnMut(usize) -> f64) -> f64 {
    let mut all: Vec<f64> = (0..RUNS).map(&mut measure).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
