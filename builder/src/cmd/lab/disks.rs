//! `kiln lab reimage`, `checkpoint`, `rollback`, `clone`: what is done to a node's disks.

use serde::Serialize;

use super::{lab, up};
use crate::cli::Places;
use crate::cmd::build::SourceArgs;
use crate::lab::admission::Lenience;
use crate::lab::machine::Machine;
use crate::lab::record::Lock;
use crate::lab::{Lab, Live};
use crate::store::{RootKind, Store};

/// What `reimage` tells.
#[derive(Debug, Serialize)]
struct ReimageReport {
    node: String,
    image_key: String,
    data: &'static str,
}

/// Does something to one machine's disks.
pub(super) fn change(
    places: &Places,
    profile: &str,
    node: &str,
    act: fn(&Live<'_>, Machine<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let lab = lab(places, profile)?;
    let _lock = Lock::take(&lab.dir)?;
    act(&lab.live()?, lab.machine(node)?)
}

/// Lets the images go that nodes were reimaged with.
pub(super) fn forget(places: &Places, lab: &Lab) -> anyhow::Result<()> {
    let store = Store::at(places.store()?);
    Machine::all(&lab.profile).try_for_each(|machine| store.forget(RootKind::Lab, &root_of(lab, machine)).map(drop))
}

/// The name under which the store keeps what a node was reimaged with.
fn root_of(lab: &Lab, machine: Machine<'_>) -> String {
    format!("{}.{}", lab.profile.name, machine.node.name)
}

pub(super) fn reimage(
    places: &Places,
    source: &SourceArgs,
    node: &str,
    wipe_data: bool,
    lenience: Lenience,
) -> anyhow::Result<()> {
    let lab = lab(places, &source.profile)?;
    // Before anything is built: a lab that is not up, or a name that is misspelt, costs no time.
    let machine = lab.machine(node)?;
    let _lock = Lock::take(&lab.dir)?;
    let mut live = lab.live()?;
    let (image, ran) = up::built(places, source, &lab, &root_of(&lab, machine), lenience)?;
    let key = image.key.clone();
    live.reimage(machine, image, wipe_data)?;
    lab.remember(&ran)?;
    let data = if wipe_data { "wiped" } else { "kept" };
    let text = format!(
        "`{}` boots image {key} with its data {data}\nwatch it: kiln lab status {}",
        machine.name(),
        source.profile
    );
    places.print(&ReimageReport { node: machine.name(), image_key: key.clone(), data }, &text)
}
