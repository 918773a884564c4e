//! A profile: one cluster as the operator describes it in `profiles/NAME.toml`.
//!
//! A value of this type has been checked: names are sound and unique, addresses lie in the subnet, every node's host exists,
//! and every hazard is accepted by name. [`Profile::parse`] is pure; [`crate::profile_file::read`] reads the file.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

mod check;
mod parse;
mod proxmox;
mod sections;
#[cfg(test)]
mod tests;

pub(crate) use self::check::{LABEL_RULE, is_label};
pub use self::proxmox::{ProxmoxSettings, ProxmoxTrust};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::charter::CharterMember;
use kiln_firstboot::cluster::EtcdSettings;
use kiln_firstboot::digest::{Id128, Sha256Digest};
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::version::{EtcdVersion, VersionError};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::mac::MacAddress;
use crate::problem::{Problem, Problems};
use crate::subnet::Subnet;

/// The schema of profiles that this kiln reads.
pub const SCHEMA: u64 = 1;

/// One cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Where it was read from; the lock lies beside it.
    pub file: Utf8PathBuf,
    /// Name of the environment and the cluster.
    pub name: String,
    /// Name of the image definition, `images/NAME.toml`.
    pub image: String,
    /// Domain of the nodes' names and of the SRV records.
    pub domain: Fqdn,
    /// The network the nodes are in.
    pub network: Network,
    /// Which etcd, and how it is set.
    pub etcd: Etcd,
    /// How the cluster may form.
    pub formation: Formation,
    /// Hypervisors, in order of their names.
    pub hosts: Vec<Host>,
    /// Nodes, in the order of the file.
    pub nodes: Vec<Node>,
    /// What is allowed and yet worth saying, such as an even number of members.
    pub warnings: Vec<Problem>,
}

/// The network the nodes are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Bridge on the hosts.
    pub bridge: String,
    /// The subnet that all node addresses lie in.
    pub subnet: Subnet,
    /// Default gateway; a closed network has none.
    pub gateway: Option<IpAddr>,
    /// DNS servers to ask instead of those the network hands out; usually empty.
    pub dns_servers: Vec<IpAddr>,
    /// Time servers, names or addresses; empty for the distribution's own.
    pub ntp_servers: Vec<String>,
    /// Who may reach the client port; the subnet unless said otherwise.
    pub client_cidrs: Vec<Subnet>,
    /// MTU of the bridge, where it is not the hosts' default. With a VXLAN it is always said: see [`Vxlan::room`].
    pub mtu: Option<u32>,
    /// The tunnel that joins the hosts' bridges, where no cable or VLAN does.
    pub vxlan: Option<Vxlan>,
}

/// A VXLAN between the hosts, over which their bridges are one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Its number (VNI), the same on all hosts.
    pub id: u32,
    /// MTU of the network between the hosts.
    pub underlay_mtu: u32,
}

/// Which etcd, and how it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Where it may come from, best first; the lock records a pin for each that could be resolved.
    pub sources: Vec<EtcdSource>,
    /// Its settings.
    pub settings: EtcdSettings,
    /// Known dangers the operator accepts by name and reason.
    pub accept_hazards: Vec<AcceptedHazard>,
}

/// One place an etcd may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSource {
    /// Its version.
    pub version: WantedVersion,
    /// The kind of place.
    pub origin: EtcdOrigin,
}

/// Which version of etcd is asked for; only a release may leave it to the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedVersion {
    /// This one.
    Exact(EtcdVersion),
    /// `3.6`: the newest release of a minor line.
    Line(u16, u16),
    /// `latest`: the newest release that kiln can configure.
    Latest,
}

impl WantedVersion {
    /// The version, where it is no choice of the lock.
    pub fn exact(self) -> Option<EtcdVersion> {
        match self {
            Self::Exact(version) => Some(version),
            Self::Line(..) | Self::Latest => None,
        }
    }

    /// Whether a version is one of those asked for.
    pub fn covers(self, version: EtcdVersion) -> bool {
        match self {
            Self::Exact(exact) => version == exact,
            Self::Line(major, minor) => (version.major, version.minor) == (major, minor),
            Self::Latest => true,
        }
    }

    /// No version that is asked for is older than this one.
    pub fn least(self) -> EtcdVersion {
        match self {
            Self::Exact(version) => version,
            Self::Line(major, minor) => EtcdVersion { major, minor, patch: 0 },
            Self::Latest => EtcdVersion { major: 3, minor: 5, patch: 0 },
        }
    }
}

impl fmt::Display for WantedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(version) => version.fmt(f),
            Self::Line(major, minor) => write!(f, "{major}.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

impl FromStr for WantedVersion {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        // A line is whatever would be a version with a patch level.
        let line = || format!("{text}.0").parse().map(|v: EtcdVersion| Self::Line(v.major, v.minor)).ok();
        match (text, text.parse()) {
            ("latest", _) => Ok(Self::Latest),
            (_, Ok(version)) => Ok(Self::Exact(version)),
            (_, Err(error)) => line().ok_or(error),
        }
    }
}

/// A kind of place an etcd may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdOrigin {
    /// The upstream release tarball.
    Release {
        /// Where releases are had instead of upstream: `MIRROR/vVERSION/` with the files of each, `MIRROR/releases.json` with the list.
        mirror: Option<String>,
        /// Its sum, where it is not one kiln knows.
        sha256: Option<Sha256Digest>,
    },
    /// A tarball in the layout of the upstream release, at another URL.
    Url {
        /// Where.
        url: String,
        /// Its sum.
        sha256: Sha256Digest,
    },
    /// A tarball in the layout of the upstream release, on this machine.
    File {
        /// Where, relative to the profile.
        path: Utf8PathBuf,
        /// Its sum.
        sha256: Sha256Digest,
    },
    /// The packages `etcd-server` and `etcd-client` of a distribution.
    Packages {
        /// `debian` or `ubuntu`; the image's own distribution unless said otherwise.
        distribution: Option<String>,
        /// A suite of it; unless said otherwise whichever has the version.
        suite: Option<String>,
    },
}

impl EtcdOrigin {
    /// The word for it in profile, lock and recipe.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Release { .. } => "release",
            Self::Url { .. } => "url",
            Self::File { .. } => "file",
            Self::Packages { .. } => "packages",
        }
    }
}

/// A known danger the operator accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedHazard {
    /// Its name, `etcd-3.5`.
    pub hazard: String,
    /// Why that is all right here.
    pub reason: String,
}

/// How the cluster may form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formation {
    /// Hours after minting during which the founder may form the cluster.
    pub window_hours: u32,
    /// The one node that may form.
    pub founder: Fqdn,
}

/// A hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name in this profile.
    pub name: String,
    /// What drives it.
    pub kind: HostKind,
    /// Where its driver finds it: a libvirt URI or the URL of a Proxmox API.
    pub endpoint: Option<String>,
    /// Its own address on the network between the hosts: the end of its VXLAN tunnels.
    pub address: Option<IpAddr>,
}

/// What drives a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// libvirt by `virsh`.
    Libvirt(Libvirt),
    /// Proxmox VE by its REST API.
    Proxmox(ProxmoxSettings),
    /// Only ever simulated by `kiln lab`.
    Lab,
}

/// How kiln uses a libvirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libvirt {
    /// The storage pool of its volumes: a directory.
    pub pool: String,
    /// How machines compute; what the host offers best unless said otherwise.
    pub accelerator: Option<Accelerator>,
    /// How disks are cached.
    pub cache: Cache,
}

/// What a machine's processor is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The hardware's virtualisation.
    Kvm,
    /// QEMU's translator: works everywhere, several times slower.
    Tcg,
}

/// How a host caches what a machine writes. Either way a write that the machine has flushed is on the host's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Not at all (`cache='none' io='native'`): flushes take the time the disk takes, and the host's memory is the machines'. Needs a file
    /// system that knows `O_DIRECT`.
    None,
    /// In the host's memory until flushed: for file systems without `O_DIRECT`, such as tmpfs before Linux 6.6 and some network ones.
    Writeback,
}

/// A node, which is one member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name and the etcd member's: the first label of [`Node::fqdn`].
    pub name: String,
    /// Its full name.
    pub fqdn: Fqdn,
    /// The host it runs on.
    pub host: String,
    /// Its address.
    pub address: IpAddr,
    /// The Ethernet address by which DHCP knows it.
    pub mac: MacAddress,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
    /// Size of the data disk in GiB.
    pub data_gib: u32,
}

impl Profile {
    /// Reads a profile; `file` names it in problems and places its lock.
    ///
    /// # Errors
    /// With every problem of the file.
    pub fn parse(file: &Utf8Path, text: &str) -> Result<Self, Problems> {
        parse::profile(file, text)
    }

    /// The lock, `profiles/NAME.lock`.
    pub fn lock_file(&self) -> Utf8PathBuf {
        self.file.with_extension("lock")
    }

    /// The node of that name, short or full.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name || n.fqdn.as_str() == name)
    }

    /// The charter's members in canonical order.
    pub fn members(&self) -> Vec<CharterMember> {
        let mut members: Vec<CharterMember> =
            self.nodes.iter().map(|n| CharterMember { fqdn: n.fqdn.clone(), addresses: vec![n.address] }).collect();
        members.sort();
        members
    }

    /// The oldest etcd that the sources allow: what the charter demands at least.
    pub fn min_etcd(&self) -> EtcdVersion {
        self.etcd.sources.iter().map(|s| s.version.least()).min().expect("a checked profile has a source")
    }

    /// Nodes of one host.
    pub fn nodes_of<'p>(&'p self, host: &'p str) -> impl Iterator<Item = &'p Node> {
        self.nodes.iter().filter(move |n| n.host == host)
    }
}

impl Vxlan {
    /// MTU that is left inside: 50 bytes less over IPv4, 70 over IPv6, for the inner Ethernet header (14), VXLAN (8), UDP (8) and IP (20 or 40).
    pub fn room(&self, ipv6: bool) -> u32 {
        self.underlay_mtu.saturating_sub(if ipv6 { 70 } else { 50 })
    }
}

impl Node {
    /// The VM's UUID: version 5 (RFC 9562) of the node's full name in the namespace of the cluster.
    ///
    /// The same node of the same cluster always has the same one, so a machine that is defined again is the same machine.
    pub fn vm_uuid(&self, cluster: &Id128) -> String {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[&cluster.0, self.fqdn.as_str().as_bytes()].concat());
        let mut id = Id128([0; 16]);
        id.0.copy_from_slice(&hash.as_ref()[..16]);
        id.0[6] = (id.0[6] & 0x0f) | 0x50;
        id.0[8] = (id.0[8] & 0x3f) | 0x80;
        let hex = id.to_string();
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

#[cfg(test)]
mod shipped {
    use super::*;

    fn shipped(name: &str, text: &str) -> Profile {
        Profile::parse(Utf8Path::new(&format!("profiles/{name}.toml")), text).unwrap()
    }

    #[test]
    fn the_shipped_lab_is_three_nodes_on_one_host() {
        let lab = shipped("lab", include_str!("../../profiles/lab.toml"));
        assert_eq!((lab.nodes.len(), lab.hosts.len(), lab.warnings.len()), (3, 1, 0));
        assert_eq!(lab.lock_file(), "profiles/lab.lock");
        assert_eq!(lab.formation.founder, lab.nodes[0].fqdn);
        assert_eq!(lab.network.client_cidrs, [lab.network.subnet]);
        let sources: Vec<_> = lab.etcd.sources.iter().map(|s| (s.origin.kind(), s.version.to_string())).collect();
        assert_eq!(sources, [("release", "3.6.14".to_owned()), ("packages", "3.5.30".to_owned())]);
        assert_eq!(lab.min_etcd().to_string(), "3.5.30");
    }

    #[test]
    fn the_shipped_k8s0_is_the_tutorials_six_nodes() {
        let k8s0 = shipped("k8s0", include_str!("../../profiles/k8s0.toml"));
        let nodes: Vec<String> = k8s0
            .nodes
            .iter()
            .map(|n| format!("{} {} {} {} {}", n.fqdn, n.address, n.host, n.memory_mib, n.vcpus))
            .collect();
        assert_eq!(
            nodes,
            [
                "k8s0etcd1.kloud.lan 10.103.0.101 pve1 4096 2",
                "k8s0etcd2.kloud.lan 10.103.0.102 pve1 4096 2",
                "k8s0etcd3.kloud.lan 10.103.0.103 pve1 4096 2",
                "k8s0etcd4.kloud.lan 10.103.0.201 pve2 4096 2",
                "k8s0etcd5.kloud.lan 10.103.0.202 pve2 4096 2",
                "k8s0etcd6.kloud.lan 10.103.0.203 pve2 4096 2",
            ]
        );
        assert_eq!(k8s0.network.bridge, "k8s0-etcd");
        assert_eq!(k8s0.nodes_of("pve2").count(), 3);
        assert!(k8s0.etcd.accept_hazards.is_empty() && k8s0.warnings.is_empty());
    }

    #[test]
    fn machine_ids_are_version_5_uuids_that_never_change() {
        let lab = shipped("lab", include_str!("../../profiles/lab.toml"));
        let mut node = lab.nodes[0].clone();
        // The example of RFC 9562, appendix A.4: `www.example.com` in the namespace of DNS names.
        node.fqdn = Fqdn::parse("www.example.com").unwrap();
        let namespace: Id128 = "6ba7b8109dad11d180b400c04fd430c8".parse().unwrap();
        assert_eq!(node.vm_uuid(&namespace), "2ed6657d-e927-568b-95e1-2665a8aea6a2");
    }
}
