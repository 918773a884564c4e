//! L1: from every state that can be mended without an operator, some steps without a fault lead to a whole cluster.
//!
//! stateright has no such property (its `eventually` follows single paths), so the graph of all states is built here, with the same steps,
//! and searched backwards from the whole ones. What is shown is that no state is a dead end or leads into a closed loop of waiting; not that
//! an unfair schedule cannot put the end off for ever.
#![expect(clippy::disallowed_methods, reason = "an edge: measures how long an exploration takes")]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use stateright::Model as _;

use crate::cluster::{Action, Cluster};
use crate::raft::majority;
use crate::world::{Phase, World};

/// What the search found.
#[derive(Debug)]
pub struct Mended {
    /// All states that were reached, faults included.
    pub states: usize,
    /// Those that an operator has to see to; the law does not speak of them.
    pub excused: usize,
    /// Whole ones.
    pub whole: usize,
    /// A state that should be mended and cannot be, with the steps that lead there.
    pub stuck: Option<(Vec<Action>, World)>,
    /// How many such there are.
    pub stuck_states: usize,
    /// How long it took.
    pub took: Duration,
}

/// Builds the graph and searches it; nothing when it has more than `most` states.
pub fn mended(cluster: Cluster, most: usize) -> Option<Mended> {
    let begun = Instant::now();
    let mut known: HashMap<u64, u32> = HashMap::new();
    let mut states: Vec<World> = Vec::new();
    let mut cause: Vec<Option<(u32, Action)>> = Vec::new();
    // (to, from) of every step that is no fault.
    let mut edges: Vec<(u32, u32)> = Vec::new();
    for world in cluster.init_states() {
        known.insert(fingerprint(&world), index(states.len()));
        states.push(world);
        cause.push(None);
    }
    let mut next = 0;
    let mut actions = Vec::new();
    while next < states.len() {
        let from = index(next);
        cluster.actions(&states[next], &mut actions);
        for action in actions.drain(..) {
            let Some(world) = cluster.next_state(&states[next], action) else { continue };
            let to = *known.entry(fingerprint(&world)).or_insert_with(|| {
                states.push(world);
                cause.push(Some((from, action)));
                index(states.len() - 1)
            });
            if !matches!(action, Action::Fault(_)) {
                edges.push((to, from));
            }
        }
        if states.len() > most {
            return None;
        }
        next += 1;
    }
    edges.sort_unstable();
    let mut leads = vec![false; states.len()];
    let mut ends: Vec<u32> = Vec::new();
    for (at, world) in states.iter().enumerate() {
        if world.is_whole(cluster.members) {
            leads[at] = true;
            ends.push(index(at));
        }
    }
    let whole = ends.len();
    while let Some(to) = ends.pop() {
        let first = edges.partition_point(|(t, _)| *t < to);
        for (_, from) in edges[first..].iter().take_while(|(t, _)| *t == to) {
            let from_at = usize::try_from(*from).unwrap_or(usize::MAX);
            if !std::mem::replace(&mut leads[from_at], true) {
                ends.push(*from);
            }
        }
    }
    let mut stuck: Vec<usize> = Vec::new();
    let mut excused = 0;
    for (at, world) in states.iter().enumerate() {
        if cluster.needs_operator(world) {
            excused += 1;
        } else if !leads[at] {
            stuck.push(at);
        }
    }
    let example = stuck.first().map(|at| (path(&cause, *at), states[*at].clone()));
    Some(Mended {
        states: states.len(),
        excused,
        whole,
        stuck: example,
        stuck_states: stuck.len(),
        took: begun.elapsed(),
    })
}

/// 64 bits stand for a state, as in stateright itself.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn path(cause: &[Option<(u32, Action)>], at: usize) -> Vec<Action> {
    let mut steps = Vec::new();
    let mut at = at;
    while let Some((from, action)) = cause[at] {
        steps.push(action);
        at = usize::try_from(from).unwrap_or(usize::MAX);
    }
    steps.reverse();
    steps
}

impl Cluster {
    /// What no machine can mend: the window is closed before anything was formed, a majority of a lineage's voters has lost its data, a
    /// node was evicted, a member lost its log, or a volume is away. Without a fault of a disk none of these is an excuse.
    pub fn needs_operator(&self, world: &World) -> bool {
        if self.budget.wipes == world.budget.wipes
            && self.budget.losses == world.budget.losses
            && self.budget.closings == world.budget.closings
            && self.budget.unmounts == world.budget.unmounts
        {
            // A learner that lagged for five minutes was removed; it runs, and ends as evicted.
            return world.disks().any(|disk| matches!(disk.phase, Some(Phase::Evicted { .. })))
                || self.learner_given_up(world);
        }
        let halted = world.slots.iter().any(|s| {
            let lost = matches!(s.disk.phase, Some(Phase::Member { .. })) && s.disk.log.is_none();
            lost || matches!(s.disk.phase, Some(Phase::Evicted { .. })) || !s.mounted
        });
        let broken = world.all_lineages().any(|lineage| {
            let config = world.config(lineage);
            let intact = config.iter().flatten().filter(|m| m.voter && world.survives(lineage, m.id)).count();
            world.top(lineage) > 0 && intact < majority(config)
        });
        // Drawn, and its founder wiped before etcd wrote anything: nothing of it is left but the word.
        let nothing_left = world.all_lineages().any(|lineage| world.top(lineage) == 0);
        let unformed = world.lineages.is_empty();
        halted || broken || (!world.window && (unformed || nothing_left)) || self.learner_given_up(world)
    }

    /// Some replica is of a member that is not listed any more: it is about to be evicted.
    fn learner_given_up(&self, world: &World) -> bool {
        world
            .slots
            .iter()
            .filter_map(|s| s.disk.log)
            .any(|log| world.config(log.lineage).iter().flatten().all(|m| m.id != log.id) && world.top(log.lineage) > 0)
    }
}
