//! The disk step against real loop devices and real file systems: what it formats, what it goes on with, what it leaves alone.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "this whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "disks are made, spoilt and compared here")]

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use kiln_firstboot::cluster::{ClusterConfig, EtcdSettings};
use kiln_firstboot::digest::{Id128, PublicKey, Sha256Digest};
use kiln_firstboot::disk;
use kiln_firstboot::disk_fact::{DataFact, DiskFacts, SeedFact, WalFact};
use kiln_firstboot::format;
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::paths::{DATA_SERIAL, Paths, SEED_SERIAL};
use kiln_firstboot::seed::{FILES, HEADER, SeedHeader};
use kiln_firstboot::system::Program;
use kiln_firstboot::volume::VolumeLabel;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

/// A node's root with two loop devices as its disks; unmounts and detaches when dropped.
struct Node {
    scratch: tempfile::TempDir,
    paths: Paths,
    devices: Vec<String>,
}

fn header(n: u8) -> SeedHeader {
    let fqdn = Fqdn::parse(&format!("etcd{n}.lab.example")).unwrap();
    SeedHeader { schema: 1, env: "lab".into(), cluster: Id128([7; 16]), generation: 1, fqdn }
}

impl Node {
    fn new(n: u8) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let paths = Paths::new(scratch.path().join("root"));
        for directory in ["dev/disk/by-id", "usr/lib/kiln", "var/lib/kiln", "etc"] {
            fs_err::create_dir_all(paths.root().join(directory)).unwrap();
        }
        let cluster = ClusterConfig {
            schema: 1,
            env: "lab".into(),
            cluster: Id128([7; 16]),
            domain: Fqdn::parse("lab.example").unwrap(),
            charter_key: PublicKey([1; 32]),
            dns_servers: Vec::new(),
            etcd: EtcdSettings::default(),
        };
        fs_err::write(paths.cluster_json(), serde_json::to_vec(&cluster).unwrap()).unwrap();
        let mut node = Self { scratch, paths, devices: Vec::new() };
        let image = node.scratch.path().join("data.img");
        fs_err::File::create(&image).unwrap().set_len(SIZE).unwrap();
        node.attach(&image, DATA_SERIAL);
        let seed = node.scratch.path().join("seed.img");
        let mut builder = tar::Builder::new(fs_err::File::create(&seed).unwrap());
        for name in FILES {
            let bytes = if name == HEADER { serde_json::to_vec(&header(n)).unwrap() } else { b"x".to_vec() };
            let mut entry = tar::Header::new_ustar();
            entry.set_size(bytes.len() as u64);
            entry.set_mode(0o400);
            builder.append_data(&mut entry, name, bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap().set_len(MIB).unwrap();
        node.attach(&seed, SEED_SERIAL);
        node
    }

    fn attach(&mut self, image: &Path, serial: &str) {
        let losetup = Program::new("losetup").args(["-f", "--show"]).arg(image.to_string_lossy());
        let device = losetup.read().unwrap().trim().to_owned();
        fs_err::os::unix::fs::symlink(&device, self.paths.disk(serial)).unwrap();
        self.devices.push(device);
    }

    fn data(&self) -> PathBuf {
        PathBuf::from(&self.devices[0])
    }

    /// A boot: `/run` is empty and nothing is mounted.
    fn boot(&self) -> DiskFacts {
        self.power_off();
        disk::settle(&self.paths).unwrap()
    }

    fn power_off(&self) {
        // Fails when nothing is mounted, which is as good.
        let _ = Program::new("umount").arg(self.paths.data().to_string_lossy()).run();
        if self.paths.run().exists() {
            fs_err::remove_dir_all(self.paths.run()).unwrap();
        }
    }

    fn sum(&self) -> Sha256Digest {
        Sha256Digest::of(&fs_err::read(self.data()).unwrap())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) {
        let mut file = fs_err::OpenOptions::new().write(true).open(self.data()).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }

    fn last_sector(&self) -> Vec<u8> {
        let mut file = fs_err::File::open(self.data()).unwrap();
        file.seek(SeekFrom::Start(SIZE - 512)).unwrap();
        let mut sector = Vec::new();
        file.read_to_end(&mut sector).unwrap();
        sector
    }

    fn label(&self) -> VolumeLabel {
        VolumeLabel {
            schema: 1,
            env: "lab".into(),
            cluster: Id128([7; 16]),
            generation: 1,
            fqdn: header(1).fqdn,
            instance: Id128([2; 16]),
        }
    }

    /// Boots, and expects the disk to be refused with `why` and not one byte of it changed.
    fn leaves_alone(&self, why: &str) {
        self.power_off();
        let before = self.sum();
        match self.boot().data {
            DataFact::Unusable(text) => assert!(text.contains(why), "{text}"),
            other => panic!("expected a refusal with `{why}`, got {other:?}"),
        }
        assert_eq!(self.sum(), before, "the disk was written to");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
        for device in &self.devices {
            let _ = Program::new("losetup").args(["-d", device]).run();
        }
    }
}

fn mounted(facts: &DiskFacts) -> (&VolumeLabel, bool) {
    match &facts.data {
        DataFact::Mounted { label, formatted_now, .. } => (label, *formatted_now),
        other => panic!("expected a mounted volume, got {other:?}"),
    }
}

#[test]
#[ignore = "needs root, loop devices and e2fsprogs"]
fn formats_a_blank_disk_once_and_keeps_it() {
    let node = Node::new(1);
    let first = node.boot();
    let (label, formatted) = mounted(&first);
    assert!(formatted && first.seed == SeedFact::Unpacked && first.wal == WalFact::Absent);
    assert_eq!((label.fqdn.clone(), label.generation), (header(1).fqdn, 1));
    assert_eq!(node.last_sector(), vec![0; 512], "the claim is released");
    assert!(mounted(&disk::settle(&node.paths).unwrap()).1, "a second look in the same boot says the same");
    let second = node.boot();
    assert_eq!(mounted(&second), (label, false));
}

#[test]
#[ignore = "needs root, loop devices and e2fsprogs"]
fn a_formatting_cut_short_is_gone_on_with() {
    // After the claim; after mke2fs; after the claim with half a file system.
    let node = Node::new(1);
    format::format(&node.data(), &node.label(), &header(1)).unwrap();
    let claim = node.last_sector();
    let facts = node.boot();
    assert_eq!(mounted(&facts), (&node.label(), true), "claimed and made, not labelled");
    node.power_off();
    node.write_at(0, &vec![0; 8 << 20]);
    node.write_at(SIZE - 512, &claim);
    let facts = node.boot();
    assert_eq!(mounted(&facts), (&node.label(), true), "claimed only");
    node.power_off();
    node.write_at(0, &vec![0xa5; 4096]);
    node.write_at(SIZE - 512, &claim);
    let facts = node.boot();
    assert_eq!(mounted(&facts), (&node.label(), true), "claimed, half made");
    assert_eq!(mounted(&node.boot()), (&node.label(), false));
}

#[test]
#[ignore = "needs root, loop devices and e2fsprogs"]
fn leaves_every_disk_alone_that_is_not_positively_its_own() {
    let node = Node::new(1);
    node.write_at(100, b"x");
    node.leaves_alone("data at byte 100");
    node.write_at(100, b"\0");
    node.write_at(SIZE - 10, b"x");
    node.leaves_alone("data at byte 67108854");
    node.write_at(SIZE - 10, b"\0");
    Program::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "photos"])
        .arg(node.data().to_string_lossy())
        .read()
        .unwrap();
    node.leaves_alone("photos");

    let other = Node::new(2);
    format::format(&other.data(), &VolumeLabel { fqdn: header(1).fqdn, ..other.label() }, &header(1)).unwrap();
    other.leaves_alone("being formatted for etcd1.lab.example");
    format::release(&other.data()).unwrap();
    other.leaves_alone("another node or cluster");
}

#[test]
#[ignore = "needs root, loop devices and e2fsprogs"]
fn names_the_node_whose_volume_it_was_given() {
    let node = Node::new(1);
    mounted(&node.boot());
    node.power_off();
    let other = Node::new(2);
    fs_err::remove_file(other.paths.disk(DATA_SERIAL)).unwrap();
    fs_err::os::unix::fs::symlink(node.data(), other.paths.disk(DATA_SERIAL)).unwrap();
    match other.boot().data {
        DataFact::Unusable(why) => assert!(why.contains("data volume of etcd1.lab.example"), "{why}"),
        unexpected => panic!("{unexpected:?}"),
    }
}

#[test]
#[ignore = "needs root, loop devices and e2fsprogs"]
fn a_damaged_volume_of_its_own_is_never_blank() {
    let node = Node::new(1);
    mounted(&node.boot());
    node.power_off();
    node.write_at(1024, &[0; 1024]);
    node.leaves_alone("");
    let gone = Node::new(1);
    fs_err::remove_file(gone.paths.disk(DATA_SERIAL)).unwrap();
    assert!(matches!(gone.boot().data, DataFact::Absent(why) if why.contains("kiln-data")));
    let unseeded = Node::new(1);
    fs_err::remove_file(unseeded.paths.disk(SEED_SERIAL)).unwrap();
    let facts = unseeded.boot();
    assert!(matches!(facts.seed, SeedFact::Absent(_)));
    assert!(matches!(facts.data, DataFact::Unusable(why) if why.contains("without a seed")));
}
