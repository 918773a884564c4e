//! How long somebody who was slow to answer is left alone: who is slow is not helped by being asked all the time.

use std::time::Duration;

/// The longest rest for slowness alone.
const LONGEST: Duration = Duration::from_secs(5);

/// The pause after something that took this long: so long that it takes a third of the time, but never shorter than `pause`.
pub(crate) fn rest(pause: Duration, took: Duration) -> Duration {
    pause.max((took * 2).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_for_twice_as_long_as_it_took_within_limits() {
        let millis = Duration::from_millis;
        assert_eq!(rest(millis(400), millis(20)), millis(400));
        assert_eq!(rest(millis(400), millis(1500)), millis(3000));
        assert_eq!(rest(millis(400), millis(30_000)), LONGEST);
        assert_eq!(rest(millis(9000), millis(30_000)), millis(9000));
    }
}
