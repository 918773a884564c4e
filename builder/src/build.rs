//! Running a plan: every layer that is not in the store, lowest first.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use kiln_firstboot::digest::Sha256Digest;

use crate::disk::{self, BootSpec, DiskSpec, ListChanged, ToolTree, TreeEntry};
use crate::exit::Refusal;
use crate::fetch::{self, FetchError};
use crate::layer::soundness::Soundness;
use crate::layer::{self, LayerReport, base, customized, etcd, hygiene, image, packages};
use crate::lock::{Lock, LockedImage};
use crate::plan::{self, Plan};
use crate::store::{Entry, Manifest, Store};
use crate::trust::crates::Crates;
use crate::trust::installed;
use crate::trust::sbom;
use crate::trust::{self, Depth, Keyring, Standing};

/// A finished image.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// Its key.
    pub key: Sha256Digest,
    /// Its qcow2; the compressed one if that was asked for.
    pub image: PathBuf,
    /// Its raw disk, sparse.
    pub raw: PathBuf,
    /// Length of [`Built::image`].
    pub bytes: u64,
    /// What was done.
    pub layers: Vec<LayerReport>,
}

/// Chooses among the lock's etcd alternates and sees that its inputs are in the store: the first at hand, else the first that can be
/// fetched. One that cannot be reached is passed over with a line that says so; one with other bytes than pinned never is.
///
/// # Errors
/// When none can be had.
pub fn choose_etcd(store: &Store, lock: &Lock, dir: &Utf8Path) -> Result<usize> {
    if let Some(i) = plan::etcd_at_hand(store, lock, dir)? {
        return Ok(i);
    }
    let mut passed = Vec::new();
    for (i, etcd) in lock.etcd.iter().enumerate() {
        let last = i + 1 == lock.etcd.len();
        let named = format!("etcd {} ({})", etcd.version, etcd.kind.word());
        log::info!("{named}: fetching it");
        let tries = if last { fetch::Tries::Several } else { fetch::Tries::One };
        match fetch::ensure_with(store, &lock.etcd_inputs(etcd, dir), tries) {
            Ok(_) => return Ok(i),
            Err(error) if matches!(error.downcast_ref(), Some(FetchError::Mismatch { .. }) | None) => {
                return Err(error);
            }
            Err(error) if last => {
                passed.into_iter().for_each(|line| log::warn!("{line}"));
                return Err(error);
            }
            Err(error) => {
                log::warn!("{named} cannot be had, taking the next: {error:#}");
                passed.push(format!("{named}: {error:#}"));
            }
        }
    }
    anyhow::bail!("the lock names no etcd")
}

/// Builds what is missing.
///
/// # Errors
/// The layers' and the store's; a full file system says so with its remedy. What is finished stays, so the next run goes on from there.
pub fn build(store: &Store, plan: &Plan, compress: bool) -> Result<Built> {
    let mut layers = Vec::new();
    let made = soundly(store, &mut layers, |layers, sound| build_image(store, plan, layers, sound));
    let entry = made.map_err(|e| crate::store::explain_full(e, store.root()))?;
    let raw = entry.dir.join(image::RAW);
    let shown = if compress {
        may_be_sealed(store, plan, &entry)?;
        let make = |dir: &Path, log: &Path| image::make_compressed(&raw, dir, log);
        let made = layer::ensure_sealed(store, "compressed", &plan.keys.compressed, &mut layers, make, &seal(plan))
            .map_err(|e| crate::store::explain_full(e, store.root()))?;
        glance(&made)?;
        made
    } else {
        entry
    };
    let bytes = shown.manifest.files.iter().find(|f| f.path == image::QCOW2).map_or(0, |f| f.bytes);
    Ok(Built { key: plan.keys.image, image: shown.dir.join(image::QCOW2), raw, bytes, layers })
}

/// The node's tree as a directory with owners and all, made if it is not in the store. Only root can.
///
/// # Errors
/// As [`build`].
pub fn unpack_tree(store: &Store, plan: &Plan) -> Result<PathBuf> {
    let mut layers = Vec::new();
    let made = soundly(store, &mut layers, |layers, sound| {
        if let Some(entry) = store.entry(&plan.keys.tree)? {
            sound.look(&plan.keys.tree, &entry);
            return Ok(entry);
        }
        let etcd = ensure_etcd(store, plan, layers, sound)?;
        let tools = ensure_tools(store, plan, layers, sound)?;
        let base = ensure_rootfs(store, plan, &tools, layers, sound)?;
        ensure(store, "tree", &plan.keys.tree, layers, sound, |dir, log| {
            image::make_tree(&base.dir.join(base::TAR), &plan.entries(&etcd.dir)?, plan.epoch()?, dir, log)
        })
    });
    let entry = made.map_err(|e| crate::store::explain_full(e, store.root()))?;
    Ok(entry.dir.join(image::ROOT))
}

/// Makes something of layers, whose bytes are checked meanwhile. Where one is damaged, what was made is thrown away, the layer too, and all
/// that is missing is made again, once.
fn soundly(
    store: &Store,
    layers: &mut Vec<LayerReport>,
    make: impl Fn(&mut Vec<LayerReport>, &Soundness) -> Result<Entry>,
) -> Result<Entry> {
    let sound = Soundness::default();
    let result = make(layers, &sound);
    let damaged = sound.into_damaged()?;
    if damaged.is_empty() {
        return result;
    }
    for found in damaged {
        log::warn!("layer `{}` of the store is damaged, so it is made again: {}", found.layer, found.damage);
        store.discard(&found.key)?;
    }
    layers.clear();
    let sound = Soundness::default();
    let result = make(layers, &sound);
    match sound.into_damaged()?.first() {
        None => result,
        Some(found) => anyhow::bail!(
            "layer `{}` has just been made, and is damaged: {}\nhint: the disk or the memory of this machine is failing",
            found.layer,
            found.damage
        ),
    }
}

/// [`layer::ensure`]; one that is there is looked through, and one that is made is kept only if all it may be made of is sound.
fn ensure(
    store: &Store,
    name: &str,
    key: &Sha256Digest,
    layers: &mut Vec<LayerReport>,
    sound: &Soundness,
    make: impl FnOnce(&Path, &Path) -> Result<Vec<String>>,
) -> Result<Entry> {
    let entry = layer::ensure(store, name, key, layers, |dir, log| {
        let trees = make(dir, log)?;
        sound.settle()?;
        Ok(trees)
    })?;
    if layers.last().is_some_and(|layer| !layer.built) {
        sound.look(key, &entry);
    }
    Ok(entry)
}

/// Refuses an image whose small files are not what they were; the disks' bytes are read by whoever runs them.
fn glance(entry: &Entry) -> Result<()> {
    match entry.glance()?.first() {
        None => Ok(()),
        Some(damage) => Err(Refusal::new(
            format!("image {} is damaged: {damage}", entry.manifest.key),
            format!("remove `{}` and build again", entry.dir.display()),
        )
        .into()),
    }
}

/// Whether this home may vouch for something made of an image: it has every byte it had, and no stranger made it.
fn may_be_sealed(store: &Store, plan: &Plan, entry: &Entry) -> Result<()> {
    let Some(sealer) = &plan.sealer else { return Ok(()) };
    if store.entry(&plan.keys.compressed)?.is_some() {
        return Ok(());
    }
    let standing = trust::standing(store, entry, &Keyring::read(&sealer.keys)?, Depth::Whole)?;
    trust::admit(&plan.keys.image, &standing, matches!(standing, Standing::Unsigned)).map_err(Into::into)
}

fn build_image(store: &Store, plan: &Plan, layers: &mut Vec<LayerReport>, sound: &Soundness) -> Result<Entry> {
    let keys = &plan.keys;
    if let Some(entry) = store.entry(&keys.image)? {
        glance(&entry)?;
        let there = |(name, key): (&str, _)| LayerReport { name: name.into(), key, built: false, seconds: 0.0 };
        layers.extend(plan.recipe.layers().into_iter().map(there));
        return Ok(entry);
    }
    let listed = list_of_base(store, plan)?;
    if listed.is_some() {
        sound.spare([keys.base, keys.boot_packages, keys.etcd]);
    }
    let tools = ensure_tools(store, plan, layers, sound)?;
    let etcd = ensure_etcd(store, plan, layers, sound)?;
    let base = ensure_rootfs(store, plan, &tools, layers, sound)?;
    let base_tar = base.dir.join(base::TAR);
    let looked = ensure(store, "hygiene", &keys.hygiene, layers, sound, |dir, _| hygiene::make(&base_tar, dir))?;
    // All that will be in the image is at hand: what must not be made is refused before the slow layers.
    let entries = plan.entries(&etcd.dir)?;
    let allow = plan.recipe.hygiene.as_ref().map_or(&[][..], |hygiene| &hygiene.allow);
    hygiene::gate(&looked.dir.join(hygiene::FINDINGS), &entries, allow)?;
    let (boot, below) = match plan.recipe.cloud {
        None => {
            let below = plan.etcd_entries(&etcd.dir);
            (Some(ensure_boot(store, plan, (&base_tar, &below), &tools, layers, sound)?), below)
        }
        // A cloud image starts itself.
        Some(_) => (None, Vec::new()),
    };
    let disk = plan.recipe.cloud.map(|_| base.dir.join(customized::DISK));
    let installed = match plan.recipe.customize {
        None => Vec::new(),
        Some(_) => installed::read(&base_tar)?,
    };
    let make = |dir: &Path, log: &Path| {
        let spec = DiskSpec {
            key: keys.image,
            boot_key: keys.boot,
            epoch: plan.epoch()?,
            base_tar: &base_tar,
            listed,
            boot_dir: boot.as_ref().map_or(Path::new(""), |boot| &boot.dir),
            cloud: disk.as_deref(),
            entries: &entries,
            below: &below,
            tools: &tools,
            raw: &dir.join(image::RAW),
            log,
        };
        let programs = etcd::PROGRAMS.map(|program| digest_in(&etcd, program).map(|digest| (program, digest)));
        let programs = programs.into_iter().collect::<Result<Vec<_>>>()?;
        let sbom = sbom::render(&plan.recipe, &Crates::of_agent()?, &programs, &installed)?;
        let made = image::make(&spec, &plan.recipe.render()?, &sbom, dir).inspect_err(|error| {
            if error.is::<ListChanged>() {
                sound.read(&keys.base, &base);
            }
        })?;
        sound.settle()?;
        Ok(made)
    };
    layer::ensure_sealed(store, "image", &keys.image, layers, make, &seal(plan))
}

/// What the base lists, where that is all an image reads of it, and nothing of etcd: the boot layer, which has their files, is there, and
/// nothing was customized.
fn list_of_base(store: &Store, plan: &Plan) -> Result<Option<Sha256Digest>> {
    let boot = store.entry(&plan.keys.boot)?;
    match store.entry(&plan.keys.hygiene)? {
        Some(looked) if boot.is_some() && plan.keys.customized.is_none() => hygiene::listed(&looked.dir),
        _ => Ok(None),
    }
}

fn ensure_boot(
    store: &Store,
    plan: &Plan,
    (base_tar, entries): (&Path, &[TreeEntry]),
    tools: &ToolTree,
    layers: &mut Vec<LayerReport>,
    sound: &Soundness,
) -> Result<Entry> {
    let keys = &plan.keys;
    let boot_packages = ensure(store, "boot-packages", &keys.boot_packages, layers, sound, |dir, log| {
        packages::make(store, &plan.inputs(&plan.lock.boot), dir, log)
    })?;
    let boot_tree = ToolTree::new(boot_packages.dir.join(packages::ROOT));
    ensure(store, "boot", &keys.boot, layers, sound, |dir, log| {
        let spec = BootSpec {
            key: keys.boot,
            epoch: plan.epoch()?,
            vendor: &plan.recipe.boot_vendor,
            command_line: &plan.recipe.command_line,
            esp_mib: plan.recipe.disk.esp_mib.into(),
            boot_mib: plan.recipe.disk.boot_mib.into(),
            root_mib: plan.recipe.disk.root_mib.into(),
            base_tar,
            entries,
            boot_tree: &boot_tree,
            tools,
            dir,
            log,
        };
        disk::build_boot(&spec).map(|()| Vec::new())
    })
}

/// Signs an image, if the plan says with what.
fn seal(plan: &Plan) -> impl Fn(&Path, &Manifest) -> Result<()> {
    |dir, manifest| plan.sealer.as_ref().map_or(Ok(()), |sealer| sealer.seal(dir, manifest, &plan.recipe))
}

fn digest_in(entry: &Entry, path: &str) -> Result<Sha256Digest> {
    let file = entry.manifest.files.iter().find(|f| f.path == path);
    file.and_then(|f| f.sha256).with_context(|| format!("`{}` has no `{path}`", entry.dir.display()))
}

fn ensure_etcd(store: &Store, plan: &Plan, layers: &mut Vec<LayerReport>, sound: &Soundness) -> Result<Entry> {
    ensure(store, "etcd", &plan.keys.etcd, layers, sound, |dir, log| {
        etcd::make(store, plan.etcd.kind, &plan.etcd_inputs(), dir, log)
    })
}

fn ensure_tools(store: &Store, plan: &Plan, layers: &mut Vec<LayerReport>, sound: &Soundness) -> Result<ToolTree> {
    let tools = ensure(store, "tools", &plan.keys.tools, layers, sound, |dir, log| {
        packages::make(store, &plan.inputs(&plan.lock.tools), dir, log)
    })?;
    Ok(ToolTree::new(tools.dir.join(packages::ROOT)))
}

/// The entry with the tree that the image's files are put on: the base, or what was made of it or of a cloud image.
fn ensure_rootfs(
    store: &Store,
    plan: &Plan,
    tools: &ToolTree,
    layers: &mut Vec<LayerReport>,
    sound: &Soundness,
) -> Result<Entry> {
    let Some(key) = plan.keys.customized else { return ensure_base(store, plan, layers, sound) };
    if let Some(entry) = store.entry(&key)? {
        layers.push(LayerReport { name: "customized".into(), key, built: false, seconds: 0.0 });
        sound.look(&key, &entry);
        return Ok(entry);
    }
    let cloud = plan.lock.cloud.as_ref().filter(|_| plan.recipe.cloud.is_some()).map(LockedImage::input);
    let base_tar = match &cloud {
        None => ensure_base(store, plan, layers, sound)?.dir.join(base::TAR),
        Some(_) => PathBuf::new(),
    };
    ensure(store, "customized", &key, layers, sound, |dir, log| {
        if let Some(image) = &cloud {
            fetch::ensure(store, std::slice::from_ref(image))?;
        }
        let image = cloud.as_ref().map_or_else(PathBuf::new, |image| store.blob_path(&image.sha256));
        let packages = plan.added_packages();
        let spec = plan.customize_spec(&packages, (&base_tar, &image), tools, (dir, log))?;
        customized::make(store, &spec.context("the recipe says nothing of what is customized")?)
    })
}

fn ensure_base(store: &Store, plan: &Plan, layers: &mut Vec<LayerReport>, sound: &Soundness) -> Result<Entry> {
    ensure(store, "base", &plan.keys.base, layers, sound, |dir, log| {
        let packages: Vec<_> = plan.lock.base.iter().map(|p| (p.clone(), plan.lock.input(p))).collect();
        let elsewhere = base::work_elsewhere(dir, nix::unistd::geteuid().is_root())?;
        let work = elsewhere.as_ref().map_or(dir, |work| work.path());
        base::make(store, &packages, &plan.base_entries, &plan.base_spec(work, dir), log)
    })
}
