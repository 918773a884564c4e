use camino::Utf8Path;
use proptest::prelude::*;

use super::*;

fn profile() -> Profile {
    Profile::parse(Utf8Path::new("profiles/k8s0.toml"), include_str!("../../../profiles/k8s0.toml")).unwrap()
}

const CLUSTER: Id128 = Id128([1; 16]);

fn wished() -> Vec<Wished> {
    Wished::all(&profile(), CLUSTER, |_| Ok::<_, ()>(Sha256Digest([7; 32]))).unwrap()
}

fn root(n: u8) -> Root {
    Root { image: Sha256Digest([n; 32]), generation: u64::from(n) }
}

/// The machine as it is to be, on, with generation 1.
fn seen(wished: &Wished) -> Seen {
    let machine = &wished.machine;
    Seen {
        mark: machine.mark.clone(),
        handle: format!("k8s0.{}", machine.mark.node),
        uuid: machine.uuid.clone(),
        running: true,
        root: Some(root(1)),
        previous: None,
        data_bytes: Some(u64::from(machine.data_gib) * GIB),
        seed: Some(wished.seed),
        memory_mib: machine.memory_mib,
        vcpus: machine.vcpus,
        mac: Some(machine.mac),
        bridge: Some(machine.bridge.clone()),
        trouble: vec![],
    }
}

/// All six as they are to be, each changed by `change`.
fn survey(change: impl Fn(&mut Seen)) -> Survey {
    let mut survey = Survey(BTreeMap::from([("pve1".to_owned(), Ok(vec![])), ("pve2".to_owned(), Ok(vec![]))]));
    for one in wished() {
        let mut seen = seen(&one);
        change(&mut seen);
        survey.0.get_mut(&one.host).unwrap().as_mut().unwrap().push(seen);
    }
    survey
}

fn one(survey: &Survey) -> MachinePlan {
    deploy(&wished()[1..2], survey, root(1), Told::default())
}

fn lines(plan: &MachinePlan) -> Vec<String> {
    plan.steps.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let plan = deploy(&wished(), &survey(|_| ()), root(1), Told::default());
    assert!(plan.is_empty() && plan.notes.is_empty(), "{plan}");
    assert_eq!(plan.to_string(), "nothing to do\n");
}

#[test]
fn an_empty_pair_of_hosts_gets_the_image_once_each_and_three_machines() {
    let nothing = Survey(BTreeMap::from([("pve1".to_owned(), Ok(vec![])), ("pve2".to_owned(), Ok(vec![]))]));
    let plan = deploy(&wished()[..4], &nothing, root(1), Told::default());
    assert_eq!(
        lines(&plan),
        [
            "pve1: have image 010101010101 there",
            "pve1: k8s0etcd1: create, with generation 1 (image 010101010101)",
            "pve1: k8s0etcd1: power on",
            "pve1: k8s0etcd2: create, with generation 1 (image 010101010101)",
            "pve1: k8s0etcd2: power on",
            "pve1: k8s0etcd3: create, with generation 1 (image 010101010101)",
            "pve1: k8s0etcd3: power on",
            "pve2: have image 010101010101 there",
            "pve2: k8s0etcd4: create, with generation 1 (image 010101010101)",
            "pve2: k8s0etcd4: power on",
        ]
    );
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["steps"][1]["act"], "create");
    assert_eq!(json["steps"][1]["node"], "k8s0etcd1");
    assert_eq!(json["steps"][1]["root"]["generation"], 1);
}

#[test]
fn what_is_off_is_brought_up_to_date_and_started() {
    let plan = one(&survey(|seen| {
        (seen.running, seen.vcpus, seen.seed) = (false, 1, None);
    }));
    let acts: Vec<Act> = plan.steps.iter().map(|step| step.act).collect();
    assert_eq!(acts, [Act::ReplaceSeed, Act::Redefine, Act::PowerOn]);
}

#[test]
fn what_runs_is_not_changed_and_it_is_said_when_it_will_be() {
    let plan = one(&survey(|seen| seen.vcpus = 1));
    assert!(plan.steps.is_empty());
    assert!(plan.notes[0].starts_with("k8s0etcd2 runs with processors 1, not 2: changed when"), "{plan}");
}

#[test]
fn another_generation_is_a_rollouts_business() {
    let plan = one(&survey(|seen| seen.root = Some(root(2))));
    assert!(plan.steps.is_empty() && plan.refusals[0].remedy.contains("kiln rollout"), "{plan}");
    let mixed = deploy(&wished(), &survey(|seen| seen.root = Some(root(2))), root(1), Told { mixed: true });
    assert!(mixed.steps.is_empty() && mixed.refusals.is_empty() && mixed.notes.len() == 6, "{mixed}");
}

#[test]
fn what_cannot_be_right_is_refused() {
    let refusal = |change: fn(&mut Seen)| {
        let plan = one(&survey(change));
        assert!(plan.steps.is_empty(), "{plan}");
        plan.refusals.iter().map(|lack| lack.what.clone()).collect::<Vec<_>>().join("\n")
    };
    assert!(refusal(|seen| seen.data_bytes = Some(GIB)).contains("has 1073741824 bytes, fewer than the 17179869184"));
    assert!(refusal(|seen| seen.uuid = "other".into()).contains("has the UUID other"));
    assert!(
        refusal(|seen| seen.trouble.push(Lack { what: "a lock".into(), remedy: String::new() })).contains("a lock")
    );
    assert!(refusal(|seen| seen.root = None).contains("is not whole"));
    assert!(refusal(|seen| seen.root = Some(Root { generation: ON_ITS_WAY, ..root(1) })).contains("cut off"));

    let mut twice = survey(|_| ());
    let copy = twice.machines("k8s0etcd2").next().unwrap().1.clone();
    twice.0.get_mut("pve2").unwrap().as_mut().unwrap().push(copy.clone());
    assert!(one(&twice).refusals[0].what.contains("there more than once: on pve1 (k8s0.k8s0etcd2) and on pve2"));
    twice.0.get_mut("pve1").unwrap().as_mut().unwrap().retain(|seen| seen.mark.node != "k8s0etcd2");
    assert!(one(&twice).refusals[0].what.contains("k8s0etcd2 is on pve2; the profile has it on pve1"));
}

#[test]
fn a_wiped_reimage_says_so_in_capitals_and_keeps_the_old_root() {
    let order = Reimage { root: root(2), anew: false, wipe_data: true };
    let plan = reimage(&wished()[1], &survey(|_| ()), order);
    assert_eq!(
        lines(&plan),
        [
            "pve1: have image 020202020202 there",
            "pve1: k8s0etcd2: shut down",
            "pve1: k8s0etcd2: replace the root by generation 2 (image 020202020202), keep the old one",
            "pve1: k8s0etcd2: WIPE the data volume",
            "pve1: k8s0etcd2: power on",
        ]
    );
}

fn any_seen(node: usize) -> impl Strategy<Value = Seen> {
    let root = || proptest::option::of((0u8..3).prop_map(root));
    let small = proptest::option::of(prop_oneof![Just(GIB), Just(16 * GIB), Just(32 * GIB)]);
    let trouble = prop_oneof![4 => Just(0usize), 1 => Just(1usize)];
    (
        any::<bool>(),
        root(),
        root(),
        small,
        any::<bool>(),
        any::<bool>(),
        trouble,
        prop_oneof![9 => Just(true), 1 => Just(false)],
    )
        .prop_map(move |(running, root, previous, data_bytes, seeded, shaped, trouble, own)| {
            let wished = wished();
            let mut seen = seen(&wished[node]);
            (seen.running, seen.root, seen.previous, seen.data_bytes) = (running, root, previous, data_bytes);
            seen.seed = seen.seed.filter(|_| seeded);
            seen.vcpus += u32::from(!shaped);
            seen.trouble = vec![Lack { what: "locked".into(), remedy: String::new() }; trouble];
            if !own {
                seen.uuid = "another".into();
            }
            seen
        })
}

/// Any survey of two hosts: machines of any node, in any state, on either host or both; a host may be silent.
fn any_survey() -> impl Strategy<Value = Survey> {
    let host = || {
        let machine = (0usize..6).prop_flat_map(any_seen);
        prop_oneof![
            8 => proptest::collection::vec(machine, 0..7).prop_map(Ok),
            1 => Just(Err("no route".to_owned())),
        ]
    };
    (host(), host()).prop_map(|(one, two)| Survey(BTreeMap::from([("pve1".to_owned(), one), ("pve2".to_owned(), two)])))
}

proptest! {
    #[test]
    fn deploying_never_takes_anything_away(survey in any_survey(), mixed in any::<bool>()) {
        let plan = deploy(&wished(), &survey, root(1), Told { mixed });
        for step in &plan.steps {
            let takes = !matches!(step.act, Act::Upload { .. } | Act::Create { .. } | Act::Redefine | Act::ReplaceSeed | Act::PowerOn);
            prop_assert!(!takes, "{}", step);
        }
    }

    #[test]
    fn nothing_is_done_to_a_machine_that_may_not_be_touched(survey in any_survey(), n in 1u8..3, anew in any::<bool>(), wipe_data in any::<bool>()) {
        let order = Reimage { root: root(n), anew, wipe_data };
        for wished in &wished() {
            let node = wished.node();
            let found: Vec<_> = survey.machines(node).collect();
            let sound = match found.as_slice() {
                [] => survey.silent().next().is_none(),
                [(host, seen)] => *host == wished.host && seen.trouble.is_empty() && seen.uuid == wished.machine.uuid,
                _ => false,
            };
            for plan in [
                deploy(std::slice::from_ref(wished), &survey, root(1), Told { mixed: true }),
                reimage(wished, &survey, order),
                give_back(wished, &survey, root(n)),
                settle(std::slice::from_ref(wished), &survey),
            ] {
                prop_assert!(sound || plan.steps.is_empty(), "{}", plan);
                prop_assert!(plan.steps.iter().all(|step| step.node.as_deref().is_none_or(|named| named == node)));
            }
            let wipes = reimage(wished, &survey, order).steps.iter().filter(|step| step.act == Act::WipeData).count();
            prop_assert_eq!(wipes, usize::from(sound && wipe_data));
        }
    }

    #[test]
    fn what_needs_a_machine_to_be_off_comes_after_it_is(survey in any_survey(), n in 1u8..3, anew in any::<bool>(), wipe_data in any::<bool>()) {
        let order = Reimage { root: root(n), anew, wipe_data };
        for wished in &wished() {
            for plan in [reimage(wished, &survey, order), give_back(wished, &survey, root(n))] {
                let mut on = survey.machines(wished.node()).any(|(_, seen)| seen.running);
                for step in &plan.steps {
                    match step.act {
                        Act::PowerOff => on = false,
                        Act::PowerOn => on = true,
                        Act::Upload { .. } | Act::Collect | Act::DropPrevious => {}
                        Act::Create { .. } | Act::Redefine | Act::ReplaceSeed | Act::ReplaceRoot { .. } | Act::RestoreRoot | Act::WipeData | Act::Destroy { .. } => {
                            prop_assert!(!on, "{}", plan);
                        }
                    }
                }
                prop_assert!(on || plan.steps.is_empty(), "{}", plan);
            }
        }
    }

    #[test]
    fn data_go_only_with_nodes_that_are_named(survey in any_survey(), power_off in any::<bool>(), named in 0usize..6) {
        let doomed = wished();
        let name = doomed[named].node().to_owned();
        let order = Destroy { power_off, with_data: [name.clone()].into() };
        for step in destroy(&doomed, &survey, &order).steps {
            if step.act == (Act::Destroy { with_data: true }) {
                prop_assert_eq!(step.node.as_ref(), Some(&name));
            }
        }
        if !power_off {
            for step in destroy(&doomed, &survey, &order).steps {
                let runs = |node: &String| survey.machines(node).any(|(host, seen)| host == step.host && seen.running);
                prop_assert!(step.node.as_ref().is_none_or(|node| !runs(node) || survey.machines(node).count() > 1));
            }
        }
    }
}
