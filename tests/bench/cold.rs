//! A build of everything from packages that were fetched before, beside plain mmdebstrap with the same packages from a warm cache.

use std::path::Path;

use camino::Utf8PathBuf;
use kiln_builder::image_file;
use kiln_builder::lock::Lock;
use kiln_builder::{plan, profile_file};
use kiln_tests::node::text;
use kiln_tests::places::{Places, Scratch};
use kiln_tests::program::{run, workspace};

use super::mkosi::Mkosi;
use super::{lab_scratch, middle, timed};

/// Builds of each kind, in turn; the median is printed.
const RUNS: usize = 3;

/// mmdebstrap makes a tar of the tree; kiln makes that, file systems, boot sectors, a disk and its qcow2. mmdebstrap reads the archive's
/// lists, for without them it has no package; kiln reads nothing.
pub(crate) fn compare() {
    let (mut kiln, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let scratch = scratch();
        let (seconds, built) = timed(|| scratch.places.json(&["build", "lab"]));
        let layers = built["layers"].as_array().expect("build --json lists layers");
        assert!(layers.iter().all(|layer| layer["built"] == true), "{built}");
        kiln.push(seconds);
        plain.push(mmdebstrap());
    }
    let (kiln, plain) = (middle(kiln), middle(plain));
    println!(
        "cold build, packages fetched     {kiln:8.2} s   {:5.2} x plain mmdebstrap of the same packages to a tar ({plain:.2} s)",
        kiln / plain
    );
    let mkosi = Mkosi::of("ubuntu-24.04");
    let mkosi = middle((0..RUNS).map(|_| mkosi.cold()).collect());
    println!(
        "  beside mkosi                   {mkosi:8.2} s   {:5.2} x kiln's time, for the same packages in a disk",
        mkosi / kiln
    );
}

/// A store that has all that was fetched for the lab, and nothing made of it.
fn scratch() -> Scratch {
    let scratch = lab_scratch();
    std::fs::remove_dir_all(scratch.places.home.join("store/entries")).expect("removing layers");
    scratch
}

/// As its manual says to use a cache of packages.
fn mmdebstrap() -> f64 {
    let project = Utf8PathBuf::try_from(workspace()).expect("the workspace has a UTF-8 path");
    let profile = profile_file::read(&project, "lab").expect("reading the lab's profile");
    let definition = image_file::read(&project, &profile).expect("reading its image definition");
    let lock = plan::read_lock(&profile, &definition).expect("reading its lock");
    let own = Places::own();
    let scratch = tempfile::tempdir_in(&own.home).expect("making a directory");
    let cache = scratch.path().join("cache");
    fill(&cache, &own.home, &lock);
    let archive = definition.archives.first().expect("a definition has an archive");
    let mirror = &lock.mirrors[&archive.distribution];
    let sources = archive.suites.iter().map(|suite| format!("deb {mirror} {suite} {}", archive.components.join(" ")));
    let sources: Vec<String> = sources.collect();
    let archives = "\"$1\"/var/cache/apt/archives/";
    let mut argv: Vec<String> =
        ["mmdebstrap", "--mode=root", "--variant=essential", "--architectures=amd64", "--format=tar"]
            .map(str::to_owned)
            .to_vec();
    argv.push(format!("--keyring={}", project.join(&archive.keyring)));
    argv.push(format!("--include={}", definition.packages.join(",")));
    argv.push("--skip=download/empty".into());
    argv.push(format!("--setup-hook=mkdir -p {archives}; cp --link {}/*.deb {archives}", cache.display()));
    argv.extend([String::new(), text(&scratch.path().join("rootfs.tar"))]);
    argv.extend(sources);
    let temp = format!("TMPDIR={}", scratch.path().display());
    let argv: Vec<&str> = ["env", &temp].into_iter().chain(argv.iter().map(String::as_str)).collect();
    timed(|| run(&argv)).0
}

/// Links the base's packages into a directory, by the names that apt looks for.
fn fill(cache: &Path, home: &Path, lock: &Lock) {
    std::fs::create_dir(cache).expect("making a directory");
    for package in &lock.base {
        let blob = home.join("store/blobs/sha256").join(package.sha256.to_string());
        let name = format!("{}_{}_{}.deb", package.name, package.version.replace(':', "%3a"), package.architecture);
        std::fs::hard_link(blob, cache.join(name)).expect("linking a package");
    }
}
