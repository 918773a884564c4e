//! Hypervisors: what kiln asks of one, whichever drives it.
//!
//! A host is looked at ([`Host::survey`]), what is to be done is decided from that alone (pure, elsewhere), and each thing done is one method
//! here: idempotent, and safe to be cut off at any point, so that looking again and going on is always right. Nothing but
//! [`Host::wipe_data`] and [`Host::destroy`] ever removes a data volume, and both are told which node.
//!
//! kiln finds its own machines by what it wrote on them ([`Mark`]), never by their name alone, and leaves all others alone.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

pub mod libvirt;
mod open;
pub mod proxmox;

pub use self::open::open;

use std::fmt;
use std::time::Duration;

use camino::Utf8PathBuf;
use kiln_firstboot::digest::{Id128, Sha256Digest};
use zeroize::Zeroizing;

use crate::mac::MacAddress;

/// What a host must be able to do and have before anything is done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Bridge the nodes' cards go on.
    pub bridge: String,
    /// Bytes that will be written at most: the image if it is not there, and the data volumes to be made.
    pub bytes: u64,
    /// Whether machines will be removed.
    pub destroy: bool,
}

/// Something a host lacks, and what the operator can do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Lack {
    /// What was seen.
    pub what: String,
    /// The remedy, where there is one a command that can be pasted.
    pub remedy: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  hint: {}", self.what, self.remedy)
    }
}

/// What kiln writes on a machine, by which it knows it again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// The cluster.
    pub cluster: Id128,
    /// Name of its profile.
    pub env: String,
    /// The node's name: the first label of its FQDN.
    pub node: String,
}

/// An image in the store, to be had on hosts under its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The key of its recipe.
    pub key: Sha256Digest,
    /// The qcow2, flat, without a backing file.
    pub file: Utf8PathBuf,
    /// sha256 of the file.
    pub sha256: Sha256Digest,
    /// Length of the file.
    pub bytes: u64,
}

/// A root disk: which image, installed as which generation of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Root {
    /// The image's key.
    pub image: Sha256Digest,
    /// The generation, counted from 1.
    pub generation: u64,
}

/// The machine a node is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whose it is.
    pub mark: Mark,
    /// Its UUID, which becomes the node's machine id and never changes ([`crate::profile::Node::vm_uuid`]).
    pub uuid: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
    /// Size of the data volume in GiB, if it has to be made.
    pub data_gib: u32,
    /// Bridge its card is on.
    pub bridge: String,
    /// MTU of the card, where it is not the bridge's.
    pub mtu: Option<u32>,
    /// The card's Ethernet address.
    pub mac: MacAddress,
}

/// A node's seed: bytes that are secret, and the digest by which a host says which one it has.
#[derive(Clone)]
pub struct Seed {
    /// The medium.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Its sha256. Of no use to who does not have the bytes: they hold a private key.
    pub sha256: Sha256Digest,
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seed").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

/// A machine of the cluster as it is on a host. What could not be told is absent, and is never taken for "not there": see [`Seen::trouble`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Seen {
    /// Whose it is.
    pub mark: Mark,
    /// What the host calls it: a domain's name, a VM's number.
    pub handle: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether it is powered on.
    pub running: bool,
    /// Its root disk, if it is whole.
    pub root: Option<Root>,
    /// The root it had before, kept until it is dropped.
    pub previous: Option<Root>,
    /// Length of its data volume in bytes.
    pub data_bytes: Option<u64>,
    /// The seed it has.
    pub seed: Option<Sha256Digest>,
    /// Memory in MiB; this and what follows is as it will be at the next start.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
    /// The card's Ethernet address.
    pub mac: Option<MacAddress>,
    /// The bridge.
    pub bridge: Option<String>,
    /// Why it must not be touched: a snapshot, a lock, a pending change, high availability that would interfere, a name changed by hand.
    pub trouble: Vec<Lack>,
}

/// What came of having an image on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Transfer {
    /// Bytes that went over; 0 when the host had it.
    pub bytes: u64,
}

/// What was collected.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    /// Names of volumes that are gone.
    pub volumes: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}

/// Told how far a long step is.
pub trait Watch: Sync {
    /// `done` of `total` bytes or percent have passed; called often.
    fn progress(&self, done: u64, total: u64);
}

/// A hypervisor.
///
/// Every method may be called again after it failed or was cut off. Methods that need a machine to be off refuse when it runs; those that
/// take a node's name refuse when the machine found is in [trouble](Seen::trouble).
pub trait Host: Send + Sync + fmt::Debug {
    /// Its name in the profile.
    fn name(&self) -> &str;

    /// Everything that is missing for `need`: rights, pools, bridge, version, space. Touches nothing.
    ///
    /// # Errors
    /// When the host cannot be asked at all.
    fn preflight(&self, need: &Need) -> anyhow::Result<Vec<Lack>>;

    /// Every machine of the cluster on the host, half-made ones too. Touches nothing.
    ///
    /// # Errors
    /// When the host cannot be asked, or a machine cannot be read: what is there is then not known.
    fn survey(&self, cluster: &Id128) -> anyhow::Result<Vec<Seen>>;

    /// Has the image on the host, whole and verified, once for all machines; does nothing when it is there.
    ///
    /// # Errors
    /// When it does not arrive whole, or a volume of its name has other bytes.
    fn ensure_image(&self, image: &Image, watch: &dyn Watch) -> anyhow::Result<Transfer>;

    /// Makes a machine that is not there, or goes on with one half-made: a thin root over the image, a blank data volume unless there is one
    /// of this node, which is kept as it is, the seed, readable by root alone. It stays off.
    ///
    /// # Errors
    /// A refusal when a volume or machine that is not this node's is in the way; nothing of it is touched.
    fn ensure_machine(&self, machine: &Machine, root: Root, image: &Image, seed: &Seed) -> anyhow::Result<()>;

    /// Brings memory, processors and card of a machine that is off to what `machine` says. Volumes stay.
    ///
    /// # Errors
    /// When it runs or cannot be changed.
    fn redefine(&self, machine: &Machine) -> anyhow::Result<()>;

    /// Gives a machine that is off a fresh root, and keeps the one it had as [`Seen::previous`]. What was previous before is dropped. Does
    /// nothing when it has this root already.
    ///
    /// # Errors
    /// When it runs or cannot be changed.
    fn replace_root(&self, machine: &Machine, root: Root, image: &Image) -> anyhow::Result<()>;

    /// Puts the previous root of a machine that is off back in its place; the one it had is dropped.
    ///
    /// # Errors
    /// A refusal when there is no previous root.
    fn restore_root(&self, machine: &Machine) -> anyhow::Result<()>;

    /// Removes the previous root. Does nothing when there is none. The machine may run.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn drop_previous_root(&self, machine: &Machine) -> anyhow::Result<()>;

    /// Gives a machine that is off this seed; the old one is removed.
    ///
    /// # Errors
    /// When it runs or cannot be changed.
    fn replace_seed(&self, machine: &Machine, seed: &Seed) -> anyhow::Result<()>;

    /// Replaces the data volume of a machine that is off by a blank one. The node's data are lost.
    ///
    /// # Errors
    /// When it runs or cannot be changed.
    fn wipe_data(&self, machine: &Machine) -> anyhow::Result<()>;

    /// Powers a machine on, now and whenever the host starts. Does nothing when it runs.
    ///
    /// # Errors
    /// When the host refuses.
    fn power_on(&self, machine: &Machine) -> anyhow::Result<()>;

    /// Asks a machine to shut down, and pulls its plug when it has not by then. Does nothing when it is off.
    ///
    /// # Errors
    /// When the host refuses.
    fn power_off(&self, machine: &Machine, patience: Duration) -> anyhow::Result<()>;

    /// Removes a machine that is off with its root, previous root and seed, and its data volume if `with_data`. A data volume that stays is
    /// taken by [`Host::ensure_machine`] for the same node.
    ///
    /// # Errors
    /// When it runs or cannot be removed.
    fn destroy(&self, machine: &Machine, with_data: bool) -> anyhow::Result<()>;

    /// Removes images of kiln's that no volume lies over and whose files' sha256 ([`Image::sha256`]) are not among `keep`, and what broken
    /// uploads left behind.
    ///
    /// # Errors
    /// A refusal when a volume's backing chain cannot be read: what it needs is then not known.
    fn collect(&self, keep: &[Sha256Digest]) -> anyhow::Result<Collected>;

    /// What the machine's serial console has said, where the host keeps it.
    ///
    /// # Errors
    /// When the host keeps none or cannot be asked.
    fn console(&self, machine: &Machine) -> anyhow::Result<String>;
}
