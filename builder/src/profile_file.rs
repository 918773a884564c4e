//! Reads profiles from files.
#![expect(clippy::disallowed_methods, reason = "the one place a profile is read")]

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};

use crate::profile::Profile;

/// The file that a PROFILE on the command line means: a path that ends in `.toml`, or the name of one in `profiles/`.
pub fn locate(project: &Utf8Path, profile: &str) -> Utf8PathBuf {
    if profile.ends_with(".toml") {
        project.join(profile)
    } else {
        project.join("profiles").join(format!("{profile}.toml"))
    }
}

/// Reads and checks a profile. Its warnings are logged.
///
/// # Errors
/// When the file cannot be read, or with all [`crate::problem::Problems`] of it.
pub fn read(project: &Utf8Path, profile: &str) -> anyhow::Result<Profile> {
    let file = locate(project, profile);
    // `-C .` is how almost everyone works: problems then name the file as it is typed.
    let file = file.strip_prefix(".").map(Utf8Path::to_owned).unwrap_or(file);
    let text = fs_err::read_to_string(&file).with_context(|| format!("reading profile `{profile}`"))?;
    let profile = Profile::parse(&file, &text)?;
    profile.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_one_of_the_projects_profiles() {
        assert_eq!(locate(Utf8Path::new("."), "lab"), "./profiles/lab.toml");
        assert_eq!(locate(Utf8Path::new("/p"), "v1.2"), "/p/profiles/v1.2.toml");
        assert_eq!(locate(Utf8Path::new("/p"), "other/lab.toml"), "/p/other/lab.toml");
        assert_eq!(locate(Utf8Path::new("/p"), "/tmp/lab.toml"), "/tmp/lab.toml");
    }
}
