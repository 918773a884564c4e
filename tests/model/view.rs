//! What one node sees of a state, as the agent would put it, and what the agent's own functions make of it.
//!
//! [`decide`], [`status`] and precheck's [`judge`] are called as they are. Their answers are kept by what they were asked, for building an
//! [`Observation`] with all its texts costs far more than a step of the model.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use kiln_firstboot::charter::{Charter, CharterMember, DEFAULT_FORM_WINDOW_SECS};
use kiln_firstboot::decide::decide;
use kiln_firstboot::decision::Decision;
use kiln_firstboot::digest::{Id128, Sha256Digest};
use kiln_firstboot::disk_fact::{DataFact, DiskFacts, RootFact, SeedFact, WalFact};
use kiln_firstboot::message::{Holds, NodeStatus, Remembered, Running};
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::observation::{
    EtcdProcess, ImageFact, Lookup, Observation, OwnAddress, OwnName, PeerAnswer, PeerObservation, SeedView, SrvTarget,
    StateView,
};
use kiln_firstboot::precheck::{Start, judge};
use kiln_firstboot::raft_id;
use kiln_firstboot::seed::SeedHeader;
use kiln_firstboot::standing::{Standing, status};
use kiln_firstboot::state::{Phase as RealPhase, RaftId, State};
use kiln_firstboot::volume::VolumeLabel;

use crate::world::{Disk, Id, Name, Phase, Seat};

const NOT_BEFORE: i64 = 1_700_000_000;
const CLUSTER: Id128 = Id128([7; 16]);
/// Versions do not vary in the model.
pub const ETCD: &str = "3.6.14";

/// What a peer says its volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Says {
    /// Nothing.
    Blank,
    /// It has halted.
    Unknown,
    /// Data, and no etcd that answers.
    Data(u8),
    /// A running etcd.
    Running {
        /// Its lineage.
        lineage: u8,
        /// It is a learner.
        learner: bool,
        /// It votes and there is a quorum.
        linearizable: bool,
        /// It leads.
        leads: bool,
    },
}

/// A peer's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Told {
    /// What it holds.
    pub says: Says,
    /// It has seen the activation.
    pub activated: bool,
    /// Generation of its charter.
    pub generation: u8,
    /// The boot of the asker's volume that it remembers, and whether that is the asker's present boot.
    pub remembers: Option<(u8, bool)>,
}

/// Everything a decision can depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    /// How many members the charter has.
    pub members: u8,
    /// Who looks.
    pub name: Name,
    /// Generation of its charter.
    pub generation: u8,
    /// The window is open.
    pub window: bool,
    /// Who is listed in SRV.
    pub srv: u8,
    /// The data volume is mounted.
    pub mounted: bool,
    /// What is on it.
    pub disk: Disk,
    /// The id in the state is the one etcd computes for the founder of that lineage.
    pub phase_is_root: bool,
    /// So is the id in the log.
    pub log_is_root: bool,
    /// An etcd process exists.
    pub etcd: bool,
    /// The peers' answers by name, `None` for silence; absent while they have not been asked.
    pub peers: Option<Vec<Option<Told>>>,
    /// The highest other boot of its volume it was told of.
    pub told: Option<u8>,
}

/// A decision, as far as the model can tell decisions apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// A rule forbids every act.
    Halt,
    /// Halted because a peer remembers another boot.
    HaltRolledBack,
    /// The peers have to be asked.
    Ask,
    /// Wait.
    Wait,
    /// Write a blank state.
    RecordBlank,
    /// Restart.
    Restart,
    /// Start as a learner.
    StartExisting,
    /// Drop the assignment.
    Drop,
    /// Start as the founder.
    StartFounding,
    /// Join.
    Join {
        /// This lineage.
        lineage: u8,
        /// Through one of these.
        grantors: u8,
    },
    /// Form.
    Form,
}

/// A decision, and what the node tells others from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// What was decided.
    pub act: Act,
    /// What is written to the desk.
    pub seat: Seat,
    /// Asked twice, `decide` answered twice the same.
    pub steady: bool,
}

thread_local! {
    static VERDICTS: RefCell<HashMap<Look, Verdict>> = RefCell::default();
    static STARTS: RefCell<HashMap<Look, Option<bool>>> = RefCell::default();
}

/// What [`decide`] and [`status`] make of it.
pub fn verdict(look: &Look) -> Verdict {
    if let Some(known) = VERDICTS.with_borrow(|known| known.get(look).copied()) {
        return known;
    }
    let seen = observation(look);
    let decision = decide(&seen);
    let standing = Standing {
        seen: &seen,
        decision: &decision,
        boot_id: "boot",
        image_key: Sha256Digest([1; 32]),
        boot_counted: true,
        waiting_for: "",
        waiting_since: 0,
    };
    let seat = match status(&standing).map(|status| status.holds) {
        None => Seat::Empty,
        Some(Holds::Blank) => Seat::Blank,
        Some(Holds::Unknown) => Seat::Unknown,
        Some(Holds::Data { lineage } | Holds::Running(Running { lineage, .. })) => Seat::Data(number(lineage)),
    };
    let made = Verdict { act: act(&decision), seat, steady: decide(&seen) == decision };
    VERDICTS.with_borrow_mut(|known| known.insert(look.clone(), made));
    made
}

/// What precheck makes of the disk: a start on its log, a start on an empty log (which then needs a permit), or none.
pub fn start(look: &Look) -> Option<Start> {
    let empty = STARTS.with_borrow(|known| known.get(look).copied());
    let empty = empty.unwrap_or_else(|| {
        let seen = observation(look);
        let StateView::Read(state) = &seen.state else { return None };
        let facts = DiskFacts { root: seen.root, data: seen.data, seed: SeedFact::Unpacked, wal: seen.wal };
        let made = judge(&facts, state).ok().map(|start| start != Start::Log);
        STARTS.with_borrow_mut(|known| known.insert(look.clone(), made));
        made
    });
    empty.map(|empty| if empty { Start::Empty(RaftId(0)) } else { Start::Log })
}

fn act(decision: &Decision) -> Act {
    use kiln_firstboot::refusal::Refusal;
    use kiln_firstboot::wait::WaitReason;
    match decision {
        Decision::Halt(Refusal::RolledBack { .. }) => Act::HaltRolledBack,
        Decision::Halt(_) => Act::Halt,
        Decision::Wait(WaitReason::NoAddress) => Act::Ask,
        Decision::Wait(_) => Act::Wait,
        Decision::RecordBlank { .. } => Act::RecordBlank,
        Decision::Restart { .. } => Act::Restart,
        Decision::StartExisting { .. } => Act::StartExisting,
        Decision::DropAssignment { .. } => Act::Drop,
        Decision::StartFounding { .. } => Act::StartFounding,
        Decision::Join { via, also, lineage, .. } => Act::Join {
            lineage: number(*lineage),
            grantors: std::iter::once(via).chain(also).fold(0, |set, fqdn| set | (1 << name_of(fqdn))),
        },
        Decision::Form { .. } => Act::Form,
    }
}

/// The lineage with this number.
pub fn lineage(number: u8) -> Id128 {
    Id128([number + 1; 16])
}

fn number(lineage: Id128) -> u8 {
    lineage.0[0] - 1
}

/// A volume.
pub fn instance(number: u8) -> Id128 {
    Id128([number.wrapping_add(100); 16])
}

/// The name of a member.
pub fn fqdn(name: Name) -> Fqdn {
    Fqdn::parse(&format!("etcd{}.lab.example", name + 1)).expect("a digit makes a name")
}

fn name_of(fqdn: &Fqdn) -> Name {
    let digit = fqdn.as_str().as_bytes()["etcd".len()];
    digit - b'1'
}

fn address(name: Name) -> IpAddr {
    IpAddr::from([10, 0, 0, name + 1])
}

/// The charter of one generation.
pub fn charter(members: u8, generation: u8) -> Charter {
    Charter {
        schema: 1,
        env: "lab".into(),
        cluster: CLUSTER,
        generation: generation.into(),
        domain: Fqdn::parse("lab.example").expect("a name"),
        members: (0..members).map(|n| CharterMember { fqdn: fqdn(n), addresses: vec![address(n)] }).collect(),
        founder: fqdn(0),
        not_before: NOT_BEFORE,
        form_until: NOT_BEFORE + DEFAULT_FORM_WINDOW_SECS,
        min_etcd: ETCD.parse().expect("a version"),
    }
}

/// The id that etcd computes for the founder of a lineage, and that of the raft cluster.
fn founding_ids(generation: u8, number: u8) -> (RaftId, RaftId) {
    let token = raft_id::cluster_token(CLUSTER, generation.into(), lineage(number));
    let member = raft_id::member_id(&[fqdn(0).peer_url()], &token);
    (member, raft_id::raft_cluster_id(&[member]))
}

/// A member id as etcd would have it.
pub fn raft_id(generation: u8, lineage: u8, id: Id, is_root: bool) -> RaftId {
    if is_root { founding_ids(generation, lineage).0 } else { RaftId(1000 + u64::from(id)) }
}

fn phase(look: &Look, phase: Phase) -> RealPhase {
    let ids = |number, id| {
        let raft_cluster = founding_ids(look.disk.generation, number).1;
        (lineage(number), raft_cluster, raft_id(look.disk.generation, number, id, look.phase_is_root))
    };
    match phase {
        Phase::Blank => RealPhase::Blank,
        Phase::Founding(number) => RealPhase::Founding { lineage: lineage(number) },
        Phase::Assigned { lineage, id, attempted, here } => {
            let (lineage, raft_cluster, member) = ids(lineage, id);
            let boot_id = if here { "this boot" } else { "another" }.into();
            RealPhase::Assigned { lineage, raft_cluster, member, initial_cluster: Vec::new(), attempted, boot_id }
        }
        Phase::Member { lineage, id } => {
            let (lineage, raft_cluster, member) = ids(lineage, id);
            RealPhase::Member { lineage, raft_cluster, member }
        }
        Phase::Evicted { lineage, id } => {
            let (lineage, _, member) = ids(lineage, id);
            RealPhase::Evicted { lineage, member }
        }
    }
}

/// The observation the agent would make.
fn observation(look: &Look) -> Observation {
    let charter = charter(look.members, look.generation);
    let header = SeedHeader {
        schema: 1,
        env: "lab".into(),
        cluster: CLUSTER,
        generation: look.generation.into(),
        fqdn: fqdn(look.name),
    };
    let label = VolumeLabel {
        schema: 1,
        env: "lab".into(),
        cluster: CLUSTER,
        generation: look.disk.generation.into(),
        fqdn: fqdn(look.name),
        instance: instance(look.disk.instance),
    };
    let read = |phase_on_disk| {
        let blank = State::blank(&label);
        StateView::Read(Box::new(State {
            position: phase(look, phase_on_disk),
            activated_seen: look.disk.activated,
            boot_counter: look.disk.boots.into(),
            ..blank
        }))
    };
    let wal = match look.disk.log {
        None => WalFact::Absent,
        Some(log) => WalFact::Present {
            member: raft_id(look.disk.generation, log.lineage, log.id, look.log_is_root),
            raft_cluster: founding_ids(look.disk.generation, log.lineage).1,
        },
    };
    let (data, wal, state) = if look.mounted {
        let state = look.disk.phase.map_or(StateView::Absent, read);
        (DataFact::Mounted { label, formatted_now: false, free_mib: 900 }, wal, state)
    } else {
        let nothing = "nothing is mounted on /var/lib/kiln".to_owned();
        (DataFact::Unusable(nothing), WalFact::Unknown, StateView::Absent)
    };
    let asked = look.peers.is_some();
    let own = OwnAddress { address: address(look.name), ptr: Lookup::Found(vec![fqdn(look.name).to_string()]) };
    let listed = (0..look.members).filter(|n| look.srv & (1 << n) != 0);
    let silence = vec![None; usize::from(look.members)];
    let others = (0..look.members).filter(|n| asked && *n != look.name);
    let peers = look.peers.as_ref().unwrap_or(&silence);
    Observation {
        schema: 1,
        now: charter.form_until + if look.window { -1000 } else { 1 },
        boot_id: "this boot".into(),
        image: ImageFact {
            env: "lab".into(),
            cluster: CLUSTER,
            etcd_version: ETCD.parse().expect("a version"),
            source_date_epoch: NOT_BEFORE - 1000,
        },
        root: RootFact::Overlay,
        data,
        wal,
        state,
        etcd: if look.etcd { EtcdProcess::Up } else { EtcdProcess::Down },
        own: OwnName {
            addresses: if asked { vec![own] } else { Vec::new() },
            forward: Lookup::Found(vec![address(look.name)]),
        },
        srv: Lookup::Found(listed.map(|n| SrvTarget { target: fqdn(n).to_string(), port: 2380 }).collect()),
        peers: others.map(|n| peer(look, &charter, n, peers[usize::from(n)])).collect(),
        recorded_boot: look.told.map(u64::from),
        seed: SeedView::Verified { header, charter: Box::new(charter) },
    }
}

fn peer(look: &Look, charter: &Charter, name: Name, told: Option<Told>) -> PeerObservation {
    let answer = match told {
        None => PeerAnswer::Unreachable("no answer".into()),
        Some(told) => PeerAnswer::Answered(Box::new(node_status(look, charter, name, told))),
    };
    PeerObservation { fqdn: fqdn(name), located: Lookup::Found(vec![address(name)]), answer }
}

fn node_status(look: &Look, charter: &Charter, name: Name, told: Told) -> NodeStatus {
    let theirs = if u64::from(told.generation) == charter.generation {
        charter.digest()
    } else {
        self::charter(look.members, told.generation).digest()
    };
    let holds = match told.says {
        Says::Blank => Holds::Blank,
        Says::Unknown => Holds::Unknown,
        Says::Data(number) => Holds::Data { lineage: lineage(number) },
        Says::Running { lineage: number, learner, linearizable, leads } => {
            let member = RaftId(500 + u64::from(name));
            Holds::Running(Running {
                raft_cluster: founding_ids(told.generation, number).1,
                learner,
                leader: linearizable.then_some(if leads { member } else { RaftId(599) }),
                linearizable,
                ..running(number, member)
            })
        }
    };
    NodeStatus {
        fqdn: fqdn(name),
        env: "lab".into(),
        cluster: CLUSTER,
        generation: told.generation.into(),
        charter: theirs,
        boot_id: format!("boot of {name}"),
        image_key: Sha256Digest([1; 32]),
        etcd_version: ETCD.parse().expect("a version"),
        holds,
        phase: "any".into(),
        row: 0,
        instance: Some(instance(200 + name)),
        boot_counter: 1,
        remembers: told
            .remembers
            .iter()
            .map(|(boots, this)| Remembered {
                fqdn: fqdn(look.name),
                instance: instance(look.disk.instance),
                boot_counter: (*boots).into(),
                boot_id: if *this { "this boot".into() } else { "another".into() },
            })
            .collect(),
        activated: told.activated,
        waiting_for: String::new(),
        waiting_since: 0,
    }
}

/// A voter's etcd in good health.
pub fn running(number: u8, member: RaftId) -> Running {
    Running {
        lineage: lineage(number),
        raft_cluster: founding_ids(1, number).1,
        member,
        learner: false,
        leader: Some(member),
        linearizable: true,
        applied_index: 10,
        revision: 2,
        alarms: Vec::new(),
        unheard: Vec::new(),
    }
}
