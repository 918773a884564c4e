//! E. Join and replace. (E16 is in `dns.rs`, E20 in `custodian.rs`; E2, E9, E10 and E17 have no N.)

use std::time::Duration;

use kiln_firstboot::fault::Point;
use kiln_firstboot::state::{Phase, RaftId};
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::firewall;
use kiln_tests::membership::{Listed, leader, members};
use kiln_tests::node::Node;
use kiln_tests::oracle::Oracle;
use kiln_tests::wait::{holds, until};

/// How long a node is watched doing nothing: several of its rounds.
const A_WHILE: Duration = Duration::from_secs(6);

/// A cluster that serves, whose agents can be cut and do not take minutes for what takes minutes in earnest, and clients at work on it.
fn serving(size: u8, patience: &str, cut_takes_etcd: bool) -> (Cluster, Oracle) {
    let mut cluster = Cluster::new(size);
    for node in &mut cluster.nodes {
        let (name, file) = node.cut_file();
        node.set_faults(&[
            (name, &file),
            ("KILN_UNHEARD_SECS", "3"),
            ("KILN_SAME_NAME_SECS", "1"),
            ("KILN_LOCK_SECS", "5"),
            ("KILN_LEARNER_PATIENCE", patience),
        ]);
        node.set_cut_takes_etcd(cut_takes_etcd);
        node.arm(None);
    }
    cluster.power_on();
    cluster.wait_activated();
    let clients = Oracle::watching(&cluster);
    clients.goes_on(20, &cluster);
    (cluster, clients)
}

fn id(cluster: &Cluster, index: usize) -> RaftId {
    cluster.member(index).unwrap_or_else(|| panic!("node {index} is a member\n{}", cluster.story())).1
}

/// Images a node anew with its data wiped. Powered off afterwards.
fn lose_data(cluster: &mut Cluster, index: usize) {
    cluster.nodes[index].power_off();
    cluster.nodes[index].wipe();
}

/// The list as any of these nodes' etcd reads it.
fn list(cluster: &Cluster, asked: &[usize]) -> Option<Vec<Listed>> {
    asked.iter().find_map(|index| members(&cluster.nodes[*index]))
}

fn wait_list(cluster: &Cluster, asked: &[usize], what: &str, wanted: impl Fn(&[Listed]) -> bool) {
    until(
        what,
        PATIENCE,
        || list(cluster, asked).filter(|list| wanted(list)),
        || format!("{:?}\n{}", list(cluster, asked), cluster.story()),
    );
}

fn wait_cut(cluster: &Cluster, of: &[usize]) -> usize {
    until(
        &format!("one of {of:?} to be cut"),
        PATIENCE,
        || of.iter().copied().find(|index| cluster.nodes[*index].was_cut()),
        || cluster.story(),
    )
}

/// E8, E11, E12, E14: what stands in the way of a replacement. A blank twin beside a living member; no quorum; another voter that is not
/// well; and the seconds after a reconnect, in which etcd itself refuses, and which are waited out.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn e08_e11_e12_e14_a_voter_is_replaced_only_when_it_is_gone_and_everybody_else_is_well() {
    let (mut cluster, clients) = serving(3, "300", false);
    let before: Vec<RaftId> = (0..3).map(|index| id(&cluster, index)).collect();
    let same = |cluster: &Cluster, asked: &[usize]| {
        list(cluster, asked).is_none_or(|list| before.iter().all(|id| list.iter().any(|m| m.id == *id && !m.learner)))
    };

    // E8: its agent has crashed, its etcd lives, and a blank machine uses its name.
    cluster.nodes[2].crash_agent();
    let mut twin = cluster.blank_twin_of(2);
    twin.power_on();
    until(
        "the twin to be told that it is one of two",
        PATIENCE,
        || twin.console().contains("two nodes use this name").then_some(()),
        || format!("{}\n{}", twin.console(), cluster.story()),
    );
    holds("a living member is not removed", A_WHILE, || same(&cluster, &[0, 1]), || cluster.story());
    twin.power_off();
    cluster.nodes[2].power_off();
    cluster.nodes[2].power_on();
    cluster.wait_serving(&[0, 1, 2]);
    assert_eq!(id(&cluster, 2), before[2], "it serves on under its id");

    // E11: two of three are down.
    cluster.nodes[1].power_off();
    lose_data(&mut cluster, 2);
    cluster.nodes[2].power_on();
    cluster.wait_said(2, "but does not serve it yet");
    holds(
        "nobody is removed without a quorum, and the blank node waits",
        A_WHILE,
        || {
            same(&cluster, &[0])
                && cluster.nodes[2].state().is_none_or(|state| state.position == Phase::Blank)
                && !cluster.nodes[0].console().contains("removed")
        },
        || cluster.story(),
    );

    // E12: there is a quorum again, but the agents of the two voters do not hear each other, so neither vouches for the other.
    let (space, other) = (cluster.nodes[0].space.clone(), cluster.nodes[1].address.to_string());
    firewall::part_port(&space, &other, 2382);
    cluster.nodes[1].power_on();
    cluster.wait_said(2, "no voter is replaced while");
    holds("an ill voter defers the replacement", A_WHILE, || same(&cluster, &[0]), || cluster.story());
    firewall::mend(&space);
    // E14: the one that is back has been connected for less than five seconds.
    cluster.nodes[1].power_off();
    cluster.nodes[1].power_on();
    cluster.wait_serving(&[0, 1, 2]);
    cluster.assert_one_cluster();
    assert_ne!(id(&cluster, 2), before[2], "replaced under a new id");
    clients.goes_on(20, &cluster);
    clients.verdict(&cluster);
}

/// E4, E13, E3: the grantor crashes between removing the old member and adding the new one, and the next grant goes on with one member
/// less, under an id that is not the old one. A joiner wiped while it is a learner comes back under a fresh id, without a panic.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn e03_e04_e13_a_replacement_survives_its_grantors_crash_and_its_learners_second_loss() {
    let (mut cluster, clients) = serving(3, "300", false);
    let before = id(&cluster, 2);
    lose_data(&mut cluster, 2);
    cluster.nodes[..2].iter().for_each(|node| node.arm(Some(Point::GrantRemoved)));
    cluster.nodes[2].power_on();
    let crashed = wait_cut(&cluster, &[0, 1]);
    cluster.nodes[..2].iter().for_each(|node| node.arm(None));
    let gone = |list: &[Listed]| list.iter().all(|member| member.id != before);
    wait_list(&cluster, &[0, 1], "the old member to be gone", gone);
    // One voter's word is not enough to join on, so the node waits for the other's agent; then whoever is asked goes on.
    cluster.wait_said(2, "nobody else does");
    cluster.nodes[crashed].revive();
    cluster.wait_serving(&[0, 1, 2]);
    cluster.assert_one_cluster();
    let second = id(&cluster, 2);
    assert_ne!(second, before, "removed and added more than a second apart");

    // E3: nobody promotes while the leader's agent is down, so the node is a learner when it loses its disk again.
    lose_data(&mut cluster, 2);
    let lead = leader(&cluster.nodes[0]).expect("there is a leader");
    let lead = (0..2).find(|index| id(&cluster, *index) == lead).expect("one of the two leads");
    cluster.nodes[2].arm(Some(Point::StartedEmpty));
    cluster.nodes[2].power_on();
    wait_cut(&cluster, &[2]);
    cluster.nodes[lead].crash_agent();
    cluster.nodes[2].arm(None);
    let learner = list(&cluster, &[0, 1]).expect("there is a quorum").into_iter().find(|member| member.learner);
    lose_data(&mut cluster, 2);
    cluster.nodes[lead].restart_agent();
    cluster.nodes[2].power_on();
    cluster.wait_serving(&[0, 1, 2]);
    cluster.assert_one_cluster();
    let third = id(&cluster, 2);
    assert!(third != second && learner.is_none_or(|learner| learner.id != third), "a fresh id");
    let panics: Vec<String> = cluster.nodes.iter().map(Node::etcd_log).filter(|log| log.contains("tocommit")).collect();
    assert!(panics.is_empty(), "etcd lost its way: {panics:?}");
    clients.goes_on(20, &cluster);
    clients.verdict(&cluster);
}

/// E6, E18, E21, E7: a joiner that never starts. Neither an agent nor an operator can promote it, nobody else's agent deletes its place,
/// systemd cannot start its etcd behind the agent's back; after its patience the leader gives the place up, and only that. When the
/// joiner is well again, it joins.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn e06_e07_e18_e21_a_joiner_that_never_starts_keeps_its_place_for_a_while_and_gets_no_vote() {
    let (mut cluster, clients) = serving(3, "25", false);
    let voters = [id(&cluster, 0), id(&cluster, 1)];
    lose_data(&mut cluster, 2);
    cluster.nodes[2].arm(Some(Point::Attempted));
    cluster.nodes[2].power_on();
    wait_cut(&cluster, &[2]);
    let place = list(&cluster, &[0, 1]).expect("there is a quorum").into_iter().find(|member| member.learner);
    let place = place.unwrap_or_else(|| panic!("it has a place\n{}", cluster.story()));
    assert!(!place.started);
    let promotion = cluster.etcdctl(&["member", "promote", &place.id.to_string()]);
    assert!(!promotion.status.success(), "etcd promotes nobody who has not started");
    let refused = cluster.nodes[2].restart_etcd_by_systemd().expect_err("there is no permit for this start");
    assert!(refused.contains("permit"), "{refused}");
    holds(
        "the place is kept and has no vote",
        A_WHILE,
        || list(&cluster, &[0, 1]).is_none_or(|list| list.iter().any(|m| m.id == place.id && m.learner)),
        || cluster.story(),
    );
    wait_list(&cluster, &[0, 1], "the place to be given up", |list| list.iter().all(|member| member.id != place.id));
    let left: Vec<RaftId> =
        list(&cluster, &[0, 1]).expect("there is a quorum").iter().map(|member| member.id).collect();
    assert!(left.len() == 2 && voters.iter().all(|voter| left.contains(voter)), "and nothing else: {left:?}");
    clients.goes_on(10, &cluster);

    cluster.nodes[2].arm(None);
    cluster.nodes[2].revive();
    cluster.wait_serving(&[0, 1, 2]);
    cluster.assert_one_cluster();
    assert_ne!(id(&cluster, 2), place.id, "a place that was given up is never taken");

    // E21 again, with a member whose log is lost under a state that still names it.
    cluster.nodes[2].power_off();
    fs_err::remove_dir_all(cluster.nodes[2].home.join("data/etcd/member")).expect("losing a log");
    cluster.nodes[2].power_on();
    cluster.wait_said(2, "log is gone");
    let refused = cluster.nodes[2].restart_etcd_by_systemd().expect_err("a lost log is not begun anew");
    assert!(refused.contains("log is gone"), "{refused}");
    clients.goes_on(10, &cluster);
    clients.safety(&cluster);
}

/// E19, E5, E1, E15: of five, two are dead and one returns blank: it is replaced, though the leader loses power while it promotes it. Two
/// that return blank at once are replaced one after the other. A joiner whose member list is out of date when it starts asks again.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn e01_e05_e15_e19_of_five_nodes_two_may_be_gone_and_come_back_blank_one_after_the_other() {
    let (mut cluster, clients) = serving(5, "300", true);
    let before: Vec<RaftId> = (0..5).map(|index| id(&cluster, index)).collect();

    // E19 and E5.
    cluster.nodes[4].power_off();
    lose_data(&mut cluster, 3);
    cluster.nodes[..3].iter().for_each(|node| node.arm(Some(Point::Promoted)));
    cluster.nodes[3].power_on();
    let lost = wait_cut(&cluster, &[0, 1, 2]);
    cluster.nodes[..3].iter().for_each(|node| node.arm(None));
    cluster.nodes[lost].revive();
    cluster.wait_serving(&[0, 1, 2, 3]);
    assert_ne!(id(&cluster, 3), before[3], "replaced while another member is dead");
    clients.goes_on(20, &cluster);

    // E1.
    cluster.nodes[4].wipe();
    lose_data(&mut cluster, 2);
    cluster.nodes[2].power_on();
    cluster.nodes[4].power_on();
    let mut most = 0;
    until(
        "both to be voters again",
        PATIENCE * 2,
        || {
            let list = list(&cluster, &[0, 1])?;
            most = most.max(list.iter().filter(|member| member.learner).count());
            let both = [2, 4].iter().all(|index| cluster.nodes[*index].clients_open());
            (both && list.len() == 5 && list.iter().all(|member| member.started && !member.learner)).then_some(())
        },
        || cluster.story(),
    );
    assert_eq!(most, 1, "one learner at a time");
    cluster.assert_one_cluster();

    // E15: between grant and start the operator removes a dead member.
    cluster.nodes[4].power_off();
    lose_data(&mut cluster, 3);
    cluster.nodes[3].arm(Some(Point::Assigned));
    cluster.nodes[3].power_on();
    wait_cut(&cluster, &[3]);
    cluster.nodes[3].arm(None);
    let dead = id(&cluster, 4).to_string();
    until(
        "the operator's removal",
        PATIENCE,
        || cluster.etcdctl(&["member", "remove", &dead]).status.success().then_some(()),
        || cluster.story(),
    );
    // In the same boot: in another one it would give the place up.
    cluster.nodes[3].restart_agent();
    cluster.wait_serving(&[0, 1, 2, 3]);
    assert!(cluster.nodes[3].etcd_log().contains("member count is unequal"), "{}", cluster.story());
    clients.goes_on(20, &cluster);
    clients.verdict(&cluster);
}
