use camino::Utf8Path;
use kiln_firstboot::digest::Id128;
use proptest::prelude::*;

use super::*;
use crate::host::Mark;

fn placed(counts: &[usize]) -> Placement {
    Placement::new(
        counts
            .iter()
            .enumerate()
            .map(|(h, count)| (format!("h{h}"), (0..*count).map(|n| format!("h{h}n{n}")).collect::<Vec<_>>())),
    )
}

fn machine(node: &str, running: bool) -> Seen {
    Seen {
        mark: Mark { cluster: Id128([1; 16]), env: "k8s0".into(), node: node.into() },
        handle: node.into(),
        uuid: String::new(),
        running,
        root: None,
        previous: None,
        data_bytes: None,
        seed: None,
        memory_mib: 0,
        vcpus: 0,
        mac: None,
        bridge: None,
        trouble: vec![],
    }
}

fn k8s0() -> Profile {
    Profile::parse(Utf8Path::new("profiles/k8s0.toml"), include_str!("../../../profiles/k8s0.toml")).unwrap()
}

/// Every layout of `voters` on `hosts` hosts, host by host.
fn all(voters: usize, hosts: usize) -> Vec<Vec<usize>> {
    if hosts == 0 {
        return if voters == 0 { vec![vec![]] } else { vec![] };
    }
    let with = |first: usize| all(voters - first, hosts - 1).into_iter().map(move |rest| [vec![first], rest].concat());
    (0..=voters).flat_map(with).collect()
}

#[test]
fn the_tutorials_six_nodes_lose_everything_with_either_host_and_are_told_so() {
    let placement = Placement::of(&k8s0());
    assert_eq!(
        placement.to_string(),
        "6 voters, 4 are a majority: 2 may be lost\n\
         \x20 5 would survive the loss of as many, and each write would wait for one less\n\
         \x20 without pve1 (k8s0etcd1, k8s0etcd2, k8s0etcd3): 3 of 6 left, the cluster stops until it is back\n\
         \x20 without pve2 (k8s0etcd4, k8s0etcd5, k8s0etcd6): 3 of 6 left, the cluster stops until it is back\n\
         No placement on two hosts survives the loss of an arbitrary one: one of them holds half of the voters or more.\n\
         pve1 and pve2 must both survive.\n\
         Less is lost with pve1 4, pve2 2: only pve1 must survive (1 node moves).\n\
         With one voter more, a witness on another host elsewhere, however small, the loss of any one host is survived: \
         pve1 3, pve2 3, witness 1 (of 7).\n"
    );
}

#[test]
fn five_on_two_hosts_have_one_that_must_survive_and_a_witness_would_free_it() {
    let placement = placed(&[3, 2]);
    assert_eq!((placement.better.clone(), placement.fatal().count()), (None, 1));
    let witness = placement.witness.unwrap();
    assert_eq!((witness.total, witness.voters.values().copied().collect::<Vec<_>>()), (5, vec![2, 2]));
}

#[test]
fn three_on_three_hosts_survive_any() {
    let text = placed(&[1, 1, 1]).to_string();
    assert!(text.ends_with("The loss of any one host is survived.\n") && !text.contains("two hosts"), "{text}");
}

#[test]
fn a_migration_that_puts_all_on_one_host_shows() {
    let profile = k8s0();
    let on = |nodes: &[&str]| nodes.iter().map(|node| machine(node, true)).collect::<Vec<_>>();
    let mut seen = BTreeMap::from([
        ("pve1".to_owned(), on(&["k8s0etcd1", "k8s0etcd2", "k8s0etcd3", "k8s0etcd4"])),
        ("pve2".to_owned(), on(&["k8s0etcd5", "k8s0etcd6"])),
    ]);
    let found: Vec<String> = astray(&profile, &seen).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["k8s0etcd4 is on pve1; the profile has it on pve2"]);
    let placement = Placement::found(&profile, &seen);
    assert_eq!(placement.fatal().map(|loss| loss.host.as_str()).collect::<Vec<_>>(), ["pve1"]);

    seen.get_mut("pve2").unwrap().push(machine("k8s0etcd4", false));
    let found: Vec<String> = astray(&profile, &seen).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["k8s0etcd4 is on pve1 and on pve2; the profile has it on pve2"]);
    // It counts where it runs.
    assert_eq!(Placement::found(&profile, &seen), placement);
    // What was found nowhere counts where it is to be.
    assert_eq!(Placement::found(&profile, &BTreeMap::new()), Placement::of(&profile));
}

proptest! {
    #[test]
    fn no_placement_on_two_hosts_survives_the_loss_of_either(voters in 1usize..40, first in 0usize..40) {
        let first = first.min(voters);
        prop_assert!(placed(&[first, voters - first]).fatal().count() >= 1);
    }

    #[test]
    fn what_is_proposed_is_the_least_bad_of_all_layouts(counts in proptest::collection::vec(0usize..4, 1..5)) {
        prop_assume!(counts.iter().sum::<usize>() > 0);
        let (placement, voters) = (placed(&counts), counts.iter().sum());
        let least = all(voters, counts.len()).iter().map(|layout| badness(layout)).min().unwrap();
        let proposed: Vec<usize> = placement.better.as_ref().map_or(counts.clone(), |b| b.voters.values().copied().collect());
        prop_assert_eq!(badness(&proposed), least);
        prop_assert_eq!(proposed.iter().sum::<usize>(), voters);
        if let Some(better) = &placement.better {
            let moved: usize = counts.iter().zip(&proposed).map(|(from, to)| from.saturating_sub(*to)).sum();
            prop_assert_eq!(better.moves, moved);
            prop_assert_eq!(better.fatal.len(), least.0);
            prop_assert!(badness(&counts) > least);
        }
    }

    #[test]
    fn a_witness_is_offered_exactly_where_it_frees_every_host(counts in proptest::collection::vec(0usize..4, 1..5)) {
        prop_assume!(counts.iter().sum::<usize>() > 0);
        let (placement, voters) = (placed(&counts), counts.iter().sum::<usize>());
        let frees = |total: usize| all(total - 1, counts.len()).iter().any(|l| badness(&[l.as_slice(), &[1]].concat()).0 == 0);
        let wanted = placement.fatal().count() > 0 && (frees(voters) || frees(voters + 1));
        prop_assert_eq!(placement.witness.is_some(), wanted);
        if let Some(witness) = placement.witness {
            let all: Vec<usize> = witness.voters.values().copied().chain([1]).collect();
            prop_assert_eq!((badness(&all).0, all.iter().sum::<usize>()), (0, witness.total));
        }
    }

    #[test]
    fn a_host_is_fatal_exactly_when_fewer_than_a_majority_are_left(counts in proptest::collection::vec(0usize..6, 1..6)) {
        prop_assume!(counts.iter().sum::<usize>() > 0);
        let placement = placed(&counts);
        for (loss, count) in placement.losses.iter().zip(&counts) {
            let left = placement.voters - count;
            prop_assert_eq!((loss.left, loss.quorum), (left, 2 * left > placement.voters));
        }
    }
}
