//! Deploying: what is missing is made, what is off is started, what runs is left alone.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use super::reimage::ON_ITS_WAY;
use super::{Act, MachinePlan, Stopped, Survey, Wished};
use crate::host::{Root, Seen};

/// What the operator allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Machines of another generation may stay beside those that are made now.
    pub mixed: bool,
}

/// Has a machine for each of `wished`, on, with `root` where it is made now.
///
/// No root that is whole is ever replaced, and no data volume: bringing nodes to another generation is a rollout's business.
pub fn deploy(wished: &[Wished], survey: &Survey, root: Root, told: Told) -> MachinePlan {
    let mut plan = MachinePlan::over(survey);
    for one in wished {
        if survey.0.get(&one.host).is_some_and(Result::is_err) {
            // The plan says which hosts are silent; the nodes of the others are not held up by that.
            continue;
        }
        let began = plan.steps.len();
        if node(&mut plan, one, survey, root, told).is_err() {
            plan.steps.truncate(began);
        }
    }
    plan
}

fn node(plan: &mut MachinePlan, wished: &Wished, survey: &Survey, root: Root, told: Told) -> Result<(), Stopped> {
    let Some(seen) = plan.one(wished, survey)? else {
        plan.create(wished, root);
        plan.steps.push(wished.step(Act::PowerOn));
        return Ok(());
    };
    plan.room(wished, seen)?;
    if let Some(other) = seen.root.filter(|has| *has != root) {
        generation(plan, wished, other, root, told)?;
    }
    if seen.running { running(plan, wished, seen) } else { off(plan, wished, seen, root) }
}

fn generation(plan: &mut MachinePlan, wished: &Wished, has: Root, root: Root, told: Told) -> Result<(), Stopped> {
    let node = wished.node();
    if has.generation == ON_ITS_WAY {
        plan.refuse(
            format!("{node} was being imaged again, which was cut off"),
            format!("go on: kiln reimage PROFILE {node}"),
        );
        return Err(Stopped);
    }
    let what = format!("{node} has generation {}, not {}", has.generation, root.generation);
    if told.mixed {
        plan.notes.push(format!("{what}, and keeps it"));
        return Ok(());
    }
    plan.refuse(
        what,
        format!(
            "bring all nodes to it, one at a time: kiln rollout PROFILE; or make what is missing as it was: kiln deploy PROFILE --generation {}; or have both: --mixed",
            has.generation
        ),
    );
    Err(Stopped)
}

fn running(plan: &mut MachinePlan, wished: &Wished, seen: &Seen) -> Result<(), Stopped> {
    let node = wished.node();
    if seen.root.is_none() {
        plan.refuse(format!("the root of {node} is not whole, and it runs"), format!("kiln reimage PROFILE {node}"));
        return Err(Stopped);
    }
    let mut later = wished.differences(seen);
    if seen.seed != Some(wished.seed) {
        later.push("another seed than the one there is now".into());
    }
    if !later.is_empty() {
        let later = later.join(", ");
        plan.notes
            .push(format!("{node} runs with {later}: changed when it is imaged again, or deployed while it is off"));
    }
    Ok(())
}

fn off(plan: &mut MachinePlan, wished: &Wished, seen: &Seen, root: Root) -> Result<(), Stopped> {
    if seen.root.is_none() || seen.data_bytes.is_none() {
        plan.create(wished, seen.root.unwrap_or(root));
    }
    plan.adjust(wished, seen);
    plan.steps.push(wished.step(Act::PowerOn));
    Ok(())
}

impl MachinePlan {
    /// Makes the machine, and has its image there first.
    pub(super) fn create(&mut self, wished: &Wished, root: Root) {
        self.upload(wished, root);
        self.steps.push(wished.step(Act::Create { root }));
    }

    /// Has an image on a host, once for all its machines.
    pub(super) fn upload(&mut self, wished: &Wished, root: Root) {
        let step = super::Step { host: wished.host.clone(), node: None, act: Act::Upload { image: root.image } };
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }

    /// Brings seed, memory, processors and card of a machine that is off to what is wished.
    pub(super) fn adjust(&mut self, wished: &Wished, seen: &Seen) {
        if seen.seed != Some(wished.seed) {
            self.steps.push(wished.step(Act::ReplaceSeed));
        }
        if !wished.differences(seen).is_empty() {
            self.steps.push(wished.step(Act::Redefine));
        }
    }
}
