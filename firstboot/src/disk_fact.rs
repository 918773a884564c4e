//! What the root one-shot found on the data and seed disks. Failures are data here: `decide` turns them into sentences.

use serde::{Deserialize, Serialize};

use crate::state::RaftId;
use crate::volume::VolumeLabel;

/// Least free space on the data volume for a start of etcd, in MiB. One log file is preallocated with 64 MiB; below that it dies while
/// it opens its log, which reads like corruption.
pub const LEAST_FREE_MIB: u64 = 80;

/// `/run/kiln/disk.json`, and the answer to the control verb `observe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskFacts {
    /// What `/` is.
    pub root: RootFact,
    /// The data volume.
    pub data: DataFact,
    /// The seed.
    pub seed: SeedFact,
    /// etcd's write-ahead log.
    pub wal: WalFact,
}

/// How the root file system is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RootFact {
    /// A tmpfs overlay over the read-only image.
    Overlay,
    /// Anything else, which an image must not run on.
    Other(String),
}

/// What is known of the data volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataFact {
    /// No disk of that serial, or more than one.
    Absent(String),
    /// Mounted where it belongs, writable, with its label.
    Mounted {
        /// Its label.
        label: VolumeLabel,
        /// Formatted in this boot.
        formatted_now: bool,
        /// Free MiB.
        free_mib: u64,
    },
    /// Something that may not be touched and may not be called blank: foreign signature, no label, failed check or mount.
    Unusable(String),
    /// Mounted, but read-only.
    ReadOnly(String),
}

/// What is known of the seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SeedFact {
    /// Unpacked into the seed directory.
    Unpacked,
    /// No disk of that serial.
    Absent(String),
    /// Not a seed.
    Unreadable(String),
}

/// What the first record of etcd's write-ahead log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WalFact {
    /// No log: etcd never started on this volume, or its data is gone.
    Absent,
    /// The log of this member of this raft cluster.
    Present {
        /// Raft member id.
        member: RaftId,
        /// Raft cluster id.
        raft_cluster: RaftId,
    },
    /// Such a log with its header and not one record behind it: etcd was ended in its first milliseconds, before it had voted or
    /// accepted anything. A founder's etcd that is started on it waits for a leader for ever, for the entry that names its one voter
    /// was to be the first record.
    Bare {
        /// Raft member id.
        member: RaftId,
        /// Raft cluster id.
        raft_cluster: RaftId,
    },
    /// A log whose first record cannot be read.
    Unreadable(String),
    /// The data volume is not mounted, so nothing is known.
    Unknown,
}
