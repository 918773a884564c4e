//! What the leader's agent does for the cluster: promote who caught up, drop who never will, declare the formation complete.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::charter::Charter;
use crate::etcd::ListedMember;
use crate::name::Fqdn;
use crate::state::RaftId;

/// How long a learner may take to become a voter before its place is given up: 5 min, k3s's number.
pub const LEARNER_PATIENCE_SECS: u64 = 300;

/// The hash of a store's keys and values, all revisions up to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// Up to which revision.
    pub revision: u64,
    /// The hash.
    pub hash: u32,
    /// What was compacted away when it was taken, which is left out of it.
    pub compact_revision: i64,
}

/// What a member answered when asked for its hash at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerHash {
    /// Its hash.
    Hash(KvHash),
    /// It has not applied that revision yet.
    Behind,
    /// It has compacted that revision away.
    Compacted,
}

/// What comparing two stores led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Same keys, values and revisions.
    Equal,
    /// They differ: one of the two is damaged.
    Differs,
    /// Not there yet; the same hash of ours is good for another try.
    Later,
    /// The two left out different amounts of compacted history; ours has to be taken anew.
    Anew,
}

/// Compares a learner's store with the leader's own. Two hashes say something about each other only at one revision and with the
/// same compaction behind them; etcd's own check compares by the same rule.
pub fn compare(own: &KvHash, theirs: &PeerHash) -> Verdict {
    match theirs {
        PeerHash::Behind => Verdict::Later,
        PeerHash::Compacted => Verdict::Anew,
        PeerHash::Hash(theirs) if theirs.revision != own.revision => Verdict::Anew,
        PeerHash::Hash(theirs) if theirs.compact_revision != own.compact_revision => Verdict::Anew,
        PeerHash::Hash(theirs) if theirs.hash == own.hash => Verdict::Equal,
        PeerHash::Hash(_) => Verdict::Differs,
    }
}

/// Learners worth a try at promotion: members of the charter that have started. Whether one holds what the leader holds is [`compare`]d,
/// and etcd itself judges whether its log has caught up.
pub fn promotable(members: &[ListedMember], charter: &Charter) -> Vec<(RaftId, Fqdn)> {
    learners(members, charter).filter(|(member, _)| !member.client_urls.is_empty()).map(named).collect()
}

/// Learners of the charter that have been learners for more than `patience` seconds. Only learners: they hold no vote, so nothing is lost.
pub fn hopeless(
    members: &[ListedMember],
    charter: &Charter,
    patience: u64,
    learner_for: impl Fn(RaftId) -> u64,
) -> Vec<(RaftId, Fqdn)> {
    learners(members, charter).filter(|(member, _)| learner_for(member.id) > patience).map(named).collect()
}

fn learners<'a>(
    members: &'a [ListedMember],
    charter: &'a Charter,
) -> impl Iterator<Item = (&'a ListedMember, &'a Fqdn)> {
    members.iter().filter(|member| member.learner).filter_map(|member| {
        let expected = charter.members.iter().find(|expected| member.peer_urls == [expected.fqdn.peer_url()])?;
        Some((member, &expected.fqdn))
    })
}

fn named((member, fqdn): (&ListedMember, &Fqdn)) -> (RaftId, Fqdn) {
    (member.id, fqdn.clone())
}

/// The cluster is complete: exactly the charter's members, every one a voter that has started.
///
/// This, and not the observation that led to forming, is the commit point of a formation: two formations cannot both get there,
/// because no node is in both.
pub fn complete(members: &[ListedMember], charter: &Charter) -> bool {
    members.len() == charter.members.len()
        && charter.members.iter().all(|expected| {
            members.iter().any(|member| {
                member.peer_urls == [expected.fqdn.peer_url()]
                    && member.name == expected.fqdn.member_name()
                    && !member.learner
                    && !member.client_urls.is_empty()
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{charter, fqdn as name};

    fn voter(n: u8) -> ListedMember {
        ListedMember {
            id: RaftId(u64::from(n)),
            name: name(n).member_name().to_owned(),
            peer_urls: vec![name(n).peer_url()],
            client_urls: vec![name(n).client_url()],
            learner: false,
        }
    }

    fn all() -> Vec<ListedMember> {
        (1..=3).map(voter).collect()
    }

    #[test]
    fn complete_means_every_charter_member_a_started_voter_and_nobody_else() {
        assert!(complete(&all(), &charter(3)));
        assert!(!complete(&all()[..2], &charter(3)));
        let bend = |edit: &dyn Fn(&mut ListedMember)| {
            let mut members = all();
            edit(&mut members[1]);
            complete(&members, &charter(3))
        };
        assert!(!bend(&|m| m.learner = true));
        assert!(!bend(&|m| m.client_urls.clear()));
        assert!(!bend(&|m| m.name.clear()));
        assert!(!bend(&|m| m.peer_urls = vec![name(9).peer_url()]));
        let mut more = all();
        more.push(voter(4));
        assert!(!complete(&more, &charter(3)));
    }

    #[test]
    fn compares_hashes_of_one_revision_and_one_compaction_only() {
        let own = KvHash { revision: 11, hash: 7, compact_revision: 6 };
        assert_eq!(compare(&own, &PeerHash::Hash(own)), Verdict::Equal);
        assert_eq!(compare(&own, &PeerHash::Hash(KvHash { hash: 8, ..own })), Verdict::Differs);
        // With the same hash by chance, too: nothing is concluded from what cannot be compared.
        for hash in [7, 8] {
            let theirs = KvHash { hash, compact_revision: -1, ..own };
            assert_eq!(compare(&own, &PeerHash::Hash(theirs)), Verdict::Anew);
            assert_eq!(compare(&own, &PeerHash::Hash(KvHash { hash, revision: 10, ..own })), Verdict::Anew);
        }
        assert_eq!(compare(&own, &PeerHash::Behind), Verdict::Later);
        assert_eq!(compare(&own, &PeerHash::Compacted), Verdict::Anew);
    }

    #[test]
    fn only_started_learners_of_the_charter_are_promoted_and_only_learners_are_given_up() {
        let learner = |n| ListedMember { learner: true, ..voter(n) };
        let unstarted = ListedMember { client_urls: Vec::new(), ..learner(3) };
        let members = [voter(1), learner(2), unstarted, learner(4)];
        assert_eq!(promotable(&members, &charter(3)), [(RaftId(2), name(2))]);
        let stuck = [(RaftId(2), name(2)), (RaftId(3), name(3))];
        assert_eq!(hopeless(&members, &charter(3), 300, |_| 301), stuck);
        assert_eq!(hopeless(&members, &charter(3), 300, |_| 300), []);
    }
}
