//! Carrying a plan out: hosts side by side, the steps of each in their order, and each step looked at after it was done.
//!
//! Every step is idempotent and the hosts show what was done, so a plan that was cut off is made anew from what is seen and goes on.

use anyhow::{Context as _, Result, anyhow, bail};
use kiln_firstboot::digest::Sha256Digest;

use super::progress::Tell;
use super::{Fleet, need};
use crate::exit::Refusal;
use crate::generations;
use crate::host::{Host, Lack, Machine, Seen};
use crate::machine_plan::{Act, MachinePlan, Step, Wished};

impl Fleet {
    /// Refuses what a host cannot do, before anything is done on any.
    ///
    /// # Errors
    /// A [`Refusal`] with all that is lacking; when a host cannot be asked.
    pub fn preflight(&self, plan: &MachinePlan) -> Result<()> {
        let mut lacks: Vec<Lack> = Vec::new();
        for host in hosts_of(plan) {
            let need = need(plan, host, &self.profile, |key| Ok(self.image(key)?.bytes))?;
            let found = self.host(host)?.preflight(&need).with_context(|| format!("asking the host `{host}`"))?;
            lacks.extend(found.into_iter().map(|lack| Lack { what: format!("{host}: {}", lack.what), ..lack }));
        }
        let Some((last, others)) = lacks.split_last() else { return Ok(()) };
        let others: String = others.iter().map(|lack| format!("{lack}\n")).collect();
        Err(Refusal::new(format!("{others}{}", last.what), last.remedy.clone()).into())
    }

    /// Carries out the steps of a plan. `cast` are the machines it is about. What fails on one host does not stop another.
    ///
    /// # Errors
    /// Of the first host, by name, on which a step failed; those of the others are logged.
    pub fn run(&self, plan: &MachinePlan, cast: &[Wished], tell: &dyn Tell) -> Result<()> {
        let on = |host: &str| {
            let driver = self.host(host)?;
            for step in plan.steps.iter().filter(|step| step.host == host) {
                self.step(driver, step, cast, tell).with_context(|| step.to_string())?;
            }
            Ok(())
        };
        let hosts = hosts_of(plan);
        let ended: Vec<Result<()>> = match hosts.as_slice() {
            [one] => vec![on(one)],
            several => std::thread::scope(|scope| {
                let begun: Vec<_> = several.iter().map(|host| scope.spawn(|| on(host))).collect();
                let died = |_| Err(anyhow!("the thread of a host died"));
                begun.into_iter().map(|host| host.join().unwrap_or_else(died)).collect()
            }),
        };
        let mut failed = ended.into_iter().filter_map(Result::err);
        let Some(first) = failed.next() else { return Ok(()) };
        failed.for_each(|other| log::error!("{other:#}"));
        Err(first)
    }

    fn step(&self, host: &dyn Host, step: &Step, cast: &[Wished], tell: &dyn Tell) -> Result<()> {
        let told = tell.begin(step);
        let Some(node) = &step.node else {
            match step.act {
                Act::Upload { image } => {
                    let transfer = host.ensure_image(&self.image(&image)?, told.watch())?;
                    told.done(&if transfer.bytes == 0 {
                        "it is there".into()
                    } else {
                        format!("{} bytes sent", transfer.bytes)
                    });
                }
                Act::Collect => {
                    let collected = host.collect(&self.kept()?)?;
                    told.done(&format!("{} volumes, {} bytes", collected.volumes.len(), collected.bytes));
                }
                Act::Create { .. }
                | Act::Redefine
                | Act::ReplaceSeed
                | Act::ReplaceRoot { .. }
                | Act::RestoreRoot
                | Act::DropPrevious
                | Act::WipeData
                | Act::PowerOn
                | Act::PowerOff
                | Act::Destroy { .. } => bail!("the step names no node"),
            }
            return Ok(());
        };
        let wished = cast.iter().find(|w| w.node() == node).with_context(|| format!("nothing is known of `{node}`"))?;
        self.on_machine(host, step.act, &wished.machine)?;
        let after = host.survey(&wished.machine.mark.cluster).context("looking at what was done")?;
        let after = after.iter().find(|seen| seen.mark.node == *node);
        if let Some(missing) = missing(step.act, after, &wished.seed) {
            bail!("it was done and does not show: {missing}");
        }
        told.done("");
        Ok(())
    }

    fn on_machine(&self, host: &dyn Host, act: Act, machine: &Machine) -> Result<()> {
        let seed = || self.seed(&machine.mark.node);
        match act {
            Act::Create { root } => host.ensure_machine(machine, root, &self.image(&root.image)?, &seed()?),
            Act::Redefine => host.redefine(machine),
            Act::ReplaceSeed => host.replace_seed(machine, &seed()?),
            Act::ReplaceRoot { root } => host.replace_root(machine, root, &self.image(&root.image)?),
            Act::RestoreRoot => host.restore_root(machine),
            Act::DropPrevious => host.drop_previous_root(machine),
            Act::WipeData => host.wipe_data(machine),
            Act::PowerOn => host.power_on(machine),
            Act::PowerOff => host.power_off(machine, self.patience),
            Act::Destroy { with_data } => host.destroy(machine, with_data),
            Act::Upload { .. } | Act::Collect => bail!("the step is of no one node"),
        }
    }

    /// Images that stay on a host though nothing lies over them: those that machines may be made from next, of every cluster this store has
    /// deployed. By the digest of their files, which is what hosts know them by.
    fn kept(&self) -> Result<Vec<Sha256Digest>> {
        let current = generations::current_images(&self.store)?;
        // One that is gone from the store cannot be deployed either.
        Ok(current.iter().filter_map(|key| self.image(key).ok()).map(|image| image.sha256).collect())
    }
}

fn hosts_of(plan: &MachinePlan) -> Vec<&str> {
    let mut hosts: Vec<&str> = plan.steps.iter().map(|step| step.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// What should show after a step and does not.
fn missing(act: Act, after: Option<&Seen>, seed: &Sha256Digest) -> Option<String> {
    let Some(seen) = after else {
        return (!matches!(act, Act::Destroy { .. })).then(|| "the machine is not there".into());
    };
    let unless = |shows: bool, missing: &str| (!shows).then(|| missing.to_owned());
    match act {
        Act::Create { root } | Act::ReplaceRoot { root } => unless(seen.root == Some(root), "it has another root"),
        Act::ReplaceSeed => unless(seen.seed == Some(*seed), "it has another seed"),
        Act::DropPrevious | Act::RestoreRoot => unless(seen.previous.is_none(), "it has a previous root"),
        Act::PowerOn => unless(seen.running, "it is off"),
        Act::PowerOff => unless(!seen.running, "it runs"),
        Act::Destroy { .. } => Some("the machine is there".into()),
        Act::WipeData => unless(seen.data_bytes.is_some(), "it has no data volume"),
        Act::Upload { .. } | Act::Redefine | Act::Collect => None,
    }
}
