//! `kiln generations`: what a cluster ran.

use anyhow::Result;

use super::fleet::{ClusterArgs, WhereArgs};
use crate::cli::Places;
use crate::generations::{self, Generations};
use crate::store::Store;

/// List the generations of a cluster: which images it has run, and which is current
///
/// Each keeps its image in the store, so that it can be gone back to. Give those up that never will be.
///
/// Examples: kiln generations k8s0
///           kiln generations k8s0 --drop 1
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct GenerationsArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Give this generation up; its image goes with the next `kiln store gc`
    #[arg(long, value_name = "N")]
    drop: Option<u64>,
    #[command(flatten)]
    at: WhereArgs,
}

impl GenerationsArgs {
    /// Runs it.
    ///
    /// # Errors
    /// A refusal to give up the current one, or when a root of the store cannot be read.
    pub fn run(self, places: &Places) -> Result<()> {
        let (store, profile) = (Store::at(places.store()?), places.profile(&self.cluster.profile)?);
        let series = self.at.series(&profile.name);
        if let Some(number) = self.drop {
            generations::drop(&store, &series, number)?;
        }
        let found = Generations::read(&store, &series)?;
        let line = |g: &generations::Generation| {
            let since = jiff::Timestamp::from_second(g.since).map_or_else(|_| "?".into(), |time| time.to_string());
            let mark = if found.current == Some(g.number) { "  current" } else { "" };
            format!("{:>4}  {:.12}  since {since}{mark}\n", g.number, g.key.to_string())
        };
        let text: String = found.all.iter().map(line).collect();
        let text = if text.is_empty() { format!("nothing of `{series}` was deployed\n") } else { text };
        places.print(&found, &text)
    }
}
