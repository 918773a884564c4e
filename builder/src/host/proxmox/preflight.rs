//! What is missing on a host, all of it at once, before anything is done to it.

use anyhow::Result;
use serde::Deserialize;

use super::Proxmox;
use super::rights::{OLDEST, Version, missing, needed};
use crate::host::{Lack, Need};

/// The zone that Proxmox counts a node's plain bridges to.
const PLAIN_BRIDGES: &str = "localnetwork";

#[derive(Deserialize)]
struct Release {
    version: String,
}

#[derive(Deserialize)]
struct Node {
    node: String,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
struct Bridge {
    iface: String,
    #[serde(rename = "type", default)]
    kind: String,
}

#[derive(Deserialize)]
struct Pool {
    poolid: String,
}

impl Proxmox {
    /// Everything that is missing.
    pub(super) fn lacks(&self, need: &Need) -> Result<Vec<Lack>> {
        let release: Release = self.api.get(&["version"], &[]).map_err(|f| self.api.error(f))?;
        let mut lacks = Vec::new();
        let mut say = |what: String, remedy: String| lacks.push(Lack { what, remedy });
        let Ok(version) = release.version.parse::<Version>() else {
            anyhow::bail!("`{}` names its version `{}`, which kiln cannot read", self.name, release.version);
        };
        if version < OLDEST {
            say(
                format!(
                    "`{}` runs Proxmox VE {version}; kiln needs {OLDEST}, the first that takes an image by its API",
                    self.name
                ),
                "upgrade the host: https://pve.proxmox.com/wiki/Upgrade_from_8_to_9, or apt full-upgrade within 8"
                    .into(),
            );
            // The rest would be asked in words that it does not know.
            return Ok(lacks);
        }
        let nodes: Vec<Node> = self.api.get(&["nodes"], &[]).map_err(|f| self.api.error(f))?;
        match nodes.iter().find(|n| n.node == self.node) {
            None => {
                let known: Vec<&str> = nodes.iter().map(|n| n.node.as_str()).collect();
                say(
                    format!("there is no node `{}` in the Proxmox cluster of `{}`", self.node, self.name),
                    format!("write `node = \"...\"` under [hosts.{}]; there are: {}", self.name, known.join(", ")),
                );
                return Ok(lacks);
            }
            Some(node) if node.status != "online" => {
                say(
                    format!("node `{}` is {}", self.node, node.status),
                    format!("look at it: pvecm status on `{}`", self.node),
                );
                return Ok(lacks);
            }
            Some(_) => {}
        }
        let bridges: Vec<Bridge> = self
            .api
            .get(&["nodes", &self.node, "network"], &[("type", "any_bridge".into())])
            .map_err(|f| self.api.error(f))?;
        let bridge = bridges.iter().find(|b| b.iface == need.bridge);
        if bridge.is_none() {
            say(
                format!("`{}` has no bridge `{}`, or the token may not see it", self.node, need.bridge),
                format!(
                    "make it in /etc/network/interfaces and run ifreload -a; allow it: pveum acl modify /sdn/zones/{PLAIN_BRIDGES}/{} --users {} --roles PVESDNUser",
                    need.bridge,
                    self.api.token().user()
                ),
            );
        }
        // A bridge of Proxmox's SDN is in a zone of its own, and is listed to those only who may use it.
        let is_virtual = bridge.is_some_and(|b| b.kind == "vnet");
        for right in needed(version, &self.pool, &self.image_storage, &self.disk_storage, PLAIN_BRIDGES, &need.bridge) {
            if !(is_virtual && right.path.starts_with("/sdn/")) {
                let has = self.privileges(&right.path)?;
                lacks.extend(missing(&right, &has, self.api.token().user(), self.api.token().id()));
            }
        }
        self.lacks_pool(&mut lacks)?;
        self.lacks_storage(&self.image_storage, "import", None, &mut lacks)?;
        self.lacks_storage(&self.disk_storage, "images", Some(need.bytes), &mut lacks)?;
        Ok(lacks)
    }

    /// A pool that the token may not see is told of as a missing privilege already.
    fn lacks_pool(&self, lacks: &mut Vec<Lack>) -> Result<()> {
        let pools: Vec<Pool> = self.api.get(&["pools"], &[]).map_err(|f| self.api.error(f))?;
        let may_see = !lacks.iter().any(|l| l.what.contains("Pool.Audit"));
        if may_see && !pools.iter().any(|p| p.poolid == self.pool) {
            lacks.push(Lack {
                what: format!("there is no pool `{}`", self.pool),
                remedy: format!("pveum pool add {}", self.pool),
            });
        }
        Ok(())
    }

    fn lacks_storage(&self, storage: &str, content: &str, bytes: Option<u64>, lacks: &mut Vec<Lack>) -> Result<()> {
        #[derive(Deserialize)]
        struct Entry {
            storage: String,
            #[serde(default)]
            content: String,
            #[serde(default)]
            active: u8,
        }
        let listed: Vec<Entry> = self
            .api
            .get(&["nodes", &self.node, "storage"], &[("enabled", "1".into())])
            .map_err(|f| self.api.error(f))?;
        let mut say = |what: String, remedy: String| lacks.push(Lack { what, remedy });
        let Some(entry) = listed.iter().find(|e| e.storage == storage) else {
            say(
                format!("`{}` has no storage `{storage}`, or the token may not see it", self.node),
                format!(
                    "pvesm status on `{}` lists them; one for images is made by: pvesm add dir {storage} --path /var/lib/{storage} --content {content}",
                    self.node
                ),
            );
            return Ok(());
        };
        if entry.active != 1 {
            say(
                format!("storage `{storage}` of `{}` is not active", self.node),
                format!("pvesm status --storage {storage} says why"),
            );
            return Ok(());
        }
        if !entry.content.split(',').any(|c| c == content) {
            say(
                format!("storage `{storage}` does not take `{content}`; it takes {}", entry.content),
                format!("pvesm set {storage} --content {},{content}", entry.content),
            );
        }
        if let Some(bytes) = bytes {
            let avail = self.storage(storage)?.avail;
            if avail < bytes {
                say(
                    format!("storage `{storage}` has {avail} bytes left, and {bytes} may be written"),
                    "make room there, or name another `disk_storage`".into(),
                );
            }
        }
        Ok(())
    }
}
