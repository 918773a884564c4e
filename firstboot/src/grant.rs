//! May the caller be added now? Pure: what the grantor saw in, what it does out.
//!
//! A node asks for its own name only, under the grantor's charter, of a voter that reads linearizably. An unfinished learner of
//! its name is replaced at once, a voter only as [`crate::replacement`] allows.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::charter::Charter;
use crate::etcd::ListedMember;
use crate::message::{JoinRequest, Running};
use crate::name::Fqdn;
use crate::record::MemberRecord;
use crate::replacement::{self, Limits};
use crate::state::RaftId;
use crate::version::{EtcdLine, EtcdVersion};

/// What a grantor knows when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantObservation<'a> {
    /// The grantor's charter.
    pub charter: &'a Charter,
    /// The grantor.
    pub own: &'a Fqdn,
    /// The etcd in its image.
    pub own_version: EtcdVersion,
    /// Its own etcd is a voter, knows the leader, and just read linearizably.
    pub serving: bool,
    /// Its own etcd's member id.
    pub own_member: RaftId,
    /// The leader it knows.
    pub leader: Option<RaftId>,
    /// What its etcd says of itself, the members unheard included; none when it does not answer.
    pub running: Option<&'a Running>,
    /// What the cluster has agreed on as its version, patch level 0; none when that is not known.
    pub cluster_version: Option<EtcdVersion>,
    /// The name in the caller's certificate.
    pub caller: &'a Fqdn,
    /// What it asks.
    pub request: &'a JoinRequest,
    /// A member list read linearizably, under the lock.
    pub members: &'a [ListedMember],
    /// What etcd remembers of the member with the caller's name.
    pub recorded: Option<&'a MemberRecord>,
    /// The caller's peer port. Looked at only when a member of that name is listed.
    pub caller_port: PeerPort,
    /// Every other listed voter, the caller's own earlier one left out, asked during this very call. Empty unless a voter of the
    /// caller's name is listed.
    pub voters: &'a [Voter],
    /// The last snapshot that this grantor took of its own etcd and verified.
    pub snapshot: Option<SnapshotFact>,
    /// Voters removed by grantors, from the audit in etcd; those of the last day at least.
    pub removals: &'a [Removal],
    /// The grantor's clock, Unix seconds.
    pub now: i64,
    /// How long and how often.
    pub limits: Limits,
}

/// Whether something listens on a node's peer port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerPort {
    /// The node itself says that nothing does.
    Refuses,
    /// Something accepts connections there, or on another address of that name.
    Listens,
    /// Neither: packets get lost, so nothing is known.
    Silent,
}

/// Another voter, and what its agent answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its name in the charter.
    pub fqdn: Fqdn,
    /// Its raft id.
    pub member: RaftId,
    /// What its own agent said of its etcd just now; none when it did not answer, or has no etcd that does.
    pub answer: Option<Running>,
}

/// A snapshot whose hash was verified after it was written and synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFact {
    /// Seconds since it was taken.
    pub age_secs: u64,
    /// The store's revision just before it was taken; the snapshot has all up to it.
    pub revision: u64,
}

/// A voter's removal, noted in etcd before it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Its name.
    pub fqdn: Fqdn,
    /// Its raft id. While it is still listed, the removal did not come to pass.
    pub member: RaftId,
    /// Unix seconds, by the clock of the grantor that did it.
    pub at: i64,
}

/// What a grantor does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantDecision {
    /// Add the caller as a learner.
    Add,
    /// Remove the caller's own earlier learner, wait two seconds (etcd hashes the second into a new id), then look again.
    RemoveLearner {
        /// The learner that never voted and whose grant was lost or used up.
        member: RaftId,
    },
    /// Everything else being in order: take a snapshot and verify it, then look again.
    TakeSnapshot,
    /// Remove the caller's own earlier voter, wait two seconds, then look again.
    RemoveVoter {
        /// The voter whose data is gone.
        member: RaftId,
    },
    /// Not now.
    RetryAfter {
        /// Milliseconds.
        millis: u64,
        /// Why.
        reason: String,
    },
    /// Not until somebody acts.
    Refuse {
        /// What was seen and which rule applies.
        reason: String,
        /// What an operator can do.
        hint: String,
    },
    /// Two nodes use the caller's name. Refused as above, and an alarm.
    Duplicate {
        /// The listed member of that name.
        member: RaftId,
        /// What was seen and which rule applies.
        reason: String,
        /// What an operator can do.
        hint: String,
    },
}

/// Decides on one request.
///
/// Never answers with the removal of anything but a member of the caller's own name: its unfinished learner, or its voter if all
/// that [`crate::replacement`] asks for is so.
pub fn decide_grant(seen: &GrantObservation<'_>) -> GrantDecision {
    if let Some(refusal) = credentials(seen) {
        return refusal;
    }
    if !seen.serving {
        return retry(1000, format!("{} has no vote, no leader or no quorum at the moment", seen.own));
    }
    if let Some(earlier) = seen.members.iter().find(|member| is_callers(member, &seen.request.fqdn)) {
        return if earlier.learner { earlier_learner(seen, earlier) } else { replacement::decide(seen, earlier) };
    }
    // etcd 3.5 has one place for a learner. The next is served as soon as this one votes.
    if seen.own_version.line() == Some(EtcdLine::V3_5)
        && let Some(other) = seen.members.iter().find(|m| m.learner)
    {
        return retry(250, format!("member {} is being added and etcd 3.5 adds one at a time", other.id));
    }
    GrantDecision::Add
}

/// The listed member is the one of this name.
pub fn is_callers(member: &ListedMember, caller: &Fqdn) -> bool {
    member.peer_urls.contains(&caller.peer_url()) || member.name == caller.member_name()
}

fn credentials(seen: &GrantObservation<'_>) -> Option<GrantDecision> {
    let (request, charter) = (seen.request, seen.charter);
    let refuse = |reason: String, hint: &str| Some(GrantDecision::Refuse { reason, hint: hint.into() });
    if *seen.caller != request.fqdn {
        return refuse(
            format!("{} asked for a place for {}; a node may ask for its own name only", seen.caller, request.fqdn),
            "boot the node that shall join with its own seed",
        );
    }
    if charter.member(&request.fqdn).is_none() {
        return refuse(
            format!("{} is not in the charter", request.fqdn),
            "mint a charter that names it, with `kiln pki`",
        );
    }
    if request.cluster != charter.cluster
        || request.generation != charter.generation
        || request.charter != charter.digest()
    {
        return refuse(
            format!(
                "{} holds generation {} of the charter of cluster {} with another digest than {}'s generation {}",
                request.fqdn, request.generation, request.cluster, seen.own, charter.generation
            ),
            "give every node a seed of one minting",
        );
    }
    let (theirs, ours) = (request.etcd_version, seen.own_version);
    if theirs < charter.min_etcd || theirs.major != ours.major || theirs.minor.abs_diff(ours.minor) > 1 {
        return refuse(
            format!(
                "{} brings etcd {theirs}; this cluster runs {ours} and admits {} or newer",
                request.fqdn, charter.min_etcd
            ),
            "boot it from an image whose etcd is at most one minor version away",
        );
    }
    if let Some(cluster) = seen.cluster_version
        && (theirs.major, theirs.minor) < (cluster.major, cluster.minor)
    {
        return refuse(
            format!(
                "{} brings etcd {theirs}; this cluster runs as version {}.{} and takes no older one",
                request.fqdn, cluster.major, cluster.minor
            ),
            "boot it from an image whose etcd is at least of the cluster's version",
        );
    }
    None
}

/// A learner of the caller's name exists: its reply was lost, or its one start was used up.
fn earlier_learner(seen: &GrantObservation<'_>, earlier: &ListedMember) -> GrantDecision {
    match seen.caller_port {
        PeerPort::Listens => retry(
            1000,
            format!("learner {} answers on {}'s peer port; two nodes may use this name", earlier.id, seen.request.fqdn),
        ),
        // It never voted, so nothing rests on knowing for sure.
        PeerPort::Refuses | PeerPort::Silent => GrantDecision::RemoveLearner { member: earlier.id },
    }
}

pub(crate) fn retry(millis: u64, reason: String) -> GrantDecision {
    GrantDecision::RetryAfter { millis, reason }
}

#[cfg(test)]
pub(crate) mod tests;
