//! Requests to a grantor, one thing bent at a time.

use super::*;
use crate::digest::{Id128, Sha256Digest};
use crate::sample::{NOW, charter, fqdn as name, running_on};

pub(crate) fn listed(n: u8, learner: bool, started: bool) -> ListedMember {
    ListedMember {
        id: RaftId(u64::from(n)),
        name: if started { name(n).member_name().to_owned() } else { String::new() },
        peer_urls: vec![name(n).peer_url()],
        client_urls: if started { vec![name(n).client_url()] } else { Vec::new() },
        learner,
    }
}

/// etcd2 asks etcd1, whose cluster has `members`; `edit` bends one thing.
fn decided(members: &[ListedMember], edit: impl FnOnce(&mut JoinRequest, &mut GrantObservation<'_>)) -> GrantDecision {
    let (charter, own, caller) = (charter(3), name(1), name(2));
    let mut request = request(&charter);
    let placeholder = request.clone();
    let running = running_on(1, 1);
    let mut seen = GrantObservation {
        charter: &charter,
        own: &own,
        own_version: "3.6.14".parse().unwrap(),
        serving: true,
        own_member: RaftId(1),
        leader: Some(RaftId(1)),
        running: Some(&running),
        cluster_version: None,
        caller: &caller,
        request: &placeholder,
        members,
        recorded: None,
        caller_port: PeerPort::Refuses,
        voters: &[],
        snapshot: None,
        removals: &[],
        now: NOW,
        limits: Limits::DEFAULT,
    };
    edit(&mut request, &mut seen);
    decide_grant(&GrantObservation { request: &request, ..seen })
}

/// etcd2's request, with the volume 2.
pub(crate) fn request(charter: &Charter) -> JoinRequest {
    JoinRequest {
        cluster: charter.cluster,
        generation: 1,
        charter: charter.digest(),
        fqdn: name(2),
        instance: Id128([2; 16]),
        etcd_version: "3.6.14".parse().unwrap(),
        nonce: Id128([9; 16]),
    }
}

pub(crate) fn refused(decision: &GrantDecision) -> bool {
    matches!(decision, GrantDecision::Refuse { .. })
}

pub(crate) fn put_off(decision: &GrantDecision) -> bool {
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
    assert!(put_off(&decided(&members, |_, seen| seen.caller_port = PeerPort::Listens)));
}

#[test]
fn an_etcd_older_than_the_clusters_version_is_refused() {
    let alone = [listed(1, false, true)];
    let with = |theirs: &str, cluster: &str| {
        decided(&alone, |request, seen| {
            request.etcd_version = theirs.parse().unwrap();
            seen.own_version = "3.7.1".parse().unwrap();
            seen.cluster_version = Some(cluster.parse().unwrap());
        })
    };
    assert!(refused(&with("3.6.14", "3.7.0")));
    assert_eq!(with("3.6.14", "3.6.0"), GrantDecision::Add);
    assert_eq!(with("3.7.0", "3.7.0"), GrantDecision::Add);
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
