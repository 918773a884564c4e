//! What kiln writes into a machine's description: whose it is, what each of its volumes holds, and what is under way.
//!
//! A disk is replaced in three steps, each of them one change of the configuration: the note says what is about to come ([`Step`]), the slot gets
//! its new volume, whose name only the host chooses, and the note says what that volume is. So whatever volume is in the slot when all of it
//! was cut off, the note tells what it is: one it knows, or else the one that was about to come. A volume it does not know is never removed.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeMap;

use kiln_firstboot::digest::Sha256Digest;
use serde::{Deserialize, Serialize};

use super::config::{DATA, ROOT, SEED, VmConfig};
use crate::base64;
use crate::host::{Mark, Root};

/// The version of the note.
const SCHEMA: u32 = 1;
/// Where the note begins in the description; what people write above and below it stays.
const SIGN: &str = "{\"kiln\":";
/// What the API takes as a description.
pub(super) const LONGEST: usize = 8192;

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Holds {
    /// A root made of an image.
    Root(Root),
    /// The seed with this digest.
    Seed(Sha256Digest),
    /// The node's data.
    Data,
}

/// A change of disks that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Step {
    /// A new volume comes into the root's slot; the one that is in it is kept.
    Root {
        /// What the new one holds.
        root: Root,
        /// The volume in the slot so far.
        over: Option<String>,
    },
    /// The previous root comes back.
    Restore {
        /// Its volume.
        back: String,
        /// The volume in the slot so far, to be removed.
        drop: String,
    },
    /// A new seed comes.
    Seed {
        /// Its digest.
        seed: Sha256Digest,
    },
    /// A blank data volume comes where there was none.
    Data,
    /// A blank data volume comes, and this one is removed.
    Wipe {
        /// The volume with the data.
        drop: String,
    },
}

/// The note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// The version of the note: 1.
    pub(super) kiln: u32,
    /// Whose the machine is.
    pub(super) mark: Mark,
    /// The UUID kiln gave it. A copy of the machine has another one.
    pub(super) uuid: String,
    /// What each volume holds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) volumes: BTreeMap<String, Holds>,
    /// The volume of the root before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<String>,
    /// What is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<Step>,
    /// The machine was destroyed and its data kept: it holds them, and is nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) parked: bool,
}

impl Note {
    /// The note of a machine that has no volumes yet.
    pub(super) fn new(mark: Mark, uuid: String) -> Self {
        Self { kiln: SCHEMA, mark, uuid, volumes: BTreeMap::new(), previous: None, step: None, parked: false }
    }

    /// The note in a description.
    pub(super) fn parse(description: &str) -> Option<Self> {
        let line = description.lines().find(|line| line.starts_with(SIGN))?;
        serde_json::from_str(line).ok().filter(|note: &Self| note.kiln == SCHEMA)
    }

    /// The description with this note in it; what else was in it stays, as far as there is room.
    pub(super) fn description(&self, before: &str) -> String {
        let note = serde_json::to_string(self).expect("a note has no keys that JSON cannot have");
        if before.lines().any(|line| line.starts_with(SIGN)) {
            let lines: Vec<&str> =
                before.lines().map(|line| if line.starts_with(SIGN) { note.as_str() } else { line }).collect();
            let text = lines.join("\n");
            if text.len() <= LONGEST {
                return text;
            }
        }
        let (node, env) = (&self.mark.node, &self.mark.env);
        format!("Node {node} of cluster {env}. kiln made this machine and keeps the line below.\n\n{note}")
    }
}

/// The mark as it is in a machine's SMBIOS serial: what is left of it when the description is lost.
pub(super) fn smbios_serial(mark: &Mark) -> String {
    base64::encode(format!("kiln {} {} {}", mark.cluster, mark.env, mark.node).as_bytes())
}

/// The mark of [`smbios_serial`].
pub(super) fn mark_of_serial(serial: &str) -> Option<Mark> {
    let text = String::from_utf8(base64::decode(serial).ok()?).ok()?;
    match text.split(' ').collect::<Vec<_>>().as_slice() {
        ["kiln", cluster, env, node] => {
            Some(Mark { cluster: cluster.parse().ok()?, env: (*env).to_owned(), node: (*node).to_owned() })
        }
        _ => None,
    }
}

/// What a machine's disks are, by its configuration and its note together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disks {
    /// The root, where it is known.
    pub(super) root: Option<Root>,
    /// The volume and content of the previous root.
    pub(super) previous: Option<(String, Root)>,
    /// The seed, where it is known.
    pub(super) seed: Option<Sha256Digest>,
    /// The data volume that is in no slot, though it should be.
    pub(super) loose_data: Option<String>,
    /// Volumes that kiln made and nobody needs.
    pub(super) waste: Vec<String>,
}

/// Tells what a machine's disks are.
pub(super) fn disks(note: &Note, config: &VmConfig) -> Disks {
    let known = |volume: &str| note.volumes.get(volume).copied();
    let root_volume = config.volume(ROOT);
    let root = root_volume.and_then(|volume| match (known(volume), &note.step) {
        (Some(Holds::Root(root)), _) => Some(root),
        (None, Some(Step::Root { root, .. })) => Some(*root),
        (Some(Holds::Seed(_) | Holds::Data), _)
        | (None, Some(Step::Restore { .. } | Step::Seed { .. } | Step::Data | Step::Wipe { .. }) | None) => None,
    });
    let seed = config.volume(SEED).and_then(|volume| match (known(volume), &note.step) {
        (Some(Holds::Seed(seed)), _) => Some(seed),
        (None, Some(Step::Seed { seed })) => Some(*seed),
        (Some(Holds::Root(_) | Holds::Data), _)
        | (None, Some(Step::Root { .. } | Step::Restore { .. } | Step::Data | Step::Wipe { .. }) | None) => None,
    });
    let previous_volume = match &note.step {
        _ if note.parked => None,
        Some(Step::Root { over, .. }) if root_volume.is_some_and(|v| known(v).is_none()) => over.clone(),
        Some(Step::Restore { back, .. }) if root_volume == Some(back) => None,
        Some(Step::Root { .. } | Step::Restore { .. } | Step::Seed { .. } | Step::Data | Step::Wipe { .. }) | None => {
            note.previous.clone()
        }
    };
    let previous = previous_volume.and_then(|volume| match known(&volume) {
        Some(Holds::Root(root)) if config.unused_key(&volume).is_some() => Some((volume, root)),
        Some(Holds::Root(_) | Holds::Seed(_) | Holds::Data) | None => None,
    });
    let has_data = config.volume(DATA).is_some();
    let wiped = |volume: &str| matches!(&note.step, Some(Step::Wipe { drop }) if drop == volume) && has_data;
    let (mut waste, mut loose_data) = (Vec::new(), None);
    for (_, volume) in config.unused() {
        match known(volume) {
            Some(Holds::Root(_)) if previous.as_ref().is_none_or(|(p, _)| p != volume) => waste.push(volume.to_owned()),
            Some(Holds::Seed(_)) => waste.push(volume.to_owned()),
            Some(Holds::Data) if wiped(volume) => waste.push(volume.to_owned()),
            Some(Holds::Data) if !has_data => loose_data = Some(volume.to_owned()),
            Some(Holds::Root(_) | Holds::Data) | None => {}
        }
    }
    Disks { root, previous, seed, loose_data, waste }
}

/// The note once what is under way is over, or was never begun: what each volume that is there holds, and no step.
pub(super) fn settled(note: &Note, config: &VmConfig) -> Note {
    let disks = disks(note, config);
    let mut volumes: BTreeMap<String, Holds> = config
        .unused()
        .into_iter()
        .filter_map(|(_, volume)| Some((volume.to_owned(), *note.volumes.get(volume)?)))
        .collect();
    let slots = [(ROOT, disks.root.map(Holds::Root)), (SEED, disks.seed.map(Holds::Seed)), (DATA, Some(Holds::Data))];
    for (slot, holds) in slots {
        if let (Some(volume), Some(holds)) = (config.volume(slot), holds) {
            volumes.insert(volume.to_owned(), holds);
        }
    }
    Note { volumes, previous: disks.previous.map(|(volume, _)| volume), step: None, ..note.clone() }
}

#[cfg(test)]
mod tests;
