//! A rollout's hands on the machines of a [`Fleet`]: whatever drives their hosts.

use std::any::Any;
use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;

use super::hands::NodeHands;
use super::record::Target;
use crate::fleet::Fleet;
use crate::fleet::progress::Tell;
use crate::generations::{self, Generation, Generations};
use crate::host::{Root, Seen};
use crate::machine_plan::Survey;
use crate::trust;

/// The hands.
pub struct FleetHands<'a> {
    /// The machines.
    pub fleet: &'a Fleet,
    /// Is told of each step on a host.
    pub tell: &'a (dyn Tell + Send + Sync),
}

impl std::fmt::Debug for FleetHands<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetHands").field("fleet", self.fleet).finish_non_exhaustive()
    }
}

impl FleetHands<'_> {
    /// What a rollout to this generation has every node run; its image is kept in the store from now on.
    ///
    /// # Errors
    /// When the image is not in the store, or the store cannot be written.
    pub fn target(&self, generation: &Generation) -> Result<Target> {
        let store = &self.fleet.store;
        let entry = store.entry(&generation.key)?.context("the image of a generation is not in the store")?;
        let etcd = trust::recipe_of(&entry)?.etcd.version;
        generations::keep(store, &self.fleet.series, generation)?;
        Ok(Target { root: generation.root(), etcd })
    }

    fn generations(&self) -> Result<Generations> {
        Generations::read(&self.fleet.store, &self.fleet.series)
    }
}

impl NodeHands for FleetHands<'_> {
    fn hold(&self) -> Result<Box<dyn Any>> {
        Ok(Box::new(self.fleet.lock()?))
    }

    fn survey(&self) -> BTreeMap<String, Result<Option<Seen>, String>> {
        let survey = self.fleet.survey();
        self.fleet.profile.nodes.iter().map(|node| (node.name.clone(), machine(&survey, &node.name))).collect()
    }

    fn known(&self) -> Result<BTreeMap<Sha256Digest, u64>> {
        Ok(self.generations()?.all.iter().map(|generation| (generation.key, generation.number)).collect())
    }

    fn take(&self, node: &str, root: Root) -> Result<()> {
        self.fleet.take(node, root, self.tell)
    }

    fn roll_back(&self, node: &str, to: Root) -> Result<()> {
        self.fleet.give_back(node, to, self.tell)
    }

    fn settle(&self, root: Root) -> Result<()> {
        let all = self.generations()?.all;
        let generation = all.iter().find(|generation| generation.key == root.image);
        self.fleet.settle(generation.context("the generation that was rolled out is not kept any more")?, self.tell)
    }
}

/// A node's machine, wherever it is. That there is none is known only when every host has answered.
fn machine(survey: &Survey, node: &str) -> Result<Option<Seen>, String> {
    let seen: Vec<(&str, &Seen)> = survey.machines(node).collect();
    match seen.as_slice() {
        [(_, seen)] => Ok(Some((*seen).clone())),
        [] => match survey.silent().next() {
            Some((host, why)) => Err(format!("{host}: {why}")),
            None => Ok(None),
        },
        [(one, _), (other, _), ..] => Err(format!("{one} and {other} both have a machine of it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Mark;
    use kiln_firstboot::digest::Id128;

    fn seen(node: &str) -> Seen {
        Seen {
            mark: Mark { cluster: Id128([7; 16]), env: "lab".into(), node: node.into() },
            handle: node.into(),
            uuid: String::new(),
            running: true,
            root: None,
            previous: None,
            data_bytes: None,
            seed: None,
            memory_mib: 512,
            vcpus: 1,
            mac: None,
            bridge: None,
            trouble: Vec::new(),
        }
    }

    #[test]
    fn a_machine_is_missing_only_when_every_host_has_said_so() {
        let survey = |hosts: [(&str, Result<Vec<Seen>, String>); 2]| {
            Survey(hosts.into_iter().map(|(name, seen)| (name.to_owned(), seen)).collect())
        };
        let (a, none) = (|| Ok(vec![seen("a")]), || Ok(Vec::new()));
        let silent = || Err("no route to host".to_owned());
        assert_eq!(machine(&survey([("pve1", none()), ("pve2", a())]), "a"), Ok(Some(seen("a"))));
        assert_eq!(machine(&survey([("pve1", silent()), ("pve2", a())]), "a"), Ok(Some(seen("a"))));
        assert_eq!(machine(&survey([("pve1", none()), ("pve2", a())]), "b"), Ok(None));
        assert_eq!(machine(&survey([("pve1", silent()), ("pve2", a())]), "b"), Err("pve1: no route to host".into()));
        let twice = "pve1 and pve2 both have a machine of it";
        assert_eq!(machine(&survey([("pve1", a()), ("pve2", a())]), "a"), Err(twice.into()));
    }
}
