//! One store that grows: 1, 10 and 100 generations of an image, each with another firstboot. What they take, and what looking after them costs.

use std::path::Path;

use kiln_tests::node::text;
use kiln_tests::program::run;

use super::{lab_scratch, median, mega, timed, write_agent};

/// How many generations there are when the store is looked at.
const LOOKS: [usize; 3] = [1, 10, 100];
/// Up to here every generation keeps its disks. Later ones lose theirs once they have been counted, or a hundred would take 50 GB: the
/// files stay, with their length, as holes. To `ls` and to a collection that removes nothing that makes no difference.
const KEPT: usize = 10;
const DISKS: [&str; 2] = ["disk.raw", "disk.qcow2"];

/// Every generation is pinned, so that the collector has all their recipes to follow.
pub(crate) fn measure() {
    let scratch = lab_scratch();
    let places = &scratch.places;
    let agent = scratch.dir.path().join("firstboot");
    let layers = on_disk(&places.home.join("store"));
    let (mut bytes, mut names) = (layers, Vec::new());
    for n in 1..=LOOKS[LOOKS.len() - 1] {
        write_agent(&agent, &format!("generation {n}"));
        let built = places.json(&["build", "lab", "--firstboot", &text(&agent)]);
        let (key, name) = (built["key"].as_str().expect("build --json has key"), format!("generation-{n}"));
        places.ok(&["store", "pin", &name, key]);
        names.push(name);
        let entry = places.home.join("store/entries").join(key);
        bytes += on_disk(&entry);
        if n > KEPT {
            DISKS.iter().for_each(|disk| hollow(&entry.join(disk)));
        }
        if LOOKS.contains(&n) {
            let ls = median(|_| timed(|| places.ok(&["store", "ls"])).0);
            let gc = median(|_| timed(|| places.ok(&["store", "gc"])).0);
            println!(
                "generations in one store: {n:3}    {:8.0} MB ({:.0} MB of it layers and packages); ls {ls:.3} s, gc of nothing {gc:.3} s",
                mega(bytes),
                mega(layers)
            );
        }
    }
    // The last build keeps its image; the others go.
    names.iter().for_each(|name| drop(places.ok(&["store", "unpin", name])));
    let gc = timed(|| places.ok(&["store", "gc"])).0;
    println!("gc of {} generations             {gc:8.3} s, {KEPT} of them with their disks", names.len() - 1);
}

/// Bytes that a directory takes on its disk, as `du` counts them.
fn on_disk(dir: &Path) -> u64 {
    let told = run(&["du", "--summarize", "--block-size=1", &text(dir)]);
    told.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("du prints bytes")
}

/// Gives a file's blocks back and keeps its length.
fn hollow(file: &Path) {
    let length = std::fs::metadata(file).expect("looking at a disk").len();
    let file = std::fs::OpenOptions::new().write(true).open(file).expect("opening a disk");
    file.set_len(0).and_then(|()| file.set_len(length)).expect("hollowing a disk");
}
