//! What breaks: every fault is a step that costs one of its budget.

use crate::cluster::{Action, Cluster, Fault};
use crate::world::{Disk, Etcd, Pending, Phase, Seat, Slot, Step, Task, UNLIMITED, World};

/// One bit per name in a set of names is enough for this many slots.
const MOST_SLOTS: usize = 8;

impl Cluster {
    /// Faults that may happen now.
    pub fn faults(&self, world: &World, steps: &mut Vec<Action>) {
        let left = world.budget;
        let mut may = |fault| steps.push(Action::Fault(fault));
        let room = world.slots.len() < MOST_SLOTS;
        for (at, slot) in world.slots.iter().enumerate() {
            let n = u8::try_from(at).unwrap_or(u8::MAX);
            let touched = slot.disk.phase.is_some();
            if left.crashes > 0 && slot.on {
                may(Fault::Cut(n));
            }
            if left.kills > 0 && slot.etcd == Etcd::Up {
                may(Fault::Kill(n));
            }
            if left.wipes > 0 && (touched || slot.disk.log.is_some()) {
                may(Fault::Wipe(n));
            }
            // Later phases are told apart by the count of boots, which has its own configuration.
            if left.clones > 0 && room && matches!(slot.disk.phase, None | Some(Phase::Blank)) {
                may(Fault::Clone(n));
            }
            if left.twins > 0 && room {
                may(Fault::Twin(n));
            }
            if left.unmounts > 0 && slot.mounted {
                may(Fault::Unmount(n));
            }
            if !slot.mounted {
                may(Fault::Remount(n));
            }
            if left.rollbacks > 0 && touched && world.snapshot.is_none() {
                may(Fault::Snapshot(n));
            }
            if left.reseeds > 0 && slot.generation == 1 {
                may(Fault::Reseed(n));
            }
            if left.losses > 0 && slot.disk.log.is_some() && matches!(slot.disk.phase, Some(Phase::Member { .. })) {
                may(Fault::LoseLog(n));
            }
            if left.forgeries > 0 && slot.on && slot.seat == Seat::Blank && slot.pending == Pending::Idle {
                for (g, grantor) in world.slots.iter().enumerate() {
                    if grantor.on && matches!(grantor.seat, Seat::Data(_)) && grantor.task.is_none() {
                        for name in (0..self.members).filter(|name| *name != slot.name && *name != grantor.name) {
                            may(Fault::Forge(n, u8::try_from(g).unwrap_or(u8::MAX), name));
                        }
                    }
                }
            }
        }
        if left.rollbacks > 0 && world.snapshot.is_some() {
            may(Fault::Rollback);
        }
        if left.shrinks > 0 {
            for name in (0..self.members).filter(|name| world.srv & (1 << name) != 0) {
                may(Fault::Shrink(name));
            }
        }
        if left.closings > 0 && world.window {
            may(Fault::Close);
        }
    }

    /// One fault.
    pub fn fault(&self, world: &mut World, fault: Fault) {
        match fault {
            Fault::Cut(n) => {
                spend(&mut world.budget.crashes);
                world.cut(n);
            }
            Fault::Kill(n) => {
                spend(&mut world.budget.kills);
                world.slots[usize::from(n)].etcd = Etcd::Down;
            }
            Fault::Wipe(n) => {
                spend(&mut world.budget.wipes);
                world.cut(n);
                let instance = world.fresh_instance();
                let slot = &mut world.slots[usize::from(n)];
                slot.disk = Disk::fresh(instance, slot.generation);
            }
            Fault::Clone(n) => {
                spend(&mut world.budget.clones);
                let (name, disk) = (world.slots[usize::from(n)].name, world.slots[usize::from(n)].disk);
                world.slots.push(Slot { disk, ..Slot::fresh(name, 0) });
            }
            Fault::Twin(n) => {
                spend(&mut world.budget.twins);
                let (name, instance) = (world.slots[usize::from(n)].name, world.fresh_instance());
                world.slots.push(Slot::fresh(name, instance));
            }
            Fault::Unmount(n) => {
                spend(&mut world.budget.unmounts);
                world.cut(n);
                let instance = world.fresh_instance();
                let slot = &mut world.slots[usize::from(n)];
                slot.mounted = false;
                slot.shadow = Some(Disk::fresh(instance, slot.generation));
            }
            Fault::Remount(n) => {
                world.cut(n);
                let slot = &mut world.slots[usize::from(n)];
                slot.mounted = true;
                slot.shadow = None;
            }
            Fault::Snapshot(n) => world.snapshot = Some((n, world.slots[usize::from(n)].disk)),
            Fault::Rollback => {
                spend(&mut world.budget.rollbacks);
                let Some((n, disk)) = world.snapshot.take() else { return };
                world.cut(n);
                world.slots[usize::from(n)].disk = disk;
            }
            Fault::Shrink(name) => {
                spend(&mut world.budget.shrinks);
                world.srv &= !(1 << name);
            }
            Fault::Reseed(n) => {
                spend(&mut world.budget.reseeds);
                world.cut(n);
                world.slots[usize::from(n)].generation += 1;
            }
            Fault::Close => {
                spend(&mut world.budget.closings);
                world.window = false;
            }
            Fault::Forge(caller, grantor, name) => {
                spend(&mut world.budget.forgeries);
                let instance = world.slots[usize::from(caller)].disk.instance;
                let step = Step::Look;
                let task = Task { caller, name, instance, live: false, snapshot: false, step };
                world.slots[usize::from(grantor)].task = Some(task);
            }
            Fault::LoseLog(n) => {
                spend(&mut world.budget.losses);
                world.cut(n);
                world.slots[usize::from(n)].disk.log = None;
            }
        }
    }
}

fn spend(left: &mut u8) {
    if *left != UNLIMITED {
        *left -= 1;
    }
}

impl World {
    fn cut(&mut self, n: u8) {
        self.slots[usize::from(n)].cut();
        self.orphan(n);
    }
}
