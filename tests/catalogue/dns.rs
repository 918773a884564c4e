//! A: DNS and identity. DNS locates, TLS authenticates, the charter says who counts; a running member needs none of DNS.

use std::net::Ipv4Addr;
use std::time::Duration;

use kiln_firstboot::digest::Id128;
use kiln_firstboot::message::{Answer, Ask, JoinRequest};
use kiln_firstboot::name::Fqdn;
use kiln_tests::cluster::{Cluster, DOMAIN, PATIENCE};
use kiln_tests::dns_script::Script;
use kiln_tests::imposter::{self, FakeAgent, Seed, TlsTrap};
use kiln_tests::netns::Network;
use kiln_tests::oracle::one_cluster;
use kiln_tests::wait::{holds, until};

/// Powers three nodes on under a bent DNS; each of `said` must appear on that node's console and nobody may form. Then DNS alone
/// is mended, and the cluster forms.
fn waits_until_mended(bend: impl FnOnce(&Script), said: &[(usize, &str)]) -> Cluster {
    let mut cluster = Cluster::with_scripted_dns(3);
    bend(cluster.dns.script());
    cluster.power_on();
    for (node, words) in said {
        cluster.wait_said(*node, words);
    }
    cluster.nobody_forms();
    cluster.dns.script().mend();
    cluster.wait_activated();
    one_cluster(&cluster.nodes).expect("one cluster");
    cluster
}

/// Powers three nodes on under a bent DNS that must not matter: they form one cluster of the charter's members.
fn forms_all_the_same(bend: impl FnOnce(&Script)) -> Cluster {
    let mut cluster = Cluster::with_scripted_dns(3);
    bend(cluster.dns.script());
    cluster.power_on();
    cluster.wait_activated();
    one_cluster(&cluster.nodes).expect("one cluster");
    cluster
}

/// All power is lost and comes back under a bent DNS: the same members serve again.
fn restarts_all_the_same(cluster: &mut Cluster, bend: impl FnOnce(&Script)) {
    let before: Vec<_> = (0..cluster.nodes.len()).map(|n| cluster.member(n)).collect();
    cluster.power_off();
    bend(cluster.dns.script());
    cluster.power_on();
    cluster.wait_activated();
    let after: Vec<_> = (0..cluster.nodes.len()).map(|n| cluster.member(n)).collect();
    assert_eq!(before, after, "the same cluster with the same members");
    until(
        "the cluster to take a write",
        PATIENCE,
        || cluster.etcdctl(&["put", "k", "v"]).status.success().then_some(()),
        || cluster.story(),
    );
}

fn name_of(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node].fqdn.to_string()
}

/// A1: PTR says NXDOMAIN. kiln is stricter than the catalogue (which would take the seed's name and warn): a node enters a cluster
/// only under a name that DNS gives it in both directions. It waits, says which record is missing, and goes on when it is there.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a01_ptr_nxdomain_waits_and_names_the_record() {
    waits_until_mended(
        |dns| dns.ptr_of(1).nxdomain(),
        &[(1, "DNS has no PTR record for 10.99.0.12"), (1, "add a PTR record from 10.99.0.12 to n2.unit.kiln.test")],
    );
}

/// A2: PTR says SERVFAIL, or nothing at all. A blank node asks again and waits; RESTART is unaffected.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a02_ptr_servfail_or_timeout_waits_and_does_not_touch_a_restart() {
    let mut cluster = waits_until_mended(
        |dns| {
            dns.ptr_of(1).servfail();
            dns.ptr_of(2).silent();
        },
        &[
            (1, "DNS could not be asked who 10.99.0.12 is: the DNS server failed to find out (SERVFAIL)"),
            (2, "DNS could not be asked who 10.99.0.13 is: no DNS server answered in time"),
        ],
    );
    restarts_all_the_same(&mut cluster, |dns| {
        dns.ptr_of(0).nxdomain();
        dns.ptr_of(1).servfail();
        dns.ptr_of(2).silent();
    });
}

/// A4: the PTR names another member, or a name of another zone. The node halts; nothing forms; mending DNS is enough.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a04_ptr_naming_somebody_else_halts() {
    waits_until_mended(
        |dns| {
            dns.ptr_of(1).says(&["n3.unit.kiln.test"]);
            dns.ptr_of(2).says(&["n3.other.zone.test"]);
        },
        &[(1, "n3.unit.kiln.test"), (2, "n3.other.zone.test")],
    );
}

/// A5: the forward A and AAAA records lack the node's own address: peers could not reach it, so it waits.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a05_forward_without_the_own_address_waits() {
    waits_until_mended(
        |dns| {
            dns.address_of(1).says(&["10.99.0.200"]);
            dns.address_of(2).nxdomain();
        },
        &[
            (1, "but n2.unit.kiln.test resolves to 10.99.0.200"),
            (1, "make the address record of n2.unit.kiln.test say 10.99.0.12"),
            (2, "add an address record (A or AAAA) n3.unit.kiln.test 10.99.0.13"),
        ],
    );
}

/// A6: SRV says NXDOMAIN, SERVFAIL or nothing, and every other question fails too, while there is a log: RESTART. Also with the DNS
/// server gone altogether (as in C20, which has its own test).
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a06_srv_gone_restarts() {
    let mut cluster = forms_all_the_same(|_| {});
    restarts_all_the_same(&mut cluster, |dns| {
        dns.everything().servfail();
        dns.srv().nxdomain();
        dns.srv().asked_by(1).silent();
    });
    restarts_all_the_same(&mut cluster, |dns| dns.everything().silent());
}

/// A7: SRV says NXDOMAIN and the volumes are blank: the charter's members are located by A and AAAA, and who cannot be located is
/// waited for.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a07_srv_nxdomain_blank_locates_by_address_or_waits() {
    let mut cluster = Cluster::with_scripted_dns(3);
    cluster.dns.script().srv().nxdomain();
    cluster.dns.script().address_of(2).asked_by(0).nxdomain();
    cluster.power_on();
    cluster.wait_said(0, "DNS has no SRV record _etcd-server-ssl._tcp.unit.kiln.test");
    cluster.wait_said(0, "n3.unit.kiln.test");
    cluster.nobody_forms();
    cluster.dns.script().address_of(2).right();
    cluster.wait_activated();
    one_cluster(&cluster.nodes).expect("one cluster");
    let srv = cluster.etcdctl(&["member", "list"]);
    assert_eq!(String::from_utf8_lossy(&srv.stdout).lines().count(), 3, "three members without any SRV record");
}

/// A8: SRV forgets node 3 while 1 and 2 are blank and 3 is down: WAIT. The charter is the denominator, not SRV.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a08_srv_that_forgets_a_silent_member_waits_for_it() {
    let mut cluster = Cluster::with_scripted_dns(3);
    let listed = [name_of(&cluster, 0), name_of(&cluster, 1)];
    cluster.dns.script().srv().says(&listed);
    cluster.nodes[0].power_on();
    cluster.nodes[1].power_on();
    cluster.wait_said(0, "lack the charter's member n3.unit.kiln.test; it counts all the same");
    cluster.nobody_forms();
    cluster.nodes[2].power_on();
    cluster.wait_activated();
    one_cluster(&cluster.nodes).expect("one cluster");
}

/// A9: SRV names a stranger beside the charter's members: it is ignored with a warning. When the stranger, with a seed that some
/// other charter of the same roots gave it, asks to join, it is refused.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a09_stranger_in_srv_is_ignored_and_its_join_refused() {
    let mut cluster = Cluster::with_scripted_dns(3);
    let all: Vec<String> = (0..3).map(|n| name_of(&cluster, n)).chain([format!("stranger.{DOMAIN}")]).collect();
    cluster.dns.script().srv().says(&all);
    let space = cluster.network.add("stranger", Ipv4Addr::new(10, 99, 0, 66));
    cluster.power_on();
    cluster.wait_activated();
    cluster.wait_said(0, &format!("name stranger.{DOMAIN}, which is not in the charter and is left out"));
    let list = cluster.etcdctl(&["member", "list"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.lines().count() == 3 && !list.contains("stranger"), "{list}");

    let stranger = Fqdn::parse(&format!("stranger.{DOMAIN}")).expect("a name");
    let seed = imposter::seed_of_a_stranger(&cluster, &stranger, Ipv4Addr::new(10, 99, 0, 66).into());
    let tls = seed.tls(&seed.leaf(stranger.as_str(), &[stranger.as_str(), "10.99.0.66"]));
    let to = &cluster.nodes[0];
    let join = Ask::Join(join_request(&seed, &stranger));
    let refused = imposter::ask(&space, &tls, &to.fqdn, to.ip, &join);
    assert!(!matches!(refused, Ok(Answer::Granted(_) | Answer::Status(_))), "{refused:?}");
    let after = cluster.etcdctl(&["member", "list"]);
    assert_eq!(list, String::from_utf8_lossy(&after.stdout), "no membership change");
}

fn join_request(seed: &Seed, fqdn: &Fqdn) -> JoinRequest {
    JoinRequest {
        cluster: seed.charter.cluster,
        generation: seed.charter.generation,
        charter: seed.charter.digest(),
        fqdn: fqdn.clone(),
        instance: Id128::random().expect("drawing an instance"),
        etcd_version: kiln_tests::cluster::etcd_version(),
        nonce: Id128::random().expect("drawing a nonce"),
    }
}

/// A10: SRV differs from node to node, as with a stale secondary. It has no effect on who counts.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a10_srv_that_differs_between_nodes_changes_nothing() {
    let cluster = forms_all_the_same(|dns| {
        dns.srv().asked_by(0).says(&["n1.unit.kiln.test"]);
        dns.srv().asked_by(1).says(&["n2.unit.kiln.test", "n9.unit.kiln.test"]);
        dns.srv().asked_by(2).slow(Duration::from_millis(400));
        // And what else a real network has: aliases as of RFC 2317, answers that need TCP, answers that are late.
        dns.ptr_of(0).behind_aliases(2);
        dns.ptr_of(1).cut_over_udp();
        dns.address_of(0).slow(Duration::from_millis(400));
    });
    cluster.wait_said(0, "lack the charter's member n2.unit.kiln.test");
    let over_tcp = cluster.dns.script().asked().iter().any(|q| q.over_tcp && q.name.starts_with("12.0.99.10."));
    assert!(over_tcp, "a cut answer is asked for again over TCP");
}

/// A12: TC is set even over TCP, or an answer has over a thousand records, or is no answer at all. The parse is bounded: what is
/// located by a usable record goes on, what is not waits, and memory stays small.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a12_truncated_crowded_and_broken_answers_are_bounded() {
    let cluster = waits_until_mended(
        |dns| {
            dns.srv().crowded(1200);
            dns.srv().asked_by(1).cut_even_over_tcp();
            dns.srv().asked_by(2).garbage();
            dns.ptr_of(0).crowded(1200);
            dns.ptr_of(1).cut_even_over_tcp();
            dns.ptr_of(2).garbage();
            dns.address_of(2).with_a_wrong_id();
        },
        &[
            (
                1,
                "DNS could not be asked who 10.99.0.12 is: the DNS server's answer makes no sense: cut short even over TCP",
            ),
            (2, "DNS could not be asked who 10.99.0.13 is: the DNS server's answer makes no sense"),
        ],
    );
    for node in 0..3 {
        let most = cluster.nodes[node].most_resident_kib();
        assert!(most < 96 * 1024, "the agent of node {node} had {most} KiB resident");
    }
}

/// A13: one SRV target does not resolve: that member is unreachable, so the others wait; never a smaller set.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a13_srv_target_that_does_not_resolve_is_waited_for() {
    // The node itself still finds its own name; the others do not.
    waits_until_mended(
        |dns| {
            dns.address_of(2).asked_by(0).nxdomain();
            dns.address_of(2).asked_by(1).servfail();
        },
        &[(0, "n3.unit.kiln.test"), (1, "n3.unit.kiln.test")],
    );
}

/// A16: IPv6 only. SAN, constraint, PTR under ip6.arpa and etcd's listeners are of that family; link-local addresses count for
/// nothing (every interface here has one).
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a16_nodes_with_ipv6_only_form() {
    let mut cluster = Cluster::over_ipv6(3);
    cluster.power_on();
    cluster.wait_activated();
    one_cluster(&cluster.nodes).expect("one cluster");
    restarts_all_the_same(&mut cluster, |dns| dns.everything().silent());
}

/// A16: dual stack. Names have addresses of both families, the charter has those of one.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a16_dual_stack_nodes_form() {
    let mut cluster = Cluster::dual_stack(3);
    cluster.power_on();
    cluster.wait_activated();
    one_cluster(&cluster.nodes).expect("one cluster");
}

/// A17: an A record is poisoned and leads to an attacker's host with a certificate of its own making: TLS fails, so the member is
/// unreachable, so the others wait. A member that restarts finds its peers at the charter's addresses all the same.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a17_poisoned_address_is_unreachable() {
    let mut cluster = Cluster::with_scripted_dns(3);
    let attacker = Ipv4Addr::new(10, 99, 0, 66);
    let space = cluster.network.add("attacker", attacker);
    let tls = imposter::of_another_root(&cluster.nodes[2], attacker.into());
    let trap = TlsTrap::start(&space, 2380, tls.clone());
    let status = imposter::status(&cluster.nodes[2].fqdn, &Seed::of(&cluster.nodes[2]).charter);
    let fake = FakeAgent::start(&space, tls, move |_| Answer::Status(Box::new(status.clone())));
    for asker in [0, 1] {
        cluster.dns.script().address_of(2).asked_by(asker).says(&[attacker]);
    }
    // The real node 3 is blank and up: it is only that nobody is led to it.
    cluster.power_on();
    cluster.wait_said(0, "n3.unit.kiln.test at 10.99.0.66");
    cluster.wait_said(1, "n3.unit.kiln.test at 10.99.0.66");
    cluster.nobody_forms();
    assert_eq!(fake.heard(), [], "nobody told the attacker anything");
    cluster.dns.script().mend();
    cluster.wait_activated();
    restarts_all_the_same(&mut cluster, |dns| {
        for member in 0..3 {
            dns.address_of(member).says(&[attacker]);
        }
    });
    drop(trap);
}

/// A20: the address changed by DHCP and DNS was updated: RESTART. The member serves on: etcd falls back to the name in the leaf. The
/// leaf cannot be minted for the new address, because the node's issuer is constrained to the charter's: kiln says so, on the node and on
/// its peers, instead of renewing it as the catalogue has it.
/// A21 before it: as long as DNS is not updated, the member is unreachable and the membership does not change.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a20_a21_changed_address_restarts_when_dns_follows_and_is_unreachable_before() {
    let mut cluster = forms_all_the_same(|_| {});
    let (moved, name) = (1, name_of(&cluster, 1));
    let (from, to) = (cluster.nodes[moved].address, Ipv4Addr::new(10, 99, 0, 22));
    let list = || String::from_utf8_lossy(&cluster.etcdctl(&["member", "list"]).stdout).into_owned();
    let before = list();
    let ids: Vec<_> = (0..3).map(|n| cluster.member(n)).collect();

    cluster.nodes[moved].power_off();
    Network::readdress(&cluster.nodes[moved].space, from, to);
    cluster.nodes[moved].power_on();
    cluster.wait_said(moved, "10.99.0.22");
    holds(
        "the others serve and keep their members",
        Duration::from_secs(5),
        || {
            let list = cluster.etcdctl(&["member", "list"]);
            String::from_utf8_lossy(&list.stdout) == before && !healthy(&cluster, to)
        },
        || cluster.story(),
    );

    cluster.dns.change(|r| {
        r.a.insert(name.clone(), to);
        r.ptr.remove(&from);
        r.ptr.insert(to, name.clone());
    });
    cluster.wait_said(0, &format!("etcd looks for {name} at {to} first"));
    until("the moved member to serve", PATIENCE, || healthy(&cluster, to).then_some(()), || cluster.story());
    let after: Vec<_> = (0..3).map(|n| cluster.member(n)).collect();
    assert_eq!(ids, after, "nobody was replaced");
}

/// etcd at this address reads linearizably. (Asked on the metrics port: the leaf is not for this address.)
fn healthy(cluster: &Cluster, address: Ipv4Addr) -> bool {
    let said = cluster.from_switch(&["curl", "-s", "-m", "3", &format!("http://{address}:2381/health")]);
    String::from_utf8_lossy(&said.stdout).contains("\"true\"")
}
