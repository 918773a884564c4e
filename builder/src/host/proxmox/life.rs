//! A machine's life: made, changed, powered on and off, removed.
#![expect(clippy::disallowed_methods, reason = "an edge: waits until a machine is off")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Proxmox;
use super::config::{DATA, ROOT, SEED};
use super::note::{Note, disks, smbios_serial};
use super::task::Failed;
use super::vm::{TAG, Vm};
use crate::exit::{Refusal, TryAgain};
use crate::host::{Machine, Mark};

/// VMIDs that are tried for one machine. Others may take one between our look and our call; that many do not.
const TRIES: usize = 16;
/// Looks for a machine to be off after its plug was pulled.
const LOOKS_FOR_OFF: usize = 60;

impl Proxmox {
    /// Makes a machine without disks, marked from its first moment on; they come one by one, each of them announced.
    pub(super) fn create(&self, machine: &Machine) -> Result<Vm> {
        let node = &machine.mark.node;
        let what = format!("making the machine of `{node}`");
        let mut taken: BTreeSet<u32> = self.listed()?.into_iter().map(|l| l.vmid).collect();
        for _ in 0..TRIES {
            let vmid = self.free_vmid(&mut taken)?;
            let answer = match self.api.post(&["nodes", &self.node, "qemu"], &self.created(machine, vmid)) {
                Ok(answer) => answer,
                // Somebody was faster.
                Err(fault) if fault.says("already exists") => {
                    log::info!("{what}: VMID {vmid} was taken in between");
                    taken.insert(vmid);
                    continue;
                }
                Err(fault) => return Err(self.api.error(fault)).context(what),
            };
            self.finish(&answer, &what)?;
            return self.look(&self.node, vmid);
        }
        Err(TryAgain(format!("{what}: {TRIES} VMIDs were taken while kiln looked at them")).into())
    }

    /// The first VMID that is free, from the profile's first one on or where the cluster says.
    fn free_vmid(&self, taken: &mut BTreeSet<u32>) -> Result<u32> {
        let Some(first) = self.first_vmid else {
            let next: Value = self.api.get(&["cluster", "nextid"], &[]).map_err(|f| self.api.error(f))?;
            let next = next.as_str().map_or_else(|| next.as_u64(), |text| text.parse().ok());
            return next.and_then(|n| u32::try_from(n).ok()).context("the host names no next VMID");
        };
        for vmid in first..=first.saturating_add(10_000) {
            if taken.contains(&vmid) {
                continue;
            }
            match self.api.get::<Value>(&["cluster", "nextid"], &[("vmid", vmid.to_string())]) {
                Ok(_) => return Ok(vmid),
                Err(fault) if fault.says("already exists") => {
                    log::warn!(
                        "VMID {vmid} is taken by a guest that the token may not see; was a machine taken out of the pool `{}`?",
                        self.pool
                    );
                    taken.insert(vmid);
                }
                Err(fault) => return Err(self.api.error(fault)),
            }
        }
        Err(Refusal::new(
            format!("no VMID from {first} on is free"),
            "give the host another `first_vmid` in the profile",
        )
        .into())
    }

    /// What a machine is made with. Nothing of it may be set by root alone.
    fn created(&self, machine: &Machine, vmid: u32) -> Vec<(&'static str, String)> {
        let note = Note::new(machine.mark.clone(), machine.uuid.clone());
        let mut values = vec![
            ("vmid", vmid.to_string()),
            ("name", machine.mark.node.clone()),
            ("pool", self.pool.clone()),
            ("tags", tags(&machine.mark)),
            ("description", note.description("")),
            ("smbios1", format!("uuid={},serial={},base64=1", machine.uuid, smbios_serial(&machine.mark))),
        ];
        let fixed = [
            ("ostype", "l26"),
            ("machine", "q35"),
            ("bios", "seabios"),
            ("agent", "enabled=1"),
            ("cpu", "x86-64-v2-AES"),
            ("sockets", "1"),
            // etcd's memory is not to be taken away when the host is short of it.
            ("balloon", "0"),
            ("onboot", "0"),
            ("serial0", "socket"),
            ("rng0", "source=/dev/urandom"),
            ("scsihw", "virtio-scsi-single"),
        ];
        values.extend(fixed.map(|(name, value)| (name, value.to_owned())));
        values.extend(hardware(machine));
        values
    }

    /// Takes a machine that held the data of a destroyed node back into service.
    pub(super) fn unpark(&self, vm: Vm, machine: &Machine) -> Result<Vm> {
        let note = self.note(&vm)?;
        if !note.parked {
            return Ok(vm);
        }
        log::info!("`{}` gets the data volume back that was kept when it was destroyed", machine.mark.node);
        self.write_note(&vm, &Note { parked: false, ..note }, &[])
    }

    /// Brings memory, processors, card and tags to what they should be.
    pub(super) fn set_hardware(&self, vm: Vm, machine: &Machine) -> Result<Vm> {
        let card = (Some(machine.mac), Some(machine.bridge.clone()), machine.mtu);
        let is_so = vm.config.memory_mib() == machine.memory_mib
            && vm.config.vcpus() == machine.vcpus
            && vm.config.card() == card
            && vm
                .config
                .get("tags")
                .is_some_and(|have| tags(&machine.mark).split(';').all(|t| have.split(';').any(|h| h == t)));
        if is_so {
            return Ok(vm);
        }
        let mut values = hardware(machine).to_vec();
        values.extend([("sockets", "1".to_owned()), ("tags", tags(&machine.mark))]);
        let vm = self.set(&vm, &values)?;
        if vm.config.memory_mib() != machine.memory_mib
            || vm.config.vcpus() != machine.vcpus
            || vm.config.card() != card
        {
            bail!("machine {} of `{}` did not take its new memory, processors or card", vm.vmid, machine.mark.node);
        }
        Ok(vm)
    }

    /// Powers it on.
    pub(super) fn start(&self, machine: &Machine) -> Result<()> {
        let mut vm = self.begin_there(machine)?;
        if !vm.config.is_set("onboot") {
            vm = self.set(&vm, &[("onboot", "1".into())])?;
        }
        if vm.is_running() {
            return Ok(());
        }
        let what = format!("starting `{}`", machine.mark.node);
        let done = self.power(&vm, "start", &[], &what);
        // Whoever else started it meant the same.
        if done.is_err() && self.look(&vm.node, vm.vmid)?.is_running() { Ok(()) } else { done }
    }

    fn power(&self, vm: &Vm, verb: &str, parameters: &[(&str, String)], what: &str) -> Result<()> {
        let id = vm.vmid.to_string();
        let answer = self
            .api
            .post(&Self::vm_path(&vm.node, &id, &["status", verb]), parameters)
            .map_err(|f| self.api.error(f))
            .with_context(|| what.to_owned())?;
        self.finish(&answer, what)
    }

    /// Shuts it down, or pulls its plug.
    pub(super) fn stop(&self, machine: &Machine, patience: Duration) -> Result<()> {
        let vm = self.begin_there(machine)?;
        if !vm.is_running() {
            return Ok(());
        }
        let node = &machine.mark.node;
        let timeout = [("timeout", patience.as_secs().max(1).to_string())];
        if let Err(error) = self.power(&vm, "shutdown", &timeout, &format!("shutting `{node}` down")) {
            if !self.look(&vm.node, vm.vmid)?.is_running() {
                return Ok(());
            }
            // That it could not be asked is no reason to pull its plug.
            if error.downcast_ref::<Failed>().is_none() {
                return Err(error);
            }
            log::warn!("{error:#}\npulling the plug of `{node}`{}", self.why_not_shut_down(&vm));
            // A shutdown that somebody else asked for would hold the machine's lock.
            self.power(&vm, "stop", &[("overrule-shutdown", "1".into())], &format!("pulling the plug of `{node}`"))?;
        }
        for _ in 0..LOOKS_FOR_OFF {
            if !self.look(&vm.node, vm.vmid)?.is_running() {
                return Ok(());
            }
            std::thread::sleep(self.api.pace.look);
        }
        bail!("`{node}` was told to stop, and machine {} still runs", vm.vmid)
    }

    /// Proxmox asks a machine to shut down through its guest agent: whether that answers is the usual reason.
    fn why_not_shut_down(&self, vm: &Vm) -> &'static str {
        let id = vm.vmid.to_string();
        match self.api.post(&Self::vm_path(&vm.node, &id, &["agent", "ping"]), &[]) {
            Ok(_) => "; its guest agent answers, so something in it takes longer than it was given",
            Err(fault) if fault.says("guest agent") => {
                "; its guest agent does not answer, so it may not have been asked at all"
            }
            Err(_) => "",
        }
    }

    /// Removes it, with its data or but for them.
    pub(super) fn remove(&self, machine: &Machine, with_data: bool) -> Result<()> {
        let Some(vm) = self.begin(machine)? else { return Ok(()) };
        self.off(&vm, machine)?;
        let node = &machine.mark.node;
        let note = self.note(&vm)?;
        let has_data = vm.config.volume(DATA).is_some() || disks(&note, &vm.config).loose_data.is_some();
        if !with_data && has_data {
            return self.park(vm, machine);
        }
        // All volumes of a machine go with it.
        let unknown: Vec<&str> = vm
            .config
            .unused()
            .into_iter()
            .filter(|(_, v)| !note.volumes.contains_key(*v))
            .map(|(key, _)| key)
            .collect();
        let foreign = [vm.config.foreign(), unknown].concat();
        if !foreign.is_empty() {
            let what =
                format!("machine {} of `{node}` has volumes that kiln did not make: {}", vm.vmid, foreign.join(", "));
            let remedy = format!(
                "they would be removed with it; move them away or remove them first (qm disk unlink {} --idlist ...)",
                vm.vmid
            );
            return Err(Refusal::new(what, remedy).into());
        }
        let id = vm.vmid.to_string();
        let parameters = [("purge", "1".to_owned()), ("destroy-unreferenced-disks", "0".to_owned())];
        let what = format!("removing the machine of `{node}`");
        let answer = self
            .api
            .delete(&Self::vm_path(&vm.node, &id, &[]), &parameters)
            .map_err(|f| self.api.error(f))
            .with_context(|| what.clone())?;
        self.finish(&answer, &what)
    }

    /// Removes all but the data. A volume belongs to a machine, so the machine stays to hold it: off, and not counted among the cluster's.
    fn park(&self, vm: Vm, machine: &Machine) -> Result<()> {
        let note = Note { parked: true, ..self.note(&vm)? };
        let vm = if vm.note().as_ref() == Some(&note) && !vm.config.is_set("onboot") {
            vm
        } else {
            self.write_note(&vm, &note, &[("onboot", "0".into())])?
        };
        // One after the other, from the slots into the unused ones; `tidy` removes those, by name.
        let filled: Vec<&str> = [ROOT, SEED].into_iter().filter(|slot| vm.config.volume(slot).is_some()).collect();
        let vm = if filled.is_empty() { vm } else { self.set(&vm, &[("delete", filled.join(","))])? };
        self.tidy(vm, machine).map(drop)
    }
}

/// The tags of a machine, as Proxmox orders them.
fn tags(mark: &Mark) -> String {
    format!("{TAG};{}", mark.env)
}

/// What [`crate::host::Host::redefine`] is about.
fn hardware(machine: &Machine) -> [(&'static str, String); 3] {
    let mtu = machine.mtu.map(|mtu| format!(",mtu={mtu}")).unwrap_or_default();
    let mac = machine.mac.to_string().to_uppercase();
    [
        ("memory", machine.memory_mib.to_string()),
        ("cores", machine.vcpus.to_string()),
        ("net0", format!("virtio={mac},bridge={}{mtu}", machine.bridge)),
    ]
}
