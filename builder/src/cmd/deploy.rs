//! `kiln deploy`: machines of a cluster on its hosts.

use anyhow::Result;
use serde::Serialize;

use super::build::warn_if_outdated;
use super::fleet::{ClusterArgs, LenientArgs, WaitArgs, WhereArgs};
use crate::cli::Places;
use crate::clock;
use crate::exit::TryAgain;
use crate::fleet::{admit, progress::Bars};
use crate::machine_plan::{MachinePlan, Told};

/// Have a machine for every node on its host: make what is missing, start what is off, leave alone what runs
///
/// What is made gets the profile's last build (`kiln build`), as the cluster's next generation if it is a new one. No root of a node that is there is
/// ever replaced (`kiln rollout`, `kiln reimage`), and no data volume. Cut off anywhere, the same command goes on.
///
/// Examples: kiln deploy k8s0
///           kiln deploy k8s0 k8s0etcd3 --generation 4
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct DeployArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// This node only
    node: Option<String>,
    /// Deploy this generation again instead of the last build, older or not
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// Nodes of other generations may stay beside those that are made now
    #[arg(long)]
    mixed: bool,
    #[command(flatten)]
    lenient: LenientArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    at: WhereArgs,
}

#[derive(Serialize)]
struct Output<'a> {
    generation: u64,
    image: String,
    #[serde(flatten)]
    plan: &'a MachinePlan,
}

impl DeployArgs {
    /// Runs it.
    ///
    /// # Errors
    /// A refusal with all that is in the way, before anything is done; 75 when a host does not answer or a node does not serve in time.
    pub fn run(self, places: &Places) -> Result<()> {
        let fleet = self.at.fleet(places, places.profile(&self.cluster.profile)?)?;
        let _lock = fleet.lock()?;
        fleet.store.hold()?;
        let survey = fleet.survey();
        let (generation, generations) = fleet.choose(&survey, self.generation, clock::now())?;
        if self.generation.is_none() {
            warn_if_outdated(places, &fleet.store, &self.cluster.profile, &generation.key);
        }
        let told = Told { mixed: self.mixed };
        // Before a disk of gigabytes is read.
        admit(&fleet.plan_deploy(self.node.as_deref(), &survey, generation.root(), told)?)?;
        let lenience = self.lenient.unless_named(self.generation);
        fleet.admit_image(&generation, &generations, &places.signing()?, lenience)?;
        let plan = fleet.deploy(self.node.as_deref(), &generation, told, &Bars::new())?;
        if let Some(limit) = self.wait.limit() {
            let nodes = match &self.node {
                Some(node) => vec![fleet.node(node)?.clone()],
                None => fleet.profile.nodes.clone(),
            };
            let lacking = fleet.await_health(&nodes, None, limit)?;
            if !lacking.is_empty() {
                let lacking: Vec<String> = lacking.iter().map(|(node, lacks)| format!("{node}: {lacks}")).collect();
                let hint = "hint: the machines are on; the same command goes on waiting";
                return Err(TryAgain(format!(
                    "not serving after {} s:\n  {}\n  {hint}",
                    limit.as_secs(),
                    lacking.join("\n  ")
                ))
                .into());
            }
        }
        let image = generation.key.to_string();
        let done = if plan.steps.is_empty() { "nothing to do" } else { "deployed" };
        let text = format!("{done}: `{}`, generation {} (image {image:.12})\n", fleet.profile.name, generation.number);
        places.print(&Output { generation: generation.number, image, plan: &plan }, &text)
    }
}
