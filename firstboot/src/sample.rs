//! Observations to start tests from: three members, this node `etcd1`, founder `etcd1`, everything in order and blank.

use std::net::IpAddr;

use crate::charter::{Charter, CharterMember};
use crate::digest::{Id128, Sha256Digest};
use crate::disk_fact::{DataFact, RootFact, WalFact};
use crate::message::{Holds, NodeStatus, Running};
use crate::name::Fqdn;
use crate::observation::*;
use crate::seed::SeedHeader;
use crate::state::{Phase, RaftId, State};
use crate::volume::VolumeLabel;

pub(crate) const NOW: i64 = 1_700_001_000;
pub(crate) const LINEAGE: Id128 = Id128([5; 16]);
/// The boot that an observation is made in.
pub(crate) const THIS_BOOT: &str = "this boot";
pub(crate) const INSTANCE: Id128 = Id128([3; 16]);
/// Of `etcd1` as founder of [`LINEAGE`]; printed by a real etcd, see fixtures/wal/README.
pub(crate) const FOUNDER_IDS: (RaftId, RaftId) = (RaftId(0x3510_d3b3_b2ac_148c), RaftId(0xd58e_ffd0_c307_8ee8));

pub(crate) fn fqdn(n: u8) -> Fqdn {
    Fqdn::parse(&format!("etcd{n}.lab.example")).unwrap()
}

pub(crate) fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

pub(crate) fn charter(members: u8) -> Charter {
    Charter {
        schema: 1,
        env: "lab".into(),
        cluster: Id128([7; 16]),
        generation: 1,
        domain: Fqdn::parse("lab.example").unwrap(),
        members: (1..=members).map(|n| CharterMember { fqdn: fqdn(n), addresses: vec![address(n)] }).collect(),
        founder: fqdn(1),
        not_before: 1_700_000_000,
        form_until: 1_700_000_000 + crate::charter::DEFAULT_FORM_WINDOW_SECS,
        min_etcd: "3.5.30".parse().unwrap(),
    }
}

pub(crate) fn status(n: u8, charter: &Charter, holds: Holds) -> NodeStatus {
    NodeStatus {
        fqdn: fqdn(n),
        env: charter.env.clone(),
        cluster: charter.cluster,
        generation: charter.generation,
        charter: charter.digest(),
        boot_id: format!("boot-{n}"),
        image_key: Sha256Digest([1; 32]),
        etcd_version: "3.6.14".parse().unwrap(),
        holds,
        phase: "blank".into(),
        instance: Some(Id128([40 + n; 16])),
        boot_counter: 1,
        remembers: Vec::new(),
        activated: false,
        row: 13,
        waiting_for: String::new(),
        waiting_since: 0,
    }
}

pub(crate) fn running(n: u8, leader: u8) -> Holds {
    Holds::Running(running_on(n, leader))
}

pub(crate) fn running_on(n: u8, leader: u8) -> Running {
    Running {
        lineage: LINEAGE,
        raft_cluster: FOUNDER_IDS.1,
        member: RaftId(u64::from(n)),
        learner: false,
        leader: Some(RaftId(u64::from(leader))),
        linearizable: true,
        applied_index: 10,
        revision: 2,
        alarms: Vec::new(),
        unheard: Vec::new(),
    }
}

pub(crate) fn answered(n: u8, charter: &Charter, holds: Holds) -> PeerObservation {
    PeerObservation {
        fqdn: fqdn(n),
        located: Lookup::Found(vec![address(n)]),
        answer: PeerAnswer::Answered(Box::new(status(n, charter, holds))),
    }
}

/// What node `n` of `members` sees at its first boot, every other one answering that it is blank.
pub(crate) fn observation(n: u8, members: u8) -> Observation {
    let charter = charter(members);
    let label = VolumeLabel {
        schema: 1,
        env: "lab".into(),
        cluster: charter.cluster,
        generation: 1,
        fqdn: fqdn(n),
        instance: INSTANCE,
    };
    Observation {
        schema: 1,
        now: NOW,
        boot_id: THIS_BOOT.into(),
        image: ImageFact {
            env: "lab".into(),
            cluster: charter.cluster,
            etcd_version: "3.6.14".parse().unwrap(),
            source_date_epoch: 1_690_000_000,
        },
        root: RootFact::Overlay,
        data: DataFact::Mounted { label: label.clone(), formatted_now: true, free_mib: 900 },
        wal: WalFact::Absent,
        state: StateView::Read(Box::new(State { boot_counter: 1, ..State::blank(&label) })),
        etcd: EtcdProcess::Down,
        own: OwnName {
            addresses: vec![OwnAddress { address: address(n), ptr: Lookup::Found(vec![format!("{}.", fqdn(n))]) }],
            forward: Lookup::Found(vec![address(n)]),
        },
        srv: Lookup::Found((1..=members).map(|n| SrvTarget { target: format!("{}.", fqdn(n)), port: 2380 }).collect()),
        recorded_boot: None,
        peers: (1..=members).filter(|m| *m != n).map(|m| answered(m, &charter, Holds::Blank)).collect(),
        seed: SeedView::Verified {
            header: SeedHeader { schema: 1, env: "lab".into(), cluster: charter.cluster, generation: 1, fqdn: fqdn(n) },
            charter: Box::new(charter),
        },
    }
}

impl Observation {
    pub(crate) fn in_phase(mut self, position: Phase) -> Self {
        if let StateView::Read(state) = &mut self.state {
            state.position = position;
        }
        self
    }
    pub(crate) fn with_wal(mut self, (member, raft_cluster): (RaftId, RaftId)) -> Self {
        self.wal = WalFact::Present { member, raft_cluster };
        self
    }
    pub(crate) fn state_mut(&mut self) -> &mut State {
        match &mut self.state {
            StateView::Read(state) => state,
            StateView::Absent | StateView::Unreadable(_) => panic!("the sample has a state"),
        }
    }
    pub(crate) fn charter_mut(&mut self) -> &mut Charter {
        match &mut self.seed {
            SeedView::Verified { charter, .. } => charter,
            SeedView::Missing(_) | SeedView::Invalid(_) => panic!("the sample has a seed"),
        }
    }
    pub(crate) fn peer_mut(&mut self, n: u8) -> &mut PeerObservation {
        self.peers.iter_mut().find(|p| p.fqdn == fqdn(n)).expect("the sample has this peer")
    }
    pub(crate) fn peer_status(&mut self, n: u8) -> &mut NodeStatus {
        match &mut self.peer_mut(n).answer {
            PeerAnswer::Answered(status) => status,
            PeerAnswer::Unreachable(_) => panic!("the sample's peers answer"),
        }
    }
}

pub(crate) fn assigned(attempted: bool) -> Phase {
    Phase::Assigned {
        lineage: LINEAGE,
        raft_cluster: RaftId(0xc),
        member: RaftId(0xa),
        initial_cluster: Vec::new(),
        attempted,
        boot_id: THIS_BOOT.into(),
    }
}

pub(crate) fn member() -> Phase {
    Phase::Member { lineage: LINEAGE, raft_cluster: RaftId(0xc), member: RaftId(0xa) }
}
