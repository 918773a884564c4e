//! The disk image: GPT with BIOS boot, ESP, /boot and root, made without a loop device and without root.
//!
//! Two layers. [`build_boot`] makes everything that depends on the base and etcd alone: their root file system, that of /boot, the ESP, grub's
//! boot sector and core. [`assemble`] copies the parts onto a disk and puts the image's own files into the root, so that a change of firstboot
//! costs little more than copying the disk. The same spec gives the same bytes: all identifiers come from keys, all times from `epoch`.
//!
//! Pure: `ident`, `gpt`, `gpt_reader`, `bios`, `grub`. Edges: `cloud`, `tool_tree`, `entry`, `archive`, `compose`, `inject`, `ext4`, `esp`, and this file.
#![expect(clippy::disallowed_methods, reason = "writes the disk")]

mod archive;
pub mod bios;
pub mod cloud;
pub mod compose;
pub mod entry;
mod esp;
mod ext4;
pub mod gpt;
pub mod gpt_reader;
pub mod grub;
pub mod ident;
mod inject;
pub mod tool_tree;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use kiln_firstboot::digest::Sha256Digest;
use nix::unistd::Whence;

pub use compose::compose;
pub use entry::{Content, TreeEntry, read_tree};
pub use tool_tree::ToolTree;

use self::cloud::CloudDisk;
use self::esp::Esp;
use self::ext4::Ext4;
use self::gpt::{Extent, Ids, Layout, SECTOR};
use self::ident::Uuid;
use self::inject::Inject;
use crate::tool::Tool;

/// Label of the root, as in the stock cloud image.
const ROOT_LABEL: &str = "cloudimg-rootfs";
/// Label of /boot, as in the stock cloud image.
const BOOT_LABEL: &str = "BOOT";
/// The smallest FAT32 with clusters of one sector; firmware need not read a FAT16 on a disk.
const MIN_ESP_MIB: u64 = 34;

/// What the boot layer is made of.
#[derive(Clone, Copy, Debug)]
pub struct BootSpec<'a> {
    /// The layer's key; [`DiskSpec::boot_key`] is the same one.
    pub key: Sha256Digest,
    /// The time of everything, Unix seconds.
    pub epoch: u64,
    /// The directory the signed grub looks into on the ESP: `ubuntu`, `debian`.
    pub vendor: &'a str,
    /// The kernel's command line behind `root=…`.
    pub command_line: &'a str,
    /// Size of the ESP.
    pub esp_mib: u64,
    /// Size of /boot.
    pub boot_mib: u64,
    /// Size of the root, image's files included.
    pub root_mib: u64,
    /// The base, with kernel and initrd in its /boot.
    pub base_tar: &'a Path,
    /// What goes on top of the base already here: what is large and seldom another.
    pub entries: &'a [TreeEntry],
    /// The unpacked `[boot]` packages.
    pub boot_tree: &'a ToolTree,
    /// The unpacked `[tools]` packages.
    pub tools: &'a ToolTree,
    /// An empty directory for the results.
    pub dir: &'a Path,
    /// Where the programs' output goes.
    pub log: &'a Path,
}

/// What a disk is made of.
#[derive(Clone, Copy, Debug)]
pub struct DiskSpec<'a> {
    /// The image's key.
    pub key: Sha256Digest,
    /// The key of the boot layer.
    pub boot_key: Sha256Digest,
    /// The time of everything, Unix seconds.
    pub epoch: u64,
    /// The base that the boot layer was made of. Only what it lists is read: the files are in the boot layer.
    pub base_tar: &'a Path,
    /// What it must list ([`list_of`]), where its bytes were not checked.
    pub listed: Option<Sha256Digest>,
    /// The boot layer, as [`build_boot`] left it. Not read with a cloud image.
    pub boot_dir: &'a Path,
    /// The customized disk of a cloud image, which is then taken as it is.
    pub cloud: Option<&'a Path>,
    /// What goes on top of the base; of two entries with one path the later wins.
    pub entries: &'a [TreeEntry],
    /// Those of them that the boot layer has ([`BootSpec::entries`]), which stay as they are there. None with a cloud image.
    pub below: &'a [TreeEntry],
    /// The unpacked `[tools]` packages.
    pub tools: &'a ToolTree,
    /// The disk, to be made as a sparse file; meanwhile there is a directory beside it, which stays for inspection when something fails.
    pub raw: &'a Path,
    /// Where it is written what debugfs was asked, line by line.
    pub log: &'a Path,
}

/// A conversion to qcow2.
#[derive(Clone, Copy, Debug)]
pub struct Qcow2<'a> {
    /// The disk.
    pub raw: &'a Path,
    /// To be made.
    pub qcow2: &'a Path,
    /// With zstd: for moving over networks, about ten times as slow to make.
    pub compress: bool,
    /// Where qemu-img's output goes.
    pub log: &'a Path,
}

impl BootSpec<'_> {
    fn boot(&self) -> PathBuf {
        self.dir.join("boot.ext4")
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root.ext4")
    }

    fn esp(&self) -> PathBuf {
        self.dir.join("esp.fat")
    }

    fn mkimage(&self) -> Tool {
        self.boot_tree
            .tool("usr/bin/grub-mkimage")
            .args(["-O", "i386-pc", "-p", "/grub", "-d"])
            .arg(self.boot_tree.path("usr/lib/grub/i386-pc"))
            .arg("-c")
            .arg(self.dir.join("core.cfg"))
            .arg("-o")
            .arg(self.dir.join("core.img"))
            .args(grub::MODULES)
    }

    /// The programs it takes, as lines for a shell.
    pub fn plan(&self) -> Vec<String> {
        let (boot, root, esp) = (self.boot(), self.root(), self.esp());
        let file_systems = [boot_ext4(self, &boot), root_ext4(self, &root)].map(|fs| fs.tool(self.tools));
        let esp = boot_esp(self, &esp).steps(self.tools);
        file_systems.iter().chain([&self.mkimage()]).chain(&esp).map(Tool::line).collect()
    }
}

fn boot_ext4<'a>(spec: &BootSpec<'_>, file: &'a Path) -> Ext4<'a> {
    let at = Extent { start: 0, length: spec.boot_mib << 20 };
    Ext4 { label: BOOT_LABEL, key: spec.key, file, at, epoch: spec.epoch }
}

fn root_ext4<'a>(spec: &BootSpec<'_>, file: &'a Path) -> Ext4<'a> {
    let at = Extent { start: 0, length: spec.root_mib << 20 };
    Ext4 { label: ROOT_LABEL, key: spec.key, file, at, epoch: spec.epoch }
}

fn boot_esp<'a>(spec: &BootSpec<'a>, file: &'a Path) -> Esp<'a> {
    Esp { key: spec.key, mib: spec.esp_mib, vendor: spec.vendor, file, epoch: spec.epoch }
}

/// The root partition's identifier, which the kernel looks for: of the boot layer, since grub's configuration names it.
fn root_partition(boot_key: Sha256Digest) -> Uuid {
    Uuid::derive(boot_key, "root partition")
}

/// Makes the boot layer in `spec.dir`: `root.ext4`, `boot.ext4`, `esp.fat`, `boot.img`, `core.img`.
///
/// # Errors
/// When the base has no kernel or initrd, a boot package lacks a file, a file system is too small, or a program fails.
pub fn build_boot(spec: &BootSpec<'_>) -> anyhow::Result<()> {
    if spec.esp_mib < MIN_ESP_MIB {
        bail!("an ESP of {} MiB is too small for FAT32\nhint: esp_mib must be at least {MIN_ESP_MIB}", spec.esp_mib);
    }
    let (base, members) = archive::open(spec.base_tar)?;
    let kernel = compose::only(&members, "vmlinuz-")?;
    let initrd = compose::only(&members, "initrd.img-")?;
    let (boot, root, esp) = (spec.boot(), spec.root(), spec.esp());
    let root_fs = root_ext4(spec, &root);
    fs_err::File::create(&root)?.set_len(root_fs.at.length)?;
    root_fs.fill(spec.tools, spec.log, |out| compose(spec.base_tar, spec.entries, spec.epoch, out))?;
    let ext4 = boot_ext4(spec, &boot);
    let menu = TreeEntry::file("grub/grub.cfg", grub::menu(root_partition(spec.key), spec.command_line));
    fs_err::File::create(&boot)?.set_len(ext4.at.length)?;
    ext4.fill(spec.tools, spec.log, |out| {
        let mut builder = tar::Builder::new(out);
        compose::append(&mut builder, "grub", None, spec.epoch)?;
        compose::append(&mut builder, &menu.path, Some(&menu), spec.epoch)?;
        for (name, member) in [("initrd.img", initrd), ("vmlinuz", kernel)] {
            let mut header = tar::Header::new_ustar();
            header.set_mtime(spec.epoch);
            header.set_mode(0o600);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(member.data.end - member.data.start);
            let mut data = base.try_clone()?;
            data.seek(SeekFrom::Start(member.data.start))?;
            builder.append_data(&mut header, name, data.take(member.data.end - member.data.start))?;
        }
        builder.into_inner()?.flush()?;
        Ok(())
    })?;
    let finder = grub::finder(ext4.uuid());
    fs_err::write(spec.dir.join("core.cfg"), &finder)?;
    spec.mkimage().log(spec.log).run()?;
    fs_err::copy(spec.boot_tree.path("usr/lib/grub/i386-pc/boot.img"), spec.dir.join("boot.img"))?;
    boot_esp(spec, &esp).make(spec.boot_tree, spec.tools, &finder, spec.log)
}

impl DiskSpec<'_> {
    fn inject(&self, root: Extent) -> Inject<'_> {
        Inject { spec: self, at: root }
    }

    /// The program it takes, as a line for a shell, with the sizes of the boot layer's parts.
    pub fn plan(&self, boot: &BootSpec<'_>) -> Vec<String> {
        let layout = Layout::new(boot.esp_mib, boot.boot_mib, boot.root_mib);
        // Where a cloud image has its root is known once there is its disk.
        let root = match self.cloud {
            None => Some(layout.root),
            Some(disk) => CloudDisk::find(disk).ok().map(|disk| disk.root.extent),
        };
        root.into_iter().map(|root| self.inject(root).tool().line()).collect()
    }
}

/// Makes the disk. Nothing is synced: that is for the caller, who knows when it counts.
///
/// # Errors
/// [`compose::ComposeError`], [`bios::EmbedError`], a root that is too small, a program that fails, a full disk. What was written is left behind.
pub fn assemble(spec: &DiskSpec<'_>) -> anyhow::Result<()> {
    if let Some(disk) = spec.cloud {
        return complete(spec, disk);
    }
    let mut esp = fs_err::File::open(spec.boot_dir.join("esp.fat"))?;
    let mut boot = fs_err::File::open(spec.boot_dir.join("boot.ext4"))?;
    let mut root = fs_err::File::open(spec.boot_dir.join("root.ext4"))?;
    let mib = |file: &fs_err::File| file.metadata().map(|m| m.len() >> 20);
    let layout = Layout::new(mib(&esp)?, mib(&boot)?, mib(&root)?);
    let boot_img = fs_err::read(spec.boot_dir.join("boot.img"))?;
    let core_img = fs_err::read(spec.boot_dir.join("core.img"))?;
    let (code, core) = bios::embed(&boot_img, &core_img, layout.bios)?;
    let ids = Ids {
        disk: Uuid::derive(spec.key, "disk"),
        partitions: [
            Uuid::derive(spec.boot_key, "bios partition"),
            Uuid::derive(spec.boot_key, "esp partition"),
            Uuid::derive(spec.boot_key, "boot partition"),
            root_partition(spec.boot_key),
        ],
    };
    let table = gpt::render(&layout, &ids);
    let mut raw = fs_err::OpenOptions::new().write(true).create_new(true).open(spec.raw)?;
    raw.set_len(layout.total)?;
    let file = raw.file();
    file.write_all_at(&code, 0)?;
    file.write_all_at(&table.protective, bios::CODE_BYTES as u64)?;
    file.write_all_at(&table.primary, SECTOR)?;
    file.write_all_at(&table.backup, table.backup_at)?;
    file.write_all_at(&core, layout.bios.start)?;
    let inject = spec.inject(layout.root);
    // debugfs writes into the root alone, so what lies before it is copied meanwhile; and what is asked of it is laid out while the root is copied.
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| inject.lay_out());
        copy_sparse(root.file_mut(), raw.file_mut(), layout.root.start).context("copying the root into the disk")?;
        asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let injecting = scope.spawn(|| inject.run());
        copy_sparse(esp.file_mut(), raw.file_mut(), layout.esp.start).context("copying the ESP into the disk")?;
        copy_sparse(boot.file_mut(), raw.file_mut(), layout.boot.start).context("copying /boot into the disk")?;
        injecting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A cloud image's disk with the image's files in its root.
fn complete(spec: &DiskSpec<'_>, disk: &Path) -> anyhow::Result<()> {
    let root = CloudDisk::find(disk)?.root.extent;
    let mut from = fs_err::File::open(disk)?;
    let mut raw = fs_err::OpenOptions::new().write(true).create_new(true).open(spec.raw)?;
    raw.set_len(from.metadata()?.len())?;
    let inject = spec.inject(root);
    inject.lay_out()?;
    copy_sparse(from.file_mut(), raw.file_mut(), 0).context("copying the cloud image's disk")?;
    inject.run()
}

/// The base no longer lists what it did: its bytes are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the base lists other files than it did when it was made")]
pub struct ListChanged;

/// A digest of what a base's tar lists, its files' contents aside.
///
/// # Errors
/// When it is no tar, or cannot be read.
pub fn list_of(base_tar: &Path) -> anyhow::Result<Sha256Digest> {
    archive::digest_of_list(base_tar)
}

/// Copies what is not a hole to `at` in another file, whose bytes there are zero.
fn copy_sparse(from: &mut File, to: &mut File, at: u64) -> io::Result<()> {
    let end = from.metadata()?.len();
    let mut position = 0;
    while position < end {
        let start = match seek(from, position, Whence::SeekData) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(nix::errno::Errno::ENXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        position = seek(from, start, Whence::SeekHole)?;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(at + start))?;
        let copied = io::copy(&mut (&mut *from).take(position - start), to)?;
        if copied != position - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn seek(file: &File, position: u64, whence: Whence) -> Result<u64, nix::errno::Errno> {
    let offset = i64::try_from(position).map_err(|_| nix::errno::Errno::EOVERFLOW)?;
    let found = nix::unistd::lseek(file, offset, whence)?;
    u64::try_from(found).map_err(|_| nix::errno::Errno::EOVERFLOW)
}

impl Qcow2<'_> {
    fn tool(&self) -> Tool {
        let tool = Tool::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]);
        let tool = if self.compress { tool.args(["-c", "-o", "compression_type=zstd"]) } else { tool };
        tool.arg(self.raw).arg(self.qcow2)
    }

    /// The program it takes, as a line for a shell.
    pub fn plan(&self) -> Vec<String> {
        vec![self.tool().line()]
    }
}

/// Makes the qcow2.
///
/// # Errors
/// When qemu-img fails.
pub fn convert(spec: &Qcow2<'_>) -> anyhow::Result<()> {
    spec.tool().log(spec.log).run().with_context(|| format!("converting `{}` to qcow2", spec.raw.display()))
}
