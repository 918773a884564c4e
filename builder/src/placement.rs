//! What the loss of a host costs a cluster, and where its nodes would have to be for it to cost less.
//!
//! Arithmetic alone: of n voters a majority is ⌊n/2⌋+1, and a cluster without one neither writes nor reads linearizably. Two hosts hold n
//! voters between them, so one of them holds ⌈n/2⌉ or more: no placement on two hosts survives the loss of an arbitrary one.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

mod told;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::host::Seen;
use crate::profile::Profile;

/// What the loss of one host costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The host.
    pub host: String,
    /// Nodes that are lost with it, by name.
    pub nodes: Vec<String>,
    /// Voters that are left.
    pub left: usize,
    /// Whether they are a majority.
    pub quorum: bool,
}

/// A placement that loses less.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Better {
    /// Voters by host.
    pub voters: BTreeMap<String, usize>,
    /// Hosts whose loss still costs the quorum.
    pub fatal: Vec<String>,
    /// How many nodes have to move.
    pub moves: usize,
}

/// A placement with one voter on a host that the profile does not have: one more failure domain, however small.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Witness {
    /// Voters by host of the profile.
    pub voters: BTreeMap<String, usize>,
    /// Voters in all, the witness among them.
    pub total: usize,
}

/// What the loss of each host costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// Members of the cluster, all of which vote.
    pub voters: usize,
    /// How many of them are a majority.
    pub majority: usize,
    /// The hosts, in order of their names.
    pub losses: Vec<Loss>,
    /// The placement on the same hosts that loses least; none where it is this one, or as good.
    pub better: Option<Better>,
    /// With it the loss of any one host is survived; none where that is so already, or a single voter would not change it.
    pub witness: Option<Witness>,
}

/// A node that is not where the profile has it, and there alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Astray {
    /// The node.
    pub node: String,
    /// Where the profile has it.
    pub planned: String,
    /// Where it was found.
    pub found: Vec<String>,
}

/// How many voters are a majority.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

impl Placement {
    /// The profile's.
    pub fn of(profile: &Profile) -> Self {
        Self::new(profile.hosts.iter().map(|host| {
            (host.name.clone(), profile.nodes_of(&host.name).map(|node| node.name.clone()).collect::<Vec<_>>())
        }))
    }

    /// Where the nodes really are: on the hosts they were found on, and where the profile has them if they were found nowhere. A node that
    /// was found on several hosts counts on the one where it runs, or else on the first.
    pub fn found(profile: &Profile, seen: &BTreeMap<String, Vec<Seen>>) -> Self {
        let mut on: BTreeMap<String, Vec<String>> =
            profile.hosts.iter().map(|h| (h.name.clone(), Vec::new())).collect();
        for node in &profile.nodes {
            let machines = || {
                seen.iter()
                    .flat_map(|(host, machines)| machines.iter().map(move |m| (host, m)))
                    .filter(|(_, m)| m.mark.node == node.name)
            };
            let host = machines().find(|(_, m)| m.running).or_else(|| machines().next());
            on.entry(host.map_or(&node.host, |(host, _)| host).clone()).or_default().push(node.name.clone());
        }
        Self::new(on)
    }

    /// `hosts` with the nodes on each.
    pub fn new(hosts: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        let hosts: BTreeMap<String, Vec<String>> = hosts.into_iter().collect();
        let voters = hosts.values().map(Vec::len).sum();
        let majority = majority(voters);
        let loss = |(host, nodes): (&String, &Vec<String>)| {
            let left = voters - nodes.len();
            Loss { host: host.clone(), nodes: nodes.clone(), left, quorum: left >= majority }
        };
        let losses: Vec<Loss> = hosts.iter().map(loss).collect();
        let counts: BTreeMap<&str, usize> = hosts.iter().map(|(host, nodes)| (host.as_str(), nodes.len())).collect();
        let better = better(&counts);
        let witness = if losses.iter().all(|loss| loss.quorum) { None } else { witness(&counts) };
        Self { voters, majority, losses, better, witness }
    }

    /// Hosts that must survive: the loss of any of them costs the quorum.
    pub fn fatal(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().filter(|loss| !loss.quorum)
    }

    /// How many members the cluster may lose and go on.
    pub fn spare(&self) -> usize {
        self.voters.saturating_sub(self.majority)
    }

    /// Whether one member less would survive the loss of as many.
    pub fn is_even(&self) -> bool {
        self.voters > 0 && self.voters.is_multiple_of(2)
    }
}

/// Every node that is not on its host of the profile, and on that alone. Hosts that were not asked are not in `seen`.
pub fn astray(profile: &Profile, seen: &BTreeMap<String, Vec<Seen>>) -> Vec<Astray> {
    let on = |node: &str| {
        let here = |machines: &Vec<Seen>| machines.iter().filter(|m| m.mark.node == node).count();
        seen.iter()
            .flat_map(move |(host, machines)| std::iter::repeat_n(host.clone(), here(machines)))
            .collect::<Vec<_>>()
    };
    let nodes = profile.nodes.iter().map(|node| Astray {
        node: node.name.clone(),
        planned: node.host.clone(),
        found: on(&node.name),
    });
    nodes.filter(|a| !a.found.is_empty() && a.found != [a.planned.as_str()]).collect()
}

/// What is bad about voters laid out like this, the worst first: how many hosts must not be lost, then how many voters the worst loss takes.
fn badness(counts: &[usize]) -> (usize, usize) {
    let voters: usize = counts.iter().sum();
    let spare = voters.saturating_sub(majority(voters));
    (counts.iter().filter(|count| **count > spare).count(), counts.iter().copied().max().unwrap_or(0))
}

fn better(counts: &BTreeMap<&str, usize>) -> Option<Better> {
    let now: Vec<usize> = counts.values().copied().collect();
    let best = splits(now.iter().sum(), now.len()).into_iter().min_by_key(|split| badness(split))?;
    if badness(&best) >= badness(&now) {
        return None;
    }
    // The host with most voters keeps most: that moves the fewest, for both lists are in the same order then.
    let mut hosts: Vec<(&str, usize)> = counts.iter().map(|(host, count)| (*host, *count)).collect();
    hosts.sort_by_key(|(_, count)| Reverse(*count));
    let moves = hosts.iter().zip(&best).map(|((_, from), to)| from.saturating_sub(*to)).sum();
    let spare = now.iter().sum::<usize>().saturating_sub(majority(now.iter().sum()));
    let voters: BTreeMap<String, usize> =
        hosts.iter().zip(best).map(|((host, _), to)| ((*host).to_owned(), to)).collect();
    let fatal = voters.iter().filter(|(_, count)| **count > spare).map(|(host, _)| host.clone()).collect();
    Some(Better { voters, fatal, moves })
}

fn witness(counts: &BTreeMap<&str, usize>) -> Option<Witness> {
    let now: usize = counts.values().sum();
    let with_one_elsewhere = |total: usize| {
        // Spread evenly: nothing else lets the worst loss take fewer.
        let split = splits(total.checked_sub(1)?, counts.len()).into_iter().next()?;
        (badness(&[split.as_slice(), &[1]].concat()).0 == 0).then_some((split, total))
    };
    let (split, total) = with_one_elsewhere(now).or_else(|| with_one_elsewhere(now + 1))?;
    let mut hosts: Vec<(&str, usize)> = counts.iter().map(|(host, count)| (*host, *count)).collect();
    hosts.sort_by_key(|(_, count)| Reverse(*count));
    Some(Witness { voters: hosts.iter().zip(split).map(|((host, _), to)| ((*host).to_owned(), to)).collect(), total })
}

/// Layouts of `voters` on `hosts` hosts among which the least bad one is, the most on the first: some number on one host and the rest spread
/// evenly. Where not every loss can be survived, all on one host leaves one that must not be lost, so no more than one ever has to be.
fn splits(voters: usize, hosts: usize) -> Vec<Vec<usize>> {
    if hosts == 0 {
        return Vec::new();
    }
    let rest = |voters: usize, hosts: usize| (0..hosts).map(move |i| (voters + hosts - 1 - i) / hosts);
    let split = |first: usize| std::iter::once(first).chain(rest(voters - first, hosts - 1)).collect::<Vec<_>>();
    let sums = |split: &Vec<usize>| split.iter().sum::<usize>() == voters;
    (voters.div_ceil(hosts)..=voters).map(split).filter(sums).collect()
}

#[cfg(test)]
mod tests;
