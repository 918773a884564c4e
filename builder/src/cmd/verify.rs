//! `kiln verify`: proves that an image is what its recipe makes.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::build::SourceArgs;
use crate::build;
use crate::cli::Places;
use crate::disk_diff::Difference;
use crate::exit::Refusal;
use crate::store::Store;
use crate::verify;

/// Build an image again, from its inputs, and compare every byte
///
/// The second build happens in a scratch store that shares nothing with the first but the fetched inputs, each checked against its pin. Names the
/// partition and the file if something differs. Of an image whose definition has [customize] the layer that virt-customize made is shared
/// too, since it is not the same bytes twice. PROFILE may also be the key of a built image, as long as its profile still makes it.
///
/// Example: kiln verify lab
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct VerifyArgs {
    /// What to verify
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Serialize)]
struct Output {
    key: String,
    identical: bool,
    files: Vec<String>,
    differences: Vec<Difference>,
}

impl VerifyArgs {
    /// Runs it.
    ///
    /// # Errors
    /// When something differs; as [`build::build`]; a [`Refusal`] when a key's profile makes another image now.
    pub fn run(mut self, places: &Places) -> Result<()> {
        let store = Store::at(places.store()?);
        let wanted = match store.find_entry(&self.source.profile)? {
            None => None,
            Some(dir) => {
                let (key, profile) = verify::of_entry(&store, &dir)?;
                self.source.profile = profile;
                Some(key)
            }
        };
        let (profile, plan) = self.source.read(places)?.plan(&store)?;
        if let Some(key) = wanted.filter(|key| *key != plan.keys.image) {
            return Err(Refusal::new(
                format!(
                    "image {key} is not what profile `{}` makes now, so its files are not all at hand",
                    profile.name
                ),
                format!("see what has changed since: kiln explain {key} {}", profile.name),
            )
            .into());
        }
        store.hold()?;
        let first = build::build(&store, &plan, false)?;
        let verdict = verify::rebuild(&store, &plan)?;
        let identical = verdict.differences.is_empty();
        let mut text = String::new();
        for file in &verdict.files {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  same     {file}");
        }
        for difference in &verdict.differences {
            let file = difference.file.as_deref().unwrap_or("-");
            let _ = writeln!(text, "  differs  {}: {file}: {}", difference.place, difference.what);
        }
        let word = if identical { "built twice, the same bytes" } else { "built twice, with different bytes" };
        let text = format!("image {}: {word}\n{text}", first.key);
        let count = verdict.differences.len();
        let output =
            Output { key: first.key.to_string(), identical, files: verdict.files, differences: verdict.differences };
        places.print(&output, &text)?;
        if !identical {
            anyhow::bail!(
                "{count} differences\nhint: what made them is not in the recipe; `kiln store verify` tells whether the first image was changed"
            );
        }
        Ok(())
    }
}
