//! Bringing a lab up, from whatever is there already, and watching it until its cluster serves.
#![expect(clippy::disallowed_methods, reason = "an edge: the clock of the progress lines, the pause between two looks")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::dnsmasq::Dnsmasq;
use super::host::{Host, Setup, TREE, group};
use super::hosts::BRIDGE;
use super::hypervisor::Hypervisor;
use super::libvirt::{self, Sockets};
use super::machine::Machine;
use super::record::{Driver, LabImage, Lock, Record};
use super::status::LabStatus;
use super::{Lab, Live, dhcp};
use crate::disk::cloud::CloudDisk;
use crate::exit::{Refusal, TryAgain};

/// How often containers are asked while they form: often enough to time their milestones.
const LOOK_AT_CONTAINERS: Duration = Duration::from_millis(250);
/// How often VMs are asked. Under emulation every answer is a TLS handshake of a tenth of a second or more, which forming needs itself.
const LOOK_AT_VMS: Duration = Duration::from_secs(2);

/// Seconds from the start of `up` to each milestone; absent for one that was not reached, 0-ish for one that was there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Keys, lock and image are there.
    pub built: f64,
    /// All nodes are powered on.
    pub started: f64,
    /// The founder has founded: some node reports a lineage.
    pub founded: Option<f64>,
    /// Every node is a healthy voter of one lineage.
    pub formed: Option<f64>,
    /// Every node has seen the cluster activated.
    pub activated: Option<f64>,
}

impl Lab {
    /// Makes host, network, DHCP, DNS and the chosen nodes run, or where nodes are on hypervisors, these; what runs already is left alone.
    ///
    /// # Errors
    /// [`Refusal`] when the lab was made with another driver or image; else whatever could not be started.
    pub fn bring_up(
        &self,
        _lock: &Lock,
        image: LabImage,
        driver: Option<Driver>,
        machines: &[Machine<'_>],
    ) -> anyhow::Result<Live<'_>> {
        let name = &self.profile.name;
        let record = match Record::read(&self.dir)? {
            None => Record {
                schema: 1,
                profile: name.clone(),
                driver: driver.unwrap_or(Driver::Vm),
                image,
                reimaged: BTreeMap::new(),
                bends: BTreeMap::new(),
                dns_stopped: false,
                network_cut: false,
            },
            Some(record) if driver.is_some_and(|d| d != record.driver) => {
                let what = format!("the lab `{name}` runs with another driver");
                return Err(Refusal::new(what, format!("take it down first: kiln lab down {name}")).into());
            }
            // What runs on hypervisors is for `kiln deploy` to say; the lab itself takes no more than etcdctl from its image.
            Some(record) if record.image.key != image.key && record.driver != Driver::Hosts => {
                let what = format!(
                    "the lab `{name}` runs image {}, and the profile now makes {}",
                    record.image.key, image.key
                );
                return Err(Refusal::new(what, format!("take it down first: kiln lab down {name}")).into());
            }
            // The same image, wherever the store is now.
            Some(record) => Record { image, ..record },
        };
        record.write(&self.dir)?;
        let address = self.host_address()?;
        let subnet = self.profile.network.subnet;
        let host = Host::ensure(&Setup {
            dir: &self.dir,
            group: &group(&self.dir),
            name: "host1",
            bridge: BRIDGE,
            address: Some((address, subnet.prefix())),
            hide_kvm: false,
            keep: &[&self.dir, &self.store],
        })?;
        host.mount_tree(TREE, &record.image.raw, CloudDisk::find(record.image.raw.as_std_path())?.root.extent.start)?;
        let leases = self.dir.join("dhcp.leases");
        Dnsmasq::dhcp(&self.dir).ensure(&host, &dhcp::config(&self.profile, address, &leases))?;
        if record.driver == Driver::Vm {
            libvirt::ensure(&host, &Sockets::Usual, &self.dir.join("libvirtd.log"))?;
        }
        let live = self.with(host, record)?;
        live.apply_dns()?;
        match live.record.driver {
            Driver::Container | Driver::Vm => live.start(machines)?,
            Driver::Hosts => live.start_hosts(&self.hypervisors().collect::<Vec<Hypervisor<'_>>>())?,
        }
        Ok(live)
    }
}

impl Live<'_> {
    /// Watches until every node of the profile has seen the cluster activated and serves. Says, line by line, what each node waits for.
    ///
    /// # Errors
    /// [`TryAgain`] when `limit` is over; the lab goes on by itself.
    pub fn await_activation(
        &self,
        began: Instant,
        limit: Duration,
        seconds: &mut Seconds,
    ) -> anyhow::Result<LabStatus> {
        let mut said: BTreeMap<String, String> = BTreeMap::new();
        let deadline = Instant::now() + limit;
        let pause = match self.record.driver {
            Driver::Container => LOOK_AT_CONTAINERS,
            Driver::Vm | Driver::Hosts => LOOK_AT_VMS,
        };
        loop {
            let status = self.status()?;
            let now = began.elapsed().as_secs_f64();
            for node in &status.nodes {
                let line = match (node.waiting_for.as_str(), node.healthy) {
                    ("", true) => format!("{}: serves as {}", node.name, node.member_id.as_deref().unwrap_or("")),
                    ("", false) => format!("{}: {}", node.name, node.phase),
                    (waits, _) => format!("{}: {}, waits: {waits}", node.name, node.phase),
                };
                if said.get(&node.name) != Some(&line) {
                    log::info!("{now:6.1} s  {line}");
                    said.insert(node.name.clone(), line);
                }
            }
            if status.lineage.is_some() {
                seconds.founded.get_or_insert(now);
            }
            if status.nodes.iter().all(|n| n.healthy) {
                seconds.formed.get_or_insert(now);
            }
            if status.activated {
                seconds.activated.get_or_insert(now);
                // A founder of the 3.5 line restarts its etcd once more with every check on; until it is back the lab is not up.
                if status.nodes.iter().all(|n| n.healthy) {
                    return Ok(status);
                }
            }
            if Instant::now() > deadline {
                let name = &self.lab.profile.name;
                return Err(TryAgain(format!(
                    "the cluster is not activated after {} s; the lab goes on without you\n  hint: kiln lab status {name}",
                    limit.as_secs()
                ))
                .into());
            }
            std::thread::sleep(pause);
        }
    }
}
