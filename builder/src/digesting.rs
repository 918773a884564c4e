//! Hashing bytes while they pass, so that nothing is read twice to be checked.

use std::io::{self, Read, Write};

use kiln_firstboot::digest::Sha256Digest;

/// How much is moved at once: large enough that the calls do not show, small enough for a cache.
pub const CHUNK: usize = 256 * 1024;

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
}
