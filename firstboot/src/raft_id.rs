//! etcd's own rules for member and cluster ids, so that a log can be checked against what the state promises before etcd runs.
//!
//! Source: etcd 3.5 to 3.7, `server/etcdserver/api/membership/{member,cluster}.go` (`computeMemberID`, `genID`).

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::digest::{Id128, Sha256Digest};
use crate::state::RaftId;

/// The token of one formation: hex of sha256(cluster ‖ generation ‖ lineage), the generation as eight big-endian bytes.
///
/// Random through `lineage`. A token that follows from configuration alone lets a wiped majority re-form under the same ids,
/// and the survivor joins it silently (etcd#9630).
pub fn cluster_token(cluster: Id128, generation: u64, lineage: Id128) -> String {
    let bytes = [cluster.0.as_slice(), &generation.to_be_bytes(), &lineage.0].concat();
    Sha256Digest::of(&bytes).to_string()
}

/// The id etcd gives a member at bootstrap: sha1 over its sorted peer URLs and the cluster token, first eight bytes.
pub fn member_id(peer_urls: &[String], token: &str) -> RaftId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    first_eight([urls.concat(), token.to_owned()].concat().as_bytes())
}

/// The id etcd gives a cluster at bootstrap: sha1 over its members' ids, sorted, first eight bytes.
pub fn raft_cluster_id(members: &[RaftId]) -> RaftId {
    let mut ids: Vec<u64> = members.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.into_iter().flat_map(u64::to_be_bytes).collect();
    first_eight(&bytes)
}

fn first_eight(bytes: &[u8]) -> RaftId {
    let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    RaftId(sum.as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte)))
}
