//! What must hold of a cluster before a further node of it is taken. Pure.
//!
//! One closed gate is enough. Each is its own variant, with a sentence of what was seen and a remedy.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeSet;
use std::fmt;

use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::version::EtcdVersion;

use super::observation::{LAG, NodeView, Observation};
use super::record::Target;
use crate::exit::Refusal;
use crate::host::Lack;

/// A gate that is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// With fewer than three voters, one that is away takes the quorum with it.
    TooFew {
        /// How many vote.
        voters: usize,
    },
    /// A node of the profile is no member, so that the cluster has less to lose than it should.
    NotMember {
        /// The node.
        node: String,
    },
    /// A member is no node of the profile: it would neither be looked at nor rolled.
    Stranger {
        /// Its peer URL.
        member: String,
    },
    /// A node of the profile is not part of the rollout, or the other way round: the profile was changed since it began.
    Differs {
        /// The node.
        node: String,
    },
    /// A member is being added.
    Changing {
        /// The node, or the peer URL of a member that has no name yet.
        member: String,
    },
    /// A member does not serve.
    Down {
        /// The node.
        node: String,
        /// What was seen.
        why: String,
    },
    /// The members do not agree on a leader.
    Leaderless,
    /// An alarm is raised.
    Alarm {
        /// The alarms, by etcd's names.
        names: Vec<String>,
    },
    /// A member is far behind.
    Lag {
        /// The node.
        node: String,
        /// By how many entries.
        entries: u64,
    },
    /// The members, with the target, would be of versions that do not run together.
    VersionSpread {
        /// The oldest.
        oldest: EtcdVersion,
        /// The newest.
        newest: EtcdVersion,
    },
    /// The target's etcd is of an earlier minor version than a member runs.
    Downgrade {
        /// The node that runs the later one.
        node: String,
        /// What it runs.
        runs: EtcdVersion,
        /// What the target has.
        target: EtcdVersion,
    },
    /// A member runs an image that is of no generation kiln knows.
    UnknownImage {
        /// The node.
        node: String,
        /// The image.
        image: Sha256Digest,
    },
    /// What is on a host is not known.
    HostSilent {
        /// The node.
        node: String,
        /// What its host's driver said.
        why: String,
    },
    /// No host has a machine of the node.
    NoMachine {
        /// The node.
        node: String,
    },
    /// The machine has no whole root disk, so there would be nothing to go back to.
    NoRoot {
        /// The node.
        node: String,
    },
    /// The machine must not be touched.
    Trouble {
        /// The node.
        node: String,
        /// Why, and what can be done.
        lack: Lack,
    },
}

/// What a closed gate means for the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It may open by itself.
    Wait,
    /// A person has to act.
    Refuse,
}

impl Gate {
    /// What it means. A member that is down before anything was touched is the operator's to mend; one that goes down in the middle may
    /// come back by itself.
    pub fn means(&self, touched: bool) -> Closed {
        match self {
            Self::Changing { .. }
            | Self::Leaderless
            | Self::Alarm { .. }
            | Self::Lag { .. }
            | Self::HostSilent { .. } => Closed::Wait,
            Self::Down { .. } if touched => Closed::Wait,
            Self::Down { .. }
            | Self::TooFew { .. }
            | Self::NotMember { .. }
            | Self::Stranger { .. }
            | Self::Differs { .. }
            | Self::VersionSpread { .. }
            | Self::Downgrade { .. }
            | Self::UnknownImage { .. }
            | Self::NoMachine { .. }
            | Self::NoRoot { .. }
            | Self::Trouble { .. } => Closed::Refuse,
        }
    }

    /// What an operator can do.
    pub fn remedy(&self) -> String {
        match self {
            Self::TooFew { .. } => "give the profile three nodes or more; a cluster this small is stopped, imaged anew and started as a whole".into(),
            Self::NotMember { node } => {
                format!("see what {node} waits for: kiln status; or remove it from the profile if it is to be no member")
            }
            Self::Stranger { .. } => "add it to the profile, or remove it with `etcdctl member remove` if nobody runs it".into(),
            Self::Differs { .. } => "end this rollout and begin another one: kiln rollout abort PROFILE".into(),
            Self::Changing { .. } => "nothing to do: it is promoted as soon as it has caught up".into(),
            Self::Down { node, .. } => format!("bring {node} back first, with `kiln reimage` if need be"),
            Self::Leaderless => "nothing to do: an election takes seconds; if it lasts, look at the members' network".into(),
            Self::Alarm { .. } => "mend what raised it (NOSPACE: compact and defragment), then `etcdctl alarm disarm`".into(),
            Self::Lag { .. } => "nothing to do: it catches up; if it does not, look at its disk and network".into(),
            Self::VersionSpread { .. } => "go one minor version at a time".into(),
            Self::Downgrade { .. } => "an image with this node's minor version of etcd, or a later one, can be rolled out; a lower one cannot".into(),
            Self::UnknownImage { node, .. } => format!("image it with a generation kiln knows: kiln reimage PROFILE {node}"),
            Self::HostSilent { .. } => "see whether the host is up and lets you in".into(),
            Self::NoMachine { node } => format!("make it: kiln deploy PROFILE {node}"),
            Self::NoRoot { node } => format!("give it one: kiln reimage PROFILE {node}"),
            Self::Trouble { lack, .. } => lack.remedy.clone(),
        }
    }

    /// The refusal it is, where it is one.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.to_string(), self.remedy())
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { voters } => {
                write!(f, "the cluster has {voters} voters, and would have no quorum while one of them is away")
            }
            Self::NotMember { node } => write!(f, "{node} is in the profile and no member of the cluster"),
            Self::Stranger { member } => write!(f, "the member at {member} is no node of the profile"),
            Self::Differs { node } => {
                write!(
                    f,
                    "{node} is not both in the profile and in the rollout, so the profile was changed since it began"
                )
            }
            Self::Changing { member } => write!(f, "{member} is being added to the cluster and does not vote yet"),
            Self::Down { node, why } => write!(f, "{node} does not serve: {why}"),
            Self::Leaderless => f.write_str("the members do not agree on a leader"),
            Self::Alarm { names } => write!(f, "the cluster has raised an alarm: {}", names.join(", ")),
            Self::Lag { node, entries } => {
                write!(f, "{node} is {entries} entries of the log behind, and more than {LAG} is too many")
            }
            Self::VersionSpread { oldest, newest } => write!(
                f,
                "etcd {oldest} and {newest} would run in one cluster, and members must be within one minor version"
            ),
            Self::Downgrade { node, runs, target } => {
                write!(f, "{node} runs etcd {runs}, and the target has {target}, whose minor version is lower")
            }
            Self::UnknownImage { node, image } => {
                write!(f, "{node} runs image {:.12}, which is of no generation of this cluster", image.to_string())
            }
            Self::HostSilent { node, why } => write!(f, "the host of {node} cannot be asked: {why}"),
            Self::NoMachine { node } => write!(f, "no host has a machine of {node}"),
            Self::NoRoot { node } => {
                write!(f, "the machine of {node} has no whole root disk that it could be given back")
            }
            Self::Trouble { node, lack } => write!(f, "the machine of {node} must not be touched: {}", lack.what),
        }
    }
}

/// The first gate that is closed for the cluster as a whole.
pub fn of_cluster(seen: &Observation, target: &Target) -> Option<Gate> {
    membership(seen)
        .or_else(|| versions(seen, target))
        .or_else(|| images(seen, target))
        .or_else(|| health(seen))
        .or_else(|| seen.nodes.iter().find_map(of_machine))
}

fn membership(seen: &Observation) -> Option<Gate> {
    let ours: BTreeSet<String> = seen.nodes.iter().map(|node| node.fqdn.peer_url()).collect();
    for member in &seen.members {
        let url = member.peer_urls.first().cloned().unwrap_or_default();
        if !member.peer_urls.iter().any(|url| ours.contains(url)) {
            return Some(Gate::Stranger { member: url });
        }
        if member.learner || member.client_urls.is_empty() {
            let name = if member.name.is_empty() { url } else { member.name.clone() };
            return Some(Gate::Changing { member: name });
        }
    }
    if let Some(node) = seen.nodes.iter().find(|node| seen.member(node).is_none()) {
        return Some(Gate::NotMember { node: node.name.clone() });
    }
    let voters = seen.members.iter().filter(|member| !member.learner).count();
    (voters < 3).then_some(Gate::TooFew { voters })
}

fn versions(seen: &Observation, target: &Target) -> Option<Gate> {
    let minor = |version: EtcdVersion| (version.major, version.minor);
    let running: Vec<(&NodeView, EtcdVersion)> =
        seen.nodes.iter().filter_map(|node| Some((node, node.version()?))).collect();
    if let Some((node, runs)) = running.iter().find(|(_, runs)| minor(*runs) > minor(target.etcd)) {
        return Some(Gate::Downgrade { node: node.name.clone(), runs: *runs, target: target.etcd });
    }
    let all = running.iter().map(|(_, version)| *version).chain([target.etcd]);
    let (oldest, newest) = (all.clone().min()?, all.max()?);
    let together = oldest.major == newest.major && newest.minor - oldest.minor <= 1;
    (!together).then_some(Gate::VersionSpread { oldest, newest })
}

fn images(seen: &Observation, target: &Target) -> Option<Gate> {
    seen.nodes.iter().find_map(|node| {
        let image = node.image()?;
        let known = image == target.root.image || seen.known.contains_key(&image);
        (!known).then(|| Gate::UnknownImage { node: node.name.clone(), image })
    })
}

fn health(seen: &Observation) -> Option<Gate> {
    for node in &seen.nodes {
        if let Err(why) = seen.serves(node) {
            return Some(Gate::Down { node: node.name.clone(), why });
        }
    }
    if seen.leading().is_none() {
        return Some(Gate::Leaderless);
    }
    if !seen.alarms.is_empty() {
        return Some(Gate::Alarm { names: seen.alarms.clone() });
    }
    seen.nodes.iter().find_map(|node| {
        let entries = seen.lag(node).filter(|entries| *entries > LAG)?;
        Some(Gate::Lag { node: node.name.clone(), entries })
    })
}

/// The gate that another member than this one closes by not serving.
pub fn of_others(seen: &Observation, node: &NodeView) -> Option<Gate> {
    let others = seen.nodes.iter().filter(|other| other.name != node.name);
    others.into_iter().find_map(|other| Some(Gate::Down { node: other.name.clone(), why: seen.serves(other).err()? }))
}

/// The gate that is closed for a machine.
pub fn of_machine(node: &NodeView) -> Option<Gate> {
    let name = node.name.clone();
    match &node.machine {
        Err(why) => Some(Gate::HostSilent { node: name, why: why.clone() }),
        Ok(None) => Some(Gate::NoMachine { node: name }),
        Ok(Some(machine)) => match machine.trouble.first() {
            Some(lack) => Some(Gate::Trouble { node: name, lack: lack.clone() }),
            None if machine.root.is_none() => Some(Gate::NoRoot { node: name }),
            None => None,
        },
    }
}
