//! Where `kiln` is told to look and to keep its own: a project directory and a home.
#![expect(clippy::disallowed_methods, reason = "tests read the environment and make directories")]

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::node::text;
use crate::program::{kiln, output, run, workspace};

/// The tutorial's etcd, which only a machine that reaches the upstream release can have.
const UPSTREAM: &str = r#"source = [{ kind = "release", version = "3.6.14" }]"#;

/// A project and a home.
#[derive(Clone, Debug)]
pub struct Places {
    /// Directory with images/ and profiles/.
    pub project: PathBuf,
    /// Directory with store/, pki/ and lab/.
    pub home: PathBuf,
}

/// Places of a test's own, gone when dropped. They hold the image definitions, and the store of kiln's own home but for its images.
#[derive(Debug)]
pub struct Scratch {
    /// Where it is.
    pub dir: TempDir,
    /// The places in it.
    pub places: Places,
}

/// How a scratch store gets its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeding {
    /// Hard links: quick, and the files stay root's.
    Link,
    /// Copies, which may be given to somebody else.
    Copy,
}

impl Places {
    /// The workspace, and the home that `kiln` takes by itself.
    pub fn own() -> Self {
        let home = std::env::var_os("KILN_HOME").map_or_else(|| PathBuf::from("/var/lib/kiln"), PathBuf::from);
        Self { project: workspace(), home }
    }

    /// A command line of `kiln` with these places.
    pub fn argv(&self, args: &[&str]) -> Vec<String> {
        let mut argv = vec![text(&kiln()), "-C".into(), text(&self.project), "--home".into(), text(&self.home)];
        argv.extend(args.iter().map(|a| (*a).to_owned()));
        argv
    }

    /// Runs `kiln ARGS...`, however it ends.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, args: &[&str]) -> Output {
        output(&self.argv(args).iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs `kiln ARGS...`, which must succeed; its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok(&self, args: &[&str]) -> String {
        let argv = self.argv(args);
        run(&argv.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs `kiln ARGS... --json`, which must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).expect("--json prints JSON")
    }

    /// Sees that a profile, given by its path in the project, is locked and built.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn ensure_built(&self, profile: &str) {
        self.ok(&["pki", "init", profile]);
        let locked = self.project.join(profile).with_extension("lock").exists();
        // As in tests/run: an archive drops packages that newer ones replace, so a lock of last month may name some that are gone.
        if locked && self.run(&["build", profile]).status.success() {
            return;
        }
        self.ok(&["lock", profile]);
        self.ok(&["build", profile]);
    }
}

impl Scratch {
    /// Makes one whose store has every layer of the lab's image except the image itself, and all that was fetched for it.
    /// It lies in kiln's own home, which is on the store's file system and is not hidden from labs as /tmp is.
    ///
    /// # Panics
    /// When the lab's image is not built: `tests/run` does that.
    pub fn new(seeding: Seeding) -> Self {
        let own = Places::own();
        let dir = tempfile::Builder::new().prefix("test-").tempdir_in(&own.home).expect("making a directory");
        let places = Places { project: dir.path().join("project"), home: dir.path().join("home") };
        let store = places.home.join("store");
        for made in [&places.project.join("profiles"), &store.join("entries"), &store.join("blobs")] {
            fs_err::create_dir_all(made).expect("making a directory");
        }
        copy(Seeding::Copy, &own.project.join("images"), &places.project);
        take_layers(seeding, &own, "lab", &store);
        if seeding == Seeding::Link {
            copy(seeding, &own.home.join("store/blobs"), &store);
        }
        Self { dir, places }
    }

    /// Has images built here tell their kernels these words too.
    ///
    /// # Panics
    /// When the image definition has no command line that is known.
    pub fn add_kernel_words(&self, words: &str) {
        self.change_image(" fsck.mode=skip\"", &format!(" fsck.mode=skip {words}\""));
    }

    /// Has Ubuntu's image definition say `to` where it says `from`.
    ///
    /// # Panics
    /// When it does not say that, or not once.
    pub fn change_image(&self, from: &str, to: &str) {
        let definition = self.places.project.join("images/ubuntu-24.04.toml");
        let text = fs_err::read_to_string(&definition).expect("reading an image definition");
        assert_eq!(text.matches(from).count(), 1, "the image definition has {from} once");
        fs_err::write(&definition, text.replace(from, to)).expect("writing an image definition");
    }

    /// Gives it, by links, every layer of another profile's image except the image itself.
    ///
    /// # Panics
    /// When that is not built.
    pub fn take_layers(&self, profile: &str) {
        take_layers(Seeding::Link, &Places::own(), profile, &self.places.home.join("store"));
    }

    /// Gives it a profile, with the lab's lock for its own: same image, same etcd, so the layers below the image are the lab's too.
    /// `kiln` itself refuses a lock that was made for other wishes.
    ///
    /// # Panics
    /// When the lab is not locked.
    pub fn add_profile(&self, name: &str, text: &str) {
        let profiles = self.places.project.join("profiles");
        fs_err::write(profiles.join(format!("{name}.toml")), text).expect("writing a profile");
        fs_err::copy(workspace().join("profiles/lab.lock"), profiles.join(format!("{name}.lock")))
            .expect("copying the lab's lock");
    }

    /// Gives it what is public of a cluster's keys in kiln's own home. That is enough to build; no secret is there.
    ///
    /// # Panics
    /// When they are not minted.
    pub fn take_public_keys(&self, name: &str) {
        let [from, to] = [&Places::own().home, &self.places.home].map(|home| home.join("pki").join(name));
        fs_err::create_dir_all(&to).expect("making a directory");
        for public in ["trust.json", "charter.json", "charter.sig"] {
            fs_err::copy(from.join(public), to.join(public)).expect("copying a public file");
        }
    }
}

fn take_layers(seeding: Seeding, own: &Places, profile: &str, store: &Path) {
    let built = own.json(&["build", profile]);
    for layer in built["layers"].as_array().expect("a build tells its layers") {
        let key = layer["key"].as_str().expect("a layer has a key");
        // Images that share a layer share it here too.
        if layer["name"] != "image" && !store.join("entries").join(key).exists() {
            copy(seeding, &own.home.join("store/entries").join(key), &store.join("entries"));
        }
    }
}

fn copy(seeding: Seeding, from: &Path, into: &Path) {
    let how = if seeding == Seeding::Link { "--link" } else { "--sparse=auto" };
    run(&["cp", "--archive", how, &text(from), &text(into)]);
}

/// The shipped profile of the tutorial's six nodes, with the lab's choice of etcd, so that it can be had where only a distribution's archive is
/// reached.
///
/// # Panics
/// When the profiles are not what they were.
pub fn tutorial() -> String {
    let read = |name: &str| fs_err::read_to_string(workspace().join("profiles").join(name)).expect("reading a profile");
    let (tutorial, lab) = (read("k8s0.toml"), read("lab.toml"));
    let from = lab.find("source = [").expect("the lab's profile has sources");
    let until = lab[from..].find("\n\n").expect("the section ends") + from;
    assert_eq!(tutorial.matches(UPSTREAM).count(), 1, "the tutorial's profile names the upstream release");
    tutorial.replace(UPSTREAM, &lab[from..until])
}
