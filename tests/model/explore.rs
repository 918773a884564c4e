//! Runs the checker over one configuration and says what came of it.
#![expect(clippy::disallowed_methods, reason = "an edge: measures how long an exploration takes")]

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model as _, Path};

use crate::cluster::{Action, Cluster};
use crate::law::Law;
use crate::world::World;

/// What an exploration found.
#[derive(Debug)]
pub struct Explored {
    /// States generated, revisits included.
    pub states: usize,
    /// Different states.
    pub unique: usize,
    /// Longest path.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Nothing was left to explore. Else the bounds were reached, or something was found.
    pub exhausted: bool,
    /// Laws broken, with the steps that lead there.
    pub broken: Vec<(&'static str, Vec<Action>, World)>,
    /// Goals reached.
    pub reached: Vec<&'static str>,
}

/// Where an exploration ends at the latest.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// This many states generated.
    pub states: usize,
    /// This long.
    pub time: Duration,
    /// This many threads.
    pub threads: usize,
}

/// Explores until everything was seen, a law is broken, or a bound is met.
pub fn explore(cluster: Cluster, bounds: Bounds) -> Explored {
    let begun = Instant::now();
    let checker = cluster
        .checker()
        .threads(bounds.threads)
        .target_state_count(bounds.states)
        .timeout(bounds.time)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let took = begun.elapsed();
    let laws = Law::ALL.map(Law::name);
    let (mut broken, mut reached) = (Vec::new(), Vec::new());
    for (name, path) in checker.discoveries() {
        if laws.contains(&name) {
            let (steps, last) = steps(path);
            broken.push((name, steps, last));
        } else {
            reached.push(name);
        }
    }
    let within = checker.state_count() < bounds.states && took < bounds.time;
    Explored {
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        took,
        exhausted: within && broken.is_empty(),
        broken,
        reached,
    }
}

fn steps(path: Path<World, Action>) -> (Vec<Action>, World) {
    let last = path.last_state().clone();
    (path.into_actions(), last)
}

impl Explored {
    /// One line for a table.
    pub fn line(&self) -> String {
        let verdict = match (self.broken.first(), self.exhausted) {
            (Some((law, steps, _)), _) => format!("BROKEN: {law}, in {} steps", steps.len()),
            (None, true) => "holds; exhausted".to_owned(),
            (None, false) => "holds as far as explored".to_owned(),
        };
        format!(
            "{:>11} states {:>10} unique  depth {:>3} {:>7.1} s  {verdict}",
            self.states,
            self.unique,
            self.depth,
            self.took.as_secs_f64()
        )
    }
}
