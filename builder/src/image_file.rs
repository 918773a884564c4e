//! Reads image definitions from files.
#![expect(clippy::disallowed_methods, reason = "the one place an image definition is read")]

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use crate::image_definition::ImageDefinition;
use crate::profile::Profile;

/// Reads and checks the image definition that a profile names, `images/NAME.toml` of the project.
///
/// # Errors
/// When there is no such definition, or with all [`crate::problem::Problems`] of it.
pub fn read(project: &Utf8Path, profile: &Profile) -> Result<ImageDefinition> {
    let file = project.join("images").join(format!("{}.toml", profile.image));
    let file = file.strip_prefix(".").map(Utf8Path::to_owned).unwrap_or(file);
    let text = fs_err::read_to_string(&file).with_context(|| {
        format!(
            "reading image definition `{}`, which profile `{}` names\nhint: the definitions are the files images/*.toml of the project (-C DIR)",
            profile.image, profile.name
        )
    })?;
    Ok(ImageDefinition::parse(&file, &text)?)
}
