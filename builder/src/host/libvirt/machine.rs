//! Making machines on a libvirt host: their volumes, and the description that names them.

use std::io::Write as _;

use anyhow::{Context as _, bail};

use super::domain_reader::Found;
use super::domain_xml::{self, Domain, Note};
use super::inventory::Inventory;
use super::virsh::{Words, words};
use super::{Libvirt, volume_name, xml};
use crate::exit::Refusal;
use crate::host::{Image, Machine, Mark, Root, Seed};
use crate::profile::Accelerator;

impl Libvirt {
    /// What the host computes with, asked once.
    fn accelerator(&self) -> anyhow::Result<Accelerator> {
        if let Some(known) = self.accelerator.get() {
            return Ok(*known);
        }
        let kvm = self.virsh.succeeds(&["domcapabilities", "--virttype", "kvm", "--arch", "x86_64"])?;
        let found = if kvm { Accelerator::Kvm } else { Accelerator::Tcg };
        if found == Accelerator::Tcg {
            log::warn!("`{}` offers no KVM; its machines are emulated, which is several times slower", self.name);
        }
        Ok(*self.accelerator.get_or_init(|| found))
    }

    /// Gives a machine the description that belongs to `note`; its size and its card stay as they are in `found`.
    pub(super) fn define(
        &self,
        inventory: &Inventory,
        machine: &Machine,
        found: &Found,
        note: Note,
    ) -> anyhow::Result<()> {
        let [root, data, seed] = inventory.disks(&note).map(|(_, volume)| inventory.path(&volume));
        let domain = Domain {
            name: volume_name::machine(&note.mark),
            uuid: machine.uuid.clone(),
            accelerator: self.accelerator()?,
            memory_mib: found.memory_mib,
            vcpus: found.vcpus,
            cache: self.cache,
            root,
            data,
            seed,
            console: inventory.path(&volume_name::console(&note.mark)),
            bridge: found.bridge.clone().unwrap_or_else(|| machine.bridge.clone()),
            tap: None,
            mtu: found.mtu,
            mac: found.mac.unwrap_or(machine.mac),
            note: Some(note),
        };
        self.virsh.run_with(&["define", "/dev/stdin"], &domain_xml::render(&domain))
    }

    /// What makes a root: an overlay over the image, which must be there whole.
    fn root_volume(&self, inventory: &Inventory, mark: &Mark, root: &Root, image: &Image) -> anyhow::Result<Words> {
        let base = volume_name::image(&image.sha256);
        let whole = inventory.volume(&base).filter(|_| !inventory.has(&volume_name::upload(&base)));
        let whole = whole.with_context(|| format!("the image `{base}` is not on `{}`, or not whole", self.name))?;
        let (name, bytes) = (volume_name::root(mark, root), whole.capacity.to_string());
        let over = ["--format", "qcow2", "--backing-vol", &base, "--backing-vol-format", "qcow2"];
        Ok(words(&[&["vol-create-as", &self.pool, &name, &bytes], &over[..]].concat()))
    }

    pub(super) fn create_root(
        &self,
        inventory: &Inventory,
        mark: &Mark,
        root: &Root,
        image: &Image,
    ) -> anyhow::Result<()> {
        self.virsh.batch(&[self.root_volume(inventory, mark, root, image)?]).map(drop)
    }

    /// Makes a seed volume, readable by root alone from its first byte, or writes over one that is not whole, and reads it back.
    pub(super) fn put_seed(&self, mark: &Mark, seed: &Seed, is_there: bool) -> anyhow::Result<()> {
        let name = volume_name::seed(mark, &seed.sha256);
        let expected = (seed.sha256, seed.bytes.len() as u64);
        if is_there && self.virsh.digest(&self.pool, &name)? == expected {
            return Ok(());
        }
        if !is_there {
            let xml = format!(
                "<volume><name>{}</name><capacity unit='bytes'>{}</capacity><target><format type='raw'/>\
                 <permissions><mode>0600</mode></permissions></target></volume>",
                xml::escape(&name),
                seed.bytes.len()
            );
            self.virsh.run_with(&["vol-create", &self.pool, "/dev/stdin"], &xml)?;
        }
        self.virsh.upload(&self.pool, &name, |pipe| Ok(pipe.write_all(&seed.bytes)?))?;
        if self.virsh.digest(&self.pool, &name)? != expected {
            bail!("the seed of `{}` did not arrive whole on `{}`\n  hint: try again", mark.node, self.name);
        }
        Ok(())
    }

    /// What makes a blank data volume, which takes no room yet.
    pub(super) fn data_volume(&self, machine: &Machine) -> Words {
        let (name, size) = (volume_name::data(&machine.mark), format!("{}G", machine.data_gib));
        words(&["vol-create-as", &self.pool, &name, &size, "--format", "raw", "--allocation", "0"])
    }

    /// Removes volumes that are there, unless somebody else's machine has one of them open or described: then none.
    pub(super) fn remove(&self, inventory: &Inventory, mark: &Mark, volumes: &[String]) -> anyhow::Result<()> {
        let there: Vec<&String> = volumes.iter().filter(|v| inventory.has(v)).collect();
        for volume in &there {
            self.refuse_used(inventory, mark, volume)?;
        }
        let commands: Vec<_> = there.iter().map(|v| words(&["vol-delete", "--pool", &self.pool, v])).collect();
        self.virsh.batch(&commands).map(drop)
    }

    fn refuse_used(&self, inventory: &Inventory, mark: &Mark, volume: &str) -> anyhow::Result<()> {
        if let Some(user) = inventory.user_of(volume, Some(mark)) {
            let what = format!("the volume `{volume}` on `{}` is a disk of the machine `{user}`", self.name);
            let remedy =
                format!("take it from there if nobody needs it: virsh detach-disk {user} {}", inventory.path(volume));
            return Err(Refusal::new(what, remedy).into());
        }
        Ok(())
    }

    pub(super) fn remove_strays(&self, inventory: &Inventory, mark: &Mark, note: Option<&Note>) -> anyhow::Result<()> {
        self.remove(inventory, mark, &inventory.strays(mark, note))
    }

    pub(super) fn make(&self, machine: &Machine, root: Root, image: &Image, seed: &Seed) -> anyhow::Result<()> {
        let (inventory, standing) = self.look_for(machine)?;
        let mark = &machine.mark;
        let (found, note) = match standing.and_then(|s| s.found.note.clone().map(|note| (s, note))) {
            Some((standing, note)) => {
                let [(_, its_root), (_, its_data), (_, its_seed)] = inventory.disks(&note);
                if !inventory.has(&its_data) {
                    let what = self.doing(&format!("the data volume `{its_data}` is missing:"), machine);
                    let remedy = format!(
                        "bring it back, or say that the node's data are lost: kiln reimage {} {} --wipe-data",
                        mark.env, mark.node
                    );
                    return Err(Refusal::new(what, remedy).into());
                }
                let (root_is_there, seed_is_there) = (inventory.has(&its_root), inventory.has(&its_seed));
                if root_is_there && seed_is_there {
                    return self.remove_strays(&inventory, mark, Some(&note));
                }
                self.refuse_running(&standing)?;
                let note = Note {
                    root: if root_is_there { note.root } else { root },
                    seed: if seed_is_there { note.seed } else { seed.sha256 },
                    ..note
                };
                (standing.found, note)
            }
            None => {
                let note = Note { mark: mark.clone(), root, previous: None, seed: seed.sha256 };
                self.refuse_used(&inventory, mark, &volume_name::data(mark))?;
                (wanted(machine), note)
            }
        };
        let is_there =
            |volume: &str| found.disks.iter().any(|(_, file)| *file == inventory.path(volume)) && inventory.has(volume);
        let [(_, its_root), (_, its_data), (_, its_seed)] = inventory.disks(&note);
        // Without a description that names them, a root and a seed may have been cut off half-way.
        let fresh: Vec<String> = [&its_root, &its_seed].into_iter().filter(|v| !is_there(v)).cloned().collect();
        self.remove(&inventory, mark, &fresh)?;
        self.remove_strays(&inventory, mark, Some(&note))?;
        let mut volumes = Vec::new();
        if !is_there(&its_root) {
            volumes.push(self.root_volume(&inventory, mark, &note.root, image)?);
        }
        if !inventory.has(&its_data) {
            volumes.push(self.data_volume(machine));
        }
        let console = volume_name::console(mark);
        if !inventory.has(&console) {
            // A volume of its own from the start, so that libvirt knows it and hands it out.
            volumes.push(words(&["vol-create-as", &self.pool, &console, "0", "--format", "raw"]));
        }
        self.virsh.batch(&volumes)?;
        if !is_there(&its_seed) {
            self.put_seed(mark, seed, false)?;
        }
        self.define(&inventory, machine, &found, note)
    }
}

/// A machine as it is to be found once it is there.
pub(super) fn wanted(machine: &Machine) -> Found {
    Found {
        name: volume_name::machine(&machine.mark),
        uuid: machine.uuid.clone(),
        note: None,
        memory_mib: machine.memory_mib,
        vcpus: machine.vcpus,
        mac: Some(machine.mac),
        bridge: Some(machine.bridge.clone()),
        mtu: machine.mtu,
        disks: Vec::new(),
    }
}
