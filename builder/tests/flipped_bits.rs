//! One bit of a store flips, anywhere: `kiln store verify` names the file, and whoever uses it next refuses it or makes it anew.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: runs kiln and looks at its files")]

#[expect(dead_code, reason = "what other tests need of it")]
mod fixture;
#[path = "fixture/image.rs"]
mod image;

use std::path::{Path, PathBuf};

use fixture::{Project, text};
use kiln_builder::store::Store;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};

/// What other files of an entry vouch for, so that damage may be named by either.
const PAPERS: [&str; 4] = ["manifest.json", "sha256sums", "sha256sums.sig", "provenance.json"];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            files(&path, found);
        } else if metadata.is_file() && metadata.len() > 0 {
            found.push(path);
        }
    }
    found.sort();
}

/// Everything in the store that means something.
fn everything(project: &Project) -> Vec<PathBuf> {
    let mut found = Vec::new();
    ["entries", "blobs", "roots"].iter().for_each(|dir| files(&project.store().join(dir), &mut found));
    found
}

/// What a message must name when this file was changed: itself; a tree, where it lies in one; the entry, where it is of its papers.
fn named(store: &Path, file: &Path) -> String {
    let inside: Vec<_> = file.strip_prefix(store).unwrap().iter().collect();
    let name = file.file_name().unwrap().to_str().unwrap();
    let parts = match inside[0].to_str().unwrap() {
        "entries" if inside.len() > 3 => 3,
        "entries" if PAPERS.contains(&name) => 2,
        _ => inside.len(),
    };
    inside[..parts].iter().fold(store.to_owned(), |path, part| path.join(part)).display().to_string()
}

#[test]
fn a_flipped_bit_anywhere_is_named_by_verify_and_never_used() {
    let (project, key) = Project::with_image();
    let store = project.store();
    let sound = project.kiln(&["store", "verify"]);
    assert!(sound.status.success(), "{}{}", text(&sound), String::from_utf8_lossy(&sound.stdout));
    let image = store.join("entries").join(key.to_string());
    let agent = project.at("other-agent");
    std::fs::write(&agent, "another agent").unwrap();
    let export = project.at("export");
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let case = |(which, place, bit): (proptest::sample::Index, proptest::sample::Index, u8)| {
        let all = everything(&project);
        let file = which.get(&all);
        let before = std::fs::read(file).unwrap();
        let mut bytes = before.clone();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << (bit % 8);
        std::fs::write(file, &bytes).unwrap();
        let what = format!("{} byte {at} bit {}", file.display(), bit % 8);

        let name = named(&store, file);
        let found = project.kiln(&["store", "verify"]);
        let list = String::from_utf8_lossy(&found.stdout).into_owned();
        let by_verify = !found.status.success() && list.contains(&name);
        assert!(by_verify, "{what}: verify does not name it\n{list}{}", text(&found));
        // A damaged blob has been removed; whoever uses it next shall find it.
        std::fs::write(file, &bytes).unwrap();

        // An image reads no byte of what its boot layer was made of.
        let keys = project.plan().keys;
        let below = [keys.base, keys.boot_packages, keys.etcd].map(|key| store.join("entries").join(key.to_string()));
        let large = ["disk.raw", "disk.qcow2"].iter().any(|disk| file.ends_with(disk));
        let output = if file.starts_with(store.join("roots")) {
            project.kiln(&["store", "gc", "--dry-run"])
        } else if file.starts_with(store.join("blobs")) || large || below.iter().any(|dir| file.starts_with(dir)) {
            project.kiln(&["store", "export", "t", export.to_str().unwrap()])
        } else if file.starts_with(&image) {
            project.build()
        } else {
            // The image of another agent is made of the same layers.
            project.kiln(&["build", "t", "--firstboot", agent.to_str().unwrap()])
        };
        let said = text(&output);
        let blob = file.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(&name) || said.contains(&format!("input {blob}")), "{what}: {said}");
        // The image of the other agent cannot be made either: the tiny project's tools make no disk.
        assert!(!output.status.success() && !export.exists(), "{what}: it was used\n{said}");
        if said.contains("is damaged, so it is made again") {
            let now = std::fs::read(file);
            assert!(now.is_err() || now.unwrap() != bytes, "{what}: it is still there\n{said}");
            image::put_boot(&Store::at(project.store()), &project.plan());
        } else {
            std::fs::write(file, &before).unwrap();
        }
        Ok(())
    };
    let flips = (any::<proptest::sample::Index>(), any::<proptest::sample::Index>(), any::<u8>());
    runner.run(&flips, case).unwrap();
    let sound = project.kiln(&["store", "verify"]);
    assert!(sound.status.success(), "{}{}", text(&sound), String::from_utf8_lossy(&sound.stdout));
}
