//! A machine of the lab: a node of the profile, or the clone of one, booted beside it.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::digest::Id128;

use crate::profile::{Node, Profile};

/// What a clone's name ends with.
const CLONE: &str = "-clone";
/// Added to a node's place to get its clone's, which names its network devices. No profile has as many nodes.
const CLONE_INDEX: usize = 1000;

/// One machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine<'a> {
    /// The node it is, or is taken for: name in DNS, address, Ethernet address, sizes.
    pub node: &'a Node,
    /// It is the clone.
    pub clone: bool,
    index: usize,
}

impl<'a> Machine<'a> {
    /// All nodes of a profile, without clones.
    pub fn all(profile: &'a Profile) -> impl Iterator<Item = Self> {
        profile.nodes.iter().enumerate().map(|(i, node)| Self { node, clone: false, index: i + 1 })
    }

    /// The machine of that name: a node's, short or full, or a node's short name and `-clone`.
    pub fn named(profile: &'a Profile, name: &str) -> Option<Self> {
        let node = |name: &str| Self::all(profile).find(|m| m.node.name == name || m.node.fqdn.as_str() == name);
        node(name).or_else(|| Some(node(name.strip_suffix(CLONE)?)?.cloned()))
    }

    /// This machine's clone; a clone is its own.
    #[must_use]
    pub fn cloned(self) -> Self {
        Self { clone: true, ..self }
    }

    /// Its name in the lab.
    pub fn name(&self) -> String {
        format!("{}{}", self.node.name, if self.clone { CLONE } else { "" })
    }

    /// Its place in the profile, from 1, apart for clones. Names network devices, which may not be longer than 15 characters.
    pub fn index(&self) -> usize {
        self.index + if self.clone { CLONE_INDEX } else { 0 }
    }

    /// Its UUID and machine id. A hypervisor gives a clone another one.
    pub fn uuid(&self, cluster: &Id128) -> String {
        let uuid = self.node.vm_uuid(cluster);
        if !self.clone {
            return uuid;
        }
        // Which digit it is does not matter as long as version and variant stay as they are.
        let (rest, last) = uuid.split_at(uuid.len() - 1);
        format!("{rest}{}", if last == "0" { '1' } else { '0' })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_differs_in_what_a_host_gives_and_in_nothing_else() {
        let profile = super::super::dns::tests::profile();
        let node = Machine::named(&profile, "a2").unwrap();
        assert_eq!(Machine::named(&profile, "a2.lab.example"), Some(node));
        let clone = Machine::named(&profile, "a2-clone").unwrap();
        assert_eq!((clone, clone.node), (node.cloned(), node.node));
        assert_eq!((node.name().as_str(), clone.name().as_str()), ("a2", "a2-clone"));
        assert_eq!((node.index(), clone.index()), (2, 1002));
        let cluster = Id128([1; 16]);
        let (a, b) = (node.uuid(&cluster), clone.uuid(&cluster));
        assert_eq!((a.len(), &a[..35]), (36, &b[..35]));
        assert_ne!(a, b);
        assert_eq!(Machine::named(&profile, "a3-clone"), None);
    }
}
