//! Seed, charter, DNS: rows 1 and 1b, and sections A, B and H of the catalogue.

use super::*;

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
    assert_eq!(bent(|s| s.image.etcd_version = "3.5.30".parse().unwrap()).row(), 15, "the oldest that may serve");
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
