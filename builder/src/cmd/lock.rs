//! `kiln lock`: pins every input of a profile's image.
#![expect(clippy::disallowed_methods, reason = "reads the old lock, to leave it alone when nothing changed")]

use anyhow::{Context as _, Result};
use camino::Utf8PathBuf;
use kiln_firstboot::durable;
use serde::Serialize;

use crate::cli::Places;
use crate::lock::Lock;
use crate::profile::Profile;
use crate::store::{Store, explain_full};
use crate::{image_file, lock, resolve};

/// Pin every input of a profile's image
///
/// Asks the package archives through apt (signatures verified, the host's apt untouched) and writes `NAME.lock` beside the profile: every
/// .deb and etcd by name, version, place and sha256. Downloads package lists only; `kiln build` fetches.
///
/// Example: kiln lock lab
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct LockArgs {
    /// Path of a profile, or the bare name of one in profiles/
    profile: String,
}

#[derive(Serialize)]
struct Output {
    lock: String,
    changed: bool,
    packages: usize,
    bytes: u64,
    etcd: Vec<String>,
}

impl LockArgs {
    /// Runs it.
    ///
    /// # Errors
    /// As [`resolve::resolve`]; the old lock then stays as it was.
    pub fn run(self, places: &Places) -> Result<()> {
        let profile = places.profile(&self.profile)?;
        let (resolved, file, changed) = write(places, &profile)?;
        let packages = [&resolved.base, &resolved.boot, &resolved.tools].map(|set| set.iter());
        let packages: Vec<_> = packages.into_iter().flatten().collect();
        let etcd: Vec<String> = resolved.etcd.iter().map(|e| format!("{} ({})", e.version, e.kind.word())).collect();
        let output = Output {
            lock: file.to_string(),
            changed,
            packages: packages.len(),
            bytes: packages.iter().map(|p| p.bytes).sum(),
            etcd,
        };
        let text = format!(
            "{}: {} packages, {} MB; etcd {}{}",
            output.lock,
            output.packages,
            output.bytes.div_ceil(1_000_000),
            output.etcd.join(", else "),
            if changed { "" } else { "; nothing changed" }
        );
        places.print(&output, &text)
    }
}

/// Resolves a profile and writes its lock, if that changes it. Tells where the lock is and whether it changed.
///
/// # Errors
/// As [`resolve::resolve`]; the old lock then stays as it was.
pub fn write(places: &Places, profile: &Profile) -> Result<(Lock, Utf8PathBuf, bool)> {
    let definition = image_file::read(&places.project, profile)?;
    let store = Store::at(places.store()?);
    let resolved = resolve::resolve(&store, profile, &definition)
        .with_context(|| format!("locking `{}`", profile.name))
        .map_err(|error| explain_full(error, store.root()))?;
    let file = lock::path_of(profile);
    let text = resolved.render();
    let changed = !fs_err::read_to_string(&file).is_ok_and(|old| old == text);
    if changed {
        durable::replace(file.as_std_path(), text.as_bytes(), 0o644)
            .with_context(|| format!("writing lock `{file}`"))?;
    }
    Ok((resolved, file, changed))
}
