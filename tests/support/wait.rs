//! Waiting for a condition, never for a time.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place in the tests that pauses, between two looks at a condition"
)]

use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` finds something, and returns it.
///
/// # Panics
/// When nothing was found within `limit`; says what was waited for and what `explain` tells of the state.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>, explain: impl Fn() -> String) -> T {
    let start = Instant::now();
    loop {
        let looking = Instant::now();
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}\n{}", explain());
        // What is slow to be looked at is not helped by being looked at all the time.
        std::thread::sleep(PAUSE.max(looking.elapsed()));
    }
}

/// Tries until it succeeds, for what a test collects instead of failing at once.
///
/// # Errors
/// With the last failure, when none succeeded within `limit`.
pub fn attempt<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> anyhow::Result<T>) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(why) if start.elapsed() >= limit => return Err(format!("tried {limit:?} for {what}: {why:#}")),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Looks for as long as `duration` and wants the condition to hold at every look: for what must *not* happen.
///
/// # Panics
/// When the condition failed once.
pub fn holds(what: &str, duration: Duration, mut look: impl FnMut() -> bool, explain: impl Fn() -> String) {
    let start = Instant::now();
    while start.elapsed() < duration {
        assert!(look(), "it did not hold that {what}\n{}", explain());
        std::thread::sleep(PAUSE);
    }
}

/// As [`holds`], for what a test collects instead of failing at once.
///
/// # Errors
/// When the condition failed once.
pub fn unbroken(what: &str, duration: Duration, mut look: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while start.elapsed() < duration {
        if !look() {
            return Err(format!("it did not hold that {what}"));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
