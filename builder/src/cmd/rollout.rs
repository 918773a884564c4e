//! `kiln rollout`: has every node of a running cluster run another image, one after the other.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use kiln_firstboot::wait::utc;
use nix::unistd::{User, gethostname, getuid};
use serde::Serialize;

use super::build::warn_if_outdated;
use super::fleet::WhereArgs;
use crate::cli::Places;
use crate::clock;
use crate::cluster_client::ClusterClient;
use crate::exit::{Refusal, TryAgain};
use crate::fleet::progress::Bars;
use crate::lab::admission::Lenience;
use crate::pki::Pki;
use crate::profile::Profile;
use crate::reach::Reach;
use crate::rollout::fleet_hands::FleetHands;
use crate::rollout::hands::NodeHands;
use crate::rollout::lock::Holder;
use crate::rollout::observe::Sight;
use crate::rollout::record::{Ending, Record, Target, Wish};
use crate::rollout::report;
use crate::rollout::run::{Rollout, Task};

/// Seconds a node is given to be back, as long as deploy and reimage wait: real hosts boot one in half a minute, emulation in a few.
const BACK_WITHIN_SECS: u32 = 900;

/// Have every node run the profile's last build, or an earlier generation, one after the other
///
/// Followers go first; the leader last, after it has handed over. A node is taken only while every
/// member serves, no alarm is raised, nobody lags, and all versions go together. A node that does
/// not come back is rolled back, and the rollout stops there. How far it is lies in the cluster's
/// own etcd: after a crash the same command goes on, from any operator's machine, and no two of
/// them can be at it at once.
///
/// Exits with 75 when somebody else is at it, when it is paused, and when a gate did not open in
/// time; the same command goes on then.
///
/// Examples: kiln rollout lab
///           kiln rollout lab --to 3
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct RolloutArgs {
    #[command(subcommand)]
    command: Option<RolloutCommand>,
    #[command(flatten)]
    start: Option<StartArgs>,
    /// Who you are, as other operators are told [default: USER@MACHINE]
    #[arg(long, value_name = "NAME", global = true)]
    operator: Option<String>,
    /// Act on the hosts that this machine's lab of the profile plays, instead of the profile's own
    #[arg(long, global = true)]
    lab: bool,
    /// Seconds to wait for a closed gate, or for a cluster that does not answer
    #[arg(long, value_name = "SECONDS", global = true, default_value_t = 600)]
    patience: u64,
}

#[derive(Debug, clap::Args)]
struct StartArgs {
    /// The cluster's profile
    profile: String,
    /// The generation to go to [default: the profile's last build]
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
    /// Seconds a node is given to be back before it is rolled back
    #[arg(long, value_name = "SECONDS", default_value_t = BACK_WITHIN_SECS)]
    back_within: u32,
    // Not flattened: clap tells whether an optional group is there by its own arguments alone.
    /// Take an image that nobody signed, or a key that is not trusted
    #[arg(long)]
    allow_unsigned: bool,
    /// Take an image older than the current generation's; an earlier generation that is named may be
    #[arg(long)]
    allow_older: bool,
}

#[derive(Debug, Subcommand)]
enum RolloutCommand {
    /// Tell how far a rollout is, who is at it, and what would be done next
    ///
    /// Example: kiln rollout status lab --json
    Status {
        /// The cluster's profile
        profile: String,
    },
    /// Take no further node; the one that is away still comes back, or is rolled back
    ///
    /// Example: kiln rollout pause lab
    Pause {
        /// The cluster's profile
        profile: String,
    },
    /// Go on with a rollout that was paused
    ///
    /// Example: kiln rollout resume lab
    Resume {
        /// The cluster's profile
        profile: String,
    },
    /// End a rollout: roll back the node that is away, and leave all others as they are
    ///
    /// Nodes that are done keep the new image; `kiln rollout PROFILE --to GENERATION` brings them
    /// back.
    ///
    /// Example: kiln rollout abort lab
    #[command(verbatim_doc_comment)]
    Abort {
        /// The cluster's profile
        profile: String,
    },
}

/// Where a rollout is carried out, and by what.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The cluster.
    pub profile: &'a Profile,
    /// Its keys.
    pub pki: &'a Pki,
    /// How it is reached.
    pub reach: &'a Reach,
    /// What is done to its machines.
    pub hands: &'a dyn NodeHands,
    /// What a rollout to this generation, or to the profile's last build, has every node run.
    pub target: &'a dyn Fn(Option<u64>) -> Result<Target>,
}

impl std::fmt::Debug for Ground<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ground").field("profile", &self.profile.name).finish_non_exhaustive()
    }
}

/// What is printed.
#[derive(Serialize)]
struct Output<'a> {
    record: Option<&'a Record>,
    held_by: Option<&'a Holder>,
    next: Option<String>,
}

impl RolloutArgs {
    /// Runs it on the profile's hosts.
    ///
    /// # Errors
    /// As [`RolloutArgs::carry_out`]; a [`Refusal`] when there is no such generation, or its image may not be deployed.
    pub fn run(self, places: &Places) -> Result<()> {
        let named = self.profile()?;
        let profile = places.profile(named)?;
        let fleet = WhereArgs { lab: self.lab }.fleet(places, profile)?;
        // What is rolled out, and what it replaces, must not be collected meanwhile.
        fleet.store.hold()?;
        let hands = FleetHands { fleet: &fleet, tell: &Bars::new() };
        let target = |to: Option<u64>| {
            let (generation, generations) = fleet.choose(&fleet.survey(), to, clock::now())?;
            if to.is_none() {
                warn_if_outdated(places, &fleet.store, named, &generation.key);
            }
            // Whoever names an earlier generation wants an older image.
            let told = |flag: fn(&StartArgs) -> bool| self.start.as_ref().is_some_and(flag);
            let older = to.is_some() || told(|start| start.allow_older);
            let lenience = Lenience { unsigned: told(|start| start.allow_unsigned), older };
            fleet.admit_image(&generation, &generations, &places.signing()?, lenience)?;
            hands.target(&generation)
        };
        let (profile, pki, reach) = (&fleet.profile, &fleet.pki, &fleet.reach);
        self.carry_out(places, &Ground { profile, pki, reach, hands: &hands, target: &target })
    }

    /// The profile it is about.
    ///
    /// # Errors
    /// When none is named.
    pub fn profile(&self) -> Result<&str> {
        let named = match (&self.command, &self.start) {
            (Some(command), _) => Some(match command {
                RolloutCommand::Status { profile }
                | RolloutCommand::Pause { profile }
                | RolloutCommand::Resume { profile }
                | RolloutCommand::Abort { profile } => profile.as_str(),
            }),
            (None, Some(start)) => Some(start.profile.as_str()),
            (None, None) => None,
        };
        named.context("no profile is named")
    }

    /// Carries it out on that ground, and prints what came of it.
    ///
    /// # Errors
    /// A [`Refusal`], or [`TryAgain`] when it is not at its end; an error when it was stopped by a node that did not come back.
    pub fn carry_out(&self, places: &Places, ground: &Ground<'_>) -> Result<()> {
        let client = ClusterClient::new(ground.reach, ground.pki, &ground.profile.nodes)?;
        let operator = self.operator.clone().map_or_else(this_operator, Ok)?;
        let etcd = &ground.profile.etcd.settings;
        let rollout = Rollout {
            sight: Sight { reach: ground.reach, pki: ground.pki, etcd, client: &client, hands: ground.hands },
            profile: &ground.profile.name,
            operator: &operator,
            patience: Duration::from_secs(self.patience),
        };
        let by = || operator.clone();
        match (&self.command, &self.start) {
            (None, Some(start)) => {
                let target = (ground.target)(start.to)?;
                let task = Task::Start { target, back_within_secs: start.back_within };
                ended(places, &ground.profile.name, &rollout.run(task)?)
            }
            (None, None) => bail!("no profile is named"),
            (Some(RolloutCommand::Status { .. }), _) => status(places, &rollout),
            (Some(RolloutCommand::Pause { .. }), _) => {
                let record = rollout.wish(&Wish::Pause { by: by(), at: clock::now() })?;
                print(places, &record)
            }
            (Some(RolloutCommand::Resume { .. }), _) => {
                rollout.wish(&Wish::Go)?;
                ended(places, &ground.profile.name, &rollout.run(Task::Continue)?)
            }
            (Some(RolloutCommand::Abort { .. }), _) => abort(places, &rollout, by()),
        }
    }
}

fn abort(places: &Places, rollout: &Rollout<'_>, by: String) -> Result<()> {
    let record = rollout.wish(&Wish::Abort { by, at: clock::now() })?;
    if let (_, Some(holder)) = rollout.standing()? {
        log::info!(
            "{} is at it, and ends it; if that terminal is dead, `kiln rollout {}` does, a moment later",
            holder.operator,
            rollout.profile
        );
        return print(places, &record);
    }
    let record = rollout.run(Task::Continue)?;
    print(places, &record)
}

fn status(places: &Places, rollout: &Rollout<'_>) -> Result<()> {
    let (record, holder) = rollout.standing()?;
    let Some(record) = record else {
        let none = Output { record: None, held_by: holder.as_ref(), next: None };
        return places.print(&none, "there was no rollout yet");
    };
    let next = match record.ended {
        Some(_) => None,
        // A cluster that cannot be looked at now still has a record worth telling.
        None => Some(rollout.next(&record).map_or_else(|error| format!("not known: {error:#}"), |act| act.sentence())),
    };
    let text = report::table(&record, holder.as_ref());
    let text = next.as_ref().map_or(text.clone(), |next| format!("{text}next: {next}\n"));
    places.print(&Output { record: Some(&record), held_by: holder.as_ref(), next }, &text)
}

fn print(places: &Places, record: &Record) -> Result<()> {
    let output = Output { record: Some(record), held_by: None, next: None };
    places.print(&output, &report::table(record, None))
}

/// Prints a rollout that is at rest, and says by the exit code whether it is where it was to go.
fn ended(places: &Places, profile: &str, record: &Record) -> Result<()> {
    print(places, record)?;
    match (record.ended.as_ref().map(|ended| &ended.how), &record.wish) {
        (Some(Ending::Done), _) => Ok(()),
        (Some(Ending::Stopped { node, why }), _) => {
            bail!(
                "the rollout stopped at {node}: {why}\n  hint: every other node is as the table says; mend the image, then: kiln rollout {profile}"
            )
        }
        (Some(Ending::Aborted { by }), _) => Err(Refusal::new(
            format!("{by} aborted the rollout"),
            format!("see what every node runs: kiln rollout status {profile}"),
        )
        .into()),
        (None, Wish::Pause { by, at }) => Err(TryAgain(format!(
            "{by} paused the rollout {}\n  hint: go on with: kiln rollout resume {profile}",
            utc(*at)
        ))
        .into()),
        (None, Wish::Go | Wish::Abort { .. }) => bail!("the rollout is at rest before its end"),
    }
}

/// USER@MACHINE.
fn this_operator() -> Result<String> {
    let user = User::from_uid(getuid()).context("looking up who you are")?;
    let user = user.map_or_else(|| getuid().to_string(), |user| user.name);
    let machine = gethostname().context("looking up this machine's name")?;
    Ok(format!("{user}@{}", machine.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Subcommand)]
    enum Command {
        Rollout(RolloutArgs),
    }

    fn parse(line: &str) -> Result<RolloutArgs, clap::Error> {
        let Command::Rollout(args) = Cli::try_parse_from(line.split(' '))?.command;
        Ok(args)
    }

    #[test]
    fn a_profile_alone_starts_a_rollout_and_a_word_before_it_says_what_else() {
        let start = parse("kiln rollout lab").unwrap();
        assert_eq!((start.profile().unwrap(), start.start.as_ref().unwrap().back_within), ("lab", BACK_WITHIN_SECS));
        let to = parse("kiln rollout lab --to 3 --operator ann").unwrap();
        assert_eq!((to.start.unwrap().to, to.operator.as_deref()), (Some(3), Some("ann")));
        let pause = parse("kiln rollout pause lab --operator ann").unwrap();
        assert!(matches!(&pause.command, Some(RolloutCommand::Pause { .. })) && pause.start.is_none());
        assert_eq!(pause.profile().unwrap(), "lab");
        for wrong in ["kiln rollout pause", "kiln rollout lab --to three", "kiln rollout pause lab --to 3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
