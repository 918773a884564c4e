//! The store: fetched inputs by their digest, built layers by their key.
//!
//! ```text
//! blobs/sha256/<hex>   an input, named by what is in it
//! entries/<key>/       a layer: its files and manifest.json with their sizes and digests
//! tmp/<session>/       what is being made; swept when its session is gone
//! lock/                one file per key being built, and one for tmp
//! roots/               what must be kept
//! ```
//!
//! Promises: what is under `blobs/` or `entries/` was finished (written under a temporary name, synced, renamed, directory synced);
//! two builds of one key wait for each other; a holder that died holds nothing. Not promised: that bytes on the disk stay what they
//! were, so whoever uses a blob checks it ([`Store::check_blob`]), and whoever makes something of an entry does too ([`Entry::check`]).
#![expect(clippy::disallowed_methods, reason = "the place where the store's files are read and written")]

mod blob;
mod check;
mod gc;
#[cfg(test)]
mod gc_tests;
mod listing;
mod manifest;
mod roots;
pub(crate) mod tree;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result, bail};
use kiln_firstboot::digest::{Id128, Sha256Digest};
use nix::fcntl::{Flock, FlockArg};

pub use self::blob::{BlobState, BlobWriter};
pub use self::check::Damage;
pub use self::gc::Garbage;
pub(crate) use self::manifest::{MANIFEST, SUMS, read_manifest};
pub use self::manifest::{Made, Manifest, ManifestFile, hash_file};
pub(crate) use self::roots::read_recipe;
pub use self::roots::{Reached, Root, RootKind};

/// Directory of closures that are on their way in.
const PARTIAL: &str = "partial";

/// What vouches for an entry: gets its directory and manifest before it has its name.
pub type Seal<'a> = &'a dyn Fn(&Path, &Manifest) -> Result<()>;

/// A store on disk.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    session: OnceLock<Session>,
    beginning: Mutex<()>,
}

/// This process's own directory under `tmp/`, held by a lock on the file beside it for as long as the process lives.
#[derive(Debug)]
struct Session {
    dir: PathBuf,
    _held: Flock<File>,
    /// Holds off the collector.
    _uses: Flock<File>,
}

/// A finished layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its directory.
    pub dir: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
}

impl Store {
    /// The store at `root`; touches nothing until something is written.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), session: OnceLock::new(), beginning: Mutex::new(()) }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The finished entry with this key, if it is there and its files have the lengths its manifest says. Nothing is hashed.
    ///
    /// # Errors
    /// When a manifest is there but cannot be read, or a file is missing or has another length: somebody has been in the store.
    pub fn entry(&self, key: &Sha256Digest) -> Result<Option<Entry>> {
        let dir = self.entry_dir(key);
        let text = match fs_err::read_to_string(dir.join(MANIFEST)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let hint = || format!("hint: remove `{}` and build again", dir.display());
        let manifest: Manifest = serde_json::from_str(&text)
            .with_context(|| format!("reading `{}/{MANIFEST}`\n{}", dir.display(), hint()))?;
        if manifest.key != *key {
            bail!("`{}/{MANIFEST}` is that of {}: the store has been damaged\n{}", dir.display(), manifest.key, hint());
        }
        for file in &manifest.files {
            let bytes = fs_err::metadata(dir.join(&file.path)).map(|m| m.len()).ok();
            if bytes != Some(file.bytes) {
                let found = bytes.map_or("is missing".to_owned(), |n| format!("has {n} bytes, not {}", file.bytes));
                bail!("`{}/{}` {found}: the store has been damaged\n{}", dir.display(), file.path, hint());
            }
        }
        Ok(Some(Entry { dir, manifest }))
    }

    /// Where the entry with this key is or would be.
    pub fn entry_dir(&self, key: &Sha256Digest) -> PathBuf {
        self.root.join("entries").join(key.to_string())
    }

    /// Returns the entry with this key, making it first if it is not there: `make` fills an empty directory. Two processes making
    /// one key wait for each other, and the second finds what the first made. Says whether it was made here.
    ///
    /// # Errors
    /// `make`'s, and the store's; then no entry is left.
    pub fn ensure_entry(
        &self,
        key: &Sha256Digest,
        layer: &str,
        make: impl FnOnce(&Path) -> Result<Vec<String>>,
    ) -> Result<(Entry, bool)> {
        self.ensure_sealed_entry(key, layer, |dir| make(dir).map(Made::with_trees), &|_, _| Ok(()))
    }

    /// [`Store::ensure_entry`]; `seal` may put files that vouch for the others beside them, or rewrite the sums, once the manifest is written.
    /// They are not listed in it, and come under the entry's name together with it.
    ///
    /// # Errors
    /// `make`'s, `seal`'s, and the store's; then no entry is left.
    pub fn ensure_sealed_entry(
        &self,
        key: &Sha256Digest,
        layer: &str,
        make: impl FnOnce(&Path) -> Result<Made>,
        seal: Seal<'_>,
    ) -> Result<(Entry, bool)> {
        if let Some(entry) = self.entry(key)? {
            return Ok((entry, false));
        }
        let _held = self.lock(&key.to_string(), &format!("another kiln builds layer `{layer}`; waiting for it"))?;
        if let Some(entry) = self.entry(key)? {
            return Ok((entry, false));
        }
        let began = std::time::Instant::now();
        let temp = self.temp_path("entry")?;
        fs_err::create_dir(&temp)?;
        let made = make(&temp).and_then(|made| self.publish(key, layer, &temp, made, began, seal));
        match made {
            Ok(entry) => Ok((entry, true)),
            Err(error) => {
                // The error that stopped the work is the one to report; leftovers are swept by the next run.
                let _ = fs_err::remove_dir_all(&temp);
                Err(error)
            }
        }
    }

    fn publish(
        &self,
        key: &Sha256Digest,
        layer: &str,
        temp: &Path,
        made: Made,
        began: std::time::Instant,
        seal: Seal<'_>,
    ) -> Result<Entry> {
        let (files, trees) = made.hash_rest(temp)?;
        log::debug!("{layer}: hashed after {:.2} s", began.elapsed().as_secs_f64());
        let digests = trees.iter().map(|name| Ok((name.clone(), tree::digest(&temp.join(name))?)));
        let tree_digests = digests.collect::<Result<BTreeMap<_, _>>>()?;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let manifest = Manifest { schema: 1, key: *key, layer: layer.to_owned(), millis, files, trees, tree_digests };
        let mut text = serde_json::to_string_pretty(&manifest)?;
        text.push('\n');
        fs_err::write(temp.join(MANIFEST), &text)?;
        let sums = check::sums_text(&manifest.files, Some(Sha256Digest::of(text.as_bytes())));
        fs_err::write(temp.join(SUMS), sums)?;
        let dir = File::open(temp)?;
        std::thread::scope(|scope| {
            // The disk writes while the seal hashes. That it wrote everything is the business of the sync below.
            scope.spawn(|| nix::unistd::syncfs(&dir));
            seal(temp, &manifest)
        })?;
        // Everything this entry consists of must be on the disk before its name is; one call instead of one per extracted file.
        nix::unistd::syncfs(&dir).with_context(|| format!("syncing `{}`", temp.display()))?;
        log::debug!("{layer}: on the disk after {:.2} s", began.elapsed().as_secs_f64());
        let place = self.entry_dir(key);
        if place.exists() {
            // An entry without a readable manifest was never finished by this code; `entry` has just found none.
            fs_err::remove_dir_all(&place)?;
        }
        self.rename(temp, &place)?;
        Ok(Entry { dir: place, manifest })
    }

    /// Takes the lock `name` for as long as the result lives; says `waiting` when somebody else has it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self, name: &str, waiting: &str) -> Result<Flock<File>> {
        self.lock_as(name, FlockArg::LockExclusive, waiting)
    }

    fn lock_as(&self, name: &str, how: FlockArg, waiting: &str) -> Result<Flock<File>> {
        let at_once = match how {
            FlockArg::LockShared => FlockArg::LockSharedNonblock,
            _ => FlockArg::LockExclusiveNonblock,
        };
        let path = self.dir("lock")?.join(format!("{name}.lock"));
        let open = || fs_err::OpenOptions::new().create(true).write(true).truncate(false).open(&path);
        let file = match Flock::lock(open()?.into_file(), at_once) {
            Ok(held) => return Ok(held),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => {
                return Err(io::Error::from(errno)).with_context(|| format!("locking `{}`", path.display()));
            }
        };
        log::info!("{waiting}");
        Flock::lock(file, how)
            .map_err(|(_, errno)| io::Error::from(errno))
            .with_context(|| format!("locking `{}`", path.display()))
    }

    /// A fresh path on the store's own file system, for things that are renamed into place or thrown away.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn temp_path(&self, what: &str) -> Result<PathBuf> {
        Ok(self
            .session()?
            .join(format!("{what}-{}", Id128::random().map_err(|_| anyhow::anyhow!("the system gave no randomness"))?)))
    }

    fn session(&self) -> Result<&Path> {
        if let Some(session) = self.session.get() {
            return Ok(&session.dir);
        }
        let _beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = self.session.get() {
            return Ok(&session.dir);
        }
        let uses = self.hold_gc(FlockArg::LockShared, "another kiln collects the store's garbage; waiting for it")?;
        let (dir, held) = self.begin_session()?;
        Ok(&self.session.get_or_init(|| Session { dir, _held: held, _uses: uses }).dir)
    }

    /// A directory under `tmp/` of this process's own, held by the lock on the file beside it.
    fn begin_session(&self) -> Result<(PathBuf, Flock<File>)> {
        let tmp = self.dir("tmp")?;
        // Held while sessions begin and while the dead are swept: nobody can mistake a session being made for one whose owner died.
        let _tmp = self.lock("tmp", "another kiln tidies the store; waiting for it")?;
        sweep(&tmp)?;
        let name = Id128::random().map_err(|_| anyhow::anyhow!("the system gave no randomness"))?.to_string();
        let file = fs_err::File::create(tmp.join(format!("{name}.lock")))?.into_file();
        let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
        let dir = tmp.join(&name);
        fs_err::create_dir(&dir)?;
        Ok((dir, held))
    }

    /// Holds the collector off for as long as this store lives.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn hold(&self) -> Result<()> {
        self.session().map(|_| ())
    }

    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        fs_err::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Where a closure with this digest is put together; swept by the collector, and by nobody else.
    pub(crate) fn partial(&self, id: &Sha256Digest) -> Result<PathBuf> {
        self.dir(&format!("{PARTIAL}/{id}"))
    }

    /// Gives something that is synced its name, unless the name is taken by then.
    pub(crate) fn enter(&self, from: &Path, to: &Path) -> Result<()> {
        if to.is_dir() {
            // Without a readable manifest: the caller has looked. Such a thing was never finished by this code.
            fs_err::remove_dir_all(to)?;
        }
        self.rename(from, to)
    }

    /// Publishes: one rename, then the directory's own sync, so that the name survives a power cut.
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let parent = to.parent().context("a place in the store has a parent")?;
        fs_err::create_dir_all(parent)?;
        fs_err::rename(from, to)?;
        File::open(parent)?.sync_all().with_context(|| format!("syncing `{}`", parent.display()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(session) = self.session.get() {
            // What cannot be removed now is swept by the next run.
            let _ = fs_err::remove_dir_all(&session.dir);
            let _ = fs_err::remove_file(session.dir.with_extension("lock"));
        }
    }
}

/// Adds the remedy to an error that a full file system caused; leaves every other error alone.
pub fn explain_full(error: anyhow::Error, root: &Path) -> anyhow::Error {
    let full = error.chain().any(|cause| {
        let by_kind = cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::StorageFull);
        by_kind || cause.to_string().contains("No space left on device")
    });
    if !full {
        return error;
    }
    error.context(format!(
        "the file system of the store `{}` is full; nothing unfinished was kept\nhint: free space there (a build needs about 4 GiB), or name another place with --store",
        root.display()
    ))
}

/// Removes what sessions left whose owners are gone. What cannot be removed is named and left.
fn sweep(tmp: &Path) -> Result<()> {
    for found in fs_err::read_dir(tmp)? {
        let path = found?.path();
        if path.extension().is_some_and(|e| e == "lock") {
            continue;
        }
        let lock = path.with_extension("lock");
        let file = fs_err::OpenOptions::new().create(true).write(true).truncate(false).open(&lock)?.into_file();
        let Ok(_held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
        match remove_tree(&path) {
            Ok(()) => fs_err::remove_file(&lock)?,
            Err(error) => log::warn!("leaving `{}`, an interrupted run's leftovers: {error:#}", path.display()),
        }
    }
    Ok(())
}

/// Removes a tree, also one whose files belong to the user's subordinate ids (mmdebstrap without root).
fn remove_tree(path: &Path) -> Result<()> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() => {
            crate::tool::Tool::new("unshare")
                .args(["--map-auto", "--map-root-user", "rm", "-rf", "--"])
                .arg(path)
                .run()?;
            Ok(())
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store in a directory of its own.
    pub(super) fn scratch() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("store"));
        (dir, store)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn asking_touches_nothing() {
        let (_dir, store) = scratch();
        let key = Sha256Digest::of(b"key");
        assert_eq!(store.entry(&key).unwrap(), None);
        assert!(!store.has_blob(&key));
        assert!(!store.root().exists());
    }

    #[test]
    fn makes_an_entry_once_and_finds_it_again() {
        let (_dir, store) = scratch();
        let key = Sha256Digest::of(b"key");
        let make = |dir: &Path| {
            std::fs::write(dir.join("a"), b"one")?;
            std::fs::create_dir(dir.join("tree"))?;
            std::fs::write(dir.join("tree/b"), b"two")?;
            Ok(vec!["tree".to_owned()])
        };
        let (made, here) = store.ensure_entry(&key, "base", make).unwrap();
        assert!(here);
        assert_eq!(
            made.manifest.files,
            [ManifestFile { path: "a".into(), bytes: 3, sha256: Some(Sha256Digest::of(b"one")), sparse: None }]
        );
        let (found, here) = store.ensure_entry(&key, "base", |_| panic!("it is there")).unwrap();
        assert_eq!((found, here), (made, false));
    }

    #[test]
    fn a_failed_layer_leaves_no_entry() {
        let (_dir, store) = scratch();
        let key = Sha256Digest::of(b"key");
        let error = store
            .ensure_entry(&key, "base", |dir| {
                std::fs::write(dir.join("half"), b"h")?;
                bail!("the power of this went out")
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "the power of this went out");
        assert_eq!(store.entry(&key).unwrap(), None);
        assert!(!store.entry_dir(&key).exists());
    }

    #[test]
    fn a_damaged_entry_is_an_error_not_a_miss() {
        let (_dir, store) = scratch();
        let key = Sha256Digest::of(b"key");
        let make = |dir: &Path| Ok(std::fs::write(dir.join("a"), b"one").map(|()| Vec::new())?);
        let (entry, _) = store.ensure_entry(&key, "base", make).unwrap();
        std::fs::write(entry.dir.join("a"), b"o").unwrap();
        let error = store.entry(&key).unwrap_err().to_string();
        assert!(error.contains("has 1 bytes, not 3: the store has been damaged\nhint: remove"), "{error}");
    }

    #[test]
    fn sweeps_what_the_dead_left_and_spares_the_living() {
        let (_dir, store) = scratch();
        let mine = store.temp_path("x").unwrap();
        std::fs::write(&mine, b"in use").unwrap();
        let tmp = store.root().join("tmp");
        std::fs::create_dir_all(tmp.join("dead/half")).unwrap();
        std::fs::write(tmp.join("dead.lock"), b"").unwrap();
        let other = Store::at(store.root());
        other.temp_path("y").unwrap();
        assert!(mine.exists());
        assert!(!tmp.join("dead").exists() && !tmp.join("dead.lock").exists());
        drop(other);
        drop(store);
        assert_eq!(names(&tmp), [] as [&str; 0]);
    }

    #[test]
    fn the_second_builder_waits_and_finds_what_the_first_made() {
        let (_dir, store) = scratch();
        let key = Sha256Digest::of(b"key");
        let (entered, wait) = std::sync::mpsc::channel();
        let (release, go) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let store = &store;
            let first = scope.spawn(move || {
                let make = |dir: &Path| {
                    entered.send(()).unwrap();
                    go.recv().unwrap();
                    Ok(std::fs::write(dir.join("a"), b"first").map(|()| Vec::new())?)
                };
                store.ensure_entry(&key, "base", make).unwrap().1
            });
            wait.recv().unwrap();
            let other = Store::at(store.root());
            let second = scope.spawn(move || other.ensure_entry(&key, "base", |_| panic!("made twice")).unwrap().1);
            release.send(()).unwrap();
            assert!(first.join().unwrap());
            assert!(!second.join().unwrap());
        });
    }

    #[test]
    fn a_full_disk_is_named_with_its_remedy() {
        let full: anyhow::Error = io::Error::from(nix::errno::Errno::ENOSPC).into();
        let text = format!("{:#}", explain_full(full.context("writing `x`"), Path::new("/s")));
        assert!(text.starts_with("the file system of the store `/s` is full"), "{text}");
        let other = explain_full(anyhow::anyhow!("no"), Path::new("/s"));
        assert_eq!(format!("{other:#}"), "no");
    }
}
