//! Where mutants that sit in a node's agent bend what it is told, and what it makes of it.

use crate::cluster::Cluster;
use crate::mutant::Mutant;
use crate::node::{BOGUS, lost};
use crate::view::{Act, Says, Told};
use crate::world::{Etcd, Name, Phase, World};

impl Cluster {
    /// The answers as a mutant takes them.
    pub fn bent_answers(&self, world: &World, own: Name, real: &[Option<Told>]) -> Vec<Option<Told>> {
        let blank =
            Told { says: Says::Blank, activated: false, generation: world.slots[0].generation, remembers: None };
        let mut bent = real.to_vec();
        for (name, answer) in bent.iter_mut().enumerate().filter(|(name, _)| *name != usize::from(own)) {
            let says = answer.map(|told| told.says);
            let becomes_blank = match self.mutant {
                Some(Mutant::SrvDenominator) => world.srv & (1 << name) == 0,
                Some(Mutant::SilenceIsBlank | Mutant::SilenceIsBlankNoGate) => answer.is_none(),
                Some(Mutant::DataHolderIgnored) => {
                    matches!(says, Some(Says::Data(_) | Says::Running { linearizable: false, .. }))
                }
                Some(Mutant::HaltedIsBlank) => says == Some(Says::Unknown),
                _ => false,
            };
            if becomes_blank {
                *answer = Some(blank);
            }
            if self.mutant == Some(Mutant::RollbackIgnored)
                && let Some(told) = answer
            {
                told.remembers = None;
            }
        }
        if self.mutant == Some(Mutant::OneLiarBelieved)
            && let Some(lie) = bent.iter().flatten().copied().find(|told| is_bogus(told.says))
        {
            bent.iter_mut().enumerate().filter(|(name, _)| *name != usize::from(own)).for_each(|(_, a)| *a = Some(lie));
        }
        bent
    }

    /// What a mutant makes of a decision that needed nobody.
    pub fn bent_locally(&self, world: &World, at: usize, act: Act) -> Act {
        let disk = world.slots[at].volume();
        match self.mutant {
            Some(Mutant::EvictedStartsAnew) if matches!(disk.phase, Some(Phase::Evicted { .. })) => Act::RecordBlank,
            Some(Mutant::LostLogRestarts) if lost(disk) => Act::StartExisting,
            Some(Mutant::DroppedIdReused) if act == Act::Drop => Act::StartExisting,
            Some(Mutant::RestartAsksPeers) if act == Act::Restart && world.slots[at].etcd == Etcd::Down => Act::Wait,
            _ => act,
        }
    }

    /// What a mutant makes of a decision on others' answers.
    pub fn bent(&self, world: &World, at: usize, real: &[Option<Told>], act: Act) -> Act {
        let slot = &world.slots[at];
        let disk = slot.volume();
        let anyone = matches!(self.mutant, Some(Mutant::AnyoneForms | Mutant::Symmetric));
        let others = || real.iter().enumerate().filter(|(name, _)| *name != usize::from(slot.name));
        match disk.phase {
            Some(Phase::Founding(_)) if anyone => Act::StartFounding,
            Some(Phase::Blank)
                if anyone
                    && act == Act::Wait
                    && world.window
                    && others().all(|(_, told)| told.is_some_and(|told| told.says == Says::Blank)) =>
            {
                Act::Form
            }
            _ => act,
        }
    }
}

fn is_bogus(says: Says) -> bool {
    matches!(says, Says::Running { lineage: BOGUS, .. })
}
