//! A cluster's records in the words of the DNS servers people run. Pure: same profile, same text.
//!
//! Grammars: `shared/facts/ecosystem.md` D3; dnsmasq, BIND, Unbound and nsupdate are tested against the real programs (`tests/dns_formats.rs`).
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::dns_records::{Record, reverse_name};
use crate::profile::Profile;
use crate::subnet::Subnet;

/// Time to live of a record, seconds: a mended record is believed five minutes later at the latest.
pub(crate) const TTL: u32 = 300;

/// Whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Records of a zone file: BIND, NSD, Knot and others.
    Bind,
    /// Lines of `dnsmasq.conf`.
    Dnsmasq,
    /// The `<dns>` element of a libvirt network.
    Libvirt,
    /// `pdnsutil` commands.
    Powerdns,
    /// Lines of `unbound.conf`.
    Unbound,
    /// Custom filtering rules of AdGuard Home.
    Adguard,
    /// Pi-hole 6: `pihole-FTL --config` commands.
    Pihole,
    /// PowerShell for Windows DNS.
    Windows,
    /// `ipa` commands.
    Freeipa,
    /// `nsupdate` commands (RFC 2136).
    Nsupdate,
}

/// A record in its zone.
struct Placed<'a> {
    zone: String,
    /// Its owner below the zone; `@` for the zone itself.
    label: String,
    record: &'a Record,
}

/// `records` in the words of `format`.
pub fn emit(profile: &Profile, records: &[Record], format: Format) -> String {
    let placed: Vec<Placed<'_>> = records.iter().map(|record| place(profile, record)).collect();
    match format {
        Format::Bind => by_zone(&placed, bind),
        Format::Nsupdate => by_zone(&placed, nsupdate),
        Format::Dnsmasq => lines(records, dnsmasq),
        Format::Unbound => lines(records, |record| format!("local-data: \"{}\"", with_ttl(record))),
        Format::Adguard => lines(records, adguard),
        Format::Pihole => pihole(records),
        Format::Libvirt => libvirt(profile, records),
        Format::Powerdns => lines(&placed, |p| {
            format!("pdnsutil add-record {} {} {} {TTL} \"{}\"", p.zone, p.label, p.record.kind(), p.record.data())
        }),
        Format::Windows => lines(&placed, windows),
        Format::Freeipa => lines(&placed, freeipa),
    }
}

fn lines<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    items.iter().map(|item| line(item) + "\n").collect()
}

/// Each zone with its records, in order of appearance.
fn by_zone(placed: &[Placed<'_>], section: fn(&str, &[&Placed<'_>]) -> String) -> String {
    let mut zones: Vec<&str> = Vec::new();
    for p in placed {
        if !zones.contains(&p.zone.as_str()) {
            zones.push(&p.zone);
        }
    }
    let of = |zone: &str| section(zone, &placed.iter().filter(|p| p.zone == zone).collect::<Vec<_>>());
    zones.into_iter().map(of).collect::<Vec<_>>().join("\n")
}

fn with_ttl(record: &Record) -> String {
    format!("{}. {TTL} IN {} {}", record.owner(), record.kind(), record.data())
}

fn place<'a>(profile: &Profile, record: &'a Record) -> Placed<'a> {
    let zone = match record {
        Record::Address { .. } | Record::Service { .. } => profile.domain.to_string(),
        Record::Pointer { .. } => reverse_zone(&profile.network.subnet),
    };
    let owner = record.owner();
    let label = owner.strip_suffix(&format!(".{zone}")).unwrap_or("@").to_owned();
    Placed { zone, label, record }
}

/// The reverse zone around a subnet: cut at a whole octet (IPv4) or a whole digit (IPv6), where zones are cut.
pub fn reverse_zone(subnet: &Subnet) -> String {
    let name = reverse_name(subnet.network());
    let (bits, unit) = if subnet.is_ipv4() { (32, 8) } else { (128, 4) };
    let host_labels = (bits - usize::from(subnet.prefix())).div_ceil(unit);
    name.splitn(host_labels + 1, '.').last().unwrap_or(&name).to_owned()
}

fn bind(zone: &str, records: &[&Placed<'_>]) -> String {
    let lines: String = records.iter().map(|p| with_ttl(p.record) + "\n").collect();
    format!("; zone {zone}: raise its serial\n{lines}")
}

/// Replaces what is there under the same name and type, so that a second run changes nothing.
fn nsupdate(zone: &str, records: &[&Placed<'_>]) -> String {
    let mut deleted: Vec<(String, &str)> = Vec::new();
    let mut text = format!("zone {zone}\n");
    for p in records {
        let known = (p.record.owner(), p.record.kind());
        if !deleted.contains(&known) {
            let _ = writeln!(text, "update delete {}. {}", known.0, known.1);
            deleted.push(known);
        }
    }
    for p in records {
        let _ = writeln!(text, "update add {}. {TTL} {} {}", p.record.owner(), p.record.kind(), p.record.data());
    }
    text + "send\n"
}

fn dnsmasq(record: &Record) -> String {
    match record {
        Record::Address { name, address } => format!("host-record={name},{address}"),
        Record::Pointer { address, name } => format!("ptr-record={},{name}", reverse_name(*address)),
        Record::Service { owner, target, port } => format!("srv-host={owner},{target},{port},0,0"),
    }
}

fn adguard(record: &Record) -> String {
    let data = match record {
        Record::Address { address, .. } => address.to_string(),
        Record::Pointer { name, .. } => format!("{name}."),
        Record::Service { target, port, .. } => format!("0 0 {port} {target}"),
    };
    format!("|{}^$dnsrewrite=NOERROR;{};{data}", record.owner(), record.kind())
}

/// Pi-hole answers the pointer of every host by itself; services go to the dnsmasq inside.
fn pihole(records: &[Record]) -> String {
    let (mut hosts, mut services) = (Vec::new(), Vec::new());
    for record in records {
        match record {
            Record::Address { name, address } => hosts.push(format!("{address} {name}")),
            Record::Pointer { .. } => {}
            Record::Service { .. } => services.push(dnsmasq(record)),
        }
    }
    let list = |items: &[String]| items.iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ");
    format!(
        "# replaces both settings: add what they hold already\npihole-FTL --config dns.hosts '[{}]'\npihole-FTL --config misc.dnsmasq_lines '[{}]'\n",
        list(&hosts),
        list(&services)
    )
}

/// libvirt's dnsmasq answers the pointer of every host by itself.
fn libvirt(profile: &Profile, records: &[Record]) -> String {
    let mut text = String::from("<dns>\n");
    for record in records {
        let _ = match record {
            Record::Address { name, address } => {
                writeln!(text, "  <host ip='{address}'><hostname>{name}</hostname></host>")
            }
            Record::Pointer { .. } => Ok(()),
            Record::Service { owner, target, port } => {
                let service =
                    owner.strip_prefix('_').and_then(|o| o.split_once('.')).map_or("", |(service, _)| service);
                writeln!(
                    text,
                    "  <srv service='{service}' protocol='tcp' domain='{}' target='{target}' port='{port}' priority='0' weight='0'/>",
                    profile.domain
                )
            }
        };
    }
    text + "</dns>\n"
}

fn windows(p: &Placed<'_>) -> String {
    let at = format!("-ZoneName {} -Name \"{}\"", p.zone, p.label);
    match p.record {
        Record::Address { address: IpAddr::V4(v4), .. } => {
            format!("Add-DnsServerResourceRecordA {at} -IPv4Address {v4}")
        }
        Record::Address { address: IpAddr::V6(v6), .. } => {
            format!("Add-DnsServerResourceRecordAAAA {at} -IPv6Address {v6}")
        }
        Record::Pointer { name, .. } => format!("Add-DnsServerResourceRecordPtr {at} -PtrDomainName {name}"),
        Record::Service { target, port, .. } => {
            format!("Add-DnsServerResourceRecord -Srv {at} -DomainName {target} -Priority 0 -Weight 0 -Port {port}")
        }
    }
}

fn freeipa(p: &Placed<'_>) -> String {
    let option = match p.record {
        Record::Address { address: IpAddr::V4(v4), .. } => format!("--a-rec {v4}"),
        Record::Address { address: IpAddr::V6(v6), .. } => format!("--aaaa-rec {v6}"),
        Record::Pointer { name, .. } => format!("--ptr-rec {name}."),
        Record::Service { target, port, .. } => format!("--srv-rec \"0 0 {port} {target}.\""),
    };
    format!("ipa dnsrecord-add {}. {} {option}", p.zone, p.label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns_records::records;
    use camino::Utf8Path;
    use clap::ValueEnum as _;

    fn profile() -> Profile {
        let text = include_str!("../../profiles/k8s0.toml");
        Profile::parse(Utf8Path::new("profiles/k8s0.toml"), text).unwrap()
    }

    /// The records of the first node alone, in every server's words.
    fn first_node(format: Format) -> String {
        let profile = profile();
        emit(&profile, &records(&profile)[..4], format)
    }

    #[test]
    fn says_the_same_in_every_servers_words() {
        for (format, golden) in [
            (Format::Bind, include_str!("../fixtures/dns/bind.txt")),
            (Format::Dnsmasq, include_str!("../fixtures/dns/dnsmasq.txt")),
            (Format::Libvirt, include_str!("../fixtures/dns/libvirt.txt")),
            (Format::Powerdns, include_str!("../fixtures/dns/powerdns.txt")),
            (Format::Unbound, include_str!("../fixtures/dns/unbound.txt")),
            (Format::Adguard, include_str!("../fixtures/dns/adguard.txt")),
            (Format::Pihole, include_str!("../fixtures/dns/pihole.txt")),
            (Format::Windows, include_str!("../fixtures/dns/windows.txt")),
            (Format::Freeipa, include_str!("../fixtures/dns/freeipa.txt")),
            (Format::Nsupdate, include_str!("../fixtures/dns/nsupdate.txt")),
        ] {
            assert_eq!(first_node(format), golden, "{format:?}");
        }
    }

    #[test]
    fn every_record_of_every_node_is_said() {
        let profile = profile();
        for format in Format::value_variants() {
            let text = emit(&profile, &records(&profile), *format);
            for node in &profile.nodes {
                let (name, address) = (node.fqdn.member_name(), node.address.to_string());
                assert!(text.contains(name) && text.contains(&address), "{format:?}: {name} {address}\n{text}");
            }
            assert!(text.matches("etcd-server-ssl").count() >= profile.nodes.len(), "{format:?}\n{text}");
        }
    }

    #[test]
    fn cuts_reverse_zones_where_zones_are_cut() {
        let zone = |subnet: &str| reverse_zone(&subnet.parse().unwrap());
        assert_eq!(zone("10.103.0.0/24"), "0.103.10.in-addr.arpa");
        assert_eq!(zone("10.103.0.0/22"), "103.10.in-addr.arpa");
        assert_eq!(zone("10.0.0.0/8"), "10.in-addr.arpa");
        assert_eq!(zone("fd00:103::/64"), "0.0.0.0.0.0.0.0.3.0.1.0.0.0.d.f.ip6.arpa");
        assert_eq!(zone("fd00:103::/62"), "0.0.0.0.0.0.0.3.0.1.0.0.0.d.f.ip6.arpa");
    }
}
