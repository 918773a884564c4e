//! A cluster on one machine, from the profile alone: network, DHCP, DNS and nodes in namespaces of their own.
//!
//! Nothing of the machine is touched. All that lasts is the lab's directory; all that runs hangs off one process (see [`host`]),
//! so that [`Lab::down`] leaves nothing behind, whatever state a crash left the lab in.
//!
//! Pure: [`dns`], [`dhcp`], [`domain_xml`], [`status`], [`container`]'s command line. Edges: all others.
#![expect(clippy::disallowed_methods, reason = "an edge: copies seeds into the lab")]

pub mod container;
pub mod dhcp;
pub mod dns;
pub mod dnsmasq;
pub mod domain_xml;
pub mod guest;
pub mod host;
pub mod kvm;
pub mod process;
pub mod query;
pub mod record;
pub mod root_partition;
pub mod status;
pub mod up;
pub mod vm;

use std::net::{IpAddr, Ipv4Addr};

use camino::{Utf8Path, Utf8PathBuf};

use crate::exit::Refusal;
use crate::pki::Pki;
use crate::profile::{Node, Profile};
use container::Container;
use dnsmasq::Dnsmasq;
use domain_xml::Accelerator;
use host::{Host, node_dir};
use record::{Driver, Lock, Record};
use status::LabStatus;
use vm::Vm;

/// The lab of one profile, up or not.
#[derive(Clone, Debug)]
pub struct Lab {
    /// Its directory; gone after `down`.
    pub dir: Utf8PathBuf,
    /// kiln's home, where what the lab learned about the machine is remembered.
    pub home: Utf8PathBuf,
    /// The store; stays visible inside.
    pub store: Utf8PathBuf,
    /// Directory of the cluster's keys and seeds.
    pub pki: Utf8PathBuf,
    /// The cluster.
    pub profile: Profile,
}

/// A lab whose host is up.
#[derive(Debug)]
pub struct Live<'a> {
    lab: &'a Lab,
    /// Its namespaces.
    pub host: Host,
    /// What it was made from.
    pub record: Record,
    /// The cluster's keys.
    pub pki: Pki,
}

impl Lab {
    /// The lab, which must be up.
    ///
    /// # Errors
    /// [`Refusal`] when it is not.
    pub fn live(&self) -> anyhow::Result<Live<'_>> {
        let (host, record) = (Host::find(&self.dir)?, Record::read(&self.dir)?);
        let (Some(host), Some(record)) = (host, record) else {
            let name = &self.profile.name;
            return Err(Refusal::new(format!("the lab `{name}` is not up"), format!("kiln lab up {name}")).into());
        };
        self.with(host, record)
    }

    fn with(&self, host: Host, record: Record) -> anyhow::Result<Live<'_>> {
        let pki = Pki::load(&self.pki, &self.profile)?;
        Ok(Live { lab: self, host, record, pki })
    }

    /// Takes everything of the lab away, from any state. Returns whether there was anything.
    ///
    /// # Errors
    /// When something resists; doing it again goes on from there.
    pub fn down(&self) -> anyhow::Result<bool> {
        let there = self.dir.exists();
        // Even without a directory there may be a host: somebody may have removed the one and not the other.
        let lock = if there { Some(Lock::take(&self.dir)?) } else { None };
        let running = Host::find(&self.dir)?.is_some();
        Host::remove(&self.dir)?;
        if there {
            fs_err::remove_dir_all(&self.dir)?;
        }
        drop(lock);
        // The directory of all labs goes with the last of them; it is not empty while there is another.
        let _ = self.dir.parent().map(fs_err::remove_dir);
        Ok(there || running)
    }

    /// The lab host's own address on the nodes' network: their router and DNS server.
    ///
    /// # Errors
    /// [`Refusal`] when the network has no IPv4 address left for it.
    pub fn host_address(&self) -> anyhow::Result<Ipv4Addr> {
        let network = &self.profile.network;
        let refuse = |what: &str| Refusal::new(what, "give the profile's network an IPv4 subnet with a `gateway`");
        if let Some(IpAddr::V4(gateway)) = network.gateway {
            return Ok(gateway);
        }
        let (IpAddr::V4(first), Some(IpAddr::V4(last))) = (network.subnet.network(), network.subnet.broadcast()) else {
            return Err(refuse("the lab hands out IPv4 addresses and the profile's network has none").into());
        };
        let taken = |a: Ipv4Addr| self.profile.nodes.iter().any(|n| n.address == a);
        let free = (first.to_bits() + 1..last.to_bits()).rev().map(Ipv4Addr::from_bits).find(|a| !taken(*a));
        free.ok_or_else(|| refuse("the profile's network has no address left for the lab host").into())
    }

    /// The nodes of these names; all of them when none is named.
    ///
    /// # Errors
    /// [`Refusal`] for a name that is not in the profile.
    pub fn nodes(&self, names: &[String]) -> anyhow::Result<Vec<&Node>> {
        if names.is_empty() {
            return Ok(self.profile.nodes.iter().collect());
        }
        names.iter().map(|name| self.node(name)).collect()
    }

    /// The node of that name, short or full.
    ///
    /// # Errors
    /// [`Refusal`] when it is not in the profile.
    pub fn node(&self, name: &str) -> anyhow::Result<&Node> {
        let all: Vec<&str> = self.profile.nodes.iter().map(|n| n.name.as_str()).collect();
        let refusal = || {
            let what = format!("profile `{}` has no node `{name}`", self.profile.name);
            Refusal::new(what, format!("its nodes are {}", all.join(", ")))
        };
        self.profile.node(name).ok_or_else(|| refusal().into())
    }

    /// Where a node's things are.
    pub fn node_dir(&self, node: &Node) -> Utf8PathBuf {
        node_dir(&self.dir, &node.name)
    }

    /// The node's console, from its first start on.
    pub fn console(&self, node: &Node) -> Utf8PathBuf {
        self.node_dir(node).join("console.log")
    }
}

impl Live<'_> {
    /// Powers nodes on, those that are off.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(&self, nodes: &[&Node]) -> anyhow::Result<()> {
        let accelerator = match self.record.driver {
            Driver::Container => None,
            Driver::Vm => Some(kvm::choose(
                &self.host,
                &self.record.image.qcow2,
                &self.lab.dir,
                &self.lab.home.join("kvm-probe.json"),
            )?),
        };
        nodes.iter().try_for_each(|node| {
            self.ensure_node(node)?;
            self.start_one(node, accelerator)
        })
    }

    fn start_one(&self, node: &Node, accelerator: Option<Accelerator>) -> anyhow::Result<()> {
        let (dir, uuid) = (self.lab.node_dir(node), self.uuid(node));
        match accelerator {
            None => self.container(node, &dir, &uuid).start(&self.host),
            Some(accelerator) => {
                let vm = self.vm(node, &dir, &uuid);
                vm.ensure_disks(&self.host)?;
                vm.start(&self.host, accelerator)
            }
        }
    }

    /// Pulls the plug of nodes, those that are on.
    ///
    /// # Errors
    /// When one does not end.
    pub fn kill(&self, nodes: &[&Node]) -> anyhow::Result<()> {
        nodes.iter().try_for_each(|node| {
            let (dir, uuid) = (self.lab.node_dir(node), self.uuid(node));
            match self.record.driver {
                Driver::Container => self.container(node, &dir, &uuid).kill(&self.host),
                Driver::Vm => self.vm(node, &dir, &uuid).kill(&self.host),
            }
        })
    }

    /// Pulls a node's plug and gives it a blank data disk.
    ///
    /// # Errors
    /// When it does not end or its data cannot be removed.
    pub fn wipe(&self, node: &Node) -> anyhow::Result<()> {
        self.kill(&[node])?;
        let dir = self.lab.node_dir(node);
        for (path, is_dir) in [(dir.join("data"), true), (dir.join("data.raw"), false)] {
            if path.exists() {
                if is_dir { fs_err::remove_dir_all(path) } else { fs_err::remove_file(path) }?;
            }
        }
        Ok(())
    }

    /// Whether a node is powered on.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn is_on(&self, node: &Node) -> anyhow::Result<bool> {
        let (dir, uuid) = (self.lab.node_dir(node), self.uuid(node));
        match self.record.driver {
            Driver::Container => self.container(node, &dir, &uuid).is_running(&self.host),
            Driver::Vm => self.vm(node, &dir, &uuid).is_running(&self.host),
        }
    }

    /// Where every node stands, by its own word.
    ///
    /// # Errors
    /// When the nodes cannot be asked; one that does not answer is part of the status.
    pub fn status(&self) -> anyhow::Result<LabStatus> {
        let nodes = &self.lab.profile.nodes;
        let powered = nodes.iter().map(|n| self.is_on(n)).collect::<Result<Vec<_>, _>>()?;
        let answers = query::ask_all(&self.host, &self.pki, &self.lab.profile)?;
        for (node, answer) in nodes.iter().zip(&answers) {
            if let Err(error) = answer {
                log::debug!("{} does not answer: {error:#}", node.fqdn);
            }
        }
        let answers: Vec<_> = answers.into_iter().map(|a| a.map_err(|e| format!("{e:#}"))).collect();
        Ok(status::summarize(nodes, &powered, &answers))
    }

    /// Makes the DNS server serve what the record says, or not run if the record says so.
    ///
    /// # Errors
    /// When it does not start or end.
    pub fn apply_dns(&self) -> anyhow::Result<()> {
        let dns = Dnsmasq::dns(&self.lab.dir);
        if self.record.dns_stopped {
            return dns.stop(&self.host);
        }
        let config = dns::config(&self.lab.profile, &self.record.bends, self.lab.host_address()?);
        dns.ensure(&self.host, &config)
    }

    /// Makes what a node needs before its first start: its directory and its seed, and a container's data directory.
    fn ensure_node(&self, node: &Node) -> anyhow::Result<()> {
        let dir = self.lab.node_dir(node);
        fs_err::create_dir_all(&dir)?;
        if self.record.driver == Driver::Container {
            fs_err::create_dir_all(dir.join("data"))?;
        }
        let seed = dir.join("seed.tar");
        if !seed.exists() {
            copy_secret(&self.pki.seed(&node.name), &seed)?;
        }
        Ok(())
    }

    fn container<'b>(&self, node: &'b Node, dir: &'b Utf8Path, uuid: &'b str) -> Container<'b> {
        Container { node, index: self.index(node), uuid, dir }
    }

    fn vm<'b>(&'b self, node: &'b Node, dir: &'b Utf8Path, uuid: &'b str) -> Vm<'b> {
        Vm { node, index: self.index(node), uuid, dir, image: &self.record.image.qcow2 }
    }

    fn uuid(&self, node: &Node) -> String {
        node.vm_uuid(&self.pki.charter().cluster)
    }

    fn index(&self, node: &Node) -> usize {
        self.lab.profile.nodes.iter().position(|n| n.name == node.name).map_or(0, |i| i + 1)
    }
}

/// Copies a secret to a file that only root may read, by one rename.
fn copy_secret(from: &Utf8Path, to: &Utf8Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let new = to.with_extension("new");
    let bytes = fs_err::read(from)?;
    let mut options = fs_err::OpenOptions::new();
    options.options_mut().mode(0o600);
    let mut file = options.write(true).create(true).truncate(true).open(&new)?;
    file.write_all(&bytes)?;
    Ok(fs_err::rename(new, to)?)
}
