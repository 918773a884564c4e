//! A snapshot of the node's own etcd on its data volume, verified, before a voter is removed: the way back if everything else was wrong.
#![expect(clippy::disallowed_methods, reason = "an edge: a file is written and read back here")]

use std::io::{self, Read as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::clock;
use crate::durable::sync_directory;
use crate::etcd::Etcd;
use crate::grant::SnapshotFact;

/// The snapshot's file in its directory. One is kept, the newest.
pub const FILE: &str = "before-removal.db";
/// What stays free on the volume beside a snapshot: two segments of etcd's log.
const MARGIN: u64 = 128 << 20;
/// How long etcd may take for the next piece.
const PIECE: Duration = Duration::from_secs(20);
/// etcd appends the sha256 of all that comes before.
const SUM: usize = 32;
/// bbolt's pages are multiples of this.
const SECTOR: u64 = 512;

/// Takes snapshots, one at a time, beside whatever else goes on.
#[derive(Clone, Debug)]
pub struct Snapshots {
    directory: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
enum State {
    Idle,
    Taking(watch::Receiver<()>),
    Taken { at: Instant, revision: u64 },
    Failed(String),
}

/// How far a snapshot has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It lies on the volume, synced and verified.
    Verified,
    /// Not yet.
    Taking,
    /// It could not be taken; the next call tries again.
    Failed(String),
}

impl Snapshots {
    /// Of this directory; nothing in it counts as verified.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, state: Arc::new(Mutex::new(State::Idle)) }
    }

    /// The last one that was verified.
    pub fn last(&self) -> Option<SnapshotFact> {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Taken { at, revision } => {
                let age = clock::monotonic().duration_since(*at).as_secs();
                Some(SnapshotFact { age_secs: age, revision: *revision })
            }
            State::Idle | State::Taking(_) | State::Failed(_) => None,
        }
    }

    /// Takes one, unless that is going on, and waits at most `limit` for its end. It goes on after that.
    pub async fn take(&self, etcd: &Etcd, limit: Duration) -> Progress {
        let mut done = self.begin(etcd);
        // An error is the end as well: the task is gone, and left what it came to.
        drop(timeout(limit, done.changed()).await);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Taken { .. } => Progress::Verified,
            State::Idle | State::Taking(_) => Progress::Taking,
            State::Failed(why) => {
                let why = why.clone();
                *state = State::Idle;
                Progress::Failed(why)
            }
        }
    }

    fn begin(&self, etcd: &Etcd) -> watch::Receiver<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Taking(done) = &*state {
            return done.clone();
        }
        let (end, done) = watch::channel(());
        *state = State::Taking(done.clone());
        drop(state);
        let (etcd, directory, state) = (etcd.clone(), self.directory.clone(), self.state.clone());
        tokio::spawn(async move {
            let at = clock::monotonic();
            let outcome = match save(&etcd, &directory).await {
                Ok(revision) => State::Taken { at, revision },
                Err(e) => State::Failed(format!("{e:#}")),
            };
            *state.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
            drop(end);
        });
        done
    }
}

/// Streams, syncs, verifies, renames. Gives the store's revision that the snapshot has at least.
async fn save(etcd: &Etcd, directory: &Path) -> Result<u64> {
    let (_, revision) = etcd.read(crate::record::LINEAGE).await?;
    let size = etcd.status().await?.db_size;
    let (path, beside) = (directory.join(FILE), directory.join(format!("{FILE}.new")));
    for old in [&beside, &path] {
        if free(directory)? >= size + MARGIN {
            break;
        }
        remove(old)?;
    }
    let room = free(directory)?;
    ensure!(
        room >= size + MARGIN,
        "the data volume has {} MiB free, and a snapshot needs {} MiB",
        room >> 20,
        (size + MARGIN) >> 20
    );
    remove(&beside)?;
    let mut options = fs_err::OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options.options_mut().mode(0o600);
    let mut file = options.open(&beside)?;
    let mut stream = etcd.snapshot().await?;
    while let Some(piece) = timeout(PIECE, stream.message()).await.context("waiting for etcd's snapshot")?? {
        file.write_all(piece.blob()).with_context(|| format!("writing `{}`", beside.display()))?;
    }
    let (directory, name) = (directory.to_owned(), path.clone());
    // Both take as long as the disk does; the agent goes on answering.
    spawn_blocking(move || {
        file.sync_all()?;
        verify(&mut file).with_context(|| format!("verifying `{}`", beside.display()))?;
        fs_err::rename(&beside, &name)?;
        anyhow::Ok(sync_directory(&directory)?)
    })
    .await
    .context("writing the snapshot")??;
    Ok(revision)
}

/// As `etcdutl snapshot restore` does: whole pages, and after them the sha256 of them all.
///
/// # Errors
/// When it is anything else, or cannot be read.
pub fn verify(file: &mut (impl io::Read + io::Seek)) -> Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    ensure!(
        length > SUM as u64 && length % SECTOR == SUM as u64,
        "{length} bytes are no whole pages with a hash after them"
    );
    file.seek(SeekFrom::Start(0))?;
    let mut pages = file.take(length - SUM as u64);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match pages.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let mut written = [0; SUM];
    pages.into_inner().read_exact(&mut written)?;
    if hasher.finalize()[..] != written {
        bail!("the hash at its end is not that of the pages before it");
    }
    Ok(())
}

fn free(directory: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(directory)
        .with_context(|| format!("asking how much room `{}` has", directory.display()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs_err::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn snapshot(pages: &[u8]) -> Vec<u8> {
        [pages, Sha256::digest(pages).as_slice()].concat()
    }

    #[test]
    fn a_whole_snapshot_verifies_and_none_with_a_bit_flipped_or_a_piece_missing() {
        let whole = snapshot(&[7; 4096]);
        assert!(verify(&mut Cursor::new(&whole)).is_ok());
        for at in [0, 4095, 4096, 4127] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(verify(&mut Cursor::new(&flipped)).is_err(), "bit flipped at {at}");
        }
        for length in [0, 32, 512, 4096, 4127] {
            assert!(verify(&mut Cursor::new(&whole[..length])).is_err(), "cut at {length}");
        }
    }
}
