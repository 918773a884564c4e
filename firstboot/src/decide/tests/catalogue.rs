//! The catalogue's scenarios that are matters of the table alone, each by its id. Those of the grant, the leaf, the charter and the
//! builder stand beside that code, those of the world in `tests/catalogue`.

use super::*;
use crate::wait::WaitReason;

fn ptr(names: &[&str]) -> Lookup<String> {
    Lookup::Found(names.iter().map(|name| (*name).to_owned()).collect())
}

/// A1, A2: kiln is stricter than the catalogue: without a PTR, or without an answer, a blank node waits. RESTART is unaffected.
#[test]
fn a01_a02_no_ptr_or_no_answer_waits_and_never_touches_a_restart() {
    let address = address(1);
    for (answer, expected) in [
        (Lookup::None, WaitReason::PtrMissing { addresses: vec![address], expected: fqdn(1) }),
        (Lookup::Failed("SERVFAIL".into()), WaitReason::PtrFailed { address, error: "SERVFAIL".into() }),
    ] {
        let waits = bent(|s| s.own.addresses[0].ptr = answer.clone());
        assert_eq!((waits.clone(), waits.row()), (Decision::Wait(expected), 1));
        let mut member = observation(1, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
        member.own.addresses[0].ptr = answer;
        assert_eq!(decide(&member).row(), 5);
    }
}

/// A3: several PTRs, one equals the credential: ok.
#[test]
fn a03_one_of_several_ptrs_is_enough() {
    assert_eq!(bent(|s| s.own.addresses[0].ptr = ptr(&["old.lab.example.", "etcd1.lab.example."])), bent(|_| {}));
}

/// A4: PTR names another member or another zone: HALT.
#[test]
fn a04_a_ptr_that_names_another_member_or_zone_halts() {
    for name in ["etcd2.lab.example.", "etcd1.prod.example."] {
        assert!(matches!(halts_in_row(1, |s| s.own.addresses[0].ptr = ptr(&[name])), Refusal::PtrWrong { .. }));
    }
}

/// A5: forward A/AAAA lacks the own address: WAIT, peers could not reach us.
#[test]
fn a05_a_name_that_leads_elsewhere_waits() {
    let waits = bent(|s| s.own.forward = Lookup::Found(vec![address(99)]));
    let expected = WaitReason::ForwardDiffers { fqdn: fqdn(1), address: address(1), found: vec![address(99)] };
    assert_eq!(waits, Decision::Wait(expected));
}

/// A6: SRV NXDOMAIN or SERVFAIL, WAL present: RESTART. All of DNS away, and every peer silent: RESTART.
#[test]
fn a06_a_member_with_its_log_restarts_without_dns() {
    let mut seen = observation(2, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
    for srv in [Lookup::None, Lookup::Failed("SERVFAIL".into())] {
        seen.srv = srv;
        assert_eq!(decide(&seen).row(), 5);
    }
    seen.own = OwnName { addresses: Vec::new(), forward: Lookup::Failed("timed out".into()) };
    seen.peers.clear();
    assert_eq!(decide(&seen).row(), 5);
}

/// A7: SRV NXDOMAIN, BLANK: the charter's members are located by A/AAAA; else WAIT.
#[test]
fn a07_a_blank_node_needs_no_srv_record_but_every_member_located() {
    assert_eq!(bent(|s| s.srv = Lookup::None).row(), 15);
    let waits = bent(|s| {
        s.srv = Lookup::None;
        silent(2)(s);
        s.peer_mut(2).located = Lookup::None;
    });
    let obstacle = Obstacle { fqdn: fqdn(2), why: ObstacleKind::NotLocated };
    assert_eq!(waits, Decision::Wait(WaitReason::Peers(vec![obstacle])));
}

/// A8: SRV set ⊂ charter (node 3 removed) while 1, 2 blank, 3 down: WAIT.
#[test]
fn a08_a_shrunk_srv_set_does_not_shrink_the_denominator() {
    let mut seen = observation(1, 3);
    seen.srv = Lookup::Found(vec![
        SrvTarget { target: "etcd1.lab.example.".into(), port: 2380 },
        SrvTarget { target: "etcd2.lab.example.".into(), port: 2380 },
    ]);
    silent(3)(&mut seen);
    assert!(matches!(decide(&seen), Decision::Wait(WaitReason::Peers(o)) if o.len() == 1 && o[0].fqdn == fqdn(3)));
    // Also when nobody even asked the one that SRV lacks.
    seen.peers.retain(|peer| peer.fqdn != fqdn(3));
    assert!(matches!(decide(&seen), Decision::Wait(WaitReason::Peers(o)) if o[0].why == ObstacleKind::NotAsked));
}

/// A9: SRV ⊃ charter (stranger): ignored. A10: SRV differs between nodes: no effect on the denominator.
#[test]
fn a09_a10_strangers_and_differences_in_srv_change_no_decision() {
    let form = bent(|_| {});
    let target = |name: &str| SrvTarget { target: name.into(), port: 2380 };
    for records in [vec![target("evil.example.")], vec![target("etcd3.lab.example.")], vec![]] {
        assert_eq!(bent(|s| s.srv = Lookup::Found(records)), form);
    }
    // A stranger that even answers, and says that it runs a cluster.
    let stranger = bent(|s| {
        let charter = s.charter_mut().clone();
        let mut stranger = answered(2, &charter, running(9, 9));
        stranger.fqdn = Fqdn::parse("evil.example").unwrap();
        s.peers.push(stranger);
    });
    assert_eq!(stranger, form);
}

/// A13: one SRV target does not resolve: that member is "unreachable" and the node waits; never a smaller set.
#[test]
fn a13_a_member_that_does_not_resolve_is_waited_for() {
    for (located, why) in
        [(Lookup::None, ObstacleKind::NotLocated), (Lookup::Failed("x".into()), ObstacleKind::LookupFailed("x".into()))]
    {
        let waits = bent(|s| {
            silent(3)(s);
            s.peer_mut(3).located = located;
        });
        assert_eq!(waits, Decision::Wait(WaitReason::Peers(vec![Obstacle { fqdn: fqdn(3), why }])));
    }
}

/// A15: mixed case, trailing dot: one canonical form, the same decision and the same charter.
#[test]
fn a15_spelling_changes_nothing() {
    let form = bent(|_| {});
    for name in ["ETCD1.Lab.Example.", "etcd1.lab.example", "etcd1.LAB.example."] {
        assert_eq!(bent(|s| s.own.addresses[0].ptr = ptr(&[name])), form);
    }
    let spelled = Fqdn::parse("ETCD2.Lab.Example.").unwrap();
    assert_eq!((spelled.clone(), spelled.peer_url()), (fqdn(2), fqdn(2).peer_url()));
    let mut other = charter(3);
    other.members[1].fqdn = spelled;
    assert_eq!(other.digest(), charter(3).digest());
}

/// A16: IPv6 alone is an address like any other; the charter's family has to match.
#[test]
fn a16_an_ipv6_node_is_named_by_its_ipv6_address() {
    let six = "2001:db8::1".parse().unwrap();
    let on = |s: &mut Observation| {
        s.own = OwnName {
            addresses: vec![OwnAddress { address: six, ptr: ptr(&["etcd1.lab.example."]) }],
            forward: Lookup::Found(vec![six]),
        };
    };
    let waits = bent(on);
    let expected = WaitReason::AddressNotInCharter { address: six, charter: vec![address(1)] };
    assert_eq!(waits, Decision::Wait(expected));
    let mut seen = observation(1, 3);
    on(&mut seen);
    seen.charter_mut().members[0].addresses = vec![six];
    let digest = seen.charter_mut().digest();
    for n in [2, 3] {
        seen.peer_status(n).charter = digest;
    }
    assert_eq!(decide(&seen).row(), 15);
}

/// A19: seed swap (n1's seed in n2's VM): HALT, foreign fqdn.
#[test]
fn a19_a_swapped_seed_halts_on_the_volume_of_another_node() {
    let mut seen = observation(1, 3);
    let SeedView::Verified { header, .. } = &mut seen.seed else { panic!("the sample has a seed") };
    header.fqdn = fqdn(2);
    assert!(matches!(decide(&seen), Decision::Halt(Refusal::VolumeForeign { field, .. }) if field == "node"));
}

/// B1: clock 1970 at boot: never FORM below the floor; a member restarts whatever its clock says.
#[test]
fn b01_nothing_is_formed_by_a_clock_below_the_floor() {
    assert!(matches!(bent(|s| s.now = 0), Decision::Wait(WaitReason::ClockBehind { .. })));
    let mut member = observation(1, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
    member.now = 0;
    assert_eq!(decide(&member).row(), 5);
}

/// C1, C2, C3: data disk absent, wrong, or not mounted: HALT, never BLANK, not even with a state and a log that would match.
#[test]
fn c01_c02_c03_a_disk_that_is_not_positively_ours_is_never_blank() {
    for data in [
        DataFact::Absent("no disk has the serial `kiln-data`".into()),
        DataFact::Unusable("it has an ext4 of another label".into()),
        DataFact::Unusable("it could not be mounted".into()),
    ] {
        for phase in [Phase::Blank, member()] {
            let mut seen = observation(1, 3).in_phase(phase);
            seen.data = data.clone();
            seen.state = StateView::Absent;
            assert!(matches!(decide(&seen), Decision::Halt(refusal) if refusal.row() == 2));
        }
    }
}

/// C8: state MEMBER, WAL gone: HALT data lost, also where everybody else says blank or would let it in.
#[test]
fn c08_a_member_without_its_log_halts_whatever_others_say() {
    for holds in [Holds::Blank, running(2, 2), Holds::Data { lineage: LINEAGE }] {
        let mut seen = observation(1, 3).in_phase(member());
        seen.peer_status(2).holds = holds;
        assert_eq!(decide(&seen), Decision::Halt(Refusal::DataLost { member: RaftId(0xa) }));
    }
}

/// C9: WAL from another cluster id: HALT, in every phase.
#[test]
fn c09_a_log_of_another_cluster_halts() {
    for phase in [member(), assigned(true), assigned(false), Phase::Founding { lineage: LINEAGE }, Phase::Blank] {
        let seen = observation(1, 3).in_phase(phase).with_wal((RaftId(0xa), RaftId(0xbad)));
        assert!(matches!(decide(&seen), Decision::Halt(Refusal::WalForeign { .. })));
    }
}

/// C13, C14: two of three wiped, the third down, back without a majority, or halted: WAIT, for ever, founder or not.
#[test]
fn c13_c14_two_wiped_members_wait_whatever_becomes_of_the_third() {
    for n in [1, 2] {
        for third in [None, Some(Holds::Data { lineage: LINEAGE }), Some(Holds::Unknown)] {
            for now in [NOW, i64::MAX] {
                let mut seen = observation(n, 3);
                seen.now = now;
                match &third {
                    None => silent(3)(&mut seen),
                    Some(holds) => seen.peer_status(3).holds = holds.clone(),
                }
                assert_eq!(decide(&seen).row(), 13);
            }
        }
    }
}

/// C15: all wiped: open window, the founder forms a new lineage; closed, it waits for the operator.
#[test]
fn c15_all_wiped_form_only_while_the_window_is_open() {
    let form_until = charter(3).form_until;
    assert_eq!(bent(|s| s.now = form_until).row(), 15);
    assert_eq!(bent(|s| s.now = form_until + 1).row(), 16);
    assert_eq!(decide(&observation(3, 3)).row(), 14);
}

/// D7: the window expires mid-join: joins continue, only FORM is gated.
#[test]
fn d07_a_closed_window_does_not_close_the_door() {
    let mut seen = observation(3, 3);
    seen.now = charter(3).form_until + 1;
    seen.peer_status(1).holds = running(1, 1);
    assert!(matches!(decide(&seen), Decision::Join { .. }));
    assert_eq!(decide(&seen.in_phase(assigned(false))).row(), 9);
}

/// D9: N=1 wiped after the window: WAIT for the operator, no silent empty cluster.
#[test]
fn d09_a_single_member_wiped_after_its_window_waits() {
    let mut seen = observation(1, 1);
    assert_eq!(decide(&seen).row(), 15);
    seen.now = charter(1).form_until + 1;
    assert!(matches!(decide(&seen), Decision::Wait(WaitReason::WindowClosed { generation: 1, .. })));
}

/// D11: the charter is immutable per generation: a peer under an edited one counts for nothing, neither as blank nor as running.
#[test]
fn d11_an_edited_charter_is_another_charter() {
    let mut edited = charter(3);
    edited.members.pop();
    for holds in [Holds::Blank, running(2, 2)] {
        let waits = bent(|s| {
            s.peer_status(2).holds = holds;
            s.peer_status(2).charter = edited.digest();
        });
        let Decision::Wait(WaitReason::Peers(obstacles)) = waits else { panic!("no wait") };
        assert!(matches!(&obstacles[0].why, ObstacleKind::Disagrees { field, .. } if field == "charter"));
    }
}

/// G6: an image whose etcd is older than the newest that ran on the volume: HALT.
#[test]
fn g06_an_older_etcd_is_not_started_on_a_newer_ones_data() {
    let mut seen = observation(1, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
    seen.state_mut().max_etcd = Some("3.7.0".parse().unwrap());
    assert!(matches!(decide(&seen), Decision::Halt(Refusal::EtcdOlderThanData { .. })));
}

/// H2: valid peer certificate, forged charter: the signature fails, and nothing is done under it.
#[test]
fn h02_a_seed_whose_charter_does_not_verify_halts() {
    let mut seen = observation(1, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
    seen.seed = SeedView::Invalid("the charter's signature is not by the key in the image".into());
    assert!(matches!(decide(&seen), Decision::Halt(Refusal::SeedInvalid(_))));
}
