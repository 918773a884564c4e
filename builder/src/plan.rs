//! Planning a build: reads the project, the lock, the keys' public part and what the store has; writes nothing and asks nobody.
#![expect(clippy::disallowed_methods, reason = "reads the lock, the agent and the image definition's files")]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::image::ImageMeta;

use crate::cluster_files::{self, ClusterIdentity};
use crate::digesting;
use crate::disk::{self, BootSpec, DiskSpec, Qcow2, ToolTree, TreeEntry};
use crate::exit::Refusal;
use crate::fetch::Input;
use crate::image_definition::ImageDefinition;
use crate::layer::base::BaseSpec;
use crate::layer::customized::{CustomizeSpec, Source};
use crate::layer::{self, base, customized, etcd, image, packages};
use crate::lock::{self, Lock, LockedEtcd, LockedImage, LockedPackage};
use crate::profile::Profile;
use crate::recipe::{self, Keys, Recipe, RecipeEtcd};
use crate::store::Store;
use crate::trust::crates::Crates;
use crate::trust::seal::Sealer;

/// What a build is asked to do.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The agent to put into the image.
    pub firstboot: PathBuf,
    /// The cluster's identity.
    pub identity: ClusterIdentity,
    /// Which of the lock's etcd alternates to take.
    pub etcd: usize,
}

/// A build with no choice left.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The recipe.
    pub recipe: Recipe,
    /// Its keys.
    pub keys: Keys,
    /// The lock.
    pub lock: Lock,
    /// The etcd alternate taken.
    pub etcd: LockedEtcd,
    /// Directory of the lock, which its file paths are relative to.
    dir: Utf8PathBuf,
    /// Files put in before packages are configured.
    pub base_entries: Vec<TreeEntry>,
    /// Files of the image layer: the definition's tree, then what the profile says. Without programs and `image.json`.
    image_entries: Vec<TreeEntry>,
    firstboot: PathBuf,
    /// Who signs the image; nobody if absent.
    pub(crate) sealer: Option<Sealer>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// The layer it makes.
    pub layer: String,
    /// The layer's key.
    pub key: Sha256Digest,
    /// Whether it is there already, so that nothing will be done.
    pub done: bool,
    /// Inputs still to be fetched.
    pub fetch: Vec<String>,
    /// The programs it runs, as lines for a shell.
    pub run: Vec<String>,
}

/// Reads the lock of a profile.
///
/// # Errors
/// When there is none, naming `kiln lock`; [`lock::LockError`].
pub fn read_lock(profile: &Profile, definition: &ImageDefinition) -> Result<Lock> {
    let file = lock::path_of(profile);
    let text = match fs_err::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = format!("profile `{}` has no lock `{file}`", profile.name);
            return Err(Refusal::new(what, format!("pin its inputs: kiln lock {}", profile.name)).into());
        }
        other => other?,
    };
    let lock = Lock::parse(&file, &text, &profile.name, &lock::wants(profile, definition))?;
    Ok(lock.with_alternates(definition))
}

/// The etcd alternate that needs no fetching, best first: one whose layer or whose inputs are in the store.
///
/// # Errors
/// When the store is damaged.
pub fn etcd_at_hand(store: &Store, lock: &Lock, dir: &Utf8Path) -> Result<Option<usize>> {
    for (i, etcd) in lock.etcd.iter().enumerate() {
        let key = recipe::etcd_key(&RecipeEtcd::of(etcd));
        let inputs = lock.etcd_inputs(etcd, dir);
        if store.entry(&key)?.is_some() || inputs.iter().all(|input| store.has_blob(&input.sha256)) {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

impl Plan {
    /// Makes the plan.
    ///
    /// # Errors
    /// When the agent or a file of the image definition cannot be read.
    pub fn new(profile: &Profile, definition: &ImageDefinition, lock: Lock, wish: &Wish) -> Result<Self> {
        let etcd = lock.etcd.get(wish.etcd).context("the lock names no etcd")?.clone();
        let read = |tree: &Option<Utf8PathBuf>| {
            tree.as_ref().map_or_else(|| Ok(Vec::new()), |dir| disk::read_tree(dir.as_std_path()))
        };
        let base_entries = read(&definition.base_tree)?;
        let mut image_entries = read(&definition.tree)?;
        image_entries.extend(cluster_files::render(profile, wish.identity)?);
        let image_entries = last_wins(image_entries);
        let firstboot = digest_file(&wish.firstboot).with_context(|| {
            format!(
                "reading the agent `{}`\nhint: build it (make), or say where it is: --firstboot PATH",
                wish.firstboot.display()
            )
        })?;
        let base_files = cluster_files::recorded(&base_entries, digest_file)?;
        let image_files = cluster_files::recorded(&image_entries, digest_file)?;
        let mut recipe = Recipe::new(&profile.name, definition, &lock, &etcd, firstboot, base_files, image_files);
        recipe.crates = Some(Crates::of_agent()?.digest());
        let keys = recipe.keys();
        let dir = lock::path_of(profile).parent().map_or_else(|| ".".into(), Utf8Path::to_owned);
        Ok(Self {
            recipe,
            keys,
            lock,
            etcd,
            dir,
            base_entries,
            image_entries,
            firstboot: wish.firstboot.clone(),
            sealer: None,
        })
    }

    /// The same plan, with the image signed by somebody, or by nobody.
    #[must_use]
    pub fn sealed_by(self, sealer: Option<Sealer>) -> Self {
        Self { sealer, ..self }
    }

    /// Everything that goes on top of the base: the definition's tree, the profile's files, the programs, and `image.json`.
    ///
    /// # Errors
    /// None that is known: JSON of plain facts.
    pub fn entries(&self, etcd_dir: &Path) -> Result<Vec<TreeEntry>> {
        let meta = ImageMeta {
            schema: 1,
            key: self.keys.image,
            definition: self.recipe.definition.clone(),
            etcd_version: self.recipe.etcd.version,
            etcd_source: self.recipe.etcd.source.clone(),
            firstboot: self.recipe.firstboot,
            source_date_epoch: self.recipe.source_date_epoch,
        };
        let mut entries = self.image_entries.clone();
        entries.extend(self.etcd_entries(etcd_dir));
        entries.push(TreeEntry::program("usr/bin/firstboot", &self.firstboot));
        entries.push(TreeEntry::file("usr/lib/kiln/image.json", serde_json::to_string_pretty(&meta)? + "\n"));
        Ok(entries)
    }

    /// Those of [`Plan::entries`] that are etcd's.
    pub fn etcd_entries(&self, etcd_dir: &Path) -> Vec<TreeEntry> {
        etcd::PROGRAMS.map(|p| TreeEntry::program(format!("usr/bin/{p}"), etcd_dir.join(p))).into()
    }

    /// The inputs of etcd.
    pub fn etcd_inputs(&self) -> Vec<Input> {
        self.lock.etcd_inputs(&self.etcd, &self.dir)
    }

    /// Packages as things to fetch.
    pub fn inputs(&self, packages: &[LockedPackage]) -> Vec<Input> {
        packages.iter().map(|p| self.lock.input(p)).collect()
    }

    /// The time of everything, Unix seconds.
    ///
    /// # Errors
    /// When it is before 1970.
    pub fn epoch(&self) -> Result<u64> {
        u64::try_from(self.recipe.source_date_epoch).context("the lock's time is before 1970")
    }

    /// How mmdebstrap is run in `work`, to leave its tar in `dir`.
    pub fn base_spec(&self, work: &Path, dir: &Path) -> BaseSpec<'_> {
        let mut names: Vec<&str> = self.recipe.base_packages.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        BaseSpec {
            names,
            exclude: &self.recipe.exclude,
            include: &self.recipe.include,
            epoch: self.recipe.source_date_epoch,
            work: work.to_owned(),
            tar: dir.join(base::TAR),
            root: nix::unistd::geteuid().is_root(),
        }
    }

    /// The tree that the image's files are put on, as a tar: the base's, or the customized one.
    pub(crate) fn rootfs_key(&self) -> Sha256Digest {
        self.keys.customized.unwrap_or(self.keys.base)
    }

    /// How virt-customize is run, to leave its results in `dir`; nothing where nothing is customized. `packages` are
    /// [`Plan::added_packages`], `base_tar` is the base's and `image` the cloud image as it was fetched, of which one is read.
    ///
    /// # Errors
    /// As [`Plan::epoch`].
    pub(crate) fn customize_spec<'a>(
        &'a self,
        packages: &'a [(LockedPackage, Input)],
        (base_tar, image): (&'a Path, &'a Path),
        tools: &'a ToolTree,
        (dir, log): (&'a Path, &'a Path),
    ) -> Result<Option<CustomizeSpec<'a>>> {
        let (Some(customize), Some(key)) = (&self.recipe.customize, self.keys.customized) else { return Ok(None) };
        let disk = &self.recipe.disk;
        let cloud = self.recipe.cloud.is_some();
        let source = match cloud {
            true => Source::Cloud { image, command_line: &self.recipe.command_line },
            // /boot is in this tree, and what commands add to both before they remove something.
            false => Source::Tree { base_tar, mib: u64::from(disk.root_mib + disk.boot_mib) * 2 },
        };
        // An archive base has its files from the beginning.
        let files = if cloud { &self.base_entries[..] } else { &[] };
        let epoch = self.epoch()?;
        Ok(Some(CustomizeSpec { key, source, customize, packages, files, epoch, tools, dir, log }))
    }

    /// The packages that are added to a cloud image.
    pub(crate) fn added_packages(&self) -> Vec<(LockedPackage, Input)> {
        let packages = self.recipe.cloud.map_or(&[][..], |_| &self.lock.base[..]);
        packages.iter().map(|p| (p.clone(), self.lock.input(p))).collect()
    }

    /// The steps of a build into `store`. Directories that have no name yet are called `store/tmp/LAYER`.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn steps(&self, store: &Store) -> Result<Vec<Step>> {
        let keys = &self.keys;
        let temp = |layer: &str| store.root().join("tmp").join(layer);
        let place = |key: &Sha256Digest, name: &str| store.entry_dir(key).join(name);
        let missing = |inputs: &[Input]| -> Vec<String> {
            inputs.iter().filter(|i| !store.has_blob(&i.sha256)).map(|i| i.origin.clone()).collect()
        };
        let tools = ToolTree::new(place(&keys.tools, packages::ROOT));
        let boot_tree = ToolTree::new(place(&keys.boot_packages, packages::ROOT));
        let base_tar = place(&keys.base, base::TAR);
        let rootfs_tar = place(&self.rootfs_key(), base::TAR);
        let unpacked = |name: &str, inputs: &[Input]| -> Vec<String> {
            let root = temp(name).join(packages::ROOT);
            inputs.iter().map(|i| packages::unpack(&store.blob_path(&i.sha256), &root).line()).collect()
        };
        let boot = BootSpec {
            key: keys.boot,
            epoch: self.epoch()?,
            vendor: &self.recipe.boot_vendor,
            command_line: &self.recipe.command_line,
            esp_mib: self.recipe.disk.esp_mib.into(),
            boot_mib: self.recipe.disk.boot_mib.into(),
            root_mib: self.recipe.disk.root_mib.into(),
            base_tar: &rootfs_tar,
            entries: &[],
            boot_tree: &boot_tree,
            tools: &tools,
            dir: &temp("boot"),
            log: &layer::log_of(store, "boot", &keys.boot),
        };
        let (raw, qcow2) = (temp("image").join(image::RAW), temp("image").join(image::QCOW2));
        let log = layer::log_of(store, "image", &keys.image);
        let cloud_disk = keys.customized.filter(|_| self.recipe.cloud.is_some());
        let cloud_disk = cloud_disk.map(|key| place(&key, customized::DISK));
        let disk = DiskSpec {
            key: keys.image,
            boot_key: keys.boot,
            epoch: self.epoch()?,
            base_tar: &rootfs_tar,
            listed: None,
            boot_dir: &store.entry_dir(&keys.boot),
            cloud: cloud_disk.as_deref(),
            below: &[],
            entries: &[],
            tools: &tools,
            raw: &raw,
            log: &log,
        };
        let mut image_run = disk.plan(&boot);
        image_run.extend(Qcow2 { raw: &raw, qcow2: &qcow2, compress: false, log: &log }.plan());
        let etcd_inputs = self.etcd_inputs();
        let etcd_run =
            etcd_inputs.iter().map(|i| etcd::unpack(self.etcd.kind, &store.blob_path(&i.sha256), &temp("etcd")).line());
        let etcd_run: Vec<String> = etcd_run.collect();
        let (tool_inputs, boot_inputs, base_inputs) =
            (self.inputs(&self.lock.tools), self.inputs(&self.lock.boot), self.inputs(&self.lock.base));
        let added = self.added_packages();
        let image_input = self.lock.cloud.as_ref().map(LockedImage::input);
        let image_blob = image_input.as_ref().map_or_else(PathBuf::new, |image| store.blob_path(&image.sha256));
        let customized_dir = temp("customized");
        let customize =
            self.customize_spec(&added, (&base_tar, &image_blob), &tools, (&customized_dir, &log))?.map(|c| c.plan());
        let customize_inputs: Vec<Input> =
            image_input.into_iter().chain(added.into_iter().map(|(_, input)| input)).collect();
        let step = |name: &str| match name {
            "tools" => (missing(&tool_inputs), unpacked("tools", &tool_inputs)),
            "etcd" => (missing(&etcd_inputs), etcd_run.clone()),
            "base" => (missing(&base_inputs), vec![self.base_spec(&temp("base"), &temp("base")).tool().line()]),
            "customized" => (missing(&customize_inputs), customize.clone().unwrap_or_default()),
            "boot-packages" => (missing(&boot_inputs), unpacked("boot-packages", &boot_inputs)),
            "boot" => (Vec::new(), boot.plan()),
            "image" => (Vec::new(), image_run.clone()),
            _ => (Vec::new(), Vec::new()),
        };
        let whole = store.entry(&keys.image)?.is_some();
        let mut steps = Vec::new();
        for (name, key) in self.recipe.layers() {
            let (fetch, run) = step(name);
            steps.push(Step { layer: name.to_owned(), key, done: whole || store.entry(&key)?.is_some(), fetch, run });
        }
        Ok(steps)
    }
}

/// Of two entries with one path the later, which is the profile's; sorted.
fn last_wins(entries: Vec<TreeEntry>) -> Vec<TreeEntry> {
    let by_path: std::collections::BTreeMap<String, TreeEntry> =
        entries.into_iter().map(|e| (e.path.clone(), e)).collect();
    by_path.into_values().collect()
}

fn digest_file(path: &Path) -> Result<Sha256Digest> {
    Ok(digesting::digest_of(fs_err::File::open(path)?)?.0)
}
