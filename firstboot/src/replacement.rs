//! May a voter of the caller's name be removed, so that the caller takes its place? Pure.
//!
//! The most dangerous thing an agent does: it takes a vote away. So it asks for positive findings only. The caller itself, a node
//! that its certificate names, says that it holds nothing; the cluster has not heard the voter for a while, by the grantor's and
//! by the leader's own connections; nothing listens where it would; everybody else is well and says so; and a verified snapshot
//! lies on the grantor's disk. Silence leads to waiting.
//!
//! Before the cluster is activated the same rules hold, and they need nothing added. A voter wiped while the cluster forms is
//! replaced once every other place is taken (P6: the members that are still missing can be added meanwhile, so this ends), and
//! no client has been admitted, so even an error would cost no acknowledged write. If too few voters are left to serve (the founder
//! wiped while it is the only voter, or one of two), no grantor exists, everybody waits, and a charter of the next generation is
//! the way out (catalogue D3, D4). A clone made before activation (D5) finds the peer port of its twin in use, or its twin heard.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::etcd::ListedMember;
use crate::grant::{GrantDecision, GrantObservation, PeerPort, Voter, retry};
use crate::message::Running;
use crate::name::Fqdn;
use crate::state::RaftId;
use crate::wait::utc;

/// How long and how often: the numbers of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For at least so many seconds nobody has heard of a voter that is removed. A leader that stalls for less than that (a slow
    /// disk, a paused machine, a network that reloads) is never taken for dead.
    pub unheard_secs: u64,
    /// A snapshot older than this many seconds is taken again.
    pub snapshot_secs: u64,
    /// After a removal under one name, that name's voter is safe for so many seconds: two machines that fight for a name evict
    /// each other no faster.
    pub same_name_secs: u64,
    /// A voter this many raft entries behind the furthest is not well. etcd keeps 5000 entries for slow followers
    /// (`DefaultSnapshotCatchUpEntries`); further behind it needs a snapshot itself.
    pub lag: u64,
}

impl Limits {
    /// What every released agent goes by.
    pub const DEFAULT: Self = Self { unheard_secs: 60, snapshot_secs: 600, same_name_secs: 600, lag: 5000 };
}

/// In one day no more voters are removed than the charter has members.
const DAY_SECS: u64 = 24 * 3600;
/// Below this size a voter more than the majority has to be well: all of the others.
const FIVE: usize = 5;
/// A rule that time will satisfy is looked at again after this many milliseconds.
const LATER: u64 = 1000;

/// Decides whether `voter`, of the caller's name, is removed. The caller's credentials and versions (P1, P8) are checked.
pub(crate) fn decide(seen: &GrantObservation<'_>, voter: &ListedMember) -> GrantDecision {
    let Some(own) = seen.running else { return retry(LATER, format!("etcd does not answer on {}", seen.own)) };
    let rules = [
        charter_size(seen, voter),
        duplicate(seen, voter),
        another_volume(seen, voter),
        led_by_others(seen, voter),
        one_hole(seen),
        unheard(seen, voter, own),
        everybody_well(seen, own),
        not_too_often(seen),
    ];
    if let Some(answer) = rules.into_iter().flatten().next() {
        return answer;
    }
    // P9, last: it costs the most, and is worth having only when the removal follows.
    match seen.snapshot {
        Some(snapshot) if snapshot.age_secs < seen.limits.snapshot_secs => {
            GrantDecision::RemoveVoter { member: voter.id }
        }
        Some(_) | None => GrantDecision::TakeSnapshot,
    }
}

/// P5: with one or two members no majority is left to decide.
fn charter_size(seen: &GrantObservation<'_>, voter: &ListedMember) -> Option<GrantDecision> {
    let size = seen.charter.members.len();
    (size < 3).then(|| GrantDecision::Refuse {
        reason: format!(
            "member {} with the name {} votes already, and of {size} members none is replaced by itself",
            voter.id, seen.caller
        ),
        hint: removal_by_hand(voter),
    })
}

/// P3, second half: nothing listens on the peer port of the caller's name.
fn duplicate(seen: &GrantObservation<'_>, voter: &ListedMember) -> Option<GrantDecision> {
    match seen.caller_port {
        PeerPort::Refuses => None,
        PeerPort::Listens => Some(GrantDecision::Duplicate {
            member: voter.id,
            reason: format!(
                "member {} with the name {} votes already, and an etcd listens on that name's peer port while a blank node asks for its place: two nodes use this name",
                voter.id, seen.caller
            ),
            hint: "turn one of the two machines off: the blank one, unless the other is known to be the impostor"
                .into(),
        }),
        PeerPort::Silent => Some(retry(
            LATER,
            format!(
                "member {} with the name {} votes already, and port 2380 of {} neither accepts nor refuses a connection from {}, so nobody knows whether an etcd runs there",
                voter.id, seen.caller, seen.caller, seen.own
            ),
        )),
    }
}

/// P2: the caller has another volume than the voter was added with.
fn another_volume(seen: &GrantObservation<'_>, voter: &ListedMember) -> Option<GrantDecision> {
    let whose = match seen.recorded {
        Some(record) if record.member != voter.id => "on a data volume that was never recorded",
        Some(record) if record.instance == seen.request.instance => {
            "on this same data volume, which now says it is blank"
        }
        Some(_) => return None,
        None => "on a data volume that was never recorded",
    };
    Some(GrantDecision::Refuse {
        reason: format!("member {} with the name {} votes already, {whose}", voter.id, seen.caller),
        hint: removal_by_hand(voter),
    })
}

/// P4: a leader is known, and neither it nor the grantor is the one to go.
fn led_by_others(seen: &GrantObservation<'_>, voter: &ListedMember) -> Option<GrantDecision> {
    match seen.leader {
        None => Some(retry(LATER, format!("{} knows no leader", seen.own))),
        Some(leader) if leader == voter.id => {
            Some(retry(LATER, format!("member {} with the name {} leads the cluster still", voter.id, seen.caller)))
        }
        Some(_) if seen.own_member == voter.id => {
            Some(retry(LATER, format!("{} does not remove its own member {}", seen.own, voter.id)))
        }
        Some(_) => None,
    }
}

/// P6: every place of the charter is taken by a started voter, the caller's included. One hole at a time.
fn one_hole(seen: &GrantObservation<'_>) -> Option<GrantDecision> {
    let wait = |why: String| Some(retry(LATER, format!("no voter is replaced while {why}")));
    if let Some(learner) = seen.members.iter().find(|member| member.learner) {
        return wait(format!("member {} is being added", learner.id));
    }
    let place = |fqdn: &Fqdn| seen.members.iter().filter(|member| member.peer_urls == [fqdn.peer_url()]).count();
    if let Some(missing) = seen.charter.members.iter().find(|member| place(&member.fqdn) != 1) {
        return wait(format!("{} is not a voter", missing.fqdn));
    }
    if let Some(unnamed) = seen.members.iter().find(|m| m.name.is_empty() || m.client_urls.is_empty()) {
        return wait(format!("member {} has not started", unnamed.id));
    }
    if seen.members.len() != seen.charter.members.len() {
        return wait(format!(
            "there are {} members, and the charter names {}",
            seen.members.len(),
            seen.charter.members.len()
        ));
    }
    None
}

/// P3, first half: neither the grantor nor the leader nor anybody else who answers has heard of the voter for a while.
fn unheard(seen: &GrantObservation<'_>, voter: &ListedMember, own: &Running) -> Option<GrantDecision> {
    let limit = seen.limits.unheard_secs;
    let silence = |whose: &Fqdn, running: &Running| match running.unheard_secs(voter.id) {
        None => Some(format!(
            "{whose} is connected to member {} with the name {}, or has not looked for long enough; if this stays so, two nodes use this name",
            voter.id, seen.caller
        )),
        Some(seconds) if seconds < limit => Some(format!(
            "{whose} has heard nothing of member {} with the name {} since {}; it is replaced after {limit} s without a sign of life",
            voter.id,
            seen.caller,
            utc(seen.now.saturating_sub_unsigned(seconds))
        )),
        Some(_) => None,
    };
    if let Some(reason) = silence(seen.own, own) {
        return Some(retry(LATER, reason));
    }
    if let Some(leader) = seen.leader.filter(|leader| *leader != seen.own_member) {
        let reason = match seen.voters.iter().find(|other| other.member == leader) {
            Some(Voter { answer: Some(_), .. }) => None,
            Some(Voter { fqdn, answer: None, .. }) => Some(format!("the agent of the leader, {fqdn}, does not answer")),
            None => Some(format!("the leader {leader} is none of the voters that were asked")),
        };
        if let Some(reason) = reason {
            return Some(retry(LATER, reason));
        }
    }
    // The leader is among them; and whoever else is connected to the voter knows that it lives.
    let told = seen.voters.iter().find_map(|other| silence(&other.fqdn, other.answer.as_ref()?));
    told.map(|reason| retry(LATER, reason))
}

/// P7: the others are well. All of them in a cluster of three or four; a majority of the whole charter, the grantor counted, from
/// five on, so that two of five may be down at once. Whoever answers something alarming is in the way at any size.
fn everybody_well(seen: &GrantObservation<'_>, own: &Running) -> Option<GrantDecision> {
    let wait = |why: String| Some(retry(LATER, format!("no voter is replaced while {why}")));
    if let Some(alarm) = own.alarms.first() {
        return wait(format!("the alarm {alarm} is raised"));
    }
    let size = seen.charter.members.len();
    let furthest = seen.voters.iter().filter_map(|v| v.answer.as_ref()).map(|r| r.applied_index).max().unwrap_or(0);
    let furthest = furthest.max(own.applied_index);
    let expected =
        seen.members.iter().filter(|m| !is_own(m, seen.own_member) && !crate::grant::is_callers(m, seen.caller));
    let mut well: usize = 1;
    let mut first_ill = None;
    if furthest - own.applied_index >= seen.limits.lag {
        return wait(format!("{} is {} entries behind", seen.own, furthest - own.applied_index));
    }
    for member in expected {
        let ill = match seen.voters.iter().find(|voter| voter.member == member.id) {
            None => Some(format!("member {} was not asked", member.id)),
            Some(Voter { fqdn, answer: None, .. }) => Some(format!("{fqdn} does not answer, or its etcd does not run")),
            Some(Voter { fqdn, answer: Some(running), .. }) => {
                if running.lineage != own.lineage || running.raft_cluster != own.raft_cluster {
                    return wait(format!("{fqdn} runs another cluster"));
                }
                if running.member != member.id {
                    return wait(format!("{fqdn} runs as member {}, and is listed as {}", running.member, member.id));
                }
                if let Some(alarm) = running.alarms.first() {
                    return wait(format!("{fqdn} sees the alarm {alarm}"));
                }
                let behind = furthest - running.applied_index;
                if running.learner || !running.linearizable || running.leader != seen.leader {
                    Some(format!("{fqdn} does not serve under the same leader"))
                } else if behind >= seen.limits.lag {
                    Some(format!("{fqdn} is {behind} entries behind"))
                } else {
                    None
                }
            }
        };
        match ill {
            None => well += 1,
            Some(why) => first_ill = first_ill.or(Some(why)),
        }
    }
    let why = first_ill?;
    let enough = if size < FIVE { size - 1 } else { size / 2 + 1 };
    if well >= enough { None } else { wait(why) }
}

/// P10: one removal of this name in ten minutes, and of all names together no more than members in a day.
///
/// Differences are absolute: a grantor whose clock was years off must neither lift the limit's record for the others nor make it
/// last for years.
fn not_too_often(seen: &GrantObservation<'_>) -> Option<GrantDecision> {
    let within = |at: i64, secs: u64| seen.now.abs_diff(at) < secs;
    // A removal is noted before it is asked for: while the member is still listed, it did not come to pass.
    let done = || seen.removals.iter().filter(|removal| seen.members.iter().all(|member| member.id != removal.member));
    let same = done().find(|removal| removal.fqdn == *seen.caller && within(removal.at, seen.limits.same_name_secs));
    if let Some(removal) = same {
        return Some(retry(
            LATER,
            format!(
                "a voter with the name {} was removed at {}; the next one is not before {} s later. Do two machines use this name?",
                seen.caller,
                utc(removal.at),
                seen.limits.same_name_secs
            ),
        ));
    }
    let today = done().filter(|removal| within(removal.at, DAY_SECS)).count();
    (today >= seen.charter.members.len()).then(|| {
        retry(LATER, format!("{today} voters were replaced within a day, as many as there are members; find out why"))
    })
}

fn is_own(member: &ListedMember, own: RaftId) -> bool {
    member.id == own
}

fn removal_by_hand(voter: &ListedMember) -> String {
    format!(
        "find the disk that holds its data and attach it; if that disk is gone for good, and only then, `etcdctl member remove {}` through another member's client port, and this node joins anew by itself",
        voter.id
    )
}

#[cfg(test)]
mod tests;
