//! One node at a time: imaged again, or given back the root it had.

use std::time::Duration;

use anyhow::Result;

use super::journal::{Doing, Entry, Journal};
use super::progress::Tell;
use super::{Fleet, admit};
use crate::exit::{Refusal, TryAgain};
use crate::generations::{self, Generation};
use crate::host::Root;
use crate::machine_plan::{self, Act, MachinePlan, ON_ITS_WAY, Wished};

/// How a node is to be imaged again.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The root it gets.
    pub root: Root,
    /// It gets a blank data volume: what it holds is lost.
    pub wipe_data: bool,
    /// It is done even if the cluster is without a quorum then.
    pub lose_quorum: bool,
    /// What an interrupted run had begun is not gone on with.
    pub afresh: bool,
    /// How long is waited for the node to serve; not at all if none.
    pub wait: Option<Duration>,
}

impl Fleet {
    /// Images a node again: its machine gets a fresh root, its seed as it is now, and its data volume back or a blank one. The root it had is
    /// kept until it serves, and dropped then. Cut off anywhere, the same order goes on, and a volume that was wiped is not wiped again.
    ///
    /// # Errors
    /// A [`Refusal`] when it would be unsafe; [`TryAgain`] when the node does not serve in time, its old root is kept then.
    pub fn reimage(&self, node: &str, order: &Order, tell: &dyn Tell) -> Result<()> {
        let Order { root, wipe_data, lose_quorum, afresh, wait } = *order;
        let wished = self.wished_of(node)?;
        let node = wished.node();
        let journal = Journal::of(&self.dir, node);
        let doing = Doing::Reimage { root, wipe_data };
        let found = journal.read()?.filter(|found| !afresh && found.doing == doing);
        if found.is_some_and(|found| found.ready) {
            log::info!(
                "{node} was made ready by an earlier run, and is gone on with: from the beginning with --afresh"
            );
        } else {
            let survey = self.survey();
            let has = survey.machines(node).any(|(_, seen)| seen.root == Some(root));
            // Where a run was cut off that had another root to replace, that it has this one now is that run's doing.
            let anew = found.map_or(has, |found| found.anew);
            let plan = machine_plan::reimage(&wished, &survey, machine_plan::Reimage { root, anew, wipe_data });
            admit(&plan)?;
            if found.is_none() && !lose_quorum {
                self.spare(node, wipe_data)?;
            }
            self.preflight(&plan)?;
            let begun = Entry::begun(doing, anew);
            journal.write(&begun)?;
            self.run(&but_power_on(plan), std::slice::from_ref(&wished), tell)?;
            journal.write(&Entry { ready: true, ..begun })?;
        }
        self.power_on(&wished, tell)?;
        self.await_it(&wished, root, wait, tell)?;
        journal.close()
    }

    /// Gives a node the root back that was kept when it was imaged again.
    ///
    /// # Errors
    /// A [`Refusal`] when none was kept, or it would be unsafe; [`TryAgain`] when the node does not serve in time.
    pub fn rollback(&self, node: &str, lose_quorum: bool, wait: Option<Duration>, tell: &dyn Tell) -> Result<Root> {
        let wished = self.wished_of(node)?;
        let node = wished.node();
        let journal = Journal::of(&self.dir, node);
        let survey = self.survey();
        let under_way = journal.read()?.and_then(|entry| match entry.doing {
            Doing::Rollback { to } => Some(to),
            Doing::Reimage { .. } => None,
        });
        let previous = survey.machines(node).find_map(|(_, seen)| seen.previous).filter(|p| p.generation != ON_ITS_WAY);
        let to = under_way.or(previous).ok_or_else(|| {
            let remedy =
                format!("give it an earlier generation: kiln reimage {} {node} --generation N", self.profile.name);
            Refusal::new(format!("no previous root of {node} is kept"), remedy)
        })?;
        let plan = machine_plan::give_back(&wished, &survey, to);
        admit(&plan)?;
        if under_way.is_none() && !lose_quorum {
            self.spare(node, false)?;
        }
        self.preflight(&plan)?;
        journal.write(&Entry::begun(Doing::Rollback { to }, false))?;
        self.run(&plan, std::slice::from_ref(&wished), tell)?;
        self.await_it(&wished, to, wait, tell)?;
        journal.close()?;
        Ok(to)
    }

    /// Has a node's machine run on this root with its data kept, and returns once it is powered on. Does nothing to one that does already: for
    /// a rollout, which waits itself, and drops what was kept once all nodes are through ([`Fleet::settle`]).
    ///
    /// # Errors
    /// A [`Refusal`] when it would be unsafe for the machine; whether the cluster can spare it is the caller's to know. When a step fails.
    pub fn take(&self, node: &str, root: Root, tell: &dyn Tell) -> Result<()> {
        let wished = self.wished_of(node)?;
        let order = machine_plan::Reimage { root, anew: false, wipe_data: false };
        let plan = machine_plan::reimage(&wished, &self.survey(), order);
        admit(&plan)?;
        self.run(&plan, std::slice::from_ref(&wished), tell)
    }

    /// Has a node's machine run on this root again: the one that was kept, if that is it. Otherwise as [`Fleet::take`].
    ///
    /// # Errors
    /// As [`Fleet::take`].
    pub fn give_back(&self, node: &str, to: Root, tell: &dyn Tell) -> Result<()> {
        let wished = self.wished_of(node)?;
        let plan = machine_plan::give_back(&wished, &self.survey(), to);
        admit(&plan)?;
        self.run(&plan, std::slice::from_ref(&wished), tell)
    }

    /// The cluster is to run this generation: it becomes the current one, and roots that were kept are dropped. Machines are left as they are.
    ///
    /// # Errors
    /// When the store cannot be written, or a step fails.
    pub fn settle(&self, generation: &Generation, tell: &dyn Tell) -> Result<()> {
        generations::switch(&self.store, &self.series, generation)?;
        let wished = self.wished()?;
        self.run(&machine_plan::settle(&wished, &self.survey()), &wished, tell)
    }

    fn power_on(&self, wished: &Wished, tell: &dyn Tell) -> Result<()> {
        let survey = self.survey();
        let mut plan = MachinePlan::default();
        match survey.machines(wished.node()).next() {
            Some((_, seen)) if seen.running => return Ok(()),
            Some(_) => plan.steps.push(machine_plan::Step {
                host: wished.host.clone(),
                node: Some(wished.node().to_owned()),
                act: Act::PowerOn,
            }),
            None => {
                let remedy = format!("begin anew: kiln reimage {} {} --afresh", self.profile.name, wished.node());
                return Err(Refusal::new(
                    format!("the machine of {} is gone since it was made ready", wished.node()),
                    remedy,
                )
                .into());
            }
        }
        self.run(&plan, std::slice::from_ref(wished), tell)
    }

    /// Waits for the node, and drops the root it had before once it serves.
    fn await_it(&self, wished: &Wished, root: Root, wait: Option<Duration>, tell: &dyn Tell) -> Result<()> {
        let Some(limit) = wait else { return Ok(()) };
        let (profile, node) = (&self.profile.name, wished.node());
        let lacking = self.await_health(std::slice::from_ref(self.node(node)?), Some(root.image), limit)?;
        if let Some((_, lacks)) = lacking.first() {
            let kept =
                self.survey().machines(node).find_map(|(_, seen)| seen.previous).filter(|p| p.generation != ON_ITS_WAY);
            let hint = match kept {
                Some(kept) => format!(
                    "generation {} is kept and can be put back: kiln rollback {profile} {node}",
                    kept.generation
                ),
                None => format!("look at its console on {}; the same command goes on waiting", wished.host),
            };
            return Err(TryAgain(format!(
                "{node} does not serve after {} s: {lacks}\n  hint: {hint}",
                limit.as_secs()
            ))
            .into());
        }
        let settled = std::slice::from_ref(wished);
        self.run(&machine_plan::settle(settled, &self.survey()), settled, tell)
    }
}

fn but_power_on(mut plan: MachinePlan) -> MachinePlan {
    plan.steps.retain(|step| step.act != Act::PowerOn);
    plan
}
