//! The decision table of ARCHITECTURE.md ("The decision"), row by row: first matching row wins.
//!
//! Two rows are taken out of their order. The PTR part of row 1 comes after row 8: a node whose log matches its state restarts
//! whatever DNS says, and only a node that would start from an empty log has to be sure of its name. And an evicted
//! member halts (row 8) although its log matches (row 5).
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::cmp::Ordering;

use crate::charter::Charter;
use crate::decision::Decision;
use crate::digest::Id128;
use crate::disk_fact::{DataFact, LEAST_FREE_MIB, RootFact, WalFact};
use crate::identity;
use crate::message::{Holds, NodeStatus};
use crate::name::Fqdn;
use crate::observation::{EtcdProcess, Lookup, Observation, PeerAnswer, PeerObservation, SeedView, StateView};
use crate::raft_id;
use crate::refusal::Refusal;
use crate::seed::SeedHeader;
use crate::state::{Phase, RaftId, State};
use crate::volume::VolumeLabel;
use crate::wait::{LineageClaim, Obstacle, ObstacleKind, WaitReason};

/// Chooses what this round of looking leads to. Same observation, same answer; reads no clock, disk or network.
///
/// Never answers `Form` while any sign of an existing cluster, or any silence, is in `seen`: two clusters under one name is the
/// one outcome that cannot be undone. Never answers a start from an empty log twice for one raft id.
pub fn decide(seen: &Observation) -> Decision {
    match choose(seen) {
        Ok(decision) => decision,
        Err(refusal) => Decision::Halt(refusal),
    }
}

fn choose(seen: &Observation) -> Result<Decision, Refusal> {
    let (header, charter) = credentials(seen)?;
    let label = volume(seen, header)?;
    let Some(state) = record(seen, header, charter, label)? else {
        return match &seen.wal {
            WalFact::Absent => Ok(Decision::RecordBlank { state: Box::new(blank_state(seen, label, header)) }),
            WalFact::Present { member, raft_cluster } | WalFact::Bare { member, raft_cluster } => {
                Err(Refusal::WalForeign {
                    member: *member,
                    raft_cluster: *raft_cluster,
                    expected: "no log, for there is no state file".into(),
                })
            }
            WalFact::Unreadable(why) => Err(Refusal::WalUnreadable(why.clone())),
            WalFact::Unknown => Err(Refusal::WalUnreadable("it was not looked at".into())),
        };
    };
    rollback(seen, charter, state)?;
    let log = match &seen.wal {
        WalFact::Absent => None,
        WalFact::Present { member, raft_cluster } | WalFact::Bare { member, raft_cluster } => {
            Some((*member, *raft_cluster))
        }
        WalFact::Unreadable(why) => return Err(Refusal::WalUnreadable(why.clone())),
        WalFact::Unknown => return Err(Refusal::WalUnreadable("it was not looked at".into())),
    };
    let forming = charter.founder == header.fqdn && !state.activated_seen;
    match (&state.position, log) {
        (Phase::Evicted { lineage, member }, _) => Err(Refusal::Evicted { lineage: *lineage, member: *member }),
        (Phase::Blank, Some((member, raft_cluster))) => Err(Refusal::WalForeign {
            member,
            raft_cluster,
            expected: "no log, for the state says the volume is blank".into(),
        }),
        (Phase::Founding { lineage }, Some(found)) if !bare(seen, founding_ids(header, charter, *lineage)) => {
            restart(forming, *lineage, found, founding_ids(header, charter, *lineage))
        }
        (Phase::Assigned { lineage, raft_cluster, member, .. }, Some(found))
        | (Phase::Member { lineage, raft_cluster, member }, Some(found)) => {
            restart(forming, *lineage, found, (*member, *raft_cluster))
        }
        (Phase::Member { member, .. }, None) => Err(Refusal::DataLost { member: *member }),
        (Phase::Assigned { member, attempted: true, .. }, None) => match seen.etcd {
            EtcdProcess::Up => Ok(Decision::Wait(WaitReason::EtcdStarting { member: *member })),
            EtcdProcess::Down => Ok(Decision::DropAssignment { member: *member }),
        },
        // A volume put back to a snapshot of that moment looks the same, and its id has voted since.
        (Phase::Assigned { member, boot_id, .. }, None) if *boot_id != seen.boot_id => {
            Ok(Decision::DropAssignment { member: *member })
        }
        // From here on etcd would start from an empty log, or somebody would be asked for a place: the name must be certain.
        (Phase::Assigned { lineage, raft_cluster, member, initial_cluster, attempted: false, .. }, None) => {
            named(seen, charter, header, || {
                Ok(Decision::StartExisting {
                    lineage: *lineage,
                    raft_cluster: *raft_cluster,
                    member: *member,
                    initial_cluster: initial_cluster.clone(),
                })
            })
        }
        // A bare log is as good as none, and etcd can do nothing with it: power was lost while it began.
        (Phase::Founding { lineage }, None | Some(_)) => named(seen, charter, header, || {
            if charter.founder != header.fqdn {
                return Err(Refusal::NotFounder { founder: charter.founder.clone() });
            }
            let (member, raft_cluster) = founding_ids(header, charter, *lineage);
            Ok(Decision::StartFounding { lineage: *lineage, raft_cluster, member })
        }),
        (Phase::Blank, None) => named(seen, charter, header, || Ok(blank(seen, charter, header, state))),
    }
}

/// Row 1, without DNS: seed, charter and image are of one cluster, and this node is in it.
fn credentials(seen: &Observation) -> Result<(&SeedHeader, &Charter), Refusal> {
    let (header, charter) = match &seen.seed {
        SeedView::Verified { header, charter } => (header, charter.as_ref()),
        SeedView::Missing(why) => return Err(Refusal::SeedMissing(why.clone())),
        SeedView::Invalid(why) => return Err(Refusal::SeedInvalid(why.clone())),
    };
    let differs = |field: &str, seed: String, expected: String| {
        if seed == expected { Ok(()) } else { Err(Refusal::SeedForeign { field: field.into(), seed, expected }) }
    };
    differs("schema", header.schema.to_string(), 1.to_string())?;
    differs("environment", header.env.clone(), seen.image.env.clone())?;
    differs("cluster", header.cluster.to_string(), seen.image.cluster.to_string())?;
    differs("charter's environment", charter.env.clone(), seen.image.env.clone())?;
    differs("charter's cluster", charter.cluster.to_string(), seen.image.cluster.to_string())?;
    differs("charter's generation", charter.generation.to_string(), header.generation.to_string())?;
    if charter.member(&header.fqdn).is_none() {
        return Err(Refusal::NotInCharter { fqdn: header.fqdn.clone() });
    }
    if seen.image.etcd_version < charter.min_etcd || seen.image.etcd_version.line().is_none() {
        return Err(Refusal::EtcdTooOld { image: seen.image.etcd_version, least: charter.min_etcd });
    }
    Ok((header, charter))
}

/// Row 2, the volume: there, mounted, writable, ours.
fn volume<'a>(seen: &'a Observation, header: &SeedHeader) -> Result<&'a VolumeLabel, Refusal> {
    match &seen.root {
        RootFact::Overlay => {}
        RootFact::Other(what) => return Err(Refusal::RootNotOverlay(what.clone())),
    }
    let label = match &seen.data {
        DataFact::Mounted { label, .. } => label,
        DataFact::Absent(why) => return Err(Refusal::DataAbsent(why.clone())),
        DataFact::Unusable(why) => return Err(Refusal::DataUnusable(why.clone())),
        DataFact::ReadOnly(why) => return Err(Refusal::DataReadOnly(why.clone())),
    };
    let file = "volume.json";
    same(file, "schema", label.schema, 1)?;
    same(file, "environment", &label.env, &header.env)?;
    same(file, "cluster", label.cluster, header.cluster)?;
    same(file, "node", &label.fqdn, &header.fqdn)?;
    Ok(label)
}

/// Row 2, the state file: readable, of this volume, of this charter. `None` when a blank one has to be written (row 3).
fn record<'a>(
    seen: &'a Observation,
    header: &SeedHeader,
    charter: &Charter,
    label: &VolumeLabel,
) -> Result<Option<&'a State>, Refusal> {
    let state = match &seen.state {
        StateView::Absent => {
            // A newer charter than the volume's is a new start for a volume that holds nothing; an older one is a stale seed.
            return if label.generation > charter.generation {
                Err(Refusal::GenerationStale { volume: label.generation, charter: charter.generation })
            } else {
                Ok(None)
            };
        }
        StateView::Read(state) => state.as_ref(),
        StateView::Unreadable(why) => return Err(Refusal::StateUnreadable(why.clone())),
    };
    let file = "state.json";
    same(file, "schema", state.schema, 1)?;
    same(file, "environment", &state.env, &header.env)?;
    same(file, "cluster", state.cluster, header.cluster)?;
    same(file, "node", &state.fqdn, &header.fqdn)?;
    same(file, "instance", state.instance, label.instance)?;
    // Within a minor line etcd reads what any patch level wrote, and compares minors only (`membership.mustDetectDowngrade`): going
    // back to an earlier patch is how a bad one is undone. Which patches are too old to serve at all is the charter's to say (row 1).
    if let Some(newest) = state.max_etcd
        && (seen.image.etcd_version.major, seen.image.etcd_version.minor) < (newest.major, newest.minor)
    {
        return Err(Refusal::EtcdOlderThanData { image: seen.image.etcd_version, newest });
    }
    let holds_nothing = matches!(state.position, Phase::Blank) && matches!(seen.wal, WalFact::Absent);
    match state.generation.cmp(&charter.generation) {
        Ordering::Equal => Ok(Some(state)),
        Ordering::Less if holds_nothing => Ok(None),
        Ordering::Less | Ordering::Greater => {
            Err(Refusal::GenerationStale { volume: state.generation, charter: charter.generation })
        }
    }
}

fn same<T: PartialEq + ToString>(file: &str, field: &str, found: T, expected: T) -> Result<(), Refusal> {
    if found == expected {
        return Ok(());
    }
    Err(Refusal::VolumeForeign {
        file: file.into(),
        field: field.into(),
        found: found.to_string(),
        expected: expected.to_string(),
    })
}

/// The state of a blank volume, under the charter's generation, which may be later than the volume's formatting. What the volume
/// has counted and seen stays: peers remember its boots under the same instance.
fn blank_state(seen: &Observation, label: &VolumeLabel, header: &SeedHeader) -> State {
    let blank = State::blank(&VolumeLabel { generation: header.generation, ..label.clone() });
    match &seen.state {
        StateView::Read(before) => {
            State { boot_counter: before.boot_counter, max_seen_time: before.max_seen_time, ..blank }
        }
        StateView::Absent | StateView::Unreadable(_) => blank,
    }
}

/// Row 4: a later boot of this very volume, or another boot with the same count, proves that the volume went back in time or runs
/// twice: each boot counts itself on the volume before it tells anybody. Silence proves nothing and delays nothing.
fn rollback(seen: &Observation, charter: &Charter, state: &State) -> Result<(), Refusal> {
    let counter = state.boot_counter;
    let later = answers(seen, charter)
        .flat_map(|(peer, status)| status.remembers.iter().map(move |memory| (peer, memory)))
        .filter(|(_, memory)| memory.fqdn == state.fqdn && memory.instance == state.instance)
        .find(|(_, memory)| {
            memory.boot_counter > counter || (memory.boot_counter == counter && memory.boot_id != seen.boot_id)
        })
        .map(|(witness, memory)| (memory.boot_counter, Some(witness.clone())));
    let told = seen.recorded_boot.filter(|recorded| *recorded >= counter).map(|recorded| (recorded, None));
    match later.or(told) {
        None => Ok(()),
        Some((remembered, witness)) => Err(Refusal::RolledBack { counter, remembered, witness }),
    }
}

/// Rows 5 and 6.
fn restart(
    forming: bool,
    lineage: Id128,
    found: (RaftId, RaftId),
    expected: (RaftId, RaftId),
) -> Result<Decision, Refusal> {
    let (member, raft_cluster) = found;
    if found == expected {
        return Ok(Decision::Restart { forming, lineage, raft_cluster, member });
    }
    Err(Refusal::WalForeign {
        member,
        raft_cluster,
        expected: format!("member {} of raft cluster {}", expected.0, expected.1),
    })
}

/// etcd's log is of these ids and has nothing in it.
fn bare(seen: &Observation, (member, raft_cluster): (RaftId, RaftId)) -> bool {
    seen.wal == WalFact::Bare { member, raft_cluster }
}

/// The ids etcd computes for a one-voter cluster of this node and lineage.
fn founding_ids(header: &SeedHeader, charter: &Charter, lineage: Id128) -> (RaftId, RaftId) {
    let token = raft_id::cluster_token(charter.cluster, charter.generation, lineage);
    let member = raft_id::member_id(&[header.fqdn.peer_url()], &token);
    (member, raft_id::raft_cluster_id(&[member]))
}

/// Row 2, for nodes that would start on an empty log: the log must fit. A full member restarts all the same as far as it can; and an
/// etcd that is just making its log takes up the room itself.
fn room(seen: &Observation) -> Result<(), Refusal> {
    match (&seen.data, &seen.etcd) {
        (DataFact::Mounted { free_mib, .. }, EtcdProcess::Down) if *free_mib < LEAST_FREE_MIB => {
            Err(Refusal::DataFull { free_mib: *free_mib })
        }
        (
            DataFact::Mounted { .. } | DataFact::Absent(_) | DataFact::Unusable(_) | DataFact::ReadOnly(_),
            EtcdProcess::Up | EtcdProcess::Down,
        ) => Ok(()),
    }
}

/// The room that row 2 wants, the DNS part of row 1, then `then`.
fn named(
    seen: &Observation,
    charter: &Charter,
    header: &SeedHeader,
    then: impl FnOnce() -> Result<Decision, Refusal>,
) -> Result<Decision, Refusal> {
    room(seen)?;
    match identity::confirm(&seen.own, charter, &header.fqdn)? {
        Ok(_) => then(),
        Err(reason) => Ok(Decision::Wait(reason)),
    }
}

/// Rows 12 to 16.
fn blank(seen: &Observation, charter: &Charter, header: &SeedHeader, state: &State) -> Decision {
    let claims = lineage_claims(seen, charter);
    if let Some(first) = claims.first()
        && claims.iter().any(|claim| claim.lineage != first.lineage)
    {
        return Decision::Wait(WaitReason::LineageConflict(claims));
    }
    if let Some(join) = join(seen, charter) {
        return match unconfirmed(seen, charter, header, &claims) {
            None => join,
            Some(reason) => Decision::Wait(reason),
        };
    }
    let others: Vec<Fqdn> = charter.members.iter().map(|m| m.fqdn.clone()).filter(|f| *f != header.fqdn).collect();
    let obstacles: Vec<Obstacle> = others
        .iter()
        .filter_map(|fqdn| obstacle(seen, charter, fqdn).map(|why| Obstacle { fqdn: fqdn.clone(), why }))
        .collect();
    if !obstacles.is_empty() {
        return Decision::Wait(WaitReason::Peers(obstacles));
    }
    if charter.founder != header.fqdn {
        return Decision::Wait(WaitReason::Founder { founder: charter.founder.clone() });
    }
    let floor = charter.not_before.max(seen.image.source_date_epoch).max(state.max_seen_time);
    if seen.now < floor {
        return Decision::Wait(WaitReason::ClockBehind { now: seen.now, floor });
    }
    if seen.now > charter.form_until {
        return Decision::Wait(WaitReason::WindowClosed {
            now: seen.now,
            form_until: charter.form_until,
            generation: charter.generation,
        });
    }
    Decision::Form { unanimous: others }
}

/// What charter members answered, in charter order; nobody else counts.
fn answers<'a>(seen: &'a Observation, charter: &'a Charter) -> impl Iterator<Item = (&'a Fqdn, &'a NodeStatus)> {
    charter.members.iter().flat_map(move |member| {
        seen.peers.iter().filter(move |peer| peer.fqdn == member.fqdn).filter_map(move |peer| match &peer.answer {
            PeerAnswer::Answered(status) => Some((&member.fqdn, status.as_ref())),
            PeerAnswer::Unreachable(_) => None,
        })
    })
}

/// Answers that are of this cluster, generation and charter, and under the name they were asked by.
fn agreeing<'a>(seen: &'a Observation, charter: &'a Charter) -> impl Iterator<Item = (&'a Fqdn, &'a NodeStatus)> {
    answers(seen, charter).filter(move |(fqdn, status)| disagreement(charter, fqdn, status).is_none())
}

fn lineage_claims(seen: &Observation, charter: &Charter) -> Vec<LineageClaim> {
    agreeing(seen, charter)
        .filter_map(|(fqdn, status)| {
            let (lineage, serving) = match &status.holds {
                Holds::Running(running) => (running.lineage, running.linearizable),
                Holds::Data { lineage } => (*lineage, false),
                Holds::Blank | Holds::Unknown => return None,
            };
            Some(LineageClaim { fqdn: fqdn.clone(), lineage, serving })
        })
        .collect()
}

/// Row 12. The leader's agent first: it adds and promotes without asking another member.
fn join(seen: &Observation, charter: &Charter) -> Option<Decision> {
    let mut grantors = Vec::new();
    for (fqdn, status) in agreeing(seen, charter) {
        match &status.holds {
            Holds::Running(running) if running.linearizable && !running.learner => {
                if let Some(leader) = running.leader {
                    grantors.push((leader != running.member, fqdn, running));
                }
            }
            Holds::Running(_) | Holds::Data { .. } | Holds::Blank | Holds::Unknown => {}
        }
    }
    grantors.sort_by_key(|(follows, _, _)| *follows);
    let (_, via, running) = grantors.first()?;
    Some(Decision::Join {
        via: (*via).clone(),
        also: grantors.iter().skip(1).map(|(_, fqdn, _)| (*fqdn).clone()).collect(),
        lineage: running.lineage,
        raft_cluster: running.raft_cluster,
    })
}

/// Where three or more are to be members, one member's word is not enough to join by: at least two must claim the lineage. One
/// exception: while a cluster forms, the founder is the first and for a while the only one. Of a cluster that was activated a majority
/// of at least two holds data whenever it serves, so whoever can be added at all has two to hear.
fn unconfirmed(
    seen: &Observation,
    charter: &Charter,
    header: &SeedHeader,
    claims: &[LineageClaim],
) -> Option<WaitReason> {
    let first = claims.first()?;
    if charter.members.len() < 3 || claims.iter().any(|claim| claim.fqdn != first.fqdn) {
        return None;
    }
    let activated = agreeing(seen, charter).any(|(fqdn, status)| *fqdn == first.fqdn && status.activated);
    if first.fqdn == charter.founder && !activated {
        return None;
    }
    let others = charter.members.iter().map(|m| &m.fqdn).filter(|f| **f != header.fqdn && **f != first.fqdn);
    Some(WaitReason::OneClaim {
        fqdn: first.fqdn.clone(),
        lineage: first.lineage,
        silent: others.filter_map(|f| Some(Obstacle { fqdn: f.clone(), why: obstacle(seen, charter, f)? })).collect(),
    })
}

/// What of this member stands in the way of forming, if anything. Silence does.
fn obstacle(seen: &Observation, charter: &Charter, fqdn: &Fqdn) -> Option<ObstacleKind> {
    let mut asked = seen.peers.iter().filter(|peer| peer.fqdn == *fqdn).peekable();
    if asked.peek().is_none() {
        return Some(ObstacleKind::NotAsked);
    }
    let forming = forming(seen, charter);
    asked.find_map(|peer| peer_obstacle(charter, forming, peer))
}

/// The founder holds data or runs, and has not heard of an activation; nobody else has either. Only what an operator is told hangs on it.
fn forming(seen: &Observation, charter: &Charter) -> bool {
    let begun = |status: &NodeStatus| matches!(status.holds, Holds::Data { .. } | Holds::Running(_));
    agreeing(seen, charter).any(|(fqdn, status)| *fqdn == charter.founder && begun(status))
        && !agreeing(seen, charter).any(|(_, status)| status.activated)
}

fn peer_obstacle(charter: &Charter, forming: bool, peer: &PeerObservation) -> Option<ObstacleKind> {
    let status = match &peer.answer {
        PeerAnswer::Answered(status) => status,
        PeerAnswer::Unreachable(error) => {
            return Some(match &peer.located {
                Lookup::None => ObstacleKind::NotLocated,
                Lookup::Failed(why) => ObstacleKind::LookupFailed(why.clone()),
                Lookup::Found(addresses) => {
                    ObstacleKind::Unreachable { addresses: addresses.clone(), error: error.clone() }
                }
            });
        }
    };
    if let Some(disagrees) = disagreement(charter, &peer.fqdn, status) {
        return Some(disagrees);
    }
    match &status.holds {
        Holds::Blank => None,
        Holds::Running(running) if forming => Some(ObstacleKind::Forming { lineage: running.lineage }),
        Holds::Data { lineage } if forming => Some(ObstacleKind::Forming { lineage: *lineage }),
        Holds::Running(running) => Some(ObstacleKind::NotServing { lineage: running.lineage }),
        Holds::Data { lineage } => Some(ObstacleKind::HoldsData { lineage: *lineage }),
        Holds::Unknown if status.has_halted() => Some(ObstacleKind::Halted(status.waiting_for.clone())),
        Holds::Unknown => Some(ObstacleKind::Unsure(status.waiting_for.clone())),
    }
}

fn disagreement(charter: &Charter, fqdn: &Fqdn, status: &NodeStatus) -> Option<ObstacleKind> {
    let differs = |field: &str, theirs: String, ours: String| {
        (theirs != ours).then(|| ObstacleKind::Disagrees { field: field.into(), theirs, ours })
    };
    differs("name", status.fqdn.to_string(), fqdn.to_string())
        .or_else(|| differs("environment", status.env.clone(), charter.env.clone()))
        .or_else(|| differs("cluster", status.cluster.to_string(), charter.cluster.to_string()))
        .or_else(|| differs("generation", status.generation.to_string(), charter.generation.to_string()))
        .or_else(|| differs("charter", status.charter.to_string(), charter.digest().to_string()))
}

#[cfg(test)]
mod tests;
