//! Changing disks: roots, seeds and data volumes, each in the steps of [`super::note`].

use anyhow::{Context as _, Result, bail};

use super::Proxmox;
use super::config::{DATA, ROOT, SEED};
use super::note::{Note, Step, disks, settled};
use super::vm::Vm;
use crate::exit::Refusal;
use crate::host::{Image, Machine, Root, Seed};

/// How a root is attached. The images are small and made again at will, so no backup of them is worth its space.
const ROOT_OPTIONS: &str = "serial=kiln-root,discard=on,iothread=1,backup=0";
/// How data are attached.
const DATA_OPTIONS: &str = "serial=kiln-data,discard=on,iothread=1";
/// How a seed is attached: nobody writes to it, and a backup would spread a key.
const SEED_OPTIONS: &str = "serial=kiln-seed,ro=1,backup=0";
/// What makes the machine boot from its root.
const BOOT: &str = "order=virtio0";

impl Proxmox {
    /// Reads the configuration again. What else was seen of the machine is as old as the first look.
    fn again(&self, vm: &Vm) -> Result<Vm> {
        Ok(Vm { config: self.config(&vm.node, vm.vmid)?, ..vm.clone() })
    }

    /// Changes what needs no volume, within the call.
    ///
    /// # Errors
    /// When it is refused, or the configuration is not the one that was looked at any more.
    pub(super) fn set(&self, vm: &Vm, values: &[(&str, String)]) -> Result<Vm> {
        let id = vm.vmid.to_string();
        let digest = vm.config.digest().context("the host tells no digest of the configuration")?;
        let values = [values, &[("digest", digest.to_owned())]].concat();
        self.api
            .put(&Self::vm_path(&vm.node, &id, &["config"]), &values)
            .map_err(|f| self.api.error(f))
            .with_context(|| format!("changing machine {id}"))?;
        self.again(vm)
    }

    /// Changes volumes, in a task.
    fn change(&self, vm: &Vm, values: &[(&str, String)], what: &str) -> Result<Vm> {
        let id = vm.vmid.to_string();
        let digest = vm.config.digest().context("the host tells no digest of the configuration")?;
        let values = [values, &[("digest", digest.to_owned())]].concat();
        let answer = self
            .api
            .post(&Self::vm_path(&vm.node, &id, &["config"]), &values)
            .map_err(|f| self.api.error(f))
            .with_context(|| what.to_owned())?;
        self.finish(&answer, what)?;
        self.again(vm)
    }

    /// Puts something into a slot, alone: of a change with several keys, part of them could stay when the volume cannot be had.
    fn fill(&self, vm: &Vm, slot: &str, value: String, what: &str) -> Result<Vm> {
        let before = vm.config.volume(slot).map(str::to_owned);
        let after = self.change(vm, &[(slot, value)], what)?;
        if after.config.volume(slot).map(str::to_owned) == before {
            bail!("{what}: the host says it is done, and {slot} of machine {} is what it was", vm.vmid);
        }
        Ok(after)
    }

    /// Says in the note what is about to come.
    pub(super) fn announce(&self, vm: &Vm, step: Step) -> Result<Vm> {
        let note = Note { step: Some(step), ..settled(&self.note(vm)?, &vm.config) };
        self.write_note(vm, &note, &[])
    }

    pub(super) fn note(&self, vm: &Vm) -> Result<Note> {
        vm.note().with_context(|| format!("machine {} has lost the note that kiln keeps in its description", vm.vmid))
    }

    pub(super) fn write_note(&self, vm: &Vm, note: &Note, more: &[(&str, String)]) -> Result<Vm> {
        let description = note.description(vm.config.get("description").unwrap_or_default());
        self.set(vm, &[&[("description", description)], more].concat())
    }

    /// Ends what was begun: removes volumes that nobody needs, and writes down what each one that is left holds. Does nothing when all is done.
    ///
    /// # Errors
    /// When a volume cannot be removed; the note then still says what is under way.
    pub(super) fn tidy(&self, vm: Vm, machine: &Machine) -> Result<Vm> {
        let vm = self.remove_waste(vm, machine)?;
        let note = self.note(&vm)?;
        let end = settled(&note, &vm.config);
        // On a machine that runs it would wait for the next start, and be in the way until then.
        let boots = vm.is_running() || vm.config.volume(ROOT).is_none() || vm.config.get("boot") == Some(BOOT);
        if note == end && boots {
            return Ok(vm);
        }
        let boot = if boots { vec![] } else { vec![("boot", BOOT.to_owned())] };
        self.write_note(&vm, &end, &boot)
    }

    fn remove_waste(&self, mut vm: Vm, machine: &Machine) -> Result<Vm> {
        for volume in disks(&self.note(&vm)?, &vm.config).waste {
            vm = self.remove_unused(vm, &volume, machine)?;
        }
        Ok(vm)
    }

    /// Removes a volume that is in no slot. Its key is looked up by its exact name, and the digest keeps the two together.
    fn remove_unused(&self, vm: Vm, volume: &str, machine: &Machine) -> Result<Vm> {
        let Some(key) = vm.config.unused_key(volume) else { return Ok(vm) };
        let what = format!("removing volume `{volume}` of `{}`", machine.mark.node);
        let after = self.change(&vm, &[("delete", key.to_owned())], &what)?;
        if after.config.unused_key(volume).is_some() {
            bail!("{what}: the host says it is done, and it is still there; does a snapshot or a backup use it?");
        }
        Ok(after)
    }

    /// Has this root in the machine; the one that was there becomes the previous one.
    pub(super) fn have_root(&self, vm: Vm, machine: &Machine, root: Root, image: &Image) -> Result<Vm> {
        if disks(&self.note(&vm)?, &vm.config).root == Some(root) {
            return Ok(vm);
        }
        let over = vm.config.volume(ROOT).map(str::to_owned);
        let vm = self.announce(&vm, Step::Root { root, over })?;
        let source = self.image_volume(image);
        let value = format!("{}:0,import-from={source},{ROOT_OPTIONS}", self.disk_storage);
        let vm = self.fill(&vm, ROOT, value, &format!("making the root of `{}`", machine.mark.node))?;
        self.tidy(vm, machine)
    }

    /// Puts the previous root back.
    pub(super) fn bring_root_back(&self, machine: &Machine) -> Result<()> {
        // What an earlier call began may be all but done: then its end is all that is wanted.
        let under_way = |vm: &Vm| match vm.note().and_then(|note| note.step) {
            Some(Step::Restore { back, .. }) => vm.config.volume(ROOT) == Some(back.as_str()),
            Some(Step::Root { .. } | Step::Seed { .. } | Step::Data | Step::Wipe { .. }) | None => false,
        };
        let was_begun = self.peek(machine)?.is_some_and(|vm| under_way(&vm));
        let vm = self.begin_off(machine)?;
        if was_begun {
            return Ok(());
        }
        let node = &machine.mark.node;
        let previous = disks(&self.note(&vm)?, &vm.config).previous;
        let (Some((back, _)), Some(drop)) = (previous, vm.config.volume(ROOT).map(str::to_owned)) else {
            let what = format!("`{node}` has no previous root: it was dropped, or there never was one");
            return Err(Refusal::new(what, "roll out the generation you want instead").into());
        };
        let vm = self.announce(&vm, Step::Restore { back: back.clone(), drop })?;
        let vm = self.fill(
            &vm,
            ROOT,
            format!("{back},{ROOT_OPTIONS}"),
            &format!("putting the previous root of `{node}` back"),
        )?;
        self.tidy(vm, machine).map(std::mem::drop)
    }

    /// Removes the previous root.
    pub(super) fn forget_previous(&self, vm: Vm, machine: &Machine) -> Result<()> {
        let Some((volume, _)) = disks(&self.note(&vm)?, &vm.config).previous else { return Ok(()) };
        let vm = self.remove_unused(vm, &volume, machine)?;
        self.tidy(vm, machine).map(drop)
    }

    /// Has this seed in the machine. It passes over the image storage, where others may read it, and is removed from there at once.
    pub(super) fn have_seed(&self, vm: Vm, machine: &Machine, seed: &Seed) -> Result<Vm> {
        self.remove_seed_uploads(&machine.mark)?;
        if disks(&self.note(&vm)?, &vm.config).seed == Some(seed.sha256) {
            return Ok(vm);
        }
        let vm = self.announce(&vm, Step::Seed { seed: seed.sha256 })?;
        let node = &machine.mark.node;
        let done = self.upload_seed(&machine.mark, seed).and_then(|source| {
            let value = format!("{}:0,import-from={source},{SEED_OPTIONS}", self.disk_storage);
            self.fill(&vm, SEED, value, &format!("giving `{node}` its seed"))
        });
        // Whatever came of it; and when it failed, that is the error to tell.
        let removed = self.remove_seed_uploads(&machine.mark);
        let vm = done?;
        removed?;
        self.tidy(vm, machine)
    }

    /// Has a data volume in the machine: the one it has, or had, or else a blank one.
    pub(super) fn have_data(&self, vm: Vm, machine: &Machine) -> Result<Vm> {
        if vm.config.volume(DATA).is_some() {
            return Ok(vm);
        }
        let node = &machine.mark.node;
        if let Some(volume) = disks(&self.note(&vm)?, &vm.config).loose_data {
            return self.fill(
                &vm,
                DATA,
                format!("{volume},{DATA_OPTIONS}"),
                &format!("attaching the data of `{node}` again"),
            );
        }
        let vm = self.announce(&vm, Step::Data)?;
        let vm = self.fill(&vm, DATA, self.blank(machine), &format!("making the data volume of `{node}`"))?;
        self.tidy(vm, machine)
    }

    fn blank(&self, machine: &Machine) -> String {
        format!("{}:{},{DATA_OPTIONS}", self.disk_storage, machine.data_gib)
    }

    /// Replaces the data volume by a blank one, and then removes it. The old one stays until the new one is there.
    pub(super) fn blank_data(&self, machine: &Machine) -> Result<()> {
        let begun = self.peek(machine)?.and_then(|vm| match vm.note()?.step? {
            Step::Wipe { drop } => Some(vm.config.volume(DATA).is_some_and(|volume| volume != drop)),
            Step::Root { .. } | Step::Restore { .. } | Step::Seed { .. } | Step::Data => None,
        });
        let vm = self.begin_off(machine)?;
        let data = vm.config.volume(DATA).map(str::to_owned).or(disks(&self.note(&vm)?, &vm.config).loose_data);
        let vm = match data {
            // The blank one had come, and `begin` removed the old one.
            Some(_) if begun == Some(true) => return Ok(()),
            None => return self.have_data(vm, machine).map(drop),
            Some(drop) => self.announce(&vm, Step::Wipe { drop })?,
        };
        let vm = self.fill(
            &vm,
            DATA,
            self.blank(machine),
            &format!("making a blank data volume for `{}`", machine.mark.node),
        )?;
        self.tidy(vm, machine).map(drop)
    }
}
