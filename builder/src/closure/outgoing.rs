//! What a store sends: the document of a closure, and its chunks one by one.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the store's files")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kiln_firstboot::digest::Sha256Digest;

use super::Extent;
use super::document::{CHUNK, Closure, File, Input, Node, Parcel, Tree};
use crate::digesting;
use crate::exit::Refusal;
use crate::store::tree::{self, NodeKind};
use crate::store::{BlobState, Entry, MANIFEST, SUMS, Store, read_recipe};
use crate::trust::seal::{PROVENANCE, SIGNATURE};
use crate::trust::signing_key::SigningKey;

/// A closure ready to be sent: all but the layer `tree`, whose owners only root can make. The store's collector waits while it lives.
#[derive(Debug)]
pub struct Outgoing {
    /// What it holds.
    pub closure: Closure,
    /// Where each chunk lies.
    sources: BTreeMap<Sha256Digest, Source>,
}

#[derive(Clone, Debug)]
struct Source {
    file: PathBuf,
    at: u64,
    bytes: u64,
}

impl Outgoing {
    /// The closure of an image, every byte of it checked.
    ///
    /// # Errors
    /// A [`Refusal`] when something of it is damaged or is not in the store; when it cannot be read.
    pub fn of(store: &Store, image: &Entry, extent: Extent) -> Result<Self> {
        store.hold()?;
        let key = image.manifest.key;
        let recipe = read_recipe(image).map_err(|error| {
            Refusal::new(format!("entry {key} is no image that can be sent: {error:#}"), "name an image: kiln store ls")
        })?;
        let mut outgoing =
            Self { closure: Closure { image: key, entries: Vec::new(), inputs: Vec::new() }, sources: BTreeMap::new() };
        if extent == Extent::Whole {
            let missing = |what: String| {
                Refusal::new(
                    format!("image {key} cannot be sent with all it was made of: {what} is not in the store"),
                    format!(
                        "send the image alone: --image-only; or remove `{}` and build again, which makes what is missing",
                        image.dir.display()
                    ),
                )
            };
            for sha256 in recipe.inputs() {
                match store.check_blob(&sha256)? {
                    BlobState::Sound => {}
                    BlobState::Absent => return Err(missing(format!("input {sha256}")).into()),
                    BlobState::WasCorrupt { .. } => {
                        return Err(missing(format!("input {sha256} was damaged, so it was removed, and")).into());
                    }
                }
                let file = outgoing.file(&store.blob_path(&sha256))?;
                outgoing.closure.inputs.push(Input { sha256, file });
            }
            for (name, key) in recipe.layers().into_iter().filter(|(_, layer)| *layer != key) {
                let entry = store.entry(&key)?.ok_or_else(|| missing(format!("layer `{name}`")))?;
                outgoing.parcel(store, &entry)?;
            }
            if let Some(entry) = store.entry(&recipe.keys().compressed)? {
                outgoing.parcel(store, &entry)?;
            }
        }
        outgoing.parcel(store, image)?;
        Ok(outgoing)
    }

    /// The signed document.
    ///
    /// # Errors
    /// None that is known.
    pub fn document(&self, key: &SigningKey) -> Result<Vec<u8>> {
        self.closure.render(&key.public(), |bytes| key.sign(bytes))
    }

    /// The bytes of a chunk of it.
    ///
    /// # Errors
    /// When they cannot be read, or have changed since the document was made.
    pub fn read(&self, digest: &Sha256Digest) -> Result<Vec<u8>> {
        let source = self.sources.get(digest).context("this chunk is of another closure")?;
        let mut bytes = vec![0; usize::try_from(source.bytes).context("a chunk is short")?];
        let read = fs_err::File::open(&source.file).and_then(|f| f.into_file().read_exact_at(&mut bytes, source.at));
        read.with_context(|| format!("reading `{}`", source.file.display()))?;
        if digesting::digest_of(bytes.as_slice())?.0 != *digest {
            bail!("`{}` changes while it is read", source.file.display());
        }
        Ok(bytes)
    }

    fn parcel(&mut self, store: &Store, entry: &Entry) -> Result<()> {
        if let Some(damage) = entry.check()?.first() {
            return Err(Refusal::new(
                format!("layer `{}` is damaged, so it is not sent: {damage}", entry.manifest.layer),
                format!(
                    "remove `{}`, and the image too, and build again: {}",
                    entry.dir.display(),
                    store.entry_dir(&self.closure.image).display()
                ),
            )
            .into());
        }
        let mut parcel = Parcel { key: entry.manifest.key, files: BTreeMap::new(), trees: BTreeMap::new() };
        let papers = [MANIFEST, SUMS, PROVENANCE, SIGNATURE].map(str::to_owned);
        let present = papers.into_iter().filter(|name| entry.dir.join(name).is_file());
        for path in entry.manifest.files.iter().map(|f| f.path.clone()).chain(present) {
            let file = self.file(&entry.dir.join(&path))?;
            parcel.files.insert(path, file);
        }
        for name in &entry.manifest.trees {
            let tree = self.tree(store, &entry.dir.join(name))?;
            parcel.trees.insert(name.clone(), tree);
        }
        self.closure.entries.push(parcel);
        Ok(())
    }

    fn tree(&mut self, store: &Store, root: &Path) -> Result<Tree> {
        let pack = store.temp_path("pack")?;
        let mut packed = fs_err::File::create(&pack)?;
        let mut nodes = Vec::new();
        for tree::Node { path, mode, kind } in tree::walk(root)? {
            nodes.push(match kind {
                NodeKind::Directory => Node::Directory { path, mode },
                NodeKind::Link(target) => Node::Link { path, target },
                NodeKind::File(_) => {
                    let bytes = digesting::copy(&mut fs_err::File::open(root.join(&path))?, &mut packed)?;
                    Node::File { path, mode, bytes }
                }
                NodeKind::Special(..) => bail!("`{}` is a device or a pipe", root.join(path).display()),
            });
        }
        Ok(Tree { nodes, pack: self.file(&pack)? })
    }

    /// Hashes a file by chunks, and remembers where each lies.
    fn file(&mut self, path: &Path) -> Result<File> {
        let mut file = fs_err::File::open(path)?;
        let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
        let (mut chunks, mut at) = (Vec::new(), 0);
        loop {
            let mut bytes = Vec::new();
            (&mut file).take(CHUNK).read_to_end(&mut bytes)?;
            let length = bytes.len() as u64;
            if length == 0 {
                return Ok(File { bytes: at, executable, chunks });
            }
            let zeros = bytes.iter().all(|byte| *byte == 0);
            let digest = if zeros { None } else { Some(digesting::digest_of(bytes.as_slice())?.0) };
            if let Some(digest) = digest {
                self.sources.entry(digest).or_insert_with(|| Source { file: path.to_owned(), at, bytes: length });
            }
            chunks.push(digest);
            at += length;
        }
    }
}
