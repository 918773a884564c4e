//! `kiln store show`: what an entry is, what it was made of, who needs it and who signed it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use kiln_firstboot::digest::Sha256Digest;
use serde::Serialize;

use super::name_of;
use crate::cli::Places;
use crate::store::{Entry, Manifest, Store, read_recipe};
use crate::trust::{self, Depth, Keyring, Standing};

#[derive(Serialize)]
struct Shown<'a> {
    manifest: &'a Manifest,
    /// Bytes on the disk.
    on_disk: u64,
    /// Of an image: the layers of its recipe by name.
    layers: BTreeMap<&'static str, Layer>,
    /// Of an image: fetched inputs of its recipe, and how many of them are in the store.
    inputs: Option<Inputs>,
    /// Keys of images that are made of it.
    images: Vec<String>,
    /// Roots that reach it.
    roots: Vec<String>,
    /// Of an image: where it stands.
    signature: Option<String>,
}

#[derive(Serialize)]
struct Layer {
    key: String,
    present: bool,
}

#[derive(Serialize)]
struct Inputs {
    count: usize,
    present: usize,
    bytes: u64,
}

/// Shows an entry.
pub(super) fn run(places: &Places, store: &Store, entry: &Entry) -> Result<()> {
    let manifest = &entry.manifest;
    let mut shown = Shown {
        manifest,
        on_disk: store.on_disk(&entry.dir)?,
        layers: BTreeMap::new(),
        inputs: None,
        images: Vec::new(),
        roots: Vec::new(),
        signature: None,
    };
    // A layer has no recipe, and a damaged one is told by `verify`.
    if let Ok(recipe) = read_recipe(entry) {
        for (name, key) in recipe.named().into_iter().filter(|(_, key)| *key != manifest.key) {
            shown.layers.insert(name, Layer { key: key.to_string(), present: store.entry_dir(&key).is_dir() });
        }
        let inputs = recipe.inputs();
        let lengths = inputs.iter().filter_map(|input| fs_err::metadata(store.blob_path(input)).ok());
        let (present, bytes) = lengths.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.len()));
        shown.inputs = Some(Inputs { count: inputs.len(), present, bytes });
        shown.signature =
            Some(word(&trust::standing(store, entry, &Keyring::read(&places.signing()?)?, Depth::Small)?));
    }
    let needs = |image: &Entry| {
        let recipe = read_recipe(image).ok()?;
        (image.manifest.key != manifest.key && recipe.named().iter().any(|(_, key)| *key == manifest.key)).then_some(())
    };
    let (entries, _) = store.entries()?;
    shown.images = entries.iter().filter(|e| needs(e).is_some()).map(|e| e.manifest.key.to_string()).collect();
    for root in store.roots()? {
        if store.reached(std::slice::from_ref(&root))?.entries.contains(&manifest.key) {
            shown.roots.push(name_of(&root));
        }
    }
    let text = describe(entry, &shown);
    places.print(&shown, &text)
}

fn word(standing: &Standing) -> String {
    match standing {
        Standing::Trusted { by, key } => format!("by {by}, trusted ({key})"),
        Standing::Stranger { key } => format!("by {key}, which is not trusted here"),
        Standing::Unsigned => "none".into(),
        Standing::Altered { what } => format!("not what was signed: {what}"),
    }
}

fn describe(entry: &Entry, shown: &Shown<'_>) -> String {
    let manifest = shown.manifest;
    let mut text = format!(
        "key     {}\nlayer   {}\nmade    in {:.1} s\nat      {}\nsize    {} bytes, {} on the disk\n",
        manifest.key,
        manifest.layer,
        std::time::Duration::from_millis(manifest.millis).as_secs_f64(),
        entry.dir.display(),
        manifest.bytes(),
        shown.on_disk
    );
    let mut line = |word: &str, rest: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{word:7} {rest}");
    };
    for file in &manifest.files {
        let digest = file.sha256.or(file.sparse).map(|d: Sha256Digest| d.to_string()).unwrap_or_default();
        line("file", format!("{} {} bytes {digest}", file.path, file.bytes));
    }
    for tree in &manifest.trees {
        let digest = manifest.tree_digests.get(tree).map(ToString::to_string).unwrap_or_default();
        line("tree", format!("{tree} {digest}"));
    }
    for (name, layer) in &shown.layers {
        line("of", format!("{name} {}{}", layer.key, if layer.present { "" } else { ", not in the store" }));
    }
    if let Some(inputs) = &shown.inputs {
        line("of", format!("{} inputs, {} in the store with {} bytes", inputs.count, inputs.present, inputs.bytes));
    }
    for image in &shown.images {
        line("in", format!("image {image}"));
    }
    line("root", if shown.roots.is_empty() { "none".into() } else { shown.roots.join(", ") });
    if let Some(signature) = &shown.signature {
        line("signed", signature.clone());
    }
    text
}
