//! Choosing the driver of a host.

use super::Host;
use super::libvirt::Libvirt;
use super::proxmox::{Pace, Proxmox};
use crate::exit::Refusal;
use crate::profile::{self, HostKind};

/// The driver of a profile's host. Nothing is asked of the host yet.
///
/// # Errors
/// A [`Refusal`] for a host that has no endpoint, or is of a kind that is not driven; when the token of a Proxmox VE cannot be read.
pub fn open(host: &profile::Host) -> anyhow::Result<Box<dyn Host>> {
    let name = &host.name;
    match &host.kind {
        HostKind::Libvirt(settings) => {
            let endpoint = endpoint(host, &format!("qemu+ssh://root@{name}/system"))?;
            Ok(Box::new(Libvirt::new(name, endpoint, settings)))
        }
        HostKind::Proxmox(settings) => {
            let endpoint = endpoint(host, &format!("https://{name}:8006"))?;
            Ok(Box::new(Proxmox::open(name, endpoint, settings, Pace::default())?))
        }
        HostKind::Lab => {
            let what = format!("the host `{name}` is only ever simulated");
            Err(Refusal::new(what, "bring its cluster up on this machine: kiln lab up").into())
        }
    }
}

/// # Errors
/// A refusal when the profile does not say it; `such_as` is what it could be.
fn endpoint<'h>(host: &'h profile::Host, such_as: &str) -> Result<&'h str, Refusal> {
    host.endpoint.as_deref().ok_or_else(|| {
        let name = &host.name;
        let remedy = format!("write `endpoint = \"{such_as}\"` under [hosts.{name}]");
        Refusal::new(format!("the profile does not say where the host `{name}` is"), remedy)
    })
}
