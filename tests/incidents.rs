//! What etcd itself does when it is run without kiln's rules. Each test reproduces an incident that a rule of ours prevents: as long as it does, the
//! rule is needed. TRACK_RECORD.md lists them.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]

use std::time::Duration;

use kiln_tests::bare_etcd::BareCluster;
use kiln_tests::wait::until;

/// As long as anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Keys written before the accident.
const OLD: usize = 20;

/// Three members with data under `token`.
fn three(token: &str) -> BareCluster {
    let mut cluster = BareCluster::new(3);
    (0..3).for_each(|m| cluster.start(m, "new", token, &[0, 1, 2]));
    (0..3).for_each(|m| cluster.wait_serving(m));
    cluster.write(0, "old", OLD);
    (0..3).for_each(|m| wait_count(&cluster, m, "old", OLD));
    // That an entry is committed is on a member's disk when the entry after it is, and one that is started alone drops what is not.
    cluster.write(0, "later", 1);
    (0..3).for_each(|m| wait_count(&cluster, m, "later", 1));
    cluster
}

/// Waits until a member's own store has all `count` keys of `prefix`: acknowledged means a majority has them.
fn wait_count(cluster: &BareCluster, member: usize, prefix: &str, count: usize) {
    until(
        "a member to have every key",
        PATIENCE,
        || (cluster.count(member, prefix) == count).then_some(()),
        || cluster.log(member),
    );
}

/// Two of three lose their disks and are started again as they were the first time, by `token`.
fn re_form_without_the_third(cluster: &mut BareCluster, token: &str) {
    (0..3).for_each(|m| cluster.kill(m));
    [0, 1].iter().for_each(|m| cluster.wipe(*m));
    [0, 1].iter().for_each(|m| cluster.start(*m, "new", token, &[0, 1, 2]));
    cluster.wait_serving(0);
    cluster.write(0, "new", 2 * OLD);
}

/// Law 1, etcd#9630: with the same token the third is taken for one of them and serves what no other member has. No word of warning.
#[test]
#[ignore = "needs root and etcd"]
fn c13_two_of_three_wiped_re_form_under_the_same_ids_and_the_third_diverges() {
    let mut cluster = three("static");
    let (before, _) = cluster.standing(0);
    re_form_without_the_third(&mut cluster, "static");
    cluster.start(2, "new", "static", &[0, 1, 2]);
    cluster.wait_serving(2);
    let (after, index) = cluster.standing(0);
    assert_eq!(before, after, "it even has the same cluster id");
    until(
        "the third to be in step, as raft counts",
        PATIENCE,
        || (cluster.standing(2).1 >= index).then_some(()),
        || cluster.log(2),
    );
    assert_eq!((cluster.count(0, "old"), cluster.count(2, "old")), (0, OLD), "one cluster, two truths");
    assert!(cluster.count(2, "new") < cluster.count(0, "new"), "and writes that the third was never sent");
    assert!(!cluster.log(2).contains("\"level\":\"panic\"") && !cluster.log(2).contains("cluster ID mismatch"));
}

/// The same with a token of its own: the third is kept out, with its data as it was.
#[test]
#[ignore = "needs root and etcd"]
fn c13_a_fresh_token_keeps_the_third_out_with_its_data() {
    let mut cluster = three("first");
    let (before, _) = cluster.standing(0);
    re_form_without_the_third(&mut cluster, "second");
    cluster.start(2, "new", "first", &[0, 1, 2]);
    cluster.wait_logged(2, "cluster ID mismatch");
    assert_ne!(cluster.standing(0).0, before);
    // It serves nobody, not even stale reads; alone, it tells what it has.
    cluster.kill(2);
    cluster.start_alone(2);
    cluster.wait_serving(2);
    assert_eq!(cluster.count(2, "old"), OLD);
}

/// Law 2: a wiped voter that votes again under its old id elects a member that lacks what was acknowledged. One reimage, all writes of an hour lost.
#[test]
#[ignore = "needs root and etcd"]
fn c12_a_wiped_voter_that_reuses_its_id_loses_acknowledged_writes() {
    let mut cluster = three("static");
    cluster.kill(1);
    cluster.write(0, "acknowledged", OLD);
    wait_count(&cluster, 2, "acknowledged", OLD);
    cluster.kill(0);
    cluster.kill(2);
    cluster.wipe(2);
    // etcd asks the others whether it has been a member; as long as nobody answers, it takes that for a no.
    let starts = cluster.log(2).matches("starting local member").count();
    cluster.start(2, "new", "static", &[0, 1, 2]);
    until(
        "the third to start again",
        PATIENCE,
        || (cluster.log(2).matches("starting local member").count() > starts).then_some(()),
        || cluster.log(2),
    );
    cluster.start(1, "new", "static", &[0, 1, 2]);
    cluster.wait_serving(1);
    assert_eq!(cluster.count(1, "acknowledged"), 0, "every one is gone");
    assert_eq!(cluster.count(1, "old"), OLD);
}

/// Law 2 as well, etcd#2706: beside a leader that remembers it, a wiped voter dies at every start.
///
/// A leader that is elected after the accident remembers nothing of it and takes the wiped one back without a word, which is what makes this
/// dangerous. A round in which the leader changes shows nothing, and there is another.
#[test]
#[ignore = "needs root and etcd"]
fn e21_a_wiped_voter_started_again_under_its_id_panics() {
    let died = (0..10).any(|_| {
        let mut cluster = three("static");
        let reign = cluster.reign(0);
        // The leader of this reign hears from the voter that it has these.
        cluster.write(0, "remembered", OLD);
        wait_count(&cluster, 1, "remembered", OLD);
        cluster.kill(1);
        cluster.wipe(1);
        cluster.start(1, "existing", "static", &[0, 1, 2]);
        until(
            "the wiped voter to die, or another leader",
            PATIENCE,
            || {
                let dies = cluster.log(1).contains("is out of range [lastIndex(0)]");
                let goes_on = reign.is_some() && cluster.reign(0) == reign;
                (dies || !goes_on).then_some(dies)
            },
            || cluster.log(1),
        )
    });
    assert!(died, "in ten rounds no leader kept its place until the wiped voter had started");
}

/// E13: etcd hashes the second into a new member's id. Added, removed and added within one, it is the id that was removed for ever.
#[test]
#[ignore = "needs root and etcd"]
fn e13_a_member_added_again_within_the_second_cannot_be_added() {
    let mut cluster = BareCluster::new(2);
    cluster.start(0, "new", "one", &[0]);
    cluster.wait_serving(0);
    let url = format!("--peer-urls={}", cluster.peer_url(1));
    // Added and removed, again and again, until an addition falls into the second of the one before it.
    let refused = until(
        "two additions within one second",
        PATIENCE,
        || {
            let added = cluster.etcdctl(0, &["member", "add", "m1", "--learner", &url]);
            if !added.status.success() {
                return Some(String::from_utf8_lossy(&added.stderr).into_owned());
            }
            let said = String::from_utf8_lossy(&added.stdout).into_owned();
            let id = said.split_whitespace().nth(1).expect("`Member ID added`");
            cluster.ok(0, &["member", "remove", id]);
            None
        },
        || cluster.log(0),
    );
    assert!(refused.contains("member not found"), "{refused}");
}

/// H9: of three members of a static bootstrap two are enough to serve, and the one that never ran is listed as started.
#[test]
#[ignore = "needs root and etcd"]
fn d04_a_member_that_never_ran_is_listed_as_started() {
    let mut cluster = BareCluster::new(3);
    [0, 1].iter().for_each(|m| cluster.start(*m, "new", "static", &[0, 1, 2]));
    cluster.wait_serving(0);
    let list = cluster.ok(0, &["member", "list"]);
    let never = list.lines().find(|line| line.contains(" m2,")).expect("it is listed");
    assert!(never.contains("started"), "{list}");
    assert!(!never.contains(&cluster.client_url(2)), "without client URLs, which is how kiln tells");
}
