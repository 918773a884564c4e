//! A libvirt host of a test's own: the lab's host with the lab's libvirtd in it, reached from outside as a real one is.
#![expect(clippy::disallowed_methods, reason = "tests make directories and write files")]

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use camino::{Utf8Path, Utf8PathBuf};
use kiln_builder::host::libvirt::Libvirt;
use kiln_builder::host::{Host as _, Image, Machine, Mark, Root, Seed, Seen, Watch};
use kiln_builder::lab::host::{Host, Setup, group};
use kiln_builder::lab::libvirt::{self, Sockets};
use kiln_builder::profile::{self, Accelerator, Cache};
use kiln_firstboot::digest::{Id128, Sha256Digest};
use zeroize::Zeroizing;

use crate::program::run;

/// Stands where ssh would: libvirt's protocol, to the socket of the host. It takes part in as many logins as the file says, and then the
/// host is away.
const WIRE: &str = r#"#!/usr/bin/python3
import fcntl, os, socket, sys, threading
with open("@LEFT@", "r+") as left:
    fcntl.flock(left, fcntl.LOCK_EX)
    n = int(left.read())
    if n == 0:
        sys.exit(255)
    left.seek(0)
    left.truncate()
    left.write(str(n - 1))
host = socket.socket(socket.AF_UNIX)
host.connect("@SOCKET@")
def up():
    while data := os.read(0, 65536):
        host.sendall(data)
    host.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := host.recv(65536):
    os.write(1, data)
"#;

/// A host with a libvirtd and a pool `default`. Dropping it ends and removes everything of it.
#[derive(Debug)]
pub struct LibvirtHost {
    dir: tempfile::TempDir,
    host: Host,
    uri: String,
}

/// Watches and says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Watch for Silent {
    fn progress(&self, _done: u64, _total: u64) {}
}

impl LibvirtHost {
    /// Brings one up.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("making a scratch directory");
        let path = utf8(dir.path());
        let host = Host::ensure(&Setup {
            dir: path,
            group: &group(path),
            name: "pve1",
            bridge: "br0",
            address: Some(([10, 99, 0, 1].into(), 24)),
            hide_kvm: false,
            keep: &[path],
        })
        .expect("making a host");
        libvirt::ensure(&host, &Sockets::Usual, &path.join("libvirtd.log")).expect("starting libvirtd");
        let uri = format!("qemu+unix:///system?socket={}", host.path("/run/libvirt/libvirt-sock"));
        let made = Self { dir, host, uri };
        made.add_pool("default", &made.pool());
        made
    }

    /// Where the pool `default` is; the same path on the host and on this machine.
    pub fn pool(&self) -> Utf8PathBuf {
        utf8(self.dir.path()).join("pool")
    }

    /// A place for the test's own files.
    pub fn scratch(&self) -> &Utf8Path {
        utf8(self.dir.path())
    }

    /// A pool of so many MiB, by name.
    pub fn add_small_pool(&self, name: &str, mib: u32) {
        let path = format!("/run/{name}");
        self.on_host("mkdir", &[&path]);
        self.on_host("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", &path]);
        self.add_pool(name, Utf8Path::new(&path));
    }

    fn add_pool(&self, name: &str, path: &Utf8Path) {
        self.virsh(&["pool-define-as", name, "dir", "--target", path.as_str()]);
        self.virsh(&["pool-build", name]);
        self.virsh(&["pool-start", name]);
        self.virsh(&["pool-autostart", name]);
    }

    /// Where a profile finds it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What kiln drives it by.
    pub fn driver(&self) -> Libvirt {
        self.driver_of("default")
    }

    /// What kiln drives it by, with another pool.
    pub fn driver_of(&self, pool: &str) -> Libvirt {
        Libvirt::new("pve1", &self.uri, &settings(pool))
    }

    /// The same over something that looks like ssh and fails after so many logins.
    pub fn driver_that_goes_away_after(&self, logins: u32) -> Libvirt {
        let (wire, left) = (self.scratch().join("wire"), self.scratch().join("left"));
        fs_err::write(&left, logins.to_string()).expect("writing how many logins are left");
        if !wire.exists() {
            let socket = self.host.path("/run/libvirt/libvirt-sock");
            let text = WIRE.replace("@LEFT@", left.as_str()).replace("@SOCKET@", &socket);
            let mut file = std::fs::File::create(&wire).expect("making the wire");
            file.write_all(text.as_bytes()).expect("writing the wire");
            file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("making the wire a program");
        }
        let uri = format!("qemu+ssh://pve1/system?command={wire}&proxy=netcat&netcat=nc");
        Libvirt::new("pve1", &uri, &settings("default"))
    }

    /// How many logins the last driver that goes away had left.
    pub fn logins_left(&self) -> u32 {
        let text = fs_err::read_to_string(self.scratch().join("left")).expect("reading how many logins are left");
        text.trim().parse().expect("a number")
    }

    /// Runs virsh, which must succeed; what it printed.
    pub fn virsh(&self, args: &[&str]) -> String {
        run(&[&["virsh", "--quiet", "--connect", &self.uri], args].concat())
    }

    /// Runs a program on the host, which must succeed; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn on_host(&self, program: &str, args: &[&str]) -> String {
        self.host.tool(program).expect("the program is installed").args(args).read().expect("running it on the host")
    }

    /// Names of the files of the pool `default`, in order.
    pub fn volumes(&self) -> Vec<String> {
        let entries = fs_err::read_dir(self.pool()).expect("listing the pool");
        let name =
            |e: std::io::Result<fs_err::DirEntry>| e.expect("an entry").file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    /// Names, lengths and times of change of the files of the pool: that nothing was touched.
    pub fn state(&self) -> Vec<(String, u64, std::time::SystemTime)> {
        let of = |name: String| {
            let about = fs_err::metadata(self.pool().join(&name)).expect("a file of the pool");
            (name, about.len(), about.modified().expect("a time"))
        };
        self.volumes().into_iter().map(of).collect()
    }

    /// Where the host's processes and files are seen from here.
    pub fn path(&self, path: &str) -> String {
        self.host.path(path)
    }

    /// A small image with this text and `mib` MiB that do not compress in it.
    pub fn image(&self, text: &str, mib: usize) -> Image {
        let (raw, file) = (self.scratch().join(format!("{text}.raw")), self.scratch().join(format!("{text}.qcow2")));
        let mut bytes = text.as_bytes().to_vec();
        while bytes.len() < mib << 20 {
            bytes.extend(Sha256Digest::of(&bytes[bytes.len().saturating_sub(64)..]).0);
        }
        bytes.resize(bytes.len().max(8 << 20), 0);
        fs_err::write(&raw, bytes).expect("writing a raw disk");
        run(&["qemu-img", "convert", "-O", "qcow2", raw.as_str(), file.as_str()]);
        let bytes = fs_err::read(&file).expect("reading the image");
        let (key, sha256) = (Sha256Digest::of(text.as_bytes()), Sha256Digest::of(&bytes));
        Image { key, file, sha256, bytes: bytes.len() as u64 }
    }

    /// The cluster's only machine on this host as `survey` sees it.
    pub fn seen(&self, machine: &Machine) -> Option<Seen> {
        let mut seen = self.driver().survey(&machine.mark.cluster).expect("a survey");
        assert!(seen.len() <= 1, "{seen:?}");
        seen.pop()
    }
}

impl Default for LibvirtHost {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for LibvirtHost {
    fn drop(&mut self) {
        // A second panic while the first unwinds would hide it.
        let _ = Host::remove(utf8(self.dir.path()), &group(utf8(self.dir.path())));
    }
}

fn settings(pool: &str) -> profile::Libvirt {
    // Emulated: whether /dev/kvm works on this machine is no matter of these tests. Uncached needs a file system that tmpfs is not everywhere.
    profile::Libvirt { pool: pool.to_owned(), accelerator: Some(Accelerator::Tcg), cache: Cache::Writeback }
}

fn utf8(path: &std::path::Path) -> &Utf8Path {
    Utf8Path::from_path(path).expect("scratch directories have plain names")
}

/// A machine of a node of the cluster `env`.
pub fn machine(env: &str, node: &str) -> Machine {
    let cluster = Id128(Sha256Digest::of(env.as_bytes()).0[..16].try_into().expect("16 bytes"));
    let hex = Sha256Digest::of(format!("{env}.{node}").as_bytes()).to_string();
    Machine {
        mark: Mark { cluster, env: env.to_owned(), node: node.to_owned() },
        uuid: format!("{}-{}-5{}-8{}-{}", &hex[..8], &hex[8..12], &hex[12..15], &hex[15..18], &hex[18..30]),
        memory_mib: 64,
        vcpus: 1,
        data_gib: 1,
        bridge: "br0".to_owned(),
        mtu: None,
        mac: kiln_builder::mac::MacAddress::derive(env, node),
    }
}

/// A seed with this text in it.
pub fn seed(text: &str) -> Seed {
    let bytes = Zeroizing::new(text.repeat(300).into_bytes());
    Seed { sha256: Sha256Digest::of(&bytes), bytes }
}

/// The root that an image is as this generation.
pub fn root(image: &Image, generation: u64) -> Root {
    Root { image: image.key, generation }
}
