//! Single looks, and a cluster to look at.

use std::collections::BTreeMap;

use kiln_firstboot::digest::{Id128, Sha256Digest};
use kiln_firstboot::etcd::{EtcdStatus, ListedMember};
use kiln_firstboot::message::{Holds, NodeStatus, Running};
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::state::RaftId;

use super::*;
use crate::agents::sample;
use crate::host::{Mark, Seen};
use crate::rollout::record::Target;

pub(super) const NOW: i64 = 1_700_000_000;
pub(super) const LIMIT: u32 = 300;

/// The image of a generation.
pub(super) fn image(generation: u64) -> Sha256Digest {
    Sha256Digest::of(&generation.to_be_bytes())
}

pub(super) fn root(generation: u64) -> Root {
    Root { image: image(generation), generation }
}

pub(super) fn id(n: usize) -> RaftId {
    RaftId(100 + n as u64)
}

pub(super) fn name(n: usize) -> String {
    format!("etcd{}", n + 1)
}

fn fqdn(n: usize) -> Fqdn {
    Fqdn::parse(&format!("etcd{}.lab.example", n + 1)).unwrap()
}

pub(super) fn machine(n: usize, root: Root, running: bool) -> Seen {
    Seen {
        mark: Mark { cluster: Id128([7; 16]), env: "lab".into(), node: name(n) },
        handle: name(n),
        uuid: String::new(),
        running,
        root: Some(root),
        previous: None,
        data_bytes: Some(1 << 30),
        seed: None,
        memory_mib: 512,
        vcpus: 1,
        mac: None,
        bridge: None,
        trouble: Vec::new(),
    }
}

/// A node that serves on the root of that generation.
pub(super) fn serving(n: usize, generation: u64, leader: usize) -> NodeView {
    let running = Running {
        raft_cluster: RaftId(1),
        member: id(n),
        leader: Some(id(leader)),
        applied_index: 10,
        revision: 10,
        ..sample::running(Id128([5; 16]))
    };
    let status = NodeStatus { image_key: image(generation), ..sample::status(fqdn(n), Holds::Running(running)) };
    let etcd = EtcdStatus {
        raft_cluster: RaftId(1),
        member: id(n),
        leader: Some(id(leader)),
        learner: false,
        version: "3.6.14".into(),
        applied_index: 10,
        db_size: 20_480,
        alarms: vec![],
    };
    NodeView {
        name: name(n),
        fqdn: fqdn(n),
        etcd: Ok(etcd),
        agent: Ok(status),
        machine: Ok(Some(machine(n, root(generation), true))),
        agreement: Agreement::Same,
    }
}

/// A node whose agent and etcd say nothing.
pub(super) fn silent(n: usize, machine: Seen) -> NodeView {
    let quiet = "no connection within 1500 ms";
    NodeView {
        etcd: Err(quiet.into()),
        agent: Err(quiet.into()),
        machine: Ok(Some(machine)),
        agreement: Agreement::Unknown,
        ..serving(n, 1, 0)
    }
}

pub(super) fn listed(n: usize) -> ListedMember {
    ListedMember {
        id: id(n),
        name: name(n),
        peer_urls: vec![fqdn(n).peer_url()],
        client_urls: vec![format!("https://{}:2379", fqdn(n))],
        learner: false,
    }
}

pub(super) fn observation(now: i64, nodes: Vec<NodeView>) -> Observation {
    Observation {
        now,
        members: (0..nodes.len()).map(listed).collect(),
        nodes,
        alarms: Vec::new(),
        known: BTreeMap::from([(image(1), 1), (image(2), 2)]),
    }
}

pub(super) fn target() -> Target {
    Target { root: root(2), etcd: "3.6.14".parse().unwrap() }
}

pub(super) fn record(size: usize) -> Record {
    let nodes: Vec<String> = (0..size).map(name).collect();
    Record::new(Id128([9; 16]), "ann@desk", NOW, target(), LIMIT, &nodes)
}

/// Three nodes that serve on generation 1, the second leads.
fn quiet() -> Observation {
    observation(NOW, (0..3).map(|n| serving(n, 1, 1)).collect())
}

fn held(state: NodeState) -> Record {
    let mut record = record(3);
    record.nodes[0].state = state;
    record
}

fn taken(attempts: u32) -> NodeState {
    NodeState::Taken { since: NOW, attempts, before: root(1) }
}

fn rolling_back(attempts: u32) -> NodeState {
    NodeState::RollingBack { since: NOW, attempts, before: root(1), why: "it is broken".into() }
}

#[test]
fn followers_go_first_and_the_leader_hands_over_before_it_goes() {
    let take = |n| Act::Take { node: name(n), root: root(2), before: root(1) };
    let mut record = record(3);
    assert_eq!(decide(&quiet(), &record), take(0));
    record.nodes[0].state = NodeState::Done { since: NOW, until: NOW + 9 };
    let first = observation(NOW, vec![serving(0, 2, 1), serving(1, 1, 1), serving(2, 1, 1)]);
    assert_eq!(decide(&first, &record), take(2));
    record.nodes[2].state = NodeState::Already;
    let both = observation(NOW, vec![serving(0, 2, 1), serving(1, 1, 1), serving(2, 2, 1)]);
    assert_eq!(decide(&both, &record), Act::MoveLeader { from: name(1), to: name(0) });
    let moved = observation(NOW, vec![serving(0, 2, 0), serving(1, 1, 0), serving(2, 2, 0)]);
    assert_eq!(decide(&moved, &record), take(1));
    record.nodes[1].state = NodeState::Done { since: NOW, until: NOW + 9 };
    assert_eq!(decide(&moved, &record), Act::End(Ending::Done));
    record = record.before(&Act::End(Ending::Done), NOW, "ann@desk");
    assert_eq!(decide(&moved, &record), Act::Rest);
}

#[test]
fn a_node_that_runs_the_target_is_noted_and_not_touched() {
    let seen = observation(NOW, vec![serving(0, 2, 1), serving(1, 1, 1), serving(2, 1, 1)]);
    let act = decide(&seen, &record(3));
    assert_eq!(act, Act::Note { node: name(0), state: NodeState::Already });
}

/// Every gate, what closes it, and what it means before and after the first node was touched.
#[test]
fn each_closed_gate_says_what_it_is_and_whether_it_may_open_by_itself() {
    let lack = Lack { what: "it has a snapshot".into(), remedy: "remove the snapshot".into() };
    type Bend = Box<dyn Fn(&mut Observation)>;
    let version = |text: &'static str| text.parse().unwrap();
    let etcd_of = |n: usize, text: &'static str| -> Bend {
        Box::new(move |seen| seen.nodes[n].etcd.as_mut().unwrap().version = text.to_owned())
    };
    let cases: Vec<(Bend, Gate, Closed, Closed)> = vec![
        (
            Box::new(|seen| drop(seen.members.remove(2))),
            Gate::NotMember { node: name(2) },
            Closed::Refuse,
            Closed::Refuse,
        ),
        (
            Box::new(|seen| seen.nodes.push(serving(3, 1, 1))),
            Gate::Differs { node: name(3) },
            Closed::Refuse,
            Closed::Refuse,
        ),
        (Box::new(|seen| drop(seen.nodes.pop())), Gate::Differs { node: name(2) }, Closed::Refuse, Closed::Refuse),
        (
            Box::new(|seen| seen.members.push(listed(3))),
            Gate::Stranger { member: "https://etcd4.lab.example:2380".into() },
            Closed::Refuse,
            Closed::Refuse,
        ),
        (
            Box::new(|seen| seen.members[2].learner = true),
            Gate::Changing { member: name(2) },
            Closed::Wait,
            Closed::Wait,
        ),
        (
            Box::new(|seen| seen.nodes[2] = silent(2, machine(2, root(1), false))),
            Gate::Down { node: name(2), why: "its agent does not answer: no connection within 1500 ms".into() },
            Closed::Refuse,
            Closed::Wait,
        ),
        (
            Box::new(|seen| seen.nodes[2].etcd.as_mut().unwrap().leader = Some(id(0))),
            Gate::Leaderless,
            Closed::Wait,
            Closed::Wait,
        ),
        (
            Box::new(|seen| seen.alarms.push("NOSPACE".into())),
            Gate::Alarm { names: vec!["NOSPACE".into()] },
            Closed::Wait,
            Closed::Wait,
        ),
        (
            Box::new(|seen| seen.nodes[1].etcd.as_mut().unwrap().applied_index = 1_011),
            Gate::Lag { node: name(0), entries: 1_001 },
            Closed::Wait,
            Closed::Wait,
        ),
        (
            etcd_of(2, "3.4.30"),
            Gate::VersionSpread { oldest: version("3.4.30"), newest: version("3.6.14") },
            Closed::Refuse,
            Closed::Refuse,
        ),
        (
            etcd_of(2, "3.7.0"),
            Gate::Downgrade { node: name(2), runs: version("3.7.0"), target: version("3.6.14") },
            Closed::Refuse,
            Closed::Refuse,
        ),
        (
            Box::new(|seen| seen.nodes[2].agent.as_mut().unwrap().image_key = image(8)),
            Gate::UnknownImage { node: name(2), image: image(8) },
            Closed::Refuse,
            Closed::Refuse,
        ),
        (
            Box::new(|seen| seen.nodes[2].machine = Err("no route to host".into())),
            Gate::HostSilent { node: name(2), why: "no route to host".into() },
            Closed::Wait,
            Closed::Wait,
        ),
        (
            Box::new(|seen| seen.nodes[2].machine = Ok(None)),
            Gate::NoMachine { node: name(2) },
            Closed::Refuse,
            Closed::Refuse,
        ),
        (
            Box::new(|seen| seen.nodes[2].machine.as_mut().unwrap().as_mut().unwrap().root = None),
            Gate::NoRoot { node: name(2) },
            Closed::Refuse,
            Closed::Refuse,
        ),
        (
            Box::new({
                let lack = lack.clone();
                move |seen| seen.nodes[2].machine.as_mut().unwrap().as_mut().unwrap().trouble.push(lack.clone())
            }),
            Gate::Trouble { node: name(2), lack },
            Closed::Refuse,
            Closed::Refuse,
        ),
    ];
    for (bend, gate, at_first, later) in cases {
        let mut seen = quiet();
        bend(&mut seen);
        let expected = |means| match means {
            Closed::Wait => Act::Wait(Reason::Gate(gate.clone())),
            Closed::Refuse => Act::Refuse(gate.clone()),
        };
        assert_eq!(decide(&seen, &record(3)), expected(at_first), "before");
        let mut touched = record(3);
        touched.nodes[0].state = NodeState::Done { since: NOW, until: NOW };
        assert_eq!(decide(&seen, &touched), expected(later), "after");
        assert!(!gate.to_string().is_empty() && !gate.remedy().is_empty());
    }
}

#[test]
fn two_members_are_refused_for_one_of_them_is_no_quorum() {
    let seen = observation(NOW, (0..2).map(|n| serving(n, 1, 1)).collect());
    let gate = Gate::TooFew { voters: 2 };
    assert_eq!(decide(&seen, &record(2)), Act::Refuse(gate.clone()));
    assert!(gate.refusal().to_string().contains("2 voters") && gate.refusal().to_string().contains("hint: "));
}

#[test]
fn a_taken_node_is_waited_for_and_then_rolled_back() {
    let coming = |now| observation(now, vec![silent(0, machine(0, root(2), true)), serving(1, 1, 1), serving(2, 1, 1)]);
    let record = held(taken(1));
    let why = "its agent does not answer: no connection within 1500 ms";
    let until = NOW + i64::from(LIMIT);
    let reason = Reason::Coming { node: name(0), since: NOW, until, why: why.into() };
    assert_eq!(decide(&coming(until - 1), &record), Act::Wait(reason));
    let why = format!("it did not come back within {LIMIT} s: {why}");
    assert_eq!(decide(&coming(until), &record), Act::RollBack { node: name(0), to: root(1), why });
    let back = observation(NOW + 7, vec![serving(0, 2, 1), serving(1, 1, 1), serving(2, 1, 1)]);
    let done = NodeState::Done { since: NOW, until: NOW + 7 };
    assert_eq!(decide(&back, &record), Act::Note { node: name(0), state: done });
}

#[test]
fn a_node_that_holds_something_else_than_the_leader_is_not_back() {
    let mut seen = observation(NOW, vec![serving(0, 2, 1), serving(1, 1, 1), serving(2, 1, 1)]);
    for (agreement, word) in [(Agreement::Unknown, "not known yet"), (Agreement::Different, "differs")] {
        seen.nodes[0].agreement = agreement;
        let act = decide(&seen, &held(taken(1)));
        assert!(matches!(&act, Act::Wait(Reason::Coming { why, .. }) if why.contains(word)), "{act:?}");
    }
}

#[test]
fn what_was_written_and_not_done_is_done_now_at_most_three_times() {
    let off = observation(NOW, vec![silent(0, machine(0, root(2), false)), serving(1, 1, 1), serving(2, 1, 1)]);
    let take = Act::Take { node: name(0), root: root(2), before: root(1) };
    assert_eq!(decide(&off, &held(taken(1))), take);
    assert_eq!(decide(&quiet(), &held(taken(2))), take);
    let why = "it could not be given its new root in 3 attempts".to_owned();
    assert_eq!(decide(&off, &held(taken(3))), Act::RollBack { node: name(0), to: root(1), why });
}

#[test]
fn a_node_that_still_votes_is_not_touched_while_another_one_is_down() {
    let down = |first| observation(NOW, vec![first, serving(1, 1, 1), silent(2, machine(2, root(1), false))]);
    for (first, record) in [
        (serving(0, 1, 1), held(taken(1))),
        (NodeView { agreement: Agreement::Different, ..serving(0, 1, 1) }, held(rolling_back(1))),
    ] {
        // The machine has neither the one root nor the other, so that there is something to do.
        let mut seen = down(first);
        seen.nodes[0].machine = Ok(Some(machine(0, root(3), true)));
        let act = decide(&seen, &record);
        assert!(matches!(&act, Act::Wait(Reason::Gate(Gate::Down { node, .. })) if *node == name(2)), "{act:?}");
    }
    let off = down(silent(0, machine(0, root(1), false)));
    let act = decide(&off, &held(taken(1)));
    assert_eq!(act, Act::Take { node: name(0), root: root(2), before: root(1) }, "one that is off is brought up");
}

#[test]
fn a_written_and_undone_node_that_has_become_leader_hands_over_first() {
    let seen = observation(NOW, (0..3).map(|n| serving(n, 1, 0)).collect());
    assert_eq!(decide(&seen, &held(taken(1))), Act::MoveLeader { from: name(0), to: name(1) });
}

#[test]
fn a_rolled_back_node_ends_the_rollout_and_one_that_does_not_return_is_told_as_lost() {
    let record = held(rolling_back(1));
    let rolled_back = NodeState::RolledBack { at: NOW, why: "it is broken".into() };
    assert_eq!(decide(&quiet(), &record), Act::Note { node: name(0), state: rolled_back.clone() });
    let stopped = Ending::Stopped { node: name(0), why: "it is broken".into() };
    assert_eq!(decide(&quiet(), &held(rolled_back)), Act::End(stopped));
    let until = NOW + i64::from(LIMIT);
    let away = |root, running, now| {
        observation(now, vec![silent(0, machine(0, root, running)), serving(1, 1, 1), serving(2, 1, 1)])
    };
    let act = decide(&away(root(1), true, until - 1), &record);
    assert!(matches!(act, Act::Wait(Reason::Returning { .. })), "{act:?}");
    for (seen, record, what) in [
        (away(root(1), true, until), held(rolling_back(1)), "did not come back within 300 s either"),
        (away(root(2), false, NOW), held(rolling_back(3)), "could not be given its old root in 3 attempts"),
    ] {
        let act = decide(&seen, &record);
        let Act::Note { state: NodeState::Lost { why, .. }, .. } = &act else { panic!("{act:?}") };
        assert!(why.starts_with("it is broken; rolled back, ") && why.contains(what), "{why}");
    }
    let again = Act::RollBack { node: name(0), to: root(1), why: "it is broken".into() };
    assert_eq!(decide(&away(root(2), false, NOW), &record), again);
}

#[test]
fn a_pause_lets_the_node_in_hand_come_back_and_an_abort_rolls_it_back() {
    let coming = observation(NOW, vec![silent(0, machine(0, root(2), true)), serving(1, 1, 1), serving(2, 1, 1)]);
    let pause = Wish::Pause { by: "bob@lap".into(), at: NOW };
    let abort = Wish::Abort { by: "bob@lap".into(), at: NOW };
    let act = decide(&coming, &held(taken(1)).wishing(pause.clone(), NOW, "bob@lap"));
    assert!(matches!(act, Act::Wait(Reason::Coming { .. })), "{act:?}");
    assert_eq!(decide(&quiet(), &record(3).wishing(pause, NOW, "bob@lap")), Act::Rest);
    let why = "bob@lap aborted the rollout".to_owned();
    let act = decide(&coming, &held(taken(1)).wishing(abort.clone(), NOW, "bob@lap"));
    assert_eq!(act, Act::RollBack { node: name(0), to: root(1), why });
    let aborted = Act::End(Ending::Aborted { by: "bob@lap".into() });
    assert_eq!(decide(&quiet(), &record(3).wishing(abort, NOW, "bob@lap")), aborted);
}

#[test]
fn a_host_that_is_silent_about_the_node_in_hand_is_waited_for() {
    let mut seen = observation(NOW, vec![silent(0, machine(0, root(2), true)), serving(1, 1, 1), serving(2, 1, 1)]);
    seen.nodes[0].machine = Err("no route to host".into());
    let reason = Reason::Host { node: name(0), why: "no route to host".into() };
    assert_eq!(decide(&seen, &held(taken(1))), Act::Wait(reason));
    seen.nodes[0].machine = Ok(None);
    let lost = NodeState::Lost { at: NOW, why: "its machine is gone from its host".into() };
    assert_eq!(decide(&seen, &held(taken(1))), Act::Note { node: name(0), state: lost });
}

#[test]
fn a_record_is_read_back_and_one_of_another_kiln_is_named() {
    let record = held(rolling_back(2)).wishing(Wish::Pause { by: "bob@lap".into(), at: NOW }, NOW, "bob@lap");
    assert_eq!(Record::parse(&record.to_bytes()), Ok(record));
    use crate::rollout::record::RecordError;
    assert_eq!(Record::parse(br#"{"schema": 2, "more": 1}"#), Err(RecordError::Schema(2)));
    assert!(matches!(Record::parse(b"{"), Err(RecordError::Damaged(_))));
}

#[test]
fn a_history_does_not_outgrow_a_value_of_etcd() {
    let mut record = record(3);
    for second in 0..1000 {
        let by = "somebody@a-machine-with-a-name-of-sixty-three-letters-at-most-as-names-go";
        let wish = if second % 2 == 0 { Wish::Pause { by: by.into(), at: second } } else { Wish::Go };
        record = record.wishing(wish, second, by);
    }
    assert!(record.to_bytes().len() < 100_000);
    assert_eq!(record.history.last().map(|event| event.at), Some(999));
}
