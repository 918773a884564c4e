//! Building an image a second time, beside the first, and comparing them.
#![expect(clippy::disallowed_methods, reason = "an edge: reads a recipe, compares files")]

use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;

use crate::build;
use crate::disk::ToolTree;
use crate::disk_diff::{self, Difference};
use crate::layer::{image, packages};
use crate::plan::Plan;
use crate::recipe::Recipe;
use crate::store::Store;
use crate::tool::Tool;

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Files of the image that are the same, byte by byte.
    pub files: Vec<String>,
    /// Where the others differ.
    pub differences: Vec<Difference>,
}

/// Key and profile of an image's entry.
///
/// # Errors
/// When it has no recipe that can be read.
pub fn of_entry(store: &Store, dir: &Path) -> Result<(Sha256Digest, String)> {
    let path = dir.join(image::RECIPE);
    let text = fs_err::read(&path).with_context(|| {
        format!(
            "reading the recipe of an entry of `{}`\nhint: name an image; `kiln store ls` lists them",
            store.root().display()
        )
    })?;
    let recipe: Recipe =
        serde_json::from_slice(&text).with_context(|| format!("reading recipe `{}`", path.display()))?;
    Ok((recipe.keys().image, recipe.profile))
}

/// Builds `plan` in a scratch store under `store`'s `tmp` and compares the image with the one in `store`, which must be built.
///
/// # Errors
/// As [`build::build`]; when a disk cannot be read.
pub fn rebuild(store: &Store, plan: &Plan) -> Result<Verdict> {
    let scratch = store.temp_path("verify")?;
    let second = Store::at(scratch.join("store"));
    // Inputs are shared by name, and the second build checks each against its pin as the first did.
    let blobs = scratch.join("store/blobs");
    fs_err::create_dir_all(&blobs)?;
    fs_err::os::unix::fs::symlink(std::path::absolute(store.root().join("blobs/sha256"))?, blobs.join("sha256"))?;
    // What virt-customize leaves behind is not the same bytes twice: what is proved is all that is made of it.
    if let Some(key) = plan.keys.customized {
        let entries = scratch.join("store/entries");
        fs_err::create_dir_all(&entries)?;
        log::warn!("the layer `customized` is taken as it is: virt-customize does not make the same bytes twice");
        Tool::new("cp").args(["--archive", "--link"]).arg(store.entry_dir(&key)).arg(&entries).run()?;
    }
    // What vouches for an image is no part of it.
    let built = build::build(&second, &plan.clone().sealed_by(None), false)?;
    let first = store.entry(&plan.keys.image)?.context("the image is not in the store")?;
    let again = second.entry(&built.key)?.context("the second image is not in its store")?;
    let mut verdict = Verdict { files: Vec::new(), differences: Vec::new() };
    for file in &again.manifest.files {
        let (a, b) = (first.dir.join(&file.path), again.dir.join(&file.path));
        if same(&a, &b)? {
            verdict.files.push(file.path.clone());
        } else if file.path == image::RAW {
            let tools = ToolTree::new(second.entry_dir(&plan.keys.tools).join(packages::ROOT));
            verdict.differences.extend(disk_diff::diff(&a, &b, &tools, &scratch.join("trees"))?);
        } else {
            let what = "other bytes".to_owned();
            verdict.differences.push(Difference { place: file.path.clone(), file: None, what });
        }
    }
    drop(second);
    let _ = fs_err::remove_dir_all(&scratch);
    Ok(verdict)
}

/// By `cmp`, from beginning to end: a digest would only say what the manifest says.
fn same(a: &Path, b: &Path) -> Result<bool> {
    Ok(Tool::new("cmp").arg("--quiet").arg(a).arg(b).succeeds()?)
}
