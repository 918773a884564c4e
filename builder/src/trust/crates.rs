//! The crates that the agent is made of, from the lock file that this kiln was built with. Pure.
//!
//! The lock file does not tell features or platforms apart, so the list is too long rather than too short: it names crates for other
//! platforms too. What only tests and the builder need is left out. An agent from elsewhere (`--firstboot`) may be made of others.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;
use serde::Deserialize;

use crate::key::KeyHasher;

const LOCK: &str = include_str!("../../../Cargo.lock");
const MANIFEST: &str = include_str!("../../../firstboot/Cargo.toml");
/// The agent's own crate.
const AGENT: &str = "kiln-firstboot";

/// The agent and its crates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crates {
    /// The agent's version.
    pub agent: String,
    /// The crates that the agent itself names, as indices into [`Crates::all`].
    pub direct: Vec<usize>,
    /// All crates, by name and version.
    pub all: Vec<Crate>,
}

/// One crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Digest of its archive; none for one that comes from no registry.
    pub sha256: Option<Sha256Digest>,
    /// What it needs, as indices into [`Crates::all`].
    pub needs: Vec<usize>,
}

#[derive(Deserialize)]
struct LockFile {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<Sha256Digest>,
    #[serde(default)]
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct Manifest {
    dependencies: BTreeMap<String, toml::Value>,
}

impl Crates {
    /// Those of the agent in this kiln's sources.
    ///
    /// # Errors
    /// None that is known: the files were there when kiln was compiled, and cargo has read them.
    pub fn of_agent() -> Result<Self> {
        Self::parse(LOCK, MANIFEST)
    }

    fn parse(lock: &str, manifest: &str) -> Result<Self> {
        let lock: LockFile = toml::from_str(lock).context("reading the list of the agent's crates")?;
        let manifest: Manifest = toml::from_str(manifest).context("reading the list of the agent's crates")?;
        let find = |wanted: &str| {
            // `name`, or `name version` where there are several, or with a source behind.
            let mut words = wanted.split(' ');
            let (name, version) = (words.next().unwrap_or_default(), words.next());
            let found = lock.package.iter().position(|p| p.name == name && version.is_none_or(|v| v == p.version));
            found.with_context(|| format!("the list of the agent's crates has no `{wanted}`"))
        };
        let agent = &lock.package[find(AGENT)?];
        let mut direct = BTreeSet::new();
        for wanted in &agent.dependencies {
            // The lock file has what tests need in the same list.
            if manifest.dependencies.contains_key(wanted.split(' ').next().unwrap_or_default()) {
                direct.insert(find(wanted)?);
            }
        }
        let mut needs: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut open: Vec<usize> = direct.iter().copied().collect();
        while let Some(at) = open.pop() {
            if let Entry::Vacant(place) = needs.entry(at) {
                let found: Vec<usize> = lock.package[at].dependencies.iter().map(|d| find(d)).collect::<Result<_>>()?;
                open.extend(&found);
                place.insert(found);
            }
        }
        // Cargo sorts its lock by name and version, and the map keeps that order.
        let place: BTreeMap<usize, usize> = needs.keys().enumerate().map(|(new, old)| (*old, new)).collect();
        let all = needs
            .iter()
            .map(|(at, needs)| {
                let Locked { name, version, checksum, .. } = &lock.package[*at];
                let needs = needs.iter().map(|n| place[n]).collect();
                Crate { name: name.clone(), version: version.clone(), sha256: *checksum, needs }
            })
            .collect();
        Ok(Self { agent: agent.version.clone(), direct: direct.iter().map(|d| place[d]).collect(), all })
    }

    /// Digest of the list, for recipes.
    pub fn digest(&self) -> Sha256Digest {
        let mut hasher = KeyHasher::new("crates");
        hasher.text("agent", &self.agent);
        hasher.number("crates", self.all.len() as u64);
        for made_of in &self.all {
            hasher.text("name", &made_of.name);
            hasher.text("version", &made_of.version);
            hasher.text("sha256", &made_of.sha256.map(|d| d.to_string()).unwrap_or_default());
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_made_of_what_its_manifest_names_and_what_that_needs() {
        let crates = Crates::of_agent().unwrap();
        let named = |name: &str| crates.all.iter().any(|c| c.name == name);
        for name in ["ring", "rustls", "etcd-client", "untrusted"] {
            assert!(named(name), "{name}");
        }
        // A test's, the builder's, and the agent itself.
        for name in ["proptest", "duct", "kiln-builder", "kiln-firstboot"] {
            assert!(!named(name), "{name}");
        }
        assert!(crates.all.iter().all(|c| c.sha256.is_some()));
        assert!(crates.all.is_sorted_by_key(|c| c.name.clone()));
    }

    #[test]
    fn one_of_two_versions_is_taken_as_the_lock_says() {
        let package = |name: &str, version: &str, dependencies: &str| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\ndependencies = [{dependencies}]\n")
        };
        let lock = [
            package("a", "1.0.0", ""),
            package("a", "2.0.0", "\"b\""),
            package("b", "1.0.0", "\"a 1.0.0\""),
            package("kiln-firstboot", "0.1.0", "\"a 2.0.0\", \"t\""),
            package("t", "1.0.0", ""),
        ];
        let crates =
            Crates::parse(&lock.concat(), "[dependencies]\na = \"2\"\n[dev-dependencies]\nt = \"1\"\n").unwrap();
        let told: Vec<_> =
            crates.all.iter().map(|c| (c.name.as_str(), c.version.as_str(), c.needs.as_slice())).collect();
        assert_eq!(told, [("a", "1.0.0", &[][..]), ("a", "2.0.0", &[2]), ("b", "1.0.0", &[0])]);
        assert_eq!((crates.agent.as_str(), crates.direct), ("0.1.0", vec![1]));
    }
}
