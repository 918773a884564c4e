//! A lock, `profiles/NAME.lock`: every input of a build by name, version, place and sha256.
//!
//! One line per package, sorted, so that a diff of two locks reads as what changed. Pure: text in, text out.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::version::EtcdVersion;
use serde::{Deserialize, Serialize};

use crate::fetch::Input;
use crate::image_definition::{Archive, CloudImage, ImageDefinition};
use crate::key::KeyHasher;
use crate::profile::{EtcdOrigin, Profile};

/// The schema of locks that this kiln reads and writes.
pub const SCHEMA: u32 = 1;

/// Every input of a build.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the image definition it was made for.
    pub image: String,
    /// Digest of what was asked for ([`wants`]); a lock for other wishes is stale.
    pub wants: Sha256Digest,
    /// Unix seconds of the newest archive index: the time that files of the image carry.
    pub source_date_epoch: i64,
    /// Mirrors by the names that packages use.
    pub mirrors: BTreeMap<String, String>,
    /// Where else the packages of a mirror may be had, by its name. The definition says it, not the lock ([`Lock::with_alternates`]): a place
    /// more makes no other image.
    #[serde(skip)]
    pub alternates: BTreeMap<String, Vec<String>>,
    /// The cloud image that is the base.
    #[serde(default)]
    pub cloud: Option<LockedImage>,
    /// Packages of the base; with a cloud image those that are added to it.
    pub base: Vec<LockedPackage>,
    /// Packages that start the kernel.
    pub boot: Vec<LockedPackage>,
    /// Packages that make the disk.
    pub tools: Vec<LockedPackage>,
    /// Places etcd may come from, best first.
    pub etcd: Vec<LockedEtcd>,
}

/// One pinned package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Its name.
    pub name: String,
    /// Its version, with epoch and revision.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Which of the lock's mirrors has it.
    pub mirror: String,
    /// Its path there.
    pub filename: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its pin.
    pub sha256: Sha256Digest,
}

/// A pinned cloud image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// Where it is.
    pub url: String,
    /// Where else, in order.
    #[serde(default)]
    pub alternates: Vec<String>,
    /// Its pin.
    pub sha256: Sha256Digest,
}

impl LockedImage {
    /// What a definition names.
    pub fn of(image: &CloudImage) -> Self {
        Self { url: image.url.clone(), alternates: image.alternates.clone(), sha256: image.sha256 }
    }

    /// It as something to fetch.
    pub fn input(&self) -> Input {
        Input {
            what: self.url.rsplit('/').next().unwrap_or("cloud image").to_owned(),
            origin: self.url.clone(),
            alternates: self.alternates.clone(),
            sha256: self.sha256,
            bytes: None,
        }
    }
}

/// One pinned place etcd may come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedEtcd {
    /// `release`, `url`, `file` or `packages`.
    pub kind: EtcdKind,
    /// Its version.
    pub version: EtcdVersion,
    /// Where the tarball is, for all kinds but `packages`: a URL, or a path relative to the lock.
    #[serde(default)]
    pub tarball: Option<LockedTarball>,
    /// The packages, for the kind `packages`.
    #[serde(default)]
    pub packages: Vec<LockedPackage>,
}

/// A pinned tarball in the layout of etcd's releases.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedTarball {
    /// A URL, or a path relative to the lock.
    pub origin: String,
    /// Its pin.
    pub sha256: Sha256Digest,
}

/// A kind of place etcd comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EtcdKind {
    /// The upstream release.
    Release,
    /// A tarball elsewhere.
    Url,
    /// A tarball on this machine.
    File,
    /// A distribution's packages.
    Packages,
}

impl EtcdKind {
    /// Its word in locks and recipes.
    pub fn word(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Url => "url",
            Self::File => "file",
            Self::Packages => "packages",
        }
    }
}

/// Why a text is not a lock for this profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// It is not a lock.
    #[error("reading lock `{file}`: {message}\nhint: make it anew with `kiln lock {profile}`")]
    Unreadable {
        /// The lock.
        file: String,
        /// What the parser said.
        message: String,
        /// The profile.
        profile: String,
    },
    /// It was made for other wishes.
    #[error(
        "lock `{file}` was made before the profile or the image definition asked for what it asks for now\nhint: renew it with `kiln lock {profile}`"
    )]
    Stale {
        /// The lock.
        file: String,
        /// The profile.
        profile: String,
        /// The wishes it was made for.
        wants: Sha256Digest,
    },
}

/// Where the lock of a profile lies: beside it.
pub fn path_of(profile: &Profile) -> Utf8PathBuf {
    profile.file.with_extension("lock")
}

/// Digest of everything a lock answers to: packages and archives of the definition, etcd sources of the profile.
pub fn wants(profile: &Profile, definition: &ImageDefinition) -> Sha256Digest {
    let mut hasher = KeyHasher::new("kiln lock wants");
    hasher.text("image", &definition.name);
    // Only where there is one: a lock that knows nothing of cloud images stays good.
    if let Some(cloud) = &definition.cloud {
        hasher.text("cloud", &cloud.url);
        hasher.texts("alternates", &cloud.alternates);
        hasher.digest("sha256", &cloud.sha256);
    }
    hash_archives(&mut hasher, &definition.archives);
    hasher.texts("packages", &definition.packages);
    hasher.texts("boot", &definition.boot.packages);
    hash_archives(&mut hasher, &definition.tools.archives);
    hasher.texts("tools", &definition.tools.packages);
    hasher.number("etcd", profile.etcd.sources.len() as u64);
    for source in &profile.etcd.sources {
        hasher.text("version", &source.version.to_string());
        hasher.text("kind", source.origin.kind());
        let (place, sha256) = match &source.origin {
            EtcdOrigin::Release { mirror, sha256 } => (mirror.clone().unwrap_or_default(), *sha256),
            EtcdOrigin::Url { url, sha256 } => (url.clone(), Some(*sha256)),
            EtcdOrigin::File { path, sha256 } => (path.to_string(), Some(*sha256)),
            EtcdOrigin::Packages { distribution, suite } => {
                (format!("{} {}", distribution.as_deref().unwrap_or("-"), suite.as_deref().unwrap_or("-")), None)
            }
        };
        hasher.text("place", &place);
        hasher.text("sha256", &sha256.map(|d| d.to_string()).unwrap_or_default());
    }
    hasher.finish()
}

fn hash_archives(hasher: &mut KeyHasher, archives: &[Archive]) {
    hasher.number("archives", archives.len() as u64);
    for archive in archives {
        hasher.text("distribution", &archive.distribution);
        hasher.text("mirror", archive.mirror.as_deref().unwrap_or_default());
        hasher.texts("suites", &archive.suites);
        hasher.texts("components", &archive.components);
        hasher.texts("fingerprints", &archive.fingerprints);
    }
}

impl Lock {
    /// Reads a lock and checks that it answers to `wants`.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn parse(file: &Utf8Path, text: &str, profile: &str, wants: &Sha256Digest) -> Result<Self, LockError> {
        let unreadable =
            |message: String| LockError::Unreadable { file: file.to_string(), message, profile: profile.into() };
        let lock: Self = toml::from_str(text).map_err(|error| unreadable(error.to_string().trim_end().to_owned()))?;
        if lock.schema != SCHEMA {
            return Err(unreadable(format!("schema {} is not one this kiln knows ({SCHEMA})", lock.schema)));
        }
        if lock.wants != *wants {
            return Err(LockError::Stale { file: file.to_string(), profile: profile.into(), wants: lock.wants });
        }
        for package in lock.packages() {
            let named = || format!("package `{}`", package.name);
            if !lock.mirrors.contains_key(&package.mirror) {
                return Err(unreadable(format!("{} names mirror `{}`, which is not listed", named(), package.mirror)));
            }
            let path = Utf8Path::new(&package.filename);
            if path.is_absolute() || path.components().any(|c| c.as_str() == "..") {
                return Err(unreadable(format!("{} leaves its mirror: `{path}`", named())));
            }
        }
        for etcd in &lock.etcd {
            if (etcd.kind == EtcdKind::Packages) == etcd.tarball.is_some()
                || (etcd.tarball.is_none() && etcd.packages.is_empty())
            {
                return Err(unreadable(format!("etcd {} has no pin of its kind", etcd.version)));
            }
        }
        Ok(lock)
    }

    fn packages(&self) -> impl Iterator<Item = &LockedPackage> {
        let etcd = self.etcd.iter().flat_map(|e| &e.packages);
        self.base.iter().chain(&self.boot).chain(&self.tools).chain(etcd)
    }

    /// The lock as a file, the same text for the same lock.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# Written by `kiln lock`: every input of the image, pinned. Commit it beside the profile; a diff of it is what an update changes.\n",
        );
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "schema = {}\nimage = {}\nwants = \"{}\"\nsource_date_epoch = {}\n",
            self.schema,
            quoted(&self.image),
            self.wants,
            self.source_date_epoch
        );
        for (name, packages) in [("base", &self.base), ("boot", &self.boot), ("tools", &self.tools)] {
            let _ = write!(text, "\n{name} = [\n{}]\n", render_packages(packages));
        }
        if let Some(cloud) = &self.cloud {
            let alternates: String = cloud.alternates.iter().map(|a| format!("  {},\n", quoted(a))).collect();
            let _ = write!(
                text,
                "\n[cloud]\nurl = {}\nalternates = [\n{alternates}]\nsha256 = \"{}\"\n",
                quoted(&cloud.url),
                cloud.sha256
            );
        }
        text.push_str("\n[mirrors]\n");
        for (name, url) in &self.mirrors {
            let _ = writeln!(text, "{} = {}", quoted(name), quoted(url));
        }
        for etcd in &self.etcd {
            let _ = write!(text, "\n[[etcd]]\nkind = \"{}\"\nversion = \"{}\"\n", etcd.kind.word(), etcd.version);
            if let Some(tarball) = &etcd.tarball {
                let _ = writeln!(
                    text,
                    "tarball = {{ origin = {}, sha256 = \"{}\" }}",
                    quoted(&tarball.origin),
                    tarball.sha256
                );
            }
            if !etcd.packages.is_empty() {
                let _ = write!(text, "packages = [\n{}]\n", render_packages(&etcd.packages));
            }
        }
        text
    }

    /// The lock with the other places that the definition knows for its archives.
    pub fn with_alternates(mut self, definition: &ImageDefinition) -> Self {
        let time = jiff::Timestamp::from_second(self.source_date_epoch).unwrap_or_default();
        let time = time.strftime("%Y%m%dT%H%M%SZ").to_string();
        for archive in definition.archives.iter().chain(&definition.tools.archives) {
            let known = self.alternates.entry(archive.distribution.clone()).or_default();
            for alternate in archive.alternates.iter().map(|place| place.replace("{time}", &time)) {
                if !known.contains(&alternate) {
                    known.push(alternate);
                }
            }
        }
        self
    }

    /// A package as something to fetch.
    pub fn input(&self, package: &LockedPackage) -> Input {
        let mirror = self.mirrors.get(&package.mirror).map_or("", String::as_str);
        let alternates = self.alternates.get(&package.mirror).into_iter().flatten();
        Input {
            what: package.filename.rsplit('/').next().unwrap_or(&package.name).to_owned(),
            origin: format!("{mirror}/{}", package.filename),
            alternates: alternates.map(|place| format!("{place}/{}", package.filename)).collect(),
            sha256: package.sha256,
            bytes: Some(package.bytes),
        }
    }

    /// An etcd as things to fetch; `dir` is the lock's directory.
    pub fn etcd_inputs(&self, etcd: &LockedEtcd, dir: &Utf8Path) -> Vec<Input> {
        let tarball = etcd.tarball.iter().map(|tarball| Input {
            what: format!("etcd {} ({})", etcd.version, etcd.kind.word()),
            origin: match etcd.kind {
                EtcdKind::File => dir.join(&tarball.origin).into_string(),
                EtcdKind::Release | EtcdKind::Url | EtcdKind::Packages => tarball.origin.clone(),
            },
            alternates: Vec::new(),
            sha256: tarball.sha256,
            bytes: None,
        });
        tarball.chain(etcd.packages.iter().map(|p| self.input(p))).collect()
    }
}

fn render_packages(packages: &[LockedPackage]) -> String {
    let mut sorted: Vec<_> = packages.iter().collect();
    sorted.sort();
    let line = |p: &LockedPackage| {
        let q = |text: &str| toml::Value::String(text.to_owned()).to_string();
        format!(
            "  {{ name = {}, version = {}, architecture = {}, mirror = {}, filename = {}, bytes = {}, sha256 = \"{}\" }},\n",
            q(&p.name),
            q(&p.version),
            q(&p.architecture),
            q(&p.mirror),
            q(&p.filename),
            p.bytes,
            p.sha256
        )
    };
    sorted.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        let package = |name: &str| LockedPackage {
            name: name.into(),
            version: "1:2.3-4~5".into(),
            architecture: "amd64".into(),
            mirror: "debian".into(),
            filename: format!("pool/{name}.deb"),
            bytes: 5,
            sha256: Sha256Digest::of(name.as_bytes()),
        };
        Lock {
            schema: SCHEMA,
            image: "tiny".into(),
            wants: Sha256Digest::of(b"wants"),
            source_date_epoch: 1_700_000_000,
            mirrors: BTreeMap::from([("debian".into(), "http://mirror.test/debian".into())]),
            alternates: BTreeMap::new(),
            cloud: None,
            base: vec![package("a"), package("b")],
            boot: vec![package("grub")],
            tools: vec![package("e2fsprogs")],
            etcd: vec![
                LockedEtcd {
                    kind: EtcdKind::File,
                    version: "3.6.14".parse().unwrap(),
                    tarball: Some(LockedTarball { origin: "etcd.tar.gz".into(), sha256: Sha256Digest::of(b"t") }),
                    packages: vec![],
                },
                LockedEtcd {
                    kind: EtcdKind::Packages,
                    version: "3.5.30".parse().unwrap(),
                    tarball: None,
                    packages: vec![package("etcd-server")],
                },
            ],
        }
    }

    fn parse(text: &str) -> Result<Lock, LockError> {
        Lock::parse(Utf8Path::new("p.lock"), text, "p", &Sha256Digest::of(b"wants"))
    }

    #[test]
    fn reads_back_what_it_writes_with_one_line_per_package() {
        let text = lock().render();
        assert_eq!(parse(&text), Ok(lock()));
        assert_eq!(text.lines().filter(|l| l.starts_with("  {")).count(), 5);
    }

    #[test]
    fn reads_back_a_cloud_image_with_its_places() {
        let cloud = LockedImage {
            url: "https://c.test/a.img".into(),
            alternates: vec!["http://d.test/a.img".into()],
            sha256: Sha256Digest::of(b"image"),
        };
        let lock = Lock { cloud: Some(cloud), base: vec![], boot: vec![], ..lock() };
        assert_eq!(parse(&lock.render()), Ok(lock));
    }

    #[test]
    fn the_order_of_packages_does_not_show() {
        let mut other = lock();
        other.base.reverse();
        assert_eq!(other.render(), lock().render());
    }

    #[test]
    fn a_lock_for_other_wishes_is_stale() {
        let wants = Sha256Digest::of(b"others");
        let found = Lock::parse(Utf8Path::new("p.lock"), &lock().render(), "p", &wants);
        let wants = lock().wants;
        assert_eq!(found, Err(LockError::Stale { file: "p.lock".into(), profile: "p".into(), wants }));
    }

    #[test]
    fn refuses_pins_that_name_nothing() {
        for (from, to, message) in [
            ("mirror = \"debian\"", "mirror = \"x\"", "package `a` names mirror `x`, which is not listed"),
            ("pool/a.deb", "../a.deb", "package `a` leaves its mirror: `../a.deb`"),
            ("kind = \"file\"", "kind = \"packages\"", "etcd 3.6.14 has no pin of its kind"),
            ("schema = 1", "schema = 2", "schema 2 is not one this kiln knows (1)"),
        ] {
            let Err(LockError::Unreadable { message: found, .. }) = parse(&lock().render().replacen(from, to, 1))
            else {
                panic!("{from}")
            };
            assert_eq!(found, message);
        }
    }

    #[test]
    fn inputs_say_where_to_go() {
        let lock = lock();
        assert_eq!(lock.input(&lock.base[0]).origin, "http://mirror.test/debian/pool/a.deb");
        let inputs = lock.etcd_inputs(&lock.etcd[0], Utf8Path::new("profiles"));
        assert_eq!(inputs[0].origin, "profiles/etcd.tar.gz");
    }
}
