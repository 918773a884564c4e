//! Power cuts and bent clocks, for tests only: without the feature `faults` every function here does nothing and is compiled away.
//!
//! A point is named where it is hit. `KILN_CUT=NAME` (or `NAME:3`, its third time) ends the process there by SIGKILL, as a power cut would;
//! so does a file that `KILN_CUT_FILE` names and that holds the name at that moment, for tests that choose while the agent runs.
//! `KILN_CLOCK_OFFSET_FILE` names a file with the seconds that [`crate::clock::now`] is off.
#![cfg_attr(
    feature = "faults",
    expect(clippy::disallowed_methods, reason = "an edge, in tests only: told by the environment what to break")
)]

/// A place between two persisted or exchanged facts, where losing power must not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The state file's new content is written under its temporary name and not renamed yet.
    StateWritten,
    /// The state file is renamed and its directory synced.
    StateRenamed,
    /// A lineage is chosen and persisted; etcd has not been started.
    Founding,
    /// A grant was received and is not persisted yet.
    Granted,
    /// The assignment is persisted; its start is not marked attempted yet.
    Assigned,
    /// The start is marked attempted; etcd has not been started.
    Attempted,
    /// etcd's command line is on the volume's overlay; nobody was asked to start it yet.
    Rendered,
    /// `firstboot precheck` spent the permit for a start on an empty log and has not allowed the start yet.
    PermitSpent,
    /// etcd has been started with a fresh id.
    StartedEmpty,
    /// What a failed start left is cleared; the assignment it belonged to is not dropped yet.
    Cleared,
    /// The grantor holds the lock and has changed nothing.
    GrantLocked,
    /// The grantor removed the caller's earlier member and has not added the new one.
    GrantRemoved,
    /// The grantor added the learner and has not recorded or answered it.
    GrantAdded,
    /// The grantor recorded the learner and has not answered.
    GrantRecorded,
    /// The lineage is recorded in etcd; the founder's own volume is not.
    LineageRecorded,
    /// The custodian promoted a learner.
    Promoted,
    /// The custodian found the formation complete and has not recorded the activation.
    Complete,
    /// The activation is recorded; no client port is open yet.
    Activated,
    /// This node has persisted that it saw the activation; its client port is not open yet.
    ActivationSeen,
    /// The founder handed leadership over to end its special start; its etcd is not stopped yet.
    LeadershipMoved,
    /// The founder's etcd is stopped, to be started with its strict check on.
    Settled,
}

impl Point {
    /// Every point, for tests that try them all.
    pub const ALL: [Self; 21] = [
        Self::StateWritten,
        Self::StateRenamed,
        Self::Founding,
        Self::Granted,
        Self::Assigned,
        Self::Attempted,
        Self::Rendered,
        Self::PermitSpent,
        Self::StartedEmpty,
        Self::Cleared,
        Self::GrantLocked,
        Self::GrantRemoved,
        Self::GrantAdded,
        Self::GrantRecorded,
        Self::LineageRecorded,
        Self::Promoted,
        Self::Complete,
        Self::Activated,
        Self::ActivationSeen,
        Self::LeadershipMoved,
        Self::Settled,
    ];

    /// Its name in `KILN_CUT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::StateWritten => "state-written",
            Self::StateRenamed => "state-renamed",
            Self::Founding => "founding",
            Self::Granted => "granted",
            Self::Assigned => "assigned",
            Self::Attempted => "attempted",
            Self::Rendered => "rendered",
            Self::PermitSpent => "permit-spent",
            Self::StartedEmpty => "started-empty",
            Self::Cleared => "cleared",
            Self::GrantLocked => "grant-locked",
            Self::GrantRemoved => "grant-removed",
            Self::GrantAdded => "grant-added",
            Self::GrantRecorded => "grant-recorded",
            Self::LineageRecorded => "lineage-recorded",
            Self::Promoted => "promoted",
            Self::Complete => "complete",
            Self::Activated => "activated",
            Self::ActivationSeen => "activation-seen",
            Self::LeadershipMoved => "leadership-moved",
            Self::Settled => "settled",
        }
    }
}

/// Ends this process here if the test asked for it.
#[cfg(feature = "faults")]
pub fn cut(point: Point) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static HITS: AtomicU32 = AtomicU32::new(0);
    let wanted = std::env::var("KILN_CUT").unwrap_or_default();
    let (name, nth) =
        wanted.split_once(':').map_or((wanted.as_str(), 1), |(name, nth)| (name, nth.parse().unwrap_or(1)));
    let counted = name == point.name() && HITS.fetch_add(1, Ordering::SeqCst) + 1 == nth;
    let file = std::env::var_os("KILN_CUT_FILE");
    let armed = file.and_then(|file| fs_err::read_to_string(file).ok()).is_some_and(|text| text == point.name());
    if counted || armed {
        // The test reads from this line that the point was reached.
        eprintln!("cut at {}", point.name());
        if let Err(error) = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL) {
            panic!("ending this process: {error}");
        }
    }
}

/// Does nothing.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn cut(_: Point) {}

/// `default`, or what the test has `variable` say instead: for limits that are minutes long in earnest.
#[cfg(feature = "faults")]
pub fn limit(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `default`.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn limit(_: &str, default: u64) -> u64 {
    default
}

/// Seconds that the clock is off, as the test last wrote them.
#[cfg(feature = "faults")]
pub fn clock_offset() -> i64 {
    let file = std::env::var_os("KILN_CLOCK_OFFSET_FILE");
    file.and_then(|file| fs_err::read_to_string(file).ok()).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Zero.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn clock_offset() -> i64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
