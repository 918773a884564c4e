//! `kiln explain`: why two images differ.
#![expect(clippy::disallowed_methods, reason = "reads recipes")]

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use serde::Serialize;

use super::build::SourceArgs;
use crate::cli::Places;
use crate::exit::Refusal;
use crate::recipe::Recipe;
use crate::recipe_diff::{RecipeDiff, diff};
use crate::store::Store;

/// Say why two images differ
///
/// Compares two recipes input by input: layers, values, packages, files. A and B are each a profile (what a build would make now), the key of an
/// image in the store (its first eight digits or more), or the path of a `recipe.json`.
///
/// Example: kiln explain dcccff3f lab
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ExplainArgs {
    /// The one image
    a: String,
    /// The other image
    b: String,
}

#[derive(Serialize)]
struct Output {
    a: String,
    b: String,
    same: bool,
    #[serde(flatten)]
    diff: RecipeDiff,
}

impl ExplainArgs {
    /// Runs it.
    ///
    /// # Errors
    /// When one of them is no image that is known here.
    pub fn run(self, places: &Places) -> Result<()> {
        let store = Store::at(places.store()?);
        let (a, b) = (recipe(places, &store, &self.a)?, recipe(places, &store, &self.b)?);
        let diff = diff(&a, &b);
        let text = if diff.is_empty() {
            format!("one recipe, one image: {}\n", a.keys().image)
        } else {
            format!("{} -> {}\n{}", a.keys().image, b.keys().image, diff.report())
        };
        let (a, b) = (a.keys().image.to_string(), b.keys().image.to_string());
        places.print(&Output { a, b, same: diff.is_empty(), diff }, &text)
    }
}

fn recipe(places: &Places, store: &Store, name: &str) -> Result<Recipe> {
    let file = match store.find_entry(name)? {
        Some(dir) => dir.join("recipe.json"),
        None if name.ends_with(".json") => name.into(),
        None => return of_profile(places, store, name),
    };
    let text = fs_err::read_to_string(&file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if !Utf8Path::new(name).exists() => anyhow::Error::from(Refusal::new(
            format!("entry `{name}` of the store is a layer and no image: it has no recipe"),
            "name an image; `kiln store ls` lists them",
        )),
        _ => error.into(),
    })?;
    serde_json::from_str(&text).with_context(|| format!("reading recipe `{}`", file.display()))
}

fn of_profile(places: &Places, store: &Store, name: &str) -> Result<Recipe> {
    let source = SourceArgs { profile: name.to_owned(), firstboot: None };
    let (_, plan, certain) = source.read(places)?.guess(store)?;
    if !certain {
        log::warn!("`{name}`: taking for granted that its first etcd can be fetched");
    }
    Ok(plan.recipe)
}
