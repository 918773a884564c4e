//! What the tests have at hand: a server with a driver for it, a machine to be, an image, a seed, and what is left of them in the end.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use camino::Utf8PathBuf;
use kiln_builder::host::proxmox::{Pace, Proxmox};
use kiln_builder::host::{Host as _, Image, Machine, Mark, Root, Seed, Seen, Watch};
use kiln_builder::profile::{ProxmoxSettings, ProxmoxTrust};
use kiln_firstboot::digest::{Id128, Sha256Digest};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::server::Server;
use crate::world::{BRIDGE, DISKS, IMAGES, NODE, POOL, SECRET, TOKEN, World};

/// No real host is waited for.
pub(crate) const PACE: Pace = Pace { look: Duration::from_millis(1), again: [Duration::ZERO, Duration::ZERO] };
pub(crate) const FIRST_VMID: u32 = 4100;
const UUID: &str = "2ed6657d-e927-568b-95e1-2665a8aea6a2";

/// Says nothing.
#[derive(Debug)]
pub(crate) struct Silent;

impl Watch for Silent {
    fn progress(&self, done: u64, total: u64) {
        assert!(done <= total);
    }
}

#[derive(Debug)]
pub(crate) struct Hands {
    pub(crate) server: Server,
    pub(crate) folder: TempDir,
    pub(crate) driver: Proxmox,
}

impl Hands {
    /// A server with this world and a driver that trusts its authority.
    pub(crate) fn on(world: World) -> Self {
        let server = Server::start(world);
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "ca.pem", server.authority.as_bytes());
        write(&folder, "token", format!("{TOKEN}={SECRET}\n").as_bytes());
        let driver = open(&server, &folder, ProxmoxTrust::Authority(path(&folder, "ca.pem"))).unwrap();
        Self { server, folder, driver }
    }

    pub(crate) fn new() -> Self {
        Self::on(World::new())
    }

    /// An image of its own for each number, as a file.
    pub(crate) fn image(&self, n: u8) -> Image {
        // The head of a qcow2 of version 3 that has no backing file and no data file, and content to tell it by.
        let mut bytes = vec![0u8; 3000 + usize::from(n)];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[600..].fill(n);
        let file = path(&self.folder, &format!("image-{n}.qcow2"));
        write(&self.folder, &format!("image-{n}.qcow2"), &bytes);
        Image { key: root(n).image, file, sha256: Sha256Digest::of(&bytes), bytes: bytes.len() as u64 }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.driver.survey(&cluster()).unwrap()
    }

    /// The one machine there is.
    pub(crate) fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.into_iter().next().unwrap()
    }

    /// Image and machine, made and off.
    pub(crate) fn deploy(&self, n: u8) {
        self.driver.ensure_image(&self.image(n), &Silent).unwrap();
        self.driver.ensure_machine(&machine("etcd1"), root(n), &self.image(n), &seed(1)).unwrap();
    }

    /// Writes into the node's data volume, as the node would.
    pub(crate) fn write_data(&self, text: &[u8]) {
        let mut world = self.server.world();
        let volume = crate::disks::volume_of(&world.vms[&FIRST_VMID].config["virtio1"]);
        world.volumes.get_mut(&volume).unwrap().bytes = text.to_vec();
    }

    /// What is in a slot of the first machine.
    pub(crate) fn slot(&self, slot: &str) -> Vec<u8> {
        let world = self.server.world();
        let volume = crate::disks::volume_of(&world.vms[&FIRST_VMID].config[slot]);
        world.volumes[&volume].bytes.clone()
    }

    /// Nothing was asked for that the API does not take, and no upload took the place of a file.
    pub(crate) fn was_proper(&self) {
        let world = self.server.world();
        assert_eq!((world.violations.as_slice(), world.overwritten.as_slice()), (&[] as &[String], &[] as &[String]));
    }
}

/// What a world has come to, without what may differ: names of volumes and of uploads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    machines: Vec<(u32, BTreeMap<String, String>, bool, BTreeMap<String, Vec<u8>>)>,
    volumes: usize,
    files: BTreeMap<String, usize>,
}

pub(crate) fn end(world: &World) -> End {
    let machines = world.vms.iter().map(|(id, vm)| {
        let plain = vm.config.iter().filter(|(n, _)| !crate::disks::is_volume(n) && *n != "description");
        let disks = vm.config.iter().filter(|(n, _)| crate::disks::is_volume(n)).map(|(name, value)| {
            // Which number an unused volume has is of no account.
            let key = if name.starts_with("unused") { "unused".to_owned() } else { name.clone() };
            (key, world.volumes[&crate::disks::volume_of(value)].bytes.clone())
        });
        assert!(vm.pending.is_empty(), "{:?}", vm.pending);
        (*id, plain.map(|(n, v)| (n.clone(), v.clone())).collect(), vm.running, disks.collect())
    });
    let files = world.storages[IMAGES].files.iter().map(|(name, bytes)| (name.clone(), bytes.len()));
    End { machines: machines.collect(), volumes: world.volumes.len(), files: files.collect() }
}

pub(crate) fn open(server: &Server, folder: &TempDir, trust: ProxmoxTrust) -> anyhow::Result<Proxmox> {
    let settings = ProxmoxSettings {
        node: NODE.into(),
        token_file: path(folder, "token"),
        trust,
        image_storage: IMAGES.into(),
        disk_storage: DISKS.into(),
        pool: POOL.into(),
        first_vmid: Some(FIRST_VMID),
    };
    Proxmox::open("pve1", &server.endpoint, &settings, PACE)
}

pub(crate) fn path(folder: &TempDir, name: &str) -> Utf8PathBuf {
    Utf8PathBuf::from_path_buf(folder.path().join(name)).unwrap()
}

pub(crate) fn write(folder: &TempDir, name: &str, bytes: &[u8]) {
    fs_err::write(path(folder, name), bytes).unwrap();
    fs_err::set_permissions(path(folder, name), std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn cluster() -> Id128 {
    "6ba7b8109dad11d180b400c04fd430c8".parse().unwrap()
}

pub(crate) fn machine(node: &str) -> Machine {
    Machine {
        mark: Mark { cluster: cluster(), env: "k8s0".into(), node: node.into() },
        uuid: UUID.into(),
        memory_mib: 2048,
        vcpus: 2,
        data_gib: 8,
        bridge: BRIDGE.into(),
        mtu: Some(1450),
        mac: "52:54:00:aa:00:01".parse().unwrap(),
    }
}

pub(crate) fn root(n: u8) -> Root {
    Root { image: Sha256Digest::of(&[n]), generation: n.into() }
}

pub(crate) fn seed(n: u8) -> Seed {
    let bytes = Zeroizing::new(vec![n; 10240]);
    Seed { sha256: Sha256Digest::of(&bytes), bytes }
}
