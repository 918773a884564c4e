//! Rollouts through a real cluster: real agents, a real etcd in network namespaces, an operator in a process of its own. Only the hypervisor is the
//! test's: a machine room that swaps roots.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: starts operators and reads what they said")]

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use kiln_tests::client::in_space;
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::failover_writer::FailoverWriter;
use kiln_tests::machine_room::{MachineRoom, root};
use kiln_tests::node::text;
use kiln_tests::oracle::Oracle;
use kiln_tests::program::{kill, spawn};
use kiln_tests::random::Random;
use kiln_tests::wait::{attempt, holds, until};
use serde_json::Value;

/// For how long what must not happen is watched: several looks of an operator.
const A_WHILE: Duration = Duration::from_secs(5);
/// A whole rollout, waits and retries included, on two busy cores.
const LONG: Duration = Duration::from_secs(240);

/// How often an operator is killed.
const KILLS: u64 = 30;
/// The latest of the moments at which one is killed, in milliseconds: about what a rollout through three nodes takes.
const MOMENTS: u64 = 8_000;

/// A cluster with its machines, and operators at it.
struct Stage {
    room: MachineRoom,
    operators: u32,
}

/// One run of the command.
struct Operator {
    process: Child,
    said: PathBuf,
}

impl Stage {
    /// Three nodes that serve generation 1.
    fn new() -> Self {
        Self { room: MachineRoom::new(Cluster::new(3)), operators: 0 }
    }

    /// Starts `kiln rollout ARGS` as somebody.
    fn start(&mut self, name: &str, args: &[&str]) -> Operator {
        self.operators += 1;
        let inside = self.room.inside();
        let (top, switch) = (inside.cluster.scratch(), inside.cluster.network.switch());
        drop(inside);
        let said = top.join(format!("operator-{}", self.operators));
        let (home, socket) = (text(&top.join("home")), text(self.room.socket()));
        let mut argv = ["ip", "netns", "exec", &switch, env!("CARGO_BIN_EXE_rollout-operator"), "-C", &text(&top)]
            .map(str::to_owned)
            .to_vec();
        argv.extend(["--home", &home, "--machines", &socket, "--json", "rollout"].map(str::to_owned));
        argv.extend(args.iter().map(|arg| (*arg).to_owned()));
        argv.extend(["--operator".to_owned(), name.to_owned()]);
        Operator { process: spawn(&argv, &said), said }
    }

    /// Runs it to its end: the exit code, and all that it said.
    fn run(&mut self, name: &str, args: &[&str]) -> (i32, String) {
        let mut operator = self.start(name, args);
        self.ends(&mut operator)
    }

    /// Waits for its end: the exit code, and all that it said.
    fn ends(&self, operator: &mut Operator) -> (i32, String) {
        let said = operator.said.clone();
        let code = until(
            "an operator to end",
            LONG,
            || operator.process.try_wait().expect("waiting for an operator").map(|status| status.code().unwrap_or(-1)),
            || format!("{}\n{}", fs_err::read_to_string(&said).unwrap_or_default(), self.story()),
        );
        (code, operator.said())
    }

    /// What it ended with, which must be this.
    fn ends_with(&self, operator: &mut Operator, code: i32) -> String {
        let (ended, said) = self.ends(operator);
        assert_eq!(ended, code, "{said}\n{}", self.story());
        said
    }

    fn wait_said(&self, operator: &Operator, words: &str) {
        until(
            &format!("an operator to say {words:?}"),
            LONG,
            || operator.said().contains(words).then_some(()),
            || format!("{}\n{}", operator.said(), self.story()),
        );
    }

    fn record(&self) -> Option<Value> {
        serde_json::from_str(&self.room.inside().cluster.get("/kiln/rollout/record")?).ok()
    }

    /// The states of the nodes in the record.
    fn states(&self) -> Vec<String> {
        let record = self.record().expect("there is a record");
        let nodes = record["nodes"].as_array().expect("a record has nodes");
        nodes.iter().map(|node| node["state"]["state"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The generations that the machines have.
    fn generations(&self) -> Vec<u64> {
        self.room.inside().machines.iter().map(|machine| machine.root.generation).collect()
    }

    fn given(&self) -> Vec<String> {
        self.room.inside().given().into_iter().map(str::to_owned).collect()
    }

    /// Stops the next operator in the middle of the `nth` node: that operator, and the node.
    fn stop_at(&mut self, nth: usize, name: &str, args: &[&str]) -> (Operator, String) {
        self.room.hold(nth);
        let operator = self.start(name, args);
        let node = self.room.wait_held(|| {
            format!(
                "{}
{}",
                operator.said(),
                self.story()
            )
        });
        (operator, node)
    }

    /// As [`Self::assert_given`], and the leader went last and only after it had handed over: nothing took its leadership away.
    fn assert_rolled(&self, before: usize, generation: u64, said: &str) {
        let last = self.given().pop().and_then(|what| what.split(' ').next().map(str::to_owned)).unwrap_or_default();
        assert!(said.contains(&format!("{last}: handing leadership to ")), "{said}\n{}", self.story());
        self.assert_given(before, generation, said);
    }

    /// Every node was given that generation once since `before`, and none while it led.
    fn assert_given(&self, before: usize, generation: u64, said: &str) {
        let done = self.room.inside().done[before..].to_vec();
        let mut given: Vec<&str> = done.iter().map(|(what, _)| what.as_str()).collect();
        given.sort_unstable();
        let wanted = [1, 2, 3].map(|n| format!("n{n} {generation}"));
        assert_eq!(given, wanted, "{said}\n{}", self.story());
        for (what, leader) in &done {
            assert!(leader.as_deref() != what.split(' ').next(), "{what} while {leader:?} led\n{said}");
        }
        assert_eq!(self.generations(), [generation; 3]);
    }

    fn story(&self) -> String {
        let inside = self.room.inside();
        format!("given {:?}\n{}", inside.done, inside.cluster.story())
    }
}

impl Operator {
    fn said(&self) -> String {
        fs_err::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        kill(&mut self.process);
    }
}

/// What was printed as JSON, after whatever went to the log.
fn printed(said: &str) -> Value {
    let from = said.find("\n{\n").map_or(0, |at| at + 1);
    let mut values = serde_json::Deserializer::from_str(&said[from..]).into_iter();
    values.next().expect("something was printed").unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// G1, as far as one release of etcd shows it: followers first, the leader last and only after it has handed over; clients notice at most one
/// interval for each move of leadership, and nothing acknowledged is lost. Back again by `--to` is the same.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn g01_a_generation_is_rolled_through_three_nodes_and_back_under_writes() {
    let mut stage = Stage::new();
    let (writer, oracle) = {
        let inside = stage.room.inside();
        (FailoverWriter::start(&inside.cluster), Oracle::watching(&inside.cluster))
    };
    let mut moves = 0;
    for (args, generation) in [(vec!["unit"], 2), (vec!["unit", "--to", "1"], 1)] {
        let before = stage.given().len();
        let (code, said) = stage.run("ann@desk", &args);
        assert_eq!(code, 0, "{said}\n{}", stage.story());
        stage.assert_rolled(before, generation, &said);
        assert_eq!(stage.room.inside().settled, Some(root(generation)));
        moves += said.matches("handing leadership").count();
        let record = printed(&said)["record"].clone();
        assert_eq!(record["ended"]["how"]["ending"], "done", "{record}");
        for node in record["nodes"].as_array().expect("a record has nodes") {
            let seconds = node["state"]["until"].as_i64().zip(node["state"]["since"].as_i64()).map(|(u, s)| u - s);
            println!("{} was away for {} s", node["name"], seconds.expect("every node was taken"));
        }
    }
    let written = writer.acknowledged();
    until("clients to go on", PATIENCE, || (writer.acknowledged() > written).then_some(()), || stage.story());
    let told = writer.stop();
    println!("{} writes acknowledged, {} intervals without service, {moves} moves", told.keys.len(), told.intervals);
    let inside = stage.room.inside();
    told.all_are_there(&inside.cluster);
    assert!(told.intervals <= moves, "{} intervals without service, {moves} moves of leadership", told.intervals);
    oracle.verdict(&inside.cluster);
}

/// G8: with a member down nothing begins and nothing is written; with an alarm it waits, and goes on when that is disarmed.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn g08_nothing_begins_while_a_member_is_down_and_an_alarm_is_waited_for() {
    let mut stage = Stage::new();
    let down = "n2".to_owned();
    stage.room.inside().power(&down, false);
    let (code, said) = stage.run("ann@desk", &["unit"]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains(&format!("{down} does not serve")) && said.contains("hint: bring"), "{said}");
    assert_eq!((stage.record(), stage.given()), (None, Vec::new()), "it left no trace");
    stage.room.inside().power(&down, true);
    stage.room.inside().cluster.wait_serving(&[0, 1, 2]);

    alarm(&stage, etcd_client::AlarmAction::Activate);
    let (code, said) = stage.run("ann@desk", &["unit", "--patience", "2"]);
    assert_eq!(code, 75, "{said}");
    assert!(said.contains("the cluster has raised an alarm: NOSPACE, for"), "{said}");
    let mut patient = stage.start("ann@desk", &["unit"]);
    stage.wait_said(&patient, "waiting: the cluster has raised an alarm: NOSPACE");
    holds("nothing is taken", A_WHILE, || stage.given().is_empty(), || stage.story());
    alarm(&stage, etcd_client::AlarmAction::Deactivate);
    stage.ends_with(&mut patient, 0);
    assert_eq!(stage.generations(), [2, 2, 2]);
}

/// Raises the alarm of a full store, or disarms it.
fn alarm(stage: &Stage, action: etcd_client::AlarmAction) {
    let inside = stage.room.inside();
    let (operator, address) = (inside.cluster.operator(), inside.cluster.nodes[0].address);
    let member = inside.cluster.member(0).expect("it is a member").1;
    let done = in_space(&inside.cluster.network.switch(), move || async move {
        let mut options = etcd_client::AlarmOptions::new();
        options.with_member(member.0);
        let mut client = operator.connect(address).await?;
        client.alarm(action, etcd_client::AlarmType::Nospace, Some(options)).await?;
        anyhow::Ok(())
    });
    done.join().expect("asking for an alarm").expect("etcd takes it");
}

/// Two operators cannot be at it at once: the second is told who is. One who is killed in the middle of a node is followed by another, who goes on
/// where the first was and touches nothing twice.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a_second_operator_is_kept_out_and_goes_on_when_the_first_is_killed() {
    let mut stage = Stage::new();
    let (mut first, _) = stage.stop_at(2, "ann@desk", &["unit"]);
    let (code, said) = stage.run("bob@lap", &["unit"]);
    assert_eq!(code, 75, "{said}");
    assert!(said.contains("ann@desk is at the rollout of `unit`, since "), "{said}");
    let status = stage.run("bob@lap", &["status", "unit"]).1;
    let status = printed(&status);
    assert_eq!(
        (&status["held_by"]["operator"], &status["record"]["operator"]),
        (&"ann@desk".into(), &"ann@desk".into())
    );

    kill(&mut first.process);
    stage.room.release();
    // The dead operator's lock ends by itself.
    let said = until(
        "the second operator to be let in",
        LONG,
        || {
            let (code, said) = stage.run("bob@lap", &["unit"]);
            match code {
                75 if said.contains("ann@desk is at the rollout") => None,
                other => Some((other, said)),
            }
        },
        || "the lock does not end".to_owned(),
    );
    assert_eq!(said.0, 0, "{}\n{}", said.1, stage.story());
    assert!(said.1.contains("going on with the rollout to generation 2 that ann@desk started"), "{}", said.1);
    stage.assert_rolled(0, 2, &format!("{}{}", first.said(), said.1));
    let history = stage.record().expect("there is a record")["history"].to_string();
    assert!(history.contains("ann@desk") && history.contains("bob@lap"), "{history}");
}

/// An operator who has lost the lock without knowing it writes nothing any more, and so does nothing any more.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn an_operator_that_lost_the_lock_touches_no_further_node() {
    let mut stage = Stage::new();
    let (mut first, node) = stage.stop_at(1, "ann@desk", &["unit"]);
    unlock(&stage);
    stage.room.release();
    let said = stage.ends_with(&mut first, 75);
    assert!(said.contains("the lock of the rollout was lost"), "{said}");
    assert_eq!(stage.given(), [format!("{node} 2")]);
    let index = stage.room.inside().index(&node);
    assert_eq!(stage.states()[index], "taken", "it did not even write that the node is back");
    let (code, said) = stage.run("bob@lap", &["unit"]);
    assert_eq!(code, 0, "{said}");
    stage.assert_rolled(0, 2, &said);
}

/// As when the lease has ended.
fn unlock(stage: &Stage) {
    let deleted = stage.room.inside().cluster.etcdctl(&["del", "/kiln/rollout/lock"]);
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
}

/// `kill -9` at thirty random moments: the same command goes on each time, no node is given a root it has, and clients notice nothing that a
/// rollout in one piece would not have shown them.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn killed_at_thirty_random_moments_the_same_command_goes_on() {
    let mut stage = Stage::new();
    let oracle = Oracle::watching(&stage.room.inside().cluster);
    let mut random = Random::new(20_261_128);
    let (mut kills, mut rollouts, mut generation) = (0, 0, 1);
    while kills < KILLS || generation == 1 {
        generation = 3 - generation;
        let (before, to, mut all_said) = (stage.given().len(), generation.to_string(), String::new());
        loop {
            let mut operator = stage.start("ann@desk", &["unit", "--to", &to]);
            let moment = Duration::from_millis(random.below(MOMENTS));
            let ended = ends_within(&mut operator, moment);
            all_said.push_str(&operator.said());
            if let Some(code) = ended {
                assert_eq!(code, 0, "{}\n{}", operator.said(), stage.story());
                break;
            }
            kill(&mut operator.process);
            kills += 1;
            unlock(&stage);
        }
        rollouts += 1;
        stage.assert_rolled(before, generation, &all_said);
    }
    println!("killed {kills} times in {rollouts} rollouts");
    oracle.verdict(&stage.room.inside().cluster);
}

/// The exit code of an operator that ends by itself within so long.
fn ends_within(operator: &mut Operator, limit: Duration) -> Option<i32> {
    attempt("an operator to end", limit, || {
        let ended = operator.process.try_wait()?.ok_or_else(|| anyhow::anyhow!("it runs"))?;
        Ok(ended.code().unwrap_or(-1))
    })
    .ok()
}

/// A node whose new root does not serve is rolled back by itself, the others are not touched, and all serve.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a_node_that_does_not_come_back_is_rolled_back_and_the_rollout_stops() {
    let mut stage = Stage::new();
    stage.room.inside().broken.insert(2);
    let (code, said) = stage.run("ann@desk", &["unit", "--back-within", "20"]);
    assert_eq!(code, 1, "{said}\n{}", stage.story());
    let given = stage.given();
    let node = given[0].trim_end_matches(" 2").to_owned();
    assert_eq!(given, [format!("{node} 2"), format!("{node} 1")], "{said}");
    assert!(said.contains(&format!("the rollout stopped at {node}")), "{said}");
    assert_eq!((stage.generations(), stage.room.inside().settled), (vec![1; 3], None));
    let index = stage.room.inside().index(&node);
    assert_eq!(stage.states()[index], "rolled-back");
    stage.room.inside().cluster.wait_serving(&[0, 1, 2]);
    // The image is mended: the same command begins anew.
    stage.room.inside().broken.clear();
    let (code, said) = stage.run("ann@desk", &["unit"]);
    assert_eq!((code, stage.generations()), (0, vec![2; 3]), "{said}\n{}", stage.story());
    stage.room.inside().cluster.assert_one_cluster();
}

/// A pause lets the node that is away come back and rests; `resume` goes on; an abort rolls the node that is away back and leaves a record that
/// says what every node runs.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a_rollout_is_paused_resumed_and_aborted() {
    let mut stage = Stage::new();
    let (mut ann, first) = stage.stop_at(1, "ann@desk", &["unit"]);
    assert_eq!(stage.run("bob@lap", &["pause", "unit"]).0, 0);
    stage.room.release();
    let said = stage.ends_with(&mut ann, 75);
    assert!(said.contains("bob@lap paused the rollout") && said.contains("kiln rollout resume unit"), "{said}");
    assert_eq!(stage.given(), [format!("{first} 2")], "the node in hand came back, and no other one was taken");
    assert_eq!(stage.run("ann@desk", &["unit"]).0, 75, "starting it again does not undo a pause");

    let (mut ann, second) = stage.stop_at(1, "ann@desk", &["resume", "unit"]);
    assert_eq!(stage.run("bob@lap", &["abort", "unit"]).0, 0);
    stage.room.release();
    let said = stage.ends_with(&mut ann, 78);
    assert!(said.contains("bob@lap aborted the rollout"), "{said}");
    for (n, (state, generation)) in stage.states().into_iter().zip(stage.generations()).enumerate() {
        let name = format!("n{}", n + 1);
        let expected: &[(&str, u64)] = if name == first {
            &[("done", 2)]
        } else if name == second {
            // It may have been back by the time the abort was seen.
            &[("done", 2), ("rolled-back", 1)]
        } else {
            &[("pending", 1)]
        };
        assert!(expected.contains(&(state.as_str(), generation)), "{name} is {state} on generation {generation}");
    }
    assert_eq!(stage.run("bob@lap", &["abort", "unit"]).0, 78, "there is nothing left to abort");
    // Back to where it was is a rollout like any other.
    let (code, said) = stage.run("ann@desk", &["unit", "--to", "1"]);
    assert_eq!((code, stage.generations()), (0, vec![1; 3]), "{said}");
    stage.room.inside().cluster.assert_one_cluster();
}

/// A member that goes down in the middle closes the gate: no further node is taken, and the rollout goes on when it is back. Without a quorum
/// nothing is done at all.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn a_member_that_goes_down_in_the_middle_is_waited_for() {
    let mut stage = Stage::new();
    let (mut operator, first) = stage.stop_at(1, "ann@desk", &["unit"]);
    let other = if first == "n1" { "n2" } else { "n1" };
    // One is away by our hand and one by itself: no quorum, until the first one is back.
    stage.room.inside().power(other, false);
    stage.room.release();
    stage.wait_said(&operator, &format!("waiting: {other} does not serve"));
    holds("no other node is taken", A_WHILE, || stage.given() == [format!("{first} 2")], || stage.story());
    stage.room.inside().power(other, true);
    let said = stage.ends_with(&mut operator, 0);
    stage.assert_given(0, 2, &said);
}
