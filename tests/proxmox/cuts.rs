//! kiln dies, or the host goes silent, at every request of every step: before the request is carried out, and after. Then the same call is made again.
//!
//! It must come to the same end as a call that nothing cut off: the same machines with the same bytes on their disks, nothing twice, nothing left over,
//! and the node's data as they were.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kiln_builder::exit::{Refusal, TryAgain};
use kiln_builder::host::{Host as _, Machine};

use crate::hands::{Hands, Silent, end, machine, root, seed};
use crate::world::{Trouble, World};

/// A step of a machine's life, and how far the world must be for it.
struct Step {
    name: &'static str,
    before: fn(&Hands),
    call: fn(&Hands) -> anyhow::Result<()>,
}

fn node() -> Machine {
    machine("etcd1")
}

fn second_image(hands: &Hands) {
    hands.deploy(1);
    hands.write_data(b"a thousand writes");
    hands.driver.ensure_image(&hands.image(2), &Silent).unwrap();
}

fn second_root(hands: &Hands) {
    second_image(hands);
    hands.driver.replace_root(&node(), root(2), &hands.image(2)).unwrap();
}

fn running(hands: &Hands) {
    second_root(hands);
    hands.driver.power_on(&node()).unwrap();
}

fn parked(hands: &Hands) {
    second_root(hands);
    hands.driver.destroy(&node(), false).unwrap();
}

const STEPS: [Step; 14] = [
    Step { name: "ensure_image", before: |_| {}, call: |h| h.driver.ensure_image(&h.image(1), &Silent).map(drop) },
    Step {
        name: "ensure_machine",
        before: |h| assert!(h.driver.ensure_image(&h.image(1), &Silent).is_ok()),
        call: |h| h.driver.ensure_machine(&node(), root(1), &h.image(1), &seed(1)),
    },
    Step {
        name: "ensure_machine with data that were kept",
        before: parked,
        call: |h| h.driver.ensure_machine(&node(), root(1), &h.image(1), &seed(1)),
    },
    Step { name: "replace_root", before: second_root, call: |h| h.driver.replace_root(&node(), root(1), &h.image(1)) },
    Step { name: "restore_root", before: second_root, call: |h| h.driver.restore_root(&node()) },
    Step { name: "drop_previous_root", before: running, call: |h| h.driver.drop_previous_root(&node()) },
    Step { name: "replace_seed", before: second_root, call: |h| h.driver.replace_seed(&node(), &seed(2)) },
    Step { name: "wipe_data", before: second_root, call: |h| h.driver.wipe_data(&node()) },
    Step {
        name: "redefine",
        before: second_root,
        call: |h| h.driver.redefine(&Machine { memory_mib: 4096, ..node() }),
    },
    Step { name: "power_on", before: second_root, call: |h| h.driver.power_on(&node()) },
    Step { name: "power_off", before: running, call: |h| h.driver.power_off(&node(), Duration::from_secs(1)) },
    Step { name: "destroy", before: second_root, call: |h| h.driver.destroy(&node(), true) },
    Step { name: "destroy but for the data", before: second_root, call: |h| h.driver.destroy(&node(), false) },
    Step { name: "collect", before: second_root, call: |h| h.driver.collect(&[h.image(2).sha256]).map(drop) },
];

/// Does something with every step, all of them side by side: each has a host of its own.
fn of_every_step(act: impl Fn(&Step) + Sync) {
    std::thread::scope(|scope| {
        for step in &STEPS {
            let act = &act;
            scope.spawn(move || act(step));
        }
    });
}

#[test]
fn any_step_cut_off_at_any_request_is_finished_by_the_same_call() {
    let cuts = AtomicUsize::new(0);
    of_every_step(|step| {
        // Tasks that end at once, and tasks that are still at work when the second call comes.
        for task_length in [0, 3] {
            let hands = Hands::new();
            (step.before)(&hands);
            let start = World { task_length, ..hands.server.world().clone() };
            hands.server.set(start.clone());
            hands.server.heal();
            (step.call)(&hands).unwrap();
            hands.was_proper();
            let done = hands.server.world().clone();
            let (requests, wanted) = (done.count, end(&done));
            assert!(requests > 0, "{}: no request was made", step.name);
            for at in 1..=requests {
                // Cut off after one request and before the next the host is the same; both are tried, each with one kind of tasks.
                let cut = if task_length == 0 { Trouble::CutAfter(at) } else { Trouble::CutBefore(at) };
                let place = format!("{} with tasks of {task_length}: {cut:?} of {requests}", step.name);
                hands.server.set(start.clone());
                hands.server.arm(cut);
                // What is cut off after its last word has done its work, and is not told so.
                let broken = (step.call)(&hands);
                hands.server.heal();
                cuts.fetch_add(1, Ordering::Relaxed);
                match (step.call)(&hands) {
                    Ok(()) => {}
                    // There is nothing to restore once it is restored.
                    Err(error) if step.name == "restore_root" && error.is::<Refusal>() => {}
                    Err(error) => panic!("{place}: broken with {broken:?}, and then {error:?}"),
                }
                assert_eq!(end(&hands.server.world()), wanted, "{place}");
                hands.was_proper();
            }
        }
    });
    let cuts = cuts.into_inner();
    assert!(cuts > 500, "{cuts}");
    println!("{cuts} cuts");
}

#[test]
fn any_step_that_meets_a_busy_host_at_any_request_is_finished_by_the_same_call() {
    of_every_step(|step| {
        let hands = Hands::new();
        (step.before)(&hands);
        let start = hands.server.world().clone();
        hands.server.heal();
        (step.call)(&hands).unwrap();
        let done = hands.server.world().clone();
        for at in 1..=done.count {
            hands.server.set(start.clone());
            hands.server.arm(Trouble::Answer(at, 503));
            // A question is asked again by itself; what changes something is not.
            let met = (step.call)(&hands);
            assert!(met.as_ref().err().is_none_or(|error| error.is::<TryAgain>()), "{} {at}: {met:?}", step.name);
            hands.server.heal();
            if met.is_err() {
                (step.call)(&hands).unwrap_or_else(|error| panic!("{} {at}: {met:?}, and then {error:?}", step.name));
            }
            assert_eq!(end(&hands.server.world()), end(&done), "{} {at}", step.name);
            hands.was_proper();
        }
    });
}

#[test]
fn any_task_that_fails_is_done_by_the_same_call() {
    let failures = AtomicUsize::new(0);
    of_every_step(|step| {
        let hands = Hands::new();
        (step.before)(&hands);
        let start = hands.server.world().clone();
        hands.server.heal();
        (step.call)(&hands).unwrap();
        let done = hands.server.world().clone();
        for at in 1..=done.begun {
            for fate in [Trouble::TaskFails(at), Trouble::TaskDies(at)] {
                // The worker that makes a machine and dies leaves one that is locked and says not whose it is: only root can remove it.
                let makes = done.tasks[done.tasks.len() - done.begun + at - 1].kind == "qmcreate";
                if makes && matches!(fate, Trouble::TaskDies(_)) {
                    continue;
                }
                hands.server.set(start.clone());
                hands.server.arm(fate);
                let failed = (step.call)(&hands);
                failures.fetch_add(1, Ordering::Relaxed);
                hands.server.heal();
                // A shutdown that fails is answered by pulling the plug.
                assert_eq!(failed.is_ok(), step.name == "power_off", "{} {fate:?}: {failed:?}", step.name);
                (step.call)(&hands)
                    .unwrap_or_else(|error| panic!("{} {fate:?}: {failed:?}, and then {error:?}", step.name));
                assert_eq!(end(&hands.server.world()), end(&done), "{} {fate:?}", step.name);
                hands.was_proper();
            }
        }
    });
    let failures = failures.into_inner();
    assert!(failures > 30, "{failures}");
}

#[test]
fn another_step_than_the_one_that_was_cut_off_may_follow() {
    let hands = Hands::new();
    second_root(&hands);
    let start = hands.server.world().clone();
    // A seed is half replaced, and then the root is restored; and the other way about.
    for at in 1..50 {
        hands.server.set(start.clone());
        hands.server.arm(Trouble::CutAfter(at));
        let _ = hands.driver.replace_seed(&node(), &seed(2));
        hands.server.heal();
        hands.driver.restore_root(&node()).unwrap();
        hands.driver.replace_seed(&node(), &seed(3)).unwrap();
        let seen = hands.only();
        assert_eq!(
            (seen.root, seen.previous, seen.seed, seen.trouble.len()),
            (Some(root(1)), None, Some(seed(3).sha256), 0),
            "{at}"
        );
        assert_eq!(hands.server.world().volumes.len(), 3, "{at}");
        hands.server.set(start.clone());
        hands.server.arm(Trouble::CutAfter(at));
        let _ = hands.driver.restore_root(&node());
        hands.server.heal();
        hands.driver.replace_root(&node(), root(3), &hands.image(2)).unwrap();
        let seen = hands.only();
        assert_eq!((seen.root, seen.trouble.len()), (Some(root(3)), 0), "{at}");
        assert!([Some(root(1)), Some(root(2))].contains(&seen.previous), "{at}: {:?}", seen.previous);
        assert_eq!(hands.server.world().volumes.len(), 4, "{at}");
        assert_eq!(hands.slot("virtio1"), b"a thousand writes");
        hands.was_proper();
    }
}
