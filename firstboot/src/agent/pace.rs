//! Tells of a data disk that is too slow for etcd, as soon as a minute of its own metrics shows it.

use std::time::Duration;

use tokio::time::sleep;

use crate::agent::metrics;
use crate::disk_pace::{Syncs, notice};
use crate::journal;
use crate::notice::Noticed;

/// What one judgement is made from. Long enough for a hundred syncs of a cluster that is used at all.
const PERIOD: Duration = Duration::from_secs(60);

/// Looks for ever, so many times as patiently as usual. Told once, and again when it was better in between.
pub async fn tend(patience: u32) {
    let (mut before, mut told) = (Syncs::default(), Noticed::default());
    loop {
        if let Ok(text) = metrics::text(patience).await
            && let Some(syncs) = Syncs::parse(&text)
        {
            if let Some(slowest) = syncs.slowest_since(&before) {
                for text in told.fresh(notice(slowest).into_iter().collect()) {
                    journal::tell(&journal::NOTICE, &text, &[]);
                }
            }
            before = syncs;
        }
        sleep(PERIOD).await;
    }
}
