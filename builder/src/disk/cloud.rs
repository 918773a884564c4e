//! A disk that somebody else made, and the disks that virt-customize works on.
//!
//! Of a cloud's disk nothing is assumed but what is written on it: partitions from its table, and which of them is which by the labels of their
//! file systems, which are those of the stock image.
#![expect(clippy::disallowed_methods, reason = "an edge: reads and makes disks")]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use kiln_firstboot::digest::Sha256Digest;

use super::ext4::Ext4;
use super::gpt::{Extent, SECTOR};
use super::gpt_reader::{self, GptError, Header, Partition, SECTOR_BYTES};
use super::{BOOT_LABEL, ROOT_LABEL, ToolTree, archive, grub};
use crate::tool::Tool;

/// What a tar ends with: two blocks of zeros.
const END_MARK: u64 = 1024;
/// Room for a tree's tar beyond the size of its file system: a header for each file, and attributes.
const TAR_ROOM: u64 = 512 << 20;

/// Where what kiln changes is on a cloud's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudDisk {
    /// The root.
    pub root: Partition,
    /// `/boot`, a partition of its own.
    pub boot: Partition,
}

/// The form a cloud image comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The disk as it is.
    Raw,
    /// qcow2, complete in itself.
    Qcow2,
}

impl Form {
    /// qemu-img's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// Tells the form by the first 80 bytes.
    ///
    /// # Errors
    /// For a qcow2 that needs another file: what that holds is pinned by nothing, and its name may be any file of this machine.
    pub fn of(head: &[u8; 80]) -> anyhow::Result<Self> {
        if !head.starts_with(b"QFI\xfb") {
            return Ok(Self::Raw);
        }
        let number = |at: usize| head[at..at + 8].iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        let (backing, version, features) = (number(8), number(0) & 0xffff_ffff, number(72));
        // Bit 2: the data lies in another file (version 3 of the format).
        if backing != 0 || (version >= 3 && features & 4 != 0) {
            bail!(
                "the image is a qcow2 that needs another file, which nothing pins\nhint: make it complete: qemu-img convert -O qcow2 IMAGE COMPLETE, and pin that"
            );
        }
        Ok(Self::Qcow2)
    }
}

/// Reads the partitions of a raw disk, by both copies of its table.
///
/// # Errors
/// [`GptError`]; when the disk cannot be read.
pub fn read_partitions(raw: &Path) -> anyhow::Result<Vec<Partition>> {
    let disk = fs_err::File::open(raw)?.into_file();
    partitions(&disk).with_context(|| format!("reading the partitions of `{}`", raw.display()))
}

fn partitions(disk: &File) -> anyhow::Result<Vec<Partition>> {
    let sectors = disk.metadata()?.len() / SECTOR;
    let header = |at: u64| -> anyhow::Result<(Header, Vec<u8>)> {
        let mut sector = [0; SECTOR_BYTES];
        disk.read_exact_at(&mut sector, at * SECTOR)?;
        let header = Header::parse(&sector, at, sectors)?;
        let Extent { start, length } = header.entries();
        let mut entries = vec![0; usize::try_from(length)?];
        disk.read_exact_at(&mut entries, start)?;
        Ok((header, entries))
    };
    if sectors < 3 {
        return Err(GptError::Broken { which: "first", what: "there is none".into() }.into());
    }
    let (first, entries) = header(1)?;
    let (second, copy) = header(first.other())?;
    Ok(gpt_reader::partitions((&first, &entries), (&second, &copy))?)
}

impl CloudDisk {
    /// Finds root and `/boot` on a raw disk by their labels.
    ///
    /// # Errors
    /// As [`read_partitions`]; when there is not exactly one of each, with what there is instead.
    pub fn find(raw: &Path) -> anyhow::Result<Self> {
        let disk = fs_err::File::open(raw)?.into_file();
        let mut labelled = Vec::new();
        for partition in read_partitions(raw)? {
            labelled.push((ext4_label(&disk, partition.extent)?, partition));
        }
        let only = |label: &str, what: &str| -> anyhow::Result<Partition> {
            let mut with = labelled.iter().filter(|(found, _)| found.as_deref() == Some(label));
            match (with.next(), with.next()) {
                (Some((_, partition)), None) => Ok(partition.clone()),
                (first, _) => {
                    let count = if first.is_none() { "no partition" } else { "more than one partition" };
                    let told = |(label, partition): &(Option<String>, Partition)| {
                        format!(
                            "{}: {}",
                            partition.number,
                            label.as_deref().map_or("no ext4".into(), |l| format!("`{l}`"))
                        )
                    };
                    bail!(
                        "{count} of `{}` has the label `{label}`, which {what} has in the stock image; there is {}\nhint: only images in the layout of Ubuntu's cloud images can be a base",
                        raw.display(),
                        labelled.iter().map(told).collect::<Vec<_>>().join(", ")
                    )
                }
            }
        };
        Ok(Self { root: only(ROOT_LABEL, "the root")?, boot: only(BOOT_LABEL, "/boot")? })
    }

    /// Grub's configuration for it.
    pub fn menu(&self, command_line: &str) -> String {
        grub::menu(self.root.id, command_line)
    }
}

/// The label of the ext4 file system in a stretch of a disk; nothing if there is none.
fn ext4_label(disk: &File, at: Extent) -> io::Result<Option<String>> {
    let mut superblock = [0; 136];
    if at.length < 4096 {
        return Ok(None);
    }
    disk.read_exact_at(&mut superblock, at.start + 1024)?;
    let label = &superblock[120..136];
    let end = label.iter().position(|byte| *byte == 0).unwrap_or(label.len());
    let is_ext4 = superblock[56..58] == [0x53, 0xef];
    Ok(is_ext4.then(|| String::from_utf8_lossy(&label[..end]).into_owned()))
}

/// The qemu-img that makes a raw disk of an image.
///
/// # Errors
/// As [`Form::of`]; when the image cannot be read.
pub fn unpack(image: &Path, raw: &Path) -> anyhow::Result<Tool> {
    let mut head = Vec::new();
    fs_err::File::open(image)?.take(80).read_to_end(&mut head)?;
    head.resize(80, 0);
    let mut fixed = [0; 80];
    fixed.copy_from_slice(&head);
    Ok(unpack_as(Form::of(&fixed)?, image, raw))
}

/// [`unpack`] for an image of that form.
pub fn unpack_as(form: Form, image: &Path, raw: &Path) -> Tool {
    Tool::new("qemu-img").args(["convert", "-f", form.word(), "-O", "raw"]).arg(image).arg(raw)
}

/// The programs that look a file system over, after a kernel wrote to it, and give its free blocks back to the host: nothing that was deleted
/// stays behind on the disk.
pub fn trim(raw: &Path, disk: &CloudDisk, tools: &ToolTree) -> [Tool; 2] {
    [&disk.root, &disk.boot].map(|partition| {
        let mut device = raw.as_os_str().to_owned();
        device.push(format!("?offset={}", partition.extent.start));
        tools.tool("usr/sbin/e2fsck").args(["-f", "-p", "-E", "discard"]).arg(device)
    })
}

/// A disk without partitions that holds a base's whole tree, /boot and /dev too, for its programs to run in.
#[derive(Clone, Copy, Debug)]
pub struct TreeDisk<'a> {
    /// Its identifiers are those of this key.
    pub key: Sha256Digest,
    /// The base.
    pub base_tar: &'a Path,
    /// The disk, to be made as a sparse file.
    pub raw: &'a Path,
    /// Its size.
    pub mib: u64,
    /// The time of everything, Unix seconds.
    pub epoch: u64,
}

impl TreeDisk<'_> {
    fn ext4(&self) -> Ext4<'_> {
        let at = Extent { start: 0, length: self.mib << 20 };
        Ext4 { label: ROOT_LABEL, key: self.key, file: self.raw, at, epoch: self.epoch }
    }

    /// The program that makes it.
    pub fn tool(&self, tools: &ToolTree) -> Tool {
        self.ext4().tool(tools)
    }

    /// Makes it.
    ///
    /// # Errors
    /// When it is too small, or mke2fs fails.
    pub fn make(&self, tools: &ToolTree, log: &Path) -> anyhow::Result<()> {
        let ext4 = self.ext4();
        fs_err::File::create(self.raw)?.set_len(ext4.at.length)?;
        ext4.fill(tools, log, |mut out| {
            let mut tar = fs_err::File::open(self.base_tar)?.into_file();
            io::copy(&mut tar, &mut out).context("writing the base's archive")?;
            Ok(())
        })
    }
}

/// Makes an empty disk with a mark on it that takes the tar of a tree of at most `bytes`.
///
/// # Errors
/// When it cannot be written.
pub fn make_tar_disk(path: &Path, mark: &str, bytes: u64) -> anyhow::Result<()> {
    let mut file = fs_err::File::create(path)?;
    file.write_all(mark.as_bytes())?;
    file.set_len((bytes + TAR_ROOM).next_multiple_of(SECTOR))?;
    Ok(())
}

/// Cuts what [`make_tar_disk`] made to the tar that was written to it.
///
/// # Errors
/// When there is no whole tar on it.
pub fn cut_tar_disk(path: &Path) -> anyhow::Result<()> {
    let (_, members) = archive::open(path)?;
    let end = members.last().context("the tar of the customized tree is empty")?.bytes.end;
    fs_err::OpenOptions::new().write(true).open(path)?.set_len(end + END_MARK)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::gpt::{self, Ids, Layout};
    use crate::disk::ident::Uuid;

    /// A disk with a table and the beginnings of two ext4 file systems, as kiln's own have them.
    fn disk(path: &Path, root_label: &str) {
        let layout = Layout::new(34, 40, 50);
        let ids = Ids { disk: Uuid([9; 16]), partitions: [1, 2, 3, 4].map(|n| Uuid([n; 16])) };
        let table = gpt::render(&layout, &ids);
        let file = fs_err::File::create(path).unwrap().into_file();
        file.set_len(layout.total).unwrap();
        file.write_all_at(&table.primary, SECTOR).unwrap();
        file.write_all_at(&table.backup, table.backup_at).unwrap();
        for (at, label) in [(layout.boot, BOOT_LABEL), (layout.root, root_label)] {
            file.write_all_at(&[0x53, 0xef], at.start + 1024 + 56).unwrap();
            file.write_all_at(label.as_bytes(), at.start + 1024 + 120).unwrap();
        }
    }

    #[test]
    fn root_and_boot_are_found_by_label() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        disk(&path, ROOT_LABEL);
        let found = CloudDisk::find(&path).unwrap();
        assert_eq!((found.root.number, found.boot.number), (1, 16));
        assert!(found.menu("ro").contains("root=PARTUUID=04040404-0404-0404-0404-040404040404 ro\n"));
        disk(&path, "other");
        let error = CloudDisk::find(&path).unwrap_err().to_string();
        assert!(error.starts_with("no partition of ") && error.contains("1: `other`, 14: no ext4"), "{error}");
        disk(&path, BOOT_LABEL);
        assert!(CloudDisk::find(&path).unwrap_err().to_string().starts_with("no partition"));
    }

    #[test]
    fn a_disk_that_is_no_disk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        for bytes in [0, 512, 4096] {
            fs_err::write(&path, vec![0; bytes]).unwrap();
            let error = format!("{:#}", CloudDisk::find(&path).unwrap_err());
            assert!(error.contains("there is none"), "{error}");
        }
    }

    #[test]
    fn a_qcow2_that_needs_another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let create = |more: &[&str], name: &str| {
            Tool::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2"])
                .args(more)
                .arg(at(name))
                .arg("1M")
                .run()
                .unwrap();
        };
        create(&[], "complete");
        create(&["-b", "complete", "-F", "qcow2"], "thin");
        create(&["-o", &format!("data_file={}", at("data").display())], "apart");
        unpack(&at("complete"), &at("raw")).unwrap().run().unwrap();
        assert_eq!(fs_err::metadata(at("raw")).unwrap().len(), 1 << 20);
        for name in ["thin", "apart"] {
            let error = unpack(&at(name), &at("raw")).unwrap_err().to_string();
            assert!(error.starts_with("the image is a qcow2 that needs another file"), "{error}");
        }
        assert!(unpack(&at("raw"), &at("again")).unwrap().line().contains("-f raw"));
    }

    #[test]
    fn a_tar_is_cut_out_of_the_disk_it_was_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tar");
        make_tar_disk(&path, "mark", 1 << 20).unwrap();
        assert!(cut_tar_disk(&path).is_err());
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        builder.append_data(&mut header, "a", &b"abc"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        fs_err::OpenOptions::new().write(true).open(&path).unwrap().into_file().write_all_at(&bytes, 0).unwrap();
        cut_tar_disk(&path).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), bytes);
    }
}
