//! Roots: what a store must keep, and why.
//!
//! A root is a file `roots/KIND/NAME.json`. It reaches its image, the layers and the fetched inputs that the image's recipe names, and
//! nothing else does: whatever no root reaches may be collected ([`Store::gc`]).
#![expect(clippy::disallowed_methods, reason = "an edge: reads and writes the store's roots")]

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::durable;
use serde::{Deserialize, Serialize};

use super::listing::names;
use super::{Damage, Entry, Store};
use crate::exit::Refusal;
use crate::key::BUILD_FORMAT;
use crate::recipe::Recipe;

/// File of an image entry that says what it was made from.
const RECIPE: &str = "recipe.json";

/// Who keeps an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    /// The last build of a profile.
    Build,
    /// A lab that is up.
    Lab,
    /// An operator, by name.
    Pin,
    /// A cluster on hypervisors: what it runs, ran, or is about to ([`crate::generations`]).
    Generation,
}

impl RootKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Build, Self::Lab, Self::Pin, Self::Generation];

    /// Its directory under `roots/`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Lab => "lab",
            Self::Pin => "pin",
            Self::Generation => "generation",
        }
    }
}

/// A root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Root {
    /// Who keeps it.
    pub kind: RootKind,
    /// Of what name.
    pub name: String,
    /// The image.
    pub key: Sha256Digest,
    /// Since when, Unix seconds.
    pub since: i64,
}

/// What is in the file of a root.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootFile {
    schema: u32,
    key: Sha256Digest,
    since: i64,
    /// Digest of the others and of its own name; none in roots of before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sum: Option<Sha256Digest>,
}

impl RootFile {
    fn new(kind: RootKind, name: &str, key: Sha256Digest, since: i64) -> Self {
        let sum = Sha256Digest::of(format!("kiln root 1 {} {name} {key} {since}", kind.word()).as_bytes());
        Self { schema: 1, key, since, sum: Some(sum) }
    }

    fn render(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Reads what [`RootFile::render`] wrote, to the byte.
    fn parse(kind: RootKind, name: &str, bytes: &[u8]) -> Result<Self> {
        let read: Self = serde_json::from_slice(bytes)?;
        let mut made = Self::new(kind, name, read.key, read.since);
        if read.sum.is_none() {
            made.sum = None;
        }
        if made.render()?.as_bytes() != bytes {
            bail!("its bytes are not those that kiln wrote");
        }
        Ok(read)
    }
}

/// Everything that roots reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Keys of entries.
    pub entries: BTreeSet<Sha256Digest>,
    /// Digests of fetched inputs.
    pub blobs: BTreeSet<Sha256Digest>,
}

impl Store {
    /// Every root, sorted.
    ///
    /// # Errors
    /// A [`Refusal`] when one cannot be read: what it keeps is then not known.
    pub fn roots(&self) -> Result<Vec<Root>> {
        let mut roots = Vec::new();
        for kind in RootKind::ALL {
            let dir = self.root.join("roots").join(kind.word());
            for file in names(&dir)? {
                let Some(name) = file.strip_suffix(".json") else { continue };
                let path = dir.join(&file);
                let read = fs_err::read(&path)
                    .map_err(anyhow::Error::from)
                    .and_then(|bytes| RootFile::parse(kind, name, &bytes));
                let read = read.map_err(|error| {
                    Refusal::new(
                        format!("root `{}` cannot be read, so what it keeps is not known: {error:#}", path.display()),
                        "mend it or, if its image is not needed, remove the file",
                    )
                })?;
                roots.push(Root { kind, name: name.to_owned(), key: read.key, since: read.since });
            }
        }
        roots.sort();
        Ok(roots)
    }

    /// The roots whose files are not what kiln wrote.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn check_roots(&self) -> Result<Vec<Damage>> {
        let mut damaged = Vec::new();
        for kind in RootKind::ALL {
            let dir = self.root.join("roots").join(kind.word());
            for file in names(&dir)? {
                let Some(name) = file.strip_suffix(".json") else { continue };
                if let Err(error) = RootFile::parse(kind, name, &fs_err::read(dir.join(&file))?) {
                    damaged.push(Damage { path: dir.join(&file), what: format!("is no root: {error:#}") });
                }
            }
        }
        Ok(damaged)
    }

    /// Keeps an image under a name, instead of what the name kept before. Durable when this returns.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep(&self, kind: RootKind, name: &str, key: &Sha256Digest, now: i64) -> Result<()> {
        if self.keeps(kind, name)? == Some(*key) {
            return Ok(());
        }
        let path = self.root_path(kind, name);
        // A session holds off the collector, which would not see a root that is being written.
        self.session()?;
        self.dir(&format!("roots/{}", kind.word()))?;
        let text = RootFile::new(kind, name, *key, now).render()?;
        durable::replace(&path, text.as_bytes(), 0o644).with_context(|| format!("writing root `{}`", path.display()))
    }

    /// The image that a name keeps; none when it keeps nothing, or its root cannot be understood and is to be written anew.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn keeps(&self, kind: RootKind, name: &str) -> Result<Option<Sha256Digest>> {
        match fs_err::read(self.root_path(kind, name)) {
            Ok(bytes) => Ok(RootFile::parse(kind, name, &bytes).ok().map(|root| root.key)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn root_path(&self, kind: RootKind, name: &str) -> std::path::PathBuf {
        self.root.join("roots").join(kind.word()).join(format!("{name}.json"))
    }

    /// Forgets a root. Tells whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self, kind: RootKind, name: &str) -> Result<bool> {
        match fs_err::remove_file(self.root_path(kind, name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything that `roots` reach.
    ///
    /// # Errors
    /// A [`Refusal`] when a root's image or its recipe is missing or unreadable: what else it reaches is then not known.
    pub fn reached(&self, roots: &[Root]) -> Result<Reached> {
        let mut reached = Reached::default();
        for root in roots {
            let unknown = |why: String| {
                Refusal::new(
                    format!("root `{}/{}` keeps image {}, {why}", root.kind.word(), root.name, root.key),
                    "build it again; or give the root up: `kiln store unpin`, `kiln lab down`, `kiln generations PROFILE --drop N`",
                )
            };
            let entry = self.entry(&root.key).map_err(|error| unknown(format!("which is damaged: {error:#}")))?;
            let entry = entry.ok_or_else(|| unknown("which is not in the store".into()))?;
            let recipe = read_recipe(&entry).map_err(|error| unknown(format!("whose recipe: {error:#}")))?;
            reached.entries.insert(root.key);
            reached.entries.extend(recipe.named().into_iter().map(|(_, key)| key));
            reached.blobs.extend(recipe.inputs());
        }
        Ok(reached)
    }
}

/// The recipe of an image's entry, if it is the one that the image was made from.
///
/// # Errors
/// When it cannot be read, or has been changed.
pub(crate) fn read_recipe(entry: &Entry) -> Result<Recipe> {
    let path = entry.dir.join(RECIPE);
    let recipe: Recipe =
        serde_json::from_slice(&fs_err::read(&path)?).with_context(|| format!("reading `{}`", path.display()))?;
    if recipe.build_format > BUILD_FORMAT {
        bail!("`{}` is of a newer kiln, whose layers this one does not know\nhint: use that kiln", path.display());
    }
    // A changed digit of a pin would make garbage of what the image needs.
    if recipe.keys().image != entry.manifest.key {
        bail!("`{}` is not the recipe of image {}: it has been changed", path.display(), entry.manifest.key);
    }
    Ok(recipe)
}
