//! The operator's commands against a real libvirtd: what they do, what they refuse, and that they go on after they were killed.
//!
//! The image is a few MiB that boot nothing, so no agent ever answers: what waits for one is tested with agents, in the lab.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "starts and kills kiln, writes into data volumes")]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use kiln_builder::host::libvirt::volume_name;
use kiln_builder::host::{Host as _, Mark, Seen};
use kiln_builder::recipe::{Recipe, RecipeDisk, RecipeEtcd};
use kiln_builder::store::{Made, Manifest, RootKind, Store};
use kiln_builder::trust::seal::Sealer;
use kiln_firstboot::digest::{Id128, Sha256Digest};
use kiln_tests::libvirt_host::LibvirtHost;
use kiln_tests::places::Places;
use kiln_tests::random::Random;
use serde_json::Value;

/// What is written into every data volume, and must be there at the end.
const WRITTEN: &[u8] = b"acknowledged";
/// Where, past what a file system has at its beginning.
const AT: u64 = 1 << 20;

struct World {
    host: LibvirtHost,
    places: Places,
    store: Store,
}

impl World {
    /// A cluster of three on one host, on loopback addresses at which nobody answers, and its keys.
    fn new() -> Self {
        let host = LibvirtHost::new();
        let dir = host.scratch().join("operator");
        let places = Places { project: dir.join("project").into(), home: dir.join("home").into() };
        let profiles = places.project.join("profiles");
        fs_err::create_dir_all(&profiles).expect("making a directory");
        let node = |n: u8| {
            format!(
                "[[node]]\nname = 'etcd{n}'\nhost = 'pve1'\naddress = '127.77.0.1{n}'\nmemory_mib = 384\nvcpus = 1\ndata_gib = 1\n"
            )
        };
        let text = format!(
            "schema = 1\nname = 'prod'\nimage = 'tiny'\ndomain = 'kiln.test'\n[network]\nbridge = 'br0'\nsubnet = '127.77.0.0/24'\n\
             [hosts.pve1]\nkind = 'libvirt'\nendpoint = '{}'\naccelerator = 'tcg'\ncache = 'writeback'\n{}",
            host.uri(),
            [1, 2, 3].map(node).concat()
        );
        fs_err::write(profiles.join("prod.toml"), text).expect("writing a profile");
        let store = Store::at(places.home.join("store"));
        let world = Self { host, places, store };
        world.places.ok(&["pki", "init", "prod"]);
        world
    }

    /// Makes an image that is signed as a build's is, the profile's last build.
    fn build(&self, text: &str, source_date_epoch: i64) -> Sha256Digest {
        let image = self.host.image(text, 1);
        let recipe = Recipe {
            schema: 1,
            build_format: 1,
            profile: "prod".into(),
            definition: text.into(),
            source_date_epoch,
            base_packages: vec![],
            base_files: vec![],
            exclude: vec![],
            include: vec![],
            boot_packages: vec![],
            boot_vendor: String::new(),
            command_line: String::new(),
            tool_packages: vec![],
            disk: RecipeDisk { esp_mib: 1, boot_mib: 1, root_mib: 1 },
            etcd: RecipeEtcd {
                source: "release".into(),
                version: "3.6.14".parse().expect("a version"),
                sha256: vec![],
            },
            firstboot: Sha256Digest::of(b"agent"),
            image_files: vec![],
            cloud: None,
            customize: None,
            hygiene: None,
            crates: None,
        };
        let make = |dir: &Path| {
            fs_err::copy(&image.file, dir.join("disk.qcow2"))?;
            fs_err::write(dir.join("recipe.json"), serde_json::to_string(&recipe)?)?;
            Ok(Made::default())
        };
        let sealer = Sealer {
            keys: self.places.home.join("signing").try_into().expect("scratch directories have plain names"),
            now: 1,
        };
        let seal = |dir: &Path, manifest: &Manifest| sealer.seal(dir, manifest, &recipe);
        self.store.ensure_sealed_entry(&image.key, "image", make, &seal).expect("making an entry");
        self.store.keep(RootKind::Build, "prod", &image.key, source_date_epoch).expect("keeping an image");
        image.key
    }

    fn command(&self, args: &[&str]) -> Command {
        let argv = self.places.argv(args);
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("running kiln")
    }

    /// What kiln says when it refuses.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8(output.stderr).expect("kiln prints UTF-8");
        assert_eq!(output.status.code(), Some(78), "{args:?}: {said}");
        said
    }

    fn cluster(&self) -> Id128 {
        let trust =
            fs_err::read(self.places.home.join("pki/prod/trust.json")).expect("reading what the cluster trusts");
        let trust: Value = serde_json::from_slice(&trust).expect("JSON");
        trust["cluster"].as_str().expect("an id").parse().expect("an id")
    }

    fn seen(&self) -> BTreeMap<String, Seen> {
        let seen = self.host.driver().survey(&self.cluster()).expect("a survey");
        let count = seen.len();
        let seen: BTreeMap<String, Seen> = seen.into_iter().map(|seen| (seen.mark.node.clone(), seen)).collect();
        assert_eq!(seen.len(), count, "no node has two machines");
        seen
    }

    fn data(&self, node: &str) -> fs_err::File {
        let mark = Mark { cluster: self.cluster(), env: "prod".into(), node: node.into() };
        let path = self.host.pool().join(volume_name::data(&mark));
        fs_err::OpenOptions::new().read(true).write(true).open(path).expect("opening a data volume")
    }

    fn write_data(&self, node: &str) {
        self.data(node).file().write_all_at(WRITTEN, AT).expect("writing into a data volume");
    }

    fn has_data(&self, node: &str) -> bool {
        let mut found = vec![0; WRITTEN.len()];
        self.data(node).file().read_exact_at(&mut found, AT).expect("reading a data volume");
        found == WRITTEN
    }

    fn generations(&self) -> BTreeMap<String, (Option<u64>, Option<u64>)> {
        let of = |seen: &Seen| (seen.root.map(|r| r.generation), seen.previous.map(|r| r.generation));
        self.seen().iter().map(|(node, seen)| (node.clone(), of(seen))).collect()
    }
}

/// Machines here have no system that would hear that they are to shut down.
const AT_ONCE: [&str; 2] = ["--patience", "1"];

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn a_cluster_is_deployed_imaged_again_rolled_back_and_taken_away() {
    let world = World::new();
    assert!(world.refused(&["deploy", "prod", "--no-wait"]).contains("no image of `prod` was built"));
    let first = world.build("one", 1000);

    let deployed = world.places.json(&["deploy", "prod", "--no-wait"]);
    assert_eq!((&deployed["generation"], &deployed["image"]), (&1.into(), &first.to_string().into()));
    let all = |root: u64| ["etcd1", "etcd2", "etcd3"].map(|n| (n.to_owned(), (Some(root), None)));
    assert_eq!(world.generations(), all(1).into());
    assert!(world.seen().values().all(|seen| seen.running && seen.trouble.is_empty()));
    ["etcd1", "etcd2", "etcd3"].iter().for_each(|node| world.write_data(node));
    let state = world.host.volumes();
    let again = world.places.json(&["deploy", "prod", "--no-wait"]);
    assert_eq!((again["steps"].as_array().unwrap().len(), world.host.volumes()), (0, state));

    // A new build is not deployed over what is there, and not what is older.
    world.build("two", 2000);
    let said = world.refused(&["deploy", "prod", "--no-wait"]);
    assert!(said.contains("etcd1 has generation 1, not 2") && said.contains("kiln rollout"), "{said}");
    let ran = world.places.json(&["deploy", "prod", "--no-wait", "--mixed"]);
    assert_eq!((&ran["generation"], world.generations()), (&2.into(), all(1).into()));
    world.build("older", 500);
    assert!(
        world.refused(&["deploy", "prod", "--no-wait", "--mixed"]).contains("is older than generation 2 of `prod`")
    );
    let told = world.places.json(&["generations", "prod"]);
    assert_eq!((&told["current"], told["all"].as_array().unwrap().len()), (&2.into(), 2));

    // One node is imaged again with the current generation: its data stay, its old root is kept, and is put back.
    let reimage = [&["reimage", "prod", "etcd2", "--no-wait"][..], &AT_ONCE].concat();
    world.places.ok(&reimage);
    assert_eq!(world.generations()["etcd2"], (Some(2), Some(1)));
    assert!(world.has_data("etcd2") && world.seen()["etcd2"].running);
    let rollback = [&["rollback", "prod", "etcd2", "--no-wait"][..], &AT_ONCE].concat();
    world.places.ok(&rollback);
    assert_eq!(world.generations()["etcd2"], (Some(1), None));
    assert!(world.has_data("etcd2") && world.seen()["etcd2"].running);
    assert!(world.refused(&rollback).contains("no previous root of etcd2 is kept"));

    // One that does not come back in time is said to, its old root stays, and so does the way back.
    let late = world.run(&[&["reimage", "prod", "etcd2", "--timeout", "1"][..], &AT_ONCE].concat());
    let said = String::from_utf8(late.stderr).unwrap();
    assert_eq!(late.status.code(), Some(75), "{said}");
    assert!(said.contains("etcd2 does not serve after 1 s") && said.contains("kiln rollback prod etcd2"), "{said}");
    assert_eq!(world.generations()["etcd2"], (Some(2), Some(1)));
    world.places.ok(&rollback);

    // To wipe takes the name twice, and others that are a majority.
    let wipe = |named, more: &[&'static str]| {
        [&["reimage", "prod", "etcd2", "--no-wait", "--wipe-data", named][..], &AT_ONCE, more].concat()
    };
    assert!(world.refused(&wipe("etcd3", &[])).contains("name the same node twice"));
    let said = world.refused(&wipe("etcd2", &[]));
    assert!(said.contains("without etcd2 0 of 3 members serve") && said.contains("--lose-quorum"), "{said}");
    assert!(world.has_data("etcd2"));
    world.places.ok(&wipe("etcd2", &["--lose-quorum"]));
    assert!(!world.has_data("etcd2") && world.has_data("etcd1") && world.has_data("etcd3"));

    // Taken away, data stay, and are there again after.
    assert!(world.refused(&["destroy", "prod"]).contains("etcd1 runs on pve1"));
    world.places.ok(&[&["destroy", "prod", "--power-off", "--with-data", "etcd3"][..], &AT_ONCE].concat());
    assert_eq!(world.seen(), BTreeMap::new());
    world.places.ok(&["deploy", "prod", "--no-wait", "--generation", "1"]);
    assert_eq!(world.generations(), all(1).into());
    assert!(world.has_data("etcd1") && !world.has_data("etcd3"));
}

/// Kills kiln at random moments until it is done or was killed so many times, then lets it go on. Says how often it was killed.
fn killed(world: &World, args: &[&str], random: &mut Random, usual: Duration, times: u32) -> u32 {
    let mut kills = 0;
    for _ in 0..times {
        let mut kiln = world.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting kiln");
        let moment = Instant::now() + usual * u32::try_from(random.below(1000)).expect("it is small") / 1000;
        // The moment is what is chosen at random here; nothing is waited for.
        while Instant::now() < moment && kiln.try_wait().expect("looking at kiln").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if kiln.try_wait().expect("looking at kiln").is_none() {
            kiln.kill().expect("killing kiln");
            kills += 1;
        }
        kiln.wait().expect("waiting for kiln");
    }
    let ended = world.run(args);
    assert!(ended.status.success(), "{args:?} after {kills} kills: {}", String::from_utf8_lossy(&ended.stderr));
    kills
}

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn killed_at_any_moment_the_same_command_goes_on_and_nothing_is_there_twice() {
    let world = World::new();
    world.build("one", 1000);
    let (deploy, destroy) =
        (["deploy", "prod", "--no-wait"], [&["destroy", "prod", "--power-off"][..], &AT_ONCE].concat());
    let reimage = [&["reimage", "prod", "etcd2", "--no-wait"][..], &AT_ONCE].concat();
    let mut random = Random::new(5);
    let timed = |args: &[&str]| {
        let began = Instant::now();
        world.places.ok(args);
        began.elapsed()
    };
    let usual = timed(&deploy);
    ["etcd1", "etcd2", "etcd3"].iter().for_each(|node| world.write_data(node));
    let volumes = world.host.volumes();
    let whole = |world: &World| {
        let seen = world.seen();
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["etcd1", "etcd2", "etcd3"]);
        for (node, seen) in &seen {
            assert!(seen.running && seen.trouble.is_empty(), "{seen:?}");
            assert_eq!((seen.root.map(|r| r.generation), seen.previous), (Some(1), None), "{node}");
            assert!(world.has_data(node), "the data of {node} were touched");
        }
        assert_eq!(world.host.volumes(), volumes);
    };

    let mut kills = 0;
    let mut rounds = 0;
    while kills < 15 {
        world.places.ok(&destroy);
        kills += killed(&world, &deploy, &mut random, usual, 5);
        whole(&world);
        rounds += 1;
        assert!(rounds < 12, "kiln is too quick to be killed: {kills} times in {rounds} rounds");
    }
    let usual = timed(&reimage);
    whole(&world);
    while kills < 30 {
        kills += killed(&world, &reimage, &mut random, usual, 5);
        whole(&world);
        rounds += 1;
        assert!(rounds < 24, "kiln is too quick to be killed: {kills} times in {rounds} rounds");
    }
}
