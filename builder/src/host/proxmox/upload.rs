//! The body of an upload, in the one form that the API's parser reads.
//!
//! Proxmox takes an upload apart with regular expressions as it comes in: the length must be said beforehand, `Content-Disposition` must be the first
//! header of each part and written just so, and fields after the file are not looked at. So the file is last, and the body is made by hand.

use std::io::{self, Cursor, Read};

use kiln_firstboot::digest::Sha256Digest;

use crate::host::Watch;

/// An upload: what it is called, what it should be, and the bytes.
pub(super) struct Upload<R> {
    head: Cursor<Vec<u8>>,
    file: R,
    tail: Cursor<Vec<u8>>,
    total: u64,
    boundary: String,
}

impl<R: Read> Upload<R> {
    /// The upload of `bytes` of `file` as `name` into the `import` content of a storage; the host compares the sum.
    ///
    /// `boundary` must not occur in the file, which 128 random bits see to.
    pub(super) fn new(name: &str, sha256: &Sha256Digest, file: R, bytes: u64, boundary: &str) -> Self {
        let boundary = format!("kiln-{boundary}");
        let mut head = String::new();
        for (field, value) in [
            ("content", "import".to_owned()),
            ("checksum-algorithm", "sha256".to_owned()),
            ("checksum", sha256.to_string()),
        ] {
            head += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n");
        }
        head += &format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let total = head.len() as u64 + bytes + tail.len() as u64;
        Self { head: Cursor::new(head.into()), file, tail: Cursor::new(tail.into()), total, boundary }
    }

    /// Its length.
    pub(super) fn length(&self) -> u64 {
        self.total
    }

    /// The value of its `Content-Type`.
    pub(super) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }
}

impl<R: Read> Read for Upload<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut n = self.head.read(buffer)?;
        if n == 0 {
            n = self.file.read(buffer)?;
        }
        if n == 0 {
            n = self.tail.read(buffer)?;
        }
        Ok(n)
    }
}

/// A reader that says how much of it has been read.
pub(super) struct Counted<R> {
    inner: R,
    done: std::sync::mpsc::Sender<u64>,
    bytes: u64,
}

impl<R> Counted<R> {
    /// Counts `inner`, and sends how far it is.
    pub(super) fn new(inner: R, done: std::sync::mpsc::Sender<u64>) -> Self {
        Self { inner, done, bytes: 0 }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes += n as u64;
        // Nobody listens any more when the operator has gone; the upload goes on.
        let _ = self.done.send(self.bytes);
        Ok(n)
    }
}

/// Tells `watch` what `done` hears, until the sender is gone.
pub(super) fn tell(watch: &dyn Watch, done: &std::sync::mpsc::Receiver<u64>, total: u64) {
    for bytes in done {
        watch.progress(bytes.min(total), total);
    }
}
