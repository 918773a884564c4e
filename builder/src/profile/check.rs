//! Checks across the fields of a profile: names, addresses, hosts, the number of members.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::IpAddr;

use super::{Host, HostKind, Network, Node};
use crate::problem::Problem;
use crate::toml_reader::{Item, Table};

/// What [`is_label`] demands, as a hint.
pub(crate) const LABEL_RULE: &str = "use 1 to 63 lower-case letters, digits and inner hyphens";

/// Beyond this each further member makes every write slower and the cluster no safer; etcd's own advice.
const MANY_MEMBERS: usize = 7;

/// Whether `text` is one lower-case label of a host name.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A value with the place it was read from.
#[derive(Debug)]
pub(super) struct Placed<'a, T> {
    pub(super) item: Item<'a>,
    pub(super) value: T,
}

/// A node with the places of the fields that can contradict other nodes'.
#[derive(Debug)]
pub(super) struct PlacedNode<'a> {
    pub(super) node: Node,
    pub(super) name: Item<'a>,
    pub(super) host: Item<'a>,
    pub(super) address: Item<'a>,
    pub(super) mac: Item<'a>,
}

/// Checks the nodes against each other, the network and the hosts.
pub(super) fn nodes(nodes: &[PlacedNode<'_>], network: Option<&Network>, hosts: &[Host]) {
    unique(nodes.iter().map(|n| (&n.name, n.node.name.clone())), "the name");
    unique(nodes.iter().map(|n| (&n.address, n.node.address)), "the address");
    // Two nodes of one name have one derived Ethernet address too; the name is what there is to mend.
    let named_before = |i: usize| nodes[..i].iter().any(|earlier| earlier.node.name == nodes[i].node.name);
    let named_once = nodes.iter().enumerate().filter(|(i, _)| !named_before(*i)).map(|(_, n)| n);
    unique(named_once.map(|n| (&n.mac, n.node.mac)), "the Ethernet address");
    for placed in nodes {
        if !hosts.iter().any(|h| h.name == placed.node.host) {
            let known: Vec<String> = hosts.iter().map(|h| format!("`{}`", h.name)).collect();
            let remedy = if known.is_empty() {
                format!("define it: [hosts.{}]", placed.node.host)
            } else {
                format!("define it, or use {}", known.join(" or "))
            };
            placed.host.problem(format!("there is no host `{}`", placed.node.host), remedy);
        }
        if let Some(network) = network {
            address(&placed.address, placed.node.address, network);
        }
    }
}

fn address(item: &Item<'_>, address: IpAddr, network: &Network) {
    let subnet = network.subnet;
    let remedy = format!("use a free address of `{subnet}`");
    if !subnet.contains(address) {
        item.problem(format!("`{address}` is not in the subnet"), remedy);
    } else if address == subnet.network() && subnet.prefix() < if subnet.is_ipv4() { 31 } else { 127 } {
        item.problem(format!("`{address}` is the network itself"), remedy);
    } else if subnet.broadcast() == Some(address) {
        item.problem(format!("`{address}` is the subnet's broadcast address"), remedy);
    } else if network.gateway == Some(address) {
        item.problem(format!("`{address}` is the gateway"), remedy);
    } else if network.dns_servers.contains(&address) {
        item.problem(format!("`{address}` is a DNS server"), remedy);
    }
}

/// Checks the tunnel between the hosts, if there is one, and gives the network the MTU that is left inside.
pub(super) fn tunnel(table: &Table<'_>, network: &mut Network, hosts: &[Host], items: &[(&str, Item<'_>)]) {
    let Some(vxlan) = network.vxlan else { return };
    let ends = |ipv6: bool| hosts.iter().filter_map(|h| h.address).filter(|a| a.is_ipv6() == ipv6).count();
    for host in hosts {
        let Some((_, item)) = items.iter().find(|(name, _)| *name == host.name) else { continue };
        match (&host.kind, host.address) {
            // A lab makes the network between its hosts by itself.
            (HostKind::Lab, None) => {}
            (HostKind::Libvirt(_) | HostKind::Proxmox(_), None) => item.problem(
                "the tunnel of `network.vxlan` has no end here",
                "write the host's address on the network between the hosts: `address = `",
            ),
            (HostKind::Libvirt(_) | HostKind::Proxmox(_) | HostKind::Lab, Some(address)) => {
                if address.is_ipv6() && ends(false) > 0 {
                    item.problem(format!("a tunnel from `{address}` has no way to an IPv4 address"), "use one family");
                }
            }
        }
    }
    let room = vxlan.room(ends(true) > 0);
    match (network.mtu, table.get("mtu")) {
        (Some(mtu), Some(item)) if mtu > room => item.problem(
            format!("{mtu} is more than the {room} bytes that the tunnel leaves"),
            "leave `mtu` out, or raise `vxlan.underlay_mtu` if the network between the hosts can carry it",
        ),
        (Some(_), _) => {}
        (None, _) => network.mtu = Some(room),
    }
}

fn unique<'i, 'a: 'i, T: Eq + Hash + Display>(values: impl Iterator<Item = (&'i Item<'a>, T)>, noun: &str) {
    let mut seen: HashMap<T, usize> = HashMap::new();
    for (item, value) in values {
        match seen.get(&value) {
            Some(line) => item.problem(
                format!("{noun} `{value}` is already that of the node in line {line}"),
                "give each node its own",
            ),
            None => {
                seen.insert(value, item.line());
            }
        }
    }
}

/// Checks the number of members; `allow_even` is the operator's word that an even number is meant.
pub(super) fn member_count(count: usize, nodes: &Item<'_>, allow_even: bool) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let spare = count.saturating_sub(count / 2 + 1);
    let even = format!("{count} members survive the loss of {spare}, no more than {} do", count.saturating_sub(1));
    let remedy = "use an odd number of nodes, or write `allow_even = true` under [formation]";
    if count == 2 && !allow_even {
        nodes.problem(even, remedy);
    } else if count > 0 && count.is_multiple_of(2) && !allow_even {
        warnings.push(nodes.warning(even, remedy));
    }
    if count > MANY_MEMBERS {
        let what = format!("{count} members make every write wait for {}", count / 2 + 1);
        warnings.push(nodes.warning(what, format!("etcd advises at most {MANY_MEMBERS}")));
    }
    warnings
}
