use super::*;
use crate::dns_records::records;
use crate::profile::Profile;
use camino::Utf8Path;
use hickory_proto::op::MessageType;
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, make_tsig_record};
use proptest::prelude::*;

fn wanted() -> Vec<Entry> {
    let text = include_str!("../../../profiles/k8s0.toml");
    let profile = Profile::parse(Utf8Path::new("profiles/k8s0.toml"), text).unwrap();
    records(&profile).iter().map(Entry::of).collect()
}

fn zone(owner: &Name) -> Name {
    let of = |name| in_full(name);
    if of("kloud.lan").zone_of(owner) { of("kloud.lan") } else { of("0.103.10.in-addr.arpa") }
}

fn fqdn(name: &str) -> Fqdn {
    Fqdn::parse(name).unwrap()
}

fn entry(owner: &str, data: RData) -> Entry {
    Entry { owner: in_full(owner), data }
}

fn stale() -> Vec<Entry> {
    let gone = in_full("gone.kloud.lan");
    vec![
        entry("k8s0etcd1.kloud.lan", RData::A("10.103.0.66".parse().unwrap())),
        entry("_etcd-server-ssl._tcp.kloud.lan", RData::SRV(SRV::new(0, 0, 2380, gone.clone()))),
        entry("101.0.103.10.in-addr.arpa", RData::PTR(PTR(gone.clone()))),
    ]
}

#[test]
fn an_empty_zone_gets_everything_and_a_right_one_nothing() {
    let wanted = wanted();
    let first = plan(&wanted, &[], &[], zone);
    assert_eq!(first.updates.iter().map(|u| (u.add.len(), u.remove.len())).collect::<Vec<_>>(), [(18, 0), (6, 0)]);
    let second = plan(&wanted, &wanted, &[], zone);
    assert_eq!((second.updates, second.right, second.left), (vec![], 24, vec![]));
}

#[test]
fn names_are_compared_as_dns_does() {
    let found = [entry("K8S0ETCD1.Kloud.LAN", RData::A("10.103.0.101".parse().unwrap()))];
    let wanted = &wanted()[..1];
    assert_eq!(plan(wanted, &found, &[], zone).right, 1);
}

#[test]
fn what_is_stale_stays_until_its_node_is_named() {
    let (wanted, stale) = (wanted(), stale());
    let found = [wanted.clone(), stale.clone()].concat();
    let removed = |names: &[&str]| {
        let names: Vec<Fqdn> = names.iter().map(|name| fqdn(name)).collect();
        let plan = plan(&wanted, &found, &names, zone);
        let gone: Vec<Entry> = plan.updates.into_iter().flat_map(|u| u.remove).collect();
        assert_eq!(gone.len() + plan.left.len(), stale.len());
        stale.iter().map(|entry| gone.contains(entry)).collect::<Vec<_>>()
    };
    assert_eq!(removed(&[]), [false, false, false]);
    assert_eq!(removed(&["k8s0etcd2.kloud.lan"]), [false, false, false]);
    assert_eq!(removed(&["k8s0etcd1.kloud.lan"]), [true, false, true], "its name and its pointer");
    assert_eq!(removed(&["gone.kloud.lan"]), [false, true, true]);
    assert_eq!(removed(&["gone.kloud.lan", "k8s0etcd1.kloud.lan"]), [true, true, true]);
}

proptest! {
    /// Whatever a server holds and whoever is named: done once, there is nothing left to do, all that is wanted is there, and nothing was
    /// removed that is wanted.
    #[test]
    fn a_second_run_finds_nothing_to_do(
        there in proptest::collection::vec(any::<bool>(), 24),
        strays in proptest::collection::vec(any::<bool>(), 3),
        named in proptest::collection::vec(any::<bool>(), 2),
    ) {
        let wanted = wanted();
        let pick = |all: Vec<Entry>, which: &[bool]| all.into_iter().zip(which.to_vec()).filter(|(_, w)| *w).map(|(e, _)| e);
        let mut zones: Vec<Entry> = pick(wanted.clone(), &there).chain(pick(stale(), &strays)).collect();
        let names: Vec<Fqdn> = ["k8s0etcd1.kloud.lan", "gone.kloud.lan"].iter().zip(&named).filter(|(_, w)| **w).map(|(n, _)| fqdn(n)).collect();
        let first = plan(&wanted, &zones, &names, zone);
        for update in &first.updates {
            prop_assert!(update.remove.iter().all(|entry| !wanted.contains(entry)));
            prop_assert!(update.add.iter().chain(&update.remove).all(|entry| zone(&entry.owner) == update.zone));
            zones.retain(|entry| !update.remove.contains(entry));
            zones.extend(update.add.clone());
        }
        let second = plan(&wanted, &zones, &names, zone);
        prop_assert_eq!((second.updates, second.right, second.left), (vec![], wanted.len(), first.left));
    }
}

#[test]
fn an_update_reads_back_from_the_wire_as_rfc_2136_has_it() {
    let update = ZoneUpdate { zone: in_full("kloud.lan"), add: wanted()[..1].to_vec(), remove: stale()[..1].to_vec() };
    let sent = message(&update);
    let read = Message::from_vec(&sent.to_vec().unwrap()).unwrap();
    assert_eq!((read.metadata.op_code, read.metadata.recursion_desired), (OpCode::Update, false));
    assert_eq!((read.queries[0].name(), read.queries[0].query_type()), (&update.zone, RecordType::SOA));
    let changes: Vec<(DNSClass, u32, &RData)> =
        read.authorities.iter().map(|r| (r.dns_class, r.ttl, &r.data)).collect();
    assert_eq!(changes, [(DNSClass::NONE, 0, &update.remove[0].data), (DNSClass::IN, TTL, &update.add[0].data)]);
}

#[test]
fn every_rejection_says_what_to_do() {
    let judged = |code, error: Option<TsigError>| {
        let mut answer = Message::new(7, MessageType::Response, OpCode::Update);
        answer.metadata.response_code = code;
        if let Some(error) = error {
            let tsig = TSIG::new(TsigAlgorithm::HmacSha256, 0, 300, Vec::new(), 7, Some(error), Vec::new());
            answer.set_signature(Box::new(make_tsig_record(in_full("kiln"), tsig)));
        }
        let judged = judge(&in_full("kloud.lan"), "kiln", &answer);
        judged.map_err(|rejection| rejection.to_string())
    };
    assert_eq!(judged(ResponseCode::NoError, None), Ok(()));
    for (code, error, words) in [
        (ResponseCode::NotAuth, Some(TsigError::BadSig), "TSIG key rejected (BADSIG)"),
        (ResponseCode::NotAuth, Some(TsigError::BadKey), "TSIG key rejected (BADKEY)"),
        (ResponseCode::NotAuth, Some(TsigError::BadTime), "TSIG key rejected (BADTIME)"),
        (ResponseCode::NotAuth, Some(TsigError::Unknown(21)), "TSIG error 21"),
        (ResponseCode::NoError, Some(TsigError::BadSig), "TSIG key rejected (BADSIG)"),
        (ResponseCode::NotAuth, None, "not the primary of zone `kloud.lan`"),
        (ResponseCode::NotZone, None, "not the primary of zone `kloud.lan`"),
        (ResponseCode::Refused, None, "refuses the update of zone `kloud.lan`"),
        (ResponseCode::NotImp, None, "takes no dynamic updates"),
        (ResponseCode::ServFail, None, "could not do the update"),
        (ResponseCode::YXDomain, None, "answers the update of zone `kloud.lan`"),
    ] {
        let said = judged(code, error).unwrap_err();
        assert!(said.contains(words) && said.contains("\n  hint: "), "{code:?} {error:?}: {said}");
    }
}
