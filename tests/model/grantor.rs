//! What members do for others: grants, promotions, activation; and what clients make them commit.

use crate::cluster::{Action, Begin, Cluster};
use crate::law::Law;
use crate::mutant::Mutant;
use crate::plea::{Plea, Recorded, Ruling, ready, ruling};
use crate::raft::{majority, member, voters};
use crate::world::{Config, GONE, Id, Log, Member, NONE, Pending, Phase, Seat, Step, Task, World};

impl Cluster {
    /// Whether the grantor in slot `g` takes on the request of slot `at`: it is a member there, it does nothing else, and nobody else of that
    /// cluster holds the lock.
    pub fn takes(&self, world: &World, at: usize, g: usize) -> bool {
        let Pending::Join { lineage, .. } = world.slots[at].pending else { return false };
        let grantor = &world.slots[g];
        grantor.on && grantor.seat == Seat::Data(lineage) && grantor.task.is_none() && !is_locked(world, lineage)
    }

    /// The request arrives.
    pub fn ask(&self, world: &mut World, at: usize, g: usize) {
        let caller = &mut world.slots[at];
        caller.pending = Pending::Asking;
        let (name, instance) = (caller.name, caller.volume().instance);
        let caller = u8::try_from(at).unwrap_or(u8::MAX);
        world.slots[g].task = Some(Task { caller, name, instance, live: true, snapshot: false, step: Step::Look });
    }

    /// Everything the grantor may decide; other voters' answers may be lost.
    pub fn grant_steps(&self, world: &World, g: usize, steps: &mut Vec<Action>) {
        let n = u8::try_from(g).unwrap_or(u8::MAX);
        let grantor = &world.slots[g];
        let Some(task) = grantor.task else { return };
        let Some(log) = grantor.replica() else {
            steps.push(Action::GrantEnd(n));
            return;
        };
        let mut plea = self.plea(world, g, task, log);
        let config = plea.config;
        if self.mutant == Some(Mutant::IdReused)
            && let Some(listed) = config[usize::from(task.name)]
        {
            steps.push(Action::GrantLook(n, Step::Reply(listed.id), false));
            return;
        }
        let others = (0..self.members).filter(|name| *name != grantor.name && *name != task.name);
        let voting: Vec<u8> = others.filter(|n| config[usize::from(*n)].is_some_and(|m| m.voter)).collect();
        let running = voting.iter().filter(|n| {
            config[usize::from(**n)].is_some_and(|m| world.runs(log.lineage, m.id)) && self.agent_answers(world, **n)
        });
        let running: u8 = running.fold(0, |set, n| set | (1 << n));
        let all: u8 = voting.iter().fold(0, |set, n| set | (1 << n));
        let ports = self.ports(world, task);
        for answered in (0..=running).filter(|set| set & !running == 0) {
            for listens in &ports {
                plea.answered = answered;
                plea.listens = *listens;
                let (ruling, steady) = ruling(&self.bent_plea(&plea, all));
                let missing = self.members < 5 && answered != all;
                let step = match ruling {
                    Ruling::Add => Action::GrantLook(n, Step::Add, !steady),
                    Ruling::RemoveLearner(id) => Action::GrantLook(n, Step::RemoveLearner(id), !steady),
                    Ruling::RemoveVoter(id) => Action::GrantLook(n, Step::RemoveVoter(id), missing || !steady),
                    Ruling::Snapshot => Action::GrantLook(n, Step::Look, !steady),
                    Ruling::Later | Ruling::Refuse => Action::GrantEnd(n),
                };
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
        }
    }

    /// No name is borne by two machines, nor by a machine and a disk that may come back from a snapshot.
    fn one_machine_each(&self) -> bool {
        self.budget.clones == 0
            && self.budget.twins == 0
            && self.budget.rollbacks == 0
            && matches!(self.begin, Begin::Blank | Begin::Whole)
    }

    fn agent_answers(&self, world: &World, name: u8) -> bool {
        world.slots.iter().any(|s| s.name == name && s.on && matches!(s.seat, Seat::Data(_)))
    }

    /// What a connection to the peer port of the name asked for can find. Where two machines bear the name, either may be reached.
    fn ports(&self, world: &World, task: Task) -> Vec<bool> {
        let mut ports: Vec<bool> = world
            .slots
            .iter()
            .filter(|s| s.name == task.name && s.on)
            .map(|s| s.etcd != crate::world::Etcd::Down)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        // Nobody there: neither accepted nor refused. For a learner that is as good as refused.
        if ports.is_empty() { vec![false] } else { ports }
    }

    fn plea(&self, world: &World, g: usize, task: Task, log: Log) -> Plea {
        let lineage = log.lineage;
        let config = *world.config(lineage);
        let this = &world.lineages[usize::from(lineage)];
        let top = world.top(lineage);
        let leads = |(_, l): &(usize, Log)| l.rank == top && member(&config, l.id).is_some_and(|m| m.voter);
        let silent = config.iter().flatten().filter(|m| !world.runs(lineage, m.id));
        Plea {
            members: self.members,
            generations: (world.slots[g].generation, world.slots[usize::from(task.caller)].generation),
            own: world.slots[g].name,
            serving: world.reads(g),
            own_id: log.id,
            leader: if world.has_quorum(lineage) {
                world.replicas(lineage).find(leads).map(|(_, l)| l.id)
            } else {
                None
            },
            caller: world.slots[usize::from(task.caller)].name,
            asked: task.name,
            config,
            recorded: match this.recorded[usize::from(task.name)] {
                NONE => Recorded::Never,
                GONE => Recorded::Other,
                instance if instance == task.instance => Recorded::Same,
                _ => Recorded::Other,
            },
            listens: false,
            unheard: silent.fold(0, |set, m| set | (1 << m.id)),
            answered: 0,
            snapshot: task.snapshot,
        }
    }

    fn bent_plea(&self, plea: &Plea, all: u8) -> Plea {
        let mut plea = plea.clone();
        match self.mutant {
            Some(Mutant::NoLiveness) => {
                plea.unheard = u16::MAX;
                plea.listens = false;
            }
            Some(Mutant::SameVolumeReplaced) => plea.recorded = Recorded::Other,
            Some(Mutant::RemovalUnderSilence) => plea.answered = all,
            Some(Mutant::ForeignName) => plea.caller = plea.asked,
            Some(Mutant::TwoHoles) => {
                for name in 0..self.members {
                    if plea.config[usize::from(name)].is_none() {
                        plea.config[usize::from(name)] = Some(Member { id: 15, voter: true, started: true });
                        plea.answered |= 1 << name;
                        break;
                    }
                }
            }
            _ => {}
        }
        plea
    }

    /// What promotion and activation rest on.
    pub fn custody(&self, world: &World, config: &Config) -> (u16, bool) {
        let (promotable, complete) = ready(self.members, config);
        match self.mutant {
            Some(Mutant::PromotedUnstarted) => {
                (config.iter().flatten().filter(|m| !m.voter).fold(0, |set, m| set | (1 << m.id)), complete)
            }
            Some(Mutant::ActivationByMajority) => (promotable, voters(config) * 2 > usize::from(self.members)),
            Some(Mutant::SrvDenominator) => {
                let listed = (0..self.members).filter(|name| world.srv & (1 << name) != 0);
                let started = |name: u8| config[usize::from(name)].is_some_and(|m| m.voter && m.started);
                (promotable, listed.clone().all(started))
            }
            _ => (promotable, complete),
        }
    }

    /// Steps of grantors, custodians and clients.
    pub fn member_step(&self, world: &mut World, action: Action) {
        match action {
            Action::GrantLook(n, step, broken) => {
                if broken {
                    world.breach(Law::I10);
                }
                let lineage = world.slots[usize::from(n)].replica().map_or(NONE, |log| log.lineage);
                // Where two machines bear one name, the port that was tried may be the other one's; a learner never voted.
                let running = match step {
                    Step::RemoveVoter(id) => world.runs(lineage, id),
                    Step::RemoveLearner(id) => self.one_machine_each() && world.runs(lineage, id),
                    Step::Look | Step::Add | Step::Reply(_) => false,
                };
                if running {
                    world.breach(Law::I5);
                }
                // The volume that a voter was added with never asks for another's place: it holds that voter's data, or lost it.
                if let (Step::RemoveVoter(_), Some(task)) = (step, world.slots[usize::from(n)].task)
                    && world.lineages[usize::from(lineage)].recorded[usize::from(task.name)] == task.instance
                {
                    world.breach(Law::Survivor);
                }
                if let Some(task) = &mut world.slots[usize::from(n)].task {
                    task.snapshot |= step == Step::Look;
                    task.step = step;
                }
            }
            Action::GrantEnd(n) => world.end_task(n),
            Action::GrantDo(n, slots) => self.grant(world, n, slots),
            Action::Deliver(n) => {
                let at = usize::from(n);
                let Some(log) = world.slots[at].replica() else { return world.end_task(n) };
                let Some(Task { caller, live: true, step: Step::Reply(id), .. }) = world.slots[at].task else { return };
                let caller = &mut world.slots[usize::from(caller)];
                caller.pending = Pending::Idle;
                caller.volume_mut().phase =
                    Some(Phase::Assigned { lineage: log.lineage, id, attempted: false, here: true });
                world.slots[at].task = None;
            }
            Action::Lose(n) => world.slots[usize::from(n)].task = None,
            Action::Publish(lineage, id, slots) => self.publish(world, lineage, id, slots),
            Action::Promote(lineage, id, slots) => {
                let mut config = *world.config(lineage);
                config.iter_mut().flatten().filter(|m| m.id == id).for_each(|m| m.voter = true);
                self.change(world, lineage, slots, config);
            }
            Action::GiveUpLearner(lineage, id, slots) => {
                let config = without(world.config(lineage), id);
                self.change(world, lineage, slots, config);
            }
            Action::Activate(lineage, slots) => {
                let config = *world.config(lineage);
                commit(world, lineage, slots, config);
                world.lineages[usize::from(lineage)].activated = true;
            }
            Action::Write(lineage, slots) => {
                let config = *world.config(lineage);
                commit(world, lineage, slots, config);
                world.lineages[usize::from(lineage)].served = true;
            }
            _ => {}
        }
    }

    fn publish(&self, world: &mut World, lineage: u8, id: Id, slots: u8) {
        let mut config = *world.config(lineage);
        config.iter_mut().flatten().filter(|m| m.id == id).for_each(|m| m.started = true);
        commit(world, lineage, slots, config);
        // The founder's agent records its volume when it first leads; everybody else's was recorded by the grantor.
        let founder = world.replicas(lineage).find(|(_, log)| log.id == id).map(|(slot, _)| slot);
        let this = &mut world.lineages[usize::from(lineage)];
        if let Some(slot) = founder
            && this.roots.contains(&id)
        {
            this.recorded[usize::from(world.slots[slot].name)] = world.slots[slot].volume().instance;
        }
    }

    fn grant(&self, world: &mut World, n: u8, slots: u8) {
        let Some(task) = world.slots[usize::from(n)].task else { return };
        let Some(log) = world.slots[usize::from(n)].replica() else { return world.end_task(n) };
        let lineage = log.lineage;
        let mut config = *world.config(lineage);
        let name = usize::from(task.name);
        let next = match task.step {
            Step::Look | Step::Reply(_) => return,
            // etcd refuses a second member with the same peer URL.
            Step::Add if config[name].is_some() => return world.end_task(n),
            Step::Add => {
                let id = world.fresh_id(lineage);
                config[name] = Some(Member { id, voter: false, started: false });
                world.lineages[usize::from(lineage)].recorded[name] = task.instance;
                Step::Reply(id)
            }
            Step::RemoveLearner(id) | Step::RemoveVoter(id) if member(&config, id).is_none() => {
                return world.end_task(n);
            }
            Step::RemoveLearner(id) | Step::RemoveVoter(id) => {
                let voter = member(&config, id).is_some_and(|m| m.voter);
                if world.runs(lineage, id) {
                    // Where two machines bear one name, the one that was silent may start between the grantor's look and its act. That
                    // takes milliseconds; what it costs is a configuration of its own.
                    if voter && !self.one_machine_each() && !self.late_removals {
                        return world.end_task(n);
                    }
                    if voter || self.one_machine_each() {
                        world.breach(Law::I5);
                    }
                }
                if voter && self.one_machine_each() && world.survives(lineage, id) {
                    world.breach(Law::Survivor);
                }
                config = without(&config, id);
                Step::Look
            }
        };
        self.change(world, lineage, slots, config);
        if let Some(task) = &mut world.slots[usize::from(n)].task {
            task.step = next;
        }
    }

    /// Commits a change of members.
    fn change(&self, world: &mut World, lineage: u8, slots: u8, config: Config) {
        commit(world, lineage, slots, config);
        let intact = config.iter().flatten().filter(|m| m.voter && world.survives(lineage, m.id)).count();
        if intact < majority(&config) {
            world.breach(Law::I4);
        }
    }
}

impl World {
    /// The grantor has nothing more to do for its caller, who hears that if it still waits.
    pub fn end_task(&mut self, n: u8) {
        if let Some(task) = self.slots[usize::from(n)].task.take()
            && task.live
        {
            self.slots[usize::from(task.caller)].pending = Pending::Idle;
        }
    }

    /// Nobody waits any more for what was asked by this slot. An answer under way to it is as good as lost.
    pub fn orphan(&mut self, caller: u8) {
        for slot in &mut self.slots {
            if let Some(task) = slot.task.as_mut().filter(|task| task.caller == caller) {
                task.live = false;
                if matches!(task.step, Step::Reply(_)) {
                    slot.task = None;
                }
            }
        }
    }
}

fn is_locked(world: &World, lineage: u8) -> bool {
    world
        .slots
        .iter()
        .any(|s| s.seat == Seat::Data(lineage) && s.task.is_some_and(|task| !matches!(task.step, Step::Reply(_))))
}

fn without(config: &Config, id: Id) -> Config {
    config.map(|m| m.filter(|m| m.id != id))
}

fn commit(world: &mut World, lineage: u8, slots: u8, config: Config) {
    let slots: Vec<usize> = (0..8).filter(|slot| slots & (1 << slot) != 0).collect();
    world.commit(lineage, &slots, config);
}
