//! The DNS records a cluster lives by: A or AAAA, PTR, and SRV for peers and clients, from the profile alone.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt;
use std::net::IpAddr;

use kiln_firstboot::name::Fqdn;
use kiln_firstboot::paths::{CLIENT_PORT, PEER_PORT};

use crate::profile::Profile;

/// Prefix of the SRV records that name the peers.
pub const PEER_SERVICE: &str = "_etcd-server-ssl._tcp";
/// Prefix of the SRV records that name where clients connect.
pub const CLIENT_SERVICE: &str = "_etcd-client-ssl._tcp";

/// One record. Its `Display` is a line of a zone file, with names in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A or AAAA.
    Address {
        /// The name.
        name: Fqdn,
        /// Its address.
        address: IpAddr,
    },
    /// PTR.
    Pointer {
        /// The address.
        address: IpAddr,
        /// Its name.
        name: Fqdn,
    },
    /// SRV; priority and weight are 0, because etcd members are equals.
    Service {
        /// The full owner name, `_etcd-server-ssl._tcp.kloud.lan`.
        owner: String,
        /// The host.
        target: Fqdn,
        /// Its port.
        port: u16,
    },
}

impl Record {
    /// Its name, in full and without the final dot.
    pub fn owner(&self) -> String {
        match self {
            Self::Address { name, .. } => name.to_string(),
            Self::Pointer { address, .. } => reverse_name(*address),
            Self::Service { owner, .. } => owner.clone(),
        }
    }

    /// Its type: `A`, `AAAA`, `PTR` or `SRV`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Address { address: IpAddr::V4(_), .. } => "A",
            Self::Address { address: IpAddr::V6(_), .. } => "AAAA",
            Self::Pointer { .. } => "PTR",
            Self::Service { .. } => "SRV",
        }
    }

    /// What stands behind the type in a zone file.
    pub fn data(&self) -> String {
        match self {
            Self::Address { address, .. } => address.to_string(),
            Self::Pointer { name, .. } => format!("{name}."),
            Self::Service { target, port, .. } => format!("0 0 {port} {target}."),
        }
    }
}

/// All records of a cluster: per node its address, its pointer and its two services, in the order of the profile.
pub fn records(profile: &Profile) -> Vec<Record> {
    let service = |prefix: &str, target: &Fqdn, port| Record::Service {
        owner: format!("{prefix}.{}", profile.domain),
        target: target.clone(),
        port,
    };
    let of_node = |node: &crate::profile::Node| {
        [
            Record::Address { name: node.fqdn.clone(), address: node.address },
            Record::Pointer { address: node.address, name: node.fqdn.clone() },
            service(PEER_SERVICE, &node.fqdn, PEER_PORT),
            service(CLIENT_SERVICE, &node.fqdn, CLIENT_PORT),
        ]
    };
    profile.nodes.iter().flat_map(of_node).collect()
}

/// The name under which an address has its PTR record (RFC 1035 §3.5, RFC 3596 §2.5), without the final dot.
pub fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|b| [b & 15, b >> 4]);
            nibbles.map(|n| format!("{n:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. IN {} {}", self.owner(), self.kind(), self.data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    #[test]
    fn a_node_has_its_address_its_pointer_and_both_services() {
        let text = include_str!("../../profiles/lab.toml");
        let profile = Profile::parse(Utf8Path::new("profiles/lab.toml"), text).unwrap();
        let node = &profile.nodes[0];
        let lines: Vec<String> = records(&profile).iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 4 * profile.nodes.len());
        let (fqdn, address, domain) = (&node.fqdn, node.address, &profile.domain);
        assert_eq!(
            lines[..4],
            [
                format!("{fqdn}. IN A {address}"),
                format!("{}. IN PTR {fqdn}.", reverse_name(address)),
                format!("_etcd-server-ssl._tcp.{domain}. IN SRV 0 0 2380 {fqdn}."),
                format!("_etcd-client-ssl._tcp.{domain}. IN SRV 0 0 2379 {fqdn}."),
            ]
        );
    }

    #[test]
    fn reverses_addresses_of_both_families() {
        assert_eq!(reverse_name("10.103.0.201".parse().unwrap()), "201.0.103.10.in-addr.arpa");
        assert_eq!(
            reverse_name("2001:db8::567:89ab".parse().unwrap()),
            "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }
}
