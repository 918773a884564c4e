//! A cluster on one machine, from the profile alone: network, DHCP, DNS and nodes in namespaces of their own.
//!
//! Nothing of the machine is touched. All that lasts is the lab's directory; all that runs hangs off one process (see [`host`]),
//! so that [`Lab::down`] leaves nothing behind, whatever state a crash left the lab in.
//!
//! With `--hosts`, the nodes are on [hypervisors](hypervisor) that the lab plays, and `kiln deploy --lab` puts them there.
//!
//! Pure: [`dns`], [`dhcp`], [`status`], [`container`]'s command line. Edges: all others.
#![expect(clippy::disallowed_methods, reason = "an edge: copies seeds into the lab")]

pub mod admission;
pub mod container;
pub mod data_disk;
pub mod dhcp;
pub mod dns;
pub mod dnsmasq;
pub mod guest;
pub mod host;
pub mod hosted;
pub mod hosts;
pub mod hypervisor;
pub mod kvm;
pub mod libvirt;
pub mod machine;
pub mod process;
pub mod record;
pub mod reimage;
pub mod scale;
pub mod status;
pub mod up;
pub mod vm;
pub mod vxlan;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use camino::{Utf8Path, Utf8PathBuf};

use crate::agents;
use crate::disk::cloud::CloudDisk;
use crate::exit::Refusal;
use crate::pki::Pki;
use crate::profile::{Accelerator, Node, Profile};
use crate::reach::Reach;
use crate::store::{RootKind, Store};
use container::Container;
use data_disk::DataDisk;
use dnsmasq::Dnsmasq;
use host::{Host, TREE, group, node_dir, tree_of};
use hosted::Hosted;
use machine::Machine;
use record::{Driver, LabImage, Lock, Record};
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
    /// Directory of the keys that images are signed with.
    pub signing: Utf8PathBuf,
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
        Host::remove(&self.dir, &group(&self.dir))?;
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

    /// The machines of these names; all nodes when none is named.
    ///
    /// # Errors
    /// [`Refusal`] for a name that is not in the profile.
    pub fn machines(&self, names: &[String]) -> anyhow::Result<Vec<Machine<'_>>> {
        if names.is_empty() {
            return Ok(Machine::all(&self.profile).collect());
        }
        names.iter().map(|name| self.machine(name)).collect()
    }

    /// The machine of that name: a node, or a clone that was made of one.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn machine(&self, name: &str) -> anyhow::Result<Machine<'_>> {
        let Some(machine) = Machine::named(&self.profile, name) else { return Err(self.no_node(name)) };
        if machine.clone && !self.machine_dir(&machine).exists() {
            let what = format!("no clone was made of `{}`", machine.node.name);
            let hint = format!("kiln lab clone {} {}", self.profile.name, machine.node.name);
            return Err(Refusal::new(what, hint).into());
        }
        Ok(machine)
    }

    /// The node of that name, short or full.
    ///
    /// # Errors
    /// [`Refusal`] when it is not in the profile.
    pub fn node(&self, name: &str) -> anyhow::Result<&Node> {
        self.profile.node(name).ok_or_else(|| self.no_node(name))
    }

    fn no_node(&self, name: &str) -> anyhow::Error {
        let all: Vec<&str> = self.profile.nodes.iter().map(|n| n.name.as_str()).collect();
        let what = format!("profile `{}` has no node `{name}`", self.profile.name);
        Refusal::new(what, format!("its nodes are {}", all.join(", "))).into()
    }

    /// Where a machine's things are.
    pub fn machine_dir(&self, machine: &Machine<'_>) -> Utf8PathBuf {
        node_dir(&self.dir, &machine.name())
    }

    /// The machine's console, from its first start on.
    ///
    /// # Errors
    /// [`Refusal`] when it is on a hypervisor that is down, or that keeps none.
    pub fn console(&self, machine: &Machine<'_>) -> anyhow::Result<Utf8PathBuf> {
        match Record::read(&self.dir)? {
            Some(Record { driver: Driver::Hosts, .. }) => self.live()?.with_parts(*machine, |run| match run {
                Run::Hosted(hosted) => hosted.console(),
                Run::Container(_) | Run::Vm(_) => Ok(self.machine_dir(machine).join("console.log")),
            })?,
            Some(_) | None => Ok(self.machine_dir(machine).join("console.log")),
        }
    }
}

impl Live<'_> {
    /// The lab it is.
    pub fn lab(&self) -> &Lab {
        self.lab
    }

    /// Powers machines on, those that are off.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(&self, machines: &[Machine<'_>]) -> anyhow::Result<()> {
        machines.iter().try_for_each(|machine| {
            self.with_parts(*machine, |run| match run {
                Run::Container(container) => {
                    self.ensure_files(machine)?;
                    fs_err::create_dir_all(self.data_disk(machine)?.path())?;
                    self.ensure_tree(machine)?;
                    container.start(&self.host)
                }
                Run::Vm(vm) => {
                    self.ensure_files(machine)?;
                    vm.ensure_disks(&self.host)?;
                    vm.start(&self.host, self.accelerator()?)
                }
                Run::Hosted(hosted) => hosted.start(),
            })?
        })
    }

    fn accelerator(&self) -> anyhow::Result<Accelerator> {
        let memory = self.lab.home.join("kvm-probe.json");
        kvm::choose(&self.host, &self.record.image.qcow2, &self.lab.dir, &memory)
    }

    /// Pulls the plug of machines, those that are on.
    ///
    /// # Errors
    /// When one does not end.
    pub fn kill(&self, machines: &[Machine<'_>]) -> anyhow::Result<()> {
        machines.iter().try_for_each(|machine| {
            self.with_parts(*machine, |run| match run {
                Run::Container(container) => container.kill(&self.host),
                Run::Vm(vm) => vm.kill(&self.host),
                Run::Hosted(hosted) => hosted.kill(),
            })?
        })
    }

    /// Whether a machine is powered on.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn is_on(&self, machine: Machine<'_>) -> anyhow::Result<bool> {
        self.with_parts(machine, |run| match run {
            Run::Container(container) => container.is_running(&self.host),
            Run::Vm(vm) => vm.is_running(&self.host),
            Run::Hosted(hosted) => hosted.is_running(),
        })?
    }

    /// How it is reached: agents and etcd through the lab host's network, and the hypervisors of a lab that plays them by their libvirts.
    /// One that is down is there too: that it does not answer is for who asks it to see.
    pub fn reach(&self) -> Reach {
        let hosts = match self.record.driver {
            Driver::Hosts => self.lab.hypervisors().map(|h| (h.name.to_owned(), h.endpoint())).collect(),
            Driver::Container | Driver::Vm => BTreeMap::new(),
        };
        Reach { network: Some(self.host.network()), hosts }
    }

    /// Where every node stands, by its own word.
    ///
    /// # Errors
    /// When the nodes cannot be asked; one that does not answer is part of the status.
    pub fn status(&self) -> anyhow::Result<LabStatus> {
        let nodes = &self.lab.profile.nodes;
        let powered = Machine::all(&self.lab.profile).map(|m| self.is_on(m)).collect::<Result<Vec<_>, _>>()?;
        let answers = agents::ask_all(&self.reach(), &self.pki, &self.lab.profile.etcd.settings, nodes)?;
        for (node, answer) in nodes.iter().zip(&answers) {
            if let Err(error) = answer {
                log::debug!("{} does not answer: {error:#}", node.fqdn);
            }
        }
        let answers: Vec<_> = answers.into_iter().map(|a| a.map_err(|e| format!("{e:#}"))).collect();
        let built = Store::at(&self.lab.store).keeps(RootKind::Build, &self.lab.profile.name)?;
        Ok(LabStatus { hosts: self.hosts()?, ..status::summarize(nodes, &powered, &answers, built) })
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

    /// Makes what a machine of the lab's own needs before its first start: its directory and its seed.
    fn ensure_files(&self, machine: &Machine<'_>) -> anyhow::Result<()> {
        let dir = self.lab.machine_dir(machine);
        fs_err::create_dir_all(&dir)?;
        let seed = dir.join("seed.tar");
        if !seed.exists() {
            copy_secret(&self.pki.seed(&machine.node.name), &seed)?;
        }
        Ok(())
    }

    /// The machine gets its seed anew at its next start.
    fn drop_seed(&self, machine: &Machine<'_>) -> anyhow::Result<()> {
        match fs_err::remove_file(self.lab.machine_dir(machine).join("seed.tar")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes the tree of a machine's image visible on the lab host. The lab's own image is mounted since `up`.
    fn ensure_tree(&self, machine: &Machine<'_>) -> anyhow::Result<()> {
        let image = self.record.image_of(&machine.node.name);
        self.host.mount_tree(&self.tree(image), &image.raw, CloudDisk::find(image.raw.as_std_path())?.root.extent.start)
    }

    fn tree(&self, image: &LabImage) -> String {
        if image.key == self.record.image.key { TREE.to_owned() } else { tree_of(&image.key) }
    }

    /// The machine's data disk.
    ///
    /// # Errors
    /// [`Refusal`] where the machine's disks are on a hypervisor.
    fn data_disk(&self, machine: &Machine<'_>) -> anyhow::Result<DataDisk> {
        DataDisk::of(self.record.driver, &self.lab.machine_dir(machine)).ok_or_else(|| {
            let (profile, name) = (&self.lab.profile.name, machine.name());
            let what = format!("the disks of `{name}` are on its host, and not the lab's to change");
            Refusal::new(what, format!("kiln reimage {profile} {name} --lab")).into()
        })
    }

    /// Hands a machine, as its driver runs it, to `act`.
    ///
    /// # Errors
    /// When the machine's host is not among those of the profile, which a checked profile does not allow.
    fn with_parts<T>(&self, machine: Machine<'_>, act: impl FnOnce(Run<'_>) -> T) -> anyhow::Result<T> {
        let (dir, uuid) = (self.lab.machine_dir(&machine), machine.uuid(&self.pki.charter().cluster));
        let image = self.record.image_of(&machine.node.name);
        Ok(match self.record.driver {
            Driver::Container => {
                act(Run::Container(Container { machine, uuid: &uuid, dir: &dir, tree: &self.tree(image) }))
            }
            Driver::Vm => act(Run::Vm(Vm { machine, uuid: &uuid, dir: &dir, image: &image.qcow2 })),
            Driver::Hosts => {
                let hypervisor = self.lab.hypervisor(&machine.node.host)?;
                act(Run::Hosted(Hosted { machine, uuid: &uuid, hypervisor, profile: &self.lab.profile.name }))
            }
        })
    }
}

/// A machine as its driver runs it.
enum Run<'a> {
    Container(Container<'a>),
    Vm(Vm<'a>),
    Hosted(Hosted<'a>),
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
