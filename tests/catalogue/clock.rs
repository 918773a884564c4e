//! B. Clock and certificates.
//!
//! The clock that is bent is the agent's: the kernel has one, and etcd reads it. What a node's etcd would do by the same bent clock is
//! said where it matters.
#![expect(clippy::disallowed_methods, reason = "tests look at certificates on disk")]

use std::time::Duration;

use kiln_builder::authority::Validity;
use kiln_firstboot::clock;
use kiln_firstboot::state::Phase;
use kiln_tests::certificates::DAY;
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::wait::{holds, until};

const YEAR: i64 = 365 * DAY;

fn serving(mut cluster: Cluster) -> Cluster {
    cluster.power_on();
    cluster.wait_activated();
    cluster.put("before", "it");
    cluster
}

fn members(cluster: &Cluster) -> String {
    until(
        "the member list",
        PATIENCE,
        || {
            let said = cluster.etcdctl(&["member", "list"]);
            let mut lines: Vec<_> = String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect();
            lines.sort();
            said.status.success().then(|| lines.join("\n"))
        },
        || cluster.story(),
    )
}

/// First and last second of a node's certificate.
fn leaf(cluster: &Cluster, index: usize) -> (i64, i64) {
    let pem = fs_err::read_to_string(cluster.nodes[index].volume().join("tls/leaf.pem")).expect("it has a leaf");
    kiln_firstboot::leaf::life(&pem).expect("a leaf is a certificate")
}

/// 1970 at boot. A blank founder mints nothing and forms nothing, says why, and goes on when its clock is set. A member restarts all the
/// same, with the certificate it has.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b01_nothing_is_minted_or_formed_in_1970_and_a_member_restarts() {
    let mut cluster = Cluster::new(3);
    let to_1970 = 100 - clock::now();
    cluster.nodes[0].use_bent_clock(to_1970);
    cluster.power_on();
    cluster.wait_said(0, "the clock says 1970-01-01 00:01:00 UTC, which is before");
    cluster.wait_said(0, "see to NTP or the host's clock");
    holds(
        "nobody forms",
        Duration::from_secs(6),
        || {
            let blank = cluster.nodes.iter().all(|n| n.state().is_none_or(|state| state.position == Phase::Blank));
            blank && !cluster.nodes[0].volume().join("tls/leaf.pem").exists()
        },
        || cluster.story(),
    );
    cluster.nodes[0].bend_clock(0);
    cluster.wait_activated();

    let (before, minted) = (cluster.member(0), leaf(&cluster, 0));
    cluster.nodes[0].power_off();
    cluster.nodes[0].use_bent_clock(to_1970);
    cluster.nodes[0].power_on();
    cluster.wait_said(0, "this node's certificate is left as it is");
    cluster.wait_serving(&[0]);
    assert_eq!((cluster.member(0), leaf(&cluster, 0)), (before, minted));
}

/// A clock a year ahead, and then ten. The step is told, etcd keeps running and nobody is removed; past its issuer's end the node mints
/// nothing. When the clock is mended, the certificate from the future is replaced and the node is heard again.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b02_a_clock_years_ahead_costs_nothing_that_mending_it_does_not_bring_back() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[2].use_bent_clock(0);
    let mut cluster = serving(cluster);
    let before = members(&cluster);
    cluster.nodes[2].bend_clock(YEAR);
    cluster.wait_said(2, "the clock was set by 31536");
    until("a leaf of that future", PATIENCE, || (leaf(&cluster, 2).0 > clock::now()).then_some(()), || cluster.story());
    cluster.nodes[2].bend_clock(10 * YEAR);
    cluster.wait_said(2, "the node's issuer expired at");
    assert!(cluster.nodes[2].etcd_runs());
    cluster.put("ahead", "it");
    assert_eq!(members(&cluster), before);

    // Restarted in that year, its volume remembers it.
    cluster.nodes[2].power_off();
    cluster.nodes[2].use_bent_clock(YEAR);
    cluster.nodes[2].power_on();
    cluster.wait_said(2, "days after the last time this volume has seen");
    until(
        "the volume to remember the year",
        PATIENCE,
        || cluster.nodes[2].state().filter(|state| state.max_seen_time > clock::now() + YEAR / 2),
        || cluster.story(),
    );
    assert_eq!(members(&cluster), before);

    // Mended: believed as soon as it is synchronized.
    cluster.nodes[2].power_off();
    cluster.nodes[2].use_bent_clock(0);
    cluster.nodes[2].power_on();
    cluster.nodes[2].synchronize_clock();
    cluster.wait_said(2, "it was ahead then, and is believed now");
    until("a leaf of today", PATIENCE, || (leaf(&cluster, 2).0 < clock::now()).then_some(()), || cluster.story());
    cluster.wait_serving(&[2]);
    assert!(cluster.nodes[2].state().is_some_and(|state| state.max_seen_time < clock::now() + 60));
    assert_eq!(members(&cluster), before);
    // It is heard: the two with it are a majority.
    cluster.nodes[0].power_off();
    cluster.put("mended", "it");
    assert_eq!(cluster.get("ahead").as_deref(), Some("it"));
}

/// Ten minutes ahead and ten minutes behind: leaves are backdated by an hour, so everybody forms with everybody.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b04_clocks_ten_minutes_apart_either_way_form_one_cluster() {
    let mut cluster = Cluster::new(3);
    for (node, skew) in cluster.nodes.iter_mut().zip([-600, 0, 600]) {
        node.use_bent_clock(skew);
    }
    let cluster = serving(cluster);
    let lineages: std::collections::BTreeSet<_> = (0..3).map(|i| cluster.member(i).map(|m| m.0)).collect();
    assert_eq!(lineages.len(), 1);
    assert_eq!(cluster.get("before").as_deref(), Some("it"));
}

/// A leaf expires while its agent is dead: connections that exist live on and the member keeps up. When the agent is back, it renews the
/// leaf at once, and new connections are made again.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b05_a_leaf_that_expires_under_a_dead_agent_is_renewed_when_the_agent_is_back() {
    let mut cluster = Cluster::new(3);
    cluster.mint_earlier(10 * DAY);
    let mut cluster = serving(cluster);
    // Its agent's clock is so far behind that the leaf it mints ends within a minute.
    cluster.nodes[2].power_off();
    fs_err::remove_file(cluster.nodes[2].home.join("data/tls/leaf.pem")).expect("removing a leaf");
    cluster.nodes[2].use_bent_clock(45 - kiln_firstboot::leaf::LIFETIME_SECS);
    cluster.nodes[2].power_on();
    cluster.nodes[2].synchronize_clock();
    until("etcd to run with it", PATIENCE, || cluster.nodes[2].etcd_runs().then_some(()), || cluster.story());
    cluster.wait_caught_up(2);
    cluster.nodes[2].crash_agent();
    let (_, ends) = leaf(&cluster, 2);
    until("the leaf to expire", PATIENCE * 2, || (clock::now() > ends).then_some(()), || format!("it ends at {ends}"));
    cluster.put("expired", "it");
    let here = cluster.history(0, None);
    until(
        "the member with the expired leaf to keep up",
        PATIENCE,
        || (cluster.history(2, Some(here.revision)).hash == here.hash).then_some(()),
        || cluster.story(),
    );
    // A connection that is made anew needs a leaf that serves.
    cluster.network.set_link(2, false);
    cluster.put("apart", "it");
    cluster.nodes[2].bend_clock(0);
    cluster.nodes[2].restart_agent();
    until("a new leaf", PATIENCE, || (leaf(&cluster, 2).1 > clock::now() + DAY).then_some(()), || cluster.story());
    cluster.network.set_link(2, true);
    cluster.nodes[0].power_off();
    cluster.put("renewed", "it");
}

/// The issuer's end is told from half its life on. When it has ended, nothing is minted and the console says what to mint; the member
/// runs on, and a new seed is enough.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b06_an_issuers_end_is_told_early_and_a_new_seed_mends_it() {
    let mut cluster = Cluster::new(3);
    let root = cluster.peer_root();
    let now = clock::now();
    cluster.nodes[2].give_issuer(&root, Validity { not_before: now - 30 * DAY, not_after: now + 20 * DAY });
    cluster.nodes[2].use_bent_clock(0);
    let mut cluster = serving(cluster);
    let before = members(&cluster);
    cluster.wait_said(2, "at most 50 % of its life is left");
    for (days, percent) in [(10, "25 %"), (16, "10 %")] {
        cluster.nodes[2].bend_clock(days * DAY);
        cluster.wait_said(2, &format!("at most {percent} of its life is left"));
    }
    cluster.nodes[2].bend_clock(21 * DAY);
    cluster.wait_said(2, "the node's issuer expired at");
    cluster.wait_said(2, "mint a new seed");
    assert!(cluster.nodes[2].etcd_runs());
    cluster.put("expired", "it");
    assert_eq!(members(&cluster), before);

    cluster.nodes[2].power_off();
    cluster.nodes[2].give_issuer(&root, Validity::starting(now, YEAR));
    cluster.nodes[2].use_bent_clock(0);
    cluster.nodes[2].power_on();
    until("a new leaf", PATIENCE, || (leaf(&cluster, 2).0 >= now - 3600).then_some(()), || cluster.story());
    cluster.wait_serving(&[2]);
    assert_eq!(members(&cluster), before);
}

/// Another root in three rolling steps: all trust both; all chains are of the new one; the old one is dropped. One node at a time, a
/// client writes throughout and is never without a quorum. (`kiln pki` has no verb for it yet: the seeds are changed by the test.)
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b08_a_root_is_rotated_in_three_rolling_steps_under_load() {
    let mut cluster = serving(Cluster::new(3));
    let before = members(&cluster);
    let (old, new) = (cluster.peer_root(), cluster.another_peer_root());
    let mut writer = cluster.start_writer("seq");
    for step in 1..=3 {
        for index in 0..3 {
            let so_far = writer.acknowledged();
            let node = &mut cluster.nodes[index];
            node.power_off();
            match step {
                1 => node.give_peer_roots(&[&old, &new]),
                2 => node.give_issuer(&new, Validity::starting(clock::now(), YEAR)),
                _ => node.give_peer_roots(&[&new]),
            }
            let writes = || {
                until(
                    &format!("writes in step {step} without node {index}"),
                    PATIENCE,
                    || (writer.acknowledged() > so_far + 2).then_some(()),
                    || cluster.story(),
                )
            };
            writes();
            cluster.nodes[index].power_on();
            cluster.wait_serving(&[index]);
            cluster.wait_caught_up(index);
        }
    }
    let acknowledged = writer.stop();
    let found: u64 = cluster.get("seq").expect("the key is there").parse().expect("it is a number");
    assert!(found >= acknowledged);
    assert_eq!(members(&cluster), before);
}

/// The first step was skipped: a node comes with a chain of a root that nobody trusts yet. Agents and etcds refuse it, it waits and says
/// so, and nobody removes it. Its old seed is enough.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn b09_a_node_of_a_root_that_nobody_trusts_yet_waits_and_is_not_removed() {
    let mut cluster = serving(Cluster::new(3));
    let before = members(&cluster);
    let (old, new) = (cluster.peer_root(), cluster.another_peer_root());
    cluster.nodes[2].power_off();
    cluster.nodes[2].give_peer_roots(&[&old, &new]);
    cluster.nodes[2].give_issuer(&new, Validity::starting(clock::now(), YEAR));
    cluster.nodes[2].power_on();
    cluster.wait_said(2, "etcd has been started and does not answer yet");
    cluster.wait_said(2, "that do not: n1.unit.kiln.test, n2.unit.kiln.test");
    cluster.put("without", "it");
    holds(
        "the refused node keeps its place",
        Duration::from_secs(5),
        || members(&cluster) == before && cluster.nodes[2].etcd_runs(),
        || cluster.story(),
    );
    cluster.nodes[2].power_off();
    cluster.nodes[2].give_issuer(&old, Validity::starting(clock::now(), YEAR));
    cluster.nodes[2].power_on();
    cluster.wait_serving(&[2]);
    assert_eq!(cluster.get("without").as_deref(), Some("it"));
    assert_eq!(members(&cluster), before);
}
