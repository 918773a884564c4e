//! Looking: which machines are there, whose they are, and how one of them stands.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use super::Proxmox;
use super::api::Parameters;
use super::config::VmConfig;
use super::vm::{Listed, Vm, mark};
use crate::exit::Refusal;
use crate::host::{Lack, Machine, Mark};

impl Proxmox {
    /// The path of a machine in the API.
    pub(super) fn vm_path<'a>(node: &'a str, vmid: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
        [&["nodes", node, "qemu", vmid], rest].concat()
    }

    /// Privileges of the token on a path.
    ///
    /// # Errors
    /// When the host cannot be asked.
    pub(super) fn privileges(&self, path: &str) -> Result<BTreeSet<String>> {
        let answer: BTreeMap<String, BTreeMap<String, Value>> =
            self.api.get(&["access", "permissions"], &[("path", path.to_owned())]).map_err(|f| self.api.error(f))?;
        Ok(answer.into_values().flat_map(BTreeMap::into_keys).collect())
    }

    /// Every guest that the token may see, on all nodes.
    ///
    /// # Errors
    /// A refusal when the token cannot see kiln's own machines: none would then look like "there are none".
    pub(super) fn listed(&self) -> Result<Vec<Listed>> {
        let path = format!("/pool/{}", self.pool);
        if !self.privileges(&path)?.contains("VM.Audit") {
            let what =
                format!("the token may not see the machines of the pool `{}`: it lacks VM.Audit on {path}", self.pool);
            let user = self.api.token().user();
            return Err(Refusal::new(what, format!("pveum acl modify {path} --users {user} --roles KilnVM")).into());
        }
        self.api.get(&["cluster", "resources"], &[("type", "vm".into())]).map_err(|f| self.api.error(f))
    }

    /// Every machine that carries a mark of kiln's, on all nodes.
    ///
    /// # Errors
    /// When one of them cannot be read: what is there is then not known.
    pub(super) fn machines(&self) -> Result<Vec<Vm>> {
        let mut machines = Vec::new();
        for listed in self.listed()?.into_iter().filter(|l| l.may_be_ours(&self.pool)) {
            if mark(&self.config(&listed.node, listed.vmid)?).is_some() {
                machines.push(self.look(&listed.node, listed.vmid)?);
            }
        }
        Ok(machines)
    }

    /// The configuration as it is, without changes that wait.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn config(&self, node: &str, vmid: u32) -> Result<VmConfig> {
        self.vm_get(node, vmid, &["config"], &[("current", "1".into())])
    }

    fn vm_get<T: serde::de::DeserializeOwned>(
        &self,
        node: &str,
        vmid: u32,
        rest: &[&str],
        parameters: Parameters<'_>,
    ) -> Result<T> {
        let id = vmid.to_string();
        self.api
            .get(&Self::vm_path(node, &id, rest), parameters)
            .map_err(|f| self.api.error(f))
            .with_context(|| format!("looking at machine {vmid}"))
    }

    /// How a machine stands.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn look(&self, node: &str, vmid: u32) -> Result<Vm> {
        Ok(Vm {
            vmid,
            node: node.to_owned(),
            current: self.vm_get(node, vmid, &["status", "current"], &[])?,
            pending: self.vm_get(node, vmid, &["pending"], &[])?,
            snapshots: self.vm_get(node, vmid, &["snapshot"], &[])?,
            // Last, so that its digest is of the latest state that was seen.
            config: self.config(node, vmid)?,
        })
    }

    /// The machine of a mark.
    ///
    /// # Errors
    /// A refusal when there are several, or when it is on another node than the profile says.
    fn find(&self, wanted: &Mark) -> Result<Option<Vm>> {
        let is_it =
            |vm: &Vm| vm.mark().is_some_and(|mark| (mark.cluster, &mark.node) == (wanted.cluster, &wanted.node));
        let mut found: Vec<Vm> = self.machines()?.into_iter().filter(is_it).collect();
        let node = &wanted.node;
        if found.len() > 1 {
            let ids: Vec<String> = found.iter().map(|vm| format!("{} on `{}`", vm.vmid, vm.node)).collect();
            let what = format!("several machines say that they are node `{node}`: {}", ids.join(", "));
            let remedy = "two nodes of one identity must never run: remove the copy, or empty its description, tags and SMBIOS fields";
            return Err(Refusal::new(what, remedy).into());
        }
        let Some(vm) = found.pop() else { return Ok(None) };
        if vm.node != self.node {
            let what = format!(
                "node `{node}` is machine {} on `{}`, and the profile puts it on `{}`",
                vm.vmid, vm.node, self.node
            );
            let remedy = format!(
                "move it: qm migrate {} {} (on `{}`), or change its host in the profile",
                vm.vmid, self.node, vm.node
            );
            return Err(Refusal::new(what, remedy).into());
        }
        Ok(Some(vm))
    }

    /// The machine as it is once what an earlier run left running on it has ended.
    ///
    /// # Errors
    /// When the host cannot be asked; a refusal when it is not clear which machine it is.
    pub(super) fn peek(&self, machine: &Machine) -> Result<Option<Vm>> {
        // A machine that is just being made has no mark yet, and one that is on its way out still has its own.
        self.settle(None, &["qmcreate", "qmdestroy"])?;
        let Some(found) = self.find(&machine.mark)? else { return Ok(None) };
        self.settle(Some(found.vmid), &[])?;
        self.look(&found.node, found.vmid).map(Some)
    }

    /// [`Proxmox::peek`], and what an earlier run left undone is done. Nothing when it is not there.
    ///
    /// # Errors
    /// A refusal when it is in trouble.
    pub(super) fn begin(&self, machine: &Machine) -> Result<Option<Vm>> {
        let Some(vm) = self.peek(machine)? else { return Ok(None) };
        no_trouble(&vm, &machine.mark)?;
        let note = vm.note().context("a machine in no trouble has its note")?;
        if note.uuid != machine.uuid {
            let what = format!(
                "machine {} of node `{}` has the UUID {}, and not {}",
                vm.vmid, machine.mark.node, note.uuid, machine.uuid
            );
            return Err(Refusal::new(
                what,
                "was it made for another cluster of this name? Remove it by hand if it may go",
            )
            .into());
        }
        self.tidy(vm, machine).map(Some)
    }

    /// [`Proxmox::begin`] for a machine that must be there.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn begin_there(&self, machine: &Machine) -> Result<Vm> {
        let node = &machine.mark.node;
        let found = self.begin(machine)?.filter(|vm| !vm.is_parked());
        found.ok_or_else(|| anyhow!("there is no machine of node `{node}` on `{}`", self.name))
    }

    /// [`Proxmox::begin_there`] for a machine that must be off.
    ///
    /// # Errors
    /// A refusal when it runs.
    pub(super) fn begin_off(&self, machine: &Machine) -> Result<Vm> {
        let vm = self.begin_there(machine)?;
        self.off(&vm, machine)?;
        Ok(vm)
    }

    /// # Errors
    /// A refusal when the machine runs.
    pub(super) fn off(&self, vm: &Vm, machine: &Machine) -> Result<()> {
        if vm.is_running() {
            let what = format!(
                "machine {} of node `{}` runs; this is done to machines that are off",
                vm.vmid, machine.mark.node
            );
            return Err(Refusal::new(what, "power it off first").into());
        }
        Ok(())
    }
}

/// # Errors
/// A refusal with everything that is the matter.
fn no_trouble(vm: &Vm, mark: &Mark) -> Result<()> {
    let trouble = vm.trouble(mark, vm.note().as_ref());
    let mut all = trouble.into_iter();
    let Some(Lack { what, remedy }) = all.next() else { return Ok(()) };
    let what = std::iter::once(what).chain(all.clone().map(|lack| lack.what)).collect::<Vec<_>>().join("\n");
    let remedy = std::iter::once(remedy).chain(all.map(|lack| lack.remedy)).collect::<Vec<_>>().join("\n  hint: ");
    Err(Refusal::new(what, remedy).into())
}
