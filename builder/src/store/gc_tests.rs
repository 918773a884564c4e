//! What a collection keeps, against stores with images of made-up recipes.
use std::path::Path;

use kiln_firstboot::digest::Sha256Digest;

use super::{RootKind, Store};
use crate::recipe::{Recipe, RecipeDisk, RecipeEtcd, RecipePackage};

/// A recipe whose layers differ from those of every other `salt`, and which shares the package `shared` with all.
fn recipe(salt: &str) -> Recipe {
    let package = |name: &str| RecipePackage {
        name: name.into(),
        version: "1".into(),
        sha256: Sha256Digest::of(name.as_bytes()),
    };
    Recipe {
        schema: 1,
        build_format: 1,
        profile: salt.into(),
        definition: "d".into(),
        source_date_epoch: 1,
        base_packages: vec![package("shared"), package(&format!("base-{salt}"))],
        base_files: Vec::new(),
        exclude: Vec::new(),
        include: Vec::new(),
        boot_packages: Vec::new(),
        boot_vendor: "x".into(),
        command_line: String::new(),
        tool_packages: Vec::new(),
        disk: RecipeDisk { esp_mib: 1, boot_mib: 1, root_mib: 1 },
        etcd: RecipeEtcd { source: "file".into(), version: "3.6.14".parse().unwrap(), sha256: Vec::new() },
        firstboot: Sha256Digest::of(b"agent"),
        image_files: Vec::new(),
        cloud: None,
        customize: None,
        hygiene: None,
        crates: None,
    }
}

/// Makes the base and image entries and the blobs of a recipe; returns the image's key.
fn build(store: &Store, salt: &str) -> Sha256Digest {
    use std::io::Write as _;
    let recipe = recipe(salt);
    let keys = recipe.keys();
    for package in &recipe.base_packages {
        let mut blob = store.begin_blob().unwrap();
        blob.write_all(package.name.as_bytes()).unwrap();
        blob.commit(&package.sha256).unwrap().unwrap();
    }
    let fill = |name: &'static str, text: String| {
        move |dir: &Path| {
            std::fs::write(dir.join(name), text).unwrap();
            Ok(Vec::new())
        }
    };
    store.ensure_entry(&keys.base, "base", fill("rootfs.tar", salt.to_owned())).unwrap();
    store.ensure_entry(&keys.image, "image", fill("recipe.json", recipe.render().unwrap())).unwrap();
    keys.image
}

fn scratch() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path().join("store"));
    (dir, store)
}

/// A store of another process: the first one's session would hold the collector off.
fn reopened(store: Store) -> Store {
    let root = store.root().to_owned();
    drop(store);
    Store::at(root)
}

#[test]
fn what_a_root_reaches_stays_and_everything_else_goes() {
    let (_dir, store) = scratch();
    let (kept, gone) = (build(&store, "kept"), build(&store, "gone"));
    store.keep(RootKind::Pin, "mine", &kept, 1).unwrap();
    let store = reopened(store);
    let garbage = store.gc().unwrap();
    assert_eq!((garbage.entries.len(), garbage.blobs.len()), (2, 1));
    assert!(garbage.bytes > 0);
    assert!(store.entry(&kept).unwrap().is_some() && store.entry(&recipe("kept").keys().base).unwrap().is_some());
    assert!(store.entry(&gone).unwrap().is_none() && store.entry(&recipe("gone").keys().base).unwrap().is_none());
    assert!(store.has_blob(&Sha256Digest::of(b"shared")) && store.has_blob(&Sha256Digest::of(b"base-kept")));
    assert!(!store.has_blob(&Sha256Digest::of(b"base-gone")));
    let store = reopened(store);
    assert!(store.gc().unwrap().entries.is_empty(), "a second collection finds nothing");
}

#[test]
fn nothing_goes_when_a_root_cannot_be_read_or_reaches_what_is_not_known() {
    type Bend = dyn Fn(&Store, &Sha256Digest);
    let bends: [&Bend; 4] = [
        &|store, _| std::fs::write(store.root().join("roots/pin/mine.json"), "{").unwrap(),
        &|store, key| std::fs::remove_dir_all(store.entry_dir(key)).unwrap(),
        &|store, key| std::fs::write(store.entry_dir(key).join("recipe.json"), "not a recipe").unwrap(),
        &|store, _| std::fs::remove_dir_all(store.root().join("roots")).unwrap(),
    ];
    for (i, bend) in bends.iter().enumerate() {
        let (_dir, store) = scratch();
        let (kept, other) = (build(&store, "kept"), build(&store, "other"));
        store.keep(RootKind::Pin, "mine", &kept, 1).unwrap();
        bend(&store, &kept);
        let store = reopened(store);
        let error = store.gc().unwrap_err();
        assert!(error.downcast_ref::<crate::exit::Refusal>().is_some(), "bend {i}: {error:#}");
        assert!(store.entry(&other).unwrap().is_some(), "bend {i}");
    }
}

#[test]
fn a_name_keeps_one_image_at_a_time_and_can_be_given_up() {
    let (_dir, store) = scratch();
    let (first, second) = (build(&store, "first"), build(&store, "second"));
    store.keep(RootKind::Build, "lab", &first, 1).unwrap();
    store.keep(RootKind::Build, "lab", &first, 2).unwrap();
    assert_eq!(store.roots().unwrap()[0].since, 1, "it has been kept since then");
    store.keep(RootKind::Build, "lab", &second, 3).unwrap();
    let roots = store.roots().unwrap();
    assert_eq!((roots.len(), roots[0].key, roots[0].since), (1, second, 3));
    assert!(store.forget(RootKind::Build, "lab").unwrap());
    assert!(!store.forget(RootKind::Build, "lab").unwrap());
}

#[test]
fn a_collection_waits_for_a_build_that_runs() {
    let (_dir, store) = scratch();
    let kept = build(&store, "kept");
    store.keep(RootKind::Pin, "mine", &kept, 1).unwrap();
    let root = store.root().to_owned();
    // `store` has a session: it builds.
    let (said, hears) = std::sync::mpsc::channel();
    let collector = std::thread::spawn(move || {
        let done = Store::at(root).gc().map(|garbage| garbage.entries.len());
        said.send(()).unwrap();
        done
    });
    // The entry that the build makes before it ends has a root by then, so the collector must see both.
    let late = build(&store, "late");
    store.keep(RootKind::Build, "late", &late, 2).unwrap();
    assert!(hears.try_recv().is_err(), "it did not wait");
    drop(store);
    hears.recv().unwrap();
    assert_eq!(collector.join().unwrap().unwrap(), 0);
}
