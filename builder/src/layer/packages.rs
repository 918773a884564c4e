//! Layers that are packages unpacked beside the build: the programs that make the disk, and what starts the kernel.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::fetch::{self, Input};
use crate::store::Store;
use crate::tool::Tool;

/// Directory of the unpacked tree in the entry.
pub const ROOT: &str = "root";

/// Unpacks `inputs` over each other into `dir/root`; none of their scripts is run.
///
/// # Errors
/// When one cannot be fetched or unpacked.
pub fn make(store: &Store, inputs: &[Input], dir: &Path, log: &Path) -> Result<Vec<String>> {
    fetch::ensure(store, inputs)?;
    let root = dir.join(ROOT);
    fs_err::create_dir(&root)?;
    for input in inputs {
        unpack(&store.blob_path(&input.sha256), &root)
            .log(log)
            .run()
            .with_context(|| format!("unpacking `{}`", input.what))?;
    }
    Ok(vec![ROOT.to_owned()])
}

/// The command that unpacks one package.
pub fn unpack(deb: &Path, root: &Path) -> Tool {
    Tool::new("dpkg-deb").arg("--extract").arg(deb).arg(root)
}
