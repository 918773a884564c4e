//! `kiln lab dns`: stops, starts and bends the lab's DNS, to see how nodes bear it.

use kiln_firstboot::name::Fqdn;

use super::lab;
use crate::cli::Places;
use crate::lab::Lab;
use crate::lab::dns::{Bend, Bends, Bent, bent_records};
use crate::lab::record::Lock;

/// What to do to the lab's DNS.
#[derive(Debug, clap::Subcommand)]
pub(super) enum DnsAction {
    /// Print the records that are served
    ///
    /// Example: kiln lab dns lab show
    Show,
    /// Stop the DNS server; DHCP goes on
    ///
    /// Example: kiln lab dns lab stop
    Stop,
    /// Start the DNS server
    ///
    /// Example: kiln lab dns lab start
    Start,
    /// Serve the profile's records again, all of them
    ///
    /// Example: kiln lab dns lab reset
    Reset,
    /// Let a node's address point to another name
    ///
    /// Example: kiln lab dns lab set-ptr etcd2 stranger.lab.kiln.test
    SetPtr {
        /// The node
        node: String,
        /// The name
        name: Fqdn,
    },
    /// Take a node's PTR record away
    ///
    /// Example: kiln lab dns lab drop-ptr etcd2
    DropPtr {
        /// The node
        node: String,
    },
    /// Let a node's name have another address
    ///
    /// Example: kiln lab dns lab set-a etcd2 10.77.0.99
    SetA {
        /// The node
        node: String,
        /// The address
        address: std::net::IpAddr,
    },
    /// Take a node's A record away
    ///
    /// Example: kiln lab dns lab drop-a etcd2
    DropA {
        /// The node
        node: String,
    },
    /// Let a node's SRV records name another host
    ///
    /// Example: kiln lab dns lab set-srv etcd2 stranger.lab.kiln.test
    SetSrv {
        /// The node
        node: String,
        /// The host
        name: Fqdn,
    },
    /// Take a node's SRV records away
    ///
    /// Example: kiln lab dns lab drop-srv etcd2
    DropSrv {
        /// The node
        node: String,
    },
}

pub(super) fn run(places: &Places, profile: &str, action: DnsAction) -> anyhow::Result<()> {
    let lab = lab(places, profile)?;
    let mut live = lab.live()?;
    if matches!(action, DnsAction::Show) {
        let records = bent_records(&lab.profile, &live.record.bends);
        let lines: Vec<String> = records.iter().map(ToString::to_string).collect();
        return places.print(&lines, &lines.join("\n"));
    }
    let _lock = Lock::take(&lab.dir)?;
    let bends = &mut live.record.bends;
    match action {
        DnsAction::Show => {}
        DnsAction::Stop => live.record.dns_stopped = true,
        DnsAction::Start => live.record.dns_stopped = false,
        DnsAction::Reset => bends.clear(),
        DnsAction::SetPtr { node, name } => bend(&lab, bends, &node)?.pointer = Some(Bent::Says(name)),
        DnsAction::DropPtr { node } => bend(&lab, bends, &node)?.pointer = Some(Bent::Dropped),
        DnsAction::SetA { node, address } => bend(&lab, bends, &node)?.address = Some(Bent::Says(address)),
        DnsAction::DropA { node } => bend(&lab, bends, &node)?.address = Some(Bent::Dropped),
        DnsAction::SetSrv { node, name } => bend(&lab, bends, &node)?.service = Some(Bent::Says(name)),
        DnsAction::DropSrv { node } => bend(&lab, bends, &node)?.service = Some(Bent::Dropped),
    }
    live.record.write(&lab.dir)?;
    live.apply_dns()
}

fn bend<'b>(lab: &Lab, bends: &'b mut Bends, node: &str) -> anyhow::Result<&'b mut Bend> {
    Ok(bends.entry(lab.node(node)?.name.clone()).or_default())
}
