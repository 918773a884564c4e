//! The table row by row, then what must hold over all observations.
#![expect(clippy::wildcard_enum_match_arm, reason = "a test panics on whatever it does not expect")]

use proptest::prelude::*;

use super::decide;
use crate::decision::Decision;
use crate::digest::Id128;
use crate::disk_fact::{DataFact, RootFact, WalFact};
use crate::message::{Holds, Remembered};
use crate::name::Fqdn;
use crate::observation::*;
use crate::refusal::Refusal;
use crate::sample::*;
use crate::state::{Phase, RaftId, State};
use crate::wait::{LineageClaim, Obstacle, ObstacleKind, WaitReason};

fn bent(bend: impl FnOnce(&mut Observation)) -> Decision {
    let mut seen = observation(1, 3);
    bend(&mut seen);
    decide(&seen)
}

fn halts_in_row(row: u8, bend: impl FnOnce(&mut Observation)) -> Refusal {
    match bent(bend) {
        Decision::Halt(refusal) => {
            assert_eq!(refusal.row(), row, "{refusal:?}");
            refusal
        }
        other => panic!("expected a halt, got {other:?}"),
    }
}

fn silent(n: u8) -> impl Fn(&mut Observation) {
    move |seen| seen.peer_mut(n).answer = PeerAnswer::Unreachable("connection refused".into())
}

#[test]
fn row_1_believes_only_a_seed_of_this_cluster() {
    assert_eq!(
        halts_in_row(1, |s| s.seed = SeedView::Missing("no disk".into())),
        Refusal::SeedMissing("no disk".into())
    );
    halts_in_row(1, |s| s.seed = SeedView::Invalid("signature".into()));
    for bend in [
        (|s| s.image.env = "prod".into()) as fn(&mut Observation),
        |s| s.image.cluster = Id128([8; 16]),
        |s| s.charter_mut().env = "prod".into(),
        |s| s.charter_mut().cluster = Id128([8; 16]),
        |s| s.charter_mut().generation = 2,
    ] {
        assert!(matches!(halts_in_row(1, bend), Refusal::SeedForeign { .. }));
    }
    assert_eq!(halts_in_row(1, |s| drop(s.charter_mut().members.remove(0))), Refusal::NotInCharter { fqdn: fqdn(1) });
    assert!(matches!(
        halts_in_row(1, |s| s.image.etcd_version = "3.5.29".parse().unwrap()),
        Refusal::EtcdTooOld { .. }
    ));
    assert!(matches!(halts_in_row(1, |s| s.image.etcd_version = "3.9.0".parse().unwrap()), Refusal::EtcdTooOld { .. }));
}

#[test]
fn row_1_halts_on_a_ptr_that_names_somebody_else() {
    for name in ["etcd2.lab.example", "etcd1.other.example", "_not.a.host"] {
        let refusal = halts_in_row(1, |s| s.own.addresses[0].ptr = Lookup::Found(vec![name.into()]));
        let expected = Refusal::PtrWrong { address: address(1), names: vec![name.into()], expected: fqdn(1) };
        assert_eq!(refusal, expected);
        let why = refusal.explain();
        assert!(why.seen.contains(name) && why.seen.contains("10.0.0.1") && why.hint.contains("etcd1.lab.example"));
    }
}

#[test]
fn row_2_never_takes_a_bad_disk_for_a_blank_one() {
    assert_eq!(halts_in_row(2, |s| s.root = RootFact::Other("ext4".into())), Refusal::RootNotOverlay("ext4".into()));
    halts_in_row(2, |s| s.data = DataFact::Absent("no disk".into()));
    halts_in_row(2, |s| s.data = DataFact::Unusable("xfs".into()));
    halts_in_row(2, |s| s.data = DataFact::ReadOnly("/dev/vdb".into()));
    halts_in_row(2, |s| s.state = StateView::Unreadable("eof".into()));
    let label = |bend: fn(&mut crate::volume::VolumeLabel)| {
        move |s: &mut Observation| match &mut s.data {
            DataFact::Mounted { label, .. } => bend(label),
            DataFact::Absent(_) | DataFact::Unusable(_) | DataFact::ReadOnly(_) => {
                panic!("the sample's disk is mounted")
            }
        }
    };
    let foreign = |refusal: Refusal| match refusal {
        Refusal::VolumeForeign { file, field, .. } => format!("{file} {field}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(foreign(halts_in_row(2, label(|l| l.env = "prod".into()))), "volume.json environment");
    assert_eq!(foreign(halts_in_row(2, label(|l| l.cluster = Id128([8; 16])))), "volume.json cluster");
    assert_eq!(foreign(halts_in_row(2, label(|l| l.fqdn = fqdn(2)))), "volume.json node");
    assert_eq!(foreign(halts_in_row(2, label(|l| l.instance = Id128([9; 16])))), "state.json instance");
    assert_eq!(foreign(halts_in_row(2, |s| s.state_mut().fqdn = fqdn(2))), "state.json node");
    assert_eq!(foreign(halts_in_row(2, |s| s.state_mut().cluster = Id128([8; 16]))), "state.json cluster");
    let newest = "3.7.0".parse().unwrap();
    let image = "3.6.14".parse().unwrap();
    assert_eq!(
        halts_in_row(2, |s| s.state_mut().max_etcd = Some(newest)),
        Refusal::EtcdOlderThanData { image, newest }
    );
}

#[test]
fn row_2_keeps_generations_apart() {
    let stale = |volume| Refusal::GenerationStale { volume, charter: 1 };
    assert_eq!(halts_in_row(2, |s| s.state_mut().generation = 2), stale(2), "the seed is older than the volume");
    assert_eq!(
        halts_in_row(2, |s| {
            s.state_mut().generation = 0;
            s.state_mut().position = member();
        }),
        stale(0),
        "data of an older generation"
    );
    // A volume that holds nothing is taken over by a newer charter, under the same instance.
    let Decision::RecordBlank { state } = bent(|s| s.state_mut().generation = 0) else { panic!("not recorded") };
    assert_eq!((state.generation, state.instance, state.position), (1, INSTANCE, Phase::Blank));
}

#[test]
fn row_3_records_a_blank_volume_as_blank() {
    let seen = observation(1, 3);
    let DataFact::Mounted { label, .. } = &seen.data else { panic!("mounted") };
    let expected = Decision::RecordBlank { state: Box::new(State::blank(label)) };
    assert_eq!(bent(|s| s.state = StateView::Absent), expected);
    assert_eq!(expected.row(), 3);
}

#[test]
fn row_4_halts_when_a_peer_remembers_a_later_boot_of_this_volume() {
    let remembered = |counter, instance, n: u8| {
        move |s: &mut Observation| {
            *s = observation(1, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
            s.state_mut().boot_counter = 7;
            s.peer_status(2).remembers = vec![Remembered { fqdn: fqdn(n), instance, boot_counter: counter }];
        }
    };
    let refusal = halts_in_row(4, remembered(8, INSTANCE, 1));
    assert_eq!(refusal, Refusal::RolledBack { counter: 7, remembered: 8, witness: fqdn(2) });
    for (counter, instance, n) in [(7, INSTANCE, 1), (8, Id128([9; 16]), 1), (8, INSTANCE, 3)] {
        assert_eq!(bent(remembered(counter, instance, n)).row(), 5);
    }
}

#[test]
fn row_5_restarts_from_a_log_that_matches() {
    let restart =
        |forming, (member, raft_cluster)| Decision::Restart { forming, lineage: LINEAGE, raft_cluster, member };
    let ids = (RaftId(0xa), RaftId(0xc));
    for phase in [member(), assigned(true), assigned(false)] {
        assert_eq!(decide(&observation(2, 3).in_phase(phase).with_wal(ids)), restart(false, ids));
    }
    let mut founder = observation(1, 3).in_phase(Phase::Founding { lineage: LINEAGE }).with_wal(FOUNDER_IDS);
    assert_eq!(decide(&founder), restart(true, FOUNDER_IDS));
    founder.state_mut().activated_seen = true;
    assert_eq!(decide(&founder), restart(false, FOUNDER_IDS));
}

#[test]
fn row_6_halts_on_a_log_that_does_not_match() {
    let other = (RaftId(0xb), RaftId(0xc));
    for phase in [member(), assigned(true), Phase::Founding { lineage: LINEAGE }, Phase::Blank] {
        let refusal = halts_in_row(6, |s| *s = observation(1, 3).in_phase(phase).with_wal(other));
        assert!(matches!(refusal, Refusal::WalForeign { member: RaftId(0xb), .. }));
    }
    halts_in_row(6, |s| {
        *s = observation(1, 3).in_phase(Phase::Founding { lineage: Id128([6; 16]) }).with_wal(FOUNDER_IDS)
    });
    halts_in_row(6, |s| {
        s.state = StateView::Absent;
        s.wal = WalFact::Present { member: other.0, raft_cluster: other.1 };
    });
    halts_in_row(6, |s| s.wal = WalFact::Unreadable("short".into()));
    halts_in_row(6, |s| s.wal = WalFact::Unknown);
}

#[test]
fn rows_7_and_8_halt_for_good() {
    let lost = halts_in_row(7, |s| s.state_mut().position = member());
    assert_eq!(lost, Refusal::DataLost { member: RaftId(0xa) });
    let evicted = Phase::Evicted { lineage: LINEAGE, member: RaftId(0xa) };
    let expected = Refusal::Evicted { lineage: LINEAGE, member: RaftId(0xa) };
    assert_eq!(halts_in_row(8, |s| s.state_mut().position = evicted.clone()), expected);
    let with_log = |s: &mut Observation| *s = observation(1, 3).in_phase(evicted).with_wal((RaftId(0xa), RaftId(0xc)));
    assert_eq!(halts_in_row(8, with_log), expected, "its own log does not bring it back");
}

#[test]
fn rows_9_and_10_start_a_fresh_id_once() {
    let start = decide(&observation(2, 3).in_phase(assigned(false)));
    assert!(matches!(start, Decision::StartExisting { member: RaftId(0xa), .. }) && start.row() == 9);
    let mut spent = observation(2, 3).in_phase(assigned(true));
    assert_eq!(decide(&spent), Decision::DropAssignment { member: RaftId(0xa) });
    spent.etcd = EtcdProcess::Up;
    assert_eq!(decide(&spent), Decision::Wait(WaitReason::EtcdStarting { member: RaftId(0xa) }));
}

#[test]
fn row_11_goes_on_under_the_same_lineage() {
    let founding = Phase::Founding { lineage: LINEAGE };
    let (member, raft_cluster) = FOUNDER_IDS;
    let expected = Decision::StartFounding { lineage: LINEAGE, raft_cluster, member };
    assert_eq!(decide(&observation(1, 3).in_phase(founding.clone())), expected);
    let other = decide(&observation(2, 3).in_phase(founding));
    assert_eq!(other, Decision::Halt(Refusal::NotFounder { founder: fqdn(1) }));
}

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
        let obstacle = Obstacle { fqdn: fqdn(1), why: ObstacleKind::NotServing { lineage: LINEAGE } };
        assert_eq!(decide(&seen), Decision::Wait(WaitReason::Peers(vec![obstacle])));
    }
    let mut seen = observation(3, 3);
    seen.peer_status(1).holds = running(1, 1);
    seen.peer_status(1).generation = 9;
    assert_eq!(decide(&seen).row(), 13, "a running member of another charter is no grantor");
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
            s.peer_status(2).waiting_for = "no disk".into();
        },
        ObstacleKind::Halted("no disk".into()),
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

#[test]
fn rows_14_to_16_let_only_the_founder_form_and_only_in_its_time() {
    assert_eq!(decide(&observation(2, 3)), Decision::Wait(WaitReason::Founder { founder: fqdn(1) }));
    assert_eq!(bent(|_| {}), Decision::Form { unanimous: vec![fqdn(2), fqdn(3)] });
    assert_eq!(decide(&observation(1, 1)), Decision::Form { unanimous: vec![] });
    let form_until = observation(1, 3).charter_mut().form_until;
    assert_eq!(bent(|s| s.now = form_until).row(), 15, "the window's last second");
    let closed = WaitReason::WindowClosed { now: form_until + 1, form_until, generation: 1 };
    assert_eq!(bent(|s| s.now = form_until + 1), Decision::Wait(closed));
    for (bend, floor) in [
        ((|s| s.now = 0) as fn(&mut Observation), 1_700_000_000),
        (|s| s.image.source_date_epoch = NOW + 1, NOW + 1),
        (|s| s.state_mut().max_seen_time = NOW + 2, NOW + 2),
    ] {
        let Decision::Wait(WaitReason::ClockBehind { floor: found, .. }) = bent(bend) else { panic!("no wait") };
        assert_eq!(found, floor);
    }
}

#[test]
fn srv_records_change_nobody_s_count() {
    let form = bent(|_| {});
    assert_eq!(bent(|s| s.srv = Lookup::None), form);
    assert_eq!(bent(|s| s.srv = Lookup::Failed("SERVFAIL".into())), form);
    let stranger = SrvTarget { target: "evil.lab.example.".into(), port: 2380 };
    assert_eq!(bent(|s| s.srv = Lookup::Found(vec![stranger])), form);
    // The set shrunk to two while the third is down: still a wait.
    assert_eq!(
        bent(|s| {
            silent(3)(s);
            if let Lookup::Found(records) = &mut s.srv {
                records.truncate(2);
            }
        })
        .row(),
        13
    );
    // A stranger who answers is not asked, whatever it says.
    assert_eq!(
        bent(|s| {
            let charter = s.charter_mut().clone();
            let mut stranger = answered(2, &charter, running(9, 9));
            stranger.fqdn = Fqdn::parse("evil.lab.example").unwrap();
            s.peers.push(stranger);
        }),
        form
    );
}

/// Any observation at all: every part drawn from the values that matter to some row.
fn any_observation() -> impl Strategy<Value = Observation> {
    let ptr = prop_oneof![6 => Just(0u8), 1 => 1u8..=4];
    let forward = prop_oneof![6 => Just(0u8), 1 => 1u8..=3];
    let ids = (0u64..4, 0u64..4).prop_map(|(m, c)| (RaftId(m + 9), RaftId(c + 11)));
    let wal = prop_oneof![
        3 => Just(WalFact::Absent),
        2 => ids.prop_map(|(member, raft_cluster)| WalFact::Present { member, raft_cluster }),
        1 => Just(WalFact::Present { member: FOUNDER_IDS.0, raft_cluster: FOUNDER_IDS.1 }),
        1 => Just(WalFact::Unreadable("short".to_owned())),
        1 => Just(WalFact::Unknown),
    ];
    let phase = prop_oneof![
        4 => Just(Phase::Blank),
        2 => Just(Phase::Founding { lineage: LINEAGE }),
        1 => any::<bool>().prop_map(assigned),
        1 => Just(member()),
        1 => Just(Phase::Evicted { lineage: LINEAGE, member: RaftId(0xa) }),
    ];
    let data = prop_oneof![
        6 => Just(None),
        1 => Just(Some(DataFact::Absent("none".to_owned()))),
        1 => Just(Some(DataFact::Unusable("xfs".to_owned()))),
        1 => Just(Some(DataFact::ReadOnly("sdb".to_owned()))),
    ];
    let peer = prop_oneof![
        4 => Just(0u8), // blank
        1 => Just(1),   // silent
        1 => Just(2),   // runs
        1 => Just(3),   // holds data
        1 => Just(4),   // halted
        1 => Just(5),   // another charter
        1 => Just(6),   // runs another lineage
    ];
    let base = (1u8..=4).prop_flat_map(|members| (Just(members), 1..=members));
    (
        base,
        ptr,
        forward,
        wal,
        phase,
        data,
        proptest::collection::vec(peer, 3),
        any::<(bool, bool, bool, bool)>(),
        any::<i64>(),
    )
        .prop_map(|((members, n), ptr, forward, wal, phase, data, peers, (no_state, up, any_time, gone), time)| {
            let mut seen = observation(n, members).in_phase(phase);
            seen.own.addresses[0].ptr = match ptr {
                0 => Lookup::Found(vec![format!("ETCD{n}.lab.example.")]),
                1 => Lookup::Found(vec!["other.example".to_owned(), fqdn(n).to_string()]),
                2 => Lookup::Found(vec!["etcd9.lab.example".to_owned()]),
                3 => Lookup::None,
                _ => Lookup::Failed("SERVFAIL".to_owned()),
            };
            seen.own.forward = match forward {
                0 => Lookup::Found(vec![address(n), address(99)]),
                1 => Lookup::Found(vec![address(99)]),
                2 => Lookup::None,
                _ => Lookup::Failed("timed out".to_owned()),
            };
            seen.wal = wal;
            if let Some(data) = data {
                seen.data = data;
            }
            for (peer, kind) in (1..=members).filter(|m| *m != n).zip(peers) {
                match kind {
                    0 => {}
                    1 => silent(peer)(&mut seen),
                    2 => seen.peer_status(peer).holds = running(peer, 1),
                    3 => seen.peer_status(peer).holds = Holds::Data { lineage: LINEAGE },
                    4 => seen.peer_status(peer).holds = Holds::Unknown,
                    5 => seen.peer_status(peer).charter = crate::digest::Sha256Digest([0; 32]),
                    _ => {
                        let Holds::Running(mut other) = running(peer, peer) else { unreachable!() };
                        other.lineage = Id128([6; 16]);
                        seen.peer_status(peer).holds = Holds::Running(other);
                    }
                }
            }
            if gone {
                seen.peers.pop();
            }
            if no_state && gone {
                seen.state = StateView::Absent;
            }
            if up {
                seen.etcd = EtcdProcess::Up;
            }
            if any_time {
                seen.now = time;
            }
            seen
        })
}

/// Whether a log that matches the state is on a sound volume: what row 5 rests on.
fn restartable(seen: &Observation) -> bool {
    let StateView::Read(state) = &seen.state else { return false };
    let expected = match &state.position {
        Phase::Founding { .. } if state.fqdn == fqdn(1) => FOUNDER_IDS,
        Phase::Assigned { .. } | Phase::Member { .. } => (RaftId(0xa), RaftId(0xc)),
        Phase::Founding { .. } | Phase::Blank | Phase::Evicted { .. } => return false,
    };
    matches!(seen.data, DataFact::Mounted { .. })
        && seen.wal == WalFact::Present { member: expected.0, raft_cluster: expected.1 }
}

fn starts(decision: &Decision) -> bool {
    match decision {
        Decision::Restart { .. }
        | Decision::StartExisting { .. }
        | Decision::StartFounding { .. }
        | Decision::Join { .. }
        | Decision::RecordBlank { .. }
        | Decision::DropAssignment { .. }
        | Decision::Form { .. } => true,
        Decision::Halt(_) | Decision::Wait(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn is_deterministic_and_explains_itself(seen in any_observation()) {
        let decision = decide(&seen);
        prop_assert_eq!(&decision, &decide(&seen.clone()));
        prop_assert!((1..=16).contains(&decision.row()));
        let why = decision.explain();
        prop_assert!(!why.seen.is_empty() && !why.rule.is_empty() && !why.hint.is_empty());
    }

    #[test]
    fn replays_from_its_record(seen in any_observation()) {
        let json = serde_json::to_string(&seen).unwrap();
        let again: Observation = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(decide(&again), decide(&seen));
        let decision: Decision = serde_json::from_str(&serde_json::to_string(&decide(&seen)).unwrap()).unwrap();
        prop_assert_eq!(decision, decide(&seen));
    }

    #[test]
    fn restarts_exactly_when_the_log_matches_whatever_dns_and_peers_say(seen in any_observation()) {
        prop_assert_eq!(matches!(decide(&seen), Decision::Restart { .. }), restartable(&seen));
    }

    #[test]
    fn does_nothing_without_a_sound_volume(seen in any_observation()) {
        if !matches!(seen.data, DataFact::Mounted { .. }) {
            prop_assert!(!starts(&decide(&seen)));
        }
    }

    #[test]
    fn forms_only_where_every_other_member_said_blank(seen in any_observation()) {
        if let Decision::Form { unanimous } = decide(&seen) {
            let SeedView::Verified { header, charter } = &seen.seed else { panic!("formed without a seed") };
            prop_assert_eq!(&charter.founder, &header.fqdn);
            prop_assert_eq!(unanimous.len() + 1, charter.members.len());
            prop_assert_eq!(&seen.wal, &WalFact::Absent);
            prop_assert!(seen.now >= charter.not_before && seen.now <= charter.form_until);
            for member in &unanimous {
                let blank = seen.peers.iter().any(|p| p.fqdn == *member && matches!(&p.answer,
                    PeerAnswer::Answered(s) if s.holds == Holds::Blank && s.charter == charter.digest()));
                prop_assert!(blank, "{} did not say blank", member);
            }
        }
    }

    #[test]
    fn a_peer_falling_silent_never_makes_a_node_act(seen in any_observation(), n in 1u8..=4) {
        let mut less = seen.clone();
        less.peers.iter_mut().filter(|p| p.fqdn == fqdn(n)).for_each(|p| p.answer = PeerAnswer::Unreachable("gone".into()));
        // Silence may end a conflict of lineages that its answer made, so a join may come of it; a formation never.
        if !matches!(decide(&seen), Decision::Form { .. }) {
            let forms = matches!(decide(&less), Decision::Form { .. });
            prop_assert!(!forms);
        }
    }

    #[test]
    fn starts_on_an_empty_log_only_under_a_confirmed_name(seen in any_observation()) {
        let decision = decide(&seen);
        if matches!(decision, Decision::StartExisting { .. } | Decision::StartFounding { .. } | Decision::Join { .. } | Decision::Form { .. }) {
            prop_assert_eq!(&seen.wal, &WalFact::Absent);
            let SeedView::Verified { header, charter } = &seen.seed else { panic!("acted without a seed") };
            prop_assert!(matches!(crate::identity::confirm(&seen.own, charter, &header.fqdn), Ok(Ok(_))));
        }
    }
}
