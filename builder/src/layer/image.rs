//! The image: the base with the image's own files on a disk, raw and qcow2; and the same tree as a directory.
#![expect(clippy::disallowed_methods, reason = "writes the files that lie beside a disk")]

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::disk::{self, DiskSpec, Qcow2, TreeEntry};
use crate::tool::Tool;

/// The disk in the entry.
pub const RAW: &str = "disk.raw";
/// The disk as a qcow2 in the entry.
pub const QCOW2: &str = "disk.qcow2";
/// The recipe in the entry.
pub const RECIPE: &str = "recipe.json";
/// The tree in the entry of the layer `tree`.
pub const ROOT: &str = "root";

/// Makes the image in `dir`.
///
/// # Errors
/// As [`disk::assemble`] and [`disk::convert`].
pub fn make(spec: &DiskSpec<'_>, recipe: &str, dir: &Path) -> Result<Vec<String>> {
    disk::assemble(spec)?;
    disk::convert(&Qcow2 { raw: spec.raw, qcow2: &dir.join(QCOW2), compress: false, log: spec.log })?;
    fs_err::write(dir.join(RECIPE), recipe)?;
    Ok(Vec::new())
}

/// Makes the compressed qcow2 of an image.
///
/// # Errors
/// As [`disk::convert`].
pub fn make_compressed(raw: &Path, dir: &Path, log: &Path) -> Result<Vec<String>> {
    disk::convert(&Qcow2 { raw, qcow2: &dir.join(QCOW2), compress: true, log })?;
    Ok(Vec::new())
}

/// Unpacks the tree of an image into `dir/root`, owners and all. Only root can.
///
/// # Errors
/// When the tree cannot be composed or unpacked.
pub fn make_tree(base_tar: &Path, entries: &[TreeEntry], epoch: u64, dir: &Path, log: &Path) -> Result<Vec<String>> {
    let (tar, root) = (dir.join("tree.tar"), dir.join(ROOT));
    disk::compose(base_tar, entries, epoch, fs_err::File::create(&tar)?.into_file())?;
    fs_err::create_dir(&root)?;
    untar(&tar, &root).log(log).run().context("unpacking the node's tree")?;
    fs_err::remove_file(&tar)?;
    Ok(vec![ROOT.to_owned()])
}

fn untar(tar: &Path, root: &Path) -> Tool {
    Tool::new("tar")
        .args([
            "--extract",
            "--numeric-owner",
            "--same-owner",
            "--preserve-permissions",
            "--xattrs",
            "--xattrs-include=*",
            "--file",
        ])
        .arg(tar)
        .arg("--directory")
        .arg(root)
}
