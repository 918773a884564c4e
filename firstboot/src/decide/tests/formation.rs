//! Rows 11 and 14 to 16, and section D of the catalogue.

use super::*;

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
fn rows_14_to_16_let_only_the_founder_form_and_only_in_its_time() {
    assert_eq!(decide(&observation(2, 3)), Decision::Wait(WaitReason::Founder { founder: fqdn(1) }));
    assert_eq!(bent(|_| {}), Decision::Form { unanimous: vec![fqdn(2), fqdn(3)] });
    assert_eq!(decide(&observation(1, 1)), Decision::Form { unanimous: vec![] });
    let form_until = observation(1, 3).charter_mut().form_until;
    assert_eq!(bent(|s| s.now = form_until).row(), 15, "the window's last second");
    let closed = WaitReason::WindowClosed { now: form_until + 1, form_until, generation: 1 };
    assert_eq!(bent(|s| s.now = form_until + 1), Decision::Wait(closed));
    let floor = bent(|s| s.image.source_date_epoch = NOW);
    assert!(matches!(floor, Decision::Form { .. }), "the floor's own second: {floor:?}");
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
fn d02_a_founder_cut_off_before_etcds_first_entry_founds_the_same_lineage_again() {
    let mut seen = observation(1, 3).in_phase(Phase::Founding { lineage: LINEAGE });
    seen.wal = WalFact::Bare { member: FOUNDER_IDS.0, raft_cluster: FOUNDER_IDS.1 };
    let founding = Decision::StartFounding { lineage: LINEAGE, raft_cluster: FOUNDER_IDS.1, member: FOUNDER_IDS.0 };
    assert_eq!(decide(&seen), founding);
    seen.wal = WalFact::Bare { member: RaftId(1), raft_cluster: FOUNDER_IDS.1 };
    assert!(matches!(decide(&seen), Decision::Halt(Refusal::WalForeign { .. })), "another's log is never touched");
}
