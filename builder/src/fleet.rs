//! The machines of one cluster on all its hosts: what the operator's commands act on.
//!
//! Look ([`Fleet::survey`]), [plan](crate::machine_plan), act ([`run`]), look again. Nothing is remembered of what was done, for the hosts show it;
//! the exception is how far one node is in being imaged again ([`journal`]), for a host cannot tell a blank data volume that waits for its
//! node from one that the node has come back with.
//!
//! Pure: [`health`]'s judgement. Edges: all others.
#![expect(clippy::disallowed_methods, reason = "an edge: reads seeds")]

pub mod admission;
pub mod deploy;
pub mod drivers;
pub mod health;
pub mod journal;
pub mod progress;
pub mod reimage;
pub mod run;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use camino::Utf8PathBuf;
use kiln_firstboot::digest::Sha256Digest;
use zeroize::Zeroizing;

use crate::exit::{Refusal, TryAgain};
use crate::host::{self, Host, Image, Seed};
use crate::lab::record::Lock;
use crate::layer::image::QCOW2;
use crate::machine_plan::{self, MachinePlan, Survey, Wished};
use crate::pki::Pki;
use crate::profile::{Node, Profile};
use crate::reach::Reach;
use crate::store::Store;

/// How long a machine may take to shut down, where nobody says otherwise. systemd gives a unit that does not stop 90 s by itself.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// The hosts of a cluster, by name, as their drivers drive them.
pub type Hosts = BTreeMap<String, Box<dyn Host>>;

/// The machines of one cluster.
#[derive(Debug)]
pub struct Fleet {
    /// The cluster.
    pub profile: Profile,
    /// Its keys and seeds.
    pub pki: Pki,
    /// Where its images are.
    pub store: Store,
    /// What its [generations](crate::generations) are kept under.
    pub series: String,
    /// How its hosts and nodes are reached.
    pub reach: Reach,
    /// Its hosts; nothing is asked of them until something is to be known.
    pub hosts: Hosts,
    /// Hosts whose drivers could not be had, and why: they cannot be asked.
    pub broken: BTreeMap<String, String>,
    /// How long a machine may take to shut down before its plug is pulled.
    pub patience: Duration,
    /// Where is kept how far something is, `deploy/PROFILE` in kiln's home.
    pub dir: Utf8PathBuf,
}

impl Fleet {
    /// Keeps a second kiln of this home from changing the same cluster's machines, until it is dropped or kiln ends, however it ends.
    ///
    /// # Errors
    /// [`TryAgain`] when another one is at it.
    pub fn lock(&self) -> Result<Lock> {
        Lock::take(&self.dir)
    }

    /// What every host says; all are asked at once. Touches nothing.
    pub fn survey(&self) -> Survey {
        let cluster = self.pki.charter().cluster;
        let ask = |host: &dyn Host| host.survey(&cluster).map_err(|error| format!("{error:#}"));
        std::thread::scope(|scope| {
            let asked: Vec<_> =
                self.hosts.iter().map(|(name, host)| (name, scope.spawn(|| ask(host.as_ref())))).collect();
            let died = |_| Err("the thread that asked it died".to_owned());
            let answers = asked.into_iter().map(|(name, asked)| (name.clone(), asked.join().unwrap_or_else(died)));
            let broken = self.broken.iter().map(|(name, why)| (name.clone(), Err(why.clone())));
            Survey(answers.chain(broken).collect())
        })
    }

    /// Every node's machine as it is to be, in the order of the profile.
    ///
    /// # Errors
    /// When a seed cannot be read.
    pub fn wished(&self) -> Result<Vec<Wished>> {
        Wished::all(&self.profile, self.pki.charter().cluster, |node| Ok(self.seed(&node.name)?.sha256))
    }

    /// One node's machine as it is to be.
    ///
    /// # Errors
    /// A [`Refusal`] when the profile has no such node; when its seed cannot be read.
    pub fn wished_of(&self, node: &str) -> Result<Wished> {
        let node = self.node(node)?;
        let machine = machine_plan::machine(&self.profile, node, self.pki.charter().cluster);
        Ok(Wished { host: node.host.clone(), machine, seed: self.seed(&node.name)?.sha256 })
    }

    /// The node of that name, short or full.
    ///
    /// # Errors
    /// A [`Refusal`] when it is not in the profile.
    pub fn node(&self, name: &str) -> Result<&Node, Refusal> {
        self.profile.node(name).ok_or_else(|| {
            let all: Vec<&str> = self.profile.nodes.iter().map(|n| n.name.as_str()).collect();
            let what = format!("profile `{}` has no node `{name}`", self.profile.name);
            Refusal::new(what, format!("its nodes are {}", all.join(", ")))
        })
    }

    /// A node's seed as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn seed(&self, node: &str) -> Result<Seed> {
        let path = self.pki.seed(node);
        let bytes = fs_err::read(&path).with_context(|| format!("reading the seed of `{node}`"))?;
        Ok(Seed { sha256: Sha256Digest::of(&bytes), bytes: Zeroizing::new(bytes) })
    }

    /// An image of the store.
    ///
    /// # Errors
    /// A [`Refusal`] when it is not there.
    pub fn image(&self, key: &Sha256Digest) -> Result<Image> {
        let gone = || {
            let what = format!("image {key} is not in the store `{}`", self.store.root().display());
            Refusal::new(
                what,
                format!("build it: kiln build {}; or bring it from the store it was built in", self.profile.name),
            )
        };
        let entry = self.store.entry(key)?.ok_or_else(gone)?;
        let file = entry.manifest.files.iter().find(|file| file.path == QCOW2).ok_or_else(gone)?;
        let path = Utf8PathBuf::try_from(entry.dir.join(QCOW2)).context("reading the path of the image")?;
        Ok(Image {
            key: *key,
            file: camino::absolute_utf8(&path).with_context(|| format!("resolving `{path}`"))?,
            sha256: file.sha256.with_context(|| format!("`{path}` has no digest in its manifest"))?,
            bytes: file.bytes,
        })
    }

    fn host(&self, name: &str) -> Result<&dyn Host> {
        self.hosts.get(name).map(AsRef::as_ref).ok_or_else(|| anyhow!("the host `{name}` has no driver"))
    }
}

/// Lets a plan be carried out, or says all that is in its way.
///
/// # Errors
/// A [`Refusal`] with everything that is in the way.
pub fn admit(plan: &MachinePlan) -> Result<(), Refusal> {
    let Some((last, others)) = plan.refusals.split_last() else { return Ok(()) };
    let others: String = others.iter().map(|lack| format!("{lack}\n")).collect();
    Err(Refusal::new(format!("{others}{}", last.what), last.remedy.clone()))
}

/// After all that could be done was done: there are hosts of which nothing is known.
///
/// # Errors
/// [`TryAgain`] that names them.
pub fn require_all(plan: &MachinePlan) -> Result<(), TryAgain> {
    if plan.silent.is_empty() {
        return Ok(());
    }
    let silent: Vec<String> = plan.silent.iter().map(|(host, why)| format!("{host} cannot be asked: {why}")).collect();
    Err(TryAgain(format!("{}\n  hint: the same command goes on when it can", silent.join("; "))))
}

/// What a plan will ask of a host at most.
pub fn need(
    plan: &MachinePlan,
    host: &str,
    profile: &Profile,
    image: impl Fn(&Sha256Digest) -> Result<u64>,
) -> Result<host::Need> {
    use crate::machine_plan::{Act, GIB};
    let mut need = host::Need { bridge: profile.network.bridge.clone(), bytes: 0, destroy: false };
    for step in plan.steps.iter().filter(|step| step.host == host) {
        let data = || {
            step.node.as_deref().and_then(|node| profile.node(node)).map_or(0, |node| u64::from(node.data_gib) * GIB)
        };
        match step.act {
            Act::Upload { image: key } => need.bytes += image(&key)?,
            Act::Create { .. } | Act::WipeData => need.bytes += data(),
            Act::Destroy { .. } => need.destroy = true,
            Act::Redefine
            | Act::ReplaceSeed
            | Act::ReplaceRoot { .. }
            | Act::RestoreRoot
            | Act::DropPrevious
            | Act::PowerOn
            | Act::PowerOff
            | Act::Collect => {}
        }
    }
    Ok(need)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
