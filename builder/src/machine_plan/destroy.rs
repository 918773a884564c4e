//! Taking machines away. Their data volumes stay, except those of nodes that are named.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeSet;

use super::{Act, MachinePlan, Step, Survey, Wished};
use crate::host::Lack;

/// What the operator allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroy {
    /// Machines that run are powered off.
    pub power_off: bool,
    /// Nodes whose data volumes go too, by name.
    pub with_data: BTreeSet<String>,
}

/// Takes the machines of these nodes away, wherever they are.
pub fn destroy(doomed: &[Wished], survey: &Survey, order: &Destroy) -> MachinePlan {
    let mut plan = MachinePlan::over(survey);
    for one in doomed {
        node(&mut plan, one, survey, order);
    }
    if plan.refusals.is_empty() {
        // Of the nodes' own hosts even if nothing is left there to be done: a run that was cut off may have got just so far.
        let own = doomed.iter().map(|one| &one.host).filter(|host| survey.0.get(*host).is_some_and(Result::is_ok));
        let hosts: BTreeSet<String> = plan.steps.iter().map(|step| &step.host).chain(own).cloned().collect();
        plan.steps.extend(hosts.into_iter().map(|host| Step { host, node: None, act: Act::Collect }));
    }
    plan
}

fn node(plan: &mut MachinePlan, wished: &Wished, survey: &Survey, order: &Destroy) {
    let node = wished.node();
    let with_data = order.with_data.contains(node);
    let step = |host: &str, act| Step { host: host.to_owned(), node: Some(node.to_owned()), act };
    let mut found = false;
    for (host, seen) in survey.machines(node) {
        found = true;
        if !seen.trouble.is_empty() {
            plan.refusals.extend(seen.trouble.iter().map(|lack| Lack {
                what: format!("{node} ({} on {host}) must not be touched: {}", seen.handle, lack.what),
                remedy: lack.remedy.clone(),
            }));
            continue;
        }
        if seen.running {
            if !order.power_off {
                plan.refuse(format!("{node} runs on {host}"), "power it off first, or let it be done: --power-off");
                continue;
            }
            plan.steps.push(step(host, Act::PowerOff));
        }
        plan.steps.push(step(host, Act::Destroy { with_data }));
    }
    if !found && with_data && survey.0.get(&wished.host).is_some_and(Result::is_ok) {
        // The machine is gone, by an earlier run or one that was cut off; its data volume may not be.
        plan.steps.push(step(&wished.host, Act::Destroy { with_data }));
    }
}
