//! Formatting the data disk: only a disk that is positively blank, and so that a power cut at any point can be continued.
//!
//! 1. Blank means: blkid finds no signature, and the first and the last MiB are zero.
//! 2. A *claim* with the volume's label goes into the last sector, which the file system leaves free. One sector is written whole
//!    or not at all.
//! 3. mke2fs; the file system's UUID is derived from environment, cluster and node, so that a volume is known as ours or as foreign
//!    without mounting it, and so without touching it.
//! 4. Mount, write `volume.json`, sync.
//! 5. The claim is erased. Nothing starts before that: a disk with our claim holds nothing yet, and is formatted again.
#![expect(clippy::disallowed_methods, reason = "an edge: block devices are read and written here")]

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use crate::digest::Sha256Digest;
use crate::seed::SeedHeader;
use crate::system::Program;
use crate::volume::VolumeLabel;

/// Label of the file system.
pub const FS_LABEL: &str = "kiln-data";
/// What the file system leaves free at the end of the disk, and how much of both ends must be zero on a blank one.
const MARGIN: u64 = 1 << 20;
const SECTOR: usize = 512;
const MAGIC: &str = "kiln-claim-1 ";

/// What is on the data disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: no signature, both ends zero.
    Blank,
    /// A formatting of ours was cut short.
    Claimed(VolumeLabel),
    /// This node's volume.
    Ours,
    /// Anything else, described.
    Foreign(String),
}

/// The UUID of this node's data volume.
pub fn volume_uuid(header: &SeedHeader) -> String {
    let text = format!("kiln volume\n{}\n{}\n{}\n", header.env, header.cluster, header.fqdn);
    let hex = Sha256Digest::of(text.as_bytes()).to_string();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

/// Finds out what is on `device` without writing to it.
///
/// # Errors
/// When the device cannot be read or blkid cannot tell; that is not a finding of any kind.
pub fn probe(device: &Path, header: &SeedHeader) -> anyhow::Result<Content> {
    if let Some(label) = read_claim(device)? {
        let ours = label.env == header.env && label.cluster == header.cluster && label.fqdn == header.fqdn;
        return Ok(if ours {
            Content::Claimed(label)
        } else {
            Content::Foreign(format!("it was being formatted for {} of cluster {}", label.fqdn, label.cluster))
        });
    }
    let blkid = Program::new("blkid").args(["-p", "-o", "export"]).arg(device.to_string_lossy());
    let ran = blkid.run()?;
    match ran.code {
        Some(0) => {}
        Some(2) => return blank_or_not(device),
        Some(_) | None => return Err(blkid.ended(&ran)).context("asking what is on the data disk"),
    }
    let value = |key: &str| ran.stdout.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or("");
    if value("TYPE") == "ext4" && value("LABEL") == FS_LABEL {
        if value("UUID") == volume_uuid(header) {
            return Ok(Content::Ours);
        }
        return Ok(Content::Foreign(match peek_label(device) {
            Some(label) => format!(
                "it is the data volume of {} of cluster {} (`{}`), this node is {} of cluster {} (`{}`)",
                label.fqdn, label.cluster, label.env, header.fqdn, header.cluster, header.env
            ),
            None => "it is the data volume of another node or cluster".into(),
        }));
    }
    let kinds: Vec<&str> =
        [value("TYPE"), value("PTTYPE"), value("LABEL")].into_iter().filter(|k| !k.is_empty()).collect();
    Ok(Content::Foreign(format!("it has the signature of something else ({})", kinds.join(", "))))
}

/// blkid knows no signature; only zeros at both ends make that a blank disk.
fn blank_or_not(device: &Path) -> anyhow::Result<Content> {
    let mut file = fs_err::File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    ensure!(size >= 4 * MARGIN, "`{}` has only {size} bytes", device.display());
    for start in [0, size - MARGIN] {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        std::io::Read::by_ref(&mut file).take(MARGIN).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != MARGIN {
            bail!("`{}` ends early", device.display());
        }
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            return Ok(Content::Foreign(format!("it has no known signature, but data at byte {}", start + at as u64)));
        }
    }
    Ok(Content::Blank)
}

/// Reads `volume.json` out of an unmounted file system, for a sentence; never decides anything.
fn peek_label(device: &Path) -> Option<VolumeLabel> {
    let debugfs = Program::new("debugfs").args(["-R", "cat volume.json"]).arg(device.to_string_lossy());
    serde_json::from_str(&debugfs.read().ok()?).ok()
}

/// Claims `device` for `label` and makes its file system. The caller mounts it, writes the label and [`release`]s the claim.
///
/// # Errors
/// Whatever failed; the claim is then there or the disk is still blank, and the next boot goes on.
pub fn format(device: &Path, label: &VolumeLabel, header: &SeedHeader) -> anyhow::Result<()> {
    let mut claim = format!("{MAGIC}{}\n", serde_json::to_string(label)?).into_bytes();
    ensure!(claim.len() <= SECTOR, "the names of environment and node are too long for a claim of {SECTOR} bytes");
    claim.resize(SECTOR, 0);
    write_last_sector(device, &claim).context("claiming the data disk")?;
    let size = fs_err::File::open(device)?.seek(SeekFrom::End(0))?;
    let kib = (size - MARGIN) / 1024;
    Program::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-E", "nodiscard", "-L", FS_LABEL, "-U"])
        .arg(volume_uuid(header))
        .arg(device.to_string_lossy())
        .arg(format!("{kib}k"))
        .read()
        .context("formatting the data disk")?;
    Ok(())
}

/// Erases the claim: from now on the volume is what its file system says.
///
/// # Errors
/// When the sector cannot be written; the disk is then formatted again at the next boot, which loses nothing.
pub fn release(device: &Path) -> anyhow::Result<()> {
    write_last_sector(device, &[0; SECTOR]).context("releasing the claim on the data disk")
}

fn write_last_sector(device: &Path, sector: &[u8]) -> anyhow::Result<()> {
    let mut file = fs_err::OpenOptions::new().read(true).write(true).open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    ensure!(size >= 4 * MARGIN, "`{}` has only {size} bytes", device.display());
    file.seek(SeekFrom::Start(size - SECTOR as u64))?;
    file.write_all(sector)?;
    file.sync_all()?;
    Ok(())
}

fn read_claim(device: &Path) -> anyhow::Result<Option<VolumeLabel>> {
    let mut file = fs_err::File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    ensure!(size >= SECTOR as u64, "`{}` has only {size} bytes", device.display());
    file.seek(SeekFrom::Start(size - SECTOR as u64))?;
    let mut sector = [0; SECTOR];
    file.read_exact(&mut sector)?;
    let text = String::from_utf8_lossy(&sector);
    let Some(claim) = text.strip_prefix(MAGIC) else { return Ok(None) };
    Ok(serde_json::from_str(claim.trim_end_matches(['\0', '\n'])).ok())
}
