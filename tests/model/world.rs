//! What a state of the model holds: nodes with their disks, and what each raft log has come to.
//!
//! Small on purpose. Ids of lineages, members, volumes and boots are numbers that are only ever compared; [`crate::normal`] numbers them anew
//! after every step, so that two states which differ in names only are one state.

/// A member of the charter: its place in it. 0 is the founder.
pub type Name = u8;
/// Most members of a charter.
pub const NAMES: usize = 5;
/// A raft member id within its lineage.
pub type Id = u8;
/// "No id".
pub const NONE: u8 = u8::MAX;

/// An instance recorded of a volume that is gone.
pub const GONE: u8 = u8::MAX - 1;

/// Where a volume says that it stands; [`kiln_firstboot::state::Phase`] without what can be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Belongs to no raft group.
    Blank,
    /// The founder drew this lineage.
    Founding(u8),
    /// A place as a learner was granted.
    Assigned {
        /// In this lineage.
        lineage: u8,
        /// With this id.
        id: Id,
        /// Its one start from an empty log is spent.
        attempted: bool,
        /// In the boot that goes on.
        here: bool,
    },
    /// A member with data.
    Member {
        /// Of this lineage.
        lineage: u8,
        /// With this id.
        id: Id,
    },
    /// The cluster removed it.
    Evicted {
        /// From this lineage.
        lineage: u8,
        /// With this id.
        id: Id,
    },
}

impl Phase {
    /// Its lineage.
    pub fn lineage(self) -> Option<u8> {
        match self {
            Self::Blank => None,
            Self::Founding(lineage)
            | Self::Assigned { lineage, .. }
            | Self::Member { lineage, .. }
            | Self::Evicted { lineage, .. } => Some(lineage),
        }
    }
}

/// etcd's log on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Log {
    /// Whose.
    pub lineage: u8,
    /// Under which raft id.
    pub id: Id,
    /// How much of the lineage's log it holds: an index into [`Lineage::ranks`], counted from 1; 0 is an empty log.
    pub rank: u8,
}

/// A data volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Disk {
    /// Drawn when it was formatted.
    pub instance: u8,
    /// Of the charter it belongs to.
    pub generation: u8,
    /// The state file; none on a volume just formatted.
    pub phase: Option<Phase>,
    /// etcd's log.
    pub log: Option<Log>,
    /// `activated_seen`.
    pub activated: bool,
    /// The boot counter; counted only where the configuration asks for it.
    pub boots: u8,
}

impl Disk {
    /// A volume just formatted.
    pub fn fresh(instance: u8, generation: u8) -> Self {
        Self { instance, generation, phase: None, log: None, activated: false, boots: 0 }
    }
}

/// The etcd process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Etcd {
    /// None.
    Down,
    /// Started on an empty log, which it has not written yet.
    Starting,
    /// Running on its log.
    Up,
}

/// What the agent's desk last wrote down to tell others. Whether etcd runs is looked up when somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Seat {
    /// Nothing yet: the agent has just started.
    Empty,
    /// Positively blank.
    Blank,
    /// Halted, or unsure of its name.
    Unknown,
    /// Data of this lineage.
    Data(u8),
}

/// What the agent has chosen on its peers' answers and not done yet. The answers grow old meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pending {
    /// Nothing.
    Idle,
    /// Form.
    Form,
    /// Ask one of `grantors` (a set of names) for a place in `lineage`.
    Join {
        /// The lineage.
        lineage: u8,
        /// The names to ask.
        grantors: u8,
    },
    /// Asked; waits for the answer.
    Asking,
}

/// What a grantor does for a caller; one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Task {
    /// The slot that asked.
    pub caller: u8,
    /// The name it asked for; its own, unless it lies.
    pub name: Name,
    /// The volume it asked with.
    pub instance: u8,
    /// The caller still waits for this very answer: its nonce fits.
    pub live: bool,
    /// A snapshot was taken and verified.
    pub snapshot: bool,
    /// What comes next.
    pub step: Step,
}

/// A grantor's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Look at the members, and decide.
    Look,
    /// Decided: add the caller.
    Add,
    /// Decided: remove this learner.
    RemoveLearner(Id),
    /// Decided: remove this voter.
    RemoveVoter(Id),
    /// The answer with the fresh id is under way.
    Reply(Id),
}

/// A boot that an agent was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Heard {
    /// Whose.
    pub name: Name,
    /// Of which volume.
    pub instance: u8,
    /// Which one by the volume's count.
    pub boots: u8,
    /// Which one in truth.
    pub boot: u8,
}

/// A machine, with its disk. The first ones bear the charter's names in order; twins come after them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// By its seed.
    pub name: Name,
    /// Generation of the charter in its seed.
    pub generation: u8,
    /// It has power and its agent runs.
    pub on: bool,
    /// The data volume is mounted.
    pub mounted: bool,
    /// The data volume.
    pub disk: Disk,
    /// What is written to the mount point while nothing is mounted on it. No real node gets that far; mutants do.
    pub shadow: Option<Disk>,
    /// etcd.
    pub etcd: Etcd,
    /// etcd ended in this boot with "permanently removed".
    pub removed: bool,
    /// The desk.
    pub seat: Seat,
    /// The agent's undone decision.
    pub pending: Pending,
    /// What its agent does for another.
    pub task: Option<Task>,
    /// Which boot this is; compared only.
    pub boot: u8,
    /// Boots of other volumes it was told of in this boot.
    pub heard: Vec<Heard>,
    /// The highest boot of its own volume, other than this one, that a peer told it of.
    pub told: Option<u8>,
}

impl Slot {
    /// A machine that was never booted, with an empty disk.
    pub fn fresh(name: Name, instance: u8) -> Self {
        Self {
            name,
            generation: 1,
            on: false,
            mounted: true,
            disk: Disk::fresh(instance, 1),
            shadow: None,
            etcd: Etcd::Down,
            removed: false,
            seat: Seat::Empty,
            pending: Pending::Idle,
            task: None,
            boot: 0,
            heard: Vec::new(),
            told: None,
        }
    }

    /// The volume that the agent reads and writes, mounted or not.
    pub fn volume(&self) -> &Disk {
        if self.mounted { &self.disk } else { self.shadow.as_ref().unwrap_or(&self.disk) }
    }

    /// As [`Slot::volume`].
    pub fn volume_mut(&mut self) -> &mut Disk {
        if self.mounted { &mut self.disk } else { self.shadow.as_mut().unwrap_or(&mut self.disk) }
    }

    /// The log that a running etcd replicates.
    pub fn replica(&self) -> Option<Log> {
        if self.on && self.etcd == Etcd::Up { self.volume().log } else { None }
    }

    /// Takes the power away. Everything that is not on the disk is gone.
    pub fn cut(&mut self) {
        self.on = false;
        self.etcd = Etcd::Down;
        self.removed = false;
        self.seat = Seat::Empty;
        self.pending = Pending::Idle;
        self.task = None;
        self.boot = 0;
        self.heard.clear();
        self.told = None;
    }
}

/// An entry of etcd's member list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// Raft id.
    pub id: Id,
    /// It votes.
    pub voter: bool,
    /// It has published its name and client URLs.
    pub started: bool,
}

/// A member list, by name. etcd itself refuses a second member with the same peer URL.
pub type Config = [Option<Member>; NAMES];

/// What the raft group of one formation has committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lineage {
    /// The member list after each length of log that some replica stands at, shortest first; the last one is all that was committed.
    pub ranks: Vec<Config>,
    /// The id etcd computes for each name that bootstraps this lineage.
    pub roots: [Id; NAMES],
    /// `/kiln/activated` is committed.
    pub activated: bool,
    /// A client's write was acknowledged.
    pub served: bool,
    /// Nothing was committed since it was bootstrapped.
    pub virgin: bool,
    /// Ids that were started from an empty log, as a set.
    pub born: u16,
    /// `/kiln/members/NAME`: the volume each was added with.
    pub recorded: [u8; NAMES],
    /// Generation of the charter it was formed under.
    pub generation: u8,
}

/// A budget that is never used up.
pub const UNLIMITED: u8 = u8::MAX;

/// How often what may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Budget {
    /// Disks wiped.
    pub wipes: u8,
    /// Power cuts.
    pub crashes: u8,
    /// etcd processes killed.
    pub kills: u8,
    /// Machines copied with their disk.
    pub clones: u8,
    /// Second machines with a node's seed and an empty disk.
    pub twins: u8,
    /// Boots with the data volume not mounted.
    pub unmounts: u8,
    /// Disks put back to an earlier snapshot of theirs.
    pub rollbacks: u8,
    /// Members that disappear from SRV.
    pub shrinks: u8,
    /// Seeds of the next generation handed to nodes.
    pub reseeds: u8,
    /// Closings of the formation window.
    pub closings: u8,
    /// Calls in another's name.
    pub forgeries: u8,
    /// etcd logs that disappear from a volume whose state stays.
    pub losses: u8,
}

/// What a transition did that no state shows afterwards; a set of [`crate::law::Breach`]es.
pub type Breaches = u32;

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct World {
    /// The machines.
    pub slots: Vec<Slot>,
    /// The formations of which a trace is left.
    pub lineages: Vec<Lineage>,
    /// A disk as it was when a snapshot was taken of this slot.
    pub snapshot: Option<(u8, Disk)>,
    /// The formation window is open.
    pub window: bool,
    /// Names that SRV lists, as a set.
    pub srv: u8,
    /// What may still happen.
    pub budget: Budget,
    /// What was broken on the way here.
    pub breaches: Breaches,
}
