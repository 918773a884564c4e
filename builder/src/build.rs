//! Running a plan: every layer that is not in the store, lowest first.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use kiln_firstboot::digest::Sha256Digest;

use crate::disk::{self, BootSpec, DiskSpec, ToolTree};
use crate::fetch::{self, FetchError};
use crate::layer::{self, LayerReport, base, customized, etcd, hygiene, image, packages};
use crate::lock::{Lock, LockedImage};
use crate::plan::{self, Plan};
use crate::store::{Entry, Manifest, Store};
use crate::trust::crates::Crates;
use crate::trust::installed;
use crate::trust::sbom;

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
    let entry = build_image(store, plan, &mut layers).map_err(|e| crate::store::explain_full(e, store.root()))?;
    let raw = entry.dir.join(image::RAW);
    let shown = if compress {
        let make = |dir: &Path, log: &Path| image::make_compressed(&raw, dir, log);
        layer::ensure_sealed(store, "compressed", &plan.keys.compressed, &mut layers, make, &seal(plan))
            .map_err(|e| crate::store::explain_full(e, store.root()))?
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
    let mut make = || -> Result<Entry> {
        if let Some(entry) = store.entry(&plan.keys.tree)? {
            return Ok(entry);
        }
        let etcd = ensure_etcd(store, plan, &mut layers)?;
        let tools = ensure_tools(store, plan, &mut layers)?;
        let base = ensure_rootfs(store, plan, &tools, &mut layers)?;
        layer::ensure(store, "tree", &plan.keys.tree, &mut layers, |dir, log| {
            image::make_tree(&base.dir.join(base::TAR), &plan.entries(&etcd.dir)?, plan.epoch()?, dir, log)
        })
    };
    let entry = make().map_err(|e| crate::store::explain_full(e, store.root()))?;
    Ok(entry.dir.join(image::ROOT))
}

fn build_image(store: &Store, plan: &Plan, layers: &mut Vec<LayerReport>) -> Result<Entry> {
    let keys = &plan.keys;
    if let Some(entry) = store.entry(&keys.image)? {
        let there = |(name, key): (&str, _)| LayerReport { name: name.into(), key, built: false, seconds: 0.0 };
        layers.extend(plan.recipe.layers().into_iter().map(there));
        return Ok(entry);
    }
    let tools = ensure_tools(store, plan, layers)?;
    let etcd = ensure_etcd(store, plan, layers)?;
    let base = ensure_rootfs(store, plan, &tools, layers)?;
    let base_tar = base.dir.join(base::TAR);
    let looked = layer::ensure(store, "hygiene", &keys.hygiene, layers, |dir, _| hygiene::make(&base_tar, dir))?;
    // All that will be in the image is at hand: what must not be made is refused before the slow layers.
    let entries = plan.entries(&etcd.dir)?;
    let allow = plan.recipe.hygiene.as_ref().map_or(&[][..], |hygiene| &hygiene.allow);
    hygiene::gate(&looked.dir.join(hygiene::FINDINGS), &entries, allow)?;
    // A cloud image starts itself.
    let boot = match plan.recipe.cloud {
        None => Some(ensure_boot(store, plan, &base_tar, &tools, layers)?),
        Some(_) => None,
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
            boot_dir: boot.as_ref().map_or(Path::new(""), |boot| &boot.dir),
            cloud: disk.as_deref(),
            entries: &entries,
            tools: &tools,
            raw: &dir.join(image::RAW),
            log,
        };
        let programs = etcd::PROGRAMS.map(|program| digest_in(&etcd, program).map(|digest| (program, digest)));
        let programs = programs.into_iter().collect::<Result<Vec<_>>>()?;
        let sbom = sbom::render(&plan.recipe, &Crates::of_agent()?, &programs, &installed)?;
        image::make(&spec, &plan.recipe.render()?, &sbom, dir)
    };
    layer::ensure_sealed(store, "image", &keys.image, layers, make, &seal(plan))
}

fn ensure_boot(
    store: &Store,
    plan: &Plan,
    base_tar: &Path,
    tools: &ToolTree,
    layers: &mut Vec<LayerReport>,
) -> Result<Entry> {
    let keys = &plan.keys;
    let boot_packages = layer::ensure(store, "boot-packages", &keys.boot_packages, layers, |dir, log| {
        packages::make(store, &plan.inputs(&plan.lock.boot), dir, log)
    })?;
    let boot_tree = ToolTree::new(boot_packages.dir.join(packages::ROOT));
    layer::ensure(store, "boot", &keys.boot, layers, |dir, log| {
        let spec = BootSpec {
            key: keys.boot,
            epoch: plan.epoch()?,
            vendor: &plan.recipe.boot_vendor,
            command_line: &plan.recipe.command_line,
            esp_mib: plan.recipe.disk.esp_mib.into(),
            boot_mib: plan.recipe.disk.boot_mib.into(),
            root_mib: plan.recipe.disk.root_mib.into(),
            base_tar,
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

fn ensure_etcd(store: &Store, plan: &Plan, layers: &mut Vec<LayerReport>) -> Result<Entry> {
    layer::ensure(store, "etcd", &plan.keys.etcd, layers, |dir, log| {
        etcd::make(store, plan.etcd.kind, &plan.etcd_inputs(), dir, log)
    })
}

fn ensure_tools(store: &Store, plan: &Plan, layers: &mut Vec<LayerReport>) -> Result<ToolTree> {
    let tools = layer::ensure(store, "tools", &plan.keys.tools, layers, |dir, log| {
        packages::make(store, &plan.inputs(&plan.lock.tools), dir, log)
    })?;
    Ok(ToolTree::new(tools.dir.join(packages::ROOT)))
}

/// The entry with the tree that the image's files are put on: the base, or what was made of it or of a cloud image.
fn ensure_rootfs(store: &Store, plan: &Plan, tools: &ToolTree, layers: &mut Vec<LayerReport>) -> Result<Entry> {
    let Some(key) = plan.keys.customized else { return ensure_base(store, plan, layers) };
    if let Some(entry) = store.entry(&key)? {
        layers.push(LayerReport { name: "customized".into(), key, built: false, seconds: 0.0 });
        return Ok(entry);
    }
    let cloud = plan.lock.cloud.as_ref().filter(|_| plan.recipe.cloud.is_some()).map(LockedImage::input);
    let base_tar = match &cloud {
        None => ensure_base(store, plan, layers)?.dir.join(base::TAR),
        Some(_) => PathBuf::new(),
    };
    layer::ensure(store, "customized", &key, layers, |dir, log| {
        if let Some(image) = &cloud {
            fetch::ensure(store, std::slice::from_ref(image))?;
        }
        let image = cloud.as_ref().map_or_else(PathBuf::new, |image| store.blob_path(&image.sha256));
        let packages = plan.added_packages();
        let spec = plan.customize_spec(&packages, (&base_tar, &image), tools, (dir, log))?;
        customized::make(store, &spec.context("the recipe says nothing of what is customized")?)
    })
}

fn ensure_base(store: &Store, plan: &Plan, layers: &mut Vec<LayerReport>) -> Result<Entry> {
    layer::ensure(store, "base", &plan.keys.base, layers, |dir, log| {
        let packages: Vec<_> = plan.lock.base.iter().map(|p| (p.clone(), plan.lock.input(p))).collect();
        let elsewhere = base::work_elsewhere(dir, nix::unistd::geteuid().is_root())?;
        let work = elsewhere.as_ref().map_or(dir, |work| work.path());
        base::make(store, &packages, &plan.base_entries, &plan.base_spec(work, dir), log)
    })
}
