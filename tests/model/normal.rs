//! One state for all that differ in names only: numbers are handed out anew in the order of their appearance, ranks that no replica stands
//! at are merged, formations without a trace are forgotten, and nodes other than the founder are sorted.

use crate::world::{Config, Disk, GONE, Id, Lineage, NAMES, NONE, Pending, Phase, Seat, Slot, Step, World};

impl World {
    /// Brings the state into its normal form. `sort` puts interchangeable nodes in order, too.
    pub fn normalize(&mut self, sort: bool) {
        self.merge_ranks();
        if sort {
            self.sort_names();
        }
        self.number_lineages();
        self.number_ids();
        self.number_instances();
        self.number_boots();
    }

    /// Every disk, mounted, hidden or kept as a snapshot.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        let kept = self.snapshot.iter().map(|(_, disk)| disk);
        self.slots.iter().flat_map(|s| std::iter::once(&s.disk).chain(&s.shadow)).chain(kept)
    }

    fn disks_mut(&mut self) -> impl Iterator<Item = &mut Disk> {
        let kept = self.snapshot.iter_mut().map(|(_, disk)| disk);
        self.slots.iter_mut().flat_map(|s| std::iter::once(&mut s.disk).chain(&mut s.shadow)).chain(kept)
    }

    fn merge_ranks(&mut self) {
        for lineage in 0..self.lineages.len() {
            let mine = |disk: &Disk| disk.log.filter(|log| usize::from(log.lineage) == lineage).map(|log| log.rank);
            let mut used: Vec<u8> = self.disks().filter_map(mine).filter(|rank| *rank > 0).collect();
            if !self.lineages[lineage].ranks.is_empty() {
                used.push(u8::try_from(self.lineages[lineage].ranks.len()).unwrap_or(u8::MAX));
            }
            used.sort_unstable();
            used.dedup();
            if used.len() == self.lineages[lineage].ranks.len() {
                continue;
            }
            self.lineages[lineage].ranks =
                used.iter().map(|rank| self.lineages[lineage].ranks[usize::from(*rank) - 1]).collect();
            for log in self.disks_mut().filter_map(|disk| disk.log.as_mut()) {
                if usize::from(log.lineage) == lineage && log.rank > 0 {
                    let place = used.iter().position(|rank| *rank == log.rank).unwrap_or(0);
                    log.rank = u8::try_from(place + 1).unwrap_or(u8::MAX);
                }
            }
        }
    }

    /// What of a node does not depend on numbers: nodes with different ones are put in order by it.
    fn signature(&self, slot: &Slot) -> impl Ord + use<> {
        let phase = match slot.disk.phase {
            None => 0,
            Some(Phase::Blank) => 1,
            Some(Phase::Founding(_)) => 2,
            Some(Phase::Assigned { attempted, here, .. }) => 3 + u8::from(attempted) + 2 * u8::from(here),
            Some(Phase::Member { .. }) => 7,
            Some(Phase::Evicted { .. }) => 8,
        };
        let seat = match slot.seat {
            Seat::Empty => 0,
            Seat::Blank => 1,
            Seat::Unknown => 2,
            Seat::Data(_) => 3,
        };
        let listed: Vec<Vec<Option<(bool, bool)>>> = self
            .lineages
            .iter()
            .map(|l| l.ranks.iter().map(|c| c[usize::from(slot.name)].map(|m| (m.voter, m.started))).collect())
            .collect();
        let twins = self.slots.iter().filter(|s| s.name == slot.name).count();
        let log = slot.disk.log.map(|log| log.rank);
        let task = slot.task.map(|task| (task.step, task.live, task.snapshot));
        (twins, phase, log, slot.on, slot.etcd, seat, slot.pending, task, slot.disk.activated, listed)
    }

    fn sort_names(&mut self) {
        let names = self.slots.iter().map(|s| usize::from(s.name) + 1).max().unwrap_or(0);
        let mut order: Vec<usize> = (1..names).collect();
        order.sort_by_cached_key(|name| self.signature(&self.slots[*name]));
        if order.is_sorted() {
            return;
        }
        order.insert(0, 0);
        // order[new] = old
        let mut new_name = [0u8; NAMES];
        for (new, old) in order.iter().enumerate() {
            new_name[*old] = u8::try_from(new).unwrap_or(0);
        }
        let set = |names: u8| (0..NAMES).filter(|n| names & (1 << n) != 0).fold(0u8, |set, n| set | (1 << new_name[n]));
        let mut moved: Vec<Slot> = order.iter().map(|old| self.slots[*old].clone()).collect();
        moved.extend(self.slots.iter().skip(names).cloned());
        let new_slot = |old: u8| if usize::from(old) < names { new_name[usize::from(old)] } else { old };
        for slot in &mut moved {
            slot.name = new_name[usize::from(slot.name)];
            if let Pending::Join { grantors, .. } = &mut slot.pending {
                *grantors = set(*grantors);
            }
            if let Some(task) = &mut slot.task {
                task.caller = new_slot(task.caller);
                task.name = new_name[usize::from(task.name)];
            }
            for heard in &mut slot.heard {
                heard.name = new_name[usize::from(heard.name)];
            }
            slot.heard.sort_unstable();
        }
        self.slots = moved;
        self.srv = set(self.srv);
        if let Some((slot, _)) = &mut self.snapshot {
            *slot = new_slot(*slot);
        }
        for lineage in &mut self.lineages {
            let rearranged = |config: &Config| {
                let mut next = [None; NAMES];
                for (old, member) in config.iter().enumerate().take(names) {
                    next[usize::from(new_name[old])] = *member;
                }
                next
            };
            lineage.ranks = lineage.ranks.iter().map(rearranged).collect();
            let (roots, recorded) = (lineage.roots, lineage.recorded);
            for old in 0..names {
                lineage.roots[usize::from(new_name[old])] = roots[old];
                lineage.recorded[usize::from(new_name[old])] = recorded[old];
            }
        }
    }

    fn number_lineages(&mut self) {
        if self.lineages.is_empty() {
            return;
        }
        let mut order: Vec<u8> = Vec::new();
        let mut meet = |lineage: Option<u8>| {
            if let Some(lineage) = lineage
                && !order.contains(&lineage)
            {
                order.push(lineage);
            }
        };
        for disk in self.disks() {
            meet(disk.phase.and_then(Phase::lineage));
            meet(disk.log.map(|log| log.lineage));
        }
        for slot in &self.slots {
            if let Seat::Data(lineage) = slot.seat {
                meet(Some(lineage));
            }
            if let Pending::Join { lineage, .. } = slot.pending {
                meet(Some(lineage));
            }
        }
        if order.len() == self.lineages.len() && order.is_sorted() {
            return;
        }
        let place =
            |lineage: u8| order.iter().position(|l| *l == lineage).and_then(|at| u8::try_from(at).ok()).unwrap_or(NONE);
        for disk in self.disks_mut() {
            if let Some(phase) = &mut disk.phase {
                match phase {
                    Phase::Blank => {}
                    Phase::Founding(lineage)
                    | Phase::Assigned { lineage, .. }
                    | Phase::Member { lineage, .. }
                    | Phase::Evicted { lineage, .. } => *lineage = place(*lineage),
                }
            }
            if let Some(log) = &mut disk.log {
                log.lineage = place(log.lineage);
            }
        }
        for slot in &mut self.slots {
            if let Seat::Data(lineage) = &mut slot.seat {
                *lineage = place(*lineage);
            }
            if let Pending::Join { lineage, .. } = &mut slot.pending {
                *lineage = place(*lineage);
            }
        }
        let mut kept: Vec<Option<Lineage>> = std::mem::take(&mut self.lineages).into_iter().map(Some).collect();
        self.lineages = order.iter().filter_map(|lineage| kept[usize::from(*lineage)].take()).collect();
    }

    fn number_ids(&mut self) {
        for lineage in 0..self.lineages.len() {
            let mut order: Vec<Id> = Vec::new();
            let mut meet = |id: Id| {
                if id != NONE && !order.contains(&id) {
                    order.push(id);
                }
            };
            self.lineages[lineage].ranks.iter().flatten().flatten().for_each(|m| meet(m.id));
            for disk in self.disks() {
                let in_it = |l: u8| usize::from(l) == lineage;
                match disk.phase {
                    Some(
                        Phase::Assigned { lineage, id, .. }
                        | Phase::Member { lineage, id }
                        | Phase::Evicted { lineage, id },
                    ) if in_it(lineage) => meet(id),
                    Some(Phase::Founding(l)) if in_it(l) => {
                        self.lineages[lineage].roots.iter().for_each(|id| meet(*id))
                    }
                    _ => {}
                }
                if let Some(log) = disk.log.filter(|log| in_it(log.lineage)) {
                    meet(log.id);
                }
            }
            for slot in self.slots.iter().filter(|s| s.seat == Seat::Data(u8::try_from(lineage).unwrap_or(NONE))) {
                if let Some(Step::RemoveLearner(id) | Step::RemoveVoter(id) | Step::Reply(id)) =
                    slot.task.map(|task| task.step)
                {
                    meet(id);
                }
            }
            if order.iter().enumerate().all(|(at, id)| at == usize::from(*id))
                && self.lineages[lineage].born >> order.len() == 0
                && self.lineages[lineage].roots.iter().all(|id| *id == NONE || usize::from(*id) < order.len())
            {
                continue;
            }
            self.renumber_ids(lineage, &order);
        }
    }

    fn renumber_ids(&mut self, lineage: usize, order: &[Id]) {
        let place = |id: Id| order.iter().position(|i| *i == id).and_then(|at| u8::try_from(at).ok()).unwrap_or(NONE);
        let this = &mut self.lineages[lineage];
        this.ranks.iter_mut().flatten().flatten().for_each(|m| m.id = place(m.id));
        this.roots.iter_mut().for_each(|id| *id = place(*id));
        let born = this.born;
        this.born = order
            .iter()
            .enumerate()
            .filter(|(_, old)| born & (1 << **old) != 0)
            .fold(0, |set, (new, _)| set | (1 << new));
        let in_it = |l: u8| usize::from(l) == lineage;
        for disk in self.disks_mut() {
            match &mut disk.phase {
                Some(
                    Phase::Assigned { lineage, id, .. }
                    | Phase::Member { lineage, id }
                    | Phase::Evicted { lineage, id },
                ) if in_it(*lineage) => *id = place(*id),
                _ => {}
            }
            if let Some(log) = disk.log.as_mut().filter(|log| in_it(log.lineage)) {
                log.id = place(log.id);
            }
        }
        let seat = Seat::Data(u8::try_from(lineage).unwrap_or(NONE));
        for task in self.slots.iter_mut().filter(|s| s.seat == seat).filter_map(|s| s.task.as_mut()) {
            if let Step::RemoveLearner(id) | Step::RemoveVoter(id) | Step::Reply(id) = &mut task.step {
                *id = place(*id);
            }
        }
    }

    fn number_instances(&mut self) {
        let mut order: Vec<u8> = Vec::new();
        let mut renumber = |instance: &mut u8| {
            if *instance == NONE {
                return;
            }
            let at = order.iter().position(|i| i == instance).unwrap_or_else(|| {
                order.push(*instance);
                order.len() - 1
            });
            *instance = u8::try_from(at).unwrap_or(NONE);
        };
        self.disks_mut().for_each(|disk| renumber(&mut disk.instance));
        for task in self.slots.iter_mut().filter_map(|s| s.task.as_mut()) {
            renumber(&mut task.instance);
        }
        // A record or a memory of a volume that is gone can only ever differ from the ones that are there.
        let known = order.clone();
        let forget = |instance: &mut u8| {
            if *instance != NONE {
                let place = known.iter().position(|i| i == instance);
                *instance = place.and_then(|at| u8::try_from(at).ok()).unwrap_or(GONE);
            }
        };
        self.lineages.iter_mut().flat_map(|l| &mut l.recorded).for_each(forget);
        for slot in &mut self.slots {
            slot.heard.iter_mut().for_each(|heard| forget(&mut heard.instance));
            slot.heard.retain(|heard| heard.instance != GONE);
        }
    }

    fn number_boots(&mut self) {
        let mut order: Vec<u8> = vec![0];
        let mut renumber = |boot: &mut u8| {
            let at = order.iter().position(|b| b == boot).unwrap_or_else(|| {
                order.push(*boot);
                order.len() - 1
            });
            *boot = u8::try_from(at).unwrap_or(NONE);
        };
        self.slots.iter_mut().for_each(|s| renumber(&mut s.boot));
        self.slots.iter_mut().flat_map(|s| &mut s.heard).for_each(|heard| renumber(&mut heard.boot));
    }

    /// A number that no lineage's member has.
    pub fn fresh_id(&self, lineage: u8) -> Id {
        let this = &self.lineages[usize::from(lineage)];
        let mut highest: Option<Id> = None;
        let mut meet = |id: Id| {
            if id != NONE {
                highest = highest.max(Some(id));
            }
        };
        this.ranks.iter().flatten().flatten().for_each(|m| meet(m.id));
        this.roots.iter().for_each(|id| meet(*id));
        if this.born != 0 {
            meet(u8::try_from(15 - this.born.leading_zeros()).unwrap_or(0));
        }
        for disk in self.disks() {
            match disk.phase {
                Some(Phase::Assigned { id, .. } | Phase::Member { id, .. } | Phase::Evicted { id, .. }) => meet(id),
                Some(Phase::Blank | Phase::Founding(_)) | None => {}
            }
            if let Some(log) = disk.log {
                meet(log.id);
            }
        }
        for task in self.slots.iter().filter_map(|s| s.task) {
            if let Step::RemoveLearner(id) | Step::RemoveVoter(id) | Step::Reply(id) = task.step {
                meet(id);
            }
        }
        highest.map_or(0, |id| id + 1)
    }

    /// A number that no volume has.
    pub fn fresh_instance(&self) -> u8 {
        let disks = self.disks().map(|disk| disk.instance);
        let others = self.slots.iter().filter_map(|s| s.task).map(|task| task.instance);
        let recorded = self.lineages.iter().flat_map(|l| l.recorded);
        disks.chain(others).chain(recorded).filter(|i| *i < GONE).max().map_or(0, |i| i + 1)
    }

    /// A number that no boot has.
    pub fn fresh_boot(&self) -> u8 {
        let heard = self.slots.iter().flat_map(|s| &s.heard).map(|heard| heard.boot);
        self.slots.iter().map(|s| s.boot).chain(heard).max().unwrap_or(0) + 1
    }
}
