//! How large the machines on played hosts are: a lab shares one machine, which has not the memory of the hosts it plays.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use crate::profile::Profile;

/// Memory of a node at most, in MiB. The image boots and its etcd serves in 768, as in `profiles/lab.toml`.
pub const MEMORY_MIB: u32 = 768;
/// Processors of a node at most. Emulated ones wait for each other, so a second one makes a node slower where real ones are few.
pub const VCPUS: u32 = 1;

/// The profile with every node as large as in a lab; nothing when none is larger than that anyway.
pub fn scaled(profile: &Profile) -> Option<Profile> {
    let mut scaled = profile.clone();
    for node in &mut scaled.nodes {
        node.memory_mib = node.memory_mib.min(MEMORY_MIB);
        node.vcpus = node.vcpus.min(VCPUS);
    }
    (scaled != *profile).then_some(scaled)
}

/// What is said about it.
pub fn notice(profile: &Profile) -> String {
    format!("in the lab the nodes of `{}` have {MEMORY_MIB} MiB and {VCPUS} processor at most", profile.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    #[test]
    fn nodes_are_made_small_and_nothing_else_changes() {
        let text = include_str!("../../../profiles/k8s0.toml");
        let profile = Profile::parse(Utf8Path::new("profiles/k8s0.toml"), text).unwrap();
        let mut small = scaled(&profile).unwrap();
        assert!(small.nodes.iter().all(|n| (n.memory_mib, n.vcpus) == (768, 1)));
        assert_eq!(scaled(&small), None, "what is small is left alone");
        for (node, was) in small.nodes.iter_mut().zip(&profile.nodes) {
            (node.memory_mib, node.vcpus) = (was.memory_mib, was.vcpus);
        }
        assert_eq!(small, profile);
    }
}
