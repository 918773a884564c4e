//! `make model`: every configuration, every mutant, every limit; a line each. Fails when one does not come out as it must.
//! With a word behind it, only the configurations whose names have it in them.
#![expect(clippy::print_stdout, reason = "a table for a person")]

use std::process::ExitCode;
use std::time::Duration;

use kiln_model::explore::{Bounds, explore};
use kiln_model::liveness::mended;
use kiln_model::{mutants, plans};

/// A configuration that takes longer ends as "as far as explored". Looked at between blocks of work, so it may be a little more.
const LIMIT: Duration = Duration::from_secs(270);
/// Larger graphs are not searched for L1.
const GRAPH: usize = 3_000_000;

fn main() -> ExitCode {
    let mut good = true;
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for plan in plans::quick().into_iter().chain(plans::full()).filter(|plan| plan.name.contains(&wanted)) {
        let found = explore(plan.cluster, Bounds { states: plan.most, time: LIMIT, threads: 2 });
        println!("{:<68} {}", plan.name, found.line());
        for (law, steps, last) in &found.broken {
            println!("  {law}:");
            steps.iter().for_each(|step| println!("    {step:?}"));
            println!("  {last:?}");
        }
        good &= found.broken.is_empty();
        if !plan.lives {
            continue;
        }
        match mended(plan.cluster, GRAPH) {
            None => println!("{:<68} more than {GRAPH} states, not searched", "  L1"),
            Some(found) => {
                println!(
                    "{:<68} {} states, {} need an operator, {} stuck {:>7.1} s",
                    "  L1",
                    found.states,
                    found.excused,
                    found.stuck_states,
                    found.took.as_secs_f64()
                );
                good &= found.stuck_states == 0;
            }
        }
    }
    for case in mutants::all() {
        let found = explore(case.cluster, Bounds { states: 20_000_000, time: LIMIT, threads: 1 });
        println!("{:<68} {}", format!("mutant {:?}", case.mutant), found.line());
        good &= found.broken.iter().any(|(law, _, _)| *law == case.law.name());
    }
    for (plan, law) in plans::limits() {
        let found = explore(plan.cluster, Bounds { states: plan.most, time: LIMIT, threads: 1 });
        println!("{:<68} {}", format!("limit: {}", plan.name), found.line());
        good &= found.broken.iter().any(|(name, _, _)| *name == law.name());
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
