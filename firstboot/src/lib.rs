//! The agent on a kiln node, and the contract that builder and agent share.
//!
//! On boot the agent looks (`observe`), chooses (`decide`, pure) and acts (`apply`). It finds its own name by PTR, its peers
//! by SRV and A records, mints its TLS leaf from the node's own issuer, and restarts, joins or forms its etcd cluster.
//!
//! The contract, which the builder writes and the agent reads: [`name`], [`digest`], [`version`], [`charter`], [`seed`],
//! [`volume`], [`state`], [`image`], [`cluster`], [`paths`], [`message`], [`disk_fact`].
//!
//! The choice, pure: [`observation`], [`decide`], [`identity`], [`decision`], [`refusal`], [`notice`], [`wait`], [`guide`], [`sight`], [`raft_id`], [`wal`], [`render`],
//! [`mount_table`], [`resolv`], [`dns_answer`], [`cert_name`], [`leaf`], [`revocation`], [`standing`], [`record`], [`last_words`], and what a member does for others:
//! [`grant`], [`replacement`], [`connections`], [`custody`]; and for itself: [`back_off`].
//!
//! The edges of the root side: [`cli`], [`control`], [`disk`], [`durable`], [`explain`], [`format`], [`journal`], [`precheck`],
//! [`seed_disk`], [`state_file`], [`system`].
//!
//! The edges of the agent: [`run`] (the loop), `progress`, `activation`, [`boots`], [`observe`], [`apply`], [`agent`] (port 2382), [`custodian`], [`peer_hash`], [`etcd`], [`tls`],
//! [`leaf_file`], `revocation_file`, `witness`, [`dns`], [`dns_watch`], [`address`], [`clock`], [`control_client`], [`status_file`], and [`fault`], which only tests compile in.

pub(crate) mod activation;
pub mod address;
pub mod agent;
pub mod apply;
pub mod back_off;
pub mod boots;
pub mod cert_name;
pub mod charter;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod connections;
pub mod control;
pub mod control_client;
pub mod custodian;
pub mod custody;
pub mod decide;
pub mod decision;
pub mod digest;
pub mod disk;
pub mod disk_fact;
pub mod disk_pace;
pub mod dns;
pub mod dns_answer;
pub mod dns_watch;
pub mod durable;
pub mod endings;
pub mod etcd;
pub mod explain;
pub mod fault;
pub mod floor;
pub mod format;
pub mod grant;
pub mod guide;
pub mod hosts;
pub mod identity;
pub mod image;
pub mod journal;
pub mod last_words;
pub mod leaf;
pub mod leaf_file;
pub(crate) mod leaf_keeper;
pub mod message;
pub mod mount_table;
pub mod name;
pub mod notice;
pub mod observation;
pub mod observe;
pub mod paths;
pub mod peer_hash;
pub mod precheck;
pub(crate) mod progress;
pub mod raft_id;
pub mod record;
pub mod refusal;
pub mod render;
pub mod replacement;
pub mod resolv;
mod rest;
pub mod revocation;
mod revocation_file;
pub mod run;
pub mod seed;
pub mod seed_disk;
pub mod sight;
pub mod standing;
pub mod state;
pub mod state_file;
pub mod status_file;
pub mod system;
pub mod tls;
pub mod version;
pub mod volume;
pub mod wait;
pub mod wal;
mod witness;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod sample_authority;
