//! The image: the base with the image's own files on a disk, raw and qcow2; and the same tree as a directory.
#![expect(clippy::disallowed_methods, reason = "writes the files that lie beside a disk")]

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::disk::{self, DiskSpec, Qcow2, TreeEntry};
use crate::store::{self, Made};
use crate::tool::Tool;
use crate::trust::SBOM;

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
pub fn make(spec: &DiskSpec<'_>, recipe: &str, sbom: &str, dir: &Path) -> Result<Made> {
    disk::assemble(spec)?;
    fs_err::write(dir.join(RECIPE), recipe)?;
    fs_err::write(dir.join(SBOM), sbom)?;
    // The raw disk is final: it is hashed on one processor, while the other converts it and hashes the qcow2.
    std::thread::scope(|scope| {
        let hashing = scope.spawn(|| store::hash_file(dir, RAW));
        disk::convert(&Qcow2 { raw: spec.raw, qcow2: &dir.join(QCOW2), compress: false, log: spec.log })?;
        let qcow2 = store::hash_file(dir, QCOW2)?;
        let raw = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Made { trees: Vec::new(), hashed: vec![raw, qcow2] })
    })
}

/// Makes the compressed qcow2 of an image.
///
/// # Errors
/// As [`disk::convert`].
pub fn make_compressed(raw: &Path, dir: &Path, log: &Path) -> Result<Made> {
    disk::convert(&Qcow2 { raw, qcow2: &dir.join(QCOW2), compress: true, log })?;
    Ok(Made::default())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    #[test]
    fn unpacks_the_tree_with_modes_links_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base.tar");
        std::fs::write(&base, [0; 1024]).unwrap();
        // Only root may give files away, so the test keeps its own.
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let own = |mut entry: TreeEntry, mode| {
            (entry.mode, entry.uid, entry.gid) = (mode, uid, gid);
            entry
        };
        let link = disk::Content::Symlink("../run/resolv.conf".into());
        let entries = [
            own(TreeEntry::file("etc", ""), 0o755),
            own(TreeEntry::file("etc/shadow", "secret"), 0o640),
            own(TreeEntry::file("etc/resolv.conf", ""), 0o777),
        ];
        let mut entries = entries;
        entries[0].content = disk::Content::Directory;
        entries[2].content = link;
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let trees = make_tree(&base, &entries, 1_700_000_000, &out, &dir.path().join("log")).unwrap();
        assert_eq!(trees, [ROOT]);
        let shadow = std::fs::metadata(out.join("root/etc/shadow")).unwrap();
        assert_eq!((shadow.permissions().mode() & 0o7777, shadow.mtime()), (0o640, 1_700_000_000));
        assert_eq!(std::fs::read_link(out.join("root/etc/resolv.conf")).unwrap(), Path::new("../run/resolv.conf"));
        assert!(!out.join("tree.tar").exists());
    }
}
