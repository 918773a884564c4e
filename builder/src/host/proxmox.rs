//! Proxmox VE by its REST API, with an API token of few rights; nothing is done by ssh, and nothing of it needs root.
//!
//! A node is a virtual machine with three disks: root, data and seed. The host chooses the names of volumes, so a note in the machine's
//! description says what each of them holds ([`note`]), written before and after each change; whatever cut a change off, the note and the
//! configuration together say where it stands. A machine is never deleted to be made again: that would take its data volume along. Each change
//! of a configuration gives the digest of the state that was looked at, so it never meets another one.
//!
//! `token`, `trust` and `api` speak to the host, `task` waits, `look` finds machines, `image`, `disk` and `life` act, `preflight` tells what is
//! missing. Pure: `config`, `note`, `vm`, `rights`, `fault`.

mod api;
mod config;
mod disk;
mod fault;
mod image;
mod life;
mod look;
mod note;
mod preflight;
mod rights;
mod task;
mod token;
mod trust;
mod upload;
mod vm;

use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::{Id128, Sha256Digest};

use self::api::Api;
pub use self::api::Pace;
use self::token::Token;
use crate::exit::Refusal;
use crate::host::{Collected, Host, Image, Lack, Machine, Need, Root, Seed, Seen, Transfer, Watch};
use crate::profile::ProxmoxSettings;

/// A node of a Proxmox VE cluster, in the role of a host.
#[derive(Debug)]
pub struct Proxmox {
    name: String,
    api: Api,
    node: String,
    image_storage: String,
    disk_storage: String,
    pool: String,
    first_vmid: Option<u32>,
}

impl Proxmox {
    /// The driver of the host `name` at `endpoint`. Asks the host nothing yet.
    ///
    /// # Errors
    /// When the token or the authority cannot be read; a refusal when others may read the token.
    pub fn open(name: &str, endpoint: &str, settings: &ProxmoxSettings, pace: Pace) -> Result<Self> {
        let token = Token::read(&settings.token_file)?;
        let tls = trust::client_config(&settings.trust)
            .with_context(|| format!("reading whose certificate `{name}` is known by"))?;
        Ok(Self {
            name: name.to_owned(),
            api: Api::new(endpoint, token, tls, pace)?,
            node: settings.node.clone(),
            image_storage: settings.image_storage.clone(),
            disk_storage: settings.disk_storage.clone(),
            pool: settings.pool.clone(),
            first_vmid: settings.first_vmid,
        })
    }
}

impl Host for Proxmox {
    fn name(&self) -> &str {
        &self.name
    }

    fn preflight(&self, need: &Need) -> Result<Vec<Lack>> {
        self.lacks(need)
    }

    fn survey(&self, cluster: &Id128) -> Result<Vec<Seen>> {
        let machines = self.machines()?;
        let ours = machines.into_iter().filter(|vm| vm.node == self.node && !vm.is_parked());
        let mut seen: Vec<Seen> =
            ours.filter_map(|vm| vm.mark().filter(|mark| mark.cluster == *cluster).map(|mark| vm.seen(mark))).collect();
        seen.sort_by(|a, b| (&a.mark, &a.handle).cmp(&(&b.mark, &b.handle)));
        Ok(seen)
    }

    fn ensure_image(&self, image: &Image, watch: &dyn Watch) -> Result<Transfer> {
        self.have_image(image, watch)
    }

    fn ensure_machine(&self, machine: &Machine, root: Root, image: &Image, seed: &Seed) -> Result<()> {
        let vm = match self.begin(machine)? {
            Some(vm) => vm,
            None => self.create(machine)?,
        };
        self.off(&vm, machine)?;
        let vm = self.unpark(vm, machine)?;
        let vm = self.set_hardware(vm, machine)?;
        let vm = self.have_data(vm, machine)?;
        let vm = self.have_root(vm, machine, root, image)?;
        self.have_seed(vm, machine, seed)?;
        Ok(())
    }

    fn redefine(&self, machine: &Machine) -> Result<()> {
        let vm = self.begin_off(machine)?;
        self.set_hardware(vm, machine).map(drop)
    }

    fn replace_root(&self, machine: &Machine, root: Root, image: &Image) -> Result<()> {
        let vm = self.begin_off(machine)?;
        self.have_root(vm, machine, root, image).map(drop)
    }

    fn restore_root(&self, machine: &Machine) -> Result<()> {
        self.bring_root_back(machine)
    }

    fn drop_previous_root(&self, machine: &Machine) -> Result<()> {
        let vm = self.begin_there(machine)?;
        self.forget_previous(vm, machine)
    }

    fn replace_seed(&self, machine: &Machine, seed: &Seed) -> Result<()> {
        let vm = self.begin_off(machine)?;
        self.have_seed(vm, machine, seed).map(drop)
    }

    fn wipe_data(&self, machine: &Machine) -> Result<()> {
        self.blank_data(machine)
    }

    fn power_on(&self, machine: &Machine) -> Result<()> {
        self.start(machine)
    }

    fn power_off(&self, machine: &Machine, patience: Duration) -> Result<()> {
        self.stop(machine, patience)
    }

    fn destroy(&self, machine: &Machine, with_data: bool) -> Result<()> {
        self.remove(machine, with_data)
    }

    fn collect(&self, keep: &[Sha256Digest]) -> Result<Collected> {
        self.collect_images(keep)
    }

    fn console(&self, machine: &Machine) -> Result<String> {
        let vm = self.begin_there(machine)?;
        let what = format!("Proxmox VE keeps no log of the console of `{}`", machine.mark.node);
        Err(Refusal::new(what, format!("look at it as it speaks: qm terminal {} on `{}`", vm.vmid, vm.node)).into())
    }
}
