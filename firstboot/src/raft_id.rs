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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_ids_that_a_real_etcd_printed() {
        // How: fixtures/wal/README.
        let token = cluster_token(Id128([7; 16]), 1, Id128([5; 16]));
        assert_eq!(token, "f89c7ca4e5108f5dd208e6453d053f35bc8dafee6c0d4d2c56223481d480cac9");
        let member = member_id(&["https://etcd1.lab.example:2380".into()], &token);
        assert_eq!(member, RaftId(0x3510_d3b3_b2ac_148c));
        assert_eq!(raft_cluster_id(&[member]), RaftId(0xd58e_ffd0_c307_8ee8));
    }

    #[test]
    fn sorts_urls_and_members_as_etcd_3_5_30_does() {
        // Printed by etcd 3.5.30 as `a` of a, b, c with the token `tok`, `a` with two peer URLs.
        let a = member_id(&["https://a.lab.example:2380".into(), "http://127.0.0.1:32381".into()], "tok");
        let b = member_id(&["https://b.lab.example:2380".into()], "tok");
        let c = member_id(&["https://c.lab.example:2380".into()], "tok");
        assert_eq!(a, RaftId(0xe13a_d1b0_7150_4c09));
        assert!([b, c].contains(&RaftId(0x3950_78f3_2f00_3efd)) && [b, c].contains(&RaftId(0x7032_90a2_c79d_2869)));
        assert_eq!(raft_cluster_id(&[c, a, b]), RaftId(0x5399_13ab_a692_5ef7));
    }

    #[test]
    fn another_lineage_or_generation_is_another_cluster() {
        let ids = |generation, lineage| {
            let token = cluster_token(Id128([7; 16]), generation, Id128([lineage; 16]));
            member_id(&["https://etcd1.lab.example:2380".into()], &token)
        };
        assert_ne!(ids(1, 5), ids(1, 6));
        assert_ne!(ids(1, 5), ids(2, 5));
    }
}
