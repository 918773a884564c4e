//! What a store receives: chunks are put where they belong, below `partial/`, and get names when all are there and all is checked.
//!
//! What was interrupted is gone on with: `partial/ID` is named by the digest of the closure's document, and chunks that lie there are compared with
//! their digests and not asked for again. The collector removes it.
#![expect(clippy::disallowed_methods, reason = "an edge: writes into the store")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use kiln_firstboot::digest::Sha256Digest;
use nix::fcntl::Flock;

use super::document::{Closure, File, Node, Parcel, Signed, Tree};
use crate::digesting;
use crate::exit::Refusal;
use crate::store::{Entry, MANIFEST, Store, read_manifest, read_recipe};
use crate::trust::{self, Depth, Keyring, Standing};

/// A closure on its way in. The store's collector waits while it lives.
#[derive(Debug)]
pub struct Incoming<'a> {
    store: &'a Store,
    closure: Closure,
    keyring: Keyring,
    dir: PathBuf,
    places: BTreeMap<Sha256Digest, Vec<Place>>,
    wanted: Vec<(Sha256Digest, u64)>,
    left_out: bool,
    _held: Flock<std::fs::File>,
}

#[derive(Debug)]
struct Place {
    file: PathBuf,
    at: u64,
    bytes: u64,
}

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Key of the image.
    pub image: Sha256Digest,
    /// Keys of entries that are new in the store.
    pub entries: Vec<Sha256Digest>,
    /// Digests of inputs that are new in the store.
    pub inputs: Vec<Sha256Digest>,
    /// Whether layers were left out, because their sender is not trusted.
    pub left_out: bool,
    /// Where the image stands.
    pub standing: Standing,
}

impl<'a> Incoming<'a> {
    /// Makes room for what of a closure is not in the store. With `layers`, the layers of a trusted sender are taken too.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn begin(store: &'a Store, signed: Signed, keyring: Keyring) -> Result<Self> {
        store.hold()?;
        let Signed { mut closure, sender, id } = signed;
        let held = store.lock(&format!("partial-{id}"), "another kiln receives the same; waiting for it")?;
        let dir = store.partial(&id)?;
        let trusted = keyring.keys.iter().any(|(_, key)| *key == sender);
        let image = closure.image;
        let mut left_out = false;
        let mut failed = Ok(());
        closure.entries.retain(|parcel| {
            let new = store.entry(&parcel.key).map(|found| found.is_none()).unwrap_or_else(|error| {
                failed = Err(error);
                false
            });
            let welcome = trusted || parcel.key == image;
            left_out |= new && !welcome;
            new && welcome
        });
        failed?;
        closure.inputs.retain(|input| !store.has_blob(&input.sha256));
        let mut incoming =
            Self { store, closure, keyring, dir, places: BTreeMap::new(), wanted: Vec::new(), left_out, _held: held };
        incoming.make_room()?;
        Ok(incoming)
    }

    /// Chunks that are to come, with their lengths, in the order of the document.
    pub fn wanted(&self) -> &[(Sha256Digest, u64)] {
        &self.wanted
    }

    /// Puts a chunk where it belongs; one that is not wanted is only compared with its digest.
    ///
    /// # Errors
    /// When its bytes are not those of its digest; when they cannot be written.
    pub fn put(&self, digest: &Sha256Digest, bytes: &[u8]) -> Result<()> {
        let (found, _) = digesting::digest_of(bytes)?;
        ensure!(found == *digest, "chunk {digest} has come with other bytes: they hash to {found}");
        for place in self.places.get(digest).into_iter().flatten() {
            ensure!(place.bytes == bytes.len() as u64, "chunk {digest} has come with {} bytes", bytes.len());
            let file = fs_err::OpenOptions::new().write(true).open(&place.file)?;
            let written = file.file().write_all_at(bytes, place.at);
            written.with_context(|| format!("writing `{}`", place.file.display()))?;
        }
        Ok(())
    }

    /// Checks all that has come, and gives it its names: inputs first, the image last, so that whoever finds the image finds all.
    ///
    /// # Errors
    /// A [`Refusal`] when something is not what it says it is: then nothing of it is kept.
    pub fn finish(self) -> Result<Received> {
        match self.judge() {
            Ok(()) => self.publish(),
            Err(error) => {
                // What was refused once would be refused again. If it cannot be removed now, the collector will.
                let _ = fs_err::remove_dir_all(&self.dir);
                Err(error)
            }
        }
    }

    fn entry_dir(&self, key: &Sha256Digest) -> PathBuf {
        self.dir.join("entries").join(key.to_string())
    }

    fn input_path(&self, sha256: &Sha256Digest) -> PathBuf {
        self.dir.join("inputs").join(sha256.to_string())
    }

    fn pack_path(&self, key: &Sha256Digest, tree: &str) -> PathBuf {
        self.dir.join("packs").join(format!("{key}-{}", Sha256Digest::of(tree.as_bytes())))
    }

    /// Every file that is to come, at its length; what is there from an earlier try stays if it is right.
    fn make_room(&mut self) -> Result<()> {
        let mut files: Vec<(PathBuf, &File)> = Vec::new();
        for input in &self.closure.inputs {
            files.push((self.input_path(&input.sha256), &input.file));
        }
        for parcel in &self.closure.entries {
            let dir = self.entry_dir(&parcel.key);
            for (path, file) in &parcel.files {
                files.push((dir.join(path), file));
            }
            for (name, tree) in &parcel.trees {
                files.push((self.pack_path(&parcel.key, name), &tree.pack));
                // Unpacked anew from its pack.
                if dir.join(name).exists() {
                    fs_err::remove_dir_all(dir.join(name))?;
                }
            }
        }
        let (mut places, mut absent): (BTreeMap<_, Vec<Place>>, BTreeSet<Sha256Digest>) = Default::default();
        for (path, file) in files {
            fs_err::create_dir_all(path.parent().context("a file has a directory")?)?;
            let there = fs_err::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            there.set_len(file.bytes)?;
            there.set_permissions(std::fs::Permissions::from_mode(if file.executable { 0o755 } else { 0o644 }))?;
            for (digest, at, bytes) in file.pieces() {
                let mut read = vec![0; usize::try_from(bytes).context("a chunk is short")?];
                there.file().read_exact_at(&mut read, at).with_context(|| format!("reading `{}`", path.display()))?;
                if read.iter().all(|byte| *byte == 0) || digesting::digest_of(read.as_slice())?.0 != digest {
                    absent.insert(digest);
                }
                places.entry(digest).or_default().push(Place { file: path.clone(), at, bytes });
            }
        }
        self.wanted = self.closure.chunks().into_iter().filter(|(digest, _)| absent.contains(digest)).collect();
        self.places = places;
        Ok(())
    }

    /// Whether everything is what it says it is.
    fn judge(&self) -> Result<()> {
        let refuse = |what: String| Refusal::new(what, "nothing of it was kept; ask its sender for a sound one");
        for input in &self.closure.inputs {
            let file = fs_err::File::open(self.input_path(&input.sha256))?;
            let (found, _) = digesting::digest_of(file)?;
            if found != input.sha256 {
                return Err(refuse(format!("input {} of the closure hashes to {found}", input.sha256)).into());
            }
        }
        for parcel in &self.closure.entries {
            for (name, tree) in &parcel.trees {
                self.unpack(parcel, name, tree)?;
            }
            let judged = self.judge_entry(parcel);
            judged.map_err(|error| refuse(format!("entry {} of the closure: {error:#}", parcel.key)))?;
        }
        self.judge_names().map_err(|error| refuse(format!("image {}: {error:#}", self.closure.image)))?;
        Ok(())
    }

    fn judge_entry(&self, parcel: &Parcel) -> Result<()> {
        ensure!(parcel.files.contains_key(MANIFEST), "it has no manifest");
        let entry = self.entry(&parcel.key)?;
        ensure!(entry.manifest.key == parcel.key, "its manifest is that of {}", entry.manifest.key);
        ensure!(parcel.trees.keys().eq(entry.manifest.trees.iter()), "its trees are not those of its manifest");
        for file in &entry.manifest.files {
            let bytes = parcel.files.get(&file.path).map(|f| f.bytes);
            ensure!(bytes == Some(file.bytes), "its `{}` has not the length that its manifest says", file.path);
        }
        match entry.check()?.first() {
            None => Ok(()),
            Some(damage) => bail!("its {damage}"),
        }
    }

    /// Whether the image's recipe names everything that came with it.
    fn judge_names(&self) -> Result<()> {
        let image = match self.closure.entries.iter().any(|p| p.key == self.closure.image) {
            true => self.entry(&self.closure.image)?,
            false => self.store.entry(&self.closure.image)?.context("it is gone from the store")?,
        };
        let recipe = read_recipe(&image)?;
        let named: BTreeMap<_, _> = recipe.named().into_iter().map(|(name, key)| (key, name)).collect();
        for parcel in &self.closure.entries {
            let layer = self.entry(&parcel.key)?.manifest.layer;
            let name = named.get(&parcel.key);
            ensure!(name == Some(&layer.as_str()), "its recipe names no layer `{layer}` of key {}", parcel.key);
        }
        let inputs = recipe.inputs();
        let stranger = self.closure.inputs.iter().find(|input| !inputs.contains(&input.sha256));
        ensure!(stranger.is_none(), "its recipe does not name every input that has come");
        Ok(())
    }

    fn entry(&self, key: &Sha256Digest) -> Result<Entry> {
        let dir = self.entry_dir(key);
        Ok(Entry { manifest: read_manifest(&dir)?, dir })
    }

    /// Cuts a pack into the files of its tree. The document was checked: no path leads through a link.
    fn unpack(&self, parcel: &Parcel, name: &str, tree: &Tree) -> Result<()> {
        let root = self.entry_dir(&parcel.key).join(name);
        let mut pack = fs_err::File::open(self.pack_path(&parcel.key, name))?;
        fs_err::create_dir_all(&root)?;
        let mode = |path: &Path, mode: u32| fs_err::set_permissions(path, PermissionsExt::from_mode(mode & 0o777));
        for node in &tree.nodes {
            let path = root.join(node.path());
            match node {
                Node::Directory { .. } => fs_err::create_dir(&path)?,
                Node::Link { target, .. } => fs_err::os::unix::fs::symlink(target, &path)?,
                Node::File { bytes, mode: bits, .. } => {
                    let mut file = fs_err::OpenOptions::new().create_new(true).write(true).open(&path)?;
                    let copied = digesting::copy(&mut std::io::Read::take(&mut pack, *bytes), &mut file)?;
                    ensure!(copied == *bytes, "the pack of tree `{name}` is short");
                    mode(&path, *bits)?;
                }
            }
        }
        // A directory that may not be written is made so when all that is in it is.
        for node in tree.nodes.iter().rev() {
            if let Node::Directory { path, mode: bits } = node {
                mode(&root.join(path), *bits)?;
            }
        }
        Ok(())
    }

    fn publish(self) -> Result<Received> {
        let dir = std::fs::File::open(&self.dir)?;
        nix::unistd::syncfs(&dir).with_context(|| format!("syncing `{}`", self.dir.display()))?;
        let mut received = Received {
            image: self.closure.image,
            entries: Vec::new(),
            inputs: Vec::new(),
            left_out: self.left_out,
            standing: Standing::Unsigned,
        };
        for input in &self.closure.inputs {
            self.store.enter(&self.input_path(&input.sha256), &self.store.blob_path(&input.sha256))?;
            received.inputs.push(input.sha256);
        }
        // As the sender has them: the image last.
        let (image, layers): (Vec<_>, Vec<_>) = self.closure.entries.iter().partition(|p| p.key == self.closure.image);
        for parcel in layers.into_iter().chain(image) {
            let _held =
                self.store.lock(&parcel.key.to_string(), "another kiln makes the same layer; waiting for it")?;
            if self.store.entry(&parcel.key)?.is_none() {
                self.store.enter(&self.entry_dir(&parcel.key), &self.store.entry_dir(&parcel.key))?;
                received.entries.push(parcel.key);
            }
        }
        // Empty but for packs; the collector would remove it as well.
        let _ = fs_err::remove_dir_all(&self.dir);
        let image = self.store.entry(&received.image)?.context("the image is gone from the store")?;
        received.standing = trust::standing(self.store, &image, &self.keyring, Depth::Small)?;
        Ok(received)
    }
}
