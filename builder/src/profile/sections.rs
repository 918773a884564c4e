//! Reads the tables `[network]`, `[etcd]` and `[hosts]` of a profile.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::net::IpAddr;

use camino::Utf8Path;
use kiln_firstboot::cluster::{CompactionMode, EtcdSettings};
use kiln_firstboot::version::EtcdVersion;

use super::{
    Accelerator, AcceptedHazard, Cache, Etcd, EtcdOrigin, EtcdSource, Host, HostKind, Libvirt, Network, Vxlan,
    WantedVersion, proxmox,
};
use crate::hazard::{self, HAZARDS, Weight};
use crate::subnet::Subnet;
use crate::toml_reader::{Item, Table};

/// The etcd a profile gets that names none.
const DEFAULT_ETCD: EtcdVersion = EtcdVersion { major: 3, minor: 6, patch: 14 };
/// Longest name of a network interface (the kernel's `IFNAMSIZ` less the final zero).
const MAX_INTERFACE_NAME: usize = 15;

pub(super) fn network(table: &Table<'_>) -> Option<Network> {
    let subnet: Option<Subnet> = table
        .need("subnet", "write the nodes' network, such as `subnet = \"10.103.0.0/24\"`")
        .and_then(|i| i.parse("write it as NETWORK/PREFIX"));
    let bridge =
        table.need("bridge", "name the bridge on the hosts that the nodes are attached to").and_then(|i| interface(&i));
    let gateway = table.get("gateway").and_then(|item| {
        let gateway = item.parse::<IpAddr>("write an address of the subnet, or leave the gateway out")?;
        if subnet.is_some_and(|s| !s.contains(gateway)) {
            item.problem(format!("`{gateway}` is not in the subnet"), "use an address of `network.subnet`");
        }
        Some(gateway)
    });
    let ntp_servers = list(table, "ntp_servers", |item| {
        let text = item.text()?;
        let sound = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:".contains(&b));
        if !sound {
            item.problem(format!("`{text}` is not a host name or address"), "name one time server");
        }
        sound.then(|| text.to_owned())
    });
    let dns_servers = list(table, "dns_servers", |i| i.parse("write an IP address"));
    let client_cidrs = list(table, "client_cidrs", |i| i.parse("write it as NETWORK/PREFIX"));
    let mtu = table.get("mtu").and_then(|i| i.small_integer(1280..=9216));
    let vxlan = table.get("vxlan").and_then(|i| vxlan(&i));
    // Only now: giving up earlier would leave problems unsaid.
    Some(Network {
        bridge: bridge?,
        subnet: subnet?,
        gateway,
        dns_servers: dns_servers.unwrap_or_default(),
        ntp_servers: ntp_servers.unwrap_or_default(),
        client_cidrs: client_cidrs.unwrap_or_else(|| subnet.into_iter().collect()),
        mtu,
        vxlan,
    })
}

fn vxlan(item: &Item<'_>) -> Option<Vxlan> {
    let table = item.table()?;
    let id = table.need("id", "number the tunnel, the same on all hosts: `id = 103`");
    let id = id.and_then(|i| i.small_integer(1..=0xff_ffff));
    // At least what IPv6 demands of the network inside, and the longest header around it.
    let underlay_mtu = match table.get("underlay_mtu") {
        Some(item) => item.small_integer(1350..=9216),
        None => Some(1500),
    };
    table.finish();
    Some(Vxlan { id: id?, underlay_mtu: underlay_mtu? })
}

pub(super) fn etcd(table: Option<&Table<'_>>) -> Etcd {
    let release = |version| EtcdSource {
        version: WantedVersion::Exact(version),
        origin: EtcdOrigin::Release { mirror: None, sha256: None },
    };
    let Some(table) = table else {
        let (sources, accept_hazards) = (vec![release(DEFAULT_ETCD)], Vec::new());
        return Etcd { sources, settings: EtcdSettings::default(), accept_hazards };
    };
    let accept_hazards = list(table, "accept_hazards", |i| hazard(&i)).unwrap_or_default();
    let items = table.get("source").and_then(|i| i.items()).unwrap_or_default();
    let mut sources = Vec::new();
    for item in &items {
        let Some(source) = item.table().and_then(|t| source(t)) else { continue };
        // What the lock chooses is looked at when it does; that a whole line is refused can be said now.
        let version = match source.version {
            WantedVersion::Exact(version) => version,
            WantedVersion::Line(major, minor) => EtcdVersion { major, minor, patch: u16::MAX - 1 },
            WantedVersion::Latest => {
                sources.push(source);
                continue;
            }
        };
        for hazard in hazard::of(version).filter(|h| h.weight == Weight::Refused) {
            if accept_hazards.iter().any(|accepted| accepted.hazard == hazard.name) {
                continue;
            }
            let instead = hazard
                .mended_in(version)
                .map_or_else(|| "take a 3.6 or later".to_owned(), |sound| format!("take {sound} or later"));
            item.problem(
                format!("etcd {}: {} ({})", source.version, hazard.harm, hazard.source),
                format!(
                    "{instead}, or accept it: accept_hazards = [{{ hazard = \"{}\", reason = \"...\" }}]",
                    hazard.name
                ),
            );
        }
        sources.push(source);
    }
    if items.is_empty() {
        sources.push(release(DEFAULT_ETCD));
    }
    Etcd { sources, settings: settings(table), accept_hazards }
}

fn settings(table: &Table<'_>) -> EtcdSettings {
    let default = EtcdSettings::default();
    let heartbeat = table.get("heartbeat_ms").and_then(|i| i.small_integer(10..=5000));
    let election = table.get("election_ms");
    let settings = EtcdSettings {
        quota_mib: table.get("quota_mib").and_then(|i| i.integer(64..=8192)).unwrap_or(default.quota_mib),
        auto_compaction_mode: table
            .get("auto_compaction_mode")
            .and_then(|i| i.word(&[("periodic", CompactionMode::Periodic), ("revision", CompactionMode::Revision)]))
            .unwrap_or(default.auto_compaction_mode),
        auto_compaction_retention: table
            .get("auto_compaction_retention")
            .and_then(|i| i.small_integer(1..=1_000_000))
            .unwrap_or(default.auto_compaction_retention),
        heartbeat_ms: heartbeat.unwrap_or(default.heartbeat_ms),
        // etcd refuses to start with a longer one than 50 s.
        election_ms: election.as_ref().and_then(|i| i.small_integer(50..=50_000)).unwrap_or(default.election_ms),
    };
    if settings.election_ms < 5 * settings.heartbeat_ms {
        let (what, remedy) = (
            format!("{} ms is less than five heartbeats of {} ms", settings.election_ms, settings.heartbeat_ms),
            "etcd refuses that; ten heartbeats is usual",
        );
        match (election, table.get("heartbeat_ms")) {
            (Some(item), _) | (None, Some(item)) => item.problem(what, remedy),
            (None, None) => table.problem(what, remedy),
        }
    }
    settings
}

fn source(table: Table<'_>) -> Option<EtcdSource> {
    let kind = table.need("kind", "write `kind = \"release\"`, `\"packages\"`, `\"url\"` or `\"file\"`");
    let kind = kind.and_then(|i| i.word(&["release", "packages", "url", "file"].map(|w| (w, w))));
    let version = table.need("version", "write the version, such as `version = \"3.6.14\"`").and_then(|item| {
        let version: WantedVersion =
            item.parse("write MAJOR.MINOR.PATCH; of a release also MAJOR.MINOR or `latest`")?;
        let least = version.least();
        if least.line().is_none() {
            item.problem(
                format!("kiln does not know the flags of etcd {}.{}", least.major, least.minor),
                "use 3.5, 3.6 or 3.7",
            );
        }
        if version.exact().is_none() && kind.is_some_and(|kind| kind != "release") {
            item.problem(
                format!("`{version}` leaves the choice to the lock, and only upstream has a list to choose from"),
                "write MAJOR.MINOR.PATCH, or take `kind = \"release\"`",
            );
        }
        if version.exact().is_none() && table.get("sha256").is_some() {
            item.problem(format!("a sum belongs to one version, and `{version}` is not one"), "leave `sha256` out");
        }
        Some(version)
    });
    let given = table.get("sha256").map(|i| i.parse("write the 64 hex digits that `sha256sum` prints"));
    let sum = || match given {
        Some(sum) => sum,
        None => table.need("sha256", "write the sha256 of the tarball").and(None),
    };
    let origin = match kind? {
        "release" => {
            let mirror = table.get("mirror").and_then(|i| url(&i));
            Some(EtcdOrigin::Release { mirror, sha256: given.flatten() })
        }
        "url" => {
            let url = table.need("url", "write where the tarball is").and_then(|i| url(&i));
            url.zip(sum()).map(|(url, sha256)| EtcdOrigin::Url { url, sha256 })
        }
        "file" => {
            let path = table.need("path", "write where the tarball is, relative to the profile").and_then(|i| i.text());
            path.zip(sum()).map(|(path, sha256)| EtcdOrigin::File { path: path.into(), sha256 })
        }
        _packages => {
            if given.is_some() {
                table.problem("packages are pinned by the lock, not by `sha256`", "leave `sha256` out");
            }
            let distribution = table
                .get("distribution")
                .and_then(|i| i.word(&["debian", "ubuntu"].map(|w| (w, w))))
                .map(str::to_owned);
            let suite = table.get("suite").and_then(|i| i.text()).map(str::to_owned);
            Some(EtcdOrigin::Packages { distribution, suite })
        }
    };
    table.finish();
    Some(EtcdSource { version: version?, origin: origin? })
}

fn hazard(item: &Item<'_>) -> Option<AcceptedHazard> {
    let table = item.table()?;
    let hazard = table.need("hazard", "name the hazard").and_then(|i| i.word(&HAZARDS.map(|h| (h.name, h.name))));
    let reason = table.need("reason", "say why the hazard is all right here").and_then(|item| {
        let reason = item.text()?;
        if reason.trim().len() < 10 {
            item.problem("this is no reason", "say in a sentence why the hazard is all right here");
        }
        Some(reason.to_owned())
    });
    table.finish();
    Some(AcceptedHazard { hazard: hazard?.to_owned(), reason: reason? })
}

pub(super) fn host(name: &str, item: &Item<'_>, file: &Utf8Path) -> Option<Host> {
    if !super::check::is_label(name) {
        item.problem(format!("`{name}` is not a host's name"), super::check::LABEL_RULE);
    }
    let table = item.table()?;
    let kinds = ["libvirt", "proxmox", "lab"].map(|w| (w, w));
    let kind =
        table.need("kind", "write `kind = \"libvirt\"`, `\"proxmox\"` or `\"lab\"`").and_then(|i| i.word(&kinds));
    let endpoint_item = table.get("endpoint");
    let endpoint = endpoint_item.as_ref().and_then(url);
    let address =
        table.get("address").and_then(|i| i.parse("write the host's address on the network between the hosts"));
    // What another kind has is an unknown field here.
    let kind = kind.map(|kind| match kind {
        "libvirt" => Some(HostKind::Libvirt(libvirt(&table))),
        "proxmox" => proxmox::settings(&table, name, endpoint_item.as_ref(), file).map(HostKind::Proxmox),
        _lab => Some(HostKind::Lab),
    });
    table.finish();
    Some(Host { name: name.to_owned(), kind: kind??, endpoint, address })
}

fn libvirt(table: &Table<'_>) -> Libvirt {
    let pool = table.get("pool").and_then(|item| {
        let text = item.text()?;
        let sound = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !sound {
            item.problem(
                format!("`{text}` is not the name of a storage pool"),
                "use letters, digits, `-`, `_` and `.`",
            );
        }
        Some(text.to_owned())
    });
    let accelerators = [("kvm", Accelerator::Kvm), ("tcg", Accelerator::Tcg)];
    let caches = [("none", Cache::None), ("writeback", Cache::Writeback)];
    Libvirt {
        pool: pool.unwrap_or_else(|| "default".to_owned()),
        accelerator: table.get("accelerator").and_then(|i| i.word(&accelerators)),
        cache: table.get("cache").and_then(|i| i.word(&caches)).unwrap_or(Cache::None),
    }
}

fn url(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let sound = text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty())
        && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if !sound {
        item.problem(format!("`{text}` is not a URL"), "write SCHEME://HOST/PATH");
    }
    sound.then(|| text.to_owned())
}

fn interface(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let sound = (1..=MAX_INTERFACE_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !sound {
        item.problem(
            format!("`{text}` is not the name of a network interface"),
            "use 1 to 15 letters, digits, `-`, `_` and `.`, starting with a letter or digit",
        );
    }
    sound.then(|| text.to_owned())
}

/// An array of values; nothing when the field is absent.
fn list<'a, T>(table: &Table<'a>, key: &str, read: impl Fn(Item<'a>) -> Option<T>) -> Option<Vec<T>> {
    Some(table.get(key)?.items()?.into_iter().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use kiln_firstboot::version::EtcdLine;

    use super::*;

    #[test]
    fn the_default_etcd_is_one_kiln_can_render() {
        assert_eq!(DEFAULT_ETCD.line(), Some(EtcdLine::V3_6));
        assert_eq!("3.6.14".parse(), Ok(DEFAULT_ETCD));
    }
}
