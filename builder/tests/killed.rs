//! `kill -9` at random moments of a build, a collection and an import: what has a name is whole, the next command goes on from there, and what
//! comes of it in the end is what comes of it undisturbed.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: runs kiln and looks at its files")]

#[expect(dead_code, reason = "what other tests need of it")]
mod fixture;
#[path = "fixture/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fixture::{Project, names, text};
use kiln_builder::store::{RootKind, Store};
use kiln_firstboot::digest::Sha256Digest;

/// Where it begins, and how often something is killed.
const SEED: u64 = 0x6b69_6c6e;
const KILLS: usize = 50;

/// Numbers that are the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Build,
    Collect,
    Import,
}

struct Scene {
    project: Project,
    archive: PathBuf,
    image: Sha256Digest,
    store: PathBuf,
}

impl Scene {
    /// A store to begin with: nothing for a build and an import, garbage beside an image for a collection.
    fn prepare(&self, work: Work) {
        if self.store.exists() {
            std::fs::remove_dir_all(&self.store).unwrap();
        }
        if work != Work::Collect {
            return;
        }
        let imported = self.command(Work::Import).output().unwrap();
        assert!(imported.status.success(), "{}", text(&imported));
        let store = Store::at(&self.store);
        for i in 0..12_u8 {
            let fill = |dir: &Path| {
                std::fs::create_dir(dir.join("root")).unwrap();
                std::fs::write(dir.join("root/file"), vec![i; 10_000]).unwrap();
                std::fs::write(dir.join("file"), vec![i; 100_000]).unwrap();
                Ok(vec!["root".to_owned()])
            };
            store.ensure_entry(&Sha256Digest::of(&[i]), "garbage", fill).unwrap();
            let mut blob = store.begin_blob().unwrap();
            std::io::Write::write_all(&mut blob, &[i; 5000]).unwrap();
            blob.commit(&Sha256Digest::of(&[i; 5000])).unwrap().unwrap();
        }
    }

    fn command(&self, work: Work) -> Command {
        let (store, archive, agent) =
            (self.store.to_str().unwrap(), self.archive.to_str().unwrap(), self.project.at("firstboot"));
        match work {
            Work::Build => {
                self.project.command(&["build", "t", "--firstboot", agent.to_str().unwrap(), "--store", store])
            }
            Work::Collect => self.project.command(&["store", "gc", "--store", store]),
            Work::Import => self.project.command(&["store", "import", archive, "--pin", "kept", "--store", store]),
        }
    }

    /// Runs it to its end. A build of the tiny project ends where its base has no kernel.
    fn finish(&self, work: Work) {
        let output = self.command(work).output().unwrap();
        let ended =
            output.status.success() || (work == Work::Build && text(&output).contains("has no `boot/vmlinuz-*`"));
        assert!(ended, "{work:?}: {}", text(&output));
    }

    /// Whatever has a name is whole, now.
    fn assert_whole(&self, what: &str) {
        let store = Store::at(&self.store);
        let (entries, broken) = store.entries().unwrap();
        assert_eq!(broken, [], "{what}");
        for entry in entries {
            assert_eq!(entry.check().unwrap(), [], "{what}");
        }
        for blob in store.blobs().unwrap() {
            let bytes = std::fs::read(store.blob_path(&blob)).unwrap();
            assert_eq!(Sha256Digest::of(&bytes), blob, "{what}");
        }
        assert_eq!(store.check_roots().unwrap(), [], "{what}");
        // Whoever finds the image finds all it was made of.
        if store.roots().unwrap().iter().any(|root| root.kind == RootKind::Pin) {
            assert!(store.entry(&self.image).unwrap().is_some(), "{what}");
        }
    }

    /// What is in the store. How long a layer took is in its manifest, which its sums cover, so a build's are left out.
    fn content(&self, work: Work) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut content = BTreeMap::new();
        for dir in ["entries", "blobs", "roots"] {
            collect(&self.store.join(dir), &mut content);
        }
        let of_this_run = ["manifest.json", "sha256sums"];
        content.retain(|path, _| work != Work::Build || !of_this_run.iter().any(|name| path.ends_with(name)));
        // Since when a root keeps what it keeps.
        content.retain(|path, _| !path.starts_with(self.store.join("roots")));
        content
    }
}

fn collect(dir: &Path, content: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for name in names(dir) {
        let path = dir.join(name);
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            collect(&path, content);
        } else if metadata.is_symlink() {
            content.insert(path.clone(), std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
        } else {
            content.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
}

#[test]
fn fifty_kills_leave_nothing_half_and_what_comes_of_it_is_the_same() {
    let (project, image) = Project::with_image();
    let archive = project.at("image.kiln");
    let exported = project.kiln(&["store", "export", "t", archive.to_str().unwrap()]);
    assert!(exported.status.success(), "{}", text(&exported));
    let scene = Scene { store: project.at("victim"), archive, image, project };
    let works = [Work::Build, Work::Collect, Work::Import];
    let undisturbed: BTreeMap<Work, (Duration, BTreeMap<PathBuf, Vec<u8>>)> = works
        .into_iter()
        .map(|work| {
            scene.prepare(work);
            let began = Instant::now();
            scene.finish(work);
            (work, (began.elapsed(), scene.content(work)))
        })
        .collect();
    let mut random = Random(SEED);
    let mut stopped = BTreeMap::new();
    let mut kills = 0;
    for round in 0.. {
        if kills >= KILLS {
            break;
        }
        assert!(round < 10 * KILLS, "only {kills} of {round} were killed before their end");
        let work = works[usize::try_from(random.below(3)).unwrap()];
        let (takes, expected) = &undisturbed[&work];
        scene.prepare(work);
        // Up to three in a row: what the first left is the beginning of the second.
        for _ in 0..=random.below(3) {
            let micros = random.below(u64::try_from(takes.as_micros()).unwrap());
            let what = format!("seed {SEED}, round {round}: {work:?} killed after {micros} microseconds");
            let mut child = scene.command(work).spawn().unwrap();
            // Not to wait for anything: a random moment is what is tested.
            std::thread::sleep(Duration::from_micros(micros));
            child.kill().unwrap();
            if child.wait().unwrap().code().is_none() {
                kills += 1;
                *stopped.entry(work).or_insert(0) += 1;
            }
            scene.assert_whole(&what);
        }
        scene.finish(work);
        let what = format!("seed {SEED}, round {round}: {work:?}");
        let content = scene.content(work);
        assert!(content.keys().eq(expected.keys()), "{what}: {:?}", content.keys().collect::<Vec<_>>());
        let other: Vec<_> =
            content.iter().filter(|(path, bytes)| expected[*path] != **bytes).map(|(path, _)| path).collect();
        assert!(other.is_empty(), "{what}: {other:?}");
        let sound = scene.project.kiln(&["store", "verify", "--store", scene.store.to_str().unwrap()]);
        assert!(sound.status.success(), "{what}: {}", text(&sound));
    }
    assert!(works.iter().all(|work| stopped.contains_key(work)), "{stopped:?}");
}
