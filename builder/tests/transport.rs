//! Images go from one store to another, as a file, through a directory and over HTTP; what is not right on arrival is refused, and the next
//! try goes on from there.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: runs kiln and looks at its files")]

#[expect(dead_code, reason = "what other tests need of it")]
mod fixture;
#[path = "fixture/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use camino::Utf8Path;
use fixture::{Answer, Project, names, text};
use kiln_builder::closure::outgoing::Outgoing;
use kiln_builder::closure::{Closure, Extent, archive};
use kiln_builder::store::Store;
use kiln_builder::trust::signing_key::SigningKey;
use kiln_firstboot::digest::Sha256Digest;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};

/// Two stores of one home: one has an image, the other nothing.
struct Scene {
    project: Project,
    image: Sha256Digest,
}

impl Scene {
    fn new() -> Self {
        let (project, image) = Project::with_image();
        Self { project, image }
    }

    /// In the store that has the image.
    fn here(&self, args: &[&str]) -> Output {
        self.project.kiln(args)
    }

    /// In the other store.
    fn there(&self, args: &[&str]) -> Output {
        self.project.command(args).arg("--store").arg(self.store()).arg("--json").output().unwrap()
    }

    fn store(&self) -> PathBuf {
        self.project.at("there/store")
    }

    fn exported(&self) -> PathBuf {
        let file = self.project.at("image.kiln");
        let output = self.here(&["store", "export", "t", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output));
        file
    }

    fn content(&self, store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut content = BTreeMap::new();
        for dir in ["entries", "blobs"] {
            collect(store, Path::new(dir), &mut content);
        }
        content
    }

    /// The other store is what this one is, to the byte.
    fn assert_arrived(&self) {
        assert_eq!(self.content(&self.store()), self.content(&self.project.store()));
        let sound = self.there(&["store", "verify"]);
        assert!(sound.status.success(), "{}", text(&sound));
        assert_eq!(names(&self.store().join("partial")), [] as [&str; 0]);
    }

    /// Nothing has a name in the other store.
    fn assert_nothing_arrived(&self) {
        for dir in ["entries", "blobs/sha256"] {
            assert_eq!(names(&self.store().join(dir)), [] as [&str; 0]);
        }
    }

    fn forget(&self) {
        if self.store().exists() {
            std::fs::remove_dir_all(self.store()).unwrap();
        }
    }
}

fn collect(store: &Path, at: &Path, content: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for name in names(&store.join(at)) {
        let path = at.join(name);
        let metadata = std::fs::symlink_metadata(store.join(&path)).unwrap();
        if metadata.is_dir() {
            collect(store, &path, content);
        } else if metadata.is_symlink() {
            content.insert(
                path.clone(),
                std::fs::read_link(store.join(&path)).unwrap().into_os_string().into_encoded_bytes(),
            );
        } else {
            content.insert(path.clone(), std::fs::read(store.join(&path)).unwrap());
        }
    }
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(78), "{}", text(output));
    text(output)
}

#[test]
fn an_image_goes_from_one_store_to_another_in_a_file_and_twice_is_once() {
    let scene = Scene::new();
    let file = scene.exported();
    let import = ["store", "import", file.to_str().unwrap(), "--pin", "mine"];
    let first = json(&scene.there(&import));
    assert_eq!((first["entries"].as_array().unwrap().len(), first["inputs"].as_u64()), (7, Some(2)));
    scene.assert_arrived();
    let again = json(&scene.there(&import));
    assert_eq!((again["entries"].as_array().unwrap().len(), again["inputs"].as_u64()), (0, Some(0)));
    scene.assert_arrived();
    // Kept by its pin.
    json(&scene.there(&["store", "gc"]));
    scene.assert_arrived();
    // What is shown of it.
    let key = scene.image.to_string();
    let shown = json(&scene.there(&["store", "show", &key]));
    assert_eq!(shown["roots"][0], "pin/mine");
    assert_eq!(shown["layers"]["base"]["present"], true);
    assert_eq!((shown["inputs"]["count"].as_u64(), shown["inputs"]["present"].as_u64()), (Some(2), Some(2)));
    assert!(shown["signature"].as_str().unwrap().contains("this home"));
    let base = shown["layers"]["base"]["key"].as_str().unwrap();
    let shown = json(&scene.there(&["store", "show", base]));
    assert_eq!((shown["images"][0].as_str(), shown["roots"][0].as_str()), (Some(key.as_str()), Some("pin/mine")));
}

#[test]
fn the_image_alone_goes_too_and_only_from_where_it_is() {
    let scene = Scene::new();
    let file = scene.project.at("alone.kiln");
    json(&scene.here(&["store", "export", "t", file.to_str().unwrap(), "--image-only", "--json"]));
    let came = json(&scene.there(&["store", "import", file.to_str().unwrap()]));
    assert_eq!(came["entries"].as_array().unwrap().len(), 1);
    // It has no layers there, so with them it cannot be sent on.
    let on = scene.project.at("on.kiln");
    let key = scene.image.to_string();
    let said = refused(&scene.there(&["store", "export", &key, on.to_str().unwrap()]));
    assert!(said.contains("is not in the store") && said.contains("--image-only"), "{said}");
    assert!(!on.exists());
    json(&scene.there(&["store", "export", &key, on.to_str().unwrap(), "--image-only"]));
    assert_eq!(names(&scene.project.dir.path().join("there")), ["store"]);
}

#[test]
fn a_strangers_image_comes_in_unrun_and_his_layers_do_not() {
    let scene = Scene::new();
    let file = scene.exported();
    let elsewhere = scene.project.at("elsewhere");
    let import = |home: &Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kiln"));
        command.args(["store", "import", file.to_str().unwrap(), "--json", "--home"]).arg(home).output().unwrap()
    };
    let came = json(&import(&elsewhere));
    assert_eq!((came["entries"].as_array().unwrap().len(), came["inputs"].as_u64()), (1, Some(2)));
    assert_eq!((came["layers_left_out"].as_bool(), came["signed_by"].as_str()), (Some(true), None));
    let home = elsewhere.to_str().unwrap();
    let key = scene.image.to_string();
    let kiln = |args: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_kiln"))
            .args(args)
            .args(["--home", home, "--json"])
            .output()
            .unwrap()
    };
    let said = refused(&kiln(&["trust", "verify", &key]));
    assert!(said.contains("which is not trusted here"), "{said}");
    // Whoever trusts him takes his layers too.
    let public = scene.project.at("home/signing/signing.pub");
    json(&kiln(&["trust", "add", "him", public.to_str().unwrap()]));
    let came = json(&import(&elsewhere));
    assert_eq!((came["entries"].as_array().unwrap().len(), came["signed_by"].as_str()), (6, Some("him")));
    assert!(kiln(&["trust", "verify", &key]).status.success());
    assert_eq!(scene.content(&elsewhere.join("store")), scene.content(&scene.project.store()));
}

#[test]
fn a_file_with_any_byte_changed_or_cut_off_is_refused_and_nothing_enters() {
    let scene = Scene::new();
    let file = scene.exported();
    let whole = std::fs::read(&file).unwrap();
    let broken = scene.project.at("broken.kiln");
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let changes = (any::<bool>(), any::<proptest::sample::Index>(), 0..8);
    let case = |(cut, at, bit): (bool, proptest::sample::Index, i32)| {
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        std::fs::write(&broken, bytes).unwrap();
        let output = scene.there(&["store", "import", broken.to_str().unwrap()]);
        assert!(!output.status.success(), "cut {cut}, byte {at}, bit {bit}");
        assert!(
            text(&output).contains("was not imported") || text(&output).contains("has come with other bytes"),
            "{}",
            text(&output)
        );
        scene.assert_nothing_arrived();
        Ok(())
    };
    runner.run(&changes, case).unwrap();
    std::fs::write(&broken, [&whole[..], b"more"].concat()).unwrap();
    let said = refused(&scene.there(&["store", "import", broken.to_str().unwrap()]));
    assert!(said.contains("something comes after its end"), "{said}");
    scene.assert_nothing_arrived();
    json(&scene.there(&["store", "import", file.to_str().unwrap()]));
    scene.assert_arrived();
}

#[test]
fn an_archive_that_would_write_elsewhere_or_without_end_is_refused() {
    let scene = Scene::new();
    let file = scene.exported();
    let whole = std::fs::read(&file).unwrap();
    let document = {
        let mut archive = tar::Archive::new(&whole[..]);
        let mut first = archive.entries().unwrap().next().unwrap().unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut first, &mut bytes).unwrap();
        bytes
    };
    let broken = scene.project.at("broken.kiln");
    let chunk = Closure::parse(&document).unwrap().closure.chunks()[0];
    type Member<'a> = (&'a str, tar::EntryType, u64);
    let first = format!("chunks/{}", chunk.0);
    let cases: [Member<'_>; 6] = [
        ("chunks/../../../etc/passwd", tar::EntryType::Regular, 5),
        ("/etc/passwd", tar::EntryType::Regular, 5),
        (&first, tar::EntryType::Symlink, 0),
        (&first, tar::EntryType::Link, 0),
        (&first, tar::EntryType::Regular, 8 << 30),
        ("kiln.closure", tar::EntryType::Regular, 5),
    ];
    for (name, kind, size) in cases {
        let mut out = Vec::new();
        let mut append = |name: &str, kind, size: u64, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(size);
            header.set_mode(0o644);
            header.set_entry_type(kind);
            // The crate does not set such a name, so the bytes are put there.
            header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(bytes);
            out.resize(out.len().next_multiple_of(512), 0);
        };
        append("kiln.closure", tar::EntryType::Regular, document.len() as u64, &document);
        append(name, kind, size, b"hello");
        std::fs::write(&broken, out).unwrap();
        let said = refused(&scene.there(&["store", "import", broken.to_str().unwrap()]));
        assert!(said.contains("was not imported: "), "{name}: {said}");
        scene.assert_nothing_arrived();
    }
}

#[test]
fn what_a_trusted_sender_calls_by_a_wrong_name_is_refused() {
    let scene = Scene::new();
    let store = Store::at(scene.project.store());
    let key = SigningKey::ensure(Utf8Path::from_path(&scene.project.at("home/signing")).unwrap()).unwrap();
    let file = scene.project.at("wrong.kiln");
    let send = |change: &dyn Fn(&mut Closure)| {
        let image = store.entry(&scene.image).unwrap().unwrap();
        let mut outgoing = Outgoing::of(&store, &image, Extent::Whole).unwrap();
        change(&mut outgoing.closure);
        archive::export(&outgoing, &key, &file).unwrap();
        let said = refused(&scene.there(&["store", "import", file.to_str().unwrap()]));
        scene.assert_nothing_arrived();
        scene.forget();
        said
    };
    let other = Sha256Digest::of(b"another key");
    let of = |closure: &Closure, file: &str| closure.entries.iter().position(|p| p.files.contains_key(file)).unwrap();
    let said = send(&|closure| {
        let base = of(closure, "rootfs.tar");
        closure.entries[base].key = other;
    });
    assert!(said.contains("its manifest is that of"), "{said}");
    let said = send(&|closure| {
        let (base, boot) = (of(closure, "rootfs.tar"), of(closure, "root.ext4"));
        let key = closure.entries[base].key;
        closure.entries[base].key = closure.entries[boot].key;
        closure.entries[boot].key = key;
    });
    assert!(said.contains("its manifest is that of"), "{said}");
    let said = send(&|closure| closure.inputs[0].sha256 = other);
    assert!(said.contains(&format!("input {other} of the closure hashes to")), "{said}");
    let said = send(&|closure| {
        let extra = closure.inputs[0].file.clone();
        closure.entries[0].files.insert("extra".into(), extra);
    });
    assert!(said.contains("is not of this entry"), "{said}");
    let said = send(&|closure| {
        let base = of(closure, "rootfs.tar");
        closure.entries[base].files.remove("rootfs.tar");
    });
    assert!(said.contains("has not the length that its manifest says"), "{said}");
    let said = send(&|closure| {
        // A signed image is the one that was signed.
        let image = of(closure, "recipe.json");
        let sbom = closure.entries[image].files["disk.qcow2"].clone();
        closure.entries[image].files.insert("sha256sums.sig".into(), sbom);
    });
    assert!(said.contains("is not the signature of"), "{said}");
}

#[test]
fn what_was_pushed_is_not_sent_again_and_pulled_to_the_byte() {
    let scene = Scene::new();
    let place = scene.project.at("place");
    let url = format!("file://{}", place.display());
    let first = json(&scene.here(&["push", "t", &url, "--json"]));
    assert_eq!(first["sent"], first["objects"]);
    let again = json(&scene.here(&["push", "t", &url, "--json"]));
    assert_eq!((again["sent"].as_u64(), &again["objects"]), (Some(1), &first["objects"]));
    let key = scene.image.to_string();
    let pulled = json(&scene.there(&["pull", &key, &url]));
    assert_eq!(pulled["objects"], first["objects"]);
    scene.assert_arrived();
    let nothing = json(&scene.there(&["pull", &key, &url]));
    assert_eq!(nothing["objects"].as_u64(), Some(1));
    // Two that push at once.
    std::fs::remove_dir_all(&place).unwrap();
    let both = [(); 2].map(|()| scene.project.command(&["push", "t", &url]).spawn().unwrap());
    for push in both {
        let output = push.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    scene.forget();
    json(&scene.there(&["pull", &key, &url]));
    scene.assert_arrived();
    let said = refused(&scene.there(&["pull", &Sha256Digest::of(b"x").to_string(), &url]));
    assert!(said.contains("there is no image"), "{said}");
    let said = refused(&scene.there(&["pull", &key, "ftp://x/y"]));
    assert!(said.contains("is no place for images"), "{said}");
}

#[test]
fn an_object_that_was_changed_or_cut_short_is_refused_and_mended_by_a_push() {
    let scene = Scene::new();
    let place = scene.project.at("place");
    let url = format!("file://{}", place.display());
    json(&scene.here(&["push", "t", &url, "--json"]));
    let key = scene.image.to_string();
    let mut objects = BTreeMap::new();
    collect(&place, Path::new(""), &mut objects);
    for (path, whole) in &objects {
        // What had come before would not be asked for.
        scene.forget();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        for bytes in [&changed[..], &whole[..whole.len() / 2], &[]] {
            std::fs::write(place.join(path), bytes).unwrap();
            let said = refused(&scene.there(&["pull", &key, &url]));
            assert!(said.contains("was refused") && said.contains("kiln push --again"), "{said}");
            scene.assert_nothing_arrived();
        }
        json(&scene.here(&["push", "t", &url, "--again", "--json"]));
        assert_eq!(std::fs::read(place.join(path)).unwrap(), *whole);
        let pulled = json(&scene.there(&["pull", &key, &url]));
        scene.assert_arrived();
        // What had come was kept; without the document nothing was asked for.
        let kept = pulled["objects"].as_u64().unwrap() < objects.len() as u64;
        assert_eq!(kept, path.starts_with("chunks"), "{pulled}");
    }
}

#[test]
fn over_http_an_interrupted_pull_goes_on_where_it_was() {
    let scene = Scene::new();
    let place = scene.project.at("place");
    json(&scene.here(&["push", "t", &format!("file://{}", place.display()), "--json"]));
    let mut objects = BTreeMap::new();
    collect(&place, Path::new(""), &mut objects);
    let name = |path: &Path| format!("shared/{}", path.display());
    let server = &scene.project.server;
    for (path, bytes) in &objects {
        server.answer(&name(path), Answer::Whole(bytes.clone()));
    }
    let (last, bytes) =
        objects.iter().filter(|(path, _)| path.starts_with("chunks")).max_by_key(|(_, b)| b.len()).unwrap();
    server.answer(&name(last), Answer::Status(404));
    let (key, url) = (scene.image.to_string(), format!("{}/shared", server.url));
    let said = refused(&scene.there(&["pull", &key, &url]));
    assert!(said.contains("was refused: it is not there"), "{said}");
    scene.assert_nothing_arrived();
    server.answer(&name(last), Answer::Whole(bytes.clone()));
    let pulled = json(&scene.there(&["pull", &key, &url]));
    scene.assert_arrived();
    let asked: usize = objects.keys().map(|path| server.asked(&name(path))).sum();
    // The document twice, the object that was missing twice, and every other once.
    assert_eq!(asked, objects.len() + 2, "{pulled}");
    // Nobody can push there, and it says so.
    let output = scene.here(&["push", "t", &format!("{}/elsewhere", server.url)]);
    assert!(!output.status.success() && text(&output).contains("asking for `http://"), "{}", text(&output));
}

#[test]
fn a_place_that_cannot_be_reached_is_to_be_tried_again() {
    let scene = Scene::new();
    // Nobody listens at a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = scene.there(&["pull", &scene.image.to_string(), &format!("http://127.0.0.1:{port}/x")]);
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    assert!(text(&output).contains("cannot be reached"), "{}", text(&output));
}
