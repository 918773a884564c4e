//! How often etcd has ended by itself soon after its start. One end is nothing; several in a row are a reason that somebody must read,
//! and a reason not to try again every other second. Pure.

use std::time::{Duration, Instant};

/// An etcd that has run this long has started well; its end counts as a first one.
const SETTLED: Duration = Duration::from_secs(60);
/// From this many ends in a row on, the next start is put off.
const TOO_MANY: u32 = 3;
/// The first delay; it doubles.
const FIRST: Duration = Duration::from_secs(4);
/// The longest. An operator who has mended the node waits no longer than this.
const LONGEST: Duration = Duration::from_secs(60);

/// Kept in memory: a boot begins without one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Endings {
    since: Option<Instant>,
    count: u32,
    until: Option<Instant>,
}

impl Endings {
    /// etcd runs.
    pub fn up(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= SETTLED {
            self.count = 0;
        }
    }

    /// The agent has ended it on purpose.
    pub fn stopped(&mut self) {
        *self = Self::default();
    }

    /// etcd does not run. Says how often it has ended in a row if this is an end, and not merely the absence of a start.
    pub fn down(&mut self, now: Instant) -> Option<u32> {
        self.since.take()?;
        self.count += 1;
        if let Some(beyond) = self.count.checked_sub(TOO_MANY) {
            self.until = Some(now + FIRST.saturating_mul(2_u32.saturating_pow(beyond)).min(LONGEST));
        }
        Some(self.count)
    }

    /// The agent has asked for a start, which counts even when the process is gone before the next look.
    pub fn started(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// How often it has ended in a row, if it is too early to start it again.
    pub fn holds(&self, now: Instant) -> Option<u32> {
        self.until.filter(|until| now < *until).map(|_| self.count)
    }
}

/// What etcd says when its log or its database is damaged: etcd 3.5 to 3.7, `server/storage/wal`, `server/embed`, and bbolt's own
/// assertions (`page`, `freelist`).
const DAMAGE: [&str; 13] = [
    "proto: ",
    "crc mismatch",
    "crc:",
    "failed to read WAL",
    "failed to repair WAL",
    "file hash mismatch",
    "slice bounds out of range",
    "invalid database",
    "checksum error",
    "assertion failed",
    "invalid page type",
    "freelist",
    "corrupt",
];

/// Why etcd does not stay up, with what it said last and what to do.
pub fn explain(count: u32, last_words: &str) -> String {
    let said = last_words.trim();
    let damaged = DAMAGE.iter().any(|sign| said.contains(sign));
    let hint = if damaged {
        "its log or its database is damaged, and etcd mends only what a power cut tears off the end of its log. Nothing here is removed or \
         started anew by itself\nhint: save a copy of the data disk; then wipe it on purpose (`kiln` images the node with its data wiped), and the \
         node is replaced by the cluster's data"
    } else {
        "hint: if what it says does not name something to mend, save a copy of the data disk; then wipe it on purpose, and the node is replaced"
    };
    format!("etcd has ended by itself {count} times in a row soon after its start; {hint}; its last words: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn c18_an_etcd_that_keeps_ending_is_tried_ever_more_rarely() {
        let mut now = clock::monotonic();
        let mut endings = Endings::default();
        assert_eq!(endings.down(now), None, "it was never started");
        let mut delays = Vec::new();
        for count in 1..=8 {
            endings.started(now);
            assert_eq!(endings.down(now), Some(count));
            assert_eq!(endings.down(now), None, "one end is counted once");
            let mut delay = 0;
            while endings.holds(now).is_some() {
                now += Duration::from_secs(1);
                delay += 1;
            }
            delays.push(delay);
        }
        assert_eq!(delays, [0, 0, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn an_etcd_that_ran_for_a_minute_or_was_stopped_starts_the_count_anew() {
        let now = clock::monotonic();
        let mut endings = Endings::default();
        for _ in 0..2 {
            endings.started(now);
            assert!(endings.down(now).is_some());
        }
        endings.started(now);
        endings.up(now + SETTLED);
        assert_eq!(endings.down(now + SETTLED), Some(1));
        endings.started(now);
        endings.stopped();
        assert_eq!((endings.down(now), endings.holds(now)), (None, None));
    }

    #[test]
    fn c18_tells_damage_from_other_reasons() {
        assert!(explain(3, "failed to read WAL, cannot be repaired: walpb: crc mismatch").contains("is damaged"));
        assert!(
            explain(3, "panic: assertion failed: Page expected to be: 5, but self identifies as 0")
                .contains("is damaged")
        );
        let other = explain(4, "listen tcp 0.0.0.0:2380: bind: address already in use");
        assert!(!other.contains("is damaged") && other.contains("4 times") && other.contains("address already in use"));
    }
}
