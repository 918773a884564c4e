//! What must hold over all observations.

use proptest::prelude::*;

use super::*;

/// Any observation at all: every part drawn from the values that matter to some row.
fn any_observation() -> impl Strategy<Value = Observation> {
    let ptr = prop_oneof![6 => Just(0u8), 1 => 1u8..=4];
    let forward = prop_oneof![6 => Just(0u8), 1 => 1u8..=3];
    let ids = (0u64..4, 0u64..4).prop_map(|(m, c)| (RaftId(m + 9), RaftId(c + 11)));
    let wal = prop_oneof![
        3 => Just(WalFact::Absent),
        2 => ids.prop_map(|(member, raft_cluster)| WalFact::Present { member, raft_cluster }),
        1 => Just(WalFact::Present { member: FOUNDER_IDS.0, raft_cluster: FOUNDER_IDS.1 }),
        1 => Just(WalFact::Bare { member: FOUNDER_IDS.0, raft_cluster: FOUNDER_IDS.1 }),
        1 => Just(WalFact::Bare { member: RaftId(0xa), raft_cluster: RaftId(0xc) }),
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
        (prop_oneof![6 => Just(None), 1 => (0u64..3).prop_map(Some)], any::<bool>()),
    )
        .prop_map(
            |((members, n), ptr, forward, wal, phase, data, peers, (no_state, up, any_time, gone), time, told)| {
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
                let (recorded, activated) = told;
                seen.recorded_boot = recorded;
                for peer in &mut seen.peers {
                    if let PeerAnswer::Answered(status) = &mut peer.answer {
                        status.activated = activated;
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
            },
        )
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
        && seen.recorded_boot.is_none_or(|recorded| recorded < state.boot_counter)
        && (seen.wal == WalFact::Present { member: expected.0, raft_cluster: expected.1 }
            // A joiner's etcd is told everything by the leader; a founder's has nobody to tell it.
            || (seen.wal == WalFact::Bare { member: expected.0, raft_cluster: expected.1 }
                && !matches!(state.position, Phase::Founding { .. })))
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
    fn joins_an_activated_cluster_of_three_or_more_only_on_the_word_of_two(seen in any_observation()) {
        if let Decision::Join { via, lineage, .. } = decide(&seen) {
            let SeedView::Verified { charter, .. } = &seen.seed else { panic!("joined without a seed") };
            let claims = |peer: &PeerObservation| matches!(&peer.answer, PeerAnswer::Answered(status)
                if status.charter == charter.digest() && match &status.holds {
                    Holds::Running(running) => running.lineage == lineage,
                    Holds::Data { lineage: theirs } => *theirs == lineage,
                    Holds::Blank | Holds::Unknown => false,
                });
            let claimants = seen.peers.iter().filter(|peer| claims(peer)).count();
            let forming = via == charter.founder && !seen.peers.iter().any(|peer| claims(peer)
                && matches!(&peer.answer, PeerAnswer::Answered(status) if status.activated));
            prop_assert!(charter.members.len() < 3 || claimants >= 2 || forming, "{claimants} claim it");
        }
    }

    #[test]
    fn does_nothing_once_a_later_boot_was_told_of(seen in any_observation()) {
        if let (Some(recorded), StateView::Read(state)) = (seen.recorded_boot, &seen.state)
            && recorded >= state.boot_counter
        {
            prop_assert!(!starts(&decide(&seen)));
        }
    }

    #[test]
    fn starts_on_an_empty_log_only_under_a_confirmed_name(seen in any_observation()) {
        let decision = decide(&seen);
        if matches!(decision, Decision::StartExisting { .. } | Decision::StartFounding { .. } | Decision::Join { .. } | Decision::Form { .. }) {
            let founds = matches!(decision, Decision::StartFounding { .. });
            let bare = WalFact::Bare { member: FOUNDER_IDS.0, raft_cluster: FOUNDER_IDS.1 };
            prop_assert!(seen.wal == WalFact::Absent || (founds && seen.wal == bare));
            let SeedView::Verified { header, charter } = &seen.seed else { panic!("acted without a seed") };
            prop_assert!(matches!(crate::identity::confirm(&seen.own, charter, &header.fqdn), Ok(Ok(_))));
        }
    }
}
