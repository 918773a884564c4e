//! Where in a raw disk image the root file system lies.
#![expect(clippy::disallowed_methods, reason = "an edge: reads a disk image")]

use std::io::{Read as _, Seek as _, SeekFrom};

use anyhow::{Context as _, bail};
use camino::Utf8Path;

/// Sector size of the images kiln builds.
const SECTOR: u64 = 512;

/// Offset in bytes of partition 1, which is the root on kiln's images as on the stock ones.
///
/// # Errors
/// When the file is no disk with a GPT, or has no partition 1.
pub fn offset(raw: &Utf8Path) -> anyhow::Result<u64> {
    let mut file = fs_err::File::open(raw)?;
    let mut header = [0u8; 92];
    file.seek(SeekFrom::Start(SECTOR))?;
    file.read_exact(&mut header).with_context(|| format!("reading the partition table of `{raw}`"))?;
    if !header.starts_with(b"EFI PART") {
        bail!("`{raw}` has no GUID partition table");
    }
    let mut entry = [0u8; 128];
    file.seek(SeekFrom::Start(word(&header, 72) * SECTOR))?;
    file.read_exact(&mut entry).with_context(|| format!("reading the first partition of `{raw}`"))?;
    match word(&entry, 32) {
        0 => bail!("`{raw}` has no partition 1"),
        first => Ok(first * SECTOR),
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_partition_through_the_header() {
        let scratch = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(scratch.path()).unwrap().join("disk.raw");
        let mut disk = vec![0u8; 4096];
        std::fs::write(&path, &disk).unwrap();
        assert!(offset(&path).unwrap_err().to_string().contains("no GUID partition table"));
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72] = 2;
        disk[1024 + 32..1024 + 34].copy_from_slice(&[0x00, 0x08]);
        std::fs::write(&path, &disk).unwrap();
        assert_eq!(offset(&path).unwrap(), 2048 * 512);
    }
}
