//! What holds of every rollout, whatever happens meanwhile: a small cluster that obeys physics, operators who die between and within acts, and
//! everything else at random.

use proptest::prelude::*;

use super::tests::{NOW, id, image, machine, name, observation, record, root, serving, silent};
use super::*;
use crate::rollout::record::NodeState;

/// The generation that is rolled out, and the one before.
const NEW: u64 = 2;
const OLD: u64 = 1;
/// Seconds between two looks.
const PACE: i64 = 20;
/// Looks in which anything may happen; after them nothing does, so that the rollout has to come to its end.
const STORMY: usize = 60;
/// Looks after which a rollout that nothing disturbs has ended: nine nodes, each with three attempts both ways and two full waits of
/// 300 s, a look every 20 s.
const ENOUGH: usize = 9 * 8 * (300 / 20 + 1);

/// One machine.
#[derive(Clone, Debug)]
struct Machine {
    generation: u64,
    previous: Option<u64>,
    on: bool,
    /// Looks until it serves, once on.
    boots: u32,
    /// The world made it fall silent; it may end that.
    cut: bool,
    /// Its host does not let anybody look.
    hidden: bool,
    /// Its agent or etcd does not come up with the new generation.
    broken: bool,
    lags: bool,
}

impl Machine {
    fn serves(&self) -> bool {
        self.on && self.boots == 0 && !self.cut && !(self.broken && self.generation == NEW)
    }
}

/// What the world does between two looks.
#[derive(Clone, Copy, Debug)]
enum Event {
    Nothing,
    /// A member falls silent, or is heard again.
    Cut(usize),
    Hide(usize),
    Lag(usize),
    Alarm,
    Lead(usize),
    Pause,
    Resume,
    Abort,
}

/// Where the operator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    No,
    BeforeWriting,
    AfterWriting,
    /// With the machine off and its root as it was.
    PoweredOff,
    /// With the root replaced and the machine off.
    Replaced,
    AfterAct,
}

#[derive(Debug)]
struct World {
    now: i64,
    machines: Vec<Machine>,
    leader: usize,
    alarm: bool,
    record: Record,
}

impl World {
    fn quorum(&self) -> bool {
        self.machines.iter().filter(|m| m.serves()).count() > self.machines.len() / 2
    }

    fn elect(&mut self) {
        if !self.machines[self.leader].serves()
            && self.quorum()
            && let Some(next) = self.machines.iter().position(Machine::serves)
        {
            self.leader = next;
        }
    }

    fn look(&self) -> Observation {
        let views = self.machines.iter().enumerate().map(|(n, m)| {
            let at = machine(n, root(m.generation), m.on);
            let mut view = if m.serves() { serving(n, m.generation, self.leader) } else { silent(n, at.clone()) };
            view.machine = if m.hidden { Err("its host is silent".into()) } else { Ok(Some(at)) };
            if let Ok(etcd) = &mut view.etcd {
                etcd.applied_index = if m.lags { 10 } else { 5_000 };
            }
            view
        });
        let mut seen = observation(self.now, views.collect());
        seen.alarms = if self.alarm { vec!["NOSPACE".into()] } else { Vec::new() };
        seen
    }

    fn happens(&mut self, event: Event) {
        let of = |n: usize, machines: &[Machine]| n % machines.len();
        match event {
            Event::Nothing => {}
            Event::Cut(n) => {
                let n = of(n, &self.machines);
                self.machines[n].cut ^= true;
            }
            Event::Hide(n) => {
                let n = of(n, &self.machines);
                self.machines[n].hidden ^= true;
            }
            Event::Lag(n) => {
                let n = of(n, &self.machines);
                self.machines[n].lags ^= true;
            }
            Event::Alarm => self.alarm ^= true,
            Event::Lead(n) => {
                let n = of(n, &self.machines);
                if self.machines[n].serves() {
                    self.leader = n;
                }
            }
            Event::Pause => self.wish(Wish::Pause { by: "bob@lap".into(), at: self.now }),
            Event::Resume => self.wish(Wish::Go),
            Event::Abort => self.wish(Wish::Abort { by: "bob@lap".into(), at: self.now }),
        }
        self.elect();
    }

    fn wish(&mut self, wish: Wish) {
        if self.quorum() {
            self.record = self.record.wishing(wish, self.now, "bob@lap");
        }
    }

    fn calm(&mut self) {
        self.alarm = false;
        for machine in &mut self.machines {
            (machine.cut, machine.hidden, machine.lags) = (false, false, false);
        }
        self.elect();
    }

    fn passes(&mut self) {
        self.now += PACE;
        for machine in self.machines.iter_mut().filter(|m| m.on) {
            machine.boots = machine.boots.saturating_sub(1);
        }
        self.elect();
    }

    /// Nodes that an operator's hands have made not serve.
    fn by_our_hand(&self) -> Vec<usize> {
        let down = |m: &Machine| !m.on || m.boots > 0 || (m.broken && m.generation == NEW);
        (0..self.machines.len()).filter(|n| down(&self.machines[*n])).collect()
    }

    /// Has a node run a generation, as far as the operator lives to see.
    fn give(&mut self, node: &str, generation: u64, death: Death) {
        let n = self.index(node);
        let machine = &mut self.machines[n];
        if machine.on && machine.generation == generation {
            return;
        }
        machine.on = false;
        if death == Death::PoweredOff {
            return;
        }
        if machine.generation != generation {
            machine.previous = Some(machine.generation);
            machine.generation = generation;
        }
        if death == Death::Replaced {
            return;
        }
        (machine.on, machine.boots) = (true, 2);
    }

    fn index(&self, node: &str) -> usize {
        (0..self.machines.len()).find(|n| name(*n) == node).expect("acts name nodes of the cluster")
    }

    /// One round of an operator, and what it decided; nothing without a quorum, for then there is no record to read.
    fn round(&mut self, death: Death) -> Result<Option<Act>, TestCaseError> {
        if !self.quorum() {
            return Ok(None);
        }
        let seen = self.look();
        let act = decide(&seen, &self.record);
        self.lawful(&seen, &act)?;
        if death == Death::BeforeWriting {
            return Ok(Some(act));
        }
        self.record = self.record.before(&act, self.now, "ann@desk");
        if death == Death::AfterWriting {
            return Ok(Some(act));
        }
        match &act {
            Act::Take { node, .. } => self.give(node, NEW, death),
            Act::RollBack { node, to, .. } => {
                let machine = &self.machines[self.index(node)];
                let kept = machine.generation == to.generation || machine.previous == Some(to.generation);
                prop_assert!(kept, "rolled back to a root that was not kept");
                self.give(node, to.generation, death);
            }
            Act::MoveLeader { to, .. } => {
                let to = self.index(to);
                if self.machines[to].serves() {
                    self.leader = to;
                }
            }
            Act::Note { .. } | Act::Wait(_) | Act::Refuse(_) | Act::End(_) | Act::Rest => {}
        }
        self.elect();
        Ok(Some(act))
    }

    /// What must hold of an act in the world as it is.
    fn lawful(&self, seen: &Observation, act: &Act) -> Result<(), TestCaseError> {
        let hand = |state: &NodeState| matches!(state, NodeState::Taken { .. } | NodeState::RollingBack { .. });
        let held = self.record.nodes.iter().filter(|node| hand(&node.state)).count();
        prop_assert!(held <= 1, "more than one node in hand: {:?}", self.record);
        let (node, taken) = match act {
            Act::Take { node, .. } => (node, true),
            Act::RollBack { node, .. } => (node, false),
            Act::End(_) => {
                prop_assert_eq!(held, 0, "it ended with a node in hand");
                return Ok(());
            }
            Act::Note { .. } | Act::MoveLeader { .. } | Act::Wait(_) | Act::Refuse(_) | Act::Rest => return Ok(()),
        };
        let n = self.index(node);
        let others: Vec<usize> = self.by_our_hand().into_iter().filter(|other| *other != n).collect();
        prop_assert!(others.is_empty(), "{} and {others:?} would be down at once", node);
        if self.machines[n].serves() {
            let down = (0..self.machines.len()).filter(|m| *m != n && !self.machines[*m].serves()).count();
            prop_assert_eq!(down, 0, "a voter is touched while another one is away");
        }
        if taken && self.machines[n].serves() {
            prop_assert_eq!(gate::of_cluster(seen, &self.record.target), None, "taken through a closed gate");
            prop_assert_ne!(self.leader, n, "taken while it leads");
            prop_assert!(self.record.wish == Wish::Go || self.record.in_hand().is_some(), "taken against a wish");
        }
        Ok(())
    }

    /// The record says what the world is.
    fn consistent(&self) -> Result<(), TestCaseError> {
        for (n, node) in self.record.nodes.iter().enumerate() {
            let runs = self.machines[n].generation;
            match &node.state {
                NodeState::Pending | NodeState::RolledBack { .. } => prop_assert_eq!(runs, OLD, "{}", name(n)),
                NodeState::Already | NodeState::Done { .. } => prop_assert_eq!(runs, NEW, "{}", name(n)),
                NodeState::Taken { .. } | NodeState::RollingBack { .. } => {
                    prop_assert!(false, "{} is in hand at the end", name(n));
                }
                NodeState::Lost { .. } => {}
            }
        }
        Ok(())
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => Just(Event::Nothing),
        2 => (0usize..9).prop_map(Event::Cut),
        1 => (0usize..9).prop_map(Event::Hide),
        1 => (0usize..9).prop_map(Event::Lag),
        1 => Just(Event::Alarm),
        2 => (0usize..9).prop_map(Event::Lead),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
    ]
}

fn death() -> impl Strategy<Value = Death> {
    prop_oneof![
        6 => Just(Death::No),
        1 => Just(Death::BeforeWriting),
        1 => Just(Death::AfterWriting),
        1 => Just(Death::PoweredOff),
        1 => Just(Death::Replaced),
        1 => Just(Death::AfterAct),
    ]
}

fn world() -> impl Strategy<Value = World> {
    (3usize..=9, 0usize..9, prop::collection::vec(prop::bool::weighted(0.1), 9)).prop_map(|(size, leader, broken)| {
        let machine = |broken: &bool| Machine {
            generation: OLD,
            previous: None,
            on: true,
            boots: 0,
            cut: false,
            hidden: false,
            broken: *broken,
            lags: false,
        };
        World {
            now: NOW,
            machines: broken.iter().take(size).map(machine).collect(),
            leader: leader % size,
            alarm: false,
            record: record(size),
        }
    })
}

/// Runs a world through its storm and then to its end; the number of looks after the storm.
fn run(world: &mut World, storm: &[(Event, Death)]) -> Result<usize, TestCaseError> {
    for (event, death) in storm {
        world.happens(*event);
        world.round(*death)?;
        world.passes();
    }
    world.calm();
    world.wish(Wish::Go);
    for look in 0..ENOUGH {
        match world.round(Death::No)? {
            Some(Act::Rest) => return Ok(look),
            // Nothing in this world is for a person to mend once the storm is over: a member that is silent is so by our hand.
            Some(Act::Refuse(gate)) => prop_assert!(false, "refused for ever: {gate}"),
            Some(_) | None => {}
        }
        if world.record.ended.is_none() && !world.quorum() {
            prop_assert!(false, "the rollout cost the quorum: {world:?}");
        }
        world.passes();
    }
    prop_assert!(false, "it does not end: {:?}", world.record);
    Ok(ENOUGH)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Never two at once, never through a closed gate, the leader last; and it ends, with a record that says what is so.
    #[test]
    fn a_rollout_comes_to_its_end_by_lawful_acts_alone(
        mut world in world(),
        storm in prop::collection::vec((event(), death()), 0..STORMY),
    ) {
        run(&mut world, &storm)?;
        world.consistent()?;
        let ended = world.record.ended.clone().expect("it has come to its end");
        match ended.how {
            Ending::Done => prop_assert!(world.machines.iter().all(|m| m.generation == NEW && m.serves())),
            Ending::Stopped { .. } => prop_assert!(world.record.failed().is_some()),
            Ending::Aborted { .. } => prop_assert!(false, "nobody aborted it"),
        }
    }

    /// Without a storm, a sound generation reaches every node at the first attempt, and leadership moves at most once.
    #[test]
    fn a_sound_generation_reaches_every_node(mut world in world()) {
        world.machines.iter_mut().for_each(|m| m.broken = false);
        let (mut moves, mut takes) = (0, Vec::new());
        loop {
            match world.round(Death::No)? {
                Some(Act::Rest) => break,
                Some(Act::MoveLeader { .. }) => moves += 1,
                Some(Act::Take { node, .. }) => takes.push(node),
                Some(_) | None => {}
            }
            world.passes();
        }
        prop_assert_eq!(world.record.ended.map(|ended| ended.how), Some(Ending::Done));
        prop_assert_eq!((moves, takes.len()), (1, world.machines.len()));
    }

    /// A node that does not come back with the new generation is put back on the old one, and nobody is touched after it.
    #[test]
    fn a_broken_generation_stops_at_the_first_node_and_leaves_every_node_serving(mut world in world()) {
        world.machines.iter_mut().for_each(|m| m.broken = true);
        run(&mut world, &[])?;
        world.consistent()?;
        let stopped = matches!(world.record.ended.as_ref().unwrap().how, Ending::Stopped { .. });
        prop_assert!(stopped);
        prop_assert!(world.machines.iter().all(|m| m.generation == OLD && m.serves()));
    }

    /// An abort at any moment, with operators dying around it, leaves nothing in hand and a record that says what every node runs.
    #[test]
    fn an_abort_leaves_a_record_that_is_true(
        mut world in world(),
        before in prop::collection::vec((event(), death()), 0..STORMY),
        after in prop::collection::vec((event(), death()), 0..STORMY),
    ) {
        for (event, death) in before {
            world.happens(event);
            world.round(death)?;
            world.passes();
        }
        world.calm();
        // Somebody who aborts waits until there is a quorum to write that down in.
        for _ in 0..ENOUGH {
            if world.quorum() { break }
            world.passes();
        }
        world.happens(Event::Abort);
        run(&mut world, &after)?;
        world.consistent()?;
        let ended = world.record.ended.clone().expect("it has come to its end").how;
        // It had ended before, or was aborted: whoever is rolled back by an abort is no failure of the generation.
        let aborted = matches!(ended, Ending::Aborted { .. });
        prop_assert_eq!(aborted, matches!(world.record.wish, Wish::Abort { .. }));
        prop_assert!(!matches!(ended, Ending::Done) || world.machines.iter().all(|m| m.generation == NEW));
    }

    /// The same look and the same record, the same act, whoever asks.
    #[test]
    fn a_second_operator_decides_what_the_first_one_would(
        mut world in world(),
        storm in prop::collection::vec((event(), death()), 0..STORMY),
    ) {
        for (event, death) in storm {
            world.happens(event);
            let seen = world.look();
            let copy = Record::parse(&world.record.to_bytes()).expect("a record is read back");
            prop_assert_eq!(decide(&seen, &copy), decide(&seen, &world.record));
            world.round(death)?;
            world.passes();
        }
    }
}

/// The world itself is no harmless one: without its law the decision would be caught.
#[test]
fn the_law_catches_a_second_node_taken() {
    let machine = Machine {
        generation: OLD,
        previous: None,
        on: true,
        boots: 0,
        cut: false,
        hidden: false,
        broken: false,
        lags: false,
    };
    let mut world = World { now: NOW, machines: vec![machine; 3], leader: 2, alarm: false, record: record(3) };
    world.give(&name(0), NEW, Death::No);
    let seen = world.look();
    let act = Act::Take { node: name(1), root: root(NEW), before: root(OLD) };
    assert!(world.lawful(&seen, &act).is_err());
    world.machines[0].boots = 0;
    let seen = world.look();
    assert!(world.lawful(&seen, &act).is_ok());
    world.leader = 1;
    assert!(world.lawful(&world.look(), &act).is_err(), "the leader");
    assert_ne!((image(OLD), id(0)), (image(NEW), id(1)));
}
