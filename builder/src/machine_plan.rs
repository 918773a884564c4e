//! What is to be done to the machines of a cluster on their hosts, as a list that can be printed before anything is done.
//!
//! Pure: from what is wished and what was seen. Where something is seen that makes acting unsafe, the plan says so instead ([`MachinePlan::refusals`])
//! and is not to be carried out. A host that cannot be asked is never taken for one without machines.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

mod deploy;
mod destroy;
mod reimage;
mod told;

use std::collections::BTreeMap;

use kiln_firstboot::digest::{Id128, Sha256Digest};
use serde::Serialize;

pub use self::deploy::{Told, deploy};
pub use self::destroy::{Destroy, destroy};
pub use self::reimage::{ON_ITS_WAY, Reimage, give_back, reimage, settle};
use crate::host::{Lack, Machine, Mark, Root, Seen};
use crate::mac::MacAddress;
use crate::profile::{Node, Profile};

/// Bytes of a gibibyte, in which data volumes are sized.
pub const GIB: u64 = 1 << 30;

/// What every host that has a driver answered: its machines of the cluster, or why it cannot be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Survey(pub BTreeMap<String, Result<Vec<Seen>, String>>);

/// A machine as it is to be, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wished {
    /// The host.
    pub host: String,
    /// The machine.
    pub machine: Machine,
    /// Digest of the seed it is to have.
    pub seed: Sha256Digest,
}

/// One thing to do on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Where.
    pub host: String,
    /// To whose machine; none for what is done once for all of them.
    pub node: Option<String>,
    /// What.
    #[serde(flatten)]
    pub act: Act,
}

/// What can be done on a host; each is a method of [`crate::host::Host`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "act")]
pub enum Act {
    /// Have an image there, unless it is.
    Upload {
        /// Its key.
        image: Sha256Digest,
    },
    /// Make a machine, or go on with one half-made; a data volume of the node that is there is kept.
    Create {
        /// Its root.
        root: Root,
    },
    /// Bring memory, processors and card to what is wished.
    Redefine,
    /// Give it the seed as it is now.
    ReplaceSeed,
    /// Give it a fresh root and keep the one it has.
    ReplaceRoot {
        /// The root.
        root: Root,
    },
    /// Put the root back that was kept, and drop the one it has.
    RestoreRoot,
    /// Drop the root that was kept.
    DropPrevious,
    /// Replace its data volume by a blank one.
    WipeData,
    /// Power it on.
    PowerOn,
    /// Power it off.
    PowerOff,
    /// Remove the machine.
    Destroy {
        /// Its data volume too.
        with_data: bool,
    },
    /// Remove images that nothing lies over any more.
    Collect,
}

/// Steps in their order; those of different hosts may go side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MachinePlan {
    /// What is to be done.
    pub steps: Vec<Step>,
    /// What is worth knowing and stops nothing.
    pub notes: Vec<String>,
    /// Why nothing is to be done at all, until somebody acts.
    pub refusals: Vec<Lack>,
    /// Hosts that cannot be asked, and why: what is to be done there is not known.
    pub silent: BTreeMap<String, String>,
}

impl Survey {
    /// Every machine seen of a node, with its host.
    pub fn machines<'s>(&'s self, node: &'s str) -> impl Iterator<Item = (&'s str, &'s Seen)> {
        self.all().filter(move |(_, seen)| seen.mark.node == node)
    }

    /// Every machine seen, with its host.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Seen)> {
        self.0.iter().flat_map(|(host, seen)| seen.iter().flatten().map(move |one| (host.as_str(), one)))
    }

    /// Hosts that cannot be asked, and why.
    pub fn silent(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(host, seen)| seen.as_ref().err().map(|why| (host.as_str(), why.as_str())))
    }

    /// The machines on the hosts that could be asked.
    pub fn answers(&self) -> BTreeMap<String, Vec<Seen>> {
        self.0.iter().filter_map(|(host, seen)| Some((host.clone(), seen.as_ref().ok()?.clone()))).collect()
    }

    /// Every root seen, kept ones too.
    pub fn roots(&self) -> Vec<Root> {
        self.all().flat_map(|(_, seen)| seen.root.into_iter().chain(seen.previous)).collect()
    }
}

impl Wished {
    /// Every node's machine, in the order of the profile; `seed` tells the digest of a node's seed.
    ///
    /// # Errors
    /// `seed`'s.
    pub fn all<E>(
        profile: &Profile,
        cluster: Id128,
        mut seed: impl FnMut(&Node) -> Result<Sha256Digest, E>,
    ) -> Result<Vec<Self>, E> {
        let wished = |node: &Node| {
            let machine = machine(profile, node, cluster);
            Ok(Self { host: node.host.clone(), machine, seed: seed(node)? })
        };
        profile.nodes.iter().map(wished).collect()
    }

    /// A machine as it was seen, for what takes it away: of a node that the profile does not have any more.
    pub fn of_seen(host: &str, seen: &Seen) -> Self {
        let Mark { env, node, .. } = &seen.mark;
        let machine = Machine {
            mark: seen.mark.clone(),
            uuid: seen.uuid.clone(),
            memory_mib: seen.memory_mib,
            vcpus: seen.vcpus,
            data_gib: 0,
            bridge: seen.bridge.clone().unwrap_or_default(),
            mtu: None,
            mac: seen.mac.unwrap_or_else(|| MacAddress::derive(env, node)),
        };
        Self { host: host.to_owned(), machine, seed: seen.seed.unwrap_or(Sha256Digest([0; 32])) }
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.machine.mark.node
    }

    fn step(&self, act: Act) -> Step {
        Step { host: self.host.clone(), node: Some(self.node().to_owned()), act }
    }

    /// Bytes its data volume is to have.
    fn data_bytes(&self) -> u64 {
        u64::from(self.machine.data_gib) * GIB
    }

    /// How the machine differs from what is wished, where a redefinition would mend it.
    fn differences(&self, seen: &Seen) -> Vec<String> {
        let Machine { memory_mib, vcpus, mac, bridge, .. } = &self.machine;
        let mut differences = Vec::new();
        let mut differ = |what: &str, is: String, want: String| {
            if is != want {
                differences.push(format!("{what} {is}, not {want}"));
            }
        };
        differ("memory in MiB", seen.memory_mib.to_string(), memory_mib.to_string());
        differ("processors", seen.vcpus.to_string(), vcpus.to_string());
        let none = || "none".to_owned();
        differ("Ethernet address", seen.mac.map_or_else(none, |mac| mac.to_string()), mac.to_string());
        differ("bridge", seen.bridge.clone().unwrap_or_else(none), bridge.clone());
        differences
    }
}

/// The machine that a node is to be.
pub fn machine(profile: &Profile, node: &Node, cluster: Id128) -> Machine {
    Machine {
        mark: Mark { cluster, env: profile.name.clone(), node: node.name.clone() },
        uuid: node.vm_uuid(&cluster),
        memory_mib: node.memory_mib,
        vcpus: node.vcpus,
        data_gib: node.data_gib,
        bridge: profile.network.bridge.clone(),
        mtu: profile.network.mtu,
        mac: node.mac,
    }
}

impl MachinePlan {
    /// Whether there is nothing to do, nothing in the way and nothing unknown.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.refusals.is_empty() && self.silent.is_empty()
    }

    /// A plan that knows which hosts could not be asked.
    fn over(survey: &Survey) -> Self {
        let silent = survey.silent().map(|(host, why)| (host.to_owned(), why.to_owned())).collect();
        Self { silent, ..Self::default() }
    }

    fn refuse(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.refusals.push(Lack { what: what.into(), remedy: remedy.into() });
    }

    /// The one machine of a node, on the host it is to be on and fit to be touched; `Err` when the plan now says why nothing can be done.
    fn one<'s>(&mut self, wished: &'s Wished, survey: &'s Survey) -> Result<Option<&'s Seen>, Stopped> {
        let (node, host) = (wished.node(), &wished.host);
        let found: Vec<(&str, &Seen)> = survey.machines(node).collect();
        let before = self.refusals.len();
        match found.as_slice() {
            [] => {
                if let Some((silent, why)) = survey.silent().next() {
                    // A machine that is made while another one of its node may run elsewhere would be a second node of one name.
                    self.refuse(
                        format!("{node} was not found, and may be on {silent}, which cannot be asked: {why}"),
                        format!("have {silent} answer; if it is lost for good, take it out of the profile"),
                    );
                } else if !survey.0.contains_key(host) {
                    self.refuse(format!("{host}, the host of {node}, has no driver"), "give it a kind and an endpoint");
                }
            }
            [(on, seen)] => {
                if on != host {
                    self.refuse(
                        format!("{node} is on {on}; the profile has it on {host}"),
                        format!("move it back, or write `host = \"{on}\"` in the profile"),
                    );
                }
                self.refusals.extend(seen.trouble.iter().map(|lack| Lack {
                    what: format!("{node} ({} on {on}) must not be touched: {}", seen.handle, lack.what),
                    remedy: lack.remedy.clone(),
                }));
                if seen.uuid != wished.machine.uuid {
                    self.refuse(
                        format!(
                            "{node} ({} on {on}) has the UUID {}, not {}",
                            seen.handle, seen.uuid, wished.machine.uuid
                        ),
                        "a machine's UUID is its node's machine id: find out who changed it and change it back",
                    );
                }
            }
            several => {
                let places: Vec<String> = several.iter().map(|(on, seen)| format!("{on} ({})", seen.handle)).collect();
                self.refuse(
                    format!("{node} is there more than once: on {}", places.join(" and on ")),
                    "only one may ever run: power off and remove the one whose data is older, by the host's own means",
                );
            }
        }
        if self.refusals.len() > before { Err(Stopped) } else { Ok(found.first().map(|(_, seen)| *seen)) }
    }

    /// A data volume that is smaller than wished is not made larger, nor taken for one that was wished for.
    fn room(&mut self, wished: &Wished, seen: &Seen) -> Result<(), Stopped> {
        let (node, want) = (wished.node(), wished.data_bytes());
        match seen.data_bytes {
            Some(has) if has < want => {
                self.refuse(
                    format!("the data volume of {node} has {has} bytes, fewer than the {want} of the profile"),
                    format!("write `data_gib = {}` for {node}; or image it again with a blank one: kiln reimage PROFILE {node} --wipe-data {node}", has / GIB),
                );
                Err(Stopped)
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The plan has said why it stops here.
#[derive(Clone, Copy, Debug)]
struct Stopped;

#[cfg(test)]
mod tests;
