//! The model: which worlds there are to begin with, which steps each allows, and what must hold.

use stateright::{Model, Property};

use crate::law::Law;
use crate::mutant::Mutant;
use crate::node::Choice;
use crate::raft::{member, voters};
use crate::world::{
    Budget, Etcd, Id, Lineage, Log, Member, NAMES, NONE, Name, Pending, Phase, Seat, Slot, Step, World,
};

/// A configuration: how large, which faults, which mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Members of the charter.
    pub members: u8,
    /// The faults.
    pub budget: Budget,
    /// The rule that is bent, if any.
    pub mutant: Option<Mutant>,
    /// Treat nodes other than the founder as interchangeable.
    pub sort: bool,
    /// A commit reaches every member that runs, not a minority less: fewer states.
    pub eager: bool,
    /// Boots are counted, told and remembered.
    pub boots: bool,
    /// This node's agent says what it likes.
    pub liar: Option<Name>,
    /// A grantor's look may be old when it removes a voter of a name that two machines bear.
    pub late_removals: bool,
    /// How it begins.
    pub begin: Begin,
    /// What must hold.
    pub laws: &'static [Law],
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            members: 3,
            budget: Budget::default(),
            mutant: None,
            sort: true,
            eager: false,
            boots: false,
            liar: None,
            late_removals: false,
            begin: Begin::Blank,
            laws: &Law::ALL,
        }
    }
}

/// What a configuration begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Machines that were never booted.
    Blank,
    /// A cluster that is activated, whole and serving.
    Whole,
    /// As before, and a copy of this node made while it was blank, switched off.
    WholeWithCopy(Name),
    /// The founder was copied while it was blank; both have formed, each a lineage of its own, while the others were blank and up.
    TwoFounders,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The machine of this slot gets power; its agent starts.
    Boot(u8),
    /// Its agent looks, decides and tells; what rests on its own disk alone it does at once.
    Round(u8, Choice),
    /// It does what it had decided: draws a lineage and writes it down.
    Form(u8),
    /// It does what it had decided: asks this grantor's slot.
    Ask(u8, u8),
    /// It gives up waiting, or its agent crashes.
    GiveUp(u8),
    /// etcd writes its first log.
    FirstLog(u8),
    /// etcd ends before it has written a log; systemd tries it again.
    Dies(u8),
    /// etcd is told that its member was removed, and ends.
    Removed(u8),
    /// The agent reads that the cluster is activated, and lets clients in.
    Admit(u8),
    /// The grantor looks and decides.
    GrantLook(u8, Step, bool),
    /// The grantor puts the caller off or refuses.
    GrantEnd(u8),
    /// What the grantor decided is committed by these slots.
    GrantDo(u8, u8),
    /// The grant reaches its caller.
    Deliver(u8),
    /// It does not.
    Lose(u8),
    /// A replica gets everything that is committed.
    CatchUp(u8),
    /// A member's first start is told to the cluster.
    Publish(u8, Id, u8),
    /// A learner is promoted.
    Promote(u8, Id, u8),
    /// A learner's place is given up.
    GiveUpLearner(u8, Id, u8),
    /// The cluster is activated.
    Activate(u8, u8),
    /// A client's write is acknowledged.
    Write(u8, u8),
    /// Something breaks.
    Fault(Fault),
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Power is cut.
    Cut(u8),
    /// etcd is killed.
    Kill(u8),
    /// The disk is wiped; the machine is off.
    Wipe(u8),
    /// The machine is copied, disk and seed.
    Clone(u8),
    /// A second machine with the same seed and an empty disk appears.
    Twin(u8),
    /// The machine is off and boots with nothing mounted from now on.
    Unmount(u8),
    /// That is mended; the machine is off.
    Remount(u8),
    /// A snapshot is taken of a disk.
    Snapshot(u8),
    /// The disk goes back to it; the machine is off.
    Rollback,
    /// A name disappears from SRV.
    Shrink(Name),
    /// A machine gets the seed of the next generation; it is off.
    Reseed(u8),
    /// The formation window closes.
    Close,
    /// A machine asks a grantor for another's name.
    Forge(u8, u8, Name),
    /// etcd's log is deleted, the state stays; the machine is off.
    LoseLog(u8),
}

impl Cluster {
    fn blank(&self) -> World {
        World {
            slots: (0..self.members).map(|name| Slot::fresh(name, name)).collect(),
            lineages: Vec::new(),
            snapshot: None,
            window: true,
            srv: (1 << self.members) - 1,
            budget: self.budget,
            breaches: 0,
        }
    }

    /// An activated cluster, every node up and serving.
    fn whole(&self) -> World {
        let mut world = self.blank();
        let mut config = [None; NAMES];
        let mut recorded = [NONE; NAMES];
        for name in 0..self.members {
            config[usize::from(name)] = Some(Member { id: name, voter: true, started: true });
            recorded[usize::from(name)] = name;
            let slot = &mut world.slots[usize::from(name)];
            slot.on = true;
            slot.boot = name + 1;
            slot.etcd = Etcd::Up;
            slot.seat = Seat::Data(0);
            slot.disk.phase = Some(Phase::Member { lineage: 0, id: name });
            slot.disk.log = Some(Log { lineage: 0, id: name, rank: 1 });
            slot.disk.activated = true;
            slot.disk.boots = u8::from(self.boots);
        }
        let mut roots = [NONE; NAMES];
        roots[0] = 0;
        world.lineages.push(Lineage {
            ranks: vec![config],
            roots,
            activated: true,
            served: true,
            virgin: false,
            born: (1 << self.members) - 1,
            recorded,
            generation: 1,
        });
        world
    }

    /// Two founders of one name, each with a lineage of its own.
    fn two_founders(&self) -> World {
        let mut world = self.blank();
        world.slots.push(Slot::fresh(0, 0));
        for (n, slot) in world.slots.iter_mut().enumerate() {
            slot.on = true;
            slot.disk.phase = Some(Phase::Blank);
            slot.seat = Seat::Blank;
            if slot.name != 0 {
                continue;
            }
            let lineage = u8::from(n > 0);
            slot.seat = Seat::Data(lineage);
            slot.etcd = Etcd::Up;
            slot.disk.phase = Some(Phase::Member { lineage, id: 0 });
            slot.disk.log = Some(Log { lineage, id: 0, rank: 1 });
            let mut config = [None; NAMES];
            config[0] = Some(Member { id: 0, voter: true, started: true });
            let mut recorded = [NONE; NAMES];
            recorded[0] = 0;
            let mut roots = [NONE; NAMES];
            roots[0] = 0;
            world.lineages.push(Lineage {
                ranks: vec![config],
                roots,
                activated: false,
                served: false,
                virgin: false,
                born: 1,
                recorded,
                generation: 1,
            });
        }
        world
    }

    /// Sets of slots that may commit in this lineage.
    fn committers(&self, world: &World, lineage: u8) -> Vec<u8> {
        let quorums = world.quorums(lineage);
        let set = |slots: &mut dyn Iterator<Item = usize>| slots.fold(0u8, |set, slot| set | (1 << slot));
        if self.eager {
            if quorums.is_empty() {
                return Vec::new();
            }
            let config = world.config(lineage);
            let listed = world.replicas(lineage).filter(|(_, log)| member(config, log.id).is_some());
            return vec![set(&mut listed.map(|(slot, _)| slot))];
        }
        quorums.into_iter().map(|slots| set(&mut slots.into_iter())).collect()
    }

    fn node_steps(&self, world: &World, at: usize, steps: &mut Vec<Action>) {
        let slot = &world.slots[at];
        let n = u8::try_from(at).unwrap_or(u8::MAX);
        if !slot.on {
            steps.push(Action::Boot(n));
            return;
        }
        match slot.pending {
            Pending::Idle => {
                for choice in self.choices(world, at) {
                    steps.push(Action::Round(n, choice));
                }
            }
            Pending::Form => steps.extend([Action::Form(n), Action::GiveUp(n)]),
            Pending::Join { grantors, .. } => {
                steps.push(Action::GiveUp(n));
                for (g, grantor) in world.slots.iter().enumerate() {
                    if grantors & (1 << grantor.name) != 0 && self.takes(world, at, g) {
                        steps.push(Action::Ask(n, u8::try_from(g).unwrap_or(u8::MAX)));
                    }
                }
            }
            Pending::Asking => steps.push(Action::GiveUp(n)),
        }
        match slot.etcd {
            Etcd::Down => {}
            Etcd::Starting => steps.extend([Action::FirstLog(n), Action::Dies(n)]),
            Etcd::Up => {
                let Some(log) = slot.replica() else { return };
                let top = world.top(log.lineage);
                let another = world.replicas(log.lineage).any(|(other, l)| other != at && l.rank == top);
                if member(world.config(log.lineage), log.id).is_none() {
                    if another {
                        steps.push(Action::Removed(n));
                    }
                } else if log.rank < top && another && world.has_quorum(log.lineage) {
                    steps.push(Action::CatchUp(n));
                }
                if self.can_admit(world, at) {
                    steps.push(Action::Admit(n));
                }
            }
        }
        match slot.task.map(|task| task.step) {
            None => {}
            Some(Step::Look) => self.grant_steps(world, at, steps),
            Some(Step::Add | Step::RemoveLearner(_) | Step::RemoveVoter(_)) => {
                let Some(log) = slot.replica() else { return };
                for slots in self.committers(world, log.lineage) {
                    steps.push(Action::GrantDo(n, slots));
                }
            }
            Some(Step::Reply(_)) => steps.extend([Action::Deliver(n), Action::Lose(n)]),
        }
    }

    fn lineage_steps(&self, world: &World, lineage: u8, steps: &mut Vec<Action>) {
        let quorums = self.committers(world, lineage);
        if quorums.is_empty() {
            return;
        }
        let this = &world.lineages[usize::from(lineage)];
        let config = world.config(lineage);
        let (promotable, complete) = self.custody(world, config);
        let complete = complete && !this.activated;
        let top = world.top(lineage);
        for slots in quorums {
            for m in config.iter().flatten() {
                // The longest log of a running replica of this member.
                let rank = world.replicas(lineage).filter(|(_, log)| log.id == m.id).map(|(_, log)| log.rank).max();
                if !m.started && rank.is_some_and(|rank| rank > 0) {
                    steps.push(Action::Publish(lineage, m.id, slots));
                }
                let near = rank.is_some_and(|rank| rank > 0 && rank + 1 >= top);
                if promotable & (1 << m.id) != 0 && (near || self.mutant == Some(Mutant::PromotedUnstarted)) {
                    steps.push(Action::Promote(lineage, m.id, slots));
                }
                if !m.voter && m.started && !near {
                    steps.push(Action::GiveUpLearner(lineage, m.id, slots));
                }
            }
            if complete {
                steps.push(Action::Activate(lineage, slots));
            }
            if self.admits_somewhere(world, lineage) {
                steps.push(Action::Write(lineage, slots));
            }
        }
    }

    /// A client reaches a member of this lineage.
    pub fn admits_somewhere(&self, world: &World, lineage: u8) -> bool {
        let opened = Mutant::opens_the_gate(self.mutant);
        world.replicas(lineage).any(|(slot, log)| {
            (opened || world.admits(slot)) && member(world.config(lineage), log.id).is_some_and(|m| m.voter)
        })
    }
}

impl Model for Cluster {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let world = match self.begin {
            Begin::Blank => self.blank(),
            Begin::Whole => self.whole(),
            Begin::WholeWithCopy(name) => {
                let mut world = self.whole();
                let instance = world.slots[usize::from(name)].disk.instance;
                let mut copy = Slot::fresh(name, instance);
                copy.disk.phase = Some(Phase::Blank);
                world.slots.push(copy);
                world
            }
            Begin::TwoFounders => self.two_founders(),
        };
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Action>) {
        for at in 0..world.slots.len() {
            self.node_steps(world, at, steps);
        }
        for lineage in world.all_lineages() {
            self.lineage_steps(world, lineage, steps);
        }
        self.faults(world, steps);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Boot(_)
            | Action::Round(..)
            | Action::Form(_)
            | Action::Ask(..)
            | Action::GiveUp(_)
            | Action::FirstLog(_)
            | Action::Dies(_)
            | Action::Removed(_)
            | Action::Admit(_)
            | Action::CatchUp(_) => self.node_step(&mut world, action),
            Action::GrantLook(..)
            | Action::GrantEnd(_)
            | Action::GrantDo(..)
            | Action::Deliver(_)
            | Action::Lose(_)
            | Action::Publish(..)
            | Action::Promote(..)
            | Action::GiveUpLearner(..)
            | Action::Activate(..)
            | Action::Write(..) => self.member_step(&mut world, action),
            Action::Fault(fault) => self.fault(&mut world, fault),
        }
        world.normalize(self.sort);
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! law {
            ($law:ident) => {
                Property::<Self>::always(Law::$law.name(), |cluster: &Self, world: &World| {
                    !cluster.laws.contains(&Law::$law) || world.obeys(Law::$law, cluster.members)
                })
            };
        }
        vec![
            law!(I1),
            law!(I2),
            law!(I3),
            law!(I4),
            law!(I5),
            law!(I6),
            law!(I7),
            law!(I8),
            law!(I9),
            law!(I10),
            law!(I11),
            law!(Window),
            law!(Survivor),
            law!(OneClaim),
            law!(Witness),
            Property::sometimes("S1 activated", |_, world: &World| world.is_activated()),
            Property::sometimes("S2 a wiped voter is replaced", |c: &Self, world: &World| world.is_mended(c.members)),
            Property::sometimes("every member votes and admits", |c: &Self, world: &World| world.is_whole(c.members)),
        ]
    }
}

/// How many of a config vote; for tables.
pub fn votes(world: &World, lineage: u8) -> usize {
    voters(world.config(lineage))
}
