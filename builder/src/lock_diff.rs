//! What moved between two locks, package by package. Pure.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::debian_version;
use crate::lock::{Lock, LockedEtcd, LockedPackage};
use crate::recipe::RecipePackage;

/// Everything that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LockDiff {
    /// Packages, by the part of the lock they are in and their name.
    pub packages: Vec<PackageChange>,
    /// etcd's places: one line for each that came or went.
    pub etcd: Vec<EtcdChange>,
}

/// What happened to one package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageChange {
    /// `base`, `boot`, `tools` or `etcd`.
    pub part: &'static str,
    /// Its name.
    pub name: String,
    /// What happened.
    pub change: Change,
    /// Its version before.
    pub from: Option<String>,
    /// Its version now.
    pub to: Option<String>,
}

/// What can happen to a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// To a later version.
    Up,
    /// To an earlier version.
    Down,
    /// Same version, other bytes.
    Rebuilt,
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
}

impl Change {
    /// Its word in a report.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Rebuilt => "rebuilt",
            Self::Added => "added",
            Self::Removed => "removed",
        }
    }
}

/// A place of etcd that came or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EtcdChange {
    /// It came.
    pub added: bool,
    /// `release`, `url`, `file` or `packages`.
    pub kind: String,
    /// Its version.
    pub version: String,
}

/// Compares two locks.
pub fn diff(before: &Lock, after: &Lock) -> LockDiff {
    let of_etcd = |lock: &Lock| lock.etcd.iter().flat_map(|etcd| etcd.packages.clone()).collect::<Vec<_>>();
    let parts = [
        ("base", &before.base, &after.base),
        ("boot", &before.boot, &after.boot),
        ("tools", &before.tools, &after.tools),
        ("etcd", &of_etcd(before), &of_etcd(after)),
    ];
    LockDiff {
        packages: parts.into_iter().flat_map(|(part, old, new)| packages(part, old, new)).collect(),
        etcd: etcd(&before.etcd, &after.etcd),
    }
}

fn packages(part: &'static str, old: &[LockedPackage], new: &[LockedPackage]) -> Vec<PackageChange> {
    let recorded = |list: &[LockedPackage]| -> Vec<RecipePackage> { list.iter().map(RecipePackage::of).collect() };
    package_changes(part, &recorded(old), &recorded(new))
}

/// Compares two sets of packages; `part` says whose.
pub(crate) fn package_changes(part: &'static str, old: &[RecipePackage], new: &[RecipePackage]) -> Vec<PackageChange> {
    let by_name = |list: &[RecipePackage]| -> BTreeMap<String, RecipePackage> {
        list.iter().map(|p| (p.name.clone(), p.clone())).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let (before, after) = (old.get(name), new.get(name));
        let change = match (before, after) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (Some(before), Some(after)) => match debian_version::compare(&before.version, &after.version) {
                Ordering::Less => Change::Up,
                Ordering::Greater => Change::Down,
                Ordering::Equal if before.sha256 == after.sha256 => continue,
                Ordering::Equal => Change::Rebuilt,
            },
        };
        changes.push(PackageChange {
            part,
            name: name.clone(),
            change,
            from: before.map(|p| p.version.clone()),
            to: after.map(|p| p.version.clone()),
        });
    }
    changes
}

fn etcd(old: &[LockedEtcd], new: &[LockedEtcd]) -> Vec<EtcdChange> {
    let told = |added: bool, list: &[LockedEtcd], other: &[LockedEtcd]| -> Vec<EtcdChange> {
        list.iter()
            .filter(|etcd| {
                !other.iter().any(|o| (o.kind, o.version, &o.tarball) == (etcd.kind, etcd.version, &etcd.tarball))
            })
            .map(|etcd| EtcdChange { added, kind: etcd.kind.word().into(), version: etcd.version.to_string() })
            .collect()
    };
    [told(false, old, new), told(true, new, old)].concat()
}

impl LockDiff {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.etcd.is_empty()
    }

    /// One line a change; empty when nothing differs.
    pub fn report(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for etcd in &self.etcd {
            let sign = if etcd.added { "added" } else { "removed" };
            let _ = writeln!(text, "  etcd   {sign:8} {} ({})", etcd.version, etcd.kind);
        }
        let mut packages: Vec<_> = self.packages.iter().collect();
        packages.sort_by_key(|p| (p.part, p.change, &p.name));
        for p in packages {
            let _ = writeln!(text, "  {}", p.line());
        }
        text
    }
}

impl PackageChange {
    /// The change as a line.
    pub fn line(&self) -> String {
        let versions = match (&self.from, &self.to) {
            (Some(from), Some(to)) if from != to => format!("{from} -> {to}"),
            (_, Some(version)) | (Some(version), None) => version.clone(),
            (None, None) => String::new(),
        };
        format!("{:6} {:8} {} {versions}", self.part, self.change.word(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use kiln_firstboot::digest::Sha256Digest;

    use super::*;

    fn package(name: &str, version: &str, content: &str) -> LockedPackage {
        LockedPackage {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            mirror: "debian".into(),
            filename: format!("{name}.deb"),
            bytes: 1,
            sha256: Sha256Digest::of(content.as_bytes()),
        }
    }

    fn lock(base: Vec<LockedPackage>) -> Lock {
        Lock {
            schema: 1,
            image: "x".into(),
            wants: Sha256Digest::of(b""),
            source_date_epoch: 0,
            mirrors: BTreeMap::new(),
            alternates: BTreeMap::new(),
            cloud: None,
            base,
            boot: Vec::new(),
            tools: Vec::new(),
            etcd: Vec::new(),
        }
    }

    #[test]
    fn names_every_change_once_and_nothing_that_stayed() {
        let before = lock(vec![
            package("gone", "1", "a"),
            package("later", "1.9-1", "b"),
            package("older", "2:1", "c"),
            package("same", "1", "d"),
            package("again", "1", "e"),
        ]);
        let after = lock(vec![
            package("new", "1", "a"),
            package("later", "1.10-1", "b2"),
            package("older", "1:9", "c2"),
            package("same", "1", "d"),
            package("again", "1", "e2"),
        ]);
        let report = diff(&before, &after).report();
        assert_eq!(
            report,
            "  base   up       later 1.9-1 -> 1.10-1\n\
             \x20 base   down     older 2:1 -> 1:9\n\
             \x20 base   rebuilt  again 1\n\
             \x20 base   added    new 1\n\
             \x20 base   removed  gone 1\n"
        );
        assert!(diff(&after, &after).is_empty());
    }
}
