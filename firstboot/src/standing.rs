//! What a node tells others of itself: its status from what it saw, chose and wrote. Pure.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::decision::Decision;
use crate::digest::{Id128, Sha256Digest};
use crate::disk_fact::WalFact;
use crate::message::{Holds, NodeStatus};
use crate::observation::{Observation, SeedView, StateView};
use crate::state::{Phase, State};
use crate::wait::WaitReason;

/// What a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// What was seen.
    pub seen: &'a Observation,
    /// What was chosen.
    pub decision: &'a Decision,
    /// This boot.
    pub boot_id: &'a str,
    /// The image.
    pub image_key: Sha256Digest,
    /// This boot is counted on the volume: before that its count is that of an earlier boot, and is not told.
    pub boot_counted: bool,
    /// What the node waits for; empty when it serves.
    pub waiting_for: &'a str,
    /// Since when, Unix seconds; 0 when it serves.
    pub waiting_since: i64,
}

/// The status; none without a seed, for then there is no name to speak under.
pub fn status(standing: &Standing<'_>) -> Option<NodeStatus> {
    let SeedView::Verified { header, charter } = &standing.seen.seed else { return None };
    let state = state(standing.seen);
    Some(NodeStatus {
        fqdn: header.fqdn.clone(),
        env: header.env.clone(),
        cluster: header.cluster,
        generation: header.generation,
        charter: charter.digest(),
        boot_id: standing.boot_id.to_owned(),
        image_key: standing.image_key,
        etcd_version: standing.seen.image.etcd_version,
        holds: holds(standing.seen, standing.decision),
        phase: phase(state, standing.decision).to_owned(),
        instance: state.map(|state| state.instance),
        boot_counter: state.filter(|_| standing.boot_counted).map_or(0, |state| state.boot_counter),
        // The agent's desk knows, and adds it for each caller anew.
        remembers: Vec::new(),
        activated: state.is_some_and(|state| state.activated_seen),
        row: standing.decision.row(),
        waiting_for: standing.waiting_for.to_owned(),
        waiting_since: standing.waiting_since,
    })
}

fn state(seen: &Observation) -> Option<&State> {
    match &seen.state {
        StateView::Read(state) => Some(state),
        StateView::Absent | StateView::Unreadable(_) => None,
    }
}

/// The lineage the volume's data belongs to.
pub fn lineage(seen: &Observation) -> Option<Id128> {
    match &state(seen)?.position {
        Phase::Blank => None,
        Phase::Founding { lineage }
        | Phase::Assigned { lineage, .. }
        | Phase::Member { lineage, .. }
        | Phase::Evicted { lineage, .. } => Some(*lineage),
    }
}

/// `Blank` only when everything says so: a state that was read, no log, no rule that forbids to act, and a name that DNS confirms.
/// The founder forms on these answers, and a node unsure of its name must not be counted under it.
fn holds(seen: &Observation, decision: &Decision) -> Holds {
    if matches!(decision, Decision::Halt(_)) {
        return Holds::Unknown;
    }
    match (lineage(seen), state(seen), &seen.wal) {
        (Some(lineage), _, _) => Holds::Data { lineage },
        (None, Some(_), WalFact::Absent) if named(decision) => Holds::Blank,
        (None, _, _) => Holds::Unknown,
    }
}

/// DNS has confirmed the node's name, or the decision got past asking for it.
fn named(decision: &Decision) -> bool {
    let Decision::Wait(reason) = decision else { return true };
    match reason {
        WaitReason::NoAddress
        | WaitReason::PtrMissing { .. }
        | WaitReason::PtrFailed { .. }
        | WaitReason::ForwardMissing { .. }
        | WaitReason::ForwardFailed { .. }
        | WaitReason::ForwardDiffers { .. }
        | WaitReason::AddressNotInCharter { .. } => false,
        WaitReason::EtcdStarting { .. }
        | WaitReason::Peers(_)
        | WaitReason::LineageConflict(_)
        | WaitReason::OneClaim { .. }
        | WaitReason::Founder { .. }
        | WaitReason::ClockBehind { .. }
        | WaitReason::WindowClosed { .. } => true,
    }
}

fn phase(state: Option<&State>, decision: &Decision) -> &'static str {
    match (state.map(|state| &state.position), decision) {
        (Some(Phase::Evicted { .. }), _) => "evicted",
        (_, Decision::Halt(_)) => "halted",
        (None | Some(Phase::Blank), _) => "blank",
        (Some(Phase::Founding { .. }), _) => "founding",
        (Some(Phase::Assigned { .. }), _) => "assigned",
        (Some(Phase::Member { .. }), _) => "member",
    }
}
