//! `kiln lab up`: makes what is missing, brings the lab up, and watches it until it serves.
#![expect(clippy::disallowed_methods, reason = "times `up`")]

use std::time::{Duration, Instant};

use anyhow::Context as _;
use camino::Utf8PathBuf;
use serde::Serialize;

use super::lab;
use crate::cli::Places;
use crate::cmd::build::SourceArgs;
use crate::cmd::lock;
use crate::exit::Refusal;
use crate::lab::Lab;
use crate::lab::admission::{Lenience, Ran};
use crate::lab::record::{Driver, LabImage, Lock, Record};
use crate::lab::status::LabStatus;
use crate::lab::up::Seconds;
use crate::lab::{scale, vxlan};
use crate::pki::mint::{self, Order, Outcome};
use crate::store::{RootKind, Store};
use crate::trust::Depth;
use crate::{build, clock};

/// What `up` tells.
#[derive(Debug, Serialize)]
struct UpReport {
    profile: String,
    driver: Driver,
    image_key: String,
    seconds: Seconds,
    #[serde(flatten)]
    status: LabStatus,
}

/// How a lab is to come up.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) driver: Option<Driver>,
    /// So many hypervisors are to be played.
    pub(super) hosts: Option<usize>,
    pub(super) names: Vec<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) no_wait: bool,
    pub(super) lenience: Lenience,
}

pub(super) fn run(places: &Places, source: &SourceArgs, wish: &Wish) -> anyhow::Result<()> {
    let Wish { driver, hosts, names, timeout, no_wait, lenience } = wish;
    let began = Instant::now();
    let lab = lab(places, &source.profile)?;
    let machines = lab.machines(names)?;
    let driver = match hosts {
        None => *driver,
        Some(count) => {
            require_hosts(&lab, *count)?;
            Some(Driver::Hosts)
        }
    };
    let (image, ran) = prepare(places, source, &lab, *lenience)?;
    let mut seconds = Seconds { built: began.elapsed().as_secs_f64(), ..Seconds::default() };
    let key = image.key.clone();
    let lock = Lock::take(&lab.dir)?;
    let live = lab.bring_up(&lock, image, driver, &machines)?;
    lab.remember(&ran)?;
    drop(lock);
    seconds.started = began.elapsed().as_secs_f64();
    let on_hosts = live.driver() == Driver::Hosts;
    if on_hosts && scale::scaled(&lab.profile).is_some() {
        log::warn!("{}", scale::notice(&lab.profile));
    }
    let (count, what) = if on_hosts { (lab.profile.hosts.len(), "hosts") } else { (machines.len(), "nodes") };
    log::info!("{:6.1} s  {count} {what} are powered on", seconds.started);
    let status = if *no_wait || on_hosts || !names.is_empty() {
        live.status()?
    } else {
        let limit = timeout.unwrap_or(match live.driver() {
            Driver::Container => Duration::from_secs(120),
            Driver::Vm | Driver::Hosts => Duration::from_secs(900),
        });
        live.await_activation(began, limit, &mut seconds)?
    };
    let go_on = if on_hosts { how_to_deploy(&source.profile, &lab) } else { how_to_go_on(&source.profile, &lab) };
    let text = format!("{}\n{go_on}", status.table());
    let (profile, driver) = (lab.profile.name.clone(), live.driver());
    places.print(&UpReport { profile, driver, image_key: key, seconds, status }, &text)
}

fn how_to_go_on(profile: &str, lab: &Lab) -> String {
    let first = lab.profile.nodes.first().map_or("NODE", |n| &n.name);
    format!(
        "write and read:   kiln lab etcdctl {profile} put greeting hello; kiln lab etcdctl {profile} get greeting\n\
         watch a node:     kiln lab console {profile} {first} --follow\n\
         pull a plug:      kiln lab kill {profile} {first}; kiln lab start {profile} {first}\n\
         take it away:     kiln lab down {profile}\n"
    )
}

fn how_to_deploy(profile: &str, lab: &Lab) -> String {
    let host = lab.hypervisors().last().map_or("HOST", |h| h.name);
    format!(
        "make the nodes:   kiln deploy {profile} --lab\n\
         lose a host:      kiln lab kill {profile} --host {host}; kiln lab start {profile} --host {host}\n\
         cut the wire:     kiln lab net {profile} cut; kiln lab net {profile} mend\n\
         take it away:     kiln lab down {profile}\n"
    )
}

/// That the profile has so many hosts. Where its nodes are is the profile's to say, and the lab plays that or nothing.
fn require_hosts(lab: &Lab, count: usize) -> anyhow::Result<()> {
    let (name, has) = (&lab.profile.name, lab.profile.hosts.len());
    if count == has && has <= vxlan::MOST_HOSTS {
        return Ok(());
    }
    let what = format!("profile `{name}` puts its nodes on {has} hosts, not on {count}");
    let hint = format!("kiln lab up {name} --hosts {has}, or another profile; at most {} hosts", vxlan::MOST_HOSTS);
    Err(Refusal::new(what, hint).into())
}

/// Makes what an image needs and is not there: keys, lock, image.
fn prepare(places: &Places, source: &SourceArgs, lab: &Lab, lenience: Lenience) -> anyhow::Result<(LabImage, Ran)> {
    let profile = &lab.profile;
    let now = clock::now();
    let mint = |generation| {
        let order = Order { profile, generation, window_hours: None, now };
        mint::init(&lab.pki, &order).with_context(|| format!("minting the keys of `{}`", profile.name))
    };
    let (pki, outcome) = mint(None)?;
    if outcome == Outcome::Minted {
        log::info!("minted the keys of `{}` in {}", profile.name, lab.pki);
    }
    // A lab that is not there holds no data, so its nodes may form anew; with a charter whose window is over they could not.
    if pki.charter().form_until <= now && Record::read(&lab.dir)?.is_none() {
        mint(Some(pki.charter().generation + 1))?;
        log::info!("the time to form `{}` was over: minted its charter anew", profile.name);
    }
    if !profile.lock_file().exists() {
        lock::write(places, profile, None)?;
    }
    built(places, source, lab, &profile.name, lenience)
}

/// The profile's image, built if it is not in the store, let in, and kept there under the name of a root.
pub(super) fn built(
    places: &Places,
    source: &SourceArgs,
    lab: &Lab,
    root: &str,
    lenience: Lenience,
) -> anyhow::Result<(LabImage, Ran)> {
    let store = Store::at(places.store()?);
    let (profile, plan) = source.read(places)?.plan(&store)?;
    store.hold()?;
    let built = build::build(&store, &plan, false)?;
    // An image that was made this moment, or that the lab runs already, is not read again: what is there to do then takes no time.
    let made = built.layers.iter().any(|layer| layer.name == "image" && layer.built);
    let key = built.key.to_string();
    let runs = Record::read(&lab.dir)?.is_some_and(|r| r.image.key == key || r.reimaged.values().any(|i| i.key == key));
    let ran = lab.admit(&built.key, if made || runs { Depth::Small } else { Depth::Whole }, lenience)?;
    if !runs {
        lab.refuse_older(&ran, lenience)?;
    }
    // For as long as the lab is up its machines read from the image.
    store.keep(RootKind::Lab, root, &built.key, clock::now())?;
    // It is the profile's last build as much as one by `kiln build`: what the lab's nodes are to run.
    store.keep(RootKind::Build, &profile.name, &built.key, clock::now())?;
    let path = |path: std::path::PathBuf| {
        let path = Utf8PathBuf::try_from(path).context("reading the path of the image")?;
        camino::absolute_utf8(&path).with_context(|| format!("resolving `{path}`"))
    };
    Ok((LabImage { key, raw: path(built.raw)?, qcow2: path(built.image)? }, ran))
}
