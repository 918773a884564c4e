//! Generations: which images a cluster on hypervisors has run, by number, and which it is to run now.
//!
//! Each is a root of the store, so that the collector keeps what is deployed and what may be gone back to: `generation/PROFILE-N` says which
//! image generation N is, and never changes; `generation/PROFILE.current` says which image is current. An image has one number in a cluster,
//! however often it is gone back to. What is tried in a lab that plays the hosts has a series of its own ([`of_lab`]).

use anyhow::Result;
use kiln_firstboot::digest::Sha256Digest;
use serde::Serialize;

use crate::exit::Refusal;
use crate::host;
use crate::store::{RootKind, Store};

/// What the name of the root ends in that says which image is current.
const CURRENT: &str = ".current";

/// The series of a profile's lab, where its own is called as the profile: what is current in a lab is not what the cluster is to run.
pub fn of_lab(profile: &str) -> String {
    format!("{profile}.lab")
}

/// One generation of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Generation {
    /// Its number, counted from 1.
    pub number: u64,
    /// The image.
    pub key: Sha256Digest,
    /// Since when there is this generation, Unix seconds.
    pub since: i64,
}

/// The generations of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Generations {
    /// All of them, by number.
    pub all: Vec<Generation>,
    /// The number of the one that its nodes are to run; none before the first.
    pub current: Option<u64>,
}

impl Generation {
    /// As a root disk says which it is.
    pub fn root(&self) -> host::Root {
        host::Root { image: self.key, generation: self.number }
    }
}

impl Generations {
    /// Those of a series.
    ///
    /// # Errors
    /// A [`Refusal`] when a root of the store cannot be read.
    pub fn read(store: &Store, series: &str) -> Result<Self> {
        let roots = store.roots()?;
        let mut all: Vec<Generation> = roots
            .iter()
            .filter(|root| root.kind == RootKind::Generation)
            .filter_map(|root| {
                let number = root.name.strip_prefix(series)?.strip_prefix('-')?.parse().ok()?;
                // Written by us it has no zero in front: `lab-03` is not generation 3 of `lab`.
                (root.name == numbered(series, number)).then_some(Generation {
                    number,
                    key: root.key,
                    since: root.since,
                })
            })
            .collect();
        all.sort_by_key(|generation| generation.number);
        let points = roots.iter().find(|root| root.kind == RootKind::Generation && root.name == pointer(series));
        let current = points.and_then(|points| all.iter().find(|g| g.key == points.key)).map(|g| g.number);
        Ok(Self { all, current })
    }

    /// The one of that number.
    ///
    /// # Errors
    /// A [`Refusal`] when there is none.
    pub fn numbered(&self, number: u64) -> Result<Generation, Refusal> {
        self.all.iter().find(|g| g.number == number).copied().ok_or_else(|| {
            let known: Vec<String> = self.all.iter().map(|g| g.number.to_string()).collect();
            let known =
                if known.is_empty() { "there is none yet".into() } else { format!("there are {}", known.join(", ")) };
            Refusal::new(format!("there is no generation {number}"), known)
        })
    }

    /// The one that nodes are to run; none before the first deploy.
    pub fn current(&self) -> Option<Generation> {
        self.all.iter().find(|g| Some(g.number) == self.current).copied()
    }

    /// What an image would be deployed as: the generation it is already, here or on a host, or the next one. `seen` are the roots found on
    /// hosts: another operator's store may have numbered some that this one does not know.
    pub fn of_image(&self, key: Sha256Digest, seen: &[host::Root], now: i64) -> Generation {
        if let Some(known) = self.all.iter().find(|g| g.key == key) {
            return *known;
        }
        let last = self.all.iter().map(|g| g.number).chain(seen.iter().map(|root| root.generation)).max();
        let number = seen.iter().find(|root| root.image == key).map(|root| root.generation);
        Generation { number: number.unwrap_or(last.unwrap_or(0) + 1), key, since: now }
    }
}

/// Keeps a generation, and makes it the current one of its series. Durable when this returns; cut off in between it is kept and not
/// yet current.
///
/// # Errors
/// When the store cannot be written.
pub fn switch(store: &Store, series: &str, generation: &Generation) -> Result<()> {
    keep(store, series, generation)?;
    store.keep(RootKind::Generation, &pointer(series), &generation.key, generation.since)
}

/// Keeps a generation, so that its image is not collected, without making it the current one.
///
/// # Errors
/// When the store cannot be written.
pub fn keep(store: &Store, series: &str, generation: &Generation) -> Result<()> {
    store.keep(RootKind::Generation, &numbered(series, generation.number), &generation.key, generation.since)
}

/// Gives a generation up, so that its image may be collected.
///
/// # Errors
/// A [`Refusal`] when it is the current one or there is none; when the root cannot be removed.
pub fn drop(store: &Store, series: &str, number: u64) -> Result<()> {
    let generations = Generations::read(store, series)?;
    generations.numbered(number)?;
    if generations.current == Some(number) {
        let what = format!("generation {number} is what the nodes of `{series}` are to run");
        return Err(Refusal::new(what, "make another one current first: kiln deploy or kiln rollout").into());
    }
    store.forget(RootKind::Generation, &numbered(series, number)).map(|_| ())
}

/// Gives a whole series up, once there is nothing any more that it is of.
///
/// # Errors
/// When a root cannot be read or removed.
pub fn forget(store: &Store, series: &str) -> Result<()> {
    store.forget(RootKind::Generation, &pointer(series))?;
    let all = Generations::read(store, series)?.all;
    all.iter().try_for_each(|g| store.forget(RootKind::Generation, &numbered(series, g.number)).map(|_| ()))
}

/// The images that any cluster of this store is to run.
///
/// # Errors
/// A [`Refusal`] when a root cannot be read.
pub fn current_images(store: &Store) -> Result<Vec<Sha256Digest>> {
    let current = |root: &crate::store::Root| root.kind == RootKind::Generation && root.name.ends_with(CURRENT);
    Ok(store.roots()?.into_iter().filter(current).map(|root| root.key).collect())
}

fn numbered(series: &str, number: u64) -> String {
    format!("{series}-{number}")
}

/// No profile's name has a dot in it, so this is no generation of another profile.
fn pointer(series: &str) -> String {
    format!("{series}{CURRENT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        (dir, store)
    }

    fn deploy(store: &Store, profile: &str, image: &str, now: i64) -> u64 {
        let generation =
            Generations::read(store, profile).unwrap().of_image(Sha256Digest::of(image.as_bytes()), &[], now);
        switch(store, profile, &generation).unwrap();
        generation.number
    }

    #[test]
    fn a_new_image_is_the_next_number_and_an_old_one_keeps_its_own() {
        let (_dir, store) = store();
        assert_eq!(Generations::read(&store, "lab").unwrap(), Generations::default());
        assert_eq!(
            [("a", 10), ("b", 20), ("b", 30), ("a", 40), ("c", 50)].map(|(i, t)| deploy(&store, "lab", i, t)),
            [1, 2, 2, 1, 3]
        );
        let generations = Generations::read(&store, "lab").unwrap();
        assert_eq!(
            generations.all.iter().map(|g| (g.number, g.since)).collect::<Vec<_>>(),
            [(1, 10), (2, 20), (3, 50)]
        );
        assert_eq!(generations.current().map(|g| (g.number, g.key)), Some((3, Sha256Digest::of(b"c"))));
    }

    #[test]
    fn profiles_whose_names_begin_alike_do_not_meet() {
        let (_dir, store) = store();
        deploy(&store, "lab", "a", 1);
        deploy(&store, "lab-1", "b", 1);
        deploy(&store, "lab-1", "c", 1);
        let numbers = |profile: &str| {
            Generations::read(&store, profile).unwrap().all.iter().map(|g| g.number).collect::<Vec<_>>()
        };
        assert_eq!((numbers("lab"), numbers("lab-1"), numbers("la")), (vec![1], vec![1, 2], vec![]));
    }

    #[test]
    fn what_is_tried_in_a_lab_is_not_what_the_cluster_is_to_run() {
        let (_dir, store) = store();
        deploy(&store, "k8s0", "a", 1);
        for image in ["b", "c"] {
            deploy(&store, &of_lab("k8s0"), image, 2);
        }
        let cluster = Generations::read(&store, "k8s0").unwrap();
        assert_eq!((cluster.all.len(), cluster.current().map(|g| g.key)), (1, Some(Sha256Digest::of(b"a"))));
        assert_eq!(Generations::read(&store, &of_lab("k8s0")).unwrap().current, Some(2));
        forget(&store, &of_lab("k8s0")).unwrap();
        assert_eq!(Generations::read(&store, &of_lab("k8s0")).unwrap(), Generations::default());
        assert_eq!(Generations::read(&store, "k8s0").unwrap(), cluster);
    }

    #[test]
    fn what_another_operator_deployed_keeps_its_number() {
        let seen =
            [(b"x", 4), (b"y", 7)].map(|(image, generation)| host::Root { image: Sha256Digest::of(image), generation });
        let number = |image: &[u8]| Generations::default().of_image(Sha256Digest::of(image), &seen, 1).number;
        assert_eq!((number(b"x"), number(b"z")), (4, 8));
    }

    #[test]
    fn the_current_one_is_not_given_up_and_an_old_one_is() {
        let (_dir, store) = store();
        deploy(&store, "lab", "a", 1);
        deploy(&store, "lab", "b", 2);
        for (number, what) in
            [(2, "generation 2 is what the nodes of `lab` are to run"), (3, "there is no generation 3")]
        {
            assert_eq!(drop(&store, "lab", number).unwrap_err().downcast::<Refusal>().unwrap().what, what);
        }
        drop(&store, "lab", 1).unwrap();
        assert_eq!(Generations::read(&store, "lab").unwrap().all.len(), 1);
        // A number is never given to another image while a later one is kept.
        assert_eq!(deploy(&store, "lab", "c", 3), 3);
    }

    #[test]
    fn cut_off_before_it_is_current_the_number_is_kept_for_that_image() {
        let (_dir, store) = store();
        deploy(&store, "lab", "a", 1);
        store.keep(RootKind::Generation, &numbered("lab", 2), &Sha256Digest::of(b"b"), 2).unwrap();
        assert_eq!(Generations::read(&store, "lab").unwrap().current, Some(1));
        assert_eq!(deploy(&store, "lab", "b", 9), 2);
        assert_eq!(Generations::read(&store, "lab").unwrap().current().map(|g| g.since), Some(2));
    }
}
