//! The EFI system partition: the distribution's signed shim and grub, and the file that tells this grub where /boot is.
#![expect(clippy::disallowed_methods, reason = "lays out the files that mtools copies")]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use kiln_firstboot::digest::Sha256Digest;

use super::ident::fat_serial;
use super::tool_tree::ToolTree;
use crate::tool::Tool;

/// Shim's names in its package, the newest first: Ubuntu keeps two signatures of it, Debian one.
const SHIM: [&str; 3] = [
    "usr/lib/shim/shimx64.efi.signed.latest",
    "usr/lib/shim/shimx64.efi.signed",
    "usr/lib/shim/shimx64.efi.dualsigned",
];
const GRUB: [&str; 1] = ["usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"];
/// Enrols keys; shim starts it when a machine's owner asked for that.
const MOK_MANAGER: [&str; 2] = ["usr/lib/shim/mmx64.efi.signed", "usr/lib/shim/mmx64.efi"];

/// A partition to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Esp<'a> {
    /// Its serial number is of this key.
    pub key: Sha256Digest,
    /// Size.
    pub mib: u64,
    /// The directory the signed grub looks into, `EFI/ubuntu`.
    pub vendor: &'a str,
    /// The file it is made in; beside it a directory holds, meanwhile, what goes in.
    pub file: &'a Path,
    /// The time of all files, Unix seconds.
    pub epoch: u64,
}

impl Esp<'_> {
    fn staged(&self) -> PathBuf {
        self.file.with_extension("d")
    }

    /// The programs that make it, in order.
    pub(super) fn steps(&self, tools: &ToolTree) -> [Tool; 4] {
        let mtool = |name: &str| {
            tools
                .tool(&format!("usr/bin/{name}"))
                .arg("-i")
                .arg(self.file)
                .env("MTOOLSRC", "/dev/null")
                .env("MTOOLS_SKIP_CHECK", "1")
                .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
        };
        let sectors = (self.mib * 2048).to_string();
        let vendor = format!("::EFI/{}", self.vendor);
        [
            mtool("mformat").args([
                "-F",
                "-v",
                "UEFI",
                "-N",
                &fat_serial(self.key),
                "-T",
                &sectors,
                "-h",
                "64",
                "-s",
                "32",
                "-c",
                "1",
                "::",
            ]),
            mtool("mmd").args(["::EFI", "::EFI/BOOT", &vendor]),
            // -m keeps the times of the files.
            mtool("mcopy")
                .arg("-m")
                .args(["BOOTX64.EFI", "grubx64.efi", "mmx64.efi"].map(|name| self.staged().join(name)))
                .arg("::EFI/BOOT/"),
            mtool("mcopy").arg("-m").arg(self.staged().join("grub.cfg")).arg(format!("{vendor}/")),
        ]
    }

    /// Makes it. `finder` is grub's first configuration.
    ///
    /// # Errors
    /// When a boot package lacks its file, the disk is full, or mtools fails.
    pub(super) fn make(&self, boot_tree: &ToolTree, tools: &ToolTree, finder: &str, log: &Path) -> anyhow::Result<()> {
        let dir = self.staged();
        fs_err::create_dir(&dir)?;
        for (candidates, name) in
            [(&SHIM[..], "BOOTX64.EFI"), (&GRUB[..], "grubx64.efi"), (&MOK_MANAGER[..], "mmx64.efi")]
        {
            fs_err::copy(first_of(boot_tree, candidates)?, dir.join(name))?;
        }
        fs_err::write(dir.join("grub.cfg"), finder)?;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.epoch);
        for name in ["BOOTX64.EFI", "grubx64.efi", "mmx64.efi", "grub.cfg"] {
            fs_err::OpenOptions::new().write(true).open(dir.join(name))?.set_modified(time)?;
        }
        fs_err::File::create(self.file)?.set_len(self.mib << 20)?;
        for step in self.steps(tools) {
            step.log(log).run()?;
        }
        fs_err::remove_dir_all(&dir).context("removing what was copied to the ESP")
    }
}

fn first_of(tree: &ToolTree, candidates: &[&str]) -> anyhow::Result<PathBuf> {
    let found = candidates.iter().map(|c| tree.path(c)).find(|p| p.is_file());
    found.with_context(|| {
        format!("the boot packages have no `{}`\nhint: see [boot] in the image definition", candidates[0])
    })
}
