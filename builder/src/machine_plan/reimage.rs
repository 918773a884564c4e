//! Imaging a node again, going back to the root it had, and being done with that root.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeSet;

use super::{Act, MachinePlan, Step, Stopped, Survey, Wished};
use crate::host::Root;

/// The generation of a root that is there only to be replaced by a fresh one of the generation before. None is ever deployed as this.
pub const ON_ITS_WAY: u64 = 0;

/// How a node is imaged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reimage {
    /// The root it gets.
    pub root: Root,
    /// It gets that root anew even if it has it already. Its old one, which is the same, is not kept then.
    pub anew: bool,
    /// It gets a blank data volume.
    pub wipe_data: bool,
}

/// Gives a node's machine a root, its seed as it is now, and its data volume back or a blank one, and powers it on. One that is not there is
/// made. The root it had is kept.
pub fn reimage(wished: &Wished, survey: &Survey, order: Reimage) -> MachinePlan {
    let mut plan = MachinePlan::over(survey);
    if steps(&mut plan, wished, survey, order).is_err() {
        plan.steps.clear();
    }
    plan
}

fn steps(plan: &mut MachinePlan, wished: &Wished, survey: &Survey, order: Reimage) -> Result<(), Stopped> {
    let Reimage { root, anew, wipe_data } = order;
    let seen = plan.one(wished, survey)?;
    let push = |plan: &mut MachinePlan, act| plan.steps.push(wished.step(act));
    let Some(seen) = seen else {
        plan.create(wished, root);
        if wipe_data {
            // A machine that was destroyed leaves its data volume, which the one that is made now has taken.
            push(plan, Act::WipeData);
        }
        push(plan, Act::PowerOn);
        return Ok(());
    };
    if !wipe_data {
        plan.room(wished, seen)?;
    }
    let same = seen.root == Some(root);
    if !same || anew {
        // While it still runs: a node is off for as short as can be.
        plan.upload(wished, root);
    }
    let seed_or_shape = seen.seed != Some(wished.seed) || !wished.differences(seen).is_empty();
    if seen.running {
        if same && !anew && !wipe_data && !seed_or_shape {
            return Ok(());
        }
        push(plan, Act::PowerOff);
    }
    if seen.data_bytes.is_none() {
        plan.create(wished, seen.root.unwrap_or(root));
    }
    plan.adjust(wished, seen);
    let begun = seen.root.is_some_and(|root| root.generation == ON_ITS_WAY);
    if same && anew {
        // A host does nothing when it is to replace a root by itself.
        push(plan, Act::ReplaceRoot { root: Root { generation: ON_ITS_WAY, ..root } });
    }
    if !same && (seen.root.is_some() || seen.data_bytes.is_some()) || same && anew {
        push(plan, Act::ReplaceRoot { root });
    }
    if same && anew || begun {
        push(plan, Act::DropPrevious);
    }
    if wipe_data {
        push(plan, Act::WipeData);
    }
    push(plan, Act::PowerOn);
    Ok(())
}

/// Gives a node's machine the root `to` back and powers it on: the one that was kept, if that is it. Data volume and seed stay.
pub fn give_back(wished: &Wished, survey: &Survey, to: Root) -> MachinePlan {
    let mut plan = MachinePlan::over(survey);
    let Ok(seen) = plan.one(wished, survey) else { return plan };
    let Some(seen) = seen else {
        let node = wished.node();
        plan.refuse(format!("{node} has no machine"), format!("make it: kiln deploy PROFILE {node}"));
        return plan;
    };
    if seen.root == Some(to) {
        if !seen.running {
            plan.steps.push(wished.step(Act::PowerOn));
        }
        return plan;
    }
    let kept = seen.previous == Some(to);
    if !kept {
        plan.upload(wished, to);
    }
    if seen.running {
        plan.steps.push(wished.step(Act::PowerOff));
    }
    plan.steps.push(wished.step(if kept { Act::RestoreRoot } else { Act::ReplaceRoot { root: to } }));
    plan.steps.push(wished.step(Act::PowerOn));
    plan
}

/// Drops the roots that nodes had before, and collects images that nothing lies over then. The nodes are left as they are.
pub fn settle(settled: &[Wished], survey: &Survey) -> MachinePlan {
    let mut plan = MachinePlan::over(survey);
    let mut hosts = BTreeSet::new();
    for wished in settled {
        let Ok(Some(seen)) = plan.one(wished, survey) else { continue };
        hosts.insert(wished.host.clone());
        if seen.previous.is_some() {
            plan.steps.push(wished.step(Act::DropPrevious));
        }
    }
    plan.steps.extend(hosts.into_iter().map(|host| Step { host, node: None, act: Act::Collect }));
    plan
}
