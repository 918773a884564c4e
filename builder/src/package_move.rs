//! Moving single packages of a lock: they go to their newest version with what must go with them, everything else stays.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::archive::{self, Apt, Held, Source};
use crate::debian_version;
use crate::exit::Refusal;
use crate::fetch;
use crate::image_definition::{Archive, ImageDefinition};
use crate::lock::{Lock, LockedPackage};
use crate::resolve::lists;
use crate::store::Store;
use crate::tool::Tool;

/// What stands for whichever packages of the definition bring the kernel.
pub const KERNEL: &str = "kernel";

/// What is asked to move, by the part of the lock it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chosen {
    base: Vec<String>,
    boot: Vec<String>,
    tools: Vec<String>,
}

/// Moves the packages of these names, in every part of the lock that has them; [`KERNEL`] is the kernel by whatever name.
///
/// On the node what must move with them is what apt says. Packages that are unpacked and not installed, those that start the kernel and those
/// that make the disk, move with the others of their source package. The lock's time stays, and nothing moves to an earlier version.
///
/// # Errors
/// A [`Refusal`] that lists near names for a name that the lock does not have; when an archive cannot be read, or a package cannot move
/// without others having to go.
pub fn move_packages(store: &Store, definition: &ImageDefinition, before: &Lock, names: &[String]) -> Result<Lock> {
    let chosen = chosen(before, &definition.packages, names)?;
    let mut lock = before.clone();
    if !chosen.base.is_empty() || !chosen.boot.is_empty() {
        let apt = lists(store, &sources(before, &definition.archives)?)?;
        // First, while apt knows of nothing installed: it would not go back to what it has not got.
        lock.boot = unpacked(&apt, &before.boot, &chosen.boot)?;
        if !chosen.base.is_empty() {
            lock.base = match &definition.cloud {
                None => installed(store, &apt, before, &definition.packages, &chosen.base)?,
                // What is added to a cloud image is exactly what the definition lists.
                Some(_) => unpacked(&apt, &before.base, &chosen.base)?,
            };
        }
        add_mirrors(&mut lock, &apt);
    }
    if !chosen.tools.is_empty() {
        let apt = lists(store, &sources(before, &definition.tools.archives)?)?;
        lock.tools = unpacked(&apt, &before.tools, &chosen.tools)?;
        add_mirrors(&mut lock, &apt);
    }
    Ok(lock)
}

/// Finds each name in the parts of the lock. `wanted` is what the definition asks to be installed.
fn chosen(lock: &Lock, wanted: &[String], names: &[String]) -> Result<Chosen> {
    let mut chosen = Chosen::default();
    let mut unknown = Vec::new();
    for name in names {
        let kernel = || wanted.iter().filter(|p| p.starts_with("linux-image")).cloned().collect();
        let meant: Vec<String> = if name == KERNEL { kernel() } else { vec![name.clone()] };
        let parts = [(&lock.base, &mut chosen.base), (&lock.boot, &mut chosen.boot), (&lock.tools, &mut chosen.tools)];
        let mut known = false;
        for (packages, part) in parts {
            let there: Vec<_> = meant.iter().filter(|name| packages.iter().any(|p| p.name == **name)).collect();
            known |= !there.is_empty();
            part.extend(there.into_iter().cloned());
        }
        if !known {
            unknown.push(name.as_str());
        }
    }
    if unknown.is_empty() {
        return Ok(chosen);
    }
    let all: BTreeSet<&str> =
        [&lock.base, &lock.boot, &lock.tools].into_iter().flatten().map(|p| p.name.as_str()).collect();
    let near: BTreeSet<&str> = unknown.iter().flat_map(|name| near(name, &all)).collect();
    let near = if near.is_empty() { String::new() } else { format!("did you mean {}? ", quoted(near)) };
    Err(Refusal::new(
        format!("the lock has no package {}", quoted(unknown)),
        format!("{near}name a package of the lock's base, boot or tools, `{KERNEL}`, or a part: base, tools, etcd"),
    )
    .into())
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Up to six names that `name` may stand for: misspelt by two letters at most, or a piece of it; the nearest first.
fn near<'a>(name: &str, known: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let rank = |other: &str| {
        let edits = edits(name, other);
        let piece = name.len() >= 3 && (other.contains(name) || name.contains(other));
        (piece || edits <= 2).then_some(edits)
    };
    let mut ranked: Vec<_> = known.iter().filter_map(|other| Some((rank(other)?, *other))).collect();
    ranked.sort();
    ranked.into_iter().take(6).map(|(_, other)| other).collect()
}

/// How many letters have to be put in, left out or changed to make `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

/// The archives, read from where the lock read them: a part must not change its mirror because one package of it moves.
fn sources(before: &Lock, archives: &[Archive]) -> Result<Vec<Source>> {
    let with_mirror = |archive: &Archive| {
        let mirror = before.mirrors.get(&archive.distribution).cloned().or_else(|| archive.mirror.clone());
        Archive { mirror, ..archive.clone() }
    };
    archive::mirrors(&archives.iter().map(with_mirror).collect::<Vec<_>>())
}

fn add_mirrors(lock: &mut Lock, apt: &Apt) {
    for (name, mirror) in apt.mirrors() {
        if lock.base.iter().chain(&lock.boot).chain(&lock.tools).any(|p| p.mirror == *name) {
            lock.mirrors.entry(name.clone()).or_insert_with(|| mirror.clone());
        }
    }
}

/// Packages that are unpacked: `names` and the others of their source packages in their newest versions.
fn unpacked(apt: &Apt, before: &[LockedPackage], names: &[String]) -> Result<Vec<LockedPackage>> {
    let sources: BTreeSet<_> = before.iter().filter(|p| names.contains(&p.name)).map(source).collect();
    if sources.is_empty() {
        return Ok(before.to_vec());
    }
    let moving: Vec<String> = before.iter().filter(|p| sources.contains(source(p))).map(|p| p.name.clone()).collect();
    Ok(replaced(before, apt.exactly(&moving)?))
}

/// The source package: archives keep what is built from one in one directory of their pool.
fn source(package: &LockedPackage) -> &str {
    package.filename.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Packages that are installed: what apt moves, less what served only what moved.
fn installed(
    store: &Store,
    apt: &Apt,
    before: &Lock,
    wanted: &[String],
    names: &[String],
) -> Result<Vec<LockedPackage>> {
    let held = held(store, apt, before, &before.base)?;
    let moved = apt.upgrade(&held, names).with_context(|| {
        format!(
            "moving {} and nothing that need not move\nhint: `--update base` moves everything",
            quoted(names.iter().map(String::as_str))
        )
    })?;
    let after = replaced(&before.base, moved);
    let unneeded_before = apt.unneeded(&held, wanted)?;
    let unneeded = apt.unneeded(&self::held(store, apt, before, &after)?, wanted)?;
    Ok(after.into_iter().filter(|p| !unneeded.contains(&p.name) || unneeded_before.contains(&p.name)).collect())
}

/// `before` with `moved` in the places of those with the same names, and behind them those that are new.
fn replaced(before: &[LockedPackage], moved: Vec<LockedPackage>) -> Vec<LockedPackage> {
    let mut by_name: BTreeMap<String, LockedPackage> = before.iter().map(|p| (p.name.clone(), p.clone())).collect();
    for package in moved {
        match by_name.get(&package.name) {
            Some(old) if debian_version::compare(&old.version, &package.version).is_ge() => {}
            Some(_) | None => drop(by_name.insert(package.name.clone(), package)),
        }
    }
    by_name.into_values().collect()
}

/// Packages with their control data: from the lists, or, for those that the archive does not list any more, from the files.
fn held(store: &Store, apt: &Apt, lock: &Lock, packages: &[LockedPackage]) -> Result<Vec<Held>> {
    let listed = apt.controls(packages)?;
    let gone: Vec<_> = packages.iter().filter(|p| !listed.contains_key(&p.sha256)).map(|p| lock.input(p)).collect();
    fetch::ensure(store, &gone)
        .context("reading what the packages that stay depend on, of those that the archive does not list any more")?;
    let control = |package: &LockedPackage| match listed.get(&package.sha256) {
        Some(control) => Ok(control.clone()),
        None => Tool::new("dpkg-deb").arg("--field").arg(store.blob_path(&package.sha256)).read(),
    };
    packages.iter().map(|p| Ok(Held { name: p.name.clone(), control: control(p)? })).collect()
}

#[cfg(test)]
mod tests {
    use kiln_firstboot::digest::Sha256Digest;

    use super::*;

    fn package(name: &str, version: &str, source: &str) -> LockedPackage {
        LockedPackage {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            mirror: "debian".into(),
            filename: format!("pool/{source}/{name}_{version}.deb"),
            bytes: 1,
            sha256: Sha256Digest::of(format!("{name} {version}").as_bytes()),
        }
    }

    fn lock() -> Lock {
        Lock {
            schema: 1,
            image: "i".into(),
            wants: Sha256Digest::of(b"w"),
            source_date_epoch: 1,
            mirrors: BTreeMap::new(),
            alternates: BTreeMap::new(),
            cloud: None,
            base: ["libc6", "linux-image-virtual", "systemd", "libsystemd0"].map(|n| package(n, "1", n)).to_vec(),
            boot: vec![package("libc6", "1", "glibc")],
            tools: ["libc6", "mtools"].map(|n| package(n, "1", n)).to_vec(),
            etcd: Vec::new(),
        }
    }

    fn choose(names: &[&str]) -> Result<Chosen> {
        let wanted = ["linux-image-virtual", "systemd"].map(str::to_owned);
        chosen(&lock(), &wanted, &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_name_is_looked_for_in_every_part_and_the_kernel_by_any_name() {
        let of = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let libc = choose(&["libc6"]).unwrap();
        assert_eq!(libc, Chosen { base: of(&["libc6"]), boot: of(&["libc6"]), tools: of(&["libc6"]) });
        let both = choose(&["kernel", "mtools"]).unwrap();
        assert_eq!(both, Chosen { base: of(&["linux-image-virtual"]), boot: vec![], tools: of(&["mtools"]) });
    }

    #[test]
    fn an_unknown_name_is_refused_with_near_ones() {
        for (given, meant) in
            [("sytemd", "`systemd`"), ("libsystemd", "`libsystemd0`, `systemd`"), ("mtool", "`mtools`")]
        {
            let refusal = choose(&[given]).unwrap_err().downcast::<Refusal>().unwrap();
            assert_eq!(refusal.what, format!("the lock has no package `{given}`"));
            assert!(refusal.remedy.starts_with(&format!("did you mean {meant}? name a package")), "{refusal}");
        }
        let refusal = choose(&["zzzzzz"]).unwrap_err().downcast::<Refusal>().unwrap();
        assert!(refusal.remedy.starts_with("name a package"), "{refusal}");
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, count) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!((edits(a, b), edits(b, a)), (count, count), "{a} {b}");
        }
    }

    #[test]
    fn nothing_moves_to_an_earlier_version() {
        let before = [package("a", "2", "a"), package("b", "2", "b")];
        let moved = vec![package("a", "1", "a"), package("b", "3", "b"), package("c", "1", "c")];
        let after: Vec<_> = replaced(&before, moved).into_iter().map(|p| (p.name, p.version)).collect();
        assert_eq!(after, [("a", "2"), ("b", "3"), ("c", "1")].map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
