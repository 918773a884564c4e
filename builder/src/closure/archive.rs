//! A closure as one file: a tar with the document and then every chunk, once, in the document's order.
//!
//! The tar is a frame and nothing more: each member must be the one that the document says comes next, by name, kind and length, so that no
//! name of a member is ever a path on this machine.
#![expect(clippy::disallowed_methods, reason = "an edge: reads and writes the file")]

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::{Id128, Sha256Digest};

use super::document::{CHUNK, Closure, MAX_DOCUMENT};
use super::incoming::{Incoming, Received};
use super::outgoing::Outgoing;
use crate::exit::Refusal;
use crate::store::Store;
use crate::trust::Keyring;
use crate::trust::signing_key::SigningKey;

/// The first member.
const DOCUMENT: &str = "kiln.closure";

/// How much was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Chunks.
    pub chunks: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes a closure to `path`, under another name beside it until it is whole and on the disk.
///
/// # Errors
/// When it cannot be read or written; then nothing is left beside `path`, and what was at `path` is there still.
pub fn export(outgoing: &Outgoing, key: &SigningKey, path: &Path) -> Result<Written> {
    let name = path.file_name().context("the file to export to has no name")?.to_string_lossy().into_owned();
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let random = Id128::random().map_err(|_| anyhow::anyhow!("the system gave no randomness"))?;
    let beside = directory.join(format!(".{name}.{random}"));
    let written = write(outgoing, key, &beside).and_then(|written| {
        fs_err::rename(&beside, path)?;
        kiln_firstboot::durable::sync_directory(directory)?;
        Ok(written)
    });
    if written.is_err() {
        // The error that stopped the work is the one to report.
        let _ = fs_err::remove_file(&beside);
    }
    written
}

fn write(outgoing: &Outgoing, key: &SigningKey, path: &Path) -> Result<Written> {
    let file = fs_err::OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut tar = tar::Builder::new(std::io::BufWriter::with_capacity(1 << 20, file));
    append(&mut tar, DOCUMENT, &outgoing.document(key)?)?;
    let mut written = Written { chunks: 0, bytes: 0 };
    for (digest, bytes) in outgoing.closure.chunks() {
        append(&mut tar, &member(&digest), &outgoing.read(&digest)?)?;
        written.chunks += 1;
        written.bytes += bytes;
    }
    let mut buffered = tar.into_inner().context("ending the archive")?;
    buffered.flush().with_context(|| format!("writing `{}`", path.display()))?;
    buffered.get_ref().sync_all()?;
    Ok(written)
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, bytes).with_context(|| format!("writing `{name}`"))
}

fn member(digest: &Sha256Digest) -> String {
    format!("chunks/{digest}")
}

/// Enters a closure from a file. What is there already is compared and not written again, so doing it twice is doing it once.
///
/// # Errors
/// A [`Refusal`] when the file is not what [`export`] writes, to the last byte; then nothing of it has entered the store.
pub fn import(store: &Store, keyring: Keyring, path: &Path) -> Result<Received> {
    let file = fs_err::File::open(path)?;
    let refuse = |what: String| {
        Refusal::new(
            format!("`{}` was not imported: {what}", path.display()),
            "it is none of `kiln store export`, or was damaged or cut short on its way: get it again",
        )
    };
    let mut members = Members(std::io::BufReader::with_capacity(1 << 20, file));
    let first = members.next(DOCUMENT, None, MAX_DOCUMENT).map_err(|error| refuse(format!("{error:#}")))?;
    let signed = Closure::parse(&first).map_err(|error| refuse(format!("{error:#}")))?;
    let chunks = signed.closure.chunks();
    let incoming = Incoming::begin(store, signed, keyring)?;
    for (digest, bytes) in chunks {
        let chunk = members.next(&member(&digest), Some(bytes), CHUNK).map_err(|error| refuse(format!("{error:#}")))?;
        incoming.put(&digest, &chunk)?;
    }
    members.end().map_err(|error| refuse(format!("{error:#}")))?;
    incoming.finish()
}

/// Members of a tar, one after the other. Knows plain files with short names, which is all that is ever written.
struct Members<R>(R);

impl<R: Read> Members<R> {
    /// The bytes of the next member, which must have this name and length.
    fn next(&mut self, name: &str, length: Option<u64>, limit: u64) -> Result<Vec<u8>> {
        let mut header = tar::Header::new_ustar();
        self.0.read_exact(header.as_mut_bytes()).with_context(|| format!("it ends before `{name}`"))?;
        anyhow::ensure!(header.as_bytes().iter().any(|b| *b != 0), "it ends before `{name}`");
        let mut expected = tar::Header::new_ustar();
        let size = header.entry_size().with_context(|| format!("where `{name}` should be is no member"))?;
        expected.set_size(size);
        expected.set_mode(0o644);
        expected.set_path(name).context("naming a member")?;
        expected.set_cksum();
        if header.as_bytes() != expected.as_bytes() {
            let found = header.path_bytes();
            anyhow::bail!("where the file `{name}` should be is `{}`", found.escape_ascii());
        }
        anyhow::ensure!(length.is_none_or(|length| length == size), "`{name}` is to have {size} bytes, which is wrong");
        anyhow::ensure!(size <= limit, "`{name}` is to have {size} bytes, more than {limit}");
        let mut bytes = Vec::new();
        (&mut self.0).take(size).read_to_end(&mut bytes).with_context(|| format!("reading `{name}`"))?;
        anyhow::ensure!(bytes.len() as u64 == size, "it ends within `{name}`");
        self.zeros(size.next_multiple_of(512) - size)?;
        Ok(bytes)
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        let mut bytes = Vec::new();
        (&mut self.0).take(count).read_to_end(&mut bytes).context("reading between members")?;
        anyhow::ensure!(
            bytes.len() as u64 == count && bytes.iter().all(|b| *b == 0),
            "there is something between members"
        );
        Ok(())
    }

    /// Sees that nothing comes any more.
    fn end(&mut self) -> Result<()> {
        self.zeros(1024).context("looking for its end")?;
        let more = self.0.read(&mut [0; 1]).context("looking for its end")?;
        anyhow::ensure!(more == 0, "something comes after its end");
        Ok(())
    }
}
