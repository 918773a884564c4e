//! `kiln reimage` and `kiln rollback`: one node's root.

use anyhow::Result;
use serde::Serialize;

use super::fleet::{ClusterArgs, LenientArgs, PatienceArgs, WaitArgs, WhereArgs};
use crate::cli::Places;
use crate::exit::Refusal;
use crate::fleet::Fleet;
use crate::fleet::progress::Bars;
use crate::fleet::reimage::Order;
use crate::host::Root;

/// Image a node again: a fresh root of the current generation, its seed as it is now, its data kept
///
/// The node is shut down for that, or made if it is gone. The root it had is kept until the node serves, and `kiln rollback` puts it back. If it does
/// not serve in time the command ends with 75. Cut off anywhere, the same command goes on. Refused where the others would be no quorum.
///
/// Examples: kiln reimage k8s0 k8s0etcd3
///           kiln reimage k8s0 k8s0etcd3 --wipe-data k8s0etcd3
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ReimageArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The node
    node: String,
    /// Give it a blank data volume: all it holds is lost. The node's name, once more
    #[arg(long, value_name = "NODE")]
    wipe_data: Option<String>,
    /// Another generation than the current one, older or not
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// Do it even if the cluster has no quorum without this node
    #[arg(long)]
    lose_quorum: bool,
    /// Begin anew where an interrupted run had the machine ready already
    #[arg(long)]
    afresh: bool,
    #[command(flatten)]
    lenient: LenientArgs,
    #[command(flatten)]
    patience: PatienceArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    at: WhereArgs,
}

/// Put the root back that a node had before it was imaged again; its data stay
///
/// Example: kiln rollback k8s0 k8s0etcd3
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct RollbackArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The node
    node: String,
    /// Do it even if the cluster has no quorum without this node
    #[arg(long)]
    lose_quorum: bool,
    #[command(flatten)]
    patience: PatienceArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    at: WhereArgs,
}

#[derive(Serialize)]
struct Output {
    node: String,
    root: Root,
    data: &'static str,
    serves: bool,
}

impl Output {
    fn print(&self, places: &Places, did: &str) -> Result<()> {
        let state = if self.serves { "and serves" } else { "and is powered on" };
        let root = format!("generation {} (image {:.12})", self.root.generation, self.root.image.to_string());
        places.print(self, &format!("{} {did} {root}, its data {}, {state}\n", self.node, self.data))
    }
}

/// The node that is to be wiped is named twice: once alone would be too easily the wrong one.
fn same_name(fleet: &Fleet, node: &str, named: Option<&str>) -> Result<bool> {
    let Some(named) = named else { return Ok(false) };
    let (node, named) = (fleet.node(node)?, fleet.node(named)?);
    if node.name != named.name {
        let what = format!(
            "the data of `{}` are to be wiped, and it is `{}` that is to be imaged again",
            named.name, node.name
        );
        return Err(Refusal::new(what, "name the same node twice").into());
    }
    Ok(true)
}

impl ReimageArgs {
    /// Runs it.
    ///
    /// # Errors
    /// A refusal when it would be unsafe; 75 when the node does not serve in time, its old root is kept then.
    pub fn run(self, places: &Places) -> Result<()> {
        let mut fleet = self.at.fleet(places, places.profile(&self.cluster.profile)?)?;
        fleet.patience = self.patience.duration();
        let wipe_data = same_name(&fleet, &self.node, self.wipe_data.as_deref())?;
        let _lock = fleet.lock()?;
        fleet.store.hold()?;
        let (generation, generations) = fleet.current(self.generation)?;
        let lenience = self.lenient.unless_named(self.generation);
        fleet.admit_image(&generation, &generations, &places.signing()?, lenience)?;
        let order = Order {
            root: generation.root(),
            wipe_data,
            lose_quorum: self.lose_quorum,
            afresh: self.afresh,
            wait: self.wait.limit(),
        };
        fleet.reimage(&self.node, &order, &Bars::new())?;
        let node = fleet.node(&self.node)?.name.clone();
        let data = if wipe_data { "wiped" } else { "kept" };
        Output { node, root: order.root, data, serves: order.wait.is_some() }.print(places, "has")
    }
}

impl RollbackArgs {
    /// Runs it.
    ///
    /// # Errors
    /// A refusal when no root is kept or it would be unsafe; 75 when the node does not serve in time.
    pub fn run(self, places: &Places) -> Result<()> {
        let mut fleet = self.at.fleet(places, places.profile(&self.cluster.profile)?)?;
        fleet.patience = self.patience.duration();
        let _lock = fleet.lock()?;
        let root = fleet.rollback(&self.node, self.lose_quorum, self.wait.limit(), &Bars::new())?;
        let node = fleet.node(&self.node)?.name.clone();
        Output { node, root, data: "kept", serves: self.wait.limit().is_some() }.print(places, "is back on")
    }
}
