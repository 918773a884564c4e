//! What an operator can do about a node that waits or has halted, step by step: for whoever reads `firstboot explain` in the night.
//!
//! The sentences of [`crate::decision::Decision::explain`] say what holds; this says what to type. Pure: everything comes from one
//! observation, so a recorded one gives the same advice on the operator's own machine.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::charter::Charter;
use crate::decision::Decision;
use crate::message::{Holds, NodeStatus};
use crate::name::Fqdn;
use crate::observation::{Observation, SeedView};
use crate::refusal::Refusal;
use crate::wait::{Obstacle, ObstacleKind, WaitReason, utc};

/// Paragraphs, each to be set apart; none when there is nothing to do. `status` is what the node's agent told of itself, if it did.
pub fn guide(seen: &Observation, decision: &Decision, status: Option<&NodeStatus>) -> Vec<String> {
    let charter = match &seen.seed {
        SeedView::Verified { charter, .. } => charter.as_ref(),
        SeedView::Missing(_) | SeedView::Invalid(_) => return Vec::new(),
    };
    match decision {
        Decision::Wait(reason) => waiting(seen, charter, reason),
        Decision::Halt(refusal) => halted(charter, refusal),
        Decision::Restart { .. } if status.is_some_and(lacks_majority) => without_majority(charter),
        Decision::Restart { .. }
        | Decision::RecordBlank { .. }
        | Decision::StartExisting { .. }
        | Decision::DropAssignment { .. }
        | Decision::StartFounding { .. }
        | Decision::Join { .. }
        | Decision::Form { .. } => Vec::new(),
    }
}

fn lacks_majority(status: &NodeStatus) -> bool {
    match &status.holds {
        Holds::Data { .. } => true,
        Holds::Running(running) => !running.learner && !running.linearizable,
        Holds::Blank | Holds::Unknown => false,
    }
}

fn waiting(seen: &Observation, charter: &Charter, reason: &WaitReason) -> Vec<String> {
    match reason {
        WaitReason::Peers(obstacles) => blank_among_others(seen, charter, obstacles),
        WaitReason::OneClaim { fqdn, silent, .. } => {
            let names: Vec<&Fqdn> = silent.iter().map(|obstacle| &obstacle.fqdn).collect();
            vec![
                format!(
                    "{fqdn} says that it runs this cluster, but no other member confirms it, and one member alone can be wrong or lie. \
                     A cluster of {} that serves has at least {} members with its data, so there is somebody to confirm it.",
                    charter.members.len(),
                    majority(charter)
                ),
                match names.as_slice() {
                    [] => format!(
                        "1. The other members say that they are blank. So look at {fqdn} (`firstboot status` there) before anything else: \
                         it may hold the only copy of the cluster's data."
                    ),
                    names => format!(
                        "1. Bring back {}: as soon as one of them says the same, this node joins by itself.",
                        list(names)
                    ),
                },
                give_up(charter),
            ]
        }
        WaitReason::WindowClosed { form_until, .. } => vec![
            format!(
                "Every member has answered, and every one of them is blank. The time in which {} may form a first cluster ended at {}, so \
                 an empty cluster now might take the place of one that had data. It is you who knows which it is.",
                charter.founder,
                utc(*form_until)
            ),
            format!(
                "1. There never was a cluster: mint again with `kiln pki init {} --generation {}`, give every node its new seed, and \
                 power them on. Blank disks stay as they are.",
                charter.env,
                charter.generation.saturating_add(1)
            ),
            give_up(charter),
        ],
        WaitReason::LineageConflict(claims) => vec![
            "Two histories exist under one name. Both may have been served, so nothing is joined until one of them is gone.".into(),
            format!(
                "1. See what each holds: `etcdutl snapshot status etcd/member/snap/db` on the data disk of {}.",
                list(&claims.iter().map(|claim| &claim.fqdn).collect::<Vec<_>>())
            ),
            "2. Keep a copy of the one you give up. Then give its nodes blank data disks: they join the other one.".into(),
        ],
        // The hint says it all: DNS, a clock or another node's turn.
        WaitReason::NoAddress
        | WaitReason::PtrMissing { .. }
        | WaitReason::PtrFailed { .. }
        | WaitReason::ForwardMissing { .. }
        | WaitReason::ForwardFailed { .. }
        | WaitReason::ForwardDiffers { .. }
        | WaitReason::AddressNotInCharter { .. }
        | WaitReason::EtcdStarting { .. }
        | WaitReason::Founder { .. }
        | WaitReason::ClockBehind { .. } => Vec::new(),
    }
}

/// Row 13, and the cardinal case: two of three wiped while the third is down.
fn blank_among_others(seen: &Observation, charter: &Charter, obstacles: &[Obstacle]) -> Vec<String> {
    let with_data = |obstacle: &&Obstacle| match obstacle.why {
        ObstacleKind::HoldsData { .. } | ObstacleKind::NotServing { .. } | ObstacleKind::Forming { .. } => true,
        ObstacleKind::NotAsked
        | ObstacleKind::NotLocated
        | ObstacleKind::LookupFailed(_)
        | ObstacleKind::Unreachable { .. }
        | ObstacleKind::Halted(_)
        | ObstacleKind::Unsure(_)
        | ObstacleKind::Disagrees { .. } => false,
    };
    let (holders, unknown): (Vec<_>, Vec<_>) = obstacles.iter().partition(with_data);
    let names = |obstacles: &[&Obstacle]| list(&obstacles.iter().map(|o| &o.fqdn).collect::<Vec<_>>());
    if obstacles.iter().any(|obstacle| matches!(obstacle.why, ObstacleKind::Forming { .. })) {
        let wait = if holders.len() == 1 { "waits" } else { "wait" };
        return under_way(charter, &format!("{} {wait}", names(&holders)));
    }
    let blank = charter.members.len().saturating_sub(obstacles.len());
    let mut text = vec![match holders.as_slice() {
        [] => format!(
            "This node's data disk is blank. It may join a cluster that serves, or take part in forming one when every member has said \
             that it is blank too. {} {} not said so, and may hold the only copy of everything this cluster has acknowledged. To go on \
             without would put an empty cluster in its place. So this wait has no end of its own, on purpose.",
            names(&unknown),
            if unknown.len() == 1 { "has" } else { "have" }
        ),
        holders => format!(
            "This node's data disk is blank, and {} {} data of a cluster that does not serve: too few of its members have their data. \
             Nobody forms a new cluster while an old one is there. So this wait has no end of its own, on purpose.",
            names(holders),
            if holders.len() == 1 { "holds" } else { "hold" }
        ),
    }];
    let bring: Vec<&Obstacle> = unknown.iter().chain(&holders).copied().collect();
    let needed = majority(charter);
    text.push(format!(
        "1. Bring back {}, each with its own data disk. As soon as {needed} of {} members run with data, the cluster serves, and this \
         node joins it by itself. Nothing else is to be done.",
        names(&bring),
        charter.members.len()
    ));
    // Blank disks, this one included, can never be part of that majority.
    if charter.members.len().saturating_sub(blank) < needed {
        text.push(format!(
            "   That cannot happen with the disks as they are: {blank} of {} members are blank, which leaves fewer than {needed}. If an \
             old data disk of one of the blank nodes still exists, power that node off and attach the old disk; else go on with 2.",
            charter.members.len()
        ));
    }
    text.push(give_up(charter));
    if holders.is_empty() && seen.now <= charter.form_until {
        text.push(format!(
            "   If this is a new cluster that has never served: a member that will never come is left out by taking it out of the profile \
             and minting generation {}; nothing is lost then.",
            charter.generation.saturating_add(1)
        ));
    }
    text
}

/// Row 13 while the founder, and whom it has added, form the cluster.
fn under_way(charter: &Charter, holders_wait: &str) -> Vec<String> {
    vec![
        format!(
            "{} forms the cluster, and no node knows of a client that was ever let in. This node is added as soon as what there is of the \
             cluster serves; its own turn comes by itself.",
            charter.founder
        ),
        format!(
            "1. If this lasts, see what {holders_wait} for: `firstboot explain` there. Nothing else is to be done."
        ),
        give_up(charter),
    ]
}

/// The way out when the data of a majority is gone. No agent ever does any of it.
fn give_up(charter: &Charter) -> String {
    let (env, next, founder) = (&charter.env, charter.generation.saturating_add(1), &charter.founder);
    format!(
        "2. If the data disks of a majority are gone for good, this cluster is over, and you start it anew from what is left. Nobody but \
         you can decide that: whatever only the lost disks held is lost with it.\n\
         \x20  a. Save what is left, before anything else: with the nodes off, copy `etcd/member/snap/db` from every data disk that has it, \
         and your latest snapshot. `etcdutl snapshot status FILE` tells which has the highest revision.\n\
         \x20  b. `kiln pki init {env} --generation {next}` mints the charter's next generation and new seeds.\n\
         \x20  c. Give every node its new seed and a blank data disk, and power them on: they form an empty cluster of generation {next}. \
         (A node with an old disk halts and changes nothing.)\n\
         \x20  d. Bring the data back through the front door, from your own machine:\n\
         \x20       etcdutl snapshot restore FILE --skip-hash-check --data-dir restored\n\
         \x20       etcd --data-dir restored &          # listens on localhost alone\n\
         \x20       etcdctl del --prefix /kiln/         # what the old cluster wrote about itself\n\
         \x20       etcdctl make-mirror --dest-cacert CA --dest-cert CERT --dest-key KEY {}\n\
         \x20     and end it with Ctrl-C when its count stops. Revisions start anew: restart the clients, they may remember old ones.",
        founder.client_url()
    )
}

/// A member that runs, or has been started, and finds no majority.
fn without_majority(charter: &Charter) -> Vec<String> {
    vec![
        format!(
            "This member has its data and runs, but fewer than {} of {} members do, so nothing is read or written. It goes on by itself as \
             soon as they do.",
            majority(charter),
            charter.members.len()
        ),
        "1. Bring the other members back, each with its own data disk. A member whose disk is blank cannot help here: it is let in only by \
         a cluster that serves."
            .into(),
        give_up(charter),
    ]
}

fn halted(charter: &Charter, refusal: &Refusal) -> Vec<String> {
    match refusal {
        Refusal::RolledBack { .. }
        | Refusal::DataLost { .. }
        | Refusal::WalForeign { .. }
        | Refusal::WalUnreadable(_)
        | Refusal::StateUnreadable(_)
        | Refusal::Evicted { .. } => vec![
            format!(
                "1. See how the others are: `firstboot status` on them, or `etcdctl endpoint health --cluster`. If {} of {} members serve, \
                 this disk is not needed, and 2 is safe. If they do not, do not touch this disk: it may be needed to save what it holds.",
                majority(charter),
                charter.members.len()
            ),
            "2. Power this node off, give it a blank data disk (serial `kiln-data`), and power it on. It asks to be let in anew; the member \
             it was is removed first if it still is one, after it has been away for a minute, and its data comes from the others."
                .into(),
        ],
        // The hint says it all: another seed, another disk, another image, a record in DNS.
        Refusal::SeedMissing(_)
        | Refusal::SeedInvalid(_)
        | Refusal::SeedForeign { .. }
        | Refusal::NotInCharter { .. }
        | Refusal::EtcdTooOld { .. }
        | Refusal::PtrWrong { .. }
        | Refusal::RootNotOverlay(_)
        | Refusal::DataAbsent(_)
        | Refusal::DataUnusable(_)
        | Refusal::DataFull { .. }
        | Refusal::DataReadOnly(_)
        | Refusal::VolumeForeign { .. }
        | Refusal::GenerationStale { .. }
        | Refusal::EtcdOlderThanData { .. }
        | Refusal::NotFounder { .. } => Vec::new(),
    }
}

fn majority(charter: &Charter) -> usize {
    charter.members.len() / 2 + 1
}

fn list(names: &[&Fqdn]) -> String {
    match names {
        [] => String::new(),
        [one] => one.to_string(),
        [first @ .., last] => {
            format!("{} and {last}", first.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
