//! What the lab's DHCP server hands out: to every node of the profile, by its Ethernet address, its address for ever.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use camino::Utf8Path;

use crate::profile::Profile;

/// Configuration of the dnsmasq that does nothing but DHCP. `server` is the lab host: router and DNS server of the nodes.
pub fn config(profile: &Profile, server: Ipv4Addr, leases: &Utf8Path) -> String {
    let subnet = profile.network.subnet;
    let netmask = subnet.netmask().unwrap_or(Ipv4Addr::BROADCAST);
    let mut text = format!(
        "# written by kiln lab\nport=0\ninterface=br0\nbind-dynamic\ndhcp-authoritative\ndhcp-leasefile={leases}\n\
         dhcp-range={},static,{netmask},infinite\ndhcp-option=option:router,{server}\ndhcp-option=option:dns-server,{server}\n",
        subnet.network()
    );
    for node in &profile.nodes {
        writeln!(text, "dhcp-host={},{}", node.mac, node.address).expect("writing to a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_every_node_its_address_and_nobody_else_any() {
        let profile = super::super::dns::tests::profile();
        assert_eq!(
            config(&profile, "10.9.0.1".parse().unwrap(), Utf8Path::new("/l/dhcp.leases")),
            "# written by kiln lab\n\
             port=0\n\
             interface=br0\n\
             bind-dynamic\n\
             dhcp-authoritative\n\
             dhcp-leasefile=/l/dhcp.leases\n\
             dhcp-range=10.9.0.0,static,255.255.255.0,infinite\n\
             dhcp-option=option:router,10.9.0.1\n\
             dhcp-option=option:dns-server,10.9.0.1\n\
             dhcp-host=52:54:00:00:00:01,10.9.0.11\n\
             dhcp-host=52:54:00:00:00:02,10.9.0.12\n"
        );
    }
}
