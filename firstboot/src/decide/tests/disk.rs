//! The volume, its state and its log: rows 2 to 10, and section C of the catalogue.

use super::*;
use crate::disk_fact::LEAST_FREE_MIB;

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
    let unrecorded = |generation| {
        bent(|s| {
            s.state = StateView::Absent;
            let DataFact::Mounted { label, .. } = &mut s.data else { panic!("mounted") };
            label.generation = generation;
        })
    };
    assert!(matches!(unrecorded(0), Decision::RecordBlank { .. }), "an old volume that never recorded anything");
    assert!(matches!(unrecorded(1), Decision::RecordBlank { .. }));
    assert_eq!(unrecorded(2), Decision::Halt(stale(2)), "formatted under a newer charter than the seed's");
    // A volume that holds nothing is taken over by a newer charter, under the same instance.
    let taken_over = bent(|s| {
        s.state_mut().generation = 0;
        s.state_mut().max_seen_time = NOW - 1;
        let DataFact::Mounted { label, .. } = &mut s.data else { panic!("mounted") };
        label.generation = 0;
    });
    let Decision::RecordBlank { state } = taken_over else { panic!("not recorded") };
    assert_eq!((state.generation, state.instance, state.position), (1, INSTANCE, Phase::Blank));
    assert_eq!(state.boot_counter, 1, "peers remember its boots under the same instance");
    assert_eq!(state.max_seen_time, NOW - 1, "and the clock does not go back behind what it has seen");
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
    let remembered = |boot_counter, boot_id: &'static str, instance, n: u8| {
        move |s: &mut Observation| {
            *s = observation(1, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
            s.state_mut().boot_counter = 7;
            s.peer_status(2).remembers =
                vec![Remembered { fqdn: fqdn(n), instance, boot_counter, boot_id: boot_id.into() }];
        }
    };
    let refusal = |remembered| Refusal::RolledBack { counter: 7, remembered, witness: Some(fqdn(2)) };
    assert_eq!(halts_in_row(4, remembered(8, "boot-other", INSTANCE, 1)), refusal(8));
    assert_eq!(halts_in_row(4, remembered(8, THIS_BOOT, INSTANCE, 1)), refusal(8), "a later count, whichever boot");
    assert_eq!(
        halts_in_row(4, remembered(7, "boot-other", INSTANCE, 1)),
        refusal(7),
        "two boots cannot count the same"
    );
    for (counter, boot, instance, n) in [
        (7, THIS_BOOT, INSTANCE, 1),
        (6, "boot-other", INSTANCE, 1),
        (8, "boot-other", Id128([9; 16]), 1),
        (8, "boot-other", INSTANCE, 3),
    ] {
        assert_eq!(bent(remembered(counter, boot, instance, n)).row(), 5);
    }
}

/// C17: VM snapshot rolled back. The count that etcd remembers for this very volume, and of another boot, must be below this boot's.
#[test]
fn c17_halts_when_etcd_remembers_a_later_boot_of_this_volume() {
    let told = |recorded| {
        let mut seen = observation(1, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
        seen.state_mut().boot_counter = 7;
        seen.recorded_boot = recorded;
        decide(&seen)
    };
    for recorded in [7, 8] {
        let refusal = Refusal::RolledBack { counter: 7, remembered: recorded, witness: None };
        assert_eq!(refusal.row(), 4);
        assert_eq!(told(Some(recorded)), Decision::Halt(refusal));
    }
    assert_eq!((told(Some(6)).row(), told(None).row()), (5, 5));
    // What was heard once stays, also when etcd is stopped and every peer is silent.
    let mut alone = observation(1, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
    (alone.recorded_boot, alone.etcd, alone.peers) = (Some(9), EtcdProcess::Down, Vec::new());
    assert_eq!(decide(&alone).row(), 4);
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

/// C17: a snapshot of the moment between a grant and its start, put back later: the id has been started since by what is gone.
#[test]
fn c17_a_place_granted_in_another_boot_is_given_up() {
    for attempted in [false, true] {
        let mut seen = observation(2, 3).in_phase(assigned(attempted));
        seen.boot_id = "a later boot".into();
        assert_eq!(decide(&seen), Decision::DropAssignment { member: RaftId(0xa) });
    }
}

/// C5: a blank node whose disk has no room for a log asks nobody for a place; a member restarts, and an etcd that is making its log goes on.
#[test]
fn c05_no_place_is_asked_for_or_formed_without_room_for_a_log() {
    let full = |seen: &mut Observation| {
        if let DataFact::Mounted { free_mib, .. } = &mut seen.data {
            *free_mib = LEAST_FREE_MIB - 1;
        }
    };
    assert!(matches!(halts_in_row(2, full), Refusal::DataFull { free_mib: 79 }));
    let mut just_enough = observation(1, 3);
    if let DataFact::Mounted { free_mib, .. } = &mut just_enough.data {
        *free_mib = LEAST_FREE_MIB;
    }
    assert!(matches!(decide(&just_enough), Decision::Form { .. }));
    for phase in [assigned(false), Phase::Founding { lineage: LINEAGE }] {
        let mut seen = observation(1, 3).in_phase(phase);
        full(&mut seen);
        assert!(matches!(decide(&seen), Decision::Halt(Refusal::DataFull { .. })));
        seen.etcd = EtcdProcess::Up;
        assert!(!matches!(decide(&seen), Decision::Halt(_)), "the log that is being made takes the room");
    }
    let mut member = observation(2, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
    full(&mut member);
    assert!(matches!(decide(&member), Decision::Restart { .. }));
}

#[test]
fn g04_g06_an_older_line_of_etcd_halts_and_an_older_patch_of_the_same_line_restarts() {
    let ids = (RaftId(0xa), RaftId(0xc));
    let after = |newest: &str| {
        let mut seen = observation(2, 3).in_phase(member()).with_wal(ids);
        seen.state_mut().max_etcd = Some(newest.parse().unwrap());
        decide(&seen)
    };
    assert!(matches!(after("3.7.0"), Decision::Halt(Refusal::EtcdOlderThanData { .. })));
    assert!(matches!(after("3.6.99"), Decision::Restart { .. }), "the image has 3.6.14");
}
