//! How long a node whose etcd left no log waits before it asks for the next place. Each place burns a member id for ever and makes
//! every member change its list twice, so a node whose etcd cannot start must not ask every other second. Pure.

use std::time::{Duration, Instant};

/// After the first drop. Short: while a cluster forms, a list that has just changed is the usual reason, and the next try works.
const FIRST: Duration = Duration::from_millis(500);
/// At most. An operator who has mended the node waits no longer than this.
const LONGEST: Duration = Duration::from_secs(60);

/// Kept in memory: a boot begins without one.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackOff {
    drops: u32,
    until: Option<Instant>,
}

impl BackOff {
    /// An assignment was dropped. `draw` spreads nodes that fail together over the second half of the delay, which is given back.
    pub fn drop_assignment(&mut self, now: Instant, draw: u8) -> Duration {
        let delay = FIRST.saturating_mul(2_u32.saturating_pow(self.drops)).min(LONGEST);
        let delay = delay / 2 + delay * u32::from(draw) / 510;
        self.drops += 1;
        self.until = Some(now + delay);
        delay
    }

    /// etcd has a log: whatever was in the way is gone.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// How many assignments were dropped in a row, if it is too early to ask again.
    pub fn holds(&self, now: Instant) -> Option<u32> {
        self.until.filter(|until| now < *until).map(|_| self.drops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn doubles_from_half_a_second_to_a_minute_and_starts_over_after_a_success() {
        let now = clock::monotonic();
        let mut back_off = BackOff::default();
        assert_eq!(back_off.holds(now), None);
        let delays: Vec<u128> = (0..9).map(|_| back_off.drop_assignment(now, 255).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(back_off.holds(now + Duration::from_millis(59_999)), Some(9));
        assert_eq!(back_off.holds(now + Duration::from_secs(60)), None);
        assert_eq!(back_off.drop_assignment(now, 0).as_millis(), 30_000, "the least of the longest");
        back_off.reset();
        assert_eq!(back_off.holds(now), None);
        assert_eq!(back_off.drop_assignment(now, 0).as_millis(), 250);
    }
}
