//! F. Partition and performance. Clients are at work in every scenario, and the oracle weighs what they were told.

use std::collections::BTreeSet;
use std::time::Duration;

use kiln_firstboot::clock::monotonic;
use kiln_firstboot::message::{Answer, Ask, Holds};
use kiln_firstboot::state::{Phase, RaftId};
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::imposter::{self, Seed, own_leaf};
use kiln_tests::membership::{leader, members};
use kiln_tests::netns::Network;
use kiln_tests::node::Node;
use kiln_tests::oracle::Oracle;
use kiln_tests::slow_wire::SlowWire;
use kiln_tests::wait::{holds, until};
use kiln_tests::wire::Trouble;

/// How long something is watched that must not happen.
const A_WHILE: Duration = Duration::from_secs(8);

/// An activated cluster of `size` with clients at work.
fn serving(size: u8) -> (Cluster, Oracle) {
    let mut cluster = Cluster::new(size);
    let watch = Oracle::watching(&cluster);
    cluster.power_on();
    cluster.wait_activated();
    watch.goes_on(20, &cluster);
    (cluster, watch)
}

/// Every member serves one cluster, and clients go on and were told nothing wrong.
fn all_serve_again(cluster: &Cluster, watch: Oracle) {
    cluster.wait_activated();
    cluster.assert_one_cluster();
    watch.goes_on(20, cluster);
    watch.verdict(cluster);
}

/// Number of the node that leads.
fn leading(cluster: &Cluster) -> usize {
    let index = || {
        let id = cluster.nodes.iter().find_map(leader)?;
        (0..cluster.nodes.len()).find(|i| cluster.member(*i).is_some_and(|(_, member)| member == id))
    };
    until("a leader", PATIENCE, index, || cluster.story())
}

/// A node loses power and data, and an operator removes its member, so that it may join anew. It stays off.
fn made_blank(cluster: &mut Cluster, index: usize) {
    let (_, member) = cluster.member(index).expect("it is a member");
    cluster.nodes[index].power_off();
    cluster.nodes[index].wipe();
    let removed = || cluster.etcdctl(&["member", "remove", &member.to_string()]).status.success().then_some(());
    until("the operator to have removed a member", PATIENCE, removed, || cluster.story());
}

/// Ids of all voters, as a node's own etcd has them.
fn voters(cluster: &Cluster, by: usize) -> Option<BTreeSet<RaftId>> {
    Some(members(&cluster.nodes[by])?.iter().filter(|member| !member.learner).map(|member| member.id).collect())
}

/// F2: a joiner sees its grantor and not the leader: it gets its place, and promotion waits until it hears the leader.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn f02_a_joiner_that_cannot_reach_the_leader_is_not_promoted() {
    let (mut cluster, watch) = serving(4);
    let lead = leading(&cluster);
    let (joiner, other) = ((lead + 1) % 4, (lead + 2) % 4);
    made_blank(&mut cluster, joiner);
    let cut = [Trouble::Cut(cluster.nodes[lead].address)];
    cluster.nodes[joiner].set_trouble(&cut);
    cluster.nodes[joiner].power_on();
    let url = cluster.nodes[joiner].fqdn.peer_url();
    until(
        "the joiner to have a place as a learner",
        PATIENCE,
        || members(&cluster.nodes[other])?.iter().any(|m| m.peer_url == url && m.learner).then_some(()),
        || cluster.story(),
    );
    let first = cluster.member(lead).map(|(_, member)| member);
    holds(
        "the joiner is no voter while it does not hear the leader",
        A_WHILE,
        || {
            let list = members(&cluster.nodes[other]).unwrap_or_default();
            // Should leadership move, the joiner hears the new leader and may be promoted.
            list.iter().all(|m| m.peer_url != url || m.learner) || leader(&cluster.nodes[other]) != first
        },
        || cluster.story(),
    );
    cluster.nodes[joiner].set_trouble(&[]);
    all_serve_again(&cluster, watch);
}

/// F3: agents hear each other and etcds do not (2380 blocked): a blank founder waits and says why. That is never "dead, so form".
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn f03_a_blocked_peer_port_is_not_taken_for_death() {
    let mut cluster = Cluster::new(3);
    for node in &mut cluster.nodes {
        // In earnest a voter is replaced when it has not been heard of for 60 s.
        node.set_faults(&[("KILN_UNHEARD_SECS", "3")]);
    }
    let watch = Oracle::watching(&cluster);
    cluster.power_on();
    cluster.wait_activated();
    watch.goes_on(20, &cluster);
    cluster.nodes[0].power_off();
    cluster.nodes[0].wipe();
    for node in &cluster.nodes {
        node.set_trouble(&[Trouble::Port(2380)]);
    }
    // Without a quorum there is no leader to be known.
    let leaderless = || (1..3).all(|i| leader(&cluster.nodes[i]).is_none()).then_some(());
    until("the two that are left to have lost each other", PATIENCE, leaderless, || cluster.story());
    cluster.nodes[0].power_on();
    cluster.wait_said(0, "does not serve it yet");
    holds(
        "the blank founder forms nothing",
        A_WHILE,
        || cluster.nodes[0].state().is_some_and(|s| s.position == Phase::Blank) && !cluster.nodes[0].etcd_runs(),
        || cluster.story(),
    );
    for node in &cluster.nodes {
        node.set_trouble(&[]);
    }
    // Now the others serve, and it takes its own place again under a new id.
    all_serve_again(&cluster, watch);
}

/// F5: a link flaps, two seconds each way: no member is added until the voter behind it has been there for etcd's health interval
/// of 5 s.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn f05_nobody_is_added_while_a_voters_link_flaps() {
    // Of two voters both are the quorum. (Of three, etcd 3.5.30 adds with two, as it should: etcd#21667.)
    let (mut cluster, watch) = serving(3);
    let lead = leading(&cluster);
    let (flapping, joiner) = ((lead + 1) % 3, (lead + 2) % 3);
    made_blank(&mut cluster, joiner);
    let half = Duration::from_secs(2);
    let added = |cluster: &Cluster| cluster.nodes[lead].etcd_log().matches("\"added member\"").count();
    for flap in 0..4 {
        // A link that flaps on the way resets what goes over it.
        cluster.nodes[flapping].set_trouble(&[Trouble::Reset(2380)]);
        let before = added(&cluster);
        if flap == 0 {
            cluster.nodes[joiner].power_on();
        }
        holds("nobody is added while the link is off", half, || added(&cluster) == before, || cluster.story());
        cluster.nodes[flapping].set_trouble(&[]);
        let since = monotonic();
        // Whether somebody may be added now depends on whether etcd noticed the flap at all.
        let long = || monotonic().duration_since(since) > half;
        until("the link to have been on for a while", PATIENCE, || long().then_some(()), || cluster.story());
    }
    all_serve_again(&cluster, watch);
}

/// F6: the leader is stopped for a while (SIGSTOP): another leads, nobody is removed, and what the old one says when it goes on is
/// not stale (etcd#20418).
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn f06_a_paused_leader_is_not_removed_and_reads_nothing_stale() {
    let (cluster, watch) = serving(3);
    let before = voters(&cluster, 0).expect("it serves");
    for _ in 0..2 {
        let lead = leading(&cluster);
        let other = (lead + 1) % 3;
        let old = cluster.member(lead).map(|(_, member)| member);
        cluster.nodes[lead].pause_etcd();
        let moved = || leader(&cluster.nodes[other]).filter(|new| Some(*new) != old);
        until("another leader", PATIENCE, moved, || cluster.story());
        watch.goes_on(30, &cluster);
        holds(
            "nobody is removed while the old leader is paused",
            A_WHILE,
            || voters(&cluster, other).is_none_or(|now| now == before),
            || cluster.story(),
        );
        cluster.nodes[lead].resume_etcd();
        watch.goes_on(30, &cluster);
    }
    assert_eq!(voters(&cluster, 0), Some(before), "{}", cluster.story());
    watch.verdict(&cluster);
}

/// F6, the moment after: the majority is stopped, and a leader is still known that answers nobody. Whoever asks the agent is told at every
/// moment that its etcd runs, and soon that it does not serve; never that there is nothing but data.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn f06_a_member_whose_majority_is_paused_says_that_it_runs_and_does_not_serve() {
    let (cluster, watch) = serving(3);
    let (asked, caller) = (&cluster.nodes[0], &cluster.nodes[1]);
    let tls = Seed::of(caller).tls(&own_leaf(caller));
    let serves = || match imposter::ask(&caller.space, &tls, &asked.fqdn, asked.ip, &Ask::Status) {
        Ok(Answer::Status(status)) => match status.holds {
            Holds::Running(running) => running.linearizable,
            held @ (Holds::Data { .. } | Holds::Blank | Holds::Unknown) => panic!("{held:?}\n{}", cluster.story()),
        },
        other => panic!("{other:?}\n{}", cluster.story()),
    };
    for _ in 0..2 {
        until("it to say that it serves", PATIENCE, || serves().then_some(()), || cluster.story());
        cluster.nodes[1..].iter().for_each(Node::pause_etcd);
        until("it to say that it does not", PATIENCE, || (!serves()).then_some(()), || cluster.story());
        cluster.nodes[1..].iter().for_each(Node::resume_etcd);
    }
    all_serve_again(&cluster, watch);
}

/// F7: one packet of a hundred lost and 200 ms in each direction: a join completes within five minutes.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn f07_a_node_joins_over_a_slow_and_lossy_link() {
    let (mut cluster, watch) = serving(3);
    let joiner = (leading(&cluster) + 1) % 3;
    made_blank(&mut cluster, joiner);
    let wire = SlowWire::between(&cluster, joiner, Duration::from_millis(200));
    cluster.nodes[joiner].set_trouble(&[Trouble::Loss(10)]);
    let server = format!("@{}", Network::SWITCH);
    let query = || {
        let said = cluster.nodes[joiner].exec(&["dig", "+time=2", "+tries=1", &server, "alive.unit.kiln.test"]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        said.split("Query time: ").nth(1)?.split(' ').next()?.parse::<u64>().ok()
    };
    let took = until("an answer over the slow wire", PATIENCE, query, String::new);
    assert!(took > 300, "the wire is not slow: an answer took {took} ms");
    cluster.nodes[joiner].power_on();
    let serves = || (cluster.nodes[joiner].clients_open() && cluster.member(joiner).is_some()).then_some(());
    until("the joiner to serve", Duration::from_secs(300), serves, || cluster.story());
    cluster.assert_one_cluster();
    watch.goes_on(20, &cluster);
    watch.verdict(&cluster);
    drop(wire);
}
