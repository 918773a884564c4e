//! The agent on a kiln node, and the contract that builder and agent share.
//!
//! On boot the agent looks (`observe`), chooses (`decide`, pure) and acts (`apply`). It finds its own name by PTR, its peers
//! by SRV and A records, mints its TLS leaf from the node's own issuer, and restarts, joins or forms its etcd cluster.
//!
//! The contract, which the builder writes and the agent reads: [`name`], [`digest`], [`version`], [`charter`], [`seed`],
//! [`volume`], [`state`], [`image`], [`cluster`], [`paths`], [`message`], [`disk_fact`].
//!
//! The choice, pure: [`observation`], [`decide`], [`identity`], [`decision`], [`refusal`], [`wait`], [`raft_id`].

pub mod charter;
pub mod cluster;
pub mod decide;
pub mod decision;
pub mod digest;
pub mod disk_fact;
pub mod identity;
pub mod image;
pub mod message;
pub mod name;
pub mod observation;
pub mod paths;
pub mod raft_id;
pub mod refusal;
pub mod seed;
pub mod state;
pub mod version;
pub mod volume;
pub mod wait;
