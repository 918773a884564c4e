//! etcd's three programs, out of a release tarball or a distribution's packages.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::packages;
use crate::fetch::{self, Input};
use crate::lock::EtcdKind;
use crate::store::Store;
use crate::tool::Tool;

/// What a node needs of etcd.
pub const PROGRAMS: [&str; 3] = ["etcd", "etcdctl", "etcdutl"];

/// Puts the programs into `dir`.
///
/// # Errors
/// When an input cannot be fetched or unpacked, or lacks a program.
pub fn make(store: &Store, kind: EtcdKind, inputs: &[Input], dir: &Path, log: &Path) -> Result<Vec<String>> {
    fetch::ensure(store, inputs)?;
    let work = dir.join("unpacked");
    fs_err::create_dir(&work)?;
    for input in inputs {
        let tool = unpack(kind, &store.blob_path(&input.sha256), &work);
        tool.log(log).run().with_context(|| format!("unpacking `{}`", input.what))?;
    }
    for program in PROGRAMS {
        let found = find(kind, &work, program)?;
        let place = dir.join(program);
        fs_err::copy(&found, &place)?;
        fs_err::set_permissions(&place, PermissionsExt::from_mode(0o755))?;
    }
    fs_err::remove_dir_all(&work)?;
    Ok(Vec::new())
}

/// The command that unpacks one input.
pub fn unpack(kind: EtcdKind, input: &Path, work: &Path) -> Tool {
    match kind {
        EtcdKind::Packages => packages::unpack(input, work),
        EtcdKind::Release | EtcdKind::Url | EtcdKind::File => Tool::new("tar")
            .args(["--extract", "--gzip", "--no-same-owner", "--strip-components=1", "--file"])
            .arg(input)
            .arg("--directory")
            .arg(work),
    }
}

fn find(kind: EtcdKind, work: &Path, program: &str) -> Result<PathBuf> {
    let path = match kind {
        EtcdKind::Packages => work.join("usr/bin").join(program),
        EtcdKind::Release | EtcdKind::Url | EtcdKind::File => work.join(program),
    };
    // A link would be followed out of the directory.
    if !fs_err::symlink_metadata(&path).is_ok_and(|m| m.is_file()) {
        bail!(
            "there is no program `{program}` in it\nhint: etcd must come in the layout of the upstream release, with {}",
            PROGRAMS.join(", ")
        );
    }
    Ok(path)
}
