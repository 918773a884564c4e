//! D. Formation.

use std::collections::BTreeSet;
use std::time::Duration;

use kiln_firstboot::digest::Id128;
use kiln_firstboot::fault::Point;
use kiln_firstboot::state::Phase;
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::firewall;
use kiln_tests::membership::{lineage, members};
use kiln_tests::node::Node;
use kiln_tests::oracle::Oracle;
use kiln_tests::random::Random;
use kiln_tests::wait::{holds, until};

/// How long a node is watched doing nothing: several of its rounds.
const A_WHILE: Duration = Duration::from_secs(6);
/// The founder of every test cluster.
const FOUNDER: usize = 0;

/// No node has chosen or taken a lineage.
fn nobody_formed(cluster: &Cluster) -> bool {
    cluster.nodes.iter().all(|node| node.state().is_none_or(|state| state.position == Phase::Blank))
}

fn lineages(cluster: &Cluster) -> BTreeSet<Id128> {
    cluster.nodes.iter().filter_map(|node| lineage(&node.state()?)).collect()
}

/// Gives a node the agent that can be cut, armed at `point`.
fn arm(node: &mut Node, point: Point) {
    let (name, file) = node.cut_file();
    node.set_faults(&[(name, &file)]);
    node.arm(Some(point));
}

fn wait_cut(cluster: &Cluster, index: usize) {
    until(
        &format!("{} to be cut", cluster.nodes[index].fqdn),
        PATIENCE,
        || cluster.nodes[index].was_cut().then_some(()),
        || cluster.story(),
    );
}

/// D1: three blanks, any boot order and jitter: exactly one lineage, activated.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn d01_three_blanks_form_one_lineage_in_any_order_of_booting() {
    let mut cluster = Cluster::new(3);
    let mut before = BTreeSet::new();
    for seed in 0..3 {
        let mut random = Random::new(seed);
        let mut order = vec![0, 1, 2];
        while let Some(last) = order.len().checked_sub(1) {
            let index = order.swap_remove(usize::try_from(random.below(last as u64 + 1)).expect("it is below 3"));
            // Founder or not, first or second: before the last one is up nobody may have formed.
            let jitter = Duration::from_millis(random.below(2500));
            holds("nobody forms while one is off", jitter, || nobody_formed(&cluster), || cluster.story());
            cluster.nodes[index].power_on();
        }
        cluster.wait_activated();
        cluster.assert_one_cluster();
        let formed = lineages(&cluster);
        assert!(before.is_disjoint(&formed), "every formation has a lineage of its own, also under seed {seed}");
        before.extend(formed);
        cluster.power_off();
        cluster.nodes.iter().for_each(Node::wipe);
    }
}

/// D2: the founder loses power after each of its steps: it goes on with the same lineage.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn d02_a_founder_that_loses_power_after_any_step_goes_on_with_its_lineage() {
    let steps = [
        Point::Founding,
        Point::Rendered,
        Point::StartedEmpty,
        Point::LineageRecorded,
        Point::GrantLocked,
        Point::GrantRecorded,
        Point::Promoted,
        Point::ActivationSeen,
    ];
    let mut cluster = Cluster::new(3);
    let founder = &mut cluster.nodes[FOUNDER];
    founder.set_cut_takes_etcd(true);
    arm(founder, steps[0]);
    cluster.power_on();
    let mut chosen = None;
    for next in steps.iter().skip(1).map(Some).chain([None]) {
        wait_cut(&cluster, FOUNDER);
        let now = cluster.nodes[FOUNDER].state().and_then(|state| lineage(&state));
        assert!(now.is_some(), "the founder has a lineage\n{}", cluster.story());
        assert_eq!(*chosen.get_or_insert(now), now, "and keeps it\n{}", cluster.story());
        cluster.nodes[FOUNDER].arm(next.copied());
        cluster.nodes[FOUNDER].revive();
    }
    cluster.wait_activated();
    cluster.assert_one_cluster();
    assert_eq!(lineages(&cluster), chosen.flatten().into_iter().collect(), "{}", cluster.story());
}

/// D3: the founder is wiped before activation. Its peers and it itself wait and say why; a charter of the next generation, on a
/// volume that was wiped on purpose, frees them; no client was ever admitted to what is given up.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn d03_a_founder_wiped_before_activation_leaves_everybody_waiting_until_the_next_generation() {
    let mut cluster = Cluster::new(3);
    let clients = Oracle::watching(&cluster);
    cluster.nodes[FOUNDER].set_cut_takes_etcd(true);
    arm(&mut cluster.nodes[FOUNDER], Point::Promoted);
    cluster.power_on();
    wait_cut(&cluster, FOUNDER);
    let given_up = lineages(&cluster);
    cluster.power_off();
    cluster.nodes[FOUNDER].arm(None);
    cluster.nodes[FOUNDER].wipe();
    cluster.power_on();
    let holder = 1 + usize::from(lineage(&cluster.nodes[1].state().expect("it has a state")).is_none());
    let holder_name = cluster.nodes[holder].fqdn.to_string();
    cluster.wait_said(FOUNDER, &holder_name);
    holds(
        "a founder that forgot forms nothing beside one that remembers",
        A_WHILE,
        || lineages(&cluster) == given_up && cluster.nodes.iter().all(|node| !node.clients_open()),
        || cluster.story(),
    );

    cluster.new_generation(2, &[0, 1, 2]);
    cluster.power_off();
    cluster.power_on();
    // A new charter alone destroys nothing: who holds data says so and halts.
    cluster.wait_said(holder, "wipe this data disk on purpose");
    holds("data is not given up unasked", A_WHILE, || lineages(&cluster) == given_up, || cluster.story());
    cluster.nodes[holder].power_off();
    cluster.nodes[holder].wipe();
    cluster.nodes[holder].power_on();
    cluster.wait_activated();
    cluster.assert_one_cluster();
    assert!(lineages(&cluster).is_disjoint(&given_up), "the new generation is a new lineage");
    clients.goes_on(10, &cluster);
    clients.verdict(&cluster);
}

/// D4: a member is dead at the first formation. Nothing is activated, everybody says who is missing; a charter of the next generation
/// without it frees the others, and the late comer with its old seed disturbs nobody.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn d04_a_member_dead_at_the_first_formation_is_named_and_left_out_by_the_next_generation() {
    let mut cluster = Cluster::new(4);
    let (alive, dead) = ([0, 1, 2], 3);
    let name = cluster.nodes[dead].fqdn.to_string();
    alive.iter().for_each(|index| cluster.nodes[*index].power_on());
    alive.iter().for_each(|index| cluster.wait_said(*index, &format!("{name} at ")));
    holds("nobody forms without it", A_WHILE, || nobody_formed(&cluster), || cluster.story());

    cluster.new_generation(2, &alive);
    for index in alive {
        cluster.nodes[index].power_off();
        cluster.nodes[index].power_on();
    }
    cluster.wait_serving(&alive);
    cluster.nodes[dead].power_on();
    cluster.wait_said(dead, "does not answer");
    holds(
        "a node of the old generation gets in nowhere",
        A_WHILE,
        || {
            let listed = members(&cluster.nodes[FOUNDER]);
            listed.is_some_and(|list| list.len() == alive.len())
                && cluster.nodes[dead].state().is_some_and(|state| state.position == Phase::Blank)
        },
        || cluster.story(),
    );
}

/// D5: the founder's disk is cloned while blank, and both form. At most one lineage is activated; the other copy learns from its
/// peers that it is a copy and halts.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn d05_of_a_cloned_founder_one_lineage_is_activated_and_the_other_copy_halts() {
    let mut cluster = Cluster::new(3);
    arm(&mut cluster.nodes[FOUNDER], Point::Founding);
    cluster.nodes[FOUNDER].power_on();
    until(
        "the founder's volume to be recorded",
        PATIENCE,
        || cluster.nodes[FOUNDER].state().filter(|state| state.boot_counter > 0),
        || cluster.story(),
    );
    cluster.nodes[FOUNDER].power_off();
    let mut clone = cluster.clone_of(FOUNDER);
    clone.set_link(&cluster.network, false);

    // The original has chosen a lineage when its power fails.
    cluster.power_on();
    wait_cut(&cluster, FOUNDER);
    let first = lineages(&cluster);
    assert_eq!(first.len(), 1, "{}", cluster.story());
    cluster.nodes[FOUNDER].power_off();
    cluster.network.set_link(FOUNDER, false);

    // The peers remember the original's boot of this volume: the copy counts as many, and was another boot.
    clone.set_link(&cluster.network, true);
    clone.node.power_on();
    let clone_says = |words: &str, clone: &Node| {
        until(words, PATIENCE, || clone.console().contains(words).then_some(()), || clone.console());
    };
    clone_says("that was another boot", &clone.node);
    assert_eq!(lineages(&cluster), first, "the copy has formed nothing\n{}", cluster.story());
    // Nobody remembers any more. Now the copy chooses another lineage and gets everybody's vote.
    for node in cluster.nodes[1..].iter_mut().chain([&mut clone.node]) {
        node.power_off();
        node.power_on();
    }
    cluster.wait_serving(&[1, 2]);
    let second = lineages(&cluster).difference(&first).copied().collect::<BTreeSet<_>>();
    assert_eq!(second.len(), 1, "one other lineage\n{}", cluster.story());
    until("the copy to serve", PATIENCE, || clone.node.clients_open().then_some(()), || clone.node.console());
    clone.node.power_off();
    clone.set_link(&cluster.network, false);

    // The original resumes the lineage that it had chosen, and learns that it is not the only one.
    cluster.network.set_link(FOUNDER, true);
    cluster.nodes[FOUNDER].arm(None);
    cluster.nodes[FOUNDER].power_on();
    cluster.wait_said(FOUNDER, "that was another boot");
    holds(
        "the lineage of the original never lets a client in",
        A_WHILE,
        || !cluster.nodes[FOUNDER].clients_open() && !cluster.nodes[FOUNDER].etcd_runs(),
        || cluster.story(),
    );
    let served: BTreeSet<_> = cluster.nodes.iter().flat_map(Node::served).map(|(_, lineage)| lineage).collect();
    assert_eq!(served, second, "one lineage has served\n{}", cluster.story());
}

/// D8, D12: while one peer cannot hear the founder nothing is activated, and a client that connects before activation is refused by
/// the node's packet filter; both end when the partition does.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn d08_d12_a_partition_between_founder_and_peer_defers_activation_and_clients_are_refused_until_then() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[FOUNDER].set_cut_takes_etcd(true);
    arm(&mut cluster.nodes[FOUNDER], Point::Founding);
    cluster.power_on();
    wait_cut(&cluster, FOUNDER);
    // The founder may form now; from here on it and the third node do not hear each other.
    let (founder, third) = (cluster.nodes[FOUNDER].space.clone(), cluster.nodes[2].address);
    firewall::part(&founder, &third.to_string());
    cluster.nodes[FOUNDER].arm(None);
    cluster.nodes[FOUNDER].revive();
    until(
        "the second node to vote",
        PATIENCE,
        || members(&cluster.nodes[1]).filter(|list| list.iter().filter(|m| m.started && !m.learner).count() == 2),
        || cluster.story(),
    );
    holds(
        "nothing is activated while the founder cannot hear the third node",
        A_WHILE,
        || cluster.nodes.iter().all(|node| !node.clients_open() && !node.state().is_some_and(|s| s.activated_seen)),
        || cluster.story(),
    );
    let address = cluster.nodes[FOUNDER].address;
    let connect = |address: &str| format!("exec 3<>/dev/tcp/{address}/2379");
    let local = cluster.nodes[FOUNDER].exec(&["bash", "-c", &connect("127.0.0.1")]);
    assert!(local.status.success(), "etcd itself listens: {}", String::from_utf8_lossy(&local.stderr));
    let client = cluster.from_switch(&["bash", "-c", &connect(&address.to_string())]);
    let said = String::from_utf8_lossy(&client.stderr).into_owned();
    assert!(!client.status.success() && said.contains("refused"), "a client before activation is refused: {said}");

    firewall::mend(&founder);
    cluster.wait_activated();
    cluster.assert_one_cluster();
    let client = cluster.from_switch(&["bash", "-c", &connect(&address.to_string())]);
    assert!(client.status.success(), "and admitted after it: {}", String::from_utf8_lossy(&client.stderr));
}
