//! What an operator does to seeds between two boots: another issuer, other roots, or everything minted at another time.
#![expect(clippy::disallowed_methods, reason = "tests read and write the operator's keys")]

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use kiln_builder::authority::{Authority, ROOT_SECS, Validity};
use kiln_builder::pki::Pki;
use kiln_builder::pki::mint::{Order, init};
use kiln_builder::profile_file;
use kiln_builder::seed_archive::SeedContent;
use kiln_firstboot::charter::Charter;
use kiln_firstboot::clock;
use kiln_firstboot::cluster::ClusterConfig;
use kiln_firstboot::seed::{
    CHARTER, CHARTER_SIGNATURE, CLIENT_REVOKED, CLIENT_ROOTS, HEADER, ISSUER_CERT, ISSUER_KEY, PEER_REVOKED, PEER_ROOTS,
};
use kiln_firstboot::seed_disk::read_archive;

use crate::cluster::{Cluster, ENV};
use crate::node::{Node, text};

/// A day.
pub const DAY: i64 = 24 * 3600;

type Files = BTreeMap<&'static str, Vec<u8>>;

impl Node {
    fn seed(&self) -> Files {
        let file = fs_err::File::open(self.home.join("seed.tar")).expect("opening a seed");
        read_archive(file).expect("a seed is a seed")
    }

    fn put_seed(&self, files: &Files) {
        assert!(!self.is_on(), "a seed is swapped under a powered-off node");
        let text = |name| std::str::from_utf8(&files[name]).expect("PEM is text");
        let content = SeedContent {
            header: &serde_json::from_slice(&files[HEADER]).expect("a header is JSON"),
            charter: &files[CHARTER],
            signature: &files[CHARTER_SIGNATURE],
            issuer_cert: text(ISSUER_CERT),
            issuer_key: text(ISSUER_KEY),
            peer_roots: text(PEER_ROOTS),
            client_roots: text(CLIENT_ROOTS),
            peer_revoked: text(PEER_REVOKED),
            client_revoked: text(CLIENT_REVOKED),
        };
        fs_err::write(self.home.join("seed.tar"), &*content.to_bytes().expect("it fits")).expect("writing a seed");
    }

    /// Gives it other roots of the peers from its next boot on, and the empty list of the first of them.
    pub fn give_peer_roots(&self, roots: &[&Authority]) {
        let mut files = self.seed();
        let nobody = roots[0].revocation_list(1, &BTreeSet::new(), clock::now()).expect("signing a list");
        files.insert(PEER_REVOKED, nobody.into_bytes());
        files.insert(PEER_ROOTS, roots.iter().map(|root| root.cert()).collect::<String>().into_bytes());
        self.put_seed(&files);
    }

    /// Gives it an issuer under `root` from its next boot on.
    pub fn give_issuer(&self, root: &Authority, validity: Validity) {
        let mut files = self.seed();
        let charter: Charter = serde_json::from_slice(&files[CHARTER]).expect("a charter is JSON");
        let member = charter.member(&self.fqdn).expect("the charter has this node");
        let issuer = root.issuer(member, validity).expect("minting an issuer");
        files.insert(ISSUER_CERT, issuer.cert.into_bytes());
        files.insert(ISSUER_KEY, issuer.key.as_bytes().to_vec());
        self.put_seed(&files);
    }

    /// The clock has been set by NTP in this boot.
    pub fn synchronize_clock(&self) {
        let flag = self.paths().root().join("run/systemd/timesync/synchronized");
        fs_err::create_dir_all(flag.parent().expect("it is under run")).expect("making a directory");
        fs_err::write(flag, "").expect("saying that the clock is set");
    }
}

impl Cluster {
    /// Mints everything anew as it would have been `seconds` ago, with a window of a month. Before the first boot.
    pub fn mint_earlier(&mut self, seconds: i64) {
        let top = self.scratch();
        let dir = top.join("home/pki").join(ENV);
        fs_err::remove_dir_all(&dir).expect("removing the keys");
        let top = Utf8Path::from_path(&top).expect("test paths are UTF-8").to_owned();
        let profile = profile_file::read(&top, ENV).expect("reading the profile");
        let now = clock::now() - seconds;
        let order = Order { profile: &profile, generation: None, window_hours: Some(30 * 24), now };
        let (pki, _) = init(Utf8Path::from_path(&dir).expect("test paths are UTF-8"), &order).expect("minting");
        for node in &self.nodes {
            fs_err::copy(pki.seed(node.fqdn.member_name()), node.home.join("seed.tar")).expect("handing over a seed");
            let config = node.home.join("image/usr/lib/kiln/cluster.json");
            let config = fs_err::read(config).expect("reading an image");
            let mut config: ClusterConfig = serde_json::from_slice(&config).expect("it is JSON");
            (config.cluster, config.charter_key) = (pki.trust().cluster, pki.trust().charter_key);
            node.put_in_image("cluster.json", &serde_json::to_vec(&config).expect("JSON"));
        }
    }

    /// The operator's keys.
    pub fn pki(&self) -> Pki {
        let top = Utf8PathBuf::from_path_buf(self.scratch()).expect("test paths are UTF-8");
        let profile = profile_file::read(&top, ENV).expect("reading the profile");
        Pki::load(&top.join("home/pki").join(ENV), &profile).expect("reading the keys")
    }

    /// Gives a node the seed that the operator has for it now, from its next boot on.
    pub fn give_seed(&self, index: usize) {
        let node = &self.nodes[index];
        fs_err::copy(self.pki().seed(node.fqdn.member_name()), node.home.join("seed.tar"))
            .expect("handing over a seed");
    }

    /// The peers' root as `kiln pki init` minted it.
    pub fn peer_root(&self) -> Authority {
        let pki = self.scratch().join("home/pki").join(ENV);
        let read = |name: &str| fs_err::read_to_string(pki.join(name)).expect("reading a root");
        Authority::from_pem(read("peer-root.crt"), &read("private/peer-root.key")).expect("a root is a root")
    }

    /// Another root of the peers, which operators trust from now on beside the first.
    pub fn another_peer_root(&self) -> Authority {
        let root = Authority::mint("kiln unit peer root, second", 1, Validity::starting(clock::now(), ROOT_SECS));
        let root = root.expect("minting a root");
        let file = self.scratch().join("home/pki").join(ENV).join("peer-root.crt");
        let both = fs_err::read_to_string(&file).expect("reading a root") + root.cert();
        fs_err::write(&file, both).unwrap_or_else(|e| panic!("writing {}: {e}", text(&file)));
        root
    }
}
