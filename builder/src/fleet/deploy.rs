//! Deploying and destroying: whole clusters or single nodes.

use anyhow::Result;

use super::progress::Tell;
use super::{Fleet, admit, require_all};
use crate::exit::Refusal;
use crate::generations::{self, Generation, Generations};
use crate::host::Root;
use crate::machine_plan::{self, Destroy, MachinePlan, Survey, Told, Wished};
use crate::store::RootKind;

impl Fleet {
    /// The generation that is to be deployed: the one of that number, or else the profile's last build, which may be a new one. Nothing is written.
    ///
    /// # Errors
    /// A [`Refusal`] when there is no such generation, or no build.
    pub fn choose(&self, survey: &Survey, number: Option<u64>, now: i64) -> Result<(Generation, Generations)> {
        let name = &self.profile.name;
        let generations = Generations::read(&self.store, &self.series)?;
        let chosen = match number {
            Some(number) => generations.numbered(number)?,
            None => {
                let built = self.store.keeps(RootKind::Build, name)?.ok_or_else(|| {
                    Refusal::new(format!("no image of `{name}` was built"), format!("kiln build {name}"))
                })?;
                generations.of_image(built, &survey.roots(), now)
            }
        };
        Ok((chosen, generations))
    }

    /// The current generation, or the one of that number.
    ///
    /// # Errors
    /// A [`Refusal`] when there is none.
    pub fn current(&self, number: Option<u64>) -> Result<(Generation, Generations)> {
        let generations = Generations::read(&self.store, &self.series)?;
        let current = || {
            let remedy = format!("deploy one: kiln deploy {}", self.profile.name);
            generations.current().ok_or_else(|| Refusal::new("no generation is deployed from this store", remedy))
        };
        let chosen = number.map_or_else(current, |number| generations.numbered(number))?;
        Ok((chosen, generations))
    }

    /// What deploying would do to all nodes, or to one.
    ///
    /// # Errors
    /// A [`Refusal`] for a node that is not in the profile; when a seed cannot be read.
    pub fn plan_deploy(&self, node: Option<&str>, survey: &Survey, root: Root, told: Told) -> Result<MachinePlan> {
        Ok(machine_plan::deploy(&self.cast(node)?, survey, root, told))
    }

    /// Makes what is missing with this generation, and starts what is off. The generation becomes the current one. Cut off anywhere, the same
    /// order goes on.
    ///
    /// # Errors
    /// A [`Refusal`] with all that is in the way, before anything is done; [`TryAgain`](crate::exit::TryAgain) when a host could not be asked,
    /// after everything was done on the others.
    pub fn deploy(
        &self,
        node: Option<&str>,
        generation: &Generation,
        told: Told,
        tell: &dyn Tell,
    ) -> Result<MachinePlan> {
        let cast = self.cast(node)?;
        let plan = machine_plan::deploy(&cast, &self.survey(), generation.root(), told);
        admit(&plan)?;
        self.preflight(&plan)?;
        // First: the image must not be collected from the store, nor from a host, while it is deployed.
        generations::switch(&self.store, &self.series, generation)?;
        plan.notes.iter().for_each(|note| log::info!("note: {note}"));
        self.run(&plan, &cast, tell)?;
        require_all(&plan)?;
        Ok(plan)
    }

    /// Takes the machines of all nodes away, or of one, which may be one that is in no profile any more. Data volumes stay unless named.
    ///
    /// # Errors
    /// A [`Refusal`] with all that is in the way, before anything is done.
    pub fn destroy(
        &self,
        node: Option<&str>,
        order: &Destroy,
        lose_quorum: bool,
        tell: &dyn Tell,
    ) -> Result<MachinePlan> {
        let survey = self.survey();
        let stray = |name: &str| survey.machines(name).next().map(|(host, seen)| Wished::of_seen(host, seen));
        let doomed = match node.and_then(stray).filter(|stray| self.profile.node(stray.node()).is_none()) {
            Some(stray) => vec![stray],
            None => self.cast(node)?,
        };
        if let Some(other) = order.with_data.iter().find(|name| !doomed.iter().any(|d| d.node() == name.as_str())) {
            let what = format!("the data of `{other}` are to go, and it is not among the nodes to be destroyed");
            return Err(Refusal::new(what, "name the same node in both places").into());
        }
        let plan = machine_plan::destroy(&doomed, &survey, order);
        admit(&plan)?;
        if let (Some(_), [one], false) = (node, doomed.as_slice(), lose_quorum) {
            let (name, with_data) = (one.node(), order.with_data.contains(one.node()));
            if self.profile.node(name).is_some() && (with_data || survey.machines(name).any(|(_, seen)| seen.running)) {
                self.spare(name, with_data)?;
            }
        }
        self.preflight(&plan)?;
        self.run(&plan, &doomed, tell)?;
        require_all(&plan)?;
        Ok(plan)
    }

    fn cast(&self, node: Option<&str>) -> Result<Vec<Wished>> {
        node.map_or_else(|| self.wished(), |node| Ok(vec![self.wished_of(node)?]))
    }
}
