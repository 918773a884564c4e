//! The operator's clock. Everything below the command line takes the time as an argument.
#![expect(clippy::disallowed_methods, reason = "the one place the clock is read")]

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in Unix seconds. Negative on a machine whose clock stands before 1970.
pub fn now() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |secs| -secs),
    }
}
