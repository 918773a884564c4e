//! Turns the text of a profile into a [`Profile`], noting every problem on the way.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use camino::Utf8Path;
use kiln_firstboot::charter::DEFAULT_FORM_WINDOW_SECS;
use kiln_firstboot::name::Fqdn;

use super::check::{self, LABEL_RULE, Placed, PlacedNode, is_label};
use super::{Formation, Node, Profile, SCHEMA, sections};
use crate::mac::MacAddress;
use crate::problem::Problems;
use crate::toml_reader::{Item, Reader, Table};

pub(super) fn profile(file: &Utf8Path, text: &str) -> Result<Profile, Problems> {
    let reader = Reader::new(file.as_str(), text);
    let document = reader.parse()?;
    let top = reader.top(&document);
    reader.schema(&top, SCHEMA);

    let name = top.need("name", "name the cluster: `name = \"k8s0\"`").and_then(|i| label(&i));
    let image = top.need("image", "name an image definition of images/: `image = \"ubuntu-24.04\"`");
    let image = image.and_then(|i| file_stem(&i));
    let domain: Option<Fqdn> = top
        .need("domain", "name the domain of the nodes: `domain = \"kloud.lan\"`")
        .and_then(|i| i.parse("use a domain that your DNS server serves"));

    let network_table = top.need("network", "describe the nodes' network: [network]").and_then(|i| i.table());
    let mut network = network_table.as_ref().and_then(sections::network);
    let etcd_table = top.get("etcd").and_then(|i| i.table());
    let etcd = sections::etcd(etcd_table.as_ref());
    if let Some(table) = etcd_table {
        table.finish();
    }

    let host_items = top.need("hosts", "define each host that nodes name: [hosts.NAME]").and_then(|i| i.table());
    let host_items = host_items.map(|t| t.entries()).unwrap_or_default();
    let hosts: Vec<_> = host_items.iter().filter_map(|(name, item)| sections::host(name, item, file)).collect();

    let node_list = top.need("node", "describe each node: [[node]]");
    let node_items = node_list.as_ref().and_then(|i| i.items()).unwrap_or_default();
    let nodes: Vec<PlacedNode<'_>> = node_items
        .iter()
        .filter_map(|item| {
            let table = item.table()?;
            let node = node(&table, item, name.as_deref().unwrap_or_default(), domain.as_ref());
            table.finish();
            node
        })
        .collect();
    // A host that could not be read is still defined: nodes that name it are not at fault.
    let every_host_was_read = hosts.len() == host_items.len();
    if let (Some(table), Some(network)) = (&network_table, &mut network) {
        check::tunnel(table, network, &hosts, &host_items);
    }
    if let Some(table) = network_table {
        table.finish();
    }
    if every_host_was_read {
        check::nodes(&nodes, network.as_ref(), &hosts);
    }

    let formation_table = top.get("formation").and_then(|i| i.table());
    let formation = formation_table.as_ref().map(formation).unwrap_or_default();
    if let Some(table) = formation_table {
        table.finish();
    }
    let warnings = node_list.as_ref().map(|item| check::member_count(node_items.len(), item, formation.allow_even));
    if let Some(item) = node_list.filter(|_| node_items.is_empty()) {
        item.problem("a cluster has at least one node", "describe each node: [[node]]");
    }
    let founder = match &formation.founder {
        None => nodes.first().map(|n| n.node.fqdn.clone()),
        Some(named) => {
            let found = nodes.iter().find(|n| n.node.name == named.value || n.node.fqdn.as_str() == named.value);
            if found.is_none() {
                named.item.problem(format!("there is no node `{}`", named.value), "name one of the nodes below");
            }
            found.map(|n| n.node.fqdn.clone())
        }
    };

    top.finish();
    reader.finish()?;
    let all_read = "a field that could not be read is a problem, and there was none";
    Ok(Profile {
        file: file.to_owned(),
        name: name.expect(all_read),
        image: image.expect(all_read),
        domain: domain.expect(all_read),
        network: network.expect(all_read),
        etcd,
        formation: Formation { window_hours: formation.window_hours, founder: founder.expect(all_read) },
        hosts,
        nodes: nodes.into_iter().map(|n| n.node).collect(),
        warnings: warnings.unwrap_or_default(),
    })
}

struct FormationFields<'a> {
    window_hours: u32,
    allow_even: bool,
    founder: Option<Placed<'a, String>>,
}

impl Default for FormationFields<'_> {
    fn default() -> Self {
        let hours = u32::try_from(DEFAULT_FORM_WINDOW_SECS / 3600).expect("the window is days, not centuries");
        Self { window_hours: hours, allow_even: false, founder: None }
    }
}

fn formation<'a>(table: &Table<'a>) -> FormationFields<'a> {
    let default = FormationFields::default();
    FormationFields {
        // Four weeks: a longer window is a standing permission to start over empty.
        window_hours: table.get("window_hours").and_then(|i| i.small_integer(1..=672)).unwrap_or(default.window_hours),
        allow_even: table.get("allow_even").and_then(|i| i.boolean()).unwrap_or(false),
        founder: table.get("founder").and_then(|item| {
            let value = item.text()?.to_owned();
            Some(Placed { item, value })
        }),
    }
}

fn node<'a>(table: &Table<'a>, whole: &Item<'a>, cluster: &str, domain: Option<&Fqdn>) -> Option<PlacedNode<'a>> {
    let name_item = table.need("name", "name the node: `name = \"etcd1\"`");
    let name = name_item.as_ref().and_then(label);
    let fqdn = name.as_ref().zip(domain).and_then(|(name, domain)| match Fqdn::parse(&format!("{name}.{domain}")) {
        Ok(fqdn) => Some(fqdn),
        Err(error) => {
            whole.problem(error.to_string(), "use a shorter name");
            None
        }
    });
    let host_item = table.need("host", "name the host it runs on: `host = \"pve1\"`");
    let host = host_item.as_ref().and_then(|i| i.text());
    let address_item = table.need("address", "give the node an address of the subnet");
    let address = address_item.as_ref().and_then(|i| i.parse("write an IP address"));
    let mac_item = table.get("mac");
    let mac = match &mac_item {
        Some(item) => item.parse("write six pairs of hex digits, or leave it out: kiln derives one"),
        None => name.as_ref().map(|name| MacAddress::derive(cluster, name)),
    };
    let memory_mib = table.need("memory_mib", "give it memory: `memory_mib = 4096`");
    let memory_mib = memory_mib.and_then(|i| i.small_integer(384..=1 << 20));
    let vcpus = table.need("vcpus", "give it processors: `vcpus = 2`").and_then(|i| i.small_integer(1..=256));
    let data_gib = table.need("data_gib", "size its data disk: `data_gib = 8`");
    let data_gib = data_gib.and_then(|i| i.small_integer(1..=1 << 14));
    let name_item = name_item?;
    Some(PlacedNode {
        node: Node {
            name: name?,
            fqdn: fqdn?,
            host: host?.to_owned(),
            address: address?,
            mac: mac?,
            memory_mib: memory_mib?,
            vcpus: vcpus?,
            data_gib: data_gib?,
        },
        mac: mac_item.unwrap_or_else(|| name_item.clone()),
        name: name_item,
        host: host_item?,
        address: address_item?,
    })
}

fn label(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if !is_label(text) {
        item.problem(format!("`{text}` is not a host name's label"), LABEL_RULE);
        return None;
    }
    Some(text.to_owned())
}

/// A name that stands for a file of one folder, so it must not lead out of it.
fn file_stem(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let sound = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !sound {
        item.problem(
            format!("`{text}` is not the name of an image definition"),
            "use letters, digits, `-`, `_` and `.`",
        );
        return None;
    }
    Some(text.to_owned())
}
