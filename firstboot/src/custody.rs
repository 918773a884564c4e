//! What the leader's agent does for the cluster: promote who caught up, drop who never will, declare the formation complete.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::charter::Charter;
use crate::etcd::ListedMember;
use crate::state::RaftId;

/// How long a learner may take to become a voter before its place is given up: 5 min, k3s's number.
pub const LEARNER_PATIENCE_SECS: u64 = 300;

/// Learners worth a try at promotion: members of the charter that have started. etcd itself judges whether one has caught up.
pub fn promotable(members: &[ListedMember], charter: &Charter) -> Vec<RaftId> {
    members
        .iter()
        .filter(|member| member.learner && !member.client_urls.is_empty() && of_charter(member, charter))
        .map(|member| member.id)
        .collect()
}

/// Learners of the charter that have been learners for too long. Only learners: they hold no vote, so nothing is lost.
pub fn hopeless(members: &[ListedMember], charter: &Charter, learner_for: impl Fn(RaftId) -> u64) -> Vec<RaftId> {
    members
        .iter()
        .filter(|member| {
            member.learner && of_charter(member, charter) && learner_for(member.id) > LEARNER_PATIENCE_SECS
        })
        .map(|member| member.id)
        .collect()
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

fn of_charter(member: &ListedMember, charter: &Charter) -> bool {
    charter.members.iter().any(|expected| member.peer_urls == [expected.fqdn.peer_url()])
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
    fn only_started_learners_of_the_charter_are_promoted_and_only_learners_are_given_up() {
        let learner = |n| ListedMember { learner: true, ..voter(n) };
        let unstarted = ListedMember { client_urls: Vec::new(), ..learner(3) };
        let members = [voter(1), learner(2), unstarted, learner(4)];
        assert_eq!(promotable(&members, &charter(3)), [RaftId(2)]);
        assert_eq!(hopeless(&members, &charter(3), |_| LEARNER_PATIENCE_SECS + 1), [RaftId(2), RaftId(3)]);
        assert_eq!(hopeless(&members, &charter(3), |_| LEARNER_PATIENCE_SECS), []);
    }
}
