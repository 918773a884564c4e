//! Where things are on a node, and on which port. The builder writes to these places, the agent reads them; both ask here.
//!
//! Every path hangs off a root directory, `/` on a node and a scratch directory in a test.

use std::path::{Path, PathBuf};

/// etcd's client port; nftables opens it only after activation.
pub const CLIENT_PORT: u16 = 2379;
/// etcd's peer port.
pub const PEER_PORT: u16 = 2380;
/// etcd's metrics and health, plain http.
pub const METRICS_PORT: u16 = 2381;
/// The agent, TLS 1.3 with client certificates.
pub const AGENT_PORT: u16 = 2382;

/// User and group id of etcd. Fixed, because the data volume outlives the image that names the user.
pub const ETCD_UID: u32 = 479;
/// User and group id of the agent. Fixed for the same reason.
pub const FIRSTBOOT_UID: u32 = 482;

/// Serial of the disk with the image.
pub const ROOT_SERIAL: &str = "kiln-root";
/// Serial of the disk with etcd's data and the agent's state.
pub const DATA_SERIAL: &str = "kiln-data";
/// Serial of the disk with the seed.
pub const SEED_SERIAL: &str = "kiln-seed";

/// All paths of one node.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Paths under `root`; `/` on a node.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// What image this is ([`crate::image::ImageMeta`]); part of the image.
    pub fn image_json(&self) -> PathBuf {
        self.at("usr/lib/kiln/image.json")
    }
    /// What cluster this image is for ([`crate::cluster::ClusterConfig`]); part of the image.
    pub fn cluster_json(&self) -> PathBuf {
        self.at("usr/lib/kiln/cluster.json")
    }
    /// The device of a disk by its serial.
    pub fn disk(&self, serial: &str) -> PathBuf {
        self.at("dev/disk/by-id").join(format!("virtio-{serial}"))
    }
    /// Mount point of the data volume.
    pub fn data(&self) -> PathBuf {
        self.at("var/lib/kiln")
    }
    /// Who the data volume belongs to ([`crate::volume::VolumeLabel`]).
    pub fn volume_json(&self) -> PathBuf {
        self.data().join("volume.json")
    }
    /// etcd's data directory, 0700 etcd.
    pub fn etcd_data(&self) -> PathBuf {
        self.data().join("etcd")
    }
    /// etcd's write-ahead log; its first record says which member of which cluster this is.
    pub fn wal(&self) -> PathBuf {
        self.etcd_data().join("member/wal")
    }
    /// The agent's directory, 0700 firstboot.
    pub fn state_dir(&self) -> PathBuf {
        self.data().join("state")
    }
    /// The agent's state ([`crate::state::State`]).
    pub fn state_json(&self) -> PathBuf {
        self.state_dir().join("state.json")
    }
    /// Leaf certificate and key, setgid etcd: the agent writes, etcd reads.
    pub fn tls_dir(&self) -> PathBuf {
        self.data().join("tls")
    }
    /// Leaf certificate followed by the issuer's: replaced by one rename at each renewal.
    pub fn leaf_cert(&self) -> PathBuf {
        self.tls_dir().join("leaf.pem")
    }
    /// The leaf's key; stays the same across renewals, so that certificate and key never disagree.
    pub fn leaf_key(&self) -> PathBuf {
        self.tls_dir().join("leaf.key")
    }
    /// Roots that peers must chain to, as etcd reads them at start.
    pub fn peer_roots(&self) -> PathBuf {
        self.tls_dir().join("peer-roots.pem")
    }
    /// Roots that clients must chain to, as etcd reads them at start.
    pub fn client_roots(&self) -> PathBuf {
        self.tls_dir().join("client-roots.pem")
    }
    /// Issuers of peers that are revoked, DER; etcd reads it at every handshake.
    pub fn peer_revoked(&self) -> PathBuf {
        self.tls_dir().join("peer-revoked.crl")
    }
    /// Clients that are revoked, DER; etcd reads it at every handshake.
    pub fn client_revoked(&self) -> PathBuf {
        self.tls_dir().join("client-revoked.crl")
    }
    /// Snapshots of etcd that the agent takes before it removes a voter, 0700 firstboot.
    pub fn snapshots(&self) -> PathBuf {
        self.data().join("snapshots")
    }
    /// Persistent journal.
    pub fn journal(&self) -> PathBuf {
        self.data().join("journal")
    }
    /// Everything that lasts for one boot.
    pub fn run(&self) -> PathBuf {
        self.at("run/kiln")
    }
    /// What the disk step found ([`crate::disk_fact::DiskFacts`]).
    pub fn disk_json(&self) -> PathBuf {
        self.run().join("disk.json")
    }
    /// The unpacked seed, 0500 firstboot.
    pub fn seed_dir(&self) -> PathBuf {
        self.run().join("seed")
    }
    /// Socket of the root helper that starts etcd and opens ports for the agent.
    pub fn control_socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }
    /// etcd's command line, as an environment file for `etcd.service`.
    pub fn etcd_args(&self) -> PathBuf {
        self.run().join("etcd.env")
    }
    /// One-time permission to start etcd on an empty write-ahead log; consumed by `firstboot precheck`.
    pub fn empty_start_permit(&self) -> PathBuf {
        self.run().join("permit-empty-start")
    }
    /// What the agent last saw, decided and waits for, for `firstboot status`.
    pub fn status_json(&self) -> PathBuf {
        self.run().join("status.json")
    }
    /// Directory of etcd's local socket, 2750 etcd:firstboot.
    pub fn etcd_run(&self) -> PathBuf {
        self.at("run/kiln-etcd")
    }
    /// etcd's local client socket: the only way in that needs no client certificate, so only the agent's group may reach it.
    pub fn etcd_socket(&self) -> PathBuf {
        self.etcd_run().join("client.sock")
    }
    /// The members' addresses ([`crate::hosts`]); `/etc/hosts` of the image is a link to it.
    pub fn hosts(&self) -> PathBuf {
        self.run().join("hosts")
    }
    /// The real DNS servers, as systemd-resolved lists its uplinks (never the stub).
    pub fn resolv_conf(&self) -> PathBuf {
        self.at("run/systemd/resolve/resolv.conf")
    }
    /// This boot's identifier, from the kernel.
    pub fn boot_id(&self) -> PathBuf {
        self.at("proc/sys/kernel/random/boot_id")
    }
}
