//! Hashing bytes while they pass, so that nothing is read twice to be checked.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;

use kiln_firstboot::digest::Sha256Digest;

/// How much is moved at once: large enough that the calls do not show, small enough for a cache.
pub const CHUNK: usize = 256 * 1024;

/// The grain of [`sparse_digest_of`]: the block of the file systems we make.
pub const PIECE: usize = 4096;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// A writer that hashes and counts what goes through it.
pub struct Hashing<W> {
    inner: W,
    context: ring::digest::Context,
    bytes: u64,
}

impl<W> std::fmt::Debug for Hashing<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashing").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<W> Hashing<W> {
    /// Starts at no bytes.
    pub fn new(inner: W) -> Self {
        Self { inner, context: ring::digest::Context::new(&ring::digest::SHA256), bytes: 0 }
    }

    /// How many bytes have passed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The inner writer and what has passed: digest and bytes.
    pub fn finish(self) -> (W, Sha256Digest, u64) {
        (self.inner, digest(self.context), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.context.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Digest and length of everything `reader` gives.
///
/// # Errors
/// The reader's.
pub fn digest_of(mut reader: impl Read) -> io::Result<(Sha256Digest, u64)> {
    let mut hashing = Hashing::new(io::sink());
    copy(&mut reader, &mut hashing)?;
    let (_, digest, bytes) = hashing.finish();
    Ok((digest, bytes))
}

/// `io::copy` with a buffer that suits hashing.
///
/// # Errors
/// The reader's and the writer's.
pub fn copy(reader: &mut impl Read, writer: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        writer.write_all(&buffer[..n])?;
        total += n as u64;
    }
}

/// Digest of the bytes of a sparse file that are not zero, each with its place; and the file's length.
///
/// A disk is mostly holes, and plain sha256 would spend most of its time on them. This digest depends on the content alone: a hole and written
/// zeros are the same to it. Pieces of [`PIECE`] bytes that hold anything but zeros are framed by their offset.
///
/// # Errors
/// When the file cannot be read.
pub fn sparse_digest_of(file: &std::fs::File) -> io::Result<(Sha256Digest, u64)> {
    let length = file.metadata()?.len();
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"kiln sparse 1");
    context.update(&length.to_be_bytes());
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while let Some(data) = next_data(file, at)? {
        // Pieces lie on fixed borders, wherever the file system put its holes.
        at = data - data % CHUNK as u64;
        let want = usize::try_from((length - at).min(CHUNK as u64)).unwrap_or(CHUNK);
        file.read_exact_at(&mut buffer[..want], at)?;
        for (i, piece) in buffer[..want].chunks(PIECE).enumerate() {
            if *piece != ZEROS[..piece.len()] {
                context.update(&(at + (i * PIECE) as u64).to_be_bytes());
                context.update(piece);
            }
        }
        at += CHUNK as u64;
        if at >= length {
            break;
        }
    }
    Ok((digest(context), length))
}

/// Where data begins at or after `at`; nothing if only a hole is left.
fn next_data(file: &std::fs::File, at: u64) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(io::Error::other)?;
    match nix::unistd::lseek(file, at, nix::unistd::Whence::SeekData) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn digest(context: ring::digest::Context) -> Sha256Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Sha256Digest(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_contracts_digest() {
        let text = vec![7u8; CHUNK + 3];
        assert_eq!(digest_of(text.as_slice()).unwrap(), (Sha256Digest::of(&text), text.len() as u64));
    }

    #[test]
    fn holes_and_zeros_are_the_same_and_places_count() {
        let digest = |write: &dyn Fn(&std::fs::File)| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(3 * CHUNK as u64 + 10).unwrap();
            write(&file);
            sparse_digest_of(&file).unwrap()
        };
        let hole = digest(&|_| {});
        assert_eq!(hole.1, 3 * CHUNK as u64 + 10);
        assert_eq!(digest(&|f| f.write_all_at(&vec![0; 2 * CHUNK], 5000).unwrap()), hole);
        let one = digest(&|f| f.write_all_at(b"x", 2 * CHUNK as u64 + 5).unwrap());
        let other = digest(&|f| f.write_all_at(b"x", 2 * CHUNK as u64 + 5 + PIECE as u64).unwrap());
        let last = digest(&|f| f.write_all_at(b"x", 3 * CHUNK as u64 + 9).unwrap());
        assert_eq!([&hole, &one, &other, &last].iter().collect::<std::collections::HashSet<_>>().len(), 4);
        // Written zeros beside the byte make no difference.
        let padded = digest(&|f| {
            f.write_all_at(&vec![0; 2 * CHUNK], 0).unwrap();
            f.write_all_at(b"x", 2 * CHUNK as u64 + 5).unwrap();
        });
        assert_eq!(padded, one);
    }
}
