//! A lab of several hosts: brought up, lost one by one, and cut off from each other.

use super::Live;
use super::host::Host;
use super::hypervisor::Hypervisor;
use super::record::Driver;
use super::status::HostRow;
use super::vxlan::{self, Vxlan};
use crate::exit::Refusal;
use crate::profile::Accelerator;

/// The lab host's bridge, on which DHCP and DNS listen.
pub const BRIDGE: &str = "br0";

impl Live<'_> {
    /// Whether the lab plays hypervisors, and how they are; nothing when it plays none.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn hosts(&self) -> anyhow::Result<Vec<HostRow>> {
        if self.record.driver != Driver::Hosts {
            return Ok(vec![]);
        }
        let row = |h: Hypervisor<'_>| {
            Ok(HostRow { name: h.name.to_owned(), up: h.find()?.is_some(), cut: self.record.network_cut })
        };
        self.lab.hypervisors().map(row).collect()
    }

    /// Powers hypervisors on, those that are off, and joins them to the nodes' network. Machines that are to start with them do.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_hosts(&self, hypervisors: &[Hypervisor<'_>]) -> anyhow::Result<()> {
        self.require_hosts()?;
        let hide_kvm = match self.accelerator()? {
            Accelerator::Kvm => false,
            Accelerator::Tcg => true,
        };
        let network = &self.lab.profile.network;
        let wire = self.wire();
        wire.ensure_center(BRIDGE)?;
        let up = hypervisors.iter().map(|hypervisor| {
            let host = hypervisor.ensure(hide_kvm)?;
            wire.join(&host, hypervisor.number, &network.bridge)?;
            Ok((*hypervisor, host))
        });
        let up = up.collect::<anyhow::Result<Vec<(Hypervisor<'_>, Host)>>>()?;
        // A libvirt takes seconds to start, most of them waiting: they do so side by side.
        std::thread::scope(|scope| {
            let starting: Vec<_> = up.iter().map(|(h, host)| scope.spawn(move || h.ensure_libvirt(host))).collect();
            let ended =
                starting.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            ended.collect::<anyhow::Result<Vec<()>>>()
        })?;
        Ok(())
    }

    /// Loses hypervisors, those that are up, with everything that runs on them. Their disks stay.
    ///
    /// # Errors
    /// When one does not end.
    pub fn kill_hosts(&self, hypervisors: &[Hypervisor<'_>]) -> anyhow::Result<()> {
        self.require_hosts()?;
        hypervisors.iter().try_for_each(Hypervisor::kill)
    }

    /// Cuts the network between the hypervisors, or mends it. The lab host sees all of them either way.
    ///
    /// # Errors
    /// When it cannot be cut or mended.
    pub fn cut_network(&mut self, cut: bool) -> anyhow::Result<()> {
        self.require_hosts()?;
        self.record.network_cut = cut;
        self.record.write(&self.lab.dir)?;
        for hypervisor in self.lab.hypervisors() {
            // One that is down is plugged in as the record says when it comes back.
            if hypervisor.find()?.is_some() {
                vxlan::isolate(&self.host, hypervisor.number, cut)?;
            }
        }
        Ok(())
    }

    /// That the lab plays hypervisors.
    ///
    /// # Errors
    /// [`Refusal`] when it does not.
    pub fn require_hosts(&self) -> anyhow::Result<()> {
        match self.record.driver {
            Driver::Hosts => Ok(()),
            Driver::Container | Driver::Vm => {
                let (name, count) = (&self.lab.profile.name, self.lab.profile.hosts.len());
                let what = format!("the nodes of the lab `{name}` are on no hypervisor");
                let hint = format!("kiln lab down {name}; kiln lab up {name} --hosts {count}");
                Err(Refusal::new(what, hint).into())
            }
        }
    }

    fn wire(&self) -> Vxlan<'_> {
        let hypervisors = self.lab.hypervisors().map(|h| h.number).max().unwrap_or(0);
        Vxlan { center: &self.host, hypervisors, mtu: self.lab.profile.network.mtu, cut: self.record.network_cut }
    }
}
