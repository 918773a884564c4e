//! Asks the other voters how they are: before one of them is taken away, everybody else has to be well.

use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::agent::client;
use crate::agent::desk::Seat;
use crate::agent::reach::Reach;
use crate::etcd::ListedMember;
use crate::grant::{Voter, is_callers};
use crate::message::{Answer, Ask, Holds, Running};
use crate::name::Fqdn;
use crate::state::RaftId;

/// Every listed voter of the charter but `own` and the caller's, asked at once. Nobody answers an agent that has no certificate.
pub async fn ask(
    reach: Option<&Reach>,
    patience: u32,
    seat: &Seat,
    members: &[ListedMember],
    own: RaftId,
    caller: &Fqdn,
) -> Vec<Voter> {
    let mut asked = JoinSet::new();
    for member in members.iter().filter(|m| !m.learner && m.id != own && !is_callers(m, caller)) {
        let of_charter = seat.charter.members.iter().find(|known| member.peer_urls.contains(&known.fqdn.peer_url()));
        let Some(known) = of_charter.cloned() else { continue };
        let (id, reach, charter) = (member.id, reach.cloned(), seat.charter.clone());
        asked.spawn(async move {
            let answer = match &reach {
                Some(reach) => {
                    status(
                        reach,
                        client::STATUS_LIMIT * patience,
                        &known.fqdn,
                        &reach.addresses(&charter, &known.fqdn).await,
                    )
                    .await
                }
                None => None,
            };
            Voter { fqdn: known.fqdn, member: id, answer }
        });
    }
    let mut voters = asked.join_all().await;
    voters.sort_by(|a, b| a.fqdn.cmp(&b.fqdn));
    voters
}

async fn status(reach: &Reach, limit: Duration, fqdn: &Fqdn, addresses: &[IpAddr]) -> Option<Running> {
    match client::ask(&reach.tls, fqdn, addresses, &Ask::Status, limit).await {
        Ok(Answer::Status(status)) => match status.holds {
            Holds::Running(running) => Some(running),
            Holds::Blank | Holds::Data { .. } | Holds::Unknown => None,
        },
        Ok(Answer::Granted(_) | Answer::RetryAfter { .. } | Answer::Refused { .. }) => None,
        Err(e) => {
            log::debug!("asking {fqdn} how it is: {e:#}");
            None
        }
    }
}
