//! What is done to a machine's disks: imaged again, its data kept aside, put back, or copied into a clone.
//!
//! Nothing here touches the data of a machine that was not named.

use super::machine::Machine;
use super::record::LabImage;
use super::{Live, Run};

impl Live<'_> {
    /// Pulls a machine's plug and gives it a blank data disk; it stays off.
    ///
    /// # Errors
    /// When it does not end or its data cannot be removed.
    pub fn wipe(&self, machine: Machine<'_>) -> anyhow::Result<()> {
        let disk = self.data_disk(&machine)?;
        self.kill(&[machine])?;
        disk.wipe()
    }

    /// Pulls a machine's plug, gives it a fresh root disk of `image`, its seed as it is now, and its data disk back, or a blank one if `wipe_data`;
    /// powers it on.
    ///
    /// # Errors
    /// When a step fails; doing it again goes on from there.
    pub fn reimage(&mut self, machine: Machine<'_>, image: LabImage, wipe_data: bool) -> anyhow::Result<()> {
        let disk = self.data_disk(&machine)?;
        self.kill(&[machine])?;
        self.drop_seed(&machine)?;
        self.with_parts(machine, |run| match run {
            // The one's root is made anew at every start; the other has no disk of the lab's.
            Run::Container(_) | Run::Hosted(_) => Ok(()),
            Run::Vm(vm) => vm.drop_root(),
        })??;
        self.record.set_image(&machine.node.name, image);
        self.record.write(&self.lab.dir)?;
        if wipe_data {
            disk.wipe()?;
        }
        self.start(&[machine])
    }

    /// Keeps a copy of a machine's data disk as it is now. One that is on is frozen meanwhile.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn checkpoint(&self, machine: Machine<'_>) -> anyhow::Result<()> {
        let disk = self.data_disk(&machine)?;
        self.frozen(machine, || disk.keep())
    }

    /// Pulls a machine's plug, puts the kept copy of its data disk back, and powers it on.
    ///
    /// # Errors
    /// [`Refusal`](crate::exit::Refusal) when there is none; the machine is left as it is then.
    pub fn rollback(&self, machine: Machine<'_>) -> anyhow::Result<()> {
        let disk = self.data_disk(&machine)?;
        disk.require_kept(&self.lab.profile.name, &machine.name())?;
        self.kill(&[machine])?;
        disk.put_back()?;
        self.start(&[machine])
    }

    /// Makes a second machine of a node, with a copy of its data and the same seed, and powers it on beside it, with the same
    /// Ethernet address and so with the same address.
    ///
    /// # Errors
    /// When it cannot be made or started.
    pub fn clone_machine(&self, machine: Machine<'_>) -> anyhow::Result<()> {
        let clone = machine.cloned();
        let [of_node, of_clone] = [self.data_disk(&machine)?, self.data_disk(&clone)?];
        self.kill(&[clone])?;
        self.ensure_files(&clone)?;
        self.frozen(machine, || of_node.copy_to(&of_clone))?;
        self.start(&[clone])
    }

    /// Does something while a machine, if it is on, stands still, so that its disk does not change under a copy.
    fn frozen<T>(&self, machine: Machine<'_>, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        if !self.is_on(machine)? {
            return act();
        }
        let freeze = |frozen| {
            self.with_parts(machine, |run| match run {
                Run::Container(container) => container.freeze(&self.host, frozen),
                Run::Vm(vm) => vm.freeze(&self.host, frozen),
                Run::Hosted(hosted) => hosted.freeze(frozen),
            })?
        };
        freeze(true)?;
        let done = act();
        freeze(false)?;
        done
    }
}
