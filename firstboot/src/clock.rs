//! The one place that reads the clock.
#![expect(clippy::disallowed_methods, reason = "the edge that reads the clock")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::paths::Paths;

/// Unix seconds, by the system's clock; 0 when it stands before 1970.
pub fn now() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_add(crate::fault::clock_offset())
}

/// systemd-timesyncd has set the clock since boot. Where another program keeps it, or nobody does, this stays false.
pub fn synchronized(paths: &Paths) -> bool {
    paths.root().join("run/systemd/timesync/synchronized").exists()
}

/// A point on a clock that only goes forward.
pub fn monotonic() -> Instant {
    Instant::now()
}
