//! How fast the data disk is, by the time etcd needs to sync its log: the histogram `etcd_disk_wal_fsync_duration_seconds` of its
//! metrics. Pure.
//!
//! etcd's own advice (faq, hardware): 99 of 100 syncs under 10 ms. A slower disk costs elections, and nobody sees why.

/// What 99 of 100 syncs must stay under, in seconds.
pub const LIMIT_SECS: f64 = 0.010;
/// So few syncs say nothing of the hundredth.
const LEAST: u64 = 100;

/// Syncs since etcd's start, by their time: upper bound in seconds, and how many took at most that long.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Syncs {
    buckets: Vec<(f64, u64)>,
}

impl Syncs {
    /// Reads them out of etcd's metrics; nothing when they are not in it.
    pub fn parse(metrics: &str) -> Option<Self> {
        const BUCKET: &str = "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"";
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(BUCKET)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.trim().parse().ok()?))
        };
        let buckets: Vec<_> = metrics.lines().filter_map(bucket).collect();
        (!buckets.is_empty()).then_some(Self { buckets })
    }

    fn total(&self) -> u64 {
        self.buckets.last().map_or(0, |(_, count)| *count)
    }

    /// The time that 99 of 100 syncs since `earlier` stayed under, as far as the buckets tell, in seconds: the lower bound of the bucket
    /// that the hundredth is in. Nothing when there were too few of them, or when etcd was restarted in between.
    pub fn slowest_since(&self, earlier: &Self) -> Option<f64> {
        let fresh = self.total().checked_sub(earlier.total())?;
        if fresh < LEAST {
            return None;
        }
        let since = |(bound, count): &(f64, u64)| {
            let before = earlier.buckets.iter().find(|(other, _)| other == bound).map_or(0, |(_, count)| *count);
            count.saturating_sub(before)
        };
        let at = self.buckets.iter().position(|bucket| since(bucket) * 100 >= fresh * 99)?;
        Some(at.checked_sub(1).map_or(0.0, |below| self.buckets[below].0))
    }
}

/// A sentence about a disk that is too slow. The bound is etcd's next one below what was measured, so the disk is at least that slow.
pub fn notice(slowest: f64) -> Option<String> {
    // Buckets double from 1 ms: 8 ms is the last bound below the limit, and what is above it may still be below 10.
    (slowest > LIMIT_SECS).then(|| {
        format!(
            "the data disk is slow: one sync of etcd's log in a hundred takes longer than {:.0} ms; etcd wants under {:.0} ms, and a slower disk costs \
             elections. See what else uses this disk, or move it to a faster one",
            slowest * 1000.0,
            LIMIT_SECS * 1000.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syncs(counts: [u64; 6]) -> Syncs {
        let bounds = ["0.001", "0.004", "0.008", "0.016", "0.032", "+Inf"];
        let mut text = "# TYPE etcd_disk_wal_fsync_duration_seconds histogram\n".to_owned();
        for (bound, count) in bounds.iter().zip(counts) {
            text.push_str(&format!("etcd_disk_wal_fsync_duration_seconds_bucket{{le=\"{bound}\"}} {count}\n"));
        }
        text.push_str("etcd_disk_wal_fsync_duration_seconds_sum 1.5\netcd_disk_wal_write_bytes_total 5\n");
        Syncs::parse(&text).unwrap()
    }

    #[test]
    fn c06_tells_of_a_disk_whose_hundredth_sync_takes_longer_than_ten_milliseconds() {
        let none = Syncs::default();
        let slowest = |counts| syncs(counts).slowest_since(&none);
        assert_eq!(slowest([990, 1000, 1000, 1000, 1000, 1000]), Some(0.0));
        assert_eq!(slowest([900, 950, 990, 1000, 1000, 1000]), Some(0.004));
        assert_eq!(slowest([900, 950, 989, 990, 1000, 1000]), Some(0.008), "between 8 and 16 ms may be under 10");
        assert_eq!(slowest([900, 950, 980, 989, 995, 1000]), Some(0.016));
        assert_eq!(slowest([0, 0, 0, 0, 0, 1000]), Some(0.032));
        assert_eq!(notice(0.008), None);
        assert!(notice(0.016).unwrap().contains("takes longer than 16 ms"));
    }

    #[test]
    fn c06_judges_what_happened_since_the_last_look_and_not_the_past() {
        let before = syncs([0, 0, 0, 0, 0, 1000]);
        assert_eq!(syncs([200, 200, 200, 200, 200, 1200]).slowest_since(&before), Some(0.0), "slow once, fast now");
        assert_eq!(syncs([99, 99, 99, 99, 99, 1099]).slowest_since(&before), None, "too few");
        assert_eq!(syncs([100, 100, 100, 100, 100, 100]).slowest_since(&before), None, "another etcd");
        assert_eq!(Syncs::parse("etcd_server_has_leader 1\n"), None);
    }
}
