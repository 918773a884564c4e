//! A hypervisor that the lab plays: namespaces of its own, a libvirt of its own, disks that outlive it.
//!
//! It is a [`Host`] in a directory below the lab's. Killing it is losing a whole host: every machine on it ends in that moment. What it has
//! written down stays in its directory, libvirt's own state too, so that it comes back with its machines, and those that libvirt is to
//! start by itself are started, as when a real one boots.

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};

use super::Lab;
use super::host::{self, Host, Setup};
use super::libvirt::{self, Sockets};
use crate::exit::Refusal;
use crate::profile::{self, Cache, HostKind};
use crate::reach::Endpoint;
use crate::tool::{Tool, ToolError};

/// What libvirt keeps over a restart of the host. `/run` is not among it: its being empty is how libvirt knows that the host has booted.
const KEPT: [&str; 4] = ["etc/libvirt", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt"];

/// One hypervisor.
#[derive(Clone, Copy, Debug)]
pub struct Hypervisor<'a> {
    /// Its name in the profile.
    pub name: &'a str,
    /// Its place in the profile, from 1: its number on the underlay.
    pub number: u8,
    kind: &'a HostKind,
    lab: &'a Lab,
}

impl Lab {
    /// The hypervisors that the lab plays or could play: the profile's hosts.
    pub fn hypervisors(&self) -> impl Iterator<Item = Hypervisor<'_>> {
        // No profile has as many hosts as a byte can count; those past it would get no place, and are refused by `bring_up`.
        self.profile.hosts.iter().zip(1..=u8::MAX).map(|(host, number)| Hypervisor {
            name: &host.name,
            number,
            kind: &host.kind,
            lab: self,
        })
    }

    /// The hypervisor of that name.
    ///
    /// # Errors
    /// [`Refusal`] when it is not in the profile.
    pub fn hypervisor(&self, name: &str) -> anyhow::Result<Hypervisor<'_>> {
        self.hypervisors().find(|h| h.name == name).ok_or_else(|| {
            let all: Vec<&str> = self.hypervisors().map(|h| h.name).collect();
            let what = format!("profile `{}` has no host `{name}`", self.profile.name);
            Refusal::new(what, format!("its hosts are {}", all.join(", "))).into()
        })
    }
}

impl Hypervisor<'_> {
    /// Its directory.
    pub fn dir(&self) -> Utf8PathBuf {
        self.lab.dir.join("hosts").join(self.name)
    }

    /// Its namespaces, if it is up.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn find(&self) -> anyhow::Result<Option<Host>> {
        Host::find(&self.dir())
    }

    /// Makes its namespaces, if it is not up: a bridge as the profile names it, and no hardware virtualisation if `hide_kvm`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn ensure(&self, hide_kvm: bool) -> anyhow::Result<Host> {
        let dir = self.dir();
        for made in KEPT.iter().map(|kept| dir.join("disk").join(kept)).chain([self.sockets_dir(), self.pool_dir()]) {
            fs_err::create_dir_all(made)?;
        }
        let bridge = &self.lab.profile.network.bridge;
        let (group, keep) = (self.group(), [dir.as_path()]);
        let setup = Setup { dir: &dir, group: &group, name: self.name, bridge, address: None, hide_kvm, keep: &keep };
        Host::ensure(&setup).with_context(|| format!("bringing the host `{}` up", self.name))
    }

    /// Makes its libvirt run, with a pool of volumes. Machines that are to start with the host do.
    ///
    /// # Errors
    /// When it does not start or the pool cannot be made.
    pub fn ensure_libvirt(&self, host: &Host) -> anyhow::Result<()> {
        let sockets = Sockets::In(self.sockets_dir());
        libvirt::ensure(host, &sockets, &self.dir().join("libvirtd.log"))
            .with_context(|| format!("on the host `{}`", self.name))?;
        let pool = self.settings().pool;
        let has = |arguments: &[&str]| -> Result<bool, ToolError> {
            let names = self.virsh(host)?.args(["pool-list", "--name"]).args(arguments).read()?;
            Ok(names.lines().any(|name| name.trim() == pool))
        };
        if !has(&["--all"])? {
            let target = self.pool_dir();
            self.virsh(host)?.args(["pool-define-as", &pool, "dir", "--target", target.as_str()]).run()?;
        }
        self.virsh(host)?.args(["pool-autostart", &pool]).run()?;
        if !has(&[])? {
            self.virsh(host)?.args(["pool-start", &pool]).run()?;
        }
        Ok(())
    }

    /// Ends it and everything on it, at once. Its disks stay. Does nothing when it is not up.
    ///
    /// # Errors
    /// When something does not end.
    pub fn kill(&self) -> anyhow::Result<()> {
        Host::remove(&self.dir(), &self.group()).with_context(|| format!("killing the host `{}`", self.name))
    }

    /// `virsh` at its libvirt.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn virsh(&self, host: &Host) -> Result<Tool, ToolError> {
        libvirt::virsh(host, &Sockets::In(self.sockets_dir()))
    }

    /// Where a driver finds it, whether it is up or not. Of what kind it is in the profile does not matter: here it is a libvirt.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { kind: HostKind::Libvirt(self.settings()), uri: libvirt::uri(&self.sockets_dir()) }
    }

    /// How kiln uses it: as the profile says, with whatever accelerator works here.
    fn settings(&self) -> profile::Libvirt {
        if let HostKind::Libvirt(settings) = self.kind {
            return profile::Libvirt { accelerator: None, ..settings.clone() };
        }
        profile::Libvirt { pool: "default".into(), accelerator: None, cache: Cache::Writeback }
    }

    /// A file of the host as it is reached from the machine, whether or not the host is up.
    pub fn seen(&self, path: &Utf8Path) -> Utf8PathBuf {
        let kept = path.strip_prefix("/").ok().filter(|path| KEPT.iter().any(|kept| path.starts_with(kept)));
        kept.map_or_else(|| path.to_owned(), |path| self.dir().join("disk").join(path))
    }

    fn sockets_dir(&self) -> Utf8PathBuf {
        self.dir().join("sock")
    }

    /// Seen from the machine and from the host at the same path.
    fn pool_dir(&self) -> Utf8PathBuf {
        self.dir().join("pool")
    }

    /// Below the lab's, so that it goes with it.
    fn group(&self) -> String {
        format!("{}/host-{}", host::group(&self.lab.dir), self.name)
    }
}
