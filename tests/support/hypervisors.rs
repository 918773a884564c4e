//! A cluster's profile, keys and store, and hosts with a real libvirtd each, for the operator's commands.
//!
//! The image is some MiB that boot nothing, so no agent ever answers: what waits for one is tested with agents, in the lab.
#![expect(clippy::disallowed_methods, reason = "starts kiln, writes into data volumes")]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kiln_builder::host::libvirt::volume_name;
use kiln_builder::host::{Host as _, Mark, Seen};
use kiln_builder::recipe::{Recipe, RecipeDisk, RecipeEtcd};
use kiln_builder::store::{Made, Manifest, RootKind, Store};
use kiln_builder::trust::seal::Sealer;
use kiln_firstboot::digest::{Id128, Sha256Digest};
use serde_json::Value;

use crate::libvirt_host::LibvirtHost;
use crate::places::Places;

/// What is written into every data volume, and must be there at the end.
const WRITTEN: &[u8] = b"acknowledged";
/// Where, past what a file system has at its beginning.
const AT: u64 = 1 << 20;

/// A cluster `prod` of nodes `etcd1`, `etcd2`, …, at loopback addresses at which nobody answers.
#[derive(Debug)]
pub struct Hypervisors {
    /// The operator's directories.
    pub places: Places,
    hosts: Vec<LibvirtHost>,
    store: Store,
}

impl Hypervisors {
    /// So many nodes on each of so many hosts, `pve1`, `pve2`, …; a profile and keys. There is no image and no machine yet.
    ///
    /// # Panics
    /// When one cannot be made.
    pub fn with(nodes: &[u8]) -> Self {
        let hosts: Vec<LibvirtHost> = nodes.iter().map(|_| LibvirtHost::new()).collect();
        let dir = hosts.first().expect("there is a host").scratch().join("operator");
        let places = Places { project: dir.join("project").into(), home: dir.join("home").into() };
        let profiles = places.project.join("profiles");
        fs_err::create_dir_all(&profiles).expect("making a directory");
        let mut text = "schema = 1\nname = 'prod'\nimage = 'tiny'\ndomain = 'kiln.test'\n\
                        [network]\nbridge = 'br0'\nsubnet = '127.77.0.0/24'\n"
            .to_owned();
        for (n, host) in (1..).zip(&hosts) {
            text.push_str(&format!(
                "[hosts.pve{n}]\nkind = 'libvirt'\nendpoint = '{}'\naccelerator = 'tcg'\ncache = 'writeback'\n",
                host.uri()
            ));
        }
        let on = (1..).zip(nodes).flat_map(|(host, nodes)| vec![host; usize::from(*nodes)]);
        for (n, host) in (1..).zip(on) {
            text.push_str(&format!(
                "[[node]]\nname = 'etcd{n}'\nhost = 'pve{host}'\naddress = '127.77.0.{}'\nmemory_mib = 384\nvcpus = 1\ndata_gib = 1\n",
                10 + n
            ));
        }
        fs_err::write(profiles.join("prod.toml"), text).expect("writing a profile");
        let store = Store::at(places.home.join("store"));
        let made = Self { places, hosts, store };
        made.places.ok(&["pki", "init", "prod"]);
        made
    }

    /// The first host.
    pub fn host(&self) -> &LibvirtHost {
        self.hosts.first().expect("there is a host")
    }

    /// All hosts.
    pub fn hosts(&self) -> &[LibvirtHost] {
        &self.hosts
    }

    /// Makes an image of so many MiB that is signed as a build's is, the profile's last build.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn build(&self, text: &str, mib: usize, source_date_epoch: i64) -> Sha256Digest {
        let image = self.host().image(text, mib);
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

    /// `kiln ARGS...` in these places.
    pub fn command(&self, args: &[&str]) -> Command {
        let argv = self.places.argv(args);
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null());
        command
    }

    /// Runs `kiln ARGS...`, whatever comes of it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("running kiln")
    }

    /// What kiln says when it refuses.
    ///
    /// # Panics
    /// When it does not.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8(output.stderr).expect("kiln prints UTF-8");
        assert_eq!(output.status.code(), Some(78), "{args:?}: {said}");
        said
    }

    /// The cluster's id.
    ///
    /// # Panics
    /// When it has no keys.
    pub fn cluster(&self) -> Id128 {
        let trust =
            fs_err::read(self.places.home.join("pki/prod/trust.json")).expect("reading what the cluster trusts");
        let trust: Value = serde_json::from_slice(&trust).expect("JSON");
        trust["cluster"].as_str().expect("an id").parse().expect("an id")
    }

    /// The machines by their nodes.
    ///
    /// # Panics
    /// When a node has two.
    pub fn seen(&self) -> BTreeMap<String, Seen> {
        let seen = self.hosts.iter().flat_map(|host| host.driver().survey(&self.cluster()).expect("a survey"));
        let seen: Vec<Seen> = seen.collect();
        let count = seen.len();
        let seen: BTreeMap<String, Seen> = seen.into_iter().map(|seen| (seen.mark.node.clone(), seen)).collect();
        assert_eq!(seen.len(), count, "no node has two machines");
        seen
    }

    fn data(&self, node: &str) -> fs_err::File {
        let mark = Mark { cluster: self.cluster(), env: "prod".into(), node: node.into() };
        let path = self.host().pool().join(volume_name::data(&mark));
        fs_err::OpenOptions::new().read(true).write(true).open(path).expect("opening a data volume")
    }

    /// Writes something into a node's data volume on the first host.
    ///
    /// # Panics
    /// When there is none.
    pub fn write_data(&self, node: &str) {
        self.data(node).file().write_all_at(WRITTEN, AT).expect("writing into a data volume");
    }

    /// Whether what was written into a node's data volume is there.
    ///
    /// # Panics
    /// When there is no volume.
    pub fn has_data(&self, node: &str) -> bool {
        let mut found = vec![0; WRITTEN.len()];
        self.data(node).file().read_exact_at(&mut found, AT).expect("reading a data volume");
        found == WRITTEN
    }

    /// The generations of root and previous root of every node.
    pub fn generations(&self) -> BTreeMap<String, (Option<u64>, Option<u64>)> {
        let of = |seen: &Seen| (seen.root.map(|r| r.generation), seen.previous.map(|r| r.generation));
        self.seen().iter().map(|(node, seen)| (node.clone(), of(seen))).collect()
    }
}
