//! What the clock must have reached before a node signs anything by it. Pure.
//!
//! Two floors, for two mistakes. A clock before the image was made, or before the charter or the issuer begins, is wrong for certain
//! (1970, an empty battery): nothing is signed by it, ever. A clock before a time that this volume has seen is in doubt: either it is
//! behind now, or it once was ahead. It is given a while to be set. After that, or as soon as it is synchronized, it is believed, so
//! that a node whose clock once ran years ahead recovers when its clock is mended. A certificate signed by a clock that is behind after
//! all harms nobody: no peer accepts it, and the next look replaces it.

use std::time::Duration;

use crate::wait::utc;

/// How long a clock in doubt may take to be set: 60 s from the first look at it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A step forward that is worth a word: further than a node is usually switched off for.
const LEAP_SECS: i64 = 30 * 24 * 3600;

/// Both floors, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The latest of the image's time, the charter's and the issuer's beginning.
    pub certain: i64,
    /// The highest clock that this volume has seen; 0 when none.
    pub seen: i64,
}

impl Floor {
    /// The clock is neither certainly wrong nor certainly past what was seen.
    pub fn in_doubt(&self, now: i64) -> bool {
        self.certain <= now && now < self.seen
    }

    /// What the clock must have reached now.
    pub fn binding(&self, synchronized: bool, doubted_for: Duration) -> i64 {
        if synchronized || doubted_for >= PATIENCE { self.certain } else { self.certain.max(self.seen) }
    }

    /// What to remember as seen instead, when a synchronized clock proves that the volume's memory is of a clock that was ahead.
    pub fn mended(&self, now: i64, synchronized: bool) -> Option<i64> {
        (synchronized && self.in_doubt(now)).then_some(now)
    }

    /// A sentence about a clock that is far past all that this volume has seen.
    pub fn leap(&self, now: i64) -> Option<String> {
        (self.seen > 0 && now - self.seen > LEAP_SECS).then(|| {
            format!(
                "the clock says {}, {} days after the last time this volume has seen ({}): if this node was not switched off for so long, its clock is wrong",
                utc(now),
                (now - self.seen) / (24 * 3600),
                utc(self.seen)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Floor = Floor { certain: 1000, seen: 5000 };
    const NONE: Duration = Duration::ZERO;

    #[test]
    fn a_clock_before_what_is_certain_is_never_believed() {
        for (synchronized, doubted) in [(false, NONE), (true, NONE), (false, PATIENCE), (true, PATIENCE)] {
            assert!(FLOOR.binding(synchronized, doubted) >= 1000);
        }
        assert!(!FLOOR.in_doubt(999));
        assert_eq!(FLOOR.mended(999, true), None);
    }

    #[test]
    fn b02_a_clock_that_once_was_ahead_is_believed_again_once_set_or_after_a_while() {
        assert!(FLOOR.in_doubt(1000) && FLOOR.in_doubt(4999) && !FLOOR.in_doubt(5000));
        assert_eq!(FLOOR.binding(false, PATIENCE - Duration::from_millis(1)), 5000);
        assert_eq!(FLOOR.binding(false, PATIENCE), 1000);
        assert_eq!(FLOOR.binding(true, NONE), 1000);
        assert_eq!(FLOOR.mended(2000, true), Some(2000));
        assert_eq!(FLOOR.mended(2000, false), None, "waiting proves nothing");
        assert_eq!(FLOOR.mended(5001, true), None);
    }

    #[test]
    fn b02_a_leap_forward_is_told() {
        assert_eq!(FLOOR.leap(5000 + LEAP_SECS), None);
        let said = FLOOR.leap(5000 + LEAP_SECS + 1).unwrap();
        assert!(said.contains("30 days after the last time"), "{said}");
        assert_eq!(Floor { seen: 0, ..FLOOR }.leap(i64::MAX), None, "a new volume has seen nothing");
    }
}
