//! `kiln plan`: what a build would do, what deploying it would change, and what the loss of each host costs.

use std::fmt::Write as _;

use anyhow::Result;
use kiln_firstboot::digest::Sha256Digest;
use serde::Serialize;

use super::build::SourceArgs;
use super::fleet::WhereArgs;
use crate::cli::Places;
use crate::clock;
use crate::generations::{Generation, Generations};
use crate::machine_plan::{MachinePlan, Told};
use crate::placement::{self, Astray, Placement};
use crate::plan::Step;
use crate::profile::Profile;
use crate::reach::Reach;
use crate::store::Store;

/// Show what a build would do, what deploying it would change and what the loss of each host costs, and do nothing
///
/// Prints every step with its key and the command line of every program, and every step on every host. Creates no file. Asks the hosts what is there;
/// one that cannot be asked is said so, and the rest is shown.
///
/// Example: kiln plan lab
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PlanArgs {
    /// What to plan
    #[command(flatten)]
    source: SourceArgs,
    /// Where its hosts are
    #[command(flatten)]
    at: WhereArgs,
}

#[derive(Serialize)]
struct Output {
    key: String,
    etcd: String,
    certain: bool,
    steps: Vec<Step>,
    placement: Placement,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<HostsPart>,
}

/// What would change on the hosts.
#[derive(Serialize)]
struct HostsPart {
    generation: u64,
    new: bool,
    #[serde(flatten)]
    plan: MachinePlan,
    astray: Vec<Astray>,
    /// What the loss of each host costs as the machines really are, where that differs from the profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<Placement>,
}

impl PlanArgs {
    /// Runs it.
    ///
    /// # Errors
    /// When profile, image definition, lock or keys are missing or wrong.
    pub fn run(self, places: &Places) -> Result<()> {
        let store = Store::at(places.store()?);
        let at = self.at;
        let (profile, plan, certain) = self.source.read(places)?.guess(&store)?;
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
        let placement = Placement::of(&profile);
        let reached = at.lab || !Reach::of(&profile).hosts.is_empty();
        let hosts = if reached { Some(hosts(places, &profile, at, plan.keys.image)?) } else { None };
        if let Some(part) = &hosts {
            let new = if part.new { ", a new one" } else { "" };
            let _ = write!(text, "\ndeploy as generation {}{new}\n{}", part.generation, part.plan);
            part.astray.iter().for_each(|astray| text.push_str(&format!("in the wrong place: {astray}\n")));
        }
        let _ = write!(text, "\n{placement}");
        if let Some(found) = hosts.as_ref().and_then(|part| part.found.as_ref()) {
            let _ = write!(text, "\nAs the machines really are:\n{found}");
        }
        places.print(&Output { key: plan.keys.image.to_string(), etcd, certain, steps, placement, hosts }, &text)
    }
}

fn hosts(places: &Places, profile: &Profile, at: WhereArgs, image: Sha256Digest) -> Result<HostsPart> {
    let fleet = at.fleet(places, profile.clone())?;
    let survey = fleet.survey();
    let generations = Generations::read(&fleet.store, &fleet.series)?;
    let generation: Generation = generations.of_image(image, &survey.roots(), clock::now());
    let answers = survey.answers();
    let (astray, found) = (placement::astray(profile, &answers), Placement::found(profile, &answers));
    Ok(HostsPart {
        generation: generation.number,
        new: !generations.all.iter().any(|g| g.number == generation.number),
        plan: fleet.plan_deploy(None, &survey, generation.root(), Told::default())?,
        astray,
        found: Some(found).filter(|found| *found != Placement::of(profile)),
    })
}
