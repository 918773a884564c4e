//! What an image knows of its cluster: `/usr/lib/kiln/cluster.json`. Public facts and settings from the profile; no secret, no node.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::{Id128, PublicKey};
use crate::name::Fqdn;

/// Written by the builder into every image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// 1.
    pub schema: u32,
    /// The environment: the profile's name.
    pub env: String,
    /// The cluster.
    pub cluster: Id128,
    /// Domain of the SRV records `_etcd-server-ssl._tcp.DOMAIN`.
    pub domain: Fqdn,
    /// Key that charters must be signed with.
    pub charter_key: PublicKey,
    /// DNS servers to ask instead of the ones the network hands out; usually empty.
    pub dns_servers: Vec<IpAddr>,
    /// etcd's settings.
    pub etcd: EtcdSettings,
}

/// etcd settings a profile may choose; the safety settings (TLS, checks, strict reconfiguration) are not among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSettings {
    /// Backend quota in MiB; etcd recommends at most 8192.
    pub quota_mib: u64,
    /// `periodic` or `revision`.
    pub auto_compaction_mode: CompactionMode,
    /// Retention in hours or revisions, by mode. Never 0: compaction is also what makes the hash checks run.
    pub auto_compaction_retention: u32,
    /// Leader heartbeat in milliseconds.
    pub heartbeat_ms: u32,
    /// Election timeout in milliseconds; at least five heartbeats.
    pub election_ms: u32,
}

impl EtcdSettings {
    /// For how long a follower hears of no leader before it stands for election, at least.
    #[must_use]
    pub fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.election_ms.into())
    }

    /// How many times longer than usual etcd is waited for: once per second of its election timeout, three times at most. Who has told etcd to
    /// be patient with slow machines has told the agent too; one that gives up earlier than etcd only asks again, and has etcd do it twice.
    #[must_use]
    pub fn patience(&self) -> u32 {
        (self.election_ms / 1000).clamp(1, 3)
    }
}

/// How etcd compacts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompactionMode {
    /// Keep the last hours.
    Periodic,
    /// Keep the last revisions.
    Revision,
}

impl Default for EtcdSettings {
    /// 2 GiB, compacted hourly, etcd's own timing defaults.
    fn default() -> Self {
        Self {
            quota_mib: 2048,
            auto_compaction_mode: CompactionMode::Periodic,
            auto_compaction_retention: 1,
            heartbeat_ms: 100,
            election_ms: 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_beat_within_reason() {
        let of = |election_ms| EtcdSettings { election_ms, ..EtcdSettings::default() }.patience();
        assert_eq!([50, 1000, 1999, 2000, 10_000, 50_000].map(of), [1, 1, 1, 2, 3, 3]);
    }
}
