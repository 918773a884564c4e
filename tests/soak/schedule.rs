//! Which fault comes when: a pure function of a seed, so that a run can be told and repeated.

use std::net::Ipv4Addr;

use kiln_firstboot::fault::Point;
use kiln_tests::random::Random;
use kiln_tests::wire::Trouble;

/// Members of the cluster under soak.
pub(crate) const NODES: usize = 3;
/// Faults between two checkpoints, at most.
const EPISODE: u64 = 260;
/// Checkpoints in the life of one cluster, at most.
const LIFE: u64 = 12;
/// Volumes wiped in the life of one cluster, at most: an agent lets no more voters be replaced in a day than there are members.
const WIPES: u32 = 3;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The link of a node goes down or comes up.
    Link(usize, bool),
    /// These, and nothing else, are wrong with a node's link.
    Wire(usize, Vec<Trouble>),
    /// etcd is killed.
    CrashEtcd(usize),
    /// etcd stops in mid-step.
    Pause(usize),
    /// ... and goes on.
    Resume(usize),
    /// The agent is killed.
    CrashAgent(usize),
    /// ... and started again.
    StartAgent(usize),
    /// Power is cut.
    Off(usize),
    /// Power of all is cut.
    AllOff,
    /// Power comes back.
    On(usize),
    /// The DNS server is gone.
    DnsGone,
    /// It is there, and gives this node the address of that one.
    DnsLies(usize, usize),
    /// It is there and right.
    DnsRight,
    /// The agent's clock is off by so many seconds.
    Clock(usize, i64),
    /// The agent is cut off where it next reaches this point.
    Arm(usize, Point),
    /// A node is imaged anew and loses its data.
    Wipe(usize),
    /// Everything is mended about one node.
    Mend(usize),
    /// Everything is mended: the cluster must serve, and everything that clients were told must have been true.
    Checkpoint,
    /// As a checkpoint; then all but this node lose their data, and it is away: they must wait for ever, and it must find nobody who
    /// formed when it returns. After that a new cluster is made, and formed under faults.
    End(usize),
}

/// What the schedule knows of the cluster: what it has done to it.
#[derive(Clone, Debug, Default)]
struct Known {
    link_down: bool,
    wire: Vec<Trouble>,
    paused: bool,
    agent_down: bool,
    off: bool,
}

/// The steps of a seed, without end.
#[derive(Debug)]
pub(crate) struct Schedule {
    random: Random,
    nodes: [Known; NODES],
    /// Steps until the next checkpoint.
    left: u64,
    /// Checkpoints until the end of this cluster.
    life: u64,
    wipes: u32,
    wiped_in_episode: bool,
    /// Whom the next faults befall, and how many they are. Mostly one node at a time suffers, so that the others serve, and what
    /// they serve can be wrong.
    victim: usize,
    burst: u64,
    /// The cluster has not been seen serving yet: a volume that is lost now may be the only one.
    forming: bool,
}

impl Schedule {
    /// The schedule of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut schedule = Self {
            random: Random::new(seed),
            nodes: Default::default(),
            left: 0,
            life: 0,
            wipes: 0,
            wiped_in_episode: false,
            victim: 0,
            burst: 0,
            forming: true,
        };
        schedule.begin_life();
        schedule
    }

    /// How long to wait after a step, in milliseconds: mostly hardly, sometimes long enough for an election.
    pub(crate) fn pause(&mut self) -> u64 {
        match self.random.below(100) {
            0..85 => self.random.below(60),
            85..98 => 100 + self.random.below(200),
            98.. => 1500 + self.random.below(1500),
        }
    }

    fn begin_life(&mut self) {
        self.life = 4 + self.random.below(LIFE - 4);
        self.wipes = 0;
        self.forming = true;
        self.begin_episode();
        // The first episode forms; a long one would mostly hold that up.
        self.left = self.random.below(25);
    }

    fn begin_episode(&mut self) {
        self.nodes = Default::default();
        self.left = 40 + self.random.below(EPISODE - 40);
        self.wiped_in_episode = false;
    }

    fn node(&mut self) -> usize {
        usize::try_from(self.random.below(NODES as u64)).expect("few nodes")
    }

    fn other(&mut self, than: usize) -> usize {
        let step = 1 + usize::try_from(self.random.below(NODES as u64 - 1)).expect("few nodes");
        (than + step) % NODES
    }

    /// What may be wrong with a wire.
    fn trouble(&mut self, node: usize) -> Trouble {
        let peer = address(self.other(node));
        match self.random.below(10) {
            0..3 => Trouble::Cut(peer),
            3..5 => Trouble::Deaf(peer),
            5 => Trouble::Port(2380),
            6 => Trouble::Port(2382),
            7 => Trouble::Reset(2380),
            8 => Trouble::Loss(10 + u16::try_from(self.random.below(90)).expect("below 90")),
            9.. => Trouble::Loss(200 + u16::try_from(self.random.below(300)).expect("below 300")),
        }
    }

    fn wire(&mut self, node: usize) -> Step {
        let mut wire = std::mem::take(&mut self.nodes[node].wire);
        if !wire.is_empty() && self.random.chance(55) {
            wire.pop();
            if self.random.chance(50) {
                wire.clear();
            }
        } else {
            wire.push(self.trouble(node));
        }
        self.nodes[node].wire.clone_from(&wire);
        Step::Wire(node, wire)
    }

    fn fault(&mut self) -> Step {
        if let Some(left) = self.burst.checked_sub(1) {
            self.burst = left;
        } else {
            let before = self.victim;
            self.victim = self.node();
            self.burst = 6 + self.random.below(20);
            if self.random.chance(75) {
                self.nodes[before] = Known::default();
                return Step::Mend(before);
            }
        }
        let n = if self.random.chance(92) { self.victim } else { self.node() };
        // What is down comes up again more readily than it went.
        if self.nodes[n].off {
            self.nodes[n] = Known { off: false, paused: false, agent_down: false, ..self.nodes[n].clone() };
            return Step::On(n);
        }
        if self.nodes[n].agent_down && self.random.chance(60) {
            self.nodes[n].agent_down = false;
            return Step::StartAgent(n);
        }
        if self.nodes[n].paused && self.random.chance(50) {
            self.nodes[n].paused = false;
            return Step::Resume(n);
        }
        if self.nodes[n].link_down && self.random.chance(60) {
            self.nodes[n].link_down = false;
            return Step::Link(n, true);
        }
        match self.random.below(100) {
            0..46 => self.wire(n),
            46..62 => {
                self.nodes[n].link_down = true;
                Step::Link(n, false)
            }
            62..69 => {
                self.nodes[n].paused = true;
                Step::Pause(n)
            }
            69..76 => Step::CrashEtcd(n),
            76..81 => {
                self.nodes[n].agent_down = true;
                Step::CrashAgent(n)
            }
            81..86 => {
                self.nodes[n].off = true;
                Step::Off(n)
            }
            86 => {
                self.nodes.iter_mut().for_each(|node| node.off = true);
                Step::AllOff
            }
            87 => Step::DnsGone,
            88 => {
                let other = self.other(n);
                Step::DnsLies(n, other)
            }
            89..91 => Step::DnsRight,
            91..94 => Step::Clock(n, *self.random.pick(&[-31_536_000, -600, -5, 5, 300, 600])),
            94..98 => Step::Arm(n, *self.random.pick(&Point::ALL)),
            98.. => self.wipe(n),
        }
    }

    /// At most one volume between two checkpoints, so that a quorum of volumes is always left.
    fn wipe(&mut self, node: usize) -> Step {
        if self.forming || self.wiped_in_episode || self.wipes == WIPES {
            return self.wire(node);
        }
        self.wiped_in_episode = true;
        self.wipes += 1;
        self.nodes[node] = Known { off: false, paused: false, agent_down: false, ..self.nodes[node].clone() };
        Step::Wipe(node)
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return Some(self.fault());
        }
        if self.life == 0 {
            self.begin_life();
            return Some(Step::End(self.node()));
        }
        self.life -= 1;
        self.forming = false;
        self.begin_episode();
        Some(Step::Checkpoint)
    }
}

/// Address of a node, as [`kiln_tests::cluster::Cluster`] hands them out.
pub(crate) fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, 11 + u8::try_from(node).expect("few nodes"))
}

#[test]
fn a_seed_is_a_schedule() {
    let steps = |seed| Schedule::new(seed).take(5000).collect::<Vec<_>>();
    assert_eq!(steps(7), steps(7));
    assert_ne!(steps(7), steps(8));
}

#[test]
fn at_most_one_volume_is_lost_between_two_checkpoints_and_none_while_forming() {
    for seed in 0..20 {
        let (mut wiped, mut forming) = (0, true);
        for step in Schedule::new(seed).take(5000) {
            match step {
                Step::Wipe(_) => {
                    assert!(!forming, "seed {seed}");
                    wiped += 1;
                    assert_eq!(wiped, 1, "seed {seed}");
                }
                Step::Checkpoint => (wiped, forming) = (0, false),
                Step::End(_) => (wiped, forming) = (0, true),
                Step::Link(..)
                | Step::Wire(..)
                | Step::CrashEtcd(_)
                | Step::Pause(_)
                | Step::Resume(_)
                | Step::CrashAgent(_)
                | Step::StartAgent(_)
                | Step::Off(_)
                | Step::AllOff
                | Step::On(_)
                | Step::DnsGone
                | Step::DnsLies(..)
                | Step::DnsRight
                | Step::Clock(..)
                | Step::Mend(_)
                | Step::Arm(..) => {}
            }
        }
    }
}
