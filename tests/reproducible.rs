//! The same inputs give the same bytes, whoever builds, where and when; and a difference is named.
//!
//! `kiln verify` makes every layer a second time from the pinned inputs. Here it does so in another directory than the first build, and with
//! everything about its caller changed that programs are known to take notice of.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "copies a profile, changes bytes of a disk")]

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use kiln_tests::node::text;
use kiln_tests::places::{Places, Scratch, Seeding};
use kiln_tests::program::{STRANGE_ENVIRONMENT, STRANGE_PROCESS, output, run, workspace};
use serde_json::{Value, json};

/// The other image definition; its lock and its layers stay for the next run, as the lab's do.
const DEBIAN: &str = "tests/profiles/debian.toml";

/// Runs `kiln verify PROFILE` as a caller unlike any who built before; whether it ended well, and what it found.
fn verify(scratch: &Scratch, profile: &str) -> (bool, Value) {
    let kiln = scratch.places.argv(&["verify", profile, "--json"]);
    let path = format!("PATH={}", std::env::var("PATH").expect("there is a PATH"));
    let environment = ["env", "-i", &path].into_iter().chain(STRANGE_ENVIRONMENT).chain(STRANGE_PROCESS);
    let argv: Vec<&str> = environment.chain(kiln.iter().map(String::as_str)).collect();
    let output = output(&argv);
    let found = serde_json::from_slice(&output.stdout);
    (output.status.success(), found.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn ubuntu_is_the_same_bytes_for_another_caller() {
    let scratch = Scratch::new(Seeding::Link);
    let profile = fs_err::read_to_string(workspace().join("profiles/lab.toml")).expect("reading the lab's profile");
    scratch.add_profile("lab", &profile);
    scratch.take_public_keys("lab");
    // Made from layers of another place and time than those that `verify` makes.
    scratch.places.json(&["build", "lab"]);
    let (well, found) = verify(&scratch, "lab");
    assert!(well, "{found}");
    assert_eq!(found["identical"], true, "{found}");
    let files: Vec<&str> = found["files"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(["disk.raw", "disk.qcow2"].iter().all(|disk| files.contains(disk)), "{found}");
}

/// One byte of one file is changed, and named; so is that nothing else differs.
#[test]
#[ignore = "needs root and a package archive"]
fn a_difference_in_debian_is_named_by_partition_and_path() {
    let own = Places::own();
    own.ensure_built(DEBIAN);
    let scratch = Scratch::new(Seeding::Link);
    scratch.take_layers(DEBIAN);
    scratch.take_public_keys("debian");
    let profiles = scratch.places.project.join("profiles");
    for file in ["debian.toml", "debian.lock"] {
        fs_err::copy(workspace().join("tests/profiles").join(file), profiles.join(file)).expect("copying the profile");
    }
    let built = scratch.places.json(&["build", "debian"]);
    let raw = built["raw"].as_str().expect("build --json has raw");
    change(Path::new(raw), b"PRETTY_NAME=\"Debian GNU/Linux 13");
    let (well, found) = verify(&scratch, "debian");
    assert!(!well);
    assert_eq!(found["identical"], false, "{found}");
    let differences = found["differences"].as_array().expect("verify --json lists differences");
    let [difference] = differences.as_slice() else { panic!("{found}") };
    assert_eq!(difference["place"], "partition 1", "{found}");
    assert_eq!(difference["file"], "/usr/lib/os-release", "{found}");
    let files = found["files"].as_array().expect("verify --json lists files");
    assert!(files.contains(&json!("disk.qcow2")), "the other disk was left alone: {found}");
}

/// Changes the first letter of the one place of a disk that has `words`.
fn change(raw: &Path, words: &[u8]) {
    let words = String::from_utf8_lossy(words);
    let found = run(&["grep", "--byte-offset", "--only-matching", "--text", "--fixed-strings", &words, &text(raw)]);
    let offsets: Vec<u64> = found.lines().filter_map(|line| line.split(':').next()?.parse().ok()).collect();
    let [offset] = offsets.as_slice() else { panic!("{found}") };
    let disk = fs_err::OpenOptions::new().write(true).open(raw).expect("opening a disk").into_file();
    disk.write_all_at(b"p", *offset).expect("changing a disk");
}
