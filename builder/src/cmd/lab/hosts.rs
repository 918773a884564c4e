//! `kiln lab kill|start --host`, `kiln lab net`, `kiln lab host --on`: what is done to the hosts that a lab plays.

use super::lab;
use crate::cli::Places;
use crate::exit::Refusal;
use crate::lab::hypervisor::Hypervisor;
use crate::lab::record::Lock;
use crate::lab::{Live, guest};

/// What to do to the network between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum NetAction {
    /// No host reaches another
    Cut,
    /// They do again
    Mend,
}

/// Powers hosts on or off.
pub(super) fn power(
    places: &Places,
    profile: &str,
    names: &[String],
    act: impl Fn(&Live<'_>, &[Hypervisor<'_>]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let lab = lab(places, profile)?;
    let live = lab.live()?;
    let _lock = Lock::take(&lab.dir)?;
    let hypervisors = names.iter().map(|name| lab.hypervisor(name)).collect::<anyhow::Result<Vec<_>>>()?;
    act(&live, &hypervisors)
}

/// Cuts the network between the hosts, or mends it.
pub(super) fn net(places: &Places, profile: &str, action: NetAction) -> anyhow::Result<()> {
    let lab = lab(places, profile)?;
    let _lock = Lock::take(&lab.dir)?;
    lab.live()?.cut_network(action == NetAction::Cut)
}

/// Becomes a command on a host.
pub(super) fn run(places: &Places, profile: &str, name: &str, command: &[String]) -> anyhow::Result<()> {
    let lab = lab(places, profile)?;
    lab.live()?.require_hosts()?;
    let Some(host) = lab.hypervisor(name)?.find()? else {
        let hint = format!("kiln lab start {profile} --host {name}");
        return Err(Refusal::new(format!("host `{name}` is down"), hint).into());
    };
    guest::become_on_host(&host, command).map(drop)
}
