//! Why a node halts. One variant per thing a person would do differently; each says what was seen, which rule applies, what to do.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::decision::Explanation;
use crate::digest::Id128;
use crate::disk_fact::LEAST_FREE_MIB;
use crate::name::Fqdn;
use crate::state::RaftId;
use crate::version::EtcdVersion;

/// A reason to do nothing at all until somebody mends something. The agent keeps looking, so that mending is enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Refusal {
    /// Row 1: there is no seed.
    SeedMissing(String),
    /// Row 1: there is a seed that must not be believed.
    SeedInvalid(String),
    /// Row 1: seed, charter and image are not of one cluster.
    SeedForeign {
        /// Which field differs.
        field: String,
        /// What the seed or charter says.
        seed: String,
        /// What it should be.
        expected: String,
    },
    /// Row 1: the seed's node is not in the charter.
    NotInCharter {
        /// The node.
        fqdn: Fqdn,
    },
    /// Row 1: the charter wants a newer etcd than the image has, or an etcd this agent cannot configure.
    EtcdTooOld {
        /// In the image.
        image: EtcdVersion,
        /// The charter's least.
        least: EtcdVersion,
    },
    /// Row 1: PTR names somebody else.
    PtrWrong {
        /// The address.
        address: IpAddr,
        /// The names PTR gives it.
        names: Vec<String>,
        /// The seed's name.
        expected: Fqdn,
    },
    /// Row 2: `/` is not the overlay.
    RootNotOverlay(String),
    /// Row 2: no data disk.
    DataAbsent(String),
    /// Row 2: a data disk that may be neither used nor called blank.
    DataUnusable(String),
    /// Row 2: the data volume is read-only.
    DataReadOnly(String),
    /// Row 2: etcd would start from an empty log on a volume that has no room for one.
    DataFull {
        /// Free MiB.
        free_mib: u64,
    },
    /// Row 2: volume or state belong to another node, cluster or environment.
    VolumeForeign {
        /// `volume.json` or `state.json`.
        file: String,
        /// Which field differs.
        field: String,
        /// What it says.
        found: String,
        /// What the seed says.
        expected: String,
    },
    /// Row 2: the volume is of another generation than the charter, and holds data.
    GenerationStale {
        /// The volume's.
        volume: u64,
        /// The charter's.
        charter: u64,
    },
    /// Row 2: the state file cannot be read.
    StateUnreadable(String),
    /// Row 2: a newer etcd has run on this volume.
    EtcdOlderThanData {
        /// In the image.
        image: EtcdVersion,
        /// The newest that ran.
        newest: EtcdVersion,
    },
    /// Row 4: somebody remembers a later boot of this volume, or another one with the same count.
    RolledBack {
        /// This volume's count.
        counter: u64,
        /// What is remembered.
        remembered: u64,
        /// The member whose agent remembers; none when this agent was told earlier, by etcd or by a member.
        witness: Option<Fqdn>,
    },
    /// Row 6: the log is another member's.
    WalForeign {
        /// Member id in the log.
        member: RaftId,
        /// Cluster id in the log.
        raft_cluster: RaftId,
        /// What the state leads to expect.
        expected: String,
    },
    /// Row 6: the log's first record cannot be read.
    WalUnreadable(String),
    /// Row 7: the state says member, the log is gone.
    DataLost {
        /// The member.
        member: RaftId,
    },
    /// Row 8: the cluster removed this member.
    Evicted {
        /// Its former lineage.
        lineage: Id128,
        /// Its former member id.
        member: RaftId,
    },
    /// Row 11: the state says founding, but the charter names another founder.
    NotFounder {
        /// The charter's founder.
        founder: Fqdn,
    },
}

impl Refusal {
    /// The row of the decision table that matched.
    pub fn row(&self) -> u8 {
        match self {
            Self::SeedMissing(_)
            | Self::SeedInvalid(_)
            | Self::SeedForeign { .. }
            | Self::NotInCharter { .. }
            | Self::EtcdTooOld { .. }
            | Self::PtrWrong { .. } => 1,
            Self::RootNotOverlay(_)
            | Self::DataAbsent(_)
            | Self::DataUnusable(_)
            | Self::DataReadOnly(_)
            | Self::DataFull { .. }
            | Self::VolumeForeign { .. }
            | Self::GenerationStale { .. }
            | Self::StateUnreadable(_)
            | Self::EtcdOlderThanData { .. } => 2,
            Self::RolledBack { .. } => 4,
            Self::WalForeign { .. } | Self::WalUnreadable(_) => 6,
            Self::DataLost { .. } => 7,
            Self::Evicted { .. } => 8,
            Self::NotFounder { .. } => 11,
        }
    }

    /// What was seen, which rule applies, what to do.
    pub fn explain(&self) -> Explanation {
        let (seen, rule, hint) = self.sentences();
        Explanation { seen, rule: rule.into(), hint }
    }

    fn sentences(&self) -> (String, &'static str, String) {
        match self {
            Self::SeedMissing(why) => (
                format!("there is no seed: {why}"),
                "a node without a seed has no name it may use and no key to speak with",
                "attach this node's seed volume (serial `kiln-seed`; `kiln pki init` mints it) and restart the node".into(),
            ),
            Self::SeedInvalid(why) => (
                format!("the seed must not be believed: {why}"),
                "only a seed whose charter verifies with the key in the image is used",
                "attach the seed that was minted for this image's cluster, or build the image with that cluster's trust".into(),
            ),
            Self::SeedForeign { field, seed, expected } => (
                format!("the seed's {field} is `{seed}`, expected `{expected}`"),
                "image, seed and charter must be of one cluster",
                "attach the seed that was minted for this image's cluster, or image the node for the seed's cluster".into(),
            ),
            Self::NotInCharter { fqdn } => (
                format!("the seed names this node {fqdn}, which the charter does not list"),
                "only the charter's members may take part",
                format!("mint a charter that lists {fqdn}, or attach the seed of a member"),
            ),
            Self::EtcdTooOld { image, least } => (
                format!("the image has etcd {image}, the charter wants {least} or newer of a line this agent can configure (3.5 to 3.7)"),
                "an etcd below the charter's least may not serve this cluster",
                format!("image this node with etcd {least} or newer"),
            ),
            Self::PtrWrong { address, names, expected } => (
                format!("DNS says that {address} is {}, but the seed says that this node is {expected}", names.join(" and ")),
                "a name in DNS that contradicts the seed is a mistake in one of them",
                format!(
                    "make the PTR record of {address} name {expected}; or, if DNS is right, attach the seed of that node. \
                     Mending DNS is enough, this node keeps looking"
                ),
            ),
            Self::RootNotOverlay(what) => (
                format!("/ is {what}, not the image under a tmpfs overlay"),
                "a node runs only from its read-only image",
                "see the console of the early boot for why the overlay could not be set up, and image the node again".into(),
            ),
            Self::DataAbsent(why) => (
                format!("there is no data disk: {why}"),
                "a missing disk is never taken for a blank one",
                "attach the data disk with serial `kiln-data` and restart the node".into(),
            ),
            Self::DataUnusable(why) => (
                format!("the data disk cannot be used: {why}"),
                "a disk that is not positively blank and not this node's is never touched",
                "attach this node's own data disk; or, if its content may be destroyed, wipe it on purpose and restart the node".into(),
            ),
            Self::DataReadOnly(why) => (
                format!("the data volume is read-only: {why}"),
                "etcd needs a volume that can be written",
                "mend the disk below it (see the kernel's messages on the console) and restart the node".into(),
            ),
            Self::DataFull { free_mib } => (
                format!("the data volume has {free_mib} MiB free, etcd needs {LEAST_FREE_MIB} to start"),
                "nobody takes a place in a cluster that it could not fill",
                "make the data disk larger, or free what does not belong on it".into(),
            ),
            Self::VolumeForeign { file, field, found, expected } => (
                format!("the data volume's `{file}` has {field} `{found}`, the seed says `{expected}`"),
                "a volume of another node, cluster or environment is never used and never wiped",
                "attach this node's own data disk or its own seed; one of the two was swapped".into(),
            ),
            Self::GenerationStale { volume, charter } => (
                format!("the data volume is of generation {volume}, the charter of generation {charter}"),
                "data of one generation is not served under the charter of another",
                if volume > charter {
                    format!("attach the seed of generation {volume}")
                } else {
                    format!(
                        "if generation {volume} is given up for good, wipe this data disk on purpose; else attach the seed of generation {volume}"
                    )
                },
            ),
            Self::StateUnreadable(why) => (
                format!("the state file cannot be read: {why}"),
                "without its state a volume is not known to be anything, least of all blank",
                "restore `state/state.json` on the data volume, or wipe the disk on purpose and let the node be replaced".into(),
            ),
            Self::EtcdOlderThanData { image, newest } => (
                format!("the image has etcd {image}, but {newest} has run on this volume"),
                "an older etcd is not started on a newer one's data",
                format!("image this node with etcd {newest} or newer"),
            ),
            Self::RolledBack { counter, remembered, witness } => (
                format!(
                    "this volume counts to {counter}, but {} remembers boot {remembered} of the same volume, and that was another boot",
                    witness.as_ref().map_or("the cluster", Fqdn::as_str)
                ),
                "a volume that went back in time (a snapshot rolled back), or that runs twice (a clone), would lose or contradict what it acknowledged",
                "stop the other copy if one runs; if this is the volume's newest state after all, there is none newer to lose; else attach the newest copy. \
                 To give this copy up, wipe this data disk on purpose: the node then joins as a new member and loses nothing the cluster has acknowledged"
                    .into(),
            ),
            Self::WalForeign { member, raft_cluster, expected } => (
                format!("etcd's log is that of member {member} of raft cluster {raft_cluster}; expected {expected}"),
                "a log that is not the one the state promises is neither started nor removed",
                "find out where the log came from; then restore the right one, or wipe the disk on purpose and let the node be replaced".into(),
            ),
            Self::WalUnreadable(why) => (
                format!("the first record of etcd's log cannot be read: {why}"),
                "a log that cannot be read may hold acknowledged writes",
                "save a copy of the disk; then wipe it on purpose and let the node be replaced".into(),
            ),
            Self::DataLost { member } => (
                format!("the state says that this is member {member}, but etcd's log is gone"),
                "a member that lost its data must not start again under its old id",
                "restore the disk if it can be; else wipe it on purpose and let the node be replaced".into(),
            ),
            Self::Evicted { lineage, member } => (
                format!("the cluster of lineage {lineage} has removed this node's member {member}"),
                "a removed member never comes back by itself",
                "if this node should serve again, wipe its data disk on purpose; it then joins as a new member".into(),
            ),
            Self::NotFounder { founder } => (
                format!("the state says that this node is forming the cluster, but the charter's founder is {founder}"),
                "only the founder forms",
                "attach the seed this volume was used with, or wipe the data disk on purpose".into(),
            ),
        }
    }
}
