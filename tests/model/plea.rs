//! What a grantor and the leader's agent see of a state, and what [`decide_grant`], [`promotable`] and [`complete`] make of it.

use std::cell::RefCell;
use std::collections::HashMap;

use kiln_firstboot::custody::{complete, promotable};
use kiln_firstboot::digest::Id128;
use kiln_firstboot::etcd::ListedMember;
use kiln_firstboot::grant::{GrantDecision, GrantObservation, PeerPort, SnapshotFact, Voter, decide_grant};
use kiln_firstboot::message::{JoinRequest, Running, Unheard};
use kiln_firstboot::record::MemberRecord;
use kiln_firstboot::replacement::Limits;
use kiln_firstboot::state::RaftId;

use crate::view::{ETCD, charter, fqdn, instance, running};
use crate::world::{Config, Id, Member, Name};

/// Far from every limit that counts from the last removal.
const NOW: i64 = 1_800_000_000;

/// What the records say of the volume that a name was added with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recorded {
    /// Nothing.
    Never,
    /// It is the one that asks now.
    Same,
    /// It is another one.
    Other,
}

/// Everything that a grant can depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plea {
    /// How many members the charter has.
    pub members: u8,
    /// The grantor's generation, and the caller's.
    pub generations: (u8, u8),
    /// The grantor.
    pub own: Name,
    /// It reads linearizably and votes.
    pub serving: bool,
    /// Its raft id.
    pub own_id: Id,
    /// The leader's raft id.
    pub leader: Option<Id>,
    /// The name in the caller's certificate.
    pub caller: Name,
    /// The name it asks for.
    pub asked: Name,
    /// The member list.
    pub config: Config,
    /// The record of the name asked for.
    pub recorded: Recorded,
    /// Something listens on that name's peer port.
    pub listens: bool,
    /// Ids of members that no etcd has had a connection with for a minute, as a set.
    pub unheard: u16,
    /// The other voters that answered, by name, as a set.
    pub answered: u8,
    /// A snapshot was taken and verified.
    pub snapshot: bool,
}

/// A grant's decision, as far as the model can tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ruling {
    /// Add the caller.
    Add,
    /// Remove its learner first.
    RemoveLearner(Id),
    /// Remove its voter first.
    RemoveVoter(Id),
    /// Take a snapshot first.
    Snapshot,
    /// Not now.
    Later,
    /// Not at all.
    Refuse,
}

thread_local! {
    static RULINGS: RefCell<HashMap<Plea, (Ruling, bool)>> = RefCell::default();
    static READY: RefCell<HashMap<(u8, Config), (u16, bool)>> = RefCell::default();
}

/// What [`decide_grant`] makes of it, and whether it does so twice.
pub fn ruling(plea: &Plea) -> (Ruling, bool) {
    if let Some(known) = RULINGS.with_borrow(|known| known.get(plea).copied()) {
        return known;
    }
    let made = ask(plea);
    RULINGS.with_borrow_mut(|known| known.insert(plea.clone(), made));
    made
}

fn ask(plea: &Plea) -> (Ruling, bool) {
    let ours = charter(plea.members, plea.generations.0);
    let theirs = charter(plea.members, plea.generations.1);
    let (own, caller) = (fqdn(plea.own), fqdn(plea.caller));
    let request = JoinRequest {
        cluster: theirs.cluster,
        generation: theirs.generation,
        charter: theirs.digest(),
        fqdn: fqdn(plea.asked),
        instance: instance(0),
        etcd_version: ETCD.parse().expect("a version"),
        nonce: Id128([9; 16]),
    };
    let unheard: Vec<Unheard> = (0..16)
        .filter(|id| plea.unheard & (1 << id) != 0)
        .map(|id| Unheard { member: raft(id), seconds: Limits::DEFAULT.unheard_secs })
        .collect();
    let member = |id| Running { leader: plea.leader.map(raft), unheard: unheard.clone(), ..running(0, raft(id)) };
    let own_running = member(plea.own_id);
    let members = listed(&plea.config);
    let others = (0..plea.members).filter(|name| *name != plea.own && *name != plea.asked);
    let voters: Vec<Voter> = others
        .filter_map(|name| Some((name, plea.config[usize::from(name)].filter(|m| m.voter)?)))
        .map(|(name, m)| Voter {
            fqdn: fqdn(name),
            member: raft(m.id),
            answer: (plea.answered & (1 << name) != 0).then(|| member(m.id)),
        })
        .collect();
    let listed_id = plea.config[usize::from(plea.asked)].map_or(RaftId(0), |m| raft(m.id));
    let record = match plea.recorded {
        Recorded::Never => None,
        Recorded::Same => Some(MemberRecord { instance: instance(0), member: listed_id, since: 0 }),
        Recorded::Other => Some(MemberRecord { instance: instance(1), member: listed_id, since: 0 }),
    };
    let seen = GrantObservation {
        charter: &ours,
        own: &own,
        own_version: ETCD.parse().expect("a version"),
        serving: plea.serving,
        own_member: raft(plea.own_id),
        leader: plea.leader.map(raft),
        running: Some(&own_running),
        cluster_version: Some("3.6.0".parse().expect("a version")),
        caller: &caller,
        request: &request,
        members: &members,
        recorded: record.as_ref(),
        caller_port: if plea.listens { PeerPort::Listens } else { PeerPort::Refuses },
        voters: &voters,
        snapshot: plea.snapshot.then_some(SnapshotFact { age_secs: 0, revision: 2 }),
        removals: &[],
        now: NOW,
        limits: Limits::DEFAULT,
    };
    let decision = decide_grant(&seen);
    let steady = decide_grant(&seen) == decision;
    let made = match decision {
        GrantDecision::Add => Ruling::Add,
        GrantDecision::RemoveLearner { member } => Ruling::RemoveLearner(id(member)),
        GrantDecision::RemoveVoter { member } => Ruling::RemoveVoter(id(member)),
        GrantDecision::TakeSnapshot => Ruling::Snapshot,
        GrantDecision::RetryAfter { .. } => Ruling::Later,
        GrantDecision::Refuse { .. } | GrantDecision::Duplicate { .. } => Ruling::Refuse,
    };
    (made, steady)
}

/// What [`promotable`] (a set of ids) and [`complete`] make of a member list.
pub fn ready(members: u8, config: &Config) -> (u16, bool) {
    let key = (members, *config);
    if let Some(known) = READY.with_borrow(|known| known.get(&key).copied()) {
        return known;
    }
    let (list, charter) = (listed(config), charter(members, 1));
    let promoted = promotable(&list, &charter).into_iter().fold(0, |set, (member, _)| set | (1 << id(member)));
    let made = (promoted, complete(&list, &charter));
    READY.with_borrow_mut(|known| known.insert(key, made));
    made
}

fn raft(id: Id) -> RaftId {
    RaftId(1000 + u64::from(id))
}

fn id(member: RaftId) -> Id {
    u8::try_from(member.0 - 1000).expect("an id that was listed")
}

fn listed(config: &Config) -> Vec<ListedMember> {
    let entry = |(name, member): (usize, &Option<Member>)| {
        let (name, member) = (fqdn(u8::try_from(name).ok()?), member.as_ref()?);
        Some(ListedMember {
            id: raft(member.id),
            name: if member.started { name.member_name().to_owned() } else { String::new() },
            peer_urls: vec![name.peer_url()],
            client_urls: if member.started { vec![name.client_url()] } else { Vec::new() },
            learner: !member.voter,
        })
    };
    config.iter().enumerate().filter_map(entry).collect()
}
