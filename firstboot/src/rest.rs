//! How long somebody who was slow to answer is left alone: who is slow is not helped by being asked all the time.

use std::time::Duration;

/// The longest rest for slowness alone, where etcd has its usual beat and nobody waits for it.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);

/// What is done for ever takes one part in so many of the time at most: etcd is there for its clients.
const SHARE: u32 = 50;

/// The pause after something that is done for ever and took this long: so long that it takes a fiftieth of the time, but not longer than
/// `longest` for that, and never shorter than `pause`.
pub(crate) fn sparing(pause: Duration, took: Duration, longest: Duration) -> Duration {
    pause.max((took * SHARE).min(longest))
}

/// The pause after something that took this long: so long that it takes a third of the time, but not longer than `longest` for
/// that, and never shorter than `pause`.
pub(crate) fn rest(pause: Duration, took: Duration, longest: Duration) -> Duration {
    pause.max((took * 2).min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_for_twice_as_long_as_it_took_within_limits() {
        let millis = Duration::from_millis;
        assert_eq!(rest(millis(400), millis(20), LONGEST), millis(400));
        assert_eq!(rest(millis(400), millis(1500), LONGEST), millis(3000));
        assert_eq!(rest(millis(400), millis(30_000), LONGEST), LONGEST);
        assert_eq!(rest(millis(400), millis(6000), LONGEST * 3), millis(12_000));
        assert_eq!(rest(millis(400), millis(30_000), LONGEST * 3), LONGEST * 3);
        assert_eq!(rest(millis(9000), millis(30_000), LONGEST), millis(9000));
    }

    #[test]
    fn what_is_done_for_ever_is_done_sparingly_within_limits() {
        let millis = Duration::from_millis;
        let pause = |took| sparing(millis(2000), millis(took), millis(10_000));
        assert_eq!([4, 40, 100, 5000].map(pause), [2000, 2000, 5000, 10_000].map(millis));
        assert_eq!(sparing(millis(2000), millis(5000), millis(500)), millis(2000));
    }
}
