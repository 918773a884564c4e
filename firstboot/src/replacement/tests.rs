//! Replacing etcd2's voter: in order at first, then one thing bent at a time, then anything at all.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::charter::Charter;
use crate::digest::Id128;
use crate::grant::tests::{listed, put_off, refused, request};
use crate::grant::{Removal, SnapshotFact, decide_grant};
use crate::message::{JoinRequest, Unheard};
use crate::record::MemberRecord;
use crate::sample::{NOW, charter, fqdn as name, running_on};

/// All that an observation borrows.
#[derive(Clone, Debug)]
struct Scene {
    charter: Charter,
    own: Fqdn,
    leader: Option<RaftId>,
    running: Option<Running>,
    request: JoinRequest,
    members: Vec<ListedMember>,
    recorded: Option<MemberRecord>,
    caller_port: PeerPort,
    voters: Vec<Voter>,
    snapshot: Option<SnapshotFact>,
    removals: Vec<Removal>,
}

/// Not heard for two minutes.
fn silent(member: u8) -> Vec<Unheard> {
    vec![Unheard { member: RaftId(u64::from(member)), seconds: 120 }]
}

/// etcd2, wiped, asks etcd1 of `size`; etcd3 leads and everything is in order.
fn scene(size: u8) -> Scene {
    let charter = charter(size);
    let healthy = |n| Running { unheard: silent(2), ..running_on(n, 3) };
    Scene {
        request: request(&charter),
        charter,
        own: name(1),
        leader: Some(RaftId(3)),
        running: Some(healthy(1)),
        members: (1..=size).map(|n| listed(n, false, true)).collect(),
        recorded: Some(MemberRecord { instance: Id128([77; 16]), member: RaftId(2), since: NOW - 9000 }),
        caller_port: PeerPort::Refuses,
        voters: (3..=size)
            .map(|n| Voter { fqdn: name(n), member: RaftId(u64::from(n)), answer: Some(healthy(n)) })
            .collect(),
        snapshot: Some(SnapshotFact { age_secs: 5, revision: 40 }),
        removals: Vec::new(),
    }
}

impl Scene {
    fn decided(&self) -> GrantDecision {
        let caller = name(2);
        decide_grant(&GrantObservation {
            charter: &self.charter,
            own: &self.own,
            own_version: "3.6.14".parse().unwrap(),
            serving: true,
            own_member: RaftId(1),
            leader: self.leader,
            running: self.running.as_ref(),
            cluster_version: Some("3.6.0".parse().unwrap()),
            caller: &caller,
            request: &self.request,
            members: &self.members,
            recorded: self.recorded.as_ref(),
            caller_port: self.caller_port,
            voters: &self.voters,
            snapshot: self.snapshot,
            removals: &self.removals,
            now: NOW,
            limits: Limits::DEFAULT,
        })
    }

    fn answer_of(&mut self, n: u8) -> &mut Running {
        let voter = self.voters.iter_mut().find(|voter| voter.fqdn == name(n)).expect("it was asked");
        voter.answer.as_mut().expect("it answered")
    }
}

fn bent(size: u8, edit: impl FnOnce(&mut Scene)) -> GrantDecision {
    let mut scene = scene(size);
    edit(&mut scene);
    scene.decided()
}

fn gone() -> GrantDecision {
    GrantDecision::RemoveVoter { member: RaftId(2) }
}

/// Put off for a reason with these words in it.
fn waits(decision: &GrantDecision, words: &str) {
    let GrantDecision::RetryAfter { reason, .. } = decision else { panic!("not put off: {decision:?}") };
    assert!(reason.contains(words), "`{words}` is not in: {reason}");
}

#[test]
fn a_wiped_voter_is_replaced_when_everything_is_in_order() {
    for size in 3..=7 {
        assert_eq!(bent(size, |_| {}), gone(), "of {size}");
    }
}

#[test]
fn p2_the_same_volume_or_an_unknown_one_is_refused() {
    let same = bent(3, |s| s.request.instance = Id128([77; 16]));
    let GrantDecision::Refuse { reason, hint } = &same else { panic!("{same:?}") };
    assert_eq!(
        reason,
        "member 2 with the name etcd2.lab.example votes already, on this same data volume, which now says it is blank"
    );
    assert!(hint.contains("`etcdctl member remove 2`"), "{hint}");
    assert!(refused(&bent(3, |s| s.recorded = None)));
    let other_id = |s: &mut Scene| s.recorded.as_mut().unwrap().member = RaftId(22);
    assert!(refused(&bent(3, other_id)), "a record of another member says nothing of this one");
}

#[test]
fn p3_a_voter_that_somebody_heard_of_within_the_minute_stays() {
    waits(&bent(3, |s| s.running.as_mut().unwrap().unheard.clear()), "etcd1.lab.example is connected to member 2");
    waits(&bent(3, |s| s.running.as_mut().unwrap().unheard[0].seconds = 59), "nothing of member 2");
    waits(&bent(3, |s| s.answer_of(3).unheard[0].seconds = 59), "etcd3.lab.example has heard nothing");
    assert_eq!(bent(3, |s| s.answer_of(3).unheard[0].seconds = 60), gone());
    waits(&bent(5, |s| s.answer_of(4).unheard.clear()), "etcd4.lab.example is connected");
}

#[test]
fn p3_a_listener_under_the_callers_name_is_a_duplicate_and_lost_packets_are_no_evidence() {
    let two = bent(3, |s| s.caller_port = PeerPort::Listens);
    assert!(matches!(two, GrantDecision::Duplicate { member: RaftId(2), .. }), "{two:?}");
    waits(&bent(3, |s| s.caller_port = PeerPort::Silent), "neither accepts nor refuses");
}

#[test]
fn p4_neither_the_leader_nor_a_cluster_without_one() {
    waits(&bent(3, |s| s.leader = None), "no leader");
    waits(&bent(3, |s| s.leader = Some(RaftId(2))), "leads the cluster still");
    waits(&bent(3, |s| s.leader = Some(RaftId(9))), "leader 9");
    waits(&bent(5, |s| s.voters[0].answer = None), "the agent of the leader, etcd3.lab.example, does not answer");
}

#[test]
fn p5_one_of_two_is_never_replaced_by_itself() {
    assert!(refused(&bent(2, |s| s.leader = Some(RaftId(1)))));
}

#[test]
fn p6_one_hole_at_a_time() {
    waits(&bent(3, |s| s.members[2].learner = true), "member 3 is being added");
    waits(&bent(5, |s| drop(s.members.remove(4))), "etcd5.lab.example is not a voter");
    waits(&bent(3, |s| s.members[2].client_urls.clear()), "member 3 has not started");
    waits(&bent(3, |s| s.members.push(listed(9, false, true))), "there are 4 members");
}

#[test]
fn p7_all_others_of_three_are_well_and_a_majority_of_five() {
    waits(&bent(3, |s| s.answer_of(3).linearizable = false), "does not serve");
    waits(&bent(3, |s| s.answer_of(3).alarms.push("NOSPACE".into())), "NOSPACE");
    waits(&bent(3, |s| s.running.as_mut().unwrap().alarms.push("CORRUPT".into())), "CORRUPT");
    waits(&bent(3, |s| s.answer_of(3).lineage = Id128([1; 16])), "another cluster");
    waits(&bent(3, |s| s.answer_of(3).raft_cluster = RaftId(1)), "another cluster");
    waits(&bent(3, |s| s.answer_of(3).member = RaftId(8)), "runs as member 8");
    waits(&bent(3, |s| s.answer_of(3).applied_index = 9000), "etcd1.lab.example is");
    waits(&bent(3, |s| s.running.as_mut().unwrap().applied_index = 9000), "etcd3.lab.example is");
    waits(&bent(4, |s| s.voters[1].answer = None), "etcd4.lab.example does not answer");
    assert_eq!(bent(5, |s| s.voters[1].answer = None), gone(), "two of five may be down (E19)");
    waits(&bent(5, |s| [1, 2].into_iter().for_each(|i| s.voters[i].answer = None)), "does not answer");
    waits(&bent(6, |s| [1, 2].into_iter().for_each(|i| s.voters[i].answer = None)), "does not answer");
    assert_eq!(bent(7, |s| [1, 2].into_iter().for_each(|i| s.voters[i].answer = None)), gone());
}

#[test]
fn p9_a_fresh_snapshot_comes_first_but_only_when_nothing_else_is_in_the_way() {
    let stale = Some(SnapshotFact { age_secs: 600, revision: 40 });
    assert_eq!(bent(3, |s| s.snapshot = None), GrantDecision::TakeSnapshot);
    assert_eq!(bent(3, |s| s.snapshot = stale), GrantDecision::TakeSnapshot);
    assert!(put_off(&bent(3, |s| {
        s.snapshot = None;
        s.running.as_mut().unwrap().unheard.clear();
    })));
}

#[test]
fn e10_p10_a_name_is_replaced_once_in_ten_minutes_and_no_more_than_the_members_in_a_day() {
    let removal = |n: u8, member: u64, at| Removal { fqdn: name(n), member: RaftId(member), at };
    let e10 = bent(3, |s| s.removals.push(removal(2, 22, NOW - 599)));
    waits(&e10, "Do two machines use this name?");
    assert_eq!(bent(3, |s| s.removals.push(removal(2, 22, NOW - 600))), gone());
    assert_eq!(bent(3, |s| s.removals.push(removal(3, 33, NOW - 5))), gone());
    assert_eq!(bent(3, |s| s.removals.push(removal(2, 2, NOW - 5))), gone(), "that one did not come to pass");
    let all_day = |n: u64| (0..n).map(|i| removal(3, 30 + i, NOW - 80_000)).collect::<Vec<_>>();
    assert_eq!(bent(3, |s| s.removals = all_day(2)), gone());
    waits(&bent(3, |s| s.removals = all_day(3)), "within a day");
    let far = NOW + 20 * 365 * 86_400;
    assert_eq!(bent(3, |s| s.removals = vec![removal(2, 22, far)]), gone(), "a clock that was years off");
}

fn any_running(n: u8) -> impl Strategy<Value = Running> {
    let unheard = prop_oneof![
        1 => Just(Vec::new()),
        9 => (50u64..200).prop_map(|seconds| vec![Unheard { member: RaftId(2), seconds }]),
    ];
    let alarms = prop_oneof![20 => Just(Vec::new()), 1 => Just(vec!["CORRUPT".to_owned()])];
    (unheard, alarms, prop::bool::weighted(0.9), prop::bool::weighted(0.95), 1500u64..6600).prop_map(
        move |(unheard, alarms, linearizable, same, applied_index)| {
            let sample = running_on(n, 3);
            let lineage = if same { sample.lineage } else { Id128([0; 16]) };
            Running { unheard, alarms, linearizable, lineage, applied_index, ..sample }
        },
    )
}

prop_compose! {
    fn any_scene()(size in 2u8..8)(
        own in option::weighted(0.9, any_running(1)),
        answers in (3..=size.max(3)).map(|n| option::weighted(0.9, any_running(n))).collect::<Vec<_>>(),
        leader in option::weighted(0.9, prop_oneof![1 => 1u64..9, 5 => Just(3)]),
        caller_port in prop_oneof![8 => Just(PeerPort::Refuses), 1 => Just(PeerPort::Listens), 1 => Just(PeerPort::Silent)],
        instance in option::weighted(0.9, prop_oneof![1 => Just(2u8), 6 => Just(77)]),
        age in option::weighted(0.9, 0u64..700),
        removed in vec((1u8..4, 0u64..90_000, 2u64..9), 0..3),
        learner in option::weighted(0.1, 0usize..3),
        missing in option::weighted(0.1, 0usize..3),
        size in Just(size),
    ) -> Scene {
        let mut scene = scene(size);
        scene.running = own;
        for (voter, answer) in scene.voters.iter_mut().zip(answers) {
            voter.answer = answer;
        }
        scene.leader = leader.map(RaftId);
        scene.caller_port = caller_port;
        scene.recorded = instance.map(|i| MemberRecord { instance: Id128([i; 16]), member: RaftId(2), since: 0 });
        scene.snapshot = age.map(|age_secs| SnapshotFact { age_secs, revision: 1 });
        scene.removals = removed.into_iter().map(|(n, ago, id)| Removal {
            fqdn: name(n), member: RaftId(10 * id), at: NOW.saturating_sub_unsigned(ago),
        }).collect();
        if let Some(member) = learner.and_then(|i| scene.members.get_mut(i)) {
            member.learner = true;
        }
        if let Some(i) = missing.filter(|i| *i < scene.members.len()) {
            scene.members.remove(i);
        }
        scene
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever is seen: a voter goes only when every precondition holds, and it is the caller's own.
    #[test]
    fn a_voter_is_removed_only_when_every_precondition_holds(scene in any_scene()) {
        let decision = scene.decided();
        let GrantDecision::RemoveVoter { member } = decision else { return Ok(()) };
        let size = scene.charter.members.len();
        let own = scene.running.as_ref().expect("P7: the grantor's own etcd answers");
        let answers: Vec<&Running> = scene.voters.iter().filter_map(|v| v.answer.as_ref()).collect();
        prop_assert_eq!(member, RaftId(2), "P1");
        prop_assert!(scene.recorded.as_ref().is_some_and(|r| r.instance != scene.request.instance), "P2");
        prop_assert_eq!(scene.caller_port, PeerPort::Refuses, "P3");
        for running in answers.iter().copied().chain([own]) {
            prop_assert!(running.unheard_secs(member).is_some_and(|seconds| seconds >= 60), "P3");
            prop_assert!(running.alarms.is_empty(), "P7");
            prop_assert_eq!(running.lineage, own.lineage, "P7");
        }
        let led = scene.leader.expect("P4");
        prop_assert!(led != member && (led == own.member || answers.iter().any(|r| r.member == led)), "P4");
        prop_assert!(size >= 3, "P5");
        prop_assert!(scene.members.len() == size && scene.members.iter().all(|m| !m.learner), "P6");
        let serving = answers.iter().filter(|r| r.linearizable).count() + 1;
        prop_assert!(serving > size / 2 && (size >= 5 || serving == size - 1), "P7");
        prop_assert!(scene.snapshot.is_some_and(|snapshot| snapshot.age_secs < 600), "P9");
        let recent = |secs| scene.removals.iter().filter(move |r| NOW - r.at < secs);
        prop_assert!(!recent(600).any(|r| r.fqdn == name(2)) && recent(86_400).count() < size, "P10");
    }

    /// And it is never another's member that is touched.
    #[test]
    fn nobody_elses_member_is_ever_removed(scene in any_scene()) {
        match scene.decided() {
            GrantDecision::RemoveVoter { member } | GrantDecision::RemoveLearner { member } => {
                prop_assert_eq!(member, RaftId(2));
            }
            GrantDecision::Add => prop_assert!(scene.members.iter().all(|m| m.id != RaftId(2))),
            GrantDecision::TakeSnapshot
            | GrantDecision::RetryAfter { .. }
            | GrantDecision::Refuse { .. }
            | GrantDecision::Duplicate { .. } => {}
        }
    }
}
