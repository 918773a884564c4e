//! Files of an image that say which cluster it is for, rendered from the profile. Public facts only: no secret, no node's own name.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::net::IpAddr;

use kiln_firstboot::cluster::ClusterConfig;
use kiln_firstboot::digest::{Id128, PublicKey};

use crate::disk::{Content, TreeEntry};
use crate::profile::Profile;
use crate::recipe::RecipeFile;

/// What the cluster's keys say, as every image of it carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// The cluster.
    pub cluster: Id128,
    /// Key that charters are signed with.
    pub charter_key: PublicKey,
}

/// Every file rendered from the profile, sorted by path; `image.json`, which names the key, is not among them.
///
/// # Errors
/// None that is known: JSON of plain facts.
pub fn render(profile: &Profile, identity: ClusterIdentity) -> serde_json::Result<Vec<TreeEntry>> {
    let mut files = vec![
        TreeEntry::file("etc/kiln/nftables.d/cluster.nft", nftables(profile)),
        TreeEntry::file("usr/lib/kiln/cluster.json", cluster_json(profile, identity)?),
    ];
    if !profile.network.ntp_servers.is_empty() {
        let servers = profile.network.ntp_servers.join(" ");
        files.push(TreeEntry::file("etc/systemd/timesyncd.conf.d/kiln.conf", format!("[Time]\nNTP={servers}\n")));
    }
    if let Some(mtu) = profile.network.mtu {
        let text = format!("[Link]\nMTUBytes={mtu}\n");
        files.push(TreeEntry::file("etc/systemd/network/10-kiln.network.d/mtu.conf", text));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn cluster_json(profile: &Profile, identity: ClusterIdentity) -> serde_json::Result<String> {
    let config = ClusterConfig {
        schema: 1,
        env: profile.name.clone(),
        cluster: identity.cluster,
        domain: profile.domain.clone(),
        charter_key: identity.charter_key,
        dns_servers: profile.network.dns_servers.clone(),
        etcd: profile.etcd.settings.clone(),
    };
    serde_json::to_string_pretty(&config).map(|text| text + "\n")
}

fn nftables(profile: &Profile) -> String {
    let peers: Vec<(bool, String)> =
        profile.nodes.iter().map(|n| (n.address.is_ipv4(), n.address.to_string())).collect();
    let client = |subnet: &crate::subnet::Subnet| {
        let network = subnet.network();
        (matches!(network, IpAddr::V4(_)), format!("{network}/{}", subnet.prefix()))
    };
    let clients: Vec<(bool, String)> = profile.network.client_cidrs.iter().map(client).collect();
    let mut text =
        String::from("# From the profile: who may reach this cluster's nodes. Included by /etc/nftables.conf.\n");
    for (name, addresses) in [("peers", &peers), ("clients", &clients)] {
        for (family, is_ipv4) in [("4", true), ("6", false)] {
            let of_family: Vec<&str> = addresses.iter().filter(|a| a.0 == is_ipv4).map(|a| a.1.as_str()).collect();
            if !of_family.is_empty() {
                text.push_str(&format!("add element inet kiln {name}{family} {{ {} }}\n", of_family.join(", ")));
            }
        }
    }
    text
}

/// Entries as a recipe records them; `digest_of` gives the digest of a file that is not in memory.
///
/// # Errors
/// `digest_of`'s.
pub fn recorded<E>(
    entries: &[TreeEntry],
    mut digest_of: impl FnMut(&std::path::Path) -> Result<kiln_firstboot::digest::Sha256Digest, E>,
) -> Result<Vec<RecipeFile>, E> {
    let record = |entry: &TreeEntry| {
        let content = match &entry.content {
            Content::Directory => "directory".to_owned(),
            Content::Symlink(target) => format!("link {target}"),
            Content::Bytes(bytes) => format!("file {}", kiln_firstboot::digest::Sha256Digest::of(bytes)),
            Content::File(path) => format!("file {}", digest_of(path)?),
        };
        let (mode, owner) = (format!("{:o}", entry.mode), format!("{}:{}", entry.uid, entry.gid));
        Ok(RecipeFile { path: entry.path.clone(), mode, owner, content })
    };
    entries.iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    const PROFILE: &str = r#"
schema = 1
name = "t"
image = "tiny"
domain = "t.test"
[network]
bridge = "t"
subnet = "10.7.0.0/24"
ntp_servers = ["10.7.0.1"]
client_cidrs = ["10.7.0.0/24", "fd00::/64"]
mtu = 1400
[hosts.h]
kind = "lab"
[[node]]
name = "a"
host = "h"
address = "10.7.0.2"
memory_mib = 768
vcpus = 1
data_gib = 1
[[node]]
name = "b"
host = "h"
address = "10.7.0.3"
memory_mib = 768
vcpus = 1
data_gib = 1
[[node]]
name = "c"
host = "h"
address = "10.7.0.4"
memory_mib = 768
vcpus = 1
data_gib = 1
"#;

    fn rendered() -> Vec<TreeEntry> {
        let profile = Profile::parse(Utf8Path::new("t.toml"), PROFILE).unwrap();
        render(&profile, ClusterIdentity { cluster: Id128([1; 16]), charter_key: PublicKey([2; 32]) }).unwrap()
    }

    fn text(path: &str) -> String {
        let entry = rendered().into_iter().find(|e| e.path == path).unwrap();
        let Content::Bytes(bytes) = entry.content else { panic!("{path} is no file") };
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn renders_what_the_profile_says() {
        assert_eq!(
            text("etc/kiln/nftables.d/cluster.nft"),
            "# From the profile: who may reach this cluster's nodes. Included by /etc/nftables.conf.\n\
             add element inet kiln peers4 { 10.7.0.2, 10.7.0.3, 10.7.0.4 }\n\
             add element inet kiln clients4 { 10.7.0.0/24 }\n\
             add element inet kiln clients6 { fd00::/64 }\n"
        );
        assert_eq!(text("etc/systemd/timesyncd.conf.d/kiln.conf"), "[Time]\nNTP=10.7.0.1\n");
        assert_eq!(text("etc/systemd/network/10-kiln.network.d/mtu.conf"), "[Link]\nMTUBytes=1400\n");
    }

    #[test]
    fn firstboot_reads_back_what_is_written() {
        let config: ClusterConfig = serde_json::from_str(&text("usr/lib/kiln/cluster.json")).unwrap();
        assert_eq!((config.env.as_str(), config.cluster), ("t", Id128([1; 16])));
        assert_eq!(config.charter_key, PublicKey([2; 32]));
    }
}
