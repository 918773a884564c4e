use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, Mutex};

use camino::Utf8Path;
use kiln_firstboot::digest::Id128;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::journal::Journal;
use super::model::{Data, Disk, Model, Standing};
use super::progress::Silent;
use super::reimage::Order;
use super::*;
use crate::generations::Generation;
use crate::host::{Lack, Root};
use crate::machine_plan::{Destroy, GIB, Told};
use crate::pki::mint;

/// What is made once for all tests: keys of the tutorial's cluster, and a store with two images.
struct Ground {
    _dir: tempfile::TempDir,
    profile: Profile,
    pki: Pki,
    store: std::path::PathBuf,
}

static GROUND: LazyLock<Ground> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(dir.path()).unwrap();
    let text = include_str!("../../../profiles/k8s0.toml");
    let profile = Profile::parse(Utf8Path::new("profiles/k8s0.toml"), text).unwrap();
    let order = mint::Order { profile: &profile, generation: None, window_hours: None, now: 1_700_000_000 };
    let (pki, _) = mint::init(&root.join("pki"), &order).unwrap();
    let store = store(&dir.path().join("store"));
    // What is collected depends on which is current: that is the same for all tests.
    crate::generations::switch(&store, "k8s0", &generation(1)).unwrap();
    // Seeds are a mebibyte each, which to hash over and over is most of what these tests would do.
    profile.nodes.iter().for_each(|node| std::fs::write(pki.seed(&node.name), &node.name).unwrap());
    Ground { profile, pki, store: store.root().to_owned(), _dir: dir }
});

fn store(dir: &std::path::Path) -> Store {
    let store = Store::at(dir);
    for n in [1, 2] {
        let make = |dir: &std::path::Path| Ok(std::fs::write(dir.join(QCOW2), [n]).map(|()| Vec::new())?);
        store.ensure_entry(&generation(n).key, "image", make).unwrap();
    }
    store
}

fn generation(n: u8) -> Generation {
    Generation { number: u64::from(n), key: Sha256Digest([n; 32]), since: 1 }
}

fn root(n: u8) -> Root {
    generation(n).root()
}

/// As the model's hosts tell it.
pub(super) fn uuid(node: &str, cluster: &Id128) -> String {
    GROUND.profile.node(node).map(|node| node.vm_uuid(cluster)).unwrap_or_default()
}

/// Two hosts, what is on them, and a fleet over them.
struct World {
    fleet: Fleet,
    disks: Vec<Arc<Mutex<Disk>>>,
    fuse: Arc<Mutex<Option<usize>>>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(disks: &[Disk]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fuse = Arc::new(Mutex::new(None));
        let disks: Vec<Arc<Mutex<Disk>>> = disks.iter().map(|disk| Arc::new(Mutex::new(disk.clone()))).collect();
        let model = |(host, disk): (&crate::profile::Host, &Arc<Mutex<Disk>>)| {
            let model = Model { name: host.name.clone(), disk: disk.clone(), fuse: fuse.clone(), silent: false };
            (host.name.clone(), Box::new(model) as Box<dyn Host>)
        };
        let fleet = Fleet {
            profile: GROUND.profile.clone(),
            pki: GROUND.pki.clone(),
            store: Store::at(&GROUND.store),
            series: "k8s0".into(),
            reach: Reach::default(),
            hosts: GROUND.profile.hosts.iter().zip(&disks).map(model).collect(),
            broken: BTreeMap::new(),
            patience: PATIENCE,
            dir: Utf8Path::from_path(dir.path()).unwrap().to_owned(),
        };
        Self { fleet, disks, fuse, _dir: dir }
    }

    /// The disks, with what happened in an order that does not depend on which host was quicker.
    fn disks(&self) -> Vec<Disk> {
        let sorted = |disk: &Arc<Mutex<Disk>>| {
            let mut disk = disk.lock().unwrap().clone();
            disk.lost.sort();
            disk.made.sort();
            disk
        };
        self.disks.iter().map(sorted).collect()
    }

    /// Does something with kiln killed after so many points, again and again, and at last undisturbed.
    fn cut(&self, fuses: &[usize], act: impl Fn(&Fleet) -> Result<()>) -> Result<()> {
        for fuse in fuses {
            *self.fuse.lock().unwrap() = Some(*fuse);
            if act(&self.fleet).is_ok() {
                // Done before the fuse had burnt down; whoever is told so does not ask again.
                *self.fuse.lock().unwrap() = None;
                return Ok(());
            }
        }
        *self.fuse.lock().unwrap() = None;
        act(&self.fleet)
    }
}

/// A machine of the node, if any, and its data volume, if any.
#[derive(Clone, Debug)]
enum Start {
    Absent { data: bool },
    Half { root: Option<u8>, seed: bool, data: bool },
    Whole { running: bool, root: u8, previous: Option<u8>, fresh_seed: bool, shaped: bool },
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        any::<bool>().prop_map(|data| Start::Absent { data }),
        (proptest::option::of(1u8..3), any::<bool>(), any::<bool>()).prop_map(|(root, seed, data)| Start::Half {
            root,
            seed,
            data
        }),
        (any::<bool>(), 1u8..3, proptest::option::of(1u8..3), any::<bool>(), any::<bool>()).prop_map(
            |(running, root, previous, fresh_seed, shaped)| Start::Whole {
                running,
                root,
                previous,
                fresh_seed,
                shaped
            }
        ),
    ]
}

fn disks(starts: &[Start]) -> Vec<Disk> {
    let ground = &*GROUND;
    let image = |n: u8| Sha256Digest::of(&[n]);
    let host = |host: &crate::profile::Host| {
        let mut disk = Disk::default();
        for (node, start) in ground.profile.nodes.iter().zip(starts).filter(|(node, _)| node.host == host.name) {
            let seed = Sha256Digest::of(node.name.as_bytes());
            let shape = Some((node.memory_mib, node.vcpus, ground.profile.network.bridge.clone(), node.mac));
            let written = (u64::from(node.data_gib) * GIB, Data::Written);
            match *start {
                Start::Absent { data } => {
                    if data {
                        disk.data.insert(node.name.clone(), written);
                    }
                }
                Start::Half { root: n, seed: seeded, data } => {
                    let standing = Standing {
                        root: n.map(root),
                        seed: seeded.then_some(seed),
                        shape: shape.filter(|_| seeded),
                        ..Standing::default()
                    };
                    disk.machines.insert(node.name.clone(), standing);
                    if data {
                        disk.data.insert(node.name.clone(), written);
                    }
                    disk.images.extend(n.map(image));
                }
                Start::Whole { running, root: n, previous, fresh_seed, shaped } => {
                    let standing = Standing {
                        running,
                        root: Some(root(n)),
                        previous: previous.map(root),
                        seed: Some(if fresh_seed { seed } else { Sha256Digest([9; 32]) }),
                        shape: if shaped { shape } else { Some((1, 1, "old".into(), node.mac)) },
                        trouble: vec![],
                    };
                    disk.machines.insert(node.name.clone(), standing);
                    disk.data.insert(node.name.clone(), written);
                    disk.images.insert(image(n));
                }
            }
        }
        disk
    };
    ground.profile.hosts.iter().map(host).collect()
}

fn order(n: u8, wipe_data: bool) -> Order {
    Order { root: root(n), wipe_data, lose_quorum: true, afresh: false, wait: None }
}

const MIXED: Told = Told { mixed: true };

/// Does the same with and without being cut off, and says what both came to.
fn both(
    starts: &[Start],
    fuses: &[usize],
    act: impl Fn(&Fleet) -> Result<()>,
) -> Result<(World, Vec<Disk>), TestCaseError> {
    let (straight, cut) = (World::new(&disks(starts)), World::new(&disks(starts)));
    let failed = |error| TestCaseError::fail(format!("{error:#}"));
    act(&straight.fleet).map_err(failed)?;
    cut.cut(fuses, act).map_err(failed)?;
    let wanted = straight.disks();
    prop_assert_eq!(&cut.disks(), &wanted);
    Ok((cut, wanted))
}

/// Everything of nodes that were not named is as it was.
fn others_untouched(starts: &[Start], after: &[Disk], named: &str) -> Result<(), TestCaseError> {
    for (before, after) in disks(starts).iter().zip(after) {
        for (node, standing) in before.machines.iter().filter(|(node, _)| *node != named) {
            prop_assert_eq!(after.machines.get(node), Some(standing));
        }
        for (node, data) in before.data.iter().filter(|(node, _)| *node != named) {
            prop_assert_eq!(after.data.get(node), Some(data));
        }
        prop_assert!(after.lost.iter().all(|lost| lost == named));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_deploy_cut_off_anywhere_comes_to_the_same_and_then_there_is_nothing_to_do(
        starts in proptest::collection::vec(start(), 6),
        fuses in proptest::collection::vec(0usize..70, 0..4),
    ) {
        // A root that is not whole is not a machine that runs, and one that is not running may be whole.
        let (world, disks) = both(&starts, &fuses, |fleet| fleet.deploy(None, &generation(1), MIXED, &Silent).map(drop))?;
        prop_assert!(disks.iter().all(|disk| disk.lost.is_empty()));
        prop_assert!(disks.iter().flat_map(|disk| disk.machines.values()).all(|machine| machine.running));
        prop_assert_eq!(disks.iter().map(|disk| disk.machines.len()).sum::<usize>(), 6);
        let made: BTreeSet<&String> = disks.iter().flat_map(|disk| &disk.made).collect();
        prop_assert_eq!(made.len(), disks.iter().map(|disk| disk.made.len()).sum::<usize>());
        let again = world.fleet.plan_deploy(None, &world.fleet.survey(), root(1), MIXED).unwrap();
        prop_assert!(again.is_empty(), "{}", again);
    }

    #[test]
    fn a_reimage_cut_off_anywhere_comes_to_the_same_and_wipes_once_if_told(
        starts in proptest::collection::vec(start(), 6),
        fuses in proptest::collection::vec(0usize..40, 0..4),
        n in 1u8..3,
        wipe in any::<bool>(),
    ) {
        let (world, disks) = both(&starts, &fuses, |fleet| fleet.reimage("k8s0etcd2", &order(n, wipe), &Silent))?;
        let machine = &disks[0].machines["k8s0etcd2"];
        prop_assert!(machine.running && machine.root == Some(root(n)));
        let had = match &starts[1] {
            Start::Whole { root: had, .. } | Start::Half { root: Some(had), .. } => Some(*had),
            Start::Half { root: None, .. } | Start::Absent { .. } => None,
        };
        // What it had is kept, unless that is the same.
        prop_assert_eq!(machine.previous, had.filter(|had| *had != n).map(root).or(machine.previous.filter(|_| had.is_none())));
        let wrote = match &starts[1] {
            Start::Whole { .. } => true,
            Start::Half { data, .. } | Start::Absent { data } => *data,
        };
        prop_assert_eq!(disks[0].lost.len(), usize::from(wipe && wrote));
        others_untouched(&starts, &disks, "k8s0etcd2")?;
        prop_assert_eq!(Journal::of(&world.fleet.dir, "k8s0etcd2").read().unwrap(), None);
    }

    #[test]
    fn a_rollback_cut_off_anywhere_puts_the_kept_root_back(
        starts in proptest::collection::vec(start(), 6),
        running in any::<bool>(),
        fuses in proptest::collection::vec(0usize..20, 0..4),
    ) {
        let mut starts = starts;
        starts[1] = Start::Whole { running, root: 2, previous: Some(1), fresh_seed: true, shaped: true };
        let (_, disks) = both(&starts, &fuses, |fleet| {
            fleet.rollback("k8s0etcd2", true, None, &Silent).map(|to| assert_eq!(to, root(1)))
        })?;
        let machine = &disks[0].machines["k8s0etcd2"];
        prop_assert_eq!((machine.running, machine.root, machine.previous), (true, Some(root(1)), None));
        others_untouched(&starts, &disks, "k8s0etcd2")?;
        prop_assert!(disks[0].lost.is_empty());
    }

    #[test]
    fn what_a_rollout_asks_is_done_once_however_often_it_asks(
        starts in proptest::collection::vec(start(), 6),
        fuses in proptest::collection::vec(0usize..30, 0..4),
        n in 1u8..3,
    ) {
        let (world, taken) = both(&starts, &fuses, |fleet| fleet.take("k8s0etcd2", root(n), &Silent))?;
        prop_assert!(taken[0].machines["k8s0etcd2"].running && taken[0].machines["k8s0etcd2"].root == Some(root(n)));
        others_untouched(&starts, &taken, "k8s0etcd2")?;
        world.cut(&fuses, |fleet| fleet.take("k8s0etcd2", root(n), &Silent)).unwrap();
        prop_assert_eq!(&world.disks(), &taken);
        world.cut(&fuses, |fleet| fleet.give_back("k8s0etcd2", root(1), &Silent)).unwrap();
        prop_assert_eq!(world.disks()[0].machines["k8s0etcd2"].root, Some(root(1)));
        prop_assert!(world.disks().iter().all(|disk| disk.lost.is_empty()));
    }

    #[test]
    fn a_destroy_cut_off_anywhere_keeps_the_data_of_all_that_are_not_named(
        starts in proptest::collection::vec(start(), 6),
        fuses in proptest::collection::vec(0usize..40, 0..4),
        named in proptest::sample::subsequence(vec!["k8s0etcd1", "k8s0etcd2", "k8s0etcd5"], 0..=3),
    ) {
        let with_data: BTreeSet<String> = named.iter().map(|name| (*name).to_owned()).collect();
        let doom = Destroy { power_off: true, with_data: with_data.clone() };
        let (_, after) = both(&starts, &fuses, |fleet| fleet.destroy(None, &doom, true, &Silent).map(drop))?;
        prop_assert!(after.iter().all(|disk| disk.machines.is_empty()));
        for (before, after) in disks(&starts).iter().zip(&after) {
            for (node, data) in &before.data {
                prop_assert_eq!(after.data.get(node), Some(data).filter(|_| !with_data.contains(node)));
            }
        }
    }
}

fn whole(running: bool, root: u8) -> Start {
    Start::Whole { running, root, previous: None, fresh_seed: true, shaped: true }
}

fn refused(error: &anyhow::Error) -> &Refusal {
    error.downcast_ref().unwrap_or_else(|| panic!("{error:#}"))
}

#[test]
fn a_machine_in_trouble_is_left_alone_and_the_reason_told() {
    let mut disks = disks(&vec![whole(true, 1); 6]);
    let lack = Lack { what: "it has a snapshot".into(), remedy: "virsh snapshot-delete".into() };
    disks[0].machines.get_mut("k8s0etcd2").unwrap().trouble.push(lack);
    let world = World::new(&disks);
    let error = world.fleet.reimage("k8s0etcd2", &order(2, true), &Silent).unwrap_err();
    assert_eq!(refused(&error).what, "k8s0etcd2 (k8s0etcd2 on pve1) must not be touched: it has a snapshot");
    assert_eq!(world.disks(), World::new(&disks).disks());
    assert_eq!(Journal::of(&world.fleet.dir, "k8s0etcd2").read().unwrap(), None);
}

#[test]
fn a_running_member_is_not_destroyed_unless_its_plug_is_to_be_pulled() {
    let world = World::new(&disks(&vec![whole(true, 1); 6]));
    let error = world.fleet.destroy(Some("k8s0etcd2"), &Destroy::default(), true, &Silent).unwrap_err();
    assert_eq!(refused(&error).what, "k8s0etcd2 runs on pve1");
    let misspelt = Destroy { power_off: true, with_data: ["k8s0etcd3".to_owned()].into() };
    let error = world.fleet.destroy(Some("k8s0etcd2"), &misspelt, true, &Silent).unwrap_err();
    assert!(refused(&error).what.contains("`k8s0etcd3`"), "{error}");
}

#[test]
fn what_one_host_cannot_say_does_not_stop_the_other() {
    let mut world = World::new(&disks(&vec![Start::Absent { data: false }; 6]));
    drop(world.fleet.hosts.remove("pve2"));
    world.fleet.broken.insert("pve2".into(), "no route to host".into());
    // Nothing is made while a machine of the same node may be on the host that is silent.
    let error = world.fleet.deploy(None, &generation(1), MIXED, &Silent).unwrap_err();
    assert!(refused(&error).what.contains("may be on pve2, which cannot be asked: no route to host"), "{error}");

    let mut world = World::new(&disks(&vec![whole(false, 1); 6]));
    drop(world.fleet.hosts.remove("pve2"));
    world.fleet.broken.insert("pve2".into(), "no route to host".into());
    let error = world.fleet.deploy(None, &generation(1), MIXED, &Silent).unwrap_err();
    assert!(error.is::<TryAgain>(), "{error:#}");
    let running = |disk: &Disk| disk.machines.values().filter(|m| m.running).count();
    assert_eq!(world.disks().iter().map(running).collect::<Vec<_>>(), [3, 0]);
}

#[test]
fn one_kiln_at_a_time_changes_a_clusters_machines() {
    let world = World::new(&disks(&[]));
    let _held = world.fleet.lock().unwrap();
    assert!(world.fleet.lock().unwrap_err().is::<TryAgain>());
}

#[test]
fn the_generation_deployed_is_the_current_one() {
    let mut world = World::new(&disks(&vec![Start::Absent { data: false }; 6]));
    let own = tempfile::tempdir().unwrap();
    world.fleet.store = store(own.path());
    world.fleet.deploy(None, &generation(2), Told::default(), &Silent).unwrap();
    let generations = crate::generations::Generations::read(&world.fleet.store, "k8s0").unwrap();
    assert_eq!((generations.current(), generations.all.len()), (Some(generation(2)), 1));
    // The other one, with machines of this one there, is a rollout's business.
    let error = world.fleet.deploy(None, &generation(1), Told::default(), &Silent).unwrap_err();
    assert!(refused(&error).what.contains("k8s0etcd1 has generation 2, not 1"), "{error}");
    assert_eq!(world.fleet.current(None).unwrap().0, generation(2));
}
