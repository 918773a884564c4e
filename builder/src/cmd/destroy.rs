//! `kiln destroy`: takes machines away.

use anyhow::Result;

use super::fleet::{ClusterArgs, PatienceArgs, WhereArgs};
use crate::cli::Places;
use crate::fleet::progress::Bars;
use crate::machine_plan::Destroy;

/// Take the machines of a cluster away, or of one node; their data volumes stay
///
/// A data volume goes only with its node's name after --with-data. One that stays is taken by the next `kiln deploy` of the same node. Machines that
/// run are left alone without --power-off.
///
/// Examples: kiln destroy k8s0 k8s0etcd3 --power-off
///           kiln destroy k8s0 --power-off --with-data k8s0etcd1,k8s0etcd2,k8s0etcd3
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct DestroyArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// This node only; also one that the profile does not have any more
    node: Option<String>,
    /// Shut down what runs
    #[arg(long)]
    power_off: bool,
    /// Remove the data volumes of these nodes too: all they hold is lost
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    with_data: Vec<String>,
    /// Do it even if the cluster has no quorum without this node
    #[arg(long)]
    lose_quorum: bool,
    #[command(flatten)]
    patience: PatienceArgs,
    #[command(flatten)]
    at: WhereArgs,
}

impl DestroyArgs {
    /// Runs it.
    ///
    /// # Errors
    /// A refusal with all that is in the way, before anything is done; 75 when a host does not answer.
    pub fn run(self, places: &Places) -> Result<()> {
        let mut fleet = self.at.fleet(places, places.profile(&self.cluster.profile)?)?;
        fleet.patience = self.patience.duration();
        let _lock = fleet.lock()?;
        let order = Destroy { power_off: self.power_off, with_data: self.with_data.into_iter().collect() };
        let plan = fleet.destroy(self.node.as_deref(), &order, self.lose_quorum, &Bars::new())?;
        let gone =
            plan.steps.iter().filter(|step| matches!(step.act, crate::machine_plan::Act::Destroy { .. })).count();
        let text = if gone == 0 { "nothing to do\n".to_owned() } else { format!("{gone} machines are gone\n") };
        places.print(&plan, &text)
    }
}
