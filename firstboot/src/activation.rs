//! What a member does once, when the cluster is activated: admit clients, and end the founder's special start.
#![expect(clippy::disallowed_methods, reason = "an edge: reads etcd's command line")]

use anyhow::Result;

use crate::agent::desk::Desk;
use crate::apply::Hands;
use crate::fault::{Point, cut};
use crate::journal;
use crate::message::ControlRequest;
use crate::record::ACTIVATED;

/// Lets clients in: at once after a restart of a node that has seen the activation, else when etcd tells of it, linearizably.
/// `open`: it was done before in this boot; `due`: it is to be done now.
pub(crate) async fn admit(hands: &mut Hands<'_>, desk: &Desk, open: bool, due: bool) -> Result<bool> {
    if !hands.state.activated_seen {
        let Ok((Some(_), _)) = desk.etcd.read(ACTIVATED).await else { return Ok(false) };
        hands.state.activated_seen = true;
        hands.persist()?;
        cut(Point::ActivationSeen);
        journal::tell(&journal::ACTIVATED, "the cluster is activated: every member of the charter votes", &[]);
    }
    if due {
        hands.control(ControlRequest::OpenClients).await?;
    }
    if due && !open {
        journal::tell(&journal::CLIENTS_OPEN, "clients are admitted on port 2379", &[]);
    }
    Ok(true)
}

/// Ends the founder's special start on etcd 3.5: hands leadership over and stops etcd, which the next round starts with its strict
/// check on. What etcd was started with is read from its command line, so that a crash in between changes nothing.
pub(crate) async fn settle(hands: &mut Hands<'_>, desk: &Desk) -> Result<bool> {
    if !hands.state.activated_seen || !hands.etcd.is_up() {
        return Ok(false);
    }
    let args = fs_err::read_to_string(hands.paths.etcd_args())?;
    if !args.contains("--strict-reconfig-check=false") {
        return Ok(false);
    }
    let status = desk.etcd.status().await?;
    if status.leader == Some(status.member) {
        let members = desk.etcd.members().await?;
        let heir = members.iter().find(|m| m.id != status.member && !m.learner && !m.client_urls.is_empty());
        if let Some(heir) = heir {
            desk.etcd.move_leader(heir.id).await?;
            cut(Point::LeadershipMoved);
        }
    }
    hands.control(ControlRequest::StopEtcd).await?;
    cut(Point::Settled);
    Ok(true)
}
