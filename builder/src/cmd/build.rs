//! `kiln build`: makes a profile's image.
#![expect(clippy::disallowed_methods, reason = "measures how long a build took")]

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;
use serde::Serialize;

use crate::build::{self, Built};
use crate::cli::Places;
use crate::clock;
use crate::cluster_files::ClusterIdentity;
use crate::image_definition::ImageDefinition;
use crate::image_file;
use crate::layer::LayerReport;
use crate::lock::{self, Lock};
use crate::pki::Pki;
use crate::plan::{self, Plan, Wish};
use crate::profile::Profile;
use crate::store::{RootKind, Store};
use crate::trust::seal::Sealer;

/// Build a profile's image
///
/// Makes what is not in the store yet: base, boot, image, as raw disk and qcow2. Reads nothing but what the lock pins, so it needs the
/// network only for inputs it has not fetched before. A second build of the same recipe does nothing.
///
/// Example: kiln build lab
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct BuildArgs {
    /// What to build
    #[command(flatten)]
    source: SourceArgs,
    /// Also make the qcow2 compressed with zstd, for moving over networks
    #[arg(long)]
    compress: bool,
}

/// What every command that looks at an image needs to know.
#[derive(Clone, Debug, clap::Args)]
pub struct SourceArgs {
    /// Path of a profile, or the bare name of one in profiles/
    pub profile: String,
    /// The agent to put into the image [default: `firstboot` beside this program]
    #[arg(long, value_name = "PATH")]
    pub firstboot: Option<PathBuf>,
}

/// What is known of an image before its etcd is chosen.
#[derive(Debug)]
pub struct Source {
    /// The profile.
    pub profile: Profile,
    definition: ImageDefinition,
    lock: Lock,
    identity: ClusterIdentity,
    firstboot: PathBuf,
    sealer: Sealer,
}

#[derive(Serialize)]
struct Output {
    key: String,
    image: PathBuf,
    raw: PathBuf,
    bytes: u64,
    layers: Vec<LayerReport>,
}

impl SourceArgs {
    /// Reads profile, image definition, lock and the cluster's public identity.
    ///
    /// # Errors
    /// When one of them is missing or wrong; a missing lock or missing keys name the command that makes them.
    pub fn read(&self, places: &Places) -> Result<Source> {
        let profile = places.profile(&self.profile)?;
        let definition = image_file::read(&places.project, &profile)?;
        let lock = plan::read_lock(&profile, &definition)?;
        let pki = Pki::load(&places.pki(&profile)?, &profile)?;
        let trust = pki.trust();
        let identity = ClusterIdentity { cluster: trust.cluster, charter_key: trust.charter_key };
        let firstboot = match &self.firstboot {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .context("looking for the agent beside this program")?
                .with_file_name("firstboot"),
        };
        let sealer = Sealer { keys: places.signing()?, now: clock::now() };
        Ok(Source { profile, definition, lock, identity, firstboot, sealer })
    }
}

/// Says so when a build by this program's own agent would not make `built` any more, the profile's last build: something was changed and not built.
/// Says nothing where that is not certain without asking anybody, and where a build would be refused.
pub(super) fn warn_if_outdated(places: &Places, store: &Store, profile: &str, built: &Sha256Digest) {
    let source = SourceArgs { profile: profile.to_owned(), firstboot: None };
    match source.read(places).and_then(|source| source.guess(store)) {
        Ok((_, plan, true)) if plan.keys.image != *built => log::warn!(
            "what is taken is the last build of `{profile}` (image {:.12}); `kiln build {profile}` would make another one now (image {:.12}): \
             profile, image definition, lock, keys or agent have changed since",
            built.to_string(),
            plan.keys.image.to_string()
        ),
        Ok(_) => {}
        Err(error) => log::debug!("not known what a build of `{profile}` would make now: {error:#}"),
    }
}

impl Source {
    /// The plan of a build; fetches etcd if it must, to know which alternate can be had.
    ///
    /// # Errors
    /// As [`build::choose_etcd`] and [`Plan::new`].
    pub fn plan(self, store: &Store) -> Result<(Profile, Plan)> {
        let dir = lock::path_of(&self.profile).parent().map(ToOwned::to_owned).unwrap_or_default();
        let etcd =
            build::choose_etcd(store, &self.lock, &dir).map_err(|e| crate::store::explain_full(e, store.root()))?;
        self.with_etcd(etcd)
    }

    /// The plan of a build as far as it can be known without asking anybody: which etcd, and whether that is certain.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn guess(self, store: &Store) -> Result<(Profile, Plan, bool)> {
        let dir = lock::path_of(&self.profile).parent().map(ToOwned::to_owned).unwrap_or_default();
        let at_hand = plan::etcd_at_hand(store, &self.lock, &dir)?;
        let certain = at_hand.is_some() || self.lock.etcd.len() == 1;
        let (profile, plan) = self.with_etcd(at_hand.unwrap_or(0))?;
        Ok((profile, plan, certain))
    }

    fn with_etcd(self, etcd: usize) -> Result<(Profile, Plan)> {
        let wish = Wish { firstboot: self.firstboot, identity: self.identity, etcd };
        let plan = Plan::new(&self.profile, &self.definition, self.lock, &wish)?;
        Ok((self.profile, plan.sealed_by(Some(self.sealer))))
    }
}

impl BuildArgs {
    /// Runs it.
    ///
    /// # Errors
    /// As [`build::build`].
    pub fn run(self, places: &Places) -> Result<()> {
        let began = std::time::Instant::now();
        let store = Store::at(places.store()?);
        let (profile, plan) = self.source.read(places)?.plan(&store)?;
        let kept = store.keeps(RootKind::Build, &profile.name)?;
        if kept != Some(plan.keys.image) {
            // What is there already but kept by nobody must not be collected before it is kept.
            store.hold()?;
        }
        let built = build::build(&store, &plan, self.compress)?;
        store.keep(RootKind::Build, &profile.name, &built.key, clock::now())?;
        let text = describe(&profile, &plan, &built, began.elapsed().as_secs_f64());
        let Built { key, image, raw, bytes, layers } = built;
        places.print(&Output { key: key.to_string(), image, raw, bytes, layers }, &text)
    }
}

fn describe(profile: &Profile, plan: &Plan, built: &Built, seconds: f64) -> String {
    let made: Vec<&str> = built.layers.iter().filter(|l| l.built).map(|l| l.name.as_str()).collect();
    let done = if made.is_empty() {
        format!("nothing to do: `{}` is built", profile.name)
    } else {
        format!("built `{}` in {seconds:.1} s ({})", profile.name, made.join(", "))
    };
    format!(
        "{done}\n  key    {}\n  etcd   {} ({})\n  image  {} ({} MB)\n",
        built.key,
        plan.recipe.etcd.version,
        plan.recipe.etcd.source,
        built.image.display(),
        built.bytes.div_ceil(1_000_000)
    )
}
