//! A recipe: image definition, profile and lock with no choice left. Whatever is not in it has no influence on the image.
//!
//! Printed as JSON beside the image for people and for `kiln explain`; hashed by our own framing into the keys of the layers.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::version::EtcdVersion;
use serde::{Deserialize, Serialize};

use crate::customize::Customize;
use crate::hygiene::{self, Allowance};
use crate::image_definition::ImageDefinition;
use crate::key::{BUILD_FORMAT, KeyHasher};
use crate::lock::{Lock, LockedEtcd, LockedPackage};

/// Everything an image is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// 1.
    pub schema: u32,
    /// How its keys are derived: [`BUILD_FORMAT`] of the kiln that made it. In format 1, etcd came in with the image layer.
    pub build_format: u32,
    /// Name of the profile.
    pub profile: String,
    /// Name of the image definition.
    pub definition: String,
    /// The time that files of the image carry, Unix seconds.
    pub source_date_epoch: i64,
    /// Packages installed in the base; in a cloud image exactly those that are added.
    pub base_packages: Vec<RecipePackage>,
    /// Files put in before they are configured.
    pub base_files: Vec<RecipeFile>,
    /// Paths dpkg leaves out.
    pub exclude: Vec<String>,
    /// Paths dpkg keeps all the same.
    pub include: Vec<String>,
    /// Packages that start the kernel.
    pub boot_packages: Vec<RecipePackage>,
    /// Directory of the signed grub's configuration.
    pub boot_vendor: String,
    /// Kernel command line, without `root=`.
    pub command_line: String,
    /// Packages with the programs that make the disk.
    pub tool_packages: Vec<RecipePackage>,
    /// Sizes of the partitions; all 0 with a cloud image, which keeps its own.
    pub disk: RecipeDisk,
    /// The etcd that was taken.
    pub etcd: RecipeEtcd,
    /// sha256 of the agent.
    pub firstboot: Sha256Digest,
    /// Files put on the node by the image layer, without the programs and without `image.json`, which names the key.
    pub image_files: Vec<RecipeFile>,
    /// sha256 of the cloud image that is the base; none when it is installed from packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Sha256Digest>,
    /// What is done inside the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customize: Option<Customize>,
    /// What the gate was told. None in recipes of before there was a gate, whose keys stay what they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hygiene: Option<RecipeHygiene>,
    /// Digest of the agent's list of crates, which the bill of materials repeats. None as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crates: Option<Sha256Digest>,
}

/// What the gate was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeHygiene {
    /// [`hygiene::RULES`].
    pub rules: u32,
    /// What may break a rule, sorted.
    pub allow: Vec<Allowance>,
}

/// A package by what it is; where it was fetched does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipePackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its pin.
    pub sha256: Sha256Digest,
}

/// A file, directory or link that is put on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    /// Its path, without a leading slash.
    pub path: String,
    /// Permission bits, as octal digits.
    pub mode: String,
    /// Owner and group.
    pub owner: String,
    /// `file SHA256`, `link TARGET` or `directory`.
    pub content: String,
}

/// Sizes of the partitions, MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeDisk {
    /// EFI system partition.
    pub esp_mib: u32,
    /// `/boot`.
    pub boot_mib: u32,
    /// `/`.
    pub root_mib: u32,
}

/// The etcd that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeEtcd {
    /// `release`, `url`, `file` or `packages`.
    pub source: String,
    /// Its version.
    pub version: EtcdVersion,
    /// Pins of the tarball or the packages.
    pub sha256: Vec<Sha256Digest>,
}

/// Keys of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Programs that make the disk.
    pub tools: Sha256Digest,
    /// Unpacked packages that start the kernel.
    pub boot_packages: Sha256Digest,
    /// etcd's programs.
    pub etcd: Sha256Digest,
    /// The base's tar.
    pub base: Sha256Digest,
    /// The base's tar after commands ran in it, and a cloud image's disk; none where none do.
    pub customized: Option<Sha256Digest>,
    /// What the base holds that an image must not.
    pub hygiene: Sha256Digest,
    /// File systems and boot sectors that start the kernel.
    pub boot: Sha256Digest,
    /// The image.
    pub image: Sha256Digest,
    /// The image's qcow2, compressed.
    pub compressed: Sha256Digest,
    /// The node's tree as a directory.
    pub tree: Sha256Digest,
}

impl Recipe {
    /// Its layers in the order they are made, and then those that are made when they are asked for.
    pub fn named(&self) -> Vec<(&'static str, Sha256Digest)> {
        let keys = self.keys();
        let mut layers = self.layers();
        layers.extend([("compressed", keys.compressed), ("tree", keys.tree)]);
        layers
    }

    /// Digests of the fetched inputs that it names.
    pub fn inputs(&self) -> std::collections::BTreeSet<Sha256Digest> {
        let packages = [&self.base_packages, &self.boot_packages, &self.tool_packages];
        let packages = packages.into_iter().flatten().map(|package| package.sha256);
        packages.chain(self.etcd.sha256.iter().copied()).chain(self.cloud).collect()
    }

    /// Puts a recipe together; `etcd` is the alternate taken.
    pub fn new(
        profile: &str,
        definition: &ImageDefinition,
        lock: &Lock,
        etcd: &LockedEtcd,
        firstboot: Sha256Digest,
        base_files: Vec<RecipeFile>,
        image_files: Vec<RecipeFile>,
    ) -> Self {
        let disk = definition.disk.map_or(RecipeDisk { esp_mib: 0, boot_mib: 0, root_mib: 0 }, |disk| RecipeDisk {
            esp_mib: disk.esp_mib,
            boot_mib: disk.boot_mib,
            root_mib: disk.root_mib,
        });
        Self {
            schema: 1,
            build_format: BUILD_FORMAT,
            profile: profile.to_owned(),
            definition: definition.name.clone(),
            source_date_epoch: lock.source_date_epoch,
            base_packages: packages(&lock.base),
            base_files,
            exclude: definition.exclude.clone(),
            include: definition.include.clone(),
            boot_packages: packages(&lock.boot),
            boot_vendor: definition.boot.vendor.clone(),
            command_line: definition.boot.command_line.clone(),
            tool_packages: packages(&lock.tools),
            disk,
            etcd: RecipeEtcd::of(etcd),
            firstboot,
            image_files,
            cloud: lock.cloud.as_ref().map(|cloud| cloud.sha256),
            customize: definition.customize.clone(),
            hygiene: Some(RecipeHygiene { rules: hygiene::RULES, allow: definition.allow.clone() }),
            crates: None,
        }
    }

    /// The recipe as a file, the same text for the same recipe.
    ///
    /// # Errors
    /// None that is known: every field is plain text or a number.
    pub fn render(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// The keys of its layers.
    pub fn keys(&self) -> Keys {
        let of = |kind: &str, fill: &dyn Fn(&mut KeyHasher)| {
            let mut hasher = KeyHasher::new(kind);
            fill(&mut hasher);
            hasher.finish()
        };
        let tools = of("tools", &|h| hash_packages(h, &self.tool_packages));
        let boot_packages = of("boot-packages", &|h| hash_packages(h, &self.boot_packages));
        let etcd = etcd_key(&self.etcd);
        let base = of("base", &|h| {
            h.signed("source-date-epoch", self.source_date_epoch);
            hash_packages(h, &self.base_packages);
            hash_files(h, &self.base_files);
            h.texts("exclude", &self.exclude);
            h.texts("include", &self.include);
        });
        let customized = self.customize.as_ref().map(|customize| {
            of("customized", &|h| {
                h.signed("source-date-epoch", self.source_date_epoch);
                h.digest("tools", &tools);
                match &self.cloud {
                    // Its packages and files are put in by this step; the kernel's command line is in its own /boot.
                    Some(cloud) => {
                        h.digest("cloud", cloud);
                        hash_packages(h, &self.base_packages);
                        hash_files(h, &self.base_files);
                        h.text("command-line", &self.command_line);
                    }
                    None => h.digest("base", &base),
                }
                customize.add_to(h);
            })
        });
        let rootfs = customized.unwrap_or(base);
        let hygiene = of("hygiene", &|h| {
            h.digest("base", &rootfs);
            h.number("rules", self.hygiene.as_ref().map_or(0, |h| h.rules).into());
        });
        let boot = of("boot", &|h| {
            h.signed("source-date-epoch", self.source_date_epoch);
            h.digest("tools", &tools);
            h.digest("boot-packages", &boot_packages);
            h.digest("base", &rootfs);
            if self.build_format > 1 {
                h.digest("etcd", &etcd);
            }
            h.text("vendor", &self.boot_vendor);
            h.text("command-line", &self.command_line);
            h.number("esp-mib", self.disk.esp_mib.into());
            h.number("boot-mib", self.disk.boot_mib.into());
            h.number("root-mib", self.disk.root_mib.into());
        });
        let image = of("image", &|h| {
            if self.build_format > 1 {
                h.number("format", self.build_format.into());
            }
            h.text("profile", &self.profile);
            h.text("definition", &self.definition);
            match (&self.cloud, customized) {
                (Some(_), Some(customized)) => {
                    h.digest("customized", &customized);
                    h.digest("tools", &tools);
                }
                (None, _) | (Some(_), None) => h.digest("boot", &boot),
            }
            h.digest("etcd", &etcd);
            h.digest("firstboot", &self.firstboot);
            hash_files(h, &self.image_files);
            if let Some(hygiene) = &self.hygiene {
                h.number("hygiene", hygiene.rules.into());
                h.number("allow", hygiene.allow.len() as u64);
                for allowance in &hygiene.allow {
                    h.text("path", &allowance.path);
                    h.text("rule", allowance.rule.word());
                    h.text("reason", &allowance.reason);
                }
            }
            if let Some(crates) = &self.crates {
                h.digest("crates", crates);
            }
        });
        let compressed = of("compressed", &|h| h.digest("image", &image));
        let tree = of("tree", &|h| h.digest("image", &image));
        Keys { tools, boot_packages, etcd, base, customized, hygiene, boot, image, compressed, tree }
    }
}

impl Recipe {
    /// The layers that the image is made of, with their keys, lowest first.
    pub fn layers(&self) -> Vec<(&'static str, Sha256Digest)> {
        let keys = self.keys();
        let mut layers = vec![("tools", keys.tools), ("etcd", keys.etcd)];
        if self.cloud.is_none() {
            layers.push(("base", keys.base));
        }
        layers.extend(keys.customized.map(|key| ("customized", key)));
        layers.push(("hygiene", keys.hygiene));
        if self.cloud.is_none() {
            layers.extend([("boot-packages", keys.boot_packages), ("boot", keys.boot)]);
        }
        layers.push(("image", keys.image));
        layers
    }
}

impl RecipePackage {
    /// What a recipe records of a package.
    pub fn of(locked: &LockedPackage) -> Self {
        Self { name: locked.name.clone(), version: locked.version.clone(), sha256: locked.sha256 }
    }
}

impl RecipeEtcd {
    /// What a recipe records of an alternate.
    pub fn of(etcd: &LockedEtcd) -> Self {
        let tarball = etcd.tarball.iter().map(|t| t.sha256);
        Self {
            source: etcd.kind.word().to_owned(),
            version: etcd.version,
            sha256: tarball.chain(packages(&etcd.packages).into_iter().map(|p| p.sha256)).collect(),
        }
    }
}

/// The key of an etcd's layer: it depends on nothing else, so alternates can be looked for before there is a recipe.
pub fn etcd_key(etcd: &RecipeEtcd) -> Sha256Digest {
    let mut hasher = KeyHasher::new("etcd");
    hasher.text("source", &etcd.source);
    hasher.text("version", &etcd.version.to_string());
    hasher.number("inputs", etcd.sha256.len() as u64);
    etcd.sha256.iter().for_each(|digest| hasher.digest("sha256", digest));
    hasher.finish()
}

/// Packages by what they are, sorted.
fn packages(locked: &[LockedPackage]) -> Vec<RecipePackage> {
    let mut packages: Vec<_> = locked.iter().collect();
    packages.sort();
    packages.into_iter().map(RecipePackage::of).collect()
}

fn hash_packages(hasher: &mut KeyHasher, packages: &[RecipePackage]) {
    hasher.number("packages", packages.len() as u64);
    for package in packages {
        hasher.text("name", &package.name);
        hasher.text("version", &package.version);
        hasher.digest("sha256", &package.sha256);
    }
}

fn hash_files(hasher: &mut KeyHasher, files: &[RecipeFile]) {
    hasher.number("files", files.len() as u64);
    for file in files {
        hasher.text("path", &file.path);
        hasher.text("mode", &file.mode);
        hasher.text("owner", &file.owner);
        hasher.text("content", &file.content);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn recipe() -> Recipe {
        let package = |name: &str| RecipePackage {
            name: name.into(),
            version: "1-2".into(),
            sha256: Sha256Digest::of(name.as_bytes()),
        };
        let file = |path: &str| RecipeFile {
            path: path.into(),
            mode: "644".into(),
            owner: "0:0".into(),
            content: format!("file {}", Sha256Digest::of(b"x")),
        };
        Recipe {
            schema: 1,
            build_format: BUILD_FORMAT,
            profile: "lab".into(),
            definition: "tiny".into(),
            source_date_epoch: 1_700_000_000,
            base_packages: vec![package("systemd")],
            base_files: vec![file("etc/initramfs-tools/conf.d/kiln")],
            exclude: vec!["/usr/share/man/*".into()],
            include: vec![],
            boot_packages: vec![package("shim-signed")],
            boot_vendor: "debian".into(),
            command_line: "ro quiet".into(),
            tool_packages: vec![package("e2fsprogs")],
            disk: RecipeDisk { esp_mib: 106, boot_mib: 128, root_mib: 640 },
            etcd: RecipeEtcd {
                source: "release".into(),
                version: EtcdVersion { major: 3, minor: 6, patch: 14 },
                sha256: vec![Sha256Digest::of(b"etcd")],
            },
            firstboot: Sha256Digest::of(b"firstboot"),
            image_files: vec![file("etc/fstab")],
            cloud: None,
            customize: None,
            hygiene: None,
            crates: None,
        }
    }

    #[test]
    fn the_keys_of_fixed_recipes_never_move() {
        let found = |build_format| {
            let keys = Recipe { build_format, ..recipe() }.keys();
            [keys.tools, keys.boot_packages, keys.etcd, keys.base, keys.boot, keys.image, keys.compressed, keys.tree]
                .map(|key| key.to_string())
        };
        // A change here rebuilds every image of every user. If that is meant, raise `BUILD_FORMAT` and write its keys down beside these.
        let first = [
            "7901d258208a72827b584ec4b3c86a7ac59843ddf2d763d2ee78b64b58d59e0a",
            "f2c8bed36ef3b4150567cccd1e33d2780f0a619311cfb1937b1ab1f5158c20d3",
            "391be71c11e9b1142646b946fb07b7c54c54c01fef2bfbf3022a1c148713ec45",
            "b1fba8a30df3964120312d69bd64b98a26bc0a14ec27871c3f7eaad4c57877bf",
            "319978943bf8f953709ef8f510141a83be339787c6360f83cdd96577b2a7358b",
            "96edf2edd18e8fbadb0372713f96a77724916b59484f0f4b0b1c49f7ac81a867",
            "c76d98502a69bcb7629b7eedc75f9828ea46f47fc0340c7ae2c1bf7ce178bfee",
            "4de34dcf0643bbe02fb87103c0782a253c06977ad43e397a1b162b6b624d52e8",
        ];
        assert_eq!(found(1), first);
        let second = [
            "5cad0507596993456d5474570d0faffde0b361ce4d34cde140e8b619a59cbab9",
            "db51c6f4e37f5b1c263c99a3618c4a721b2132c8072032489b6417e5119cce85",
            "e22d776b347d5f034ad4a0ecd3c251d139d820fab44b336c479fce46456254ce",
            "fffba6d620123dec0940123fb6c85a13c8eab72d6768d726402c281fd4eaf8d1",
        ];
        // etcd is in the boot layer.
        assert_eq!((&found(2)[..4], &found(2)[4..]), (&first.map(str::to_owned)[..4], &second.map(str::to_owned)[..]));
        assert_eq!(BUILD_FORMAT, 2);
    }

    #[test]
    fn a_new_agent_moves_the_image_and_nothing_below_it() {
        let old = recipe().keys();
        let new = Recipe { firstboot: Sha256Digest::of(b"newer"), ..recipe() }.keys();
        assert_ne!((new.image, new.compressed, new.tree), (old.image, old.compressed, old.tree));
        assert_eq!((new.base, new.boot, new.etcd, new.tools), (old.base, old.boot, old.etcd, old.tools));
    }

    #[test]
    fn a_cloud_image_has_no_base_and_no_boot_layer_of_its_own() {
        let cloudy = |digest: &[u8]| Recipe {
            cloud: Some(Sha256Digest::of(digest)),
            customize: Some(Customize::default()),
            ..recipe()
        };
        let names = |recipe: &Recipe| recipe.layers().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&cloudy(b"a")), ["tools", "etcd", "customized", "hygiene", "image"]);
        let all = ["tools", "etcd", "base", "hygiene", "boot-packages", "boot", "image"];
        assert_eq!(names(&recipe()), all);
        let (a, b) = (cloudy(b"a").keys(), cloudy(b"b").keys());
        assert!(a.image != b.image && a.customized != b.customized && a.hygiene != b.hygiene);
        let changes: [fn(&mut Recipe); 5] = [
            |r| r.base_packages.clear(),
            |r| r.base_files.clear(),
            |r| r.command_line.push('x'),
            |r| r.source_date_epoch += 1,
            |r| r.customize = Some(Customize { delete: vec!["/a/b".into()], ..Customize::default() }),
        ];
        for change in changes {
            let mut other = cloudy(b"a");
            change(&mut other);
            assert_ne!(other.keys().customized, a.customized);
            assert_ne!(other.keys().image, a.image);
        }
    }

    #[test]
    fn every_field_that_makes_a_difference_moves_the_image() {
        let old = recipe().keys().image;
        let changes: [fn(&mut Recipe); 20] = [
            |r| r.profile.push('x'),
            |r| r.definition.push('x'),
            |r| r.source_date_epoch += 1,
            |r| r.base_packages[0].version.push('x'),
            |r| r.base_files[0].mode = "755".into(),
            |r| r.exclude.clear(),
            |r| r.include.push("x".into()),
            |r| r.boot_packages[0].sha256 = Sha256Digest::of(b"y"),
            |r| r.boot_vendor.push('x'),
            |r| r.command_line.push('x'),
            |r| r.tool_packages[0].name.push('x'),
            |r| r.disk.esp_mib += 1,
            |r| r.disk.boot_mib += 1,
            |r| r.disk.root_mib += 1,
            |r| r.etcd.sha256.push(Sha256Digest::of(b"z")),
            |r| r.image_files[0].owner = "0:1".into(),
            |r| r.hygiene = Some(RecipeHygiene { rules: 1, allow: Vec::new() }),
            |r| r.customize = Some(Customize::default()),
            |r| r.customize = Some(Customize { run: vec!["true".into()], ..Customize::default() }),
            |r| r.crates = Some(Sha256Digest::of(b"ring")),
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut other = recipe();
            change(&mut other);
            assert_ne!(other.keys().image, old, "change {i}");
        }
    }
}
