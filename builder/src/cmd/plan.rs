//! `kiln plan`: what a build would do.

use anyhow::Result;
use serde::Serialize;

use super::build::SourceArgs;
use crate::cli::Places;
use crate::plan::Step;
use crate::store::Store;

/// Show what a build would do, and do nothing
///
/// Prints every step with its key and the command line of every program. Creates no file and asks nobody.
///
/// Example: kiln plan lab
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PlanArgs {
    /// What to plan
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Serialize)]
struct Output {
    key: String,
    etcd: String,
    certain: bool,
    steps: Vec<Step>,
}

impl PlanArgs {
    /// Runs it.
    ///
    /// # Errors
    /// When profile, image definition, lock or keys are missing or wrong.
    pub fn run(self, places: &Places) -> Result<()> {
        let store = Store::at(places.store()?);
        let (_, plan, certain) = self.source.read(places)?.guess(&store)?;
        let steps = plan.steps(&store)?;
        let etcd = format!("{} ({})", plan.recipe.etcd.version, plan.recipe.etcd.source);
        let mut text = format!("image {}\netcd {etcd}\n", plan.keys.image);
        if !certain {
            text.push_str(
                "  (if it cannot be fetched, the lock's next etcd is taken and the keys of etcd and image differ)\n",
            );
        }
        for step in &steps {
            let state = if step.done { "there" } else { "to make" };
            text.push_str(&format!("\n{} {}: {state}\n", step.layer, step.key));
            if !step.done {
                step.fetch.iter().for_each(|origin| text.push_str(&format!("  fetch {origin}\n")));
                step.run.iter().for_each(|line| text.push_str(&format!("  $ {line}\n")));
            }
        }
        places.print(&Output { key: plan.keys.image.to_string(), etcd, certain, steps }, &text)
    }
}
