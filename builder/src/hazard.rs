//! What is known to be wrong with released etcds, and which way from one to the next is closed.
//!
//! Versions that corrupt data, lose a promotion or leave zombies are refused unless the profile accepts the hazard by name and reason; the
//! others are said aloud. Fix versions are those of `etcd-io/etcd:CHANGELOG/CHANGELOG-3.{5,6,7}.md`.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::version::EtcdVersion;

/// One thing that is wrong with a range of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hazard {
    /// The word by which a profile accepts it.
    pub name: &'static str,
    /// What happens, in a sentence.
    pub harm: &'static str,
    /// Whether a profile has to accept it.
    pub weight: Weight,
    /// Per minor line, the first patch level without it; a line that is not listed never had it.
    mended: &'static [(u16, u16)],
    /// Where it is told.
    pub source: &'static str,
}

/// How much a hazard weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Said aloud.
    Warned,
    /// Refused, unless accepted by name and reason.
    Refused,
}

/// Nothing of the line is without the hazard.
const NEVER: u16 = u16::MAX;

/// Every hazard, the worst first.
pub const HAZARDS: [Hazard; 9] = [
    Hazard {
        name: "etcd-3.5",
        harm: "the 3.5 line adds one learner at a time and nears the end of its support",
        weight: Weight::Refused,
        mended: &[(5, NEVER)],
        source: "etcd-io/website:content/en/docs/v3.6/op-guide/versioning.md",
    },
    Hazard {
        name: "promotion-lost",
        harm: "a learner's promotion may not be persisted, so that a voter comes back as a learner",
        weight: Weight::Refused,
        mended: &[(5, 24), (6, 4)],
        source: "etcd#19557, #20340, #20793",
    },
    Hazard {
        name: "defrag-corrupts",
        harm: "a snapshot taken during defragmentation may be corrupt",
        weight: Weight::Refused,
        mended: &[(5, 23), (6, 5)],
        source: "CHANGELOG-3.5 v3.5.23, CHANGELOG-3.6 v3.6.5",
    },
    Hazard {
        name: "zombie-members",
        harm: "members that were removed come back after an upgrade to 3.6",
        weight: Weight::Refused,
        mended: &[(5, 26)],
        source: "etcd#20967, #13196",
    },
    Hazard {
        name: "add-blocked",
        harm: "no member can be added, not even a learner, while any voter is down",
        weight: Weight::Refused,
        mended: &[(5, 30), (6, 11)],
        source: "etcd#21640, #21667",
    },
    Hazard {
        name: "update-promotes",
        harm: "changing a learner's peer URL makes it a voter; kiln never does that",
        weight: Weight::Warned,
        mended: &[(5, 31), (6, 12)],
        source: "etcd#21694",
    },
    Hazard {
        name: "crl-bypass",
        harm: "a revoked client certificate is let in through `listen-client-http-urls`, which kiln does not set",
        weight: Weight::Warned,
        mended: &[(5, 32), (6, 13)],
        source: "GHSA-3wh4-j44w-pg92",
    },
    Hazard {
        name: "watch-authorization",
        harm: "a client may watch keys it has no right to, and one that stalls its handshake stalls others",
        weight: Weight::Warned,
        mended: &[(5, 33), (6, 14), (7, 1)],
        source: "GHSA-xg4h-6gfc-h4m8, GHSA-6vch-q96h-7gc3",
    },
    Hazard {
        name: "auth-bypass",
        harm: "known weaknesses of authentication, CVE-2026-33413 and CVE-2026-33343",
        weight: Weight::Warned,
        mended: &[(5, 28), (6, 9)],
        source: "CHANGELOG-3.5 v3.5.28, CHANGELOG-3.6 v3.6.9",
    },
];

impl Hazard {
    /// Whether `version` has it.
    pub fn affects(&self, version: EtcdVersion) -> bool {
        version.major == 3 && self.mended.iter().any(|(minor, patch)| version.minor == *minor && version.patch < *patch)
    }

    /// The first version of the same line without it; none when no version of the line is.
    pub fn mended_in(&self, version: EtcdVersion) -> Option<EtcdVersion> {
        let patch = self.mended.iter().find(|(minor, _)| *minor == version.minor).map(|(_, patch)| *patch)?;
        (patch != NEVER).then_some(EtcdVersion { patch, ..version })
    }
}

/// The hazards of a version, the worst first.
pub fn of(version: EtcdVersion) -> impl Iterator<Item = &'static Hazard> {
    HAZARDS.iter().filter(move |hazard| hazard.affects(version))
}

/// Why a running cluster may not go from one version to another, or nothing when it may.
///
/// One minor at a time, and only from the patch level that upstream's upgrade guides ask for; never back over a minor, which etcd refuses
/// without `etcdctl downgrade enable`.
pub fn illegal_jump(from: EtcdVersion, to: EtcdVersion) -> Option<String> {
    if from.major != to.major {
        return Some(format!("etcd {from} and {to} are of different major versions"));
    }
    if to.minor < from.minor {
        return Some(format!(
            "etcd {to} does not read what {from} has written; going back over a minor version needs `etcdctl downgrade enable` first"
        ));
    }
    if to.minor > from.minor + 1 {
        return Some(format!("from etcd {from} to {to} is more than one minor version at a time"));
    }
    let least = match (from.minor, to.minor) {
        (5, 6) => 32,
        (6, 7) => 11,
        (_, _) => 0,
    };
    (from.patch < least).then(|| {
        format!(
            "etcd {to} wants to be reached from 3.{}.{least} or later, not from {from}: before that, members that were removed may come back",
            from.minor
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> EtcdVersion {
        text.parse().unwrap()
    }

    fn names(text: &str, weight: Weight) -> Vec<&'static str> {
        of(version(text)).filter(|h| h.weight == weight).map(|h| h.name).collect()
    }

    #[test]
    fn the_default_and_its_successors_have_none() {
        for sound in ["3.6.14", "3.7.1", "3.7.2"] {
            assert_eq!(of(version(sound)).count(), 0, "{sound}");
        }
    }

    #[test]
    fn what_corrupts_or_loses_is_refused_and_the_rest_is_said() {
        assert_eq!(names("3.5.30", Weight::Refused), ["etcd-3.5"]);
        assert_eq!(names("3.5.30", Weight::Warned), ["update-promotes", "crl-bypass", "watch-authorization"]);
        assert_eq!(names("3.6.3", Weight::Refused), ["promotion-lost", "defrag-corrupts", "add-blocked"]);
        assert_eq!(
            names("3.5.16", Weight::Refused),
            ["etcd-3.5", "promotion-lost", "defrag-corrupts", "zombie-members", "add-blocked"]
        );
        assert_eq!(names("3.7.0", Weight::Warned), ["watch-authorization"]);
    }

    #[test]
    fn tells_where_it_is_mended() {
        let hazard = |name| HAZARDS.iter().find(|h| h.name == name).unwrap();
        assert_eq!(hazard("add-blocked").mended_in(version("3.6.2")), Some(version("3.6.11")));
        assert_eq!(hazard("etcd-3.5").mended_in(version("3.5.2")), None);
    }

    #[test]
    fn one_minor_at_a_time_and_from_where_the_guides_say() {
        for (from, to, legal) in [
            ("3.6.14", "3.6.14", true),
            ("3.6.13", "3.6.14", true),
            ("3.6.14", "3.6.13", true),
            ("3.5.32", "3.6.14", true),
            ("3.5.31", "3.6.14", false),
            ("3.6.11", "3.7.1", true),
            ("3.6.10", "3.7.1", false),
            ("3.5.33", "3.7.1", false),
            ("3.7.1", "3.6.14", false),
        ] {
            assert_eq!(illegal_jump(version(from), version(to)).is_none(), legal, "{from} to {to}");
        }
    }
}
