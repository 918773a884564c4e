//! What a rollout does next. Pure and total: the same record and the same look, the same act.
//!
//! Rules, the first that applies wins:
//!
//! 1. A node in our hands comes first: it is waited for, given its root again, or rolled back. Nothing else is done meanwhile.
//! 2. A node that was rolled back, or lost, ends the rollout; so does an abort; a pause rests it.
//! 3. What runs the target already is noted, not touched. When nothing is left, the rollout is done.
//! 4. Every [gate](super::gate) of the cluster must be open.
//! 5. Followers are taken in the profile's order; the leader last, after its leadership was handed to a node that runs the target.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt;

use super::gate::{self, Closed, Gate};
use super::observation::{Agreement, NodeView, Observation};
use super::record::{Ending, NodeState, Record, Wish};
use crate::host::{Lack, Root, Seen};

/// How often a node is given a root before that is given up. A host that fails three times in a row is not mended by a fourth.
pub const ATTEMPTS: u32 = 3;

/// What to do next. What is done to a node is safe to be done again, and is written into the record before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Give a node the root, its data kept, and power it on.
    Take {
        /// The node.
        node: String,
        /// The root it is to have.
        root: Root,
        /// The root it has, to go back to.
        before: Root,
    },
    /// Give a node the root back that it had, and power it on.
    RollBack {
        /// The node.
        node: String,
        /// That root.
        to: Root,
        /// Why.
        why: String,
    },
    /// Write down how far a node is.
    Note {
        /// The node.
        node: String,
        /// How far.
        state: NodeState,
    },
    /// Hand leadership from one node to another.
    MoveLeader {
        /// From whom.
        from: String,
        /// To whom.
        to: String,
    },
    /// Do nothing now; look again soon.
    Wait(Reason),
    /// Do nothing until a person has acted.
    Refuse(Gate),
    /// Write down that it is over.
    End(Ending),
    /// Nothing is to be done: it is over, or paused.
    Rest,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A gate that may open by itself.
    Gate(Gate),
    /// A node that was given the new root.
    Coming {
        /// The node.
        node: String,
        /// Since when, Unix seconds.
        since: i64,
        /// Until when, Unix seconds.
        until: i64,
        /// What is missing.
        why: String,
    },
    /// A node that was given its old root back.
    Returning {
        /// The node.
        node: String,
        /// Since when, Unix seconds.
        since: i64,
        /// Until when, Unix seconds.
        until: i64,
        /// What is missing.
        why: String,
    },
    /// The host of the node in hand, which cannot be asked.
    Host {
        /// The node.
        node: String,
        /// What its driver said.
        why: String,
    },
    /// The machine of the node in hand, which must not be touched.
    Machine {
        /// The node.
        node: String,
        /// Why, and what can be done.
        lack: Lack,
    },
}

impl Reason {
    /// The same thing is waited for, whatever is told of it meanwhile.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gate(a), Self::Gate(b)) => std::mem::discriminant(a) == std::mem::discriminant(b),
            (Self::Coming { node: a, .. }, Self::Coming { node: b, .. })
            | (Self::Returning { node: a, .. }, Self::Returning { node: b, .. })
            | (Self::Host { node: a, .. }, Self::Host { node: b, .. })
            | (Self::Machine { node: a, .. }, Self::Machine { node: b, .. }) => a == b,
            (
                Self::Gate(_) | Self::Coming { .. } | Self::Returning { .. } | Self::Host { .. } | Self::Machine { .. },
                _,
            ) => false,
        }
    }

    /// The wait has an end of its own: a node is rolled back or given up then.
    pub fn ends_by_itself(&self) -> bool {
        match self {
            Self::Coming { .. } | Self::Returning { .. } => true,
            Self::Gate(_) | Self::Host { .. } | Self::Machine { .. } => false,
        }
    }

    /// What an operator can do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Gate(gate) => gate.remedy(),
            Self::Coming { node, .. } => format!("nothing to do: {node} is rolled back if it does not come"),
            Self::Returning { node, .. } => format!("look at the console of {node}"),
            Self::Host { .. } => "see whether the host is up and lets you in".into(),
            Self::Machine { lack, .. } => lack.remedy.clone(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gate(gate) => gate.fmt(f),
            Self::Coming { node, why, .. } => write!(f, "{node} is on its way back with the new root: {why}"),
            Self::Returning { node, why, .. } => write!(f, "{node} is on its way back with its old root: {why}"),
            Self::Host { node, why } => write!(f, "the host of {node} cannot be asked: {why}"),
            Self::Machine { node, lack } => write!(f, "the machine of {node} must not be touched: {}", lack.what),
        }
    }
}

/// Chooses what is done next. Reads no clock, disk or network.
///
/// Never takes a node while another one is in hand or a gate is closed; see the [module](self).
pub fn decide(seen: &Observation, record: &Record) -> Act {
    if record.ended.is_some() {
        return Act::Rest;
    }
    if let Some(act) = in_hand(seen, record) {
        return act;
    }
    if let Wish::Abort { by, .. } = &record.wish {
        return Act::End(Ending::Aborted { by: by.clone() });
    }
    if let Some((node, why)) = record.failed() {
        return Act::End(Ending::Stopped { node: node.to_owned(), why: why.to_owned() });
    }
    if let Wish::Pause { .. } = record.wish {
        return Act::Rest;
    }
    if let Some(gate) = differs(seen, record) {
        return closed(gate, record);
    }
    let image = record.target.root.image;
    let pending: Vec<&NodeView> =
        seen.nodes.iter().filter(|node| record.state(&node.name) == Some(&NodeState::Pending)).collect();
    if let Some(node) = pending.iter().find(|node| seen.serves_on(node, image).is_ok()) {
        return Act::Note { node: node.name.clone(), state: NodeState::Already };
    }
    if pending.is_empty() {
        return Act::End(Ending::Done);
    }
    if let Some(gate) = gate::of_cluster(seen, &record.target) {
        return closed(gate, record);
    }
    next(seen, record, &pending)
}

/// A node that is in the profile or in the rollout alone.
fn differs(seen: &Observation, record: &Record) -> Option<Gate> {
    let extra = seen.nodes.iter().map(|node| &node.name).find(|name| record.state(name).is_none());
    let missing = || record.nodes.iter().map(|node| &node.name).find(|name| seen.node(name).is_none());
    extra.or_else(missing).map(|node| Gate::Differs { node: node.clone() })
}

fn closed(gate: Gate, record: &Record) -> Act {
    match gate.means(record.touched()) {
        Closed::Wait => Act::Wait(Reason::Gate(gate)),
        Closed::Refuse => Act::Refuse(gate),
    }
}

/// Takes the first follower, or has the leader become one.
fn next(seen: &Observation, record: &Record, pending: &[&NodeView]) -> Act {
    // The gates are open: there is a leader, and every machine has a root.
    let Some(leader) = seen.leading() else { return closed(Gate::Leaderless, record) };
    let Some(node) = pending.iter().find(|node| node.name != leader.name) else {
        return hand_over(seen, record, leader);
    };
    let root = node.machine.as_ref().ok().and_then(Option::as_ref).and_then(|machine| machine.root);
    match root {
        Some(before) => Act::Take { node: node.name.clone(), root: record.target.root, before },
        None => closed(Gate::NoRoot { node: node.name.clone() }, record),
    }
}

/// Has the leader hand over to a node that runs the target, so that leadership moves once; to any other one where none does.
fn hand_over(seen: &Observation, record: &Record, leader: &NodeView) -> Act {
    let others = || seen.nodes.iter().filter(|node| node.name != leader.name);
    let done = others().find(|node| node.image() == Some(record.target.root.image));
    match done.or_else(|| others().next()) {
        Some(heir) => Act::MoveLeader { from: leader.name.clone(), to: heir.name.clone() },
        None => closed(Gate::TooFew { voters: seen.nodes.len() }, record),
    }
}

/// What is to be done about the node in our hands.
fn in_hand(seen: &Observation, record: &Record) -> Option<Act> {
    let held = record.in_hand()?;
    let Some(node) = seen.node(&held.name) else {
        let why = "it is not in the profile any more".to_owned();
        return Some(Act::Note { node: held.name.clone(), state: NodeState::Lost { at: seen.now, why } });
    };
    match &held.state {
        NodeState::Taken { since, attempts, before } => Some(taken(seen, record, node, (*since, *attempts), *before)),
        NodeState::RollingBack { since, attempts, before, why } => {
            Some(rolling_back(seen, record, node, (*since, *attempts), (*before, why)))
        }
        NodeState::Pending
        | NodeState::Already
        | NodeState::Done { .. }
        | NodeState::RolledBack { .. }
        | NodeState::Lost { .. } => None,
    }
}

fn taken(seen: &Observation, record: &Record, node: &NodeView, (since, attempts): (i64, u32), before: Root) -> Act {
    let name = node.name.clone();
    let missing = match back_on(seen, node, record.target.root) {
        Ok(()) => return Act::Note { node: name, state: NodeState::Done { since, until: seen.now } },
        Err(missing) => missing,
    };
    let machine = match machine_of(seen, node) {
        Ok(machine) => machine,
        Err(act) => return act,
    };
    let roll_back = |why: String| roll_back(seen, node, before, why);
    if let Wish::Abort { by, .. } = &record.wish {
        return roll_back(format!("{by} aborted the rollout"));
    }
    if has(machine, record.target.root) {
        let until = since + i64::from(record.back_within_secs);
        return if seen.now < until {
            Act::Wait(Reason::Coming { node: name, since, until, why: missing })
        } else {
            roll_back(format!("it did not come back within {} s: {missing}", record.back_within_secs))
        };
    }
    if attempts >= ATTEMPTS {
        return roll_back(format!("it could not be given its new root in {ATTEMPTS} attempts"));
    }
    // It was written down and not done, or undone since: the node votes, and is taken like any other one.
    if seen.serves(node).is_ok() {
        if let Some(gate) = gate::of_cluster(seen, &record.target) {
            return closed(gate, record);
        }
        if let Some(leader) = seen.leading().filter(|leader| leader.name == node.name) {
            return hand_over(seen, record, leader);
        }
    }
    Act::Take { node: name, root: record.target.root, before }
}

/// Rolls the node in hand back. One that votes is left alone while another member does not: the two of them might be the quorum.
fn roll_back(seen: &Observation, node: &NodeView, to: Root, why: String) -> Act {
    match gate::of_others(seen, node).filter(|_| seen.serves(node).is_ok()) {
        Some(gate) => Act::Wait(Reason::Gate(gate)),
        None => Act::RollBack { node: node.name.clone(), to, why },
    }
}

fn rolling_back(
    seen: &Observation,
    record: &Record,
    node: &NodeView,
    (since, attempts): (i64, u32),
    (before, why): (Root, &str),
) -> Act {
    let name = node.name.clone();
    let missing = match back_on(seen, node, before) {
        Ok(()) => {
            let state = NodeState::RolledBack { at: seen.now, why: why.to_owned() };
            return Act::Note { node: name, state };
        }
        Err(missing) => missing,
    };
    let machine = match machine_of(seen, node) {
        Ok(machine) => machine,
        Err(act) => return act,
    };
    let lost = |what: String| Act::Note {
        node: name.clone(),
        state: NodeState::Lost { at: seen.now, why: format!("{why}; rolled back, {what}") },
    };
    if has(machine, before) {
        let until = since + i64::from(record.back_within_secs);
        return if seen.now < until {
            Act::Wait(Reason::Returning { node: name, since, until, why: missing })
        } else {
            lost(format!("it did not come back within {} s either: {missing}", record.back_within_secs))
        };
    }
    if attempts < ATTEMPTS {
        roll_back(seen, node, before, why.to_owned())
    } else {
        lost(format!("it could not be given its old root in {ATTEMPTS} attempts"))
    }
}

/// The node votes and serves on that root, and holds what the leader holds. What is missing, if not.
fn back_on(seen: &Observation, node: &NodeView, root: Root) -> Result<(), String> {
    seen.serves_on(node, root.image)?;
    match node.agreement {
        Agreement::Same => Ok(()),
        Agreement::Unknown => Err("whether it holds what the leader holds is not known yet".into()),
        Agreement::Different => Err("what it holds differs from what the leader holds".into()),
    }
}

/// The machine of the node in hand, where it can be dealt with; what to do, where not.
fn machine_of<'a>(seen: &Observation, node: &'a NodeView) -> Result<&'a Seen, Act> {
    let name = node.name.clone();
    match &node.machine {
        Err(why) => Err(Act::Wait(Reason::Host { node: name, why: why.clone() })),
        Ok(None) => {
            let why = "its machine is gone from its host".to_owned();
            Err(Act::Note { node: name, state: NodeState::Lost { at: seen.now, why } })
        }
        Ok(Some(machine)) => match machine.trouble.first() {
            Some(lack) => Err(Act::Wait(Reason::Machine { node: name, lack: lack.clone() })),
            None => Ok(machine),
        },
    }
}

/// The machine is on, with that root.
fn has(machine: &Seen, root: Root) -> bool {
    machine.running && machine.root.is_some_and(|seen| seen.image == root.image)
}

#[cfg(test)]
mod law;
#[cfg(test)]
mod tests;
