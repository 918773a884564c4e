//! The operator's commands against a real libvirtd: what they do, what they refuse, and that they go on after they were killed.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "starts and kills kiln, writes into data volumes")]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kiln_tests::hypervisors::Hypervisors;
use kiln_tests::places::{Scratch, Seeding};
use kiln_tests::random::Random;

/// Machines here have no system that would hear that they are to shut down.
const AT_ONCE: [&str; 2] = ["--patience", "1"];

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn a_cluster_is_deployed_imaged_again_rolled_back_and_taken_away() {
    let world = Hypervisors::with(&[3]);
    assert!(world.refused(&["deploy", "prod", "--no-wait"]).contains("no image of `prod` was built"));
    let first = world.build("one", 1, 1000);

    let deployed = world.places.json(&["deploy", "prod", "--no-wait"]);
    assert_eq!((&deployed["generation"], &deployed["image"]), (&1.into(), &first.to_string().into()));
    let all = |root: u64| ["etcd1", "etcd2", "etcd3"].map(|n| (n.to_owned(), (Some(root), None)));
    assert_eq!(world.generations(), all(1).into());
    assert!(world.seen().values().all(|seen| seen.running && seen.trouble.is_empty()));
    ["etcd1", "etcd2", "etcd3"].iter().for_each(|node| world.write_data(node));
    let state = world.host().volumes();
    let again = world.places.json(&["deploy", "prod", "--no-wait"]);
    assert_eq!((again["steps"].as_array().unwrap().len(), world.host().volumes()), (0, state));

    // A new build is not deployed over what is there, and not what is older.
    world.build("two", 1, 2000);
    let said = world.refused(&["deploy", "prod", "--no-wait"]);
    assert!(said.contains("etcd1 has generation 1, not 2") && said.contains("kiln rollout"), "{said}");
    let ran = world.places.json(&["deploy", "prod", "--no-wait", "--mixed"]);
    assert_eq!((&ran["generation"], world.generations()), (&2.into(), all(1).into()));
    world.build("older", 1, 500);
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

/// No host answers here: which image is taken is said before anything is done.
#[test]
#[ignore = "needs the lab's image: tests/run"]
fn who_changed_the_profile_and_did_not_build_it_is_told() {
    let scratch = Scratch::new(Seeding::Link);
    let mut profile = include_str!("profiles/pair.toml").to_owned();
    for host in ["pve1", "pve2"] {
        let nobody = format!("qemu:///system?socket=/nonexistent/{host}");
        profile = profile.replace(&format!("qemu+ssh://root@{host}.invalid/system"), &nobody);
    }
    scratch.add_profile("pair", &profile);
    scratch.places.ok(&["pki", "init", "pair"]);
    scratch.places.ok(&["build", "pair"]);
    let deployed = || {
        let output = scratch.places.run(&["deploy", "pair", "--no-wait"]);
        let said = String::from_utf8(output.stderr).expect("kiln prints UTF-8");
        assert!(output.status.code() == Some(75) && said.contains("pve1 cannot be asked"), "{said}");
        said.contains("`kiln build pair` would make another one now")
    };
    assert!(!deployed());
    scratch.add_profile("pair", &profile.replacen("[network]\n", "[network]\nntp_servers = ['ntp.kiln.test']\n", 1));
    assert!(deployed());
    scratch.places.ok(&["build", "pair"]);
    assert!(!deployed());
}

/// Kills kiln at random moments until it is done or was killed so many times, then lets it go on. Says how often it was killed.
fn killed(world: &Hypervisors, args: &[&str], random: &mut Random, usual: Duration, times: u32) -> u32 {
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
    let world = Hypervisors::with(&[3]);
    world.build("one", 1, 1000);
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
    let volumes = world.host().volumes();
    let whole = |world: &Hypervisors| {
        let seen = world.seen();
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["etcd1", "etcd2", "etcd3"]);
        for (node, seen) in &seen {
            assert!(seen.running && seen.trouble.is_empty(), "{seen:?}");
            assert_eq!((seen.root.map(|r| r.generation), seen.previous), (Some(1), None), "{node}");
            assert!(world.has_data(node), "the data of {node} were touched");
        }
        assert_eq!(world.host().volumes(), volumes);
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
