//! The one place that reads the clock.
#![expect(clippy::disallowed_methods, reason = "the edge that reads the clock")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Unix seconds, by the system's clock; 0 when it stands before 1970.
pub fn now() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_add(crate::fault::clock_offset())
}

/// A point on a clock that only goes forward.
pub fn monotonic() -> Instant {
    Instant::now()
}
