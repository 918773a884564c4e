//! What the lab's DNS server serves: the profile's records, bent where a test wants to see how nodes bear wrong ones.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use kiln_firstboot::name::Fqdn;
use serde::{Deserialize, Serialize};

use crate::dns_records::{Record, records, reverse_name};
use crate::profile::Profile;

/// How one node's records differ from what the profile says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bend {
    /// The PTR record.
    pub pointer: Option<Bent<Fqdn>>,
    /// The A record.
    pub address: Option<Bent<IpAddr>>,
    /// The SRV records' target.
    pub service: Option<Bent<Fqdn>>,
}

/// A record that is not what the profile says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bent<T> {
    /// It is not there.
    Dropped,
    /// It says something else.
    Says(T),
}

/// Bends by node name.
pub type Bends = BTreeMap<String, Bend>;

/// The profile's records with the bends applied.
pub fn bent_records(profile: &Profile, bends: &Bends) -> Vec<Record> {
    let bend_of = |fqdn: &Fqdn| {
        let node = profile.nodes.iter().find(|n| n.fqdn == *fqdn);
        node.and_then(|n| bends.get(&n.name)).cloned().unwrap_or_default()
    };
    let bent = |record: Record| match record {
        Record::Address { name, address } => {
            apply(bend_of(&name).address, address).map(|address| Record::Address { name, address })
        }
        Record::Pointer { address, name } => {
            apply(bend_of(&name).pointer, name).map(|name| Record::Pointer { address, name })
        }
        Record::Service { owner, target, port } => {
            apply(bend_of(&target).service, target).map(|target| Record::Service { owner, target, port })
        }
    };
    records(profile).into_iter().filter_map(bent).collect()
}

fn apply<T>(bend: Option<Bent<T>>, honest: T) -> Option<T> {
    match bend {
        None => Some(honest),
        Some(Bent::Dropped) => None,
        Some(Bent::Says(other)) => Some(other),
    }
}

/// Configuration of the dnsmasq that serves them on `server`, with no upstream: what it does not know does not exist.
///
/// Every record is given by itself: `host-record` would answer PTR questions too, so that a missing PTR could not be played.
pub fn config(profile: &Profile, bends: &Bends, server: Ipv4Addr) -> String {
    let mut text = format!(
        "# written by kiln lab\nport=53\nlisten-address={server}\nbind-interfaces\nno-hosts\nno-resolv\nno-poll\nlocal=/{}/\n",
        profile.domain
    );
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("writing to a string");
    let mut zones: Vec<String> = profile.nodes.iter().map(|n| reverse_zone(n.address)).collect();
    zones.sort();
    zones.dedup();
    for zone in zones {
        line(format_args!("local=/{zone}/"));
    }
    for node in &profile.nodes {
        // The TXT record makes the name exist, so that a question for its AAAA is answered "no such record", not "no such name".
        line(format_args!("txt-record={},kiln lab", node.fqdn));
    }
    for record in bent_records(profile, bends) {
        match record {
            Record::Address { name, address: IpAddr::V4(v4) } => {
                line(format_args!("dns-rr={name},1,{}", hex(&v4.octets())));
            }
            Record::Address { name, address: IpAddr::V6(v6) } => {
                line(format_args!("dns-rr={name},28,{}", hex(&v6.octets())));
            }
            Record::Pointer { address, name } => line(format_args!("ptr-record={},{name}", reverse_name(address))),
            Record::Service { owner, target, port } => line(format_args!("srv-host={owner},{target},{port}")),
        }
    }
    text
}

/// The reverse zone that the server answers for by itself: of the /24 or the /64 around an address.
fn reverse_zone(address: IpAddr) -> String {
    let labels = if address.is_ipv4() { 1 } else { 16 };
    reverse_name(address).splitn(labels + 1, '.').last().unwrap_or_default().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use camino::Utf8Path;

    /// Two nodes, in a subnet with a gateway.
    pub(crate) fn profile() -> Profile {
        let text = r#"
            schema = 1
            name = "t"
            image = "ubuntu-24.04"
            domain = "lab.example"
            [network]
            bridge = "kiln0"
            subnet = "10.9.0.0/24"
            gateway = "10.9.0.1"
            [formation]
            allow_even = true
            [hosts.host1]
            kind = "lab"
            [[node]]
            name = "a1"
            host = "host1"
            address = "10.9.0.11"
            mac = "52:54:00:00:00:01"
            memory_mib = 1024
            vcpus = 2
            data_gib = 1
            [[node]]
            name = "a2"
            host = "host1"
            address = "10.9.0.12"
            mac = "52:54:00:00:00:02"
            memory_mib = 1024
            vcpus = 2
            data_gib = 1
        "#;
        Profile::parse(Utf8Path::new("profiles/t.toml"), text).unwrap()
    }

    #[test]
    fn serves_the_profile_and_knows_nothing_else() {
        assert_eq!(
            config(&profile(), &Bends::new(), "10.9.0.1".parse().unwrap()),
            "# written by kiln lab\n\
             port=53\n\
             listen-address=10.9.0.1\n\
             bind-interfaces\n\
             no-hosts\n\
             no-resolv\n\
             no-poll\n\
             local=/lab.example/\n\
             local=/0.9.10.in-addr.arpa/\n\
             txt-record=a1.lab.example,kiln lab\n\
             txt-record=a2.lab.example,kiln lab\n\
             dns-rr=a1.lab.example,1,0a09000b\n\
             ptr-record=11.0.9.10.in-addr.arpa,a1.lab.example\n\
             srv-host=_etcd-server-ssl._tcp.lab.example,a1.lab.example,2380\n\
             srv-host=_etcd-client-ssl._tcp.lab.example,a1.lab.example,2379\n\
             dns-rr=a2.lab.example,1,0a09000c\n\
             ptr-record=12.0.9.10.in-addr.arpa,a2.lab.example\n\
             srv-host=_etcd-server-ssl._tcp.lab.example,a2.lab.example,2380\n\
             srv-host=_etcd-client-ssl._tcp.lab.example,a2.lab.example,2379\n"
        );
    }

    #[test]
    fn a_bend_touches_one_record_of_one_node() {
        let bend = Bend {
            pointer: Some(Bent::Dropped),
            address: Some(Bent::Says("10.9.0.99".parse().unwrap())),
            service: None,
        };
        let honest = records(&profile());
        let bent = bent_records(&profile(), &Bends::from([("a1".into(), bend)]));
        assert_eq!(bent.len(), honest.len() - 1);
        assert_eq!(bent[0].to_string(), "a1.lab.example. IN A 10.9.0.99");
        assert_eq!(bent[1..3], honest[2..4]);
        assert_eq!(bent[3..], honest[4..]);
    }
}
