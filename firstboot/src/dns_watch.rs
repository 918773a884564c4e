//! A serving node needs DNS for nothing, so it would never notice that somebody bent it: until the day a node is replaced. It asks
//! rarely, and says where DNS and the charter disagree.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::agent::desk::Desk;
use crate::journal;
use crate::notice::{Noticed, disagreements};

/// Between two looks. Nothing depends on them but what a person reads.
const EVERY: Duration = Duration::from_secs(300);
/// Until the first one, and between two looks at whether the node serves yet.
const FIRST: Duration = Duration::from_secs(30);

/// Looks for ever, once the cluster is activated. Before that the agent's loop asks DNS itself and notices by the way.
pub async fn tend(desk: Arc<Desk>) {
    let mut noticed = Noticed::default();
    loop {
        let serving = desk.seat().filter(|seat| seat.status.activated && seat.lineage.is_some());
        let (Some(seat), Some(reach)) = (serving, desk.reach()) else {
            sleep(FIRST).await;
            continue;
        };
        let services = reach.dns.services(&seat.charter.domain).await.into_lookup();
        let mut located = Vec::new();
        for member in &seat.charter.members {
            located.push((member.fqdn.clone(), reach.dns.addresses(&member.fqdn).await.into_lookup()));
        }
        for text in noticed.fresh(disagreements(&seat.charter, &services, &located)) {
            journal::tell(&journal::NOTICE, &text, &[]);
        }
        sleep(EVERY).await;
    }
}
