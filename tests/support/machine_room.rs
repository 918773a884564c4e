//! The machines of a cluster as a hypervisor has them: each with a root that can be swapped and the one it had before. An operator in another
//! process reaches them through a socket.
//!
//! A root is an image of its own key, so that an agent tells which one it runs; a broken one has an etcd that the agent does not start.
#![expect(clippy::disallowed_methods, reason = "an edge: a socket, and files of the nodes' images")]

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};
use kiln_builder::host::{Mark, Root, Seen};
use kiln_builder::rollout::hands::NodeHands;
use kiln_firstboot::digest::{Id128, Sha256Digest};
use kiln_firstboot::version::EtcdVersion;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, ENV, PATIENCE, etcd_version};
use crate::wait::{attempt, until};

/// What an operator asks of the room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Every machine.
    Survey,
    /// Every generation.
    Generations,
    /// Power off, swap the root, power on.
    Give {
        /// The node.
        node: String,
        /// The root.
        root: Root,
        /// It is the one that was kept.
        back: bool,
    },
    /// Every node runs this.
    Settle(Root),
}

/// What the room answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Survey`].
    Machines(Vec<Machine>),
    /// To [`Ask::Generations`].
    Generations(Vec<Root>),
    /// Done.
    Done,
    /// It could not be done.
    Failed(String),
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its node.
    pub node: String,
    /// It has power.
    pub running: bool,
    /// Its root.
    pub root: Root,
    /// The one it had before.
    pub previous: Option<Root>,
}

/// The root of a generation.
pub fn root(generation: u64) -> Root {
    Root { image: Sha256Digest::of(format!("generation {generation} of a test").as_bytes()), generation }
}

/// The room. Its machines run on the cluster's nodes.
#[derive(Debug)]
pub struct MachineRoom {
    shared: Arc<Shared>,
    socket: PathBuf,
    door: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    inside: Mutex<Inside>,
    changed: Condvar,
}

/// What is in the room.
#[derive(Debug)]
pub struct Inside {
    /// The cluster.
    pub cluster: Cluster,
    /// Its machines.
    pub machines: Vec<Machine>,
    /// The generations there are.
    pub generations: BTreeSet<u64>,
    /// The generations whose etcd does not start.
    pub broken: BTreeSet<u64>,
    /// What was done, in order: `n1 2` for a root given. With who led just before.
    pub done: Vec<(String, Option<String>)>,
    /// The root that every node was said to run.
    pub settled: Option<Root>,
    /// The one that is stopped, counted from the next one on; none is, without.
    hold: Option<usize>,
    held: Option<String>,
    closing: bool,
}

impl MachineRoom {
    /// Puts the machines of a powered-on cluster into a room. All run generation 1, as soon as they are powered on again.
    ///
    /// # Panics
    /// When there is no socket to be had.
    pub fn new(mut cluster: Cluster) -> Self {
        let machines: Vec<Machine> = cluster
            .nodes
            .iter()
            .map(|node| Machine {
                node: node.fqdn.member_name().to_owned(),
                running: true,
                root: root(1),
                previous: None,
            })
            .collect();
        let socket = cluster.scratch().join("machines");
        for index in 0..machines.len() {
            put_image(&mut cluster, index, root(1), etcd_version());
        }
        cluster.power_on();
        cluster.wait_activated();
        let inside = Inside {
            cluster,
            machines,
            generations: BTreeSet::from([1, 2]),
            broken: BTreeSet::new(),
            done: Vec::new(),
            settled: None,
            hold: None,
            held: None,
            closing: false,
        };
        let shared = Arc::new(Shared { inside: Mutex::new(inside), changed: Condvar::new() });
        let listener = UnixListener::bind(&socket).expect("listening for operators");
        let served = Arc::downgrade(&shared);
        let door = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(shared) = served.upgrade().filter(|shared| !shared.lock().closing) else { return };
                // One that hangs up in the middle is an operator who was killed.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self { shared, socket, door: Some(door) }
    }

    /// Where operators reach it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What is in it; nothing is done to a machine meanwhile.
    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.shared.lock()
    }

    /// Whoever gives the `nth` root from now on, counted from 1, stops with that machine off and its new root in place.
    pub fn hold(&self, nth: usize) {
        self.inside().hold = Some(nth);
    }

    /// Waits until somebody has stopped there; the node.
    ///
    /// # Panics
    /// When nobody does.
    pub fn wait_held(&self, explain: impl Fn() -> String) -> String {
        until("somebody to be in the middle of a node", PATIENCE, || self.inside().held.clone(), explain)
    }

    /// Lets whoever stopped there go on.
    pub fn release(&self) {
        (self.inside().hold, self.inside().held) = (None, None);
        self.shared.changed.notify_all();
    }
}

impl Drop for MachineRoom {
    fn drop(&mut self) {
        self.release();
        self.inside().closing = true;
        // Wakes the thread that listens, which sees that the room is closing.
        if UnixStream::connect(&self.socket).is_ok()
            && let Some(door) = self.door.take()
        {
            // It has nothing to tell, and whether the test has failed is not for it to say.
            drop(door.join());
        }
        // Whoever is still served holds the cluster, and would be the one to end its processes, if it lived to do so.
        let alone = || (Arc::strong_count(&self.shared) == 1).then_some(()).context("somebody is being served");
        if let Err(why) = attempt("the room to be empty", PATIENCE, alone) {
            eprintln!("{why}");
        }
    }
}

impl Inside {
    /// The place of a node in the cluster.
    ///
    /// # Panics
    /// When there is none.
    pub fn index(&self, node: &str) -> usize {
        self.machines.iter().position(|machine| machine.node == node).expect("a node of the cluster")
    }

    /// The node that leads, by its own word.
    pub fn leader(&self) -> Option<String> {
        let index = (0..self.machines.len()).find(|index| self.cluster.leads(*index))?;
        Some(self.machines[index].node.clone())
    }

    /// Cuts a machine's power, or gives it back.
    pub fn power(&mut self, node: &str, on: bool) {
        let index = self.index(node);
        if on {
            self.cluster.nodes[index].power_on();
        } else {
            self.cluster.nodes[index].power_off();
        }
        self.machines[index].running = on;
    }

    /// The nodes in the order in which they were given a root, with which.
    pub fn given(&self) -> Vec<&str> {
        self.done.iter().map(|(what, _)| what.as_str()).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: UnixStream) -> Result<()> {
        let mut line = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut line)?;
        let answer = self.answer(serde_json::from_str(&line)?);
        let mut stream = stream;
        serde_json::to_writer(&mut stream, &answer)?;
        Ok(stream.write_all(b"\n")?)
    }

    fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Survey => Answer::Machines(self.lock().machines.clone()),
            Ask::Generations => Answer::Generations(self.lock().generations.iter().map(|n| root(*n)).collect()),
            Ask::Give { node, root, back } => self.give(&node, root, back),
            Ask::Settle(root) => {
                self.lock().settled = Some(root);
                Answer::Done
            }
        }
    }

    fn give(&self, node: &str, root: Root, back: bool) -> Answer {
        let mut inside = self.lock();
        let index = inside.index(node);
        let machine = inside.machines[index].clone();
        if machine.running && machine.root == root {
            return Answer::Done;
        }
        if back && machine.root != root && machine.previous != Some(root) {
            return Answer::Failed(format!("the machine of {node} has not kept generation {}", root.generation));
        }
        let leader = inside.leader();
        inside.done.push((format!("{node} {}", root.generation), leader));
        inside.power(node, false);
        if machine.root != root {
            let version = etcd_version();
            let old = EtcdVersion { minor: version.minor - 1, ..version };
            let version = if inside.broken.contains(&root.generation) { old } else { version };
            put_image(&mut inside.cluster, index, root, version);
            let machine = &mut inside.machines[index];
            machine.previous = Some(machine.root);
            machine.root = root;
        }
        inside.hold = inside.hold.and_then(|nth| nth.checked_sub(1));
        if inside.hold == Some(0) {
            inside.held = Some(node.to_owned());
            let held = |inside: &mut Inside| inside.held.is_some();
            inside = self.changed.wait_while(inside, held).unwrap_or_else(PoisonError::into_inner);
        }
        // Whoever was killed in the middle of it left the machine off; another one may have powered it on meanwhile.
        if !inside.machines[index].running {
            inside.power(node, true);
        }
        Answer::Done
    }
}

/// Makes a root the image of a node. Seen at its next boot.
fn put_image(cluster: &mut Cluster, index: usize, root: Root, version: EtcdVersion) {
    let node = &cluster.nodes[index];
    let file = node.home.join("image/usr/lib/kiln/image.json");
    let mut image: serde_json::Value =
        serde_json::from_slice(&fs_err::read(&file).expect("an image says what it has")).expect("in JSON");
    image["key"] = root.image.to_string().into();
    image["etcd_version"] = version.to_string().into();
    node.put_in_image("image.json", image.to_string().as_bytes());
}

/// An operator's hands, in another process.
#[derive(Debug)]
pub struct RemoteHands {
    /// The room's socket.
    pub socket: PathBuf,
}

impl RemoteHands {
    fn ask(&self, ask: &Ask) -> Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket).context("reaching the machines")?;
        serde_json::to_writer(&mut stream, ask)?;
        stream.write_all(b"\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        match serde_json::from_str(&line).context("understanding the machines")? {
            Answer::Failed(why) => bail!(why),
            answer @ (Answer::Machines(_) | Answer::Generations(_) | Answer::Done) => Ok(answer),
        }
    }

    /// The generations there are.
    ///
    /// # Errors
    /// When the room does not answer.
    pub fn generations(&self) -> Result<Vec<Root>> {
        match self.ask(&Ask::Generations)? {
            Answer::Generations(roots) => Ok(roots),
            other @ (Answer::Machines(_) | Answer::Done | Answer::Failed(_)) => bail!("not generations: {other:?}"),
        }
    }

    fn machines(&self) -> Result<Vec<Machine>> {
        match self.ask(&Ask::Survey)? {
            Answer::Machines(machines) => Ok(machines),
            other @ (Answer::Generations(_) | Answer::Done | Answer::Failed(_)) => bail!("not machines: {other:?}"),
        }
    }
}

impl NodeHands for RemoteHands {
    fn hold(&self) -> Result<Box<dyn Any>> {
        // Nothing but operators is ever at these machines.
        Ok(Box::new(()))
    }

    fn survey(&self) -> BTreeMap<String, Result<Option<Seen>, String>> {
        let machines = self.machines().unwrap_or_default();
        machines.into_iter().map(|machine| (machine.node.clone(), Ok(Some(seen(machine))))).collect()
    }

    fn known(&self) -> Result<BTreeMap<Sha256Digest, u64>> {
        Ok(self.generations()?.into_iter().map(|root| (root.image, root.generation)).collect())
    }

    fn take(&self, node: &str, root: Root) -> Result<()> {
        self.ask(&Ask::Give { node: node.to_owned(), root, back: false }).map(drop)
    }

    fn roll_back(&self, node: &str, to: Root) -> Result<()> {
        self.ask(&Ask::Give { node: node.to_owned(), root: to, back: true }).map(drop)
    }

    fn settle(&self, root: Root) -> Result<()> {
        self.ask(&Ask::Settle(root)).map(drop)
    }
}

fn seen(machine: Machine) -> Seen {
    Seen {
        mark: Mark { cluster: Id128([0; 16]), env: ENV.into(), node: machine.node.clone() },
        handle: machine.node,
        uuid: String::new(),
        running: machine.running,
        root: Some(machine.root),
        previous: machine.previous,
        data_bytes: None,
        seed: None,
        memory_mib: 512,
        vcpus: 1,
        mac: None,
        bridge: None,
        trouble: Vec::new(),
    }
}
