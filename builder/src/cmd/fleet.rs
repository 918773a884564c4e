//! What the commands on a cluster's machines have in common: which cluster, what may pass, how long is waited.

use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8PathBuf;

use super::lab;
use crate::cli::Places;
use crate::exit::Refusal;
use crate::fleet::{Fleet, PATIENCE, drivers};
use crate::generations;
use crate::lab::admission::Lenience;
use crate::lab::scale;
use crate::pki::Pki;
use crate::profile::Profile;
use crate::reach::Reach;
use crate::store::Store;

/// Seconds a node is waited for: under emulation a boot takes a few minutes, on real hosts half of one.
const PATIENCE_SECS: u64 = 900;

/// Which cluster.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// Path of a profile, or the bare name of one in profiles/
    pub(super) profile: String,
}

/// Where it is.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct WhereArgs {
    /// Act on the hosts that this machine's lab of the profile plays, instead of the profile's own
    #[arg(long)]
    pub(super) lab: bool,
}

/// Images that are refused unless told.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct LenientArgs {
    /// Take an image that nobody signed, or a key that is not trusted
    #[arg(long)]
    allow_unsigned: bool,
    /// Take an image older than the current generation's
    #[arg(long)]
    allow_older: bool,
}

/// How long is waited for nodes to serve.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct WaitArgs {
    /// Return once the nodes are powered on; what is kept of earlier roots stays
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait for the nodes to serve
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE_SECS, conflicts_with = "no_wait")]
    timeout: u64,
}

/// How long is waited for machines to shut down.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct PatienceArgs {
    /// Seconds a machine may take to shut down before its plug is pulled
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs())]
    patience: u64,
}

impl PatienceArgs {
    pub(super) fn duration(self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

impl LenientArgs {
    /// What may pass; whoever names a generation may name an old one.
    pub(super) fn unless_named(self, generation: Option<u64>) -> Lenience {
        Lenience { unsigned: self.allow_unsigned, older: self.allow_older || generation.is_some() }
    }
}

impl WaitArgs {
    /// How long; none for not at all.
    pub(super) fn limit(self) -> Option<Duration> {
        (!self.no_wait).then(|| Duration::from_secs(self.timeout))
    }
}

impl WhereArgs {
    /// The cluster's machines. No host is asked anything yet.
    pub(super) fn fleet(self, places: &Places, profile: Profile) -> Result<Fleet> {
        let reach = self.reach(places, &profile)?;
        if reach.hosts.is_empty() {
            let name = &profile.name;
            let (what, remedy) = if self.lab {
                (
                    format!("the lab `{name}` plays no hosts"),
                    format!("kiln lab down {name}; kiln lab up {name} --hosts 2"),
                )
            } else {
                (
                    format!("no host of `{name}` has a driver and an endpoint"),
                    format!("run it on this machine: kiln lab up {name}"),
                )
            };
            return Err(Refusal::new(what, remedy).into());
        }
        let profile = match self.lab.then(|| scale::scaled(&profile)) {
            Some(Some(scaled)) => scaled,
            Some(None) | None => profile,
        };
        let (hosts, broken) = drivers::open(&profile, &reach);
        Ok(Fleet {
            pki: Pki::load(&places.pki(&profile)?, &profile)?,
            store: Store::at(places.store()?),
            series: self.series(&profile.name),
            dir: dir(places, &profile.name, self.lab)?,
            patience: PATIENCE,
            reach,
            hosts,
            broken,
            profile,
        })
    }

    /// What its generations are kept under.
    pub(super) fn series(self, profile: &str) -> String {
        if self.lab { generations::of_lab(profile) } else { profile.to_owned() }
    }

    /// How the cluster is reached.
    pub(super) fn reach(self, places: &Places, profile: &Profile) -> Result<Reach> {
        if !self.lab {
            return Ok(Reach::of(profile));
        }
        Ok(lab::lab_of(places, profile.clone())?.live()?.reach())
    }
}

/// Gives up what was kept of a lab's hosts, which are gone. Nothing is read where nothing was ever done to them.
pub(super) fn forget_lab(places: &Places, profile: &str) -> Result<()> {
    let dir = dir(places, profile, true)?;
    if !dir.exists() {
        return Ok(());
    }
    generations::forget(&Store::at(places.store()?), &generations::of_lab(profile))?;
    // Last: as long as it is there, this has to be done.
    fs_err::remove_dir_all(&dir)?;
    // It goes with the last lab; it is not empty while there is another.
    let _ = dir.parent().map(fs_err::remove_dir);
    Ok(())
}

/// What a lab's hosts have been brought to has nothing to do with the profile's own.
fn dir(places: &Places, profile: &str, lab: bool) -> Result<Utf8PathBuf> {
    let dir = places.home()?.join(if lab { "deploy-lab" } else { "deploy" }).join(profile);
    camino::absolute_utf8(&dir).with_context(|| format!("resolving `{dir}`"))
}
