//! Resolving: a profile and its image definition in, a lock out. What is left to choose afterwards is only which etcd alternate is at hand.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use kiln_firstboot::version::EtcdVersion;

use crate::archive::{self, Apt};
use crate::exit::Refusal;
use crate::image_definition::{Archive, ImageDefinition};
use crate::lock::{self, EtcdKind, Lock, LockedEtcd, LockedImage, LockedPackage, LockedTarball};
use crate::profile::{AcceptedHazard, EtcdOrigin, EtcdSource, Profile, WantedVersion};
use crate::store::Store;
use crate::{etcd_release, fetch, release_list};

/// Debian's development suite: where a newer etcd is first. Looked at when a profile names a version and no suite.
const DEBIAN_DEVELOPMENT: &str = "sid";

/// The parts of a lock that can be moved one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Part {
    /// The packages of the image, those that start the kernel among them.
    Base,
    /// The packages that make the disk.
    Tools,
    /// etcd, every alternate.
    Etcd,
}

/// Every part.
pub const EVERYTHING: [Part; 3] = [Part::Base, Part::Tools, Part::Etcd];

/// Resolves inputs of a profile's image: the `parts` anew, the others as `before` has them. apt works in the store's `tmp`.
///
/// # Errors
/// When an archive cannot be read or lacks a package, or when no etcd alternate can be pinned.
pub fn resolve(
    store: &Store,
    profile: &Profile,
    definition: &ImageDefinition,
    before: Option<&Lock>,
    parts: &[Part],
) -> Result<Lock> {
    let moves = |part| before.is_none() || parts.contains(&part);
    // A cloud image to which nothing is added asks no archive.
    let has_base = definition.cloud.is_none() || !definition.packages.is_empty();
    let (base, tools, etcd) = std::thread::scope(|scope| {
        let base = (moves(Part::Base) && has_base).then(|| scope.spawn(|| base(store, definition)));
        let tools = moves(Part::Tools).then(|| scope.spawn(|| tools(store, definition)));
        let etcd = moves(Part::Etcd).then(|| scope.spawn(|| etcd(store, profile, definition)));
        (base.map(joined), tools.map(joined), etcd.map(joined))
    });
    let (base, tools, etcd) = (base.transpose()?, tools.transpose()?, etcd.transpose()?);
    // A part that stays keeps the mirrors that it names.
    let mut mirrors = BTreeMap::new();
    if let Some(before) = before {
        let stays = [
            (base.is_none(), [&before.base, &before.boot].map(|p| p.as_slice()).concat()),
            (tools.is_none(), before.tools.clone()),
            (etcd.is_none(), before.etcd.iter().flat_map(|e| e.packages.clone()).collect()),
        ];
        for package in stays.into_iter().filter(|(stays, _)| *stays).flat_map(|(_, packages)| packages) {
            if let Some(mirror) = before.mirrors.get(&package.mirror) {
                mirrors.insert(package.mirror.clone(), mirror.clone());
            }
        }
    }
    let found = base.iter().map(|b| b.apt.mirrors()).chain(tools.iter().map(|t| t.apt.mirrors()));
    for (name, mirror) in found.chain(etcd.iter().flatten().map(|e| &e.mirrors)).flatten() {
        let known = mirrors.entry(name.clone()).or_insert_with(|| mirror.clone());
        if known != mirror {
            bail!(
                "archive `{name}` would be read from `{known}` and from `{mirror}`\nhint: write the same `mirror` wherever the definition names it"
            );
        }
    }
    let (source_date_epoch, base, boot) = match (base, before) {
        (Some(base), _) => (base.apt.newest_list()?, base.packages, base.boot),
        (None, Some(before)) => (before.source_date_epoch, before.base.clone(), before.boot.clone()),
        // The lists that the tools come from are then the only ones with a date.
        (None, None) => {
            let tools = tools.as_ref().context("there is neither an old nor a new base")?;
            (tools.apt.newest_list()?, Vec::new(), Vec::new())
        }
    };
    Ok(Lock {
        schema: lock::SCHEMA,
        image: definition.name.clone(),
        wants: lock::wants(profile, definition),
        source_date_epoch,
        mirrors,
        alternates: before.map(|b| b.alternates.clone()).unwrap_or_default(),
        cloud: definition.cloud.as_ref().map(LockedImage::of),
        base,
        boot,
        tools: tools.map(|t| t.packages).or(before.map(|b| b.tools.clone())).unwrap_or_default(),
        etcd: etcd
            .map(|found| found.into_iter().map(|e| e.locked).collect())
            .or(before.map(|b| b.etcd.clone()))
            .unwrap_or_default(),
    })
}

struct Base {
    apt: Apt,
    packages: Vec<LockedPackage>,
    boot: Vec<LockedPackage>,
}

struct ToolSet {
    apt: Apt,
    packages: Vec<LockedPackage>,
}

struct Etcd {
    locked: LockedEtcd,
    mirrors: BTreeMap<String, String>,
}

fn base(store: &Store, definition: &ImageDefinition) -> Result<Base> {
    let apt = lists(store, &archive::mirrors(&definition.archives)?)?;
    if definition.cloud.is_some() {
        let packages = apt.exactly(&definition.packages).context("resolving what is added to the cloud image")?;
        log::info!("added to the cloud image: {}", sizes(&packages));
        return Ok(Base { apt, packages, boot: Vec::new() });
    }
    let packages = apt.installation(&definition.packages)?;
    let boot = apt.exactly(&definition.boot.packages).context("resolving the packages that start the kernel")?;
    log::info!("base: {}; boot: {}", sizes(&packages), sizes(&boot));
    Ok(Base { apt, packages, boot })
}

fn tools(store: &Store, definition: &ImageDefinition) -> Result<ToolSet> {
    let apt = lists(store, &archive::mirrors(&definition.tools.archives)?)?;
    let packages = apt.exactly(&definition.tools.packages).context("resolving the tools that make the disk")?;
    log::info!("tools: {}", sizes(&packages));
    Ok(ToolSet { apt, packages })
}

/// Every alternate that can be pinned, in the profile's order. One whose pin is known needs no network; one that needs an archive that does
/// not answer is left out when another remains.
fn etcd(store: &Store, profile: &Profile, definition: &ImageDefinition) -> Result<Vec<Etcd>> {
    let mut found = Vec::new();
    let mut failed = Vec::new();
    for source in &profile.etcd.sources {
        match etcd_of(store, source, &profile.etcd.accept_hazards, definition) {
            Ok(etcd) => {
                log::info!("etcd {} ({}): pinned", etcd.locked.version, source.origin.kind());
                found.push(etcd);
            }
            // Somebody has to look at it, whatever other etcd there is.
            Err(error) if error.downcast_ref::<Refusal>().is_some() => return Err(error),
            Err(error) => {
                failed.push(error.context(format!("pinning etcd {} ({})", source.version, source.origin.kind())))
            }
        }
    }
    if found.is_empty() {
        let mut failed = failed.into_iter();
        let first = failed.next().context("the profile names no etcd")?;
        failed.for_each(|error| log::warn!("{error:#}"));
        return Err(first);
    }
    for error in failed {
        log::warn!("left out of the lock, because another etcd remains: {error:#}");
    }
    Ok(found)
}

fn etcd_of(
    store: &Store,
    source: &EtcdSource,
    accepted: &[AcceptedHazard],
    definition: &ImageDefinition,
) -> Result<Etcd> {
    let version = match (source.version.exact(), &source.origin) {
        (Some(version), _) => version,
        (None, EtcdOrigin::Release { mirror, .. }) => newest_release(mirror.as_deref(), source.version, accepted)?,
        (None, EtcdOrigin::Url { .. } | EtcdOrigin::File { .. } | EtcdOrigin::Packages { .. }) => {
            bail!("only a release may leave its version to the lock")
        }
    };
    let tarball = |kind, origin: String, sha256| Etcd {
        locked: LockedEtcd { kind, version, tarball: Some(LockedTarball { origin, sha256 }), packages: Vec::new() },
        mirrors: BTreeMap::new(),
    };
    match &source.origin {
        EtcdOrigin::Release { mirror, .. } if source.version.exact().is_none() => {
            let mirror = mirror.as_deref();
            let url = etcd_release::sums_url(version, mirror);
            let sum = release_list::sum(&fetch::text(&url)?, version).with_context(|| format!("reading `{url}`"))?;
            Ok(tarball(EtcdKind::Release, etcd_release::url(version, mirror), sum))
        }
        EtcdOrigin::Release { mirror, sha256 } => {
            let pin = sha256.or_else(|| etcd_release::pin(version)).with_context(|| {
                let newest: Vec<&str> = etcd_release::known().take(3).collect();
                format!(
                    "kiln knows no sha256 of the release etcd {version}\nhint: write `sha256` beside `version`, or take one it knows, such as {}",
                    newest.join(", ")
                )
            })?;
            Ok(tarball(EtcdKind::Release, etcd_release::url(version, mirror.as_deref()), pin))
        }
        EtcdOrigin::Url { url, sha256 } => Ok(tarball(EtcdKind::Url, url.clone(), *sha256)),
        EtcdOrigin::File { path, sha256 } => Ok(tarball(EtcdKind::File, path.to_string(), *sha256)),
        EtcdOrigin::Packages { distribution, suite } => {
            etcd_packages(store, version, distribution.as_deref(), suite.as_deref(), definition)
        }
    }
}

/// What `wanted` stands for today.
fn newest_release(mirror: Option<&str>, wanted: WantedVersion, accepted: &[AcceptedHazard]) -> Result<EtcdVersion> {
    let url = etcd_release::list_url(mirror);
    log::info!("reading upstream's list of releases from {url}");
    let versions = release_list::parse(&fetch::text(&url)?).with_context(|| format!("reading `{url}`"))?;
    release_list::newest(&versions, wanted, accepted)
}

fn etcd_packages(
    store: &Store,
    version: EtcdVersion,
    distribution: Option<&str>,
    suite: Option<&str>,
    definition: &ImageDefinition,
) -> Result<Etcd> {
    let own = definition.archives.first().map(|a| a.distribution.as_str());
    let distribution = distribution.or(own).context("the image definition names an archive")?;
    let known = definition.archives.iter().chain(&definition.tools.archives).find(|a| a.distribution == distribution);
    let known = known.with_context(|| {
        format!(
            "the image definition has no keyring for archive `{distribution}`\nhint: give it an `[[archive]]` for it"
        )
    })?;
    let mut suites = known.suites.clone();
    match suite {
        Some(suite) => suites = vec![suite.to_owned()],
        None if distribution == "debian" => suites.push(DEBIAN_DEVELOPMENT.to_owned()),
        None => {}
    }
    let mut sources = archive::mirrors(&[Archive { suites: suites.clone(), ..known.clone() }])?;
    // The profile names the exact version, so an old list can offer nothing that was not asked for; and mirrors of development suites lag.
    sources.iter_mut().for_each(|source| source.check_age = false);
    let apt = lists(store, &sources)?;
    let mut packages = Vec::new();
    for name in ["etcd-server", "etcd-client"] {
        let versions = apt.versions(name)?;
        let offered: Vec<String> = versions.iter().map(|p| p.version.clone()).collect();
        let package = versions.into_iter().find(|p| upstream_version(&p.version) == version.to_string());
        packages.push(package.with_context(|| {
            format!(
                "`{name}` {version} is not in {distribution} ({}), which has {}",
                suites.join(", "),
                offered.join(", ")
            )
        })?);
    }
    let locked = LockedEtcd { kind: EtcdKind::Packages, version, tarball: None, packages };
    Ok(Etcd { locked, mirrors: apt.mirrors().clone() })
}

/// A private apt, in the store's `tmp`, with the lists of `sources`.
pub(crate) fn lists(store: &Store, sources: &[archive::Source]) -> Result<Apt> {
    for source in sources {
        let archive = &source.archive;
        log::info!(
            "reading the lists of {} ({}) from {}",
            archive.distribution,
            archive.suites.join(", "),
            source.mirror
        );
    }
    Apt::update(sources, &store.temp_path("apt")?).context("reading package lists")
}

/// A distribution's version without epoch, revision and repacking: `1:3.5.30+ds-2` is 3.5.30.
fn upstream_version(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let version = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
    version.split(['+', '~']).next().unwrap_or(version)
}

fn sizes(packages: &[LockedPackage]) -> String {
    let bytes: u64 = packages.iter().map(|p| p.bytes).sum();
    format!("{} packages, {} MB", packages.len(), bytes.div_ceil(1_000_000))
}

fn joined<T>(handle: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_upstreams_version_in_a_distributions() {
        for (given, upstream) in
            [("3.5.30-2", "3.5.30"), ("1:3.5.16+ds-4", "3.5.16"), ("3.6.1~rc1-1", "3.6.1"), ("3.4.30", "3.4.30")]
        {
            assert_eq!(upstream_version(given), upstream);
        }
    }
}
