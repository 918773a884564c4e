//! Rows 12 and 13, and section E of the catalogue.

use super::*;

#[test]
fn row_12_joins_through_the_leader_if_it_answers() {
    let mut seen = observation(3, 3);
    seen.peer_status(1).holds = running(1, 2);
    assert!(matches!(decide(&seen), Decision::Join { via, also, .. } if via == fqdn(1) && also.is_empty()));
    seen.peer_status(2).holds = running(2, 2);
    let join = decide(&seen);
    assert_eq!(
        join,
        Decision::Join { via: fqdn(2), also: vec![fqdn(1)], lineage: LINEAGE, raft_cluster: FOUNDER_IDS.1 }
    );
    assert_eq!(join.row(), 12);
    // One silent member does not hinder a join, a closed window neither.
    seen.peer_mut(2).answer = PeerAnswer::Unreachable("timed out".into());
    seen.now = i64::MAX;
    assert!(matches!(decide(&seen), Decision::Join { via, .. } if via == fqdn(1)));
}

#[test]
fn row_12_joins_nobody_who_does_not_serve() {
    for spoil in
        [(|r| r.learner = true) as fn(&mut crate::message::Running), |r| r.leader = None, |r| r.linearizable = false]
    {
        let mut seen = observation(3, 3);
        let Holds::Running(mut run) = running(1, 1) else { unreachable!() };
        spoil(&mut run);
        seen.peer_status(1).holds = Holds::Running(run);
        let waits = |why| Decision::Wait(WaitReason::Peers(vec![Obstacle { fqdn: fqdn(1), why }]));
        assert_eq!(decide(&seen), waits(ObstacleKind::Forming { lineage: LINEAGE }));
        seen.peer_status(1).activated = true;
        assert_eq!(decide(&seen), waits(ObstacleKind::NotServing { lineage: LINEAGE }));
    }
    let mut seen = observation(3, 3);
    seen.peer_status(1).holds = running(1, 1);
    seen.peer_status(1).generation = 9;
    assert_eq!(decide(&seen).row(), 13, "a running member of another charter is no grantor");
}

/// Nobody is told the way out of a lost quorum while a cluster forms, and everybody is once one was activated.
#[test]
fn row_13_tells_a_formation_that_is_under_way_from_a_cluster_that_has_lost_its_quorum() {
    let kinds = |seen: &Observation| match decide(seen) {
        Decision::Wait(WaitReason::Peers(obstacles)) => obstacles.into_iter().map(|o| o.why).collect::<Vec<_>>(),
        other => panic!("no wait: {other:?}"),
    };
    let forming = ObstacleKind::Forming { lineage: LINEAGE };
    let held = ObstacleKind::HoldsData { lineage: LINEAGE };
    let mut seen = observation(3, 3);
    seen.peer_status(1).holds = Holds::Data { lineage: LINEAGE };
    assert_eq!(kinds(&seen), std::slice::from_ref(&forming));
    let text = decide(&seen).inaction().unwrap();
    assert!(text.contains("forms the cluster") && !text.contains("gone for good"), "{text}");
    // The second member that it added is of the same formation.
    seen.peer_status(2).holds = Holds::Data { lineage: LINEAGE };
    assert_eq!(kinds(&seen), [forming.clone(), forming]);
    // One that knows of the activation is enough, whoever it is.
    seen.peer_status(2).activated = true;
    assert_eq!(kinds(&seen), [held.clone(), held.clone()]);
    assert!(decide(&seen).inaction().unwrap().contains("gone for good"));
    // A founder that is silent, blank, or of another charter tells of no formation.
    let bends: [&dyn Fn(&mut Observation); 3] =
        [&silent(1), &|s| s.peer_status(1).holds = Holds::Blank, &|s| s.peer_status(1).generation = 9];
    for bend in bends {
        let mut seen = observation(3, 3);
        seen.peer_status(2).holds = Holds::Data { lineage: LINEAGE };
        bend(&mut seen);
        assert!(kinds(&seen).contains(&held));
    }
}

#[test]
fn row_13_waits_for_each_member_that_is_not_known_to_be_blank() {
    let waits = |bend: &dyn Fn(&mut Observation), kind: ObstacleKind| {
        for n in [1, 3] {
            let mut seen = observation(n, 3);
            bend(&mut seen);
            let expected = WaitReason::Peers(vec![Obstacle { fqdn: fqdn(2), why: kind.clone() }]);
            assert_eq!(decide(&seen), Decision::Wait(expected));
        }
    };
    waits(&silent(2), ObstacleKind::Unreachable { addresses: vec![address(2)], error: "connection refused".into() });
    waits(&|s| s.peers.retain(|p| p.fqdn != fqdn(2)), ObstacleKind::NotAsked);
    waits(&|s| s.peer_status(2).holds = Holds::Data { lineage: LINEAGE }, ObstacleKind::HoldsData { lineage: LINEAGE });
    waits(
        &|s| {
            s.peer_status(2).holds = Holds::Unknown;
            s.peer_status(2).phase = "halted".into();
            s.peer_status(2).waiting_for = "no disk".into();
        },
        ObstacleKind::Halted("no disk".into()),
    );
    waits(
        &|s| {
            s.peer_status(2).holds = Holds::Unknown;
            s.peer_status(2).waiting_for = "no address".into();
        },
        ObstacleKind::Unsure("no address".into()),
    );
    waits(
        &|s| {
            silent(2)(s);
            s.peer_mut(2).located = Lookup::None;
        },
        ObstacleKind::NotLocated,
    );
    waits(
        &|s| s.peer_status(2).env = "prod".into(),
        ObstacleKind::Disagrees { field: "environment".into(), theirs: "prod".into(), ours: "lab".into() },
    );
    for bend in [
        (|s| s.fqdn = fqdn(3)) as fn(&mut crate::message::NodeStatus),
        |s| s.cluster = Id128([8; 16]),
        |s| s.generation = 2,
        |s| s.charter = crate::digest::Sha256Digest([0; 32]),
    ] {
        let Decision::Wait(WaitReason::Peers(obstacles)) = bent(|s| bend(s.peer_status(2))) else { panic!("no wait") };
        assert!(matches!(&obstacles[..], [Obstacle { why: ObstacleKind::Disagrees { .. }, .. }]));
    }
}

#[test]
fn row_13_takes_neither_of_two_histories() {
    let mut seen = observation(3, 3);
    seen.peer_status(1).holds = running(1, 1);
    seen.peer_status(2).holds = Holds::Data { lineage: Id128([6; 16]) };
    let claim = |n, lineage, serving| LineageClaim { fqdn: fqdn(n), lineage, serving };
    let expected = vec![claim(1, LINEAGE, true), claim(2, Id128([6; 16]), false)];
    assert_eq!(decide(&seen), Decision::Wait(WaitReason::LineageConflict(expected)));
}

/// H5: a malicious peer says RUNNING. One member's word is not enough where three or more are to be members.
#[test]
fn h05_joins_an_activated_lineage_only_on_the_word_of_two() {
    let alone = |n: u8, activated, silent: Vec<Obstacle>| {
        let mut seen = observation(3, 3);
        seen.peer_status(n).holds = running(n, n);
        seen.peer_status(n).activated = activated;
        (seen, Decision::Wait(WaitReason::OneClaim { fqdn: fqdn(n), lineage: LINEAGE, silent }))
    };
    let (mut seen, waits) = alone(1, true, vec![]);
    assert_eq!((decide(&seen), waits.row()), (waits.clone(), 12), "the founder of an activated cluster, alone");
    let (not_founder, waits) = alone(2, false, vec![]);
    assert_eq!(decide(&not_founder), waits, "only the founder is ever the first of a formation");
    let (forming, _) = alone(1, false, vec![]);
    assert!(
        matches!(decide(&forming), Decision::Join { via, .. } if via == fqdn(1)),
        "a formation begins with its founder"
    );

    silent(2)(&mut seen);
    let why = ObstacleKind::Unreachable { addresses: vec![address(2)], error: "connection refused".into() };
    let (_, waits) = alone(1, true, vec![Obstacle { fqdn: fqdn(2), why }]);
    assert_eq!(decide(&seen), waits);
    let text = waits.explain();
    assert!(
        text.seen.contains("etcd1.lab.example alone") && text.seen.contains("etcd2.lab.example at 10.0.0.2"),
        "{text:?}"
    );

    // A second member that runs it or only holds its data confirms it; one of another lineage or charter does not.
    for holds in [running(2, 1), Holds::Data { lineage: LINEAGE }] {
        let (mut seen, _) = alone(1, true, vec![]);
        seen.peer_status(2).holds = holds;
        seen.peer_status(2).activated = true;
        assert!(matches!(decide(&seen), Decision::Join { .. }));
        seen.peer_status(2).charter = crate::digest::Sha256Digest([0; 32]);
        assert!(matches!(decide(&seen), Decision::Wait(WaitReason::OneClaim { .. })));
    }
    // The same member asked twice is still one.
    let (mut seen, _) = alone(1, true, vec![]);
    let again = seen.peer_mut(1).clone();
    seen.peers.push(again);
    assert!(matches!(decide(&seen), Decision::Wait(WaitReason::OneClaim { .. })));
}

/// The other side of H5: whoever can be added at all has two to hear, in a charter of any size.
#[test]
fn a_bare_quorum_is_enough_to_be_replaced_by() {
    for (members, up) in [(3u8, 2u8), (4, 3), (5, 3), (7, 4)] {
        let mut seen = observation(members, members);
        for n in 1..members {
            if n <= up {
                seen.peer_status(n).holds = running(n, 1);
                seen.peer_status(n).activated = true;
            } else {
                silent(n)(&mut seen);
            }
        }
        assert!(matches!(decide(&seen), Decision::Join { also, .. } if also.len() == usize::from(up) - 1), "{members}");
    }
    // Of two there is only one other.
    let mut seen = observation(2, 2);
    seen.peer_status(1).holds = running(1, 1);
    seen.peer_status(1).activated = true;
    assert!(matches!(decide(&seen), Decision::Join { .. }));
}
