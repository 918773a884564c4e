//! The operator's commands at work on a lab that plays the profile's hosts, from deploying to the loss of a host, with a client that writes all
//! the while. Told act by act, with how long each took, how often that was interrupted and how many terms of raft began.
#![expect(clippy::disallowed_methods, reason = "an edge: times the acts, changes the profile")]
#![expect(clippy::print_stdout, reason = "whoever watches a show sees how far it is")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use camino::Utf8Path;
use kiln_builder::profile::Profile;
use kiln_builder::profile_file;
use serde_json::Value;

use crate::lab::{Lab, Traces, VM_PATIENCE};
use crate::lab_writer::Writer;
use crate::places::Places;

/// Six nodes under emulation share two processors.
const SERVING: [&str; 2] = ["--timeout", "1800"];
/// A node under emulation on a busy machine takes minutes to be back.
const ROLLOUT: [&str; 4] = ["--back-within", "900", "--patience", "1800"];
/// How `kiln` ends where the same command goes on.
const NOT_AT_ITS_END: i32 = 75;
/// How often a rollout is told to go on: more says that it does not get on.
const TURNS: u32 = 4;
/// The client writes for a tenth of the time.
const REST: u32 = 9;
/// Writes that say that a cluster serves.
const ENOUGH: usize = 5;

/// A show of one profile.
#[derive(Debug)]
pub struct Show {
    places: Places,
    profile: String,
    lab: Lab,
    before: Traces,
    acts: Vec<Act>,
    /// From the moment that the cluster serves.
    running: Option<(Writer, Value)>,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Act {
    /// What.
    pub what: String,
    /// How long it took.
    pub took: Duration,
    /// How often the writer was interrupted meanwhile.
    pub interruptions: usize,
    /// Terms of raft that began meanwhile: each has a new leader, or an election that nobody won.
    pub terms: u64,
    /// A majority was there all the while, so that nothing but a new leader may interrupt a writer.
    majority: bool,
}

impl Show {
    /// Of a profile in `places` that puts its nodes on two hosts, which come up empty.
    ///
    /// # Panics
    /// When they do not.
    pub fn begin(places: Places, profile: &str) -> Self {
        let lab = Lab::of(places.clone(), profile);
        let before = Traces::now(&lab.dir());
        let mut show = Self { places, profile: profile.to_owned(), lab, before, acts: vec![], running: None };
        show.act("bring two empty hosts up", |show| {
            show.lab.ok(&["up", "--hosts", "2"]);
        });
        show
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Puts the nodes on the hosts by the operator's command, and starts to write.
    ///
    /// # Panics
    /// When they form no cluster.
    pub fn deploy(&mut self) {
        let formed = self.act("deploy", |show| {
            show.kiln(&[&["deploy"][..], &SERVING].concat());
            show.lab.wait_serving(VM_PATIENCE)
        });
        let writer = Writer::start(&self.lab, REST);
        writer.goes_on(ENOUGH, VM_PATIENCE, || self.lab.story());
        self.running = Some((writer, formed));
    }

    /// Powers the second node off and images it again, with a blank data volume.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn reimage(&mut self) {
        let victim = self.profile_now().nodes.swap_remove(1).name;
        self.act(&format!("power {victim} off and reimage it wiped"), |show| {
            show.lab.ok(&["kill", &victim]);
            show.kiln(&[&["reimage", &victim, "--wipe-data", &victim][..], &SERVING].concat());
            show.lab.wait_serving(VM_PATIENCE)
        });
    }

    /// Rolls another image through all nodes, and the first one again.
    ///
    /// # Panics
    /// When a node does not come back, or with another image than it should.
    pub fn roll_there_and_back(&mut self) {
        let first = self.image();
        self.act("build another image", |show| {
            show.change_profile();
            show.is_told_to_build();
            show.places.ok(&["build", &show.profile]);
        });
        let second = self.act("roll a new generation through all nodes", |show| show.roll(&[]));
        assert_ne!(second, first, "every node runs the other image");
        let back = self.act("roll back through all nodes", |show| show.roll(&["--to", "1"]));
        assert_eq!(back, first, "every node runs the first image again");
    }

    /// Cuts the network between the hosts, and mends it. The cluster serves meanwhile where it can.
    ///
    /// # Panics
    /// When a node does not come back.
    pub fn cut(&mut self) {
        let lost = self.last_host();
        self.act_without_last_host("cut the VXLAN and mend it", |show| {
            show.lab.ok(&["net", "cut"]);
            show.wait_unserved(&lost);
            show.serves_if_it_can(&lost);
            show.lab.ok(&["net", "mend"]);
            show.lab.wait_serving(VM_PATIENCE)
        });
    }

    /// Loses the last host, and brings it back. The cluster serves meanwhile where it can.
    ///
    /// # Panics
    /// When a node does not come back.
    pub fn lose_a_host(&mut self) {
        let lost = self.last_host();
        self.act_without_last_host(&format!("lose {lost} and bring it back"), |show| {
            show.lab.ok(&["kill", "--host", &lost]);
            show.serves_if_it_can(&lost);
            show.lab.ok(&["start", "--host", &lost]);
            show.lab.wait_serving(VM_PATIENCE)
        });
    }

    /// Takes everything away; what was done.
    ///
    /// # Panics
    /// When an acknowledged write is lost, the cluster is not the one it was or not one, or something is left on the machine.
    pub fn end(mut self) -> Vec<Act> {
        let (writer, formed) = self.running.take().expect("a show has a cluster");
        writer.goes_on(ENOUGH, VM_PATIENCE, || self.lab.story());
        assert_eq!(self.lab.json(&["status"])["lineage"], formed["lineage"], "one formation from first to last");
        let header = |e: Value| e["Status"]["header"]["cluster_id"].to_string();
        let ids: BTreeSet<String> = self.of_etcd().into_iter().map(header).collect();
        assert_eq!(ids.len(), 1, "one cluster: {ids:?}");
        let written = writer.stop();
        written.all_are_there(&self.lab, &[]);
        self.act(&format!("take it away; all {} acknowledged writes were there", written.len()), |show| {
            show.lab.ok(&["down"]);
            show.before.are_all(&show.lab.dir());
        });
        let unexplained = |act: &&Act| act.majority && act.interruptions as u64 > act.terms;
        let unexplained: Vec<&Act> = self.acts.iter().filter(unexplained).collect();
        assert!(unexplained.is_empty(), "at most one interruption for each new leader: {unexplained:#?}");
        self.acts
    }

    /// One that keeps a majority.
    fn act<T>(&mut self, what: &str, act: impl FnOnce(&Self) -> T) -> T {
        self.act_with(what, true, act)
    }

    /// One that takes the last host from the others, and with it a majority if half of the nodes are there.
    fn act_without_last_host<T>(&mut self, what: &str, act: impl FnOnce(&Self) -> T) -> T {
        self.act_with(what, self.is_majority_without(&self.last_host()), act)
    }

    fn act_with<T>(&mut self, what: &str, majority: bool, act: impl FnOnce(&Self) -> T) -> T {
        let ((before, term), began) = (self.counted(), Instant::now());
        let done = act(self);
        let took = began.elapsed();
        if let Some((writer, _)) = &self.running {
            // No interruption is left to the next act.
            writer.goes_on(1, VM_PATIENCE, || self.lab.story());
        }
        let (after, later_term) = self.counted();
        let what = what.to_owned();
        let act = Act { what, took, interruptions: after - before, terms: later_term - term, majority };
        let Act { what, interruptions, terms, .. } = &act;
        println!("{:7.1} s  {interruptions} interruptions  {terms} terms  {what}", took.as_secs_f64());
        self.acts.push(act);
        done
    }

    /// How often the writer was interrupted up to now, and the term that raft is in. Neither is there while nobody writes.
    fn counted(&self) -> (usize, u64) {
        let Some((writer, _)) = &self.running else { return (0, 0) };
        let terms = self.of_etcd().into_iter().map(|e| e["Status"]["raftTerm"].as_u64().expect("a term"));
        (writer.interruptions(), terms.max().expect("a lab has nodes"))
    }

    /// What etcd says of itself on every node.
    fn of_etcd(&self) -> Vec<Value> {
        let said = self.lab.ok(&["etcdctl", "endpoint", "status", "--write-out", "json"]);
        serde_json::from_str(&said).expect("etcdctl prints JSON")
    }

    /// That the cluster serves without a host, if what is left is a majority.
    fn serves_if_it_can(&self, lost: &str) {
        let (writer, _) = self.running.as_ref().expect("a show has a cluster");
        if self.is_majority_without(lost) {
            writer.goes_on(ENOUGH, VM_PATIENCE, || self.lab.story());
        }
    }

    fn is_majority_without(&self, lost: &str) -> bool {
        let nodes = self.profile_now().nodes;
        let left = nodes.iter().filter(|node| node.host != lost).count();
        2 * left > nodes.len()
    }

    /// `kiln VERB PROFILE ARGS... --lab`, which must succeed.
    fn kiln(&self, args: &[&str]) -> String {
        self.places.ok(&[&[args[0], &self.profile], &args[1..], &["--lab"]].concat())
    }

    /// `kiln rollout PROFILE ARGS... --lab`; the image that every node runs then. One that says that it is not at its end is told to go on, as
    /// an operator would.
    fn roll(&self, args: &[&str]) -> String {
        let command = [&["rollout", &self.profile], args, &ROLLOUT, &["--lab"]].concat();
        for turn in 1.. {
            let rolled = self.places.run(&command);
            if rolled.status.success() {
                break;
            }
            let said = String::from_utf8_lossy(&rolled.stderr);
            assert!(rolled.status.code() == Some(NOT_AT_ITS_END) && turn < TURNS, "turn {turn}: {said}");
            println!("           the same command goes on after: {}", said.lines().last().unwrap_or_default());
        }
        self.lab.wait_serving(VM_PATIENCE);
        self.image()
    }

    /// The one image that all nodes run.
    fn image(&self) -> String {
        let status = self.lab.json(&["status"]);
        let nodes = status["nodes"].as_array().expect("a lab has nodes");
        let images: BTreeSet<String> = nodes.iter().map(|node| node["image_key"].to_string()).collect();
        assert_eq!(images.len(), 1, "one image on all nodes: {images:?}");
        images.into_iter().next().expect("one")
    }

    /// Waits until no node of a host that is cut off serves any more: the cut has been felt.
    fn wait_unserved(&self, host: &str) {
        let cut_off: Vec<String> =
            self.profile_now().nodes.into_iter().filter(|node| node.host == host).map(|node| node.name).collect();
        self.lab.wait_status("the nodes that are cut off to serve no more", VM_PATIENCE, |status| {
            let nodes = status["nodes"].as_array().expect("a lab has nodes");
            let named = |node: &&Value| cut_off.iter().any(|name| node["name"] == name.as_str());
            nodes.iter().filter(named).all(|node| node["healthy"] == false)
        });
    }

    /// The next build is another generation: an image with one more line in one file.
    fn change_profile(&self) {
        let file = self.places.project.join("profiles").join(format!("{}.toml", self.profile));
        let text = fs_err::read_to_string(&file).expect("reading the profile");
        let changed = text.replacen("[network]\n", "[network]\nntp_servers = [\"ntp.kiln.test\"]\n", 1);
        assert_ne!(changed, text, "the profile has a network");
        fs_err::write(&file, changed).expect("writing the profile");
    }

    /// The last build is what is deployed, and it is not what the profile says any more.
    fn is_told_to_build(&self) {
        let deployed = self.places.run(&["deploy", &self.profile, "--no-wait", "--lab"]);
        let said = String::from_utf8_lossy(&deployed.stderr);
        assert!(deployed.status.success(), "{said}");
        assert!(said.contains(&format!("`kiln build {}` would make another one now", self.profile)), "{said}");
    }

    fn last_host(&self) -> String {
        self.profile_now().hosts.pop().expect("a profile has hosts").name
    }

    fn profile_now(&self) -> Profile {
        let project = Utf8Path::from_path(&self.places.project).expect("a path in UTF-8");
        profile_file::read(project, &self.profile).expect("reading the profile")
    }
}
