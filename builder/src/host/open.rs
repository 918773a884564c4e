//! Choosing the driver of a host.

use super::Host;
use super::libvirt::Libvirt;
use crate::exit::Refusal;
use crate::profile::{self, HostKind};

/// The driver of a profile's host. Nothing is asked of the host yet.
///
/// # Errors
/// A [`Refusal`] for a host that has no endpoint, or is of a kind that is not driven.
pub fn open(host: &profile::Host) -> anyhow::Result<Box<dyn Host>> {
    let name = &host.name;
    match &host.kind {
        HostKind::Libvirt(settings) => {
            let endpoint = host.endpoint.as_deref().ok_or_else(|| {
                let remedy = format!("write `endpoint = \"qemu+ssh://root@{name}/system\"` under [hosts.{name}]");
                Refusal::new(format!("the profile does not say where the host `{name}` is"), remedy)
            })?;
            Ok(Box::new(Libvirt::new(name, endpoint, settings)))
        }
        HostKind::Proxmox => {
            let what = format!("the host `{name}` is a Proxmox VE, which this kiln does not drive");
            Err(Refusal::new(what, "use a host of the kind `libvirt`").into())
        }
        HostKind::Lab => {
            let what = format!("the host `{name}` is only ever simulated");
            Err(Refusal::new(what, "bring its cluster up on this machine: kiln lab up").into())
        }
    }
}
