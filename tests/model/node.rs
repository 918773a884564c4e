//! A node's agent: it looks, decides, tells, and does what it decided.
//!
//! What rests on the node's own disk alone is done in the same step as it is decided, for nobody else can change it in between. What rests
//! on the answers of others is decided in one step and done in a later one.

use kiln_firstboot::precheck::Start;

use crate::cluster::{Action, Cluster};
use crate::law::Law;
use crate::mutant::Mutant;
use crate::raft::member;
use crate::view::{Act, Look, Says, Told, start, verdict};
use crate::world::{Disk, Etcd, Heard, Lineage, Log, NAMES, NONE, Name, Pending, Phase, Seat, World};

/// A lineage that exists in a liar's mouth only.
pub const BOGUS: u8 = 9;

/// One way in which a round can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    /// What was decided.
    pub act: Act,
    /// What is told from then on.
    pub seat: Seat,
    /// The laws that this breaks.
    pub breaches: u32,
    /// The slots whose boots were told, as a set; only where boots are counted.
    pub heard: u8,
}

impl Cluster {
    /// What the node of a slot finds without asking anybody.
    pub fn look(&self, world: &World, at: usize) -> Look {
        let slot = &world.slots[at];
        let mut disk = *slot.volume();
        disk.instance = 0;
        let root = |lineage: u8| world.lineages.get(usize::from(lineage)).map_or(NONE, |l| l.roots[0]);
        let phase_is_root = match disk.phase {
            Some(
                Phase::Assigned { lineage, id, .. } | Phase::Member { lineage, id } | Phase::Evicted { lineage, id },
            ) => id == root(lineage),
            Some(Phase::Blank | Phase::Founding(_)) | None => false,
        };
        let log_is_root = disk.log.is_some_and(|log| log.id == root(log.lineage));
        if let Some(log) = &mut disk.log {
            log.rank = 0;
        }
        match self.mutant {
            Some(Mutant::LostLogIsBlank) if lost(&disk) => disk.phase = Some(Phase::Blank),
            Some(Mutant::GenerationIgnored) => disk.generation = slot.generation,
            _ => {}
        }
        let ignored = self.mutant == Some(Mutant::RollbackIgnored);
        Look {
            members: self.members,
            name: slot.name,
            generation: slot.generation,
            window: world.window || self.mutant == Some(Mutant::FormAfterWindow),
            srv: world.srv,
            mounted: slot.mounted || self.mutant == Some(Mutant::UnmountedIsBlank),
            disk,
            phase_is_root,
            log_is_root,
            etcd: slot.etcd != Etcd::Down,
            peers: None,
            told: slot.told.filter(|_| !ignored),
        }
    }

    /// Every way in which a round of this node's agent can go: each peer's answer may be lost.
    pub fn choices(&self, world: &World, at: usize) -> Vec<Choice> {
        let slot = &world.slots[at];
        let mut look = self.look(world, at);
        let local = verdict(&look);
        let mut choices: Vec<Choice> = Vec::new();
        if local.act != Act::Ask {
            let act = self.bent_locally(world, at, local.act);
            choices.push(Choice { act, seat: local.seat, breaches: self.broken_locally(world, at, act), heard: 0 });
            if !local.steady {
                choices[0].breaches |= Law::I9.bit();
            }
        }
        let watches = self.boots && local.act == Act::Restart && slot.etcd == Etcd::Up;
        if local.act != Act::Ask && !watches {
            return choices;
        }
        for answers in self.answers(world, at) {
            let real: Vec<Option<Told>> = answers.iter().map(|a| a.map(|(_, told)| told)).collect();
            look.peers = Some(self.bent_answers(world, slot.name, &real));
            let found = verdict(&look);
            let act = self.bent(world, at, &real, found.act);
            let mut breaches = self.broken(world, at, &real, act) | self.broken_locally(world, at, act);
            if !found.steady {
                breaches |= Law::I9.bit();
            }
            let heard =
                if self.boots { answers.iter().flatten().fold(0, |set, (slot, _)| set | (1u8 << slot)) } else { 0 };
            let choice = Choice { act, seat: found.seat, breaches, heard };
            if !choices.contains(&choice) {
                choices.push(choice);
            }
        }
        choices
    }

    /// Per name nothing, or the answer of some slot of that name, in every combination.
    fn answers(&self, world: &World, at: usize) -> Vec<Vec<Option<(usize, Told)>>> {
        let mut rows: Vec<Vec<Option<(usize, Told)>>> = vec![Vec::new()];
        for name in 0..self.members {
            let mut options = vec![None];
            if name != world.slots[at].name {
                for (other, slot) in world.slots.iter().enumerate().filter(|(_, s)| s.name == name && s.on) {
                    options.extend(told(world, at, other).map(|told| Some((other, told))));
                    if self.liar == Some(name) {
                        let lie =
                            |says, activated| Told { says, activated, generation: slot.generation, remembers: None };
                        let running =
                            |lineage| Says::Running { lineage, learner: false, linearizable: true, leads: true };
                        options.push(Some((other, lie(Says::Blank, false))));
                        options.push(Some((other, lie(running(BOGUS), true))));
                        if name != 0 {
                            options.push(Some((other, lie(running(BOGUS), false))));
                        }
                    }
                }
            }
            rows = rows
                .iter()
                .flat_map(|row| {
                    options.iter().map(move |option| {
                        let mut row = row.clone();
                        row.push(*option);
                        row
                    })
                })
                .collect();
        }
        rows
    }

    fn broken_locally(&self, world: &World, at: usize, act: Act) -> u32 {
        let slot = &world.slots[at];
        let mut breaches = 0;
        let current = slot.mounted && slot.disk.generation == slot.generation;
        if current
            && matches(world, &slot.disk)
            && slot.told.is_none()
            && !matches!(act, Act::Restart | Act::HaltRolledBack)
        {
            breaches |= Law::I8.bit();
        }
        if slot.told.is_some() && act == Act::Restart {
            breaches |= Law::Witness.bit();
        }
        if slot.mounted && lost(&slot.disk) && act != Act::Halt {
            breaches |= Law::I7.bit();
        }
        breaches
    }

    fn broken(&self, world: &World, at: usize, real: &[Option<Told>], act: Act) -> u32 {
        let own = world.slots[at].name;
        let others = || real.iter().enumerate().filter(|(name, _)| *name != usize::from(own)).map(|(_, told)| *told);
        match act {
            Act::Form => {
                let unanimous = others().all(|told| told.is_some_and(|told| told.says == Says::Blank));
                let window = if world.window { 0 } else { Law::Window.bit() };
                window | if unanimous { 0 } else { Law::I10.bit() }
            }
            Act::Join { lineage: BOGUS, .. } => Law::OneClaim.bit(),
            Act::Join { lineage, .. } => {
                let serves = |told: Told| matches!(told.says, Says::Running { lineage: l, linearizable: true, learner: false, .. } if l == lineage);
                if others().flatten().any(serves) { 0 } else { Law::I10.bit() }
            }
            Act::Restart => {
                let counted = world.slots[at].volume().boots;
                let contradicts = |told: Told| {
                    told.remembers.is_some_and(|(boots, this)| boots > counted || (boots == counted && !this))
                };
                if others().flatten().any(contradicts) { Law::Witness.bit() } else { 0 }
            }
            Act::Halt
            | Act::HaltRolledBack
            | Act::Ask
            | Act::Wait
            | Act::RecordBlank
            | Act::StartExisting
            | Act::Drop
            | Act::StartFounding => 0,
        }
    }

    /// The agent may read the activation and let clients in.
    pub fn can_admit(&self, world: &World, at: usize) -> bool {
        let slot = &world.slots[at];
        let Some(log) = slot.replica() else { return false };
        slot.seat == Seat::Data(log.lineage)
            && matches!(slot.volume().phase, Some(Phase::Member { .. }))
            && !slot.volume().activated
            && world.lineages[usize::from(log.lineage)].activated
            && world.reads(at)
    }

    /// Steps of one node.
    pub fn node_step(&self, world: &mut World, action: Action) {
        match action {
            Action::Boot(n) => {
                let boot = if self.boots { world.fresh_boot() } else { 0 };
                let slot = &mut world.slots[usize::from(n)];
                slot.on = true;
                slot.boot = boot;
                if let Some(Phase::Assigned { here, .. }) = &mut slot.disk.phase {
                    *here = false;
                }
                if self.boots && slot.mounted && slot.disk.phase.is_some() {
                    slot.disk.boots += 1;
                }
            }
            Action::Round(n, choice) => self.round(world, usize::from(n), choice),
            Action::Form(n) => self.form(world, usize::from(n)),
            Action::Ask(n, grantor) => self.ask(world, usize::from(n), usize::from(grantor)),
            Action::GiveUp(n) => {
                world.slots[usize::from(n)].pending = Pending::Idle;
                world.orphan(n);
            }
            Action::FirstLog(n) => self.first_log(world, usize::from(n)),
            Action::Dies(n) => {
                let at = usize::from(n);
                world.slots[at].etcd = Etcd::Down;
                // systemd starts it again; the permit for an empty start is spent.
                if self.mutant == Some(Mutant::NoPrecheck) {
                    self.start_empty(world, at);
                } else if start(&self.look(world, at)) == Some(Start::Log) {
                    world.slots[at].etcd = Etcd::Up;
                }
            }
            Action::Removed(n) => {
                let slot = &mut world.slots[usize::from(n)];
                slot.etcd = Etcd::Down;
                slot.removed = true;
                slot.task = None;
            }
            Action::Admit(n) => {
                let Some(log) = world.slots[usize::from(n)].replica() else { return };
                let top = world.top(log.lineage);
                let disk = world.slots[usize::from(n)].volume_mut();
                disk.activated = true;
                disk.log = Some(Log { rank: top, ..log });
            }
            Action::CatchUp(n) => {
                let Some(log) = world.slots[usize::from(n)].replica() else { return };
                let top = world.top(log.lineage);
                world.slots[usize::from(n)].volume_mut().log = Some(Log { rank: top, ..log });
            }
            _ => {}
        }
    }

    fn round(&self, world: &mut World, at: usize, choice: Choice) {
        world.breaches |= choice.breaches;
        self.remember(world, at, choice.heard);
        let counted = u8::from(self.boots);
        let judged = start(&self.look(world, at));
        let slot = &mut world.slots[at];
        let before = *slot.volume();
        if choice.act != Act::RecordBlank {
            slot.seat = choice.seat;
            if !matches!(slot.seat, Seat::Data(_)) {
                slot.task = None;
            }
        }
        match choice.act {
            Act::Halt => slot.etcd = Etcd::Down,
            Act::HaltRolledBack => {
                slot.etcd = Etcd::Down;
                slot.told = Some(before.boots);
            }
            Act::Ask | Act::Wait => {}
            Act::RecordBlank => {
                let generation = slot.generation;
                let disk = slot.volume_mut();
                if disk.phase.is_none() {
                    disk.boots = counted;
                }
                disk.phase = Some(Phase::Blank);
                disk.generation = generation;
                disk.activated = false;
                if self.mutant == Some(Mutant::EvictedStartsAnew) {
                    disk.log = None;
                }
            }
            Act::Restart => {
                let Some(log) = before.log else { return };
                let position = Phase::Member { lineage: log.lineage, id: log.id };
                if slot.etcd == Etcd::Down && slot.removed {
                    slot.volume_mut().phase = Some(Phase::Evicted { lineage: log.lineage, id: log.id });
                } else if before.phase != Some(position) {
                    slot.volume_mut().phase = Some(position);
                } else if slot.etcd == Etcd::Down && judged == Some(Start::Log) {
                    slot.etcd = Etcd::Up;
                }
            }
            Act::StartExisting => {
                if let Some(Phase::Assigned { attempted, .. }) = &mut slot.volume_mut().phase {
                    *attempted = self.mutant != Some(Mutant::AttemptNotRecorded);
                }
                self.start_empty(world, at);
            }
            Act::Drop => slot.volume_mut().phase = Some(Phase::Blank),
            Act::StartFounding => {
                if slot.etcd == Etcd::Down {
                    self.start_empty(world, at);
                }
            }
            Act::Join { lineage, grantors } => {
                if usize::from(lineage) < world.lineages.len() {
                    slot.pending = Pending::Join { lineage, grantors };
                }
            }
            Act::Form => slot.pending = Pending::Form,
        }
        let slot = &world.slots[at];
        let after = *slot.volume();
        let evicted = matches!(before.phase, Some(Phase::Evicted { .. }));
        let halted = matches!(choice.act, Act::Halt | Act::HaltRolledBack);
        if (evicted && after.phase != before.phase) || (halted && slot.etcd != Etcd::Down) {
            world.breach(Law::I7);
        }
        // A node that holds data keeps to the generation it holds it under.
        if after.generation < before.generation
            || (before.log.is_some() && after.log.is_some() && self.misread(world, at))
        {
            world.breach(Law::I11);
        }
    }

    /// etcd runs on data of another generation than the node's charter.
    fn misread(&self, world: &World, at: usize) -> bool {
        let slot = &world.slots[at];
        slot.etcd == Etcd::Up && slot.volume().generation != slot.generation
    }

    /// Keeps the first boot that told the highest count of each volume.
    fn remember(&self, world: &mut World, at: usize, heard: u8) {
        let told: Vec<Heard> = world
            .slots
            .iter()
            .enumerate()
            .filter(|(other, s)| heard & (1 << other) != 0 && s.volume().phase.is_some())
            .map(|(_, s)| Heard { name: s.name, instance: s.volume().instance, boots: s.volume().boots, boot: s.boot })
            .collect();
        let slot = &mut world.slots[at];
        for fact in told {
            match slot.heard.iter_mut().find(|known| known.instance == fact.instance && known.name == fact.name) {
                Some(known) if known.boots >= fact.boots => {}
                Some(known) => *known = fact,
                None => slot.heard.push(fact),
            }
        }
        slot.heard.sort_unstable();
    }

    fn form(&self, world: &mut World, at: usize) {
        let generation = world.slots[at].generation;
        let known = world.lineages.iter().position(|l| l.generation == generation);
        let lineage = match known.filter(|_| Mutant::has_one_token(self.mutant)) {
            Some(known) => known,
            None => {
                let mut roots = [NONE; NAMES];
                match self.mutant {
                    Some(Mutant::Symmetric) => (0..self.members).for_each(|n| roots[usize::from(n)] = n),
                    Some(Mutant::AnyoneForms) => roots[usize::from(world.slots[at].name)] = 0,
                    _ => roots[0] = 0,
                }
                world.lineages.push(Lineage {
                    ranks: Vec::new(),
                    roots,
                    activated: false,
                    served: false,
                    virgin: true,
                    born: 0,
                    recorded: [NONE; NAMES],
                    generation,
                });
                world.lineages.len() - 1
            }
        };
        let slot = &mut world.slots[at];
        slot.volume_mut().phase = Some(Phase::Founding(u8::try_from(lineage).unwrap_or(NONE)));
        slot.pending = Pending::Idle;
    }

    /// etcd is started on an empty log under the id that the state gives it.
    fn start_empty(&self, world: &mut World, at: usize) {
        let slot = &world.slots[at];
        let ids = match slot.volume().phase {
            Some(Phase::Founding(lineage)) => {
                Some((lineage, world.lineages[usize::from(lineage)].roots[usize::from(slot.name)]))
            }
            Some(Phase::Assigned { lineage, id, .. } | Phase::Member { lineage, id }) => Some((lineage, id)),
            Some(Phase::Blank | Phase::Evicted { .. }) | None => None,
        };
        let Some((lineage, mut id)) = ids else { return };
        if id == NONE {
            id = world.fresh_id(lineage);
            let name = usize::from(world.slots[at].name);
            world.lineages[usize::from(lineage)].roots[name] = id;
        }
        // A founder whose etcd left no log may try again: nobody has heard of its id.
        if !matches!(world.slots[at].volume().phase, Some(Phase::Founding(_))) {
            bear(world, lineage, id);
        }
        world.slots[at].etcd = Etcd::Starting;
    }

    fn first_log(&self, world: &mut World, at: usize) {
        let name = world.slots[at].name;
        let log = match world.slots[at].volume().phase {
            Some(Phase::Founding(lineage)) => {
                let rank = self.bootstrap(world, lineage, name);
                let id = world.lineages[usize::from(lineage)].roots[usize::from(name)];
                bear(world, lineage, id);
                Log { lineage, id, rank }
            }
            Some(Phase::Assigned { lineage, id, .. } | Phase::Member { lineage, id }) => Log { lineage, id, rank: 0 },
            Some(Phase::Blank | Phase::Evicted { .. }) | None => return,
        };
        let slot = &mut world.slots[at];
        slot.etcd = Etcd::Up;
        slot.volume_mut().log = Some(log);
        if matches!(self.mutant, Some(Mutant::AnyoneForms | Mutant::Symmetric)) {
            slot.volume_mut().phase = Some(Phase::Member { lineage: log.lineage, id: log.id });
        }
    }

    /// The rank of a log that etcd bootstraps. One that is bootstrapped after something was committed lacks that.
    fn bootstrap(&self, world: &mut World, lineage: u8, name: Name) -> u8 {
        let this = &mut world.lineages[usize::from(lineage)];
        if this.virgin && !this.ranks.is_empty() {
            return 1;
        }
        let mut config = [None; NAMES];
        for (n, id) in this.roots.iter().enumerate().filter(|(_, id)| **id != NONE) {
            if self.mutant == Some(Mutant::Symmetric) || n == usize::from(name) {
                let started = self.mutant == Some(Mutant::Symmetric);
                config[n] = Some(crate::world::Member { id: *id, voter: true, started });
            }
        }
        this.ranks.insert(0, config);
        for slot in &mut world.slots {
            if let Some(log) = slot.disk.log.as_mut().filter(|log| log.lineage == lineage && log.rank > 0) {
                log.rank += 1;
            }
        }
        1
    }
}

/// An id begins on an empty log: I3.
fn bear(world: &mut World, lineage: u8, id: u8) {
    let bit = 1 << id;
    if world.lineages[usize::from(lineage)].born & bit != 0 {
        world.breach(Law::I3);
    }
    world.lineages[usize::from(lineage)].born |= bit;
}

/// What the agent of slot `other` tells the node of slot `at`; nothing while it has just started.
fn told(world: &World, at: usize, other: usize) -> Option<Told> {
    let slot = &world.slots[other];
    let says = match slot.seat {
        Seat::Empty => return None,
        Seat::Blank => Says::Blank,
        Seat::Unknown => Says::Unknown,
        Seat::Data(lineage) => match slot.replica() {
            None => Says::Data(lineage),
            Some(log) => {
                let own = member(world.config_at(log.lineage, log.rank), log.id);
                let leads = |(_, l): &(usize, Log)| {
                    l.rank == world.top(log.lineage) && member(world.config(log.lineage), l.id).is_some_and(|m| m.voter)
                };
                Says::Running {
                    lineage,
                    learner: own.is_none_or(|m| !m.voter),
                    linearizable: world.reads(other) && own.is_some_and(|m| m.voter),
                    leads: world.replicas(log.lineage).find(leads).is_some_and(|(first, _)| first == other),
                }
            }
        },
    };
    let asker = &world.slots[at];
    let mine = |h: &&Heard| h.name == asker.name && h.instance == asker.volume().instance;
    Some(Told {
        says,
        activated: slot.volume().activated,
        generation: slot.generation,
        remembers: slot.heard.iter().find(mine).map(|h| (h.boots, h.boot == asker.boot)),
    })
}

/// A member whose log is gone.
pub fn lost(disk: &Disk) -> bool {
    matches!(disk.phase, Some(Phase::Member { .. })) && disk.log.is_none()
}

/// The log is the one that the state promises.
fn matches(world: &World, disk: &Disk) -> bool {
    let Some(log) = disk.log else { return false };
    match disk.phase {
        Some(Phase::Founding(lineage)) => {
            lineage == log.lineage && world.lineages[usize::from(lineage)].roots[0] == log.id
        }
        Some(Phase::Assigned { lineage, id, .. } | Phase::Member { lineage, id }) => {
            lineage == log.lineage && id == log.id
        }
        Some(Phase::Blank | Phase::Evicted { .. }) | None => false,
    }
}
