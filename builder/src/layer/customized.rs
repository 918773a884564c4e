//! A base after its own programs changed it: virt-customize runs [`crate::customize`]'s script in an appliance, with no network.
//!
//! Of packages (an archive base) comes another tar of the tree, and every later layer is made from that one. Of a cloud image comes the same, for
//! those who look into files, and the disk itself, which the image layer goes on with. Neither is the same bytes when it is made again.
#![expect(clippy::disallowed_methods, reason = "lays out what virt-customize is given")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;

use super::base::CLEAN;
use crate::customize::{self, Customize, Script};
use crate::disk::cloud::{self, CloudDisk, TreeDisk};
use crate::disk::{self, ToolTree, TreeEntry};
use crate::fetch::{self, Input};
use crate::lock::LockedPackage;
use crate::store::Store;
use crate::tool::{Tool, ToolError};

/// A cloud image's disk in the entry.
pub const DISK: &str = "disk.raw";
/// How long an appliance may take to start with hardware virtualisation, its making included; without, it takes some 15 seconds on a quick machine.
const STARTS_WITHIN_SECONDS: &str = "40";
/// Memory of the appliance, MiB: an initrd is packed in it.
const MEMORY_MIB: &str = "1024";

/// What is customized.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The tree of an archive base.
    Tree {
        /// Its tar.
        base_tar: &'a Path,
        /// Room for it, MiB.
        mib: u64,
    },
    /// A cloud image.
    Cloud {
        /// The image as it was fetched.
        image: &'a Path,
        /// The kernel's command line behind `root=…`.
        command_line: &'a str,
    },
}

/// One run of virt-customize.
#[derive(Clone, Copy, Debug)]
pub struct CustomizeSpec<'a> {
    /// The layer's key.
    pub key: Sha256Digest,
    /// What is customized.
    pub source: Source<'a>,
    /// The wishes.
    pub customize: &'a Customize,
    /// Packages to install.
    pub packages: &'a [(LockedPackage, Input)],
    /// Files to put in before that.
    pub files: &'a [TreeEntry],
    /// The time of everything, Unix seconds.
    pub epoch: u64,
    /// The unpacked `[tools]` packages.
    pub tools: &'a ToolTree,
    /// An empty directory for the results.
    pub dir: &'a Path,
    /// Where the programs' output goes.
    pub log: &'a Path,
}

impl CustomizeSpec<'_> {
    fn raw(&self) -> PathBuf {
        self.dir.join(DISK)
    }

    fn tar(&self) -> PathBuf {
        self.dir.join(super::base::TAR)
    }

    /// What goes into the base for the time of the run, beside the script.
    fn staged(&self) -> PathBuf {
        self.dir.join(customize::DIRECTORY)
    }

    fn script_file(&self) -> PathBuf {
        self.dir.join("customize.sh")
    }

    /// The script that runs in the base.
    pub fn script(&self) -> String {
        let starts_itself = matches!(self.source, Source::Cloud { .. });
        let epoch = i64::try_from(self.epoch).unwrap_or(i64::MAX);
        Script { customize: self.customize, starts_itself, epoch, clean: CLEAN }.render()
    }

    fn virt_customize(&self) -> Tool {
        Tool::new("virt-customize")
            .args(["--no-network", "--memsize", MEMORY_MIB, "--format", "raw", "-a"])
            .arg(self.raw())
            .args(["--format", "raw", "-a"])
            .arg(self.tar())
            .arg("--copy-in")
            .arg(format!("{}:{}", self.staged().display(), customize::PLACE))
            .arg("--run")
            .arg(self.script_file())
            .env("LIBGUESTFS_BACKEND", "direct")
            // It speaks the caller's language, and its errors are quoted.
            .env("LC_ALL", "C.UTF-8")
    }

    fn tree_disk<'a>(&self, base_tar: &'a Path, mib: u64, raw: &'a Path) -> TreeDisk<'a> {
        TreeDisk { key: self.key, base_tar, raw, mib, epoch: self.epoch }
    }

    /// The programs it takes, as lines for a shell.
    pub fn plan(&self) -> Vec<String> {
        let raw = self.raw();
        let make = match self.source {
            Source::Tree { base_tar, mib } => self.tree_disk(base_tar, mib, &raw).tool(self.tools),
            // Before it is fetched nobody knows its form; Ubuntu's is this one.
            Source::Cloud { image, .. } => {
                cloud::unpack(image, &raw).unwrap_or_else(|_| cloud::unpack_as(cloud::Form::Qcow2, image, &raw))
            }
        };
        vec![make.line(), self.virt_customize().line()]
    }
}

/// Makes the layer.
///
/// # Errors
/// When an input cannot be fetched, the image is not in the layout of the stock one, virt-customize fails, or a file system is damaged afterwards.
pub fn make(store: &Store, spec: &CustomizeSpec<'_>) -> Result<Vec<String>> {
    let inputs: Vec<Input> = spec.packages.iter().map(|(_, input)| input.clone()).collect();
    fetch::ensure(store, &inputs)?;
    let staged = spec.staged();
    fs_err::create_dir(&staged)?;
    let raw = spec.raw();
    let bytes = match spec.source {
        Source::Tree { base_tar, mib } => {
            spec.tree_disk(base_tar, mib, &raw).make(spec.tools, spec.log)?;
            mib << 20
        }
        Source::Cloud { image, command_line } => {
            cloud::unpack(image, &raw)?.log(spec.log).run().context("unpacking the cloud image")?;
            let disk = CloudDisk::find(&raw)?;
            fs_err::write(staged.join(customize::MENU), disk.menu(command_line))?;
            disk.root.extent.length
        }
    };
    stage(store, spec, &staged)?;
    fs_err::write(spec.script_file(), spec.script())?;
    cloud::make_tar_disk(&spec.tar(), customize::MARK, bytes)?;
    log::info!("customized: running virt-customize");
    accelerated(spec.virt_customize(), spec.dir)?.log(spec.log).run().context("customizing the base")?;
    cloud::cut_tar_disk(&spec.tar()).context("reading the customized tree")?;
    match spec.source {
        Source::Tree { .. } => fs_err::remove_file(&raw)?,
        Source::Cloud { .. } => {
            for tool in cloud::trim(&raw, &CloudDisk::find(&raw)?, spec.tools) {
                tool.log(spec.log).run().context("looking over the customized disk")?;
            }
        }
    }
    fs_err::remove_dir_all(&staged)?;
    fs_err::remove_file(spec.script_file())?;
    Ok(Vec::new())
}

/// Lays out files and packages for the run.
fn stage(store: &Store, spec: &CustomizeSpec<'_>, staged: &Path) -> Result<()> {
    if !spec.files.is_empty() {
        // An archive without members to put the files on top of.
        let nothing = staged.join("nothing.tar");
        fs_err::write(&nothing, [0; 1024])?;
        let files = fs_err::File::create(staged.join(customize::FILES))?.into_file();
        disk::compose(&nothing, spec.files, spec.epoch, files)?;
        fs_err::remove_file(&nothing)?;
    }
    if !spec.packages.is_empty() {
        let packages = staged.join(customize::PACKAGES);
        fs_err::create_dir(&packages)?;
        for (package, _) in spec.packages {
            let blob = store.blob_path(&package.sha256);
            let place = packages.join(format!("{}.deb", package.name));
            // Another file system takes a copy.
            if fs_err::hard_link(&blob, &place).is_err() {
                fs_err::copy(&blob, &place)?;
            }
        }
    }
    Ok(())
}

/// The same command, emulated where hardware virtualisation is missing or does not start the appliance, as on some nested hosts.
fn accelerated(tool: Tool, scratch: &Path) -> Result<Tool> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let works = match WORKS.get() {
        Some(works) => *works,
        None => {
            let works = starts_with_kvm(scratch)?;
            if !works {
                log::warn!(
                    "hardware virtualisation does not start virt-customize's appliance here; it is emulated, which takes several times as long"
                );
            }
            *WORKS.get_or_init(|| works)
        }
    };
    Ok(if works { tool } else { tool.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg") })
}

fn starts_with_kvm(scratch: &Path) -> Result<bool> {
    if fs_err::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    let blank = scratch.join("blank");
    fs_err::File::create(&blank)?.set_len(1 << 20)?;
    let probe = Tool::new("timeout")
        .args(["--kill-after=5", STARTS_WITHIN_SECONDS, "virt-filesystems", "--format=raw", "-a"])
        .arg(&blank)
        .env("LIBGUESTFS_BACKEND", "direct")
        .env("LIBGUESTFS_BACKEND_SETTINGS", "force_kvm");
    let works = match probe.succeeds() {
        // Ended by `timeout`, which then ends itself in the same way.
        Err(ToolError::Failed { .. }) => false,
        other => other?,
    };
    fs_err::remove_file(&blank)?;
    Ok(works)
}
