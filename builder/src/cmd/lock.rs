//! `kiln lock`: pins every input of a profile's image.
#![expect(clippy::disallowed_methods, reason = "reads the old lock, which stays unless something is to move")]

use anyhow::{Context as _, Result};
use camino::Utf8PathBuf;
use kiln_firstboot::durable;
use serde::Serialize;

use crate::cli::Places;
use crate::exit::Refusal;
use crate::hazard;
use crate::image_definition::ImageDefinition;
use crate::lock::{Lock, LockError};
use crate::lock_diff::{LockDiff, diff};
use crate::profile::Profile;
use crate::resolve::{EVERYTHING, Part};
use crate::store::{Store, explain_full};
use crate::{image_file, lock, package_move, resolve};

/// Pin every input of a profile's image
///
/// Asks the package archives through apt (signatures verified, the host's apt untouched) and writes `NAME.lock` beside the profile: every
/// .deb and etcd by name, version, place and sha256. Downloads package lists only; `kiln build` fetches. A lock that answers to its profile
/// stays as it is until something is to move: `--update` alone moves everything, `--update etcd` or `--update base` only that part, and
/// `--update NAME` only that package, or the `kernel`, with what must move with it.
///
/// Example: kiln lock lab --update kernel
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct LockArgs {
    /// Path of a profile, or the bare name of one in profiles/
    profile: String,
    /// Move to what the archives have now: everything, or only what is named: `base`, `tools`, `etcd`, `kernel`, any package
    #[arg(long, value_name = "NAME", num_args = 0..)]
    update: Option<Vec<String>>,
}

/// What of a lock is to move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Whole parts.
    pub parts: Vec<Part>,
    /// Single packages.
    pub packages: Vec<String>,
}

impl Moves {
    /// What `--update` and its names ask for; no name asks for everything.
    fn named(names: Vec<String>) -> Self {
        if names.is_empty() {
            return Self { parts: EVERYTHING.to_vec(), packages: Vec::new() };
        }
        let mut moves = Self::default();
        for name in names {
            match <Part as clap::ValueEnum>::from_str(&name, false) {
                Ok(part) => moves.parts.push(part),
                Err(_) => moves.packages.push(name),
            }
        }
        moves
    }
}

#[derive(Serialize)]
struct Output {
    lock: String,
    changed: bool,
    packages: usize,
    bytes: u64,
    etcd: Vec<String>,
    moved: LockDiff,
    hazards: Vec<String>,
}

/// A lock as it is written now.
#[derive(Debug)]
pub struct Written {
    /// What it says.
    pub lock: Lock,
    /// Where it is.
    pub file: Utf8PathBuf,
    /// Whether this call changed it.
    pub changed: bool,
    /// What moved; nothing for a first lock.
    pub moved: LockDiff,
}

impl LockArgs {
    /// Runs it.
    ///
    /// # Errors
    /// As [`write`]; the old lock then stays as it was.
    pub fn run(self, places: &Places) -> Result<()> {
        let profile = places.profile(&self.profile)?;
        let moves = self.update.map(Moves::named);
        let written = write(places, &profile, moves.as_ref())?;
        let packages = [&written.lock.base, &written.lock.boot, &written.lock.tools].map(|set| set.iter());
        let packages: Vec<_> = packages.into_iter().flatten().collect();
        let etcd = written.lock.etcd.iter().map(|e| format!("{} ({})", e.version, e.kind.word())).collect();
        let output = Output {
            lock: written.file.to_string(),
            changed: written.changed,
            packages: packages.len(),
            bytes: packages.iter().map(|p| p.bytes).sum(),
            etcd,
            moved: written.moved,
            hazards: hazards(&written.lock),
        };
        let text = format!(
            "{}: {} packages, {} MB; etcd {}{}\n{}{}",
            output.lock,
            output.packages,
            output.bytes.div_ceil(1_000_000),
            output.etcd.join(", else "),
            match (output.changed, &moves) {
                (true, _) => "",
                (false, Some(_)) => "; nothing changed",
                (false, None) => "; it answers to the profile (`--update` moves it)",
            },
            output.moved.report(),
            output.hazards.iter().map(|line| format!("  hazard {line}\n")).collect::<String>(),
        );
        places.print(&output, &text)
    }
}

/// Writes the lock of a profile where it is missing, answers to other wishes, or something of it is to move.
///
/// # Errors
/// As [`resolve::resolve`] and [`package_move::move_packages`]; a [`Refusal`] when single packages are to move and there is no lock that says
/// where the others stay, or when etcd would go where a running cluster cannot follow. The old lock then stays as it was.
pub fn write(places: &Places, profile: &Profile, moves: Option<&Moves>) -> Result<Written> {
    let definition = image_file::read(&places.project, profile)?;
    let file = lock::path_of(profile);
    let before = read(&file, profile, &definition)?;
    let kept = match (&before, moves) {
        (Some((lock, true)), None) => {
            return Ok(Written { lock: lock.clone(), file, changed: false, moved: LockDiff::default() });
        }
        // What a lock for other wishes has may not be what is wished now.
        (Some((lock, true)), Some(_)) => Some(lock),
        (Some((_, false)) | None, _) => None,
    };
    if let (None, Some(name)) = (kept, moves.and_then(|m| m.packages.first())) {
        let what = format!(
            "there is no lock of `{0}` as it is now, so nothing says where all but `{name}` stay",
            profile.name
        );
        return Err(Refusal::new(what, format!("make the whole lock anew: kiln lock {}", profile.name)).into());
    }
    let store = Store::at(places.store()?);
    let make = || -> Result<Lock> {
        let parts = moves.map_or(&EVERYTHING[..], |m| &m.parts);
        let lock = resolve::resolve(&store, profile, &definition, kept, parts)?;
        match moves.filter(|m| !m.packages.is_empty()) {
            Some(m) => package_move::move_packages(&store, &definition, &lock, &m.packages),
            None => Ok(lock),
        }
    };
    let lock = make()
        .with_context(|| format!("locking `{}`", profile.name))
        .map_err(|error| explain_full(error, store.root()))?;
    let moved = before.as_ref().map(|(before, _)| diff(before, &lock)).unwrap_or_default();
    if let Some((before, _)) = &before {
        legal(before, &lock)?;
    }
    let text = lock.render();
    let changed = !fs_err::read_to_string(&file).is_ok_and(|old| old == text);
    if changed {
        durable::replace(file.as_std_path(), text.as_bytes(), 0o644)
            .with_context(|| format!("writing lock `{file}`"))?;
    }
    Ok(Written { lock, file, changed, moved })
}

/// The lock that is there, and whether it answers to the profile as it is now. One that cannot be read counts as none: it is made anew.
fn read(file: &Utf8PathBuf, profile: &Profile, definition: &ImageDefinition) -> Result<Option<(Lock, bool)>> {
    let text = match fs_err::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let wants = lock::wants(profile, definition);
    match Lock::parse(file, &text, &profile.name, &wants) {
        Ok(lock) => Ok(Some((lock.with_alternates(definition), true))),
        Err(LockError::Stale { wants, .. }) => {
            Ok(Lock::parse(file, &text, &profile.name, &wants).ok().map(|l| (l, false)))
        }
        Err(unreadable @ LockError::Unreadable { .. }) => {
            log::warn!("{unreadable}");
            Ok(None)
        }
    }
}

/// Whether a cluster that runs the old lock's etcd may go on with the new one's: every place it may have come from, to the first that is
/// preferred now.
fn legal(before: &Lock, after: &Lock) -> Result<()> {
    let Some(to) = after.etcd.first() else { return Ok(()) };
    let illegal = before.etcd.first().and_then(|from| hazard::illegal_jump(from.version, to.version));
    let Some(reason) = illegal else { return Ok(()) };
    let remedy = "go in steps that etcd allows; for a cluster that does not run yet, remove the lock and make it anew";
    Err(Refusal::new(reason, remedy).into())
}

fn hazards(lock: &Lock) -> Vec<String> {
    let of =
        |version| hazard::of(version).map(move |h| format!("etcd {version}: {}: {} ({})", h.name, h.harm, h.source));
    lock.etcd.iter().flat_map(|etcd| of(etcd.version)).collect()
}
