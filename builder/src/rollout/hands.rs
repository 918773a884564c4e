//! What a rollout needs done to machines, whichever hosts they are on.

use std::any::Any;
use std::collections::BTreeMap;

use anyhow::Result;
use kiln_firstboot::digest::Sha256Digest;

use crate::host::{Root, Seen};

/// Hands on the machines of one cluster.
///
/// What is done to a node may be asked again after it failed or was cut off at any point, and does nothing to a machine that runs on that root
/// already: that is what lets a second operator go on where the first one was, and an operator who wakes up late do no harm. Data volumes are
/// never touched.
pub trait NodeHands: Send + Sync {
    /// Keeps other commands of this machine from changing the same machines, for as long as what is returned lives.
    ///
    /// # Errors
    /// [`TryAgain`](crate::exit::TryAgain) when another one is at it.
    fn hold(&self) -> Result<Box<dyn Any>>;

    /// The machine of every node, by the node's name. Nothing where no host has one; an error where that is not known. Touches nothing.
    fn survey(&self) -> BTreeMap<String, Result<Option<Seen>, String>>;

    /// The images of the generations this cluster has had, by key, with the number of each. Touches nothing.
    ///
    /// # Errors
    /// When what is remembered of them cannot be read.
    fn known(&self) -> Result<BTreeMap<Sha256Digest, u64>>;

    /// Has a node run on this root with its data kept: powers it off, gives it the root, keeps the one it had, powers it on. Returns once it is
    /// powered on.
    ///
    /// # Errors
    /// When a step fails.
    fn take(&self, node: &str, root: Root) -> Result<()>;

    /// Has a node run on the root that [`NodeHands::take`] kept, the same way.
    ///
    /// # Errors
    /// When a step fails, or that root is gone.
    fn roll_back(&self, node: &str, to: Root) -> Result<()>;

    /// Every node runs on this root: remembers that it is what the cluster is to run.
    ///
    /// # Errors
    /// When that cannot be written.
    fn settle(&self, root: Root) -> Result<()>;
}
