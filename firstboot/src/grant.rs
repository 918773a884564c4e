//! May the caller be added now? Pure: what the grantor saw in, what it does out.
//!
//! A node asks for its own name only, under the grantor's charter, of a voter that reads linearizably. An unfinished learner of
//! its name is replaced, a voter never.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::charter::Charter;
use crate::digest::Id128;
use crate::etcd::ListedMember;
use crate::message::JoinRequest;
use crate::name::Fqdn;
use crate::state::RaftId;
use crate::version::{EtcdLine, EtcdVersion};

/// What a grantor knows when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantObservation<'a> {
    /// The grantor's charter.
    pub charter: &'a Charter,
    /// The grantor.
    pub own: &'a Fqdn,
    /// Its etcd.
    pub own_version: EtcdVersion,
    /// Its own etcd is a voter, knows the leader, and just read linearizably.
    pub serving: bool,
    /// The name in the caller's certificate.
    pub caller: &'a Fqdn,
    /// What it asks.
    pub request: &'a JoinRequest,
    /// A member list read linearizably, under the lock.
    pub members: &'a [ListedMember],
    /// The volume recorded for the caller's name in etcd.
    pub recorded_instance: Option<Id128>,
    /// Something accepts connections on the caller's peer port. Looked at only when a learner of that name is listed.
    pub caller_port_open: bool,
}

/// What a grantor does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantDecision {
    /// Add the caller as a learner.
    Add,
    /// Remove the caller's own earlier learner, wait two seconds (etcd hashes the second into a new id), then look again.
    RemoveLearner {
        /// The learner that never voted and whose grant was lost or used up.
        member: RaftId,
    },
    /// Not now.
    RetryAfter {
        /// Milliseconds.
        millis: u64,
        /// Why.
        reason: String,
    },
    /// Not until somebody acts.
    Refuse {
        /// What was seen and which rule applies.
        reason: String,
        /// What an operator can do.
        hint: String,
    },
}

/// Decides on one request.
///
/// Never answers with the removal of anything but an unfinished learner of the caller's own name: a voter is not replaced here.
pub fn decide_grant(seen: &GrantObservation<'_>) -> GrantDecision {
    if let Some(refusal) = credentials(seen) {
        return refusal;
    }
    if !seen.serving {
        return retry(1000, format!("{} has no vote, no leader or no quorum at the moment", seen.own));
    }
    let url = seen.request.fqdn.peer_url();
    let mine = |m: &&ListedMember| m.peer_urls.contains(&url) || m.name == seen.request.fqdn.member_name();
    if let Some(earlier) = seen.members.iter().find(mine) {
        return if earlier.learner { earlier_learner(seen, earlier) } else { replacement(seen, earlier) };
    }
    // etcd 3.5 has one place for a learner. The next is served as soon as this one votes.
    if seen.own_version.line() == Some(EtcdLine::V3_5)
        && let Some(other) = seen.members.iter().find(|m| m.learner)
    {
        return retry(250, format!("member {} is being added and etcd 3.5 adds one at a time", other.id));
    }
    GrantDecision::Add
}

fn credentials(seen: &GrantObservation<'_>) -> Option<GrantDecision> {
    let (request, charter) = (seen.request, seen.charter);
    let refuse = |reason: String, hint: &str| Some(GrantDecision::Refuse { reason, hint: hint.into() });
    if *seen.caller != request.fqdn {
        return refuse(
            format!("{} asked for a place for {}; a node may ask for its own name only", seen.caller, request.fqdn),
            "boot the node that shall join with its own seed",
        );
    }
    if charter.member(&request.fqdn).is_none() {
        return refuse(
            format!("{} is not in the charter", request.fqdn),
            "mint a charter that names it, with `kiln pki`",
        );
    }
    if request.cluster != charter.cluster
        || request.generation != charter.generation
        || request.charter != charter.digest()
    {
        return refuse(
            format!(
                "{} holds generation {} of the charter of cluster {} with another digest than {}'s generation {}",
                request.fqdn, request.generation, request.cluster, seen.own, charter.generation
            ),
            "give every node a seed of one minting",
        );
    }
    let (theirs, ours) = (request.etcd_version, seen.own_version);
    if theirs < charter.min_etcd || theirs.major != ours.major || theirs.minor.abs_diff(ours.minor) > 1 {
        return refuse(
            format!(
                "{} brings etcd {theirs}; this cluster runs {ours} and admits {} or newer",
                request.fqdn, charter.min_etcd
            ),
            "boot it from an image whose etcd is at most one minor version away",
        );
    }
    None
}

/// A learner of the caller's name exists: its reply was lost, or its one start was used up.
fn earlier_learner(seen: &GrantObservation<'_>, earlier: &ListedMember) -> GrantDecision {
    if seen.caller_port_open {
        return retry(
            1000,
            format!("learner {} answers on {}'s peer port; two nodes may use this name", earlier.id, seen.request.fqdn),
        );
    }
    GrantDecision::RemoveLearner { member: earlier.id }
}

/// A voter of the caller's name exists. Whether its data is gone for good no agent can see, so an operator removes it, or nobody.
fn replacement(seen: &GrantObservation<'_>, voter: &ListedMember) -> GrantDecision {
    let whose = match seen.recorded_instance {
        Some(instance) if instance == seen.request.instance => "on this same data volume, which now says it is blank",
        Some(_) => "on another data volume",
        None => "on a data volume that was never recorded",
    };
    GrantDecision::Refuse {
        reason: format!("member {} with the name {} votes already, {whose}", voter.id, seen.request.fqdn),
        hint: format!(
            "find the disk that holds its data and attach it; if that disk is gone for good, and only then, `etcdctl member remove {}` through another member's client port, and this node joins anew by itself",
            voter.id
        ),
    }
}

fn retry(millis: u64, reason: String) -> GrantDecision {
    GrantDecision::RetryAfter { millis, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256Digest;
    use crate::sample::{charter, fqdn as name};

    fn listed(n: u8, learner: bool, started: bool) -> ListedMember {
        ListedMember {
            id: RaftId(u64::from(n)),
            name: if started { name(n).member_name().to_owned() } else { String::new() },
            peer_urls: vec![name(n).peer_url()],
            client_urls: if started { vec![name(n).client_url()] } else { Vec::new() },
            learner,
        }
    }

    /// etcd2 asks etcd1, which runs alone; `edit` bends one thing.
    fn decided(
        members: &[ListedMember],
        edit: impl FnOnce(&mut JoinRequest, &mut GrantObservation<'_>),
    ) -> GrantDecision {
        let (charter, own, caller) = (charter(3), name(1), name(2));
        let mut request = JoinRequest {
            cluster: charter.cluster,
            generation: 1,
            charter: charter.digest(),
            fqdn: name(2),
            instance: Id128([2; 16]),
            etcd_version: "3.6.14".parse().unwrap(),
            nonce: Id128([9; 16]),
        };
        let placeholder = request.clone();
        let mut seen = GrantObservation {
            charter: &charter,
            own: &own,
            own_version: "3.6.14".parse().unwrap(),
            serving: true,
            caller: &caller,
            request: &placeholder,
            members,
            recorded_instance: None,
            caller_port_open: false,
        };
        edit(&mut request, &mut seen);
        decide_grant(&GrantObservation { request: &request, ..seen })
    }

    fn refused(decision: &GrantDecision) -> bool {
        matches!(decision, GrantDecision::Refuse { .. })
    }

    fn put_off(decision: &GrantDecision) -> bool {
        matches!(decision, GrantDecision::RetryAfter { .. })
    }

    #[test]
    fn adds_a_blank_member_of_the_same_charter() {
        assert_eq!(decided(&[listed(1, false, true)], |_, _| {}), GrantDecision::Add);
    }

    #[test]
    fn refuses_other_names_other_charters_and_far_versions() {
        let alone = [listed(1, false, true)];
        assert!(refused(&decided(&alone, |request, _| request.fqdn = name(3))));
        assert!(refused(&decided(&alone, |request, _| request.cluster = Id128([8; 16]))));
        assert!(refused(&decided(&alone, |request, _| request.generation = 2)));
        assert!(refused(&decided(&alone, |request, _| request.charter = Sha256Digest([0; 32]))));
        assert!(refused(&decided(&alone, |request, _| request.etcd_version = "3.5.29".parse().unwrap())));
        assert!(refused(&decided(&alone, |request, _| request.etcd_version = "3.8.0".parse().unwrap())));
        assert_eq!(decided(&alone, |request, _| request.etcd_version = "3.7.1".parse().unwrap()), GrantDecision::Add);
    }

    #[test]
    fn waits_without_a_quorum() {
        assert!(put_off(&decided(&[], |_, seen| seen.serving = false)));
    }

    #[test]
    fn removes_the_callers_own_lost_learner_and_only_that() {
        let members = [listed(1, false, true), listed(2, true, false), listed(3, true, false)];
        assert_eq!(decided(&members, |_, _| {}), GrantDecision::RemoveLearner { member: RaftId(2) });
        assert!(put_off(&decided(&members, |_, seen| seen.caller_port_open = true)));
    }

    #[test]
    fn never_removes_a_voter_whatever_the_volume() {
        let members = [listed(1, false, true), listed(2, false, true)];
        for instance in [None, Some(Id128([2; 16])), Some(Id128([3; 16]))] {
            assert!(refused(&decided(&members, |_, seen| seen.recorded_instance = instance)));
        }
        let unstarted = [listed(1, false, true), listed(2, false, false)];
        assert!(refused(&decided(&unstarted, |_, _| {})));
    }

    #[test]
    fn tells_how_a_voter_is_replaced_and_adds_the_node_once_that_is_done() {
        let members = [listed(1, false, true), listed(2, false, true), listed(3, false, true)];
        let old_disk = Some(Id128([3; 16]));
        let GrantDecision::Refuse { reason, hint } = decided(&members, |_, seen| seen.recorded_instance = old_disk)
        else {
            panic!("a voter of that name is listed")
        };
        assert_eq!(reason, "member 2 with the name etcd2.lab.example votes already, on another data volume");
        assert!(hint.contains("`etcdctl member remove 2`"), "{hint}");
        let removed = [members[0].clone(), members[2].clone()];
        assert_eq!(decided(&removed, |_, seen| seen.recorded_instance = old_disk), GrantDecision::Add);
    }

    #[test]
    fn etcd_3_5_adds_one_at_a_time_and_later_lines_all_at_once() {
        let members = [listed(1, false, true), listed(3, true, true)];
        assert_eq!(decided(&members, |_, _| {}), GrantDecision::Add);
        let old = decided(&members, |request, seen| {
            request.etcd_version = "3.5.30".parse().unwrap();
            seen.own_version = "3.5.30".parse().unwrap();
        });
        assert!(put_off(&old));
    }
}
