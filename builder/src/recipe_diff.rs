//! Why two images differ: input by input, from their recipes. Pure.
//!
//! Whatever is not in a recipe has no influence on the image, so two images of one recipe differ only if a build is not reproducible.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use kiln_firstboot::digest::Sha256Digest;
use serde::Serialize;

use crate::customize::Customize;
use crate::lock_diff::{PackageChange, package_changes};
use crate::recipe::{Recipe, RecipeFile};

/// Everything that differs between two recipes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecipeDiff {
    /// Layers, bottom up, and whether both images share them.
    pub layers: Vec<LayerChange>,
    /// Single values: the agent, sizes, the kernel's command line, ...
    pub values: Vec<ValueChange>,
    /// Packages.
    pub packages: Vec<PackageChange>,
    /// Files.
    pub files: Vec<FileChange>,
}

/// A layer and its two keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerChange {
    /// Its name.
    pub layer: &'static str,
    /// Key in the first image.
    pub from: String,
    /// Key in the second.
    pub to: String,
}

/// A value that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValueChange {
    /// Its name in the recipe.
    pub name: &'static str,
    /// In the first image.
    pub from: String,
    /// In the second.
    pub to: String,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// `base` or `image`: the layer that puts it there.
    pub layer: &'static str,
    /// Its path.
    pub path: String,
    /// Mode, owner and content in the first image; none when it is not there.
    pub from: Option<String>,
    /// The same in the second.
    pub to: Option<String>,
}

/// Compares two recipes.
pub fn diff(a: &Recipe, b: &Recipe) -> RecipeDiff {
    let (old, new) = (a.layers(), b.layers());
    let key = |layers: &[(&str, Sha256Digest)], name: &str| {
        layers.iter().find(|(layer, _)| *layer == name).map_or_else(|| "none".to_owned(), |(_, key)| key.to_string())
    };
    // Those of the first, then what only the second has; hygiene makes nothing that is in an image.
    let only_new = new.iter().filter(|(name, _)| !old.iter().any(|(layer, _)| layer == name));
    let names = old.iter().chain(only_new).map(|(name, _)| *name).filter(|name| *name != "hygiene");
    let layers = names.map(|layer| LayerChange { layer, from: key(&old, layer), to: key(&new, layer) }).collect();
    let values = [
        ("build_format", a.build_format.to_string(), b.build_format.to_string()),
        ("profile", a.profile.clone(), b.profile.clone()),
        ("definition", a.definition.clone(), b.definition.clone()),
        ("source_date_epoch", a.source_date_epoch.to_string(), b.source_date_epoch.to_string()),
        ("exclude", a.exclude.join(" "), b.exclude.join(" ")),
        ("include", a.include.join(" "), b.include.join(" ")),
        ("boot_vendor", a.boot_vendor.clone(), b.boot_vendor.clone()),
        ("command_line", a.command_line.clone(), b.command_line.clone()),
        ("disk.esp_mib", a.disk.esp_mib.to_string(), b.disk.esp_mib.to_string()),
        ("disk.boot_mib", a.disk.boot_mib.to_string(), b.disk.boot_mib.to_string()),
        ("disk.root_mib", a.disk.root_mib.to_string(), b.disk.root_mib.to_string()),
        ("etcd", etcd(a), etcd(b)),
        ("firstboot", a.firstboot.to_string(), b.firstboot.to_string()),
        ("cloud", cloud(a), cloud(b)),
        ("customize", customize(a), customize(b)),
        ("hygiene", hygiene(a), hygiene(b)),
        ("crates", crates(a), crates(b)),
    ];
    let packages = [
        ("base", &a.base_packages, &b.base_packages),
        ("boot", &a.boot_packages, &b.boot_packages),
        ("tools", &a.tool_packages, &b.tool_packages),
    ];
    RecipeDiff {
        layers,
        values: values
            .into_iter()
            .filter(|(_, from, to)| from != to)
            .map(|(name, from, to)| ValueChange { name, from, to })
            .collect(),
        packages: packages.into_iter().flat_map(|(part, old, new)| package_changes(part, old, new)).collect(),
        files: [files("base", &a.base_files, &b.base_files), files("image", &a.image_files, &b.image_files)].concat(),
    }
}

fn etcd(recipe: &Recipe) -> String {
    let sums: Vec<String> = recipe.etcd.sha256.iter().map(ToString::to_string).collect();
    format!("{} ({}) {}", recipe.etcd.version, recipe.etcd.source, sums.join(" "))
}

fn cloud(recipe: &Recipe) -> String {
    recipe.cloud.map_or_else(|| "none".into(), |digest| digest.to_string())
}

fn customize(recipe: &Recipe) -> String {
    let Some(Customize { remove, mask, run, delete }) = &recipe.customize else { return "none".into() };
    let lists = [("remove", remove), ("mask", mask), ("run", run), ("delete", delete)];
    let told = lists.iter().filter(|(_, list)| !list.is_empty());
    let told: Vec<String> = told.map(|(name, list)| format!("{name} {}", list.join(", "))).collect();
    if told.is_empty() { "nothing".into() } else { told.join("; ") }
}

fn hygiene(recipe: &Recipe) -> String {
    let Some(hygiene) = &recipe.hygiene else { return "none".into() };
    let allowed: Vec<String> =
        hygiene.allow.iter().map(|a| format!("{} [{}]: {}", a.path, a.rule.word(), a.reason)).collect();
    format!("rules {}, allowed: {}", hygiene.rules, if allowed.is_empty() { "none".into() } else { allowed.join("; ") })
}

fn crates(recipe: &Recipe) -> String {
    recipe.crates.map_or_else(|| "none".into(), |digest| digest.to_string())
}

fn files(layer: &'static str, old: &[RecipeFile], new: &[RecipeFile]) -> Vec<FileChange> {
    let told = |list: &[RecipeFile]| -> BTreeMap<String, String> {
        list.iter().map(|f| (f.path.clone(), format!("{} {} {}", f.mode, f.owner, f.content))).collect()
    };
    let (old, new) = (told(old), told(new));
    let paths: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    paths
        .into_iter()
        .filter(|path| old.get(*path) != new.get(*path))
        .map(|path| FileChange { layer, path: path.clone(), from: old.get(path).cloned(), to: new.get(path).cloned() })
        .collect()
}

impl RecipeDiff {
    /// Nothing differs: one recipe.
    pub fn is_empty(&self) -> bool {
        self.layers.iter().all(|layer| layer.from == layer.to)
    }

    /// What differs, a line each: first the layers that are made anew, then the inputs that make them so.
    pub fn report(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for layer in &self.layers {
            if layer.from == layer.to {
                let _ = writeln!(text, "layer  same     {} {}", layer.layer, short(&layer.to));
            } else {
                let _ =
                    writeln!(text, "layer  differs  {} {} -> {}", layer.layer, short(&layer.from), short(&layer.to));
            }
        }
        for value in &self.values {
            let _ = writeln!(text, "value  differs  {}: {} -> {}", value.name, value.from, value.to);
        }
        for package in &self.packages {
            let _ = writeln!(text, "{}", package.line());
        }
        for file in &self.files {
            let _ = match (&file.from, &file.to) {
                (Some(from), Some(to)) => writeln!(text, "file   differs  /{}: {from} -> {to}", file.path),
                (None, Some(to)) => writeln!(text, "file   added    /{}: {to}", file.path),
                (Some(from), None) => writeln!(text, "file   removed  /{}: {from}", file.path),
                (None, None) => Ok(()),
            };
        }
        text
    }
}

fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hygiene::{Allowance, Rule};
    use crate::recipe::{RecipeDisk, RecipeEtcd, RecipeHygiene, RecipePackage};

    fn recipe() -> Recipe {
        let package =
            |name: &str| RecipePackage { name: name.into(), version: "1".into(), sha256: Sha256Digest::of(b"1") };
        let file = |path: &str| RecipeFile {
            path: path.into(),
            mode: "644".into(),
            owner: "0:0".into(),
            content: "link x".into(),
        };
        Recipe {
            schema: 1,
            build_format: 1,
            profile: "lab".into(),
            definition: "d".into(),
            source_date_epoch: 1,
            base_packages: vec![package("bash")],
            base_files: vec![file("etc/a")],
            exclude: Vec::new(),
            include: Vec::new(),
            boot_packages: vec![package("grub")],
            boot_vendor: "ubuntu".into(),
            command_line: "quiet".into(),
            tool_packages: vec![package("mtools")],
            disk: RecipeDisk { esp_mib: 1, boot_mib: 2, root_mib: 3 },
            etcd: RecipeEtcd { source: "release".into(), version: "3.6.14".parse().unwrap(), sha256: Vec::new() },
            firstboot: Sha256Digest::of(b"agent"),
            image_files: vec![file("etc/b")],
            cloud: None,
            customize: None,
            hygiene: None,
            crates: None,
        }
    }

    /// The layers that differ and the lines after them, when one thing is bent.
    fn told(bend: impl Fn(&mut Recipe)) -> (Vec<&'static str>, Vec<String>) {
        let mut other = recipe();
        bend(&mut other);
        let diff = diff(&recipe(), &other);
        let layers = diff.layers.iter().filter(|l| l.from != l.to).map(|l| l.layer).collect();
        (layers, diff.report().lines().filter(|l| !l.starts_with("layer")).map(str::to_owned).collect())
    }

    #[test]
    fn one_recipe_differs_in_nothing() {
        assert!(diff(&recipe(), &recipe()).is_empty());
        assert_eq!(told(|_| {}), (vec![], vec![]));
    }

    #[test]
    fn names_the_input_and_the_layers_it_remakes() {
        let (layers, lines) = told(|r| r.firstboot = Sha256Digest::of(b"other"));
        assert_eq!(layers, ["image"]);
        assert!(lines[0].starts_with("value  differs  firstboot: "), "{lines:?}");
        assert_eq!(
            told(|r| r.base_packages[0].version = "2".into()),
            (vec!["base", "boot", "image"], vec!["base   up       bash 1 -> 2".to_owned()])
        );
        assert_eq!(
            told(|r| r.image_files[0].content = "link y".into()),
            (vec!["image"], vec!["file   differs  /etc/b: 644 0:0 link x -> 644 0:0 link y".to_owned()])
        );
        let (layers, _) = told(|r| r.tool_packages.clear());
        assert_eq!(layers, ["tools", "boot", "image"]);
    }

    fn allowance(reason: &str) -> Allowance {
        Allowance { path: "var/log/a".into(), rule: Rule::Log, reason: reason.into() }
    }

    #[test]
    fn another_reason_is_told_too() {
        let with =
            |reason| Recipe { hygiene: Some(RecipeHygiene { rules: 1, allow: vec![allowance(reason)] }), ..recipe() };
        let diff = diff(&with("a"), &with("b"));
        let line =
            "value  differs  hygiene: rules 1, allowed: var/log/a [log]: a -> rules 1, allowed: var/log/a [log]: b";
        assert!(diff.report().lines().any(|l| l == line), "{}", diff.report());
    }

    /// Every field of a recipe that changes a key is told: a difference in the key without a reason would be no explanation.
    #[test]
    fn no_key_differs_without_a_line() {
        let bends: [&dyn Fn(&mut Recipe); 20] = [
            &|r| r.profile.push('x'),
            &|r| r.definition.push('x'),
            &|r| r.source_date_epoch += 1,
            &|r| r.base_packages.clear(),
            &|r| r.base_files.clear(),
            &|r| r.exclude.push("x".into()),
            &|r| r.include.push("x".into()),
            &|r| r.boot_packages.clear(),
            &|r| r.boot_vendor.push('x'),
            &|r| r.command_line.push('x'),
            &|r| r.disk.root_mib += 1,
            &|r| r.etcd.source.push('x'),
            &|r| r.firstboot = Sha256Digest::of(b"x"),
            &|r| r.image_files.clear(),
            &|r| r.crates = Some(Sha256Digest::of(b"x")),
            &|r| r.customize = Some(Customize::default()),
            &|r| r.customize = Some(Customize { mask: vec!["a.timer".into()], ..Customize::default() }),
            &|r| (r.cloud, r.customize) = (Some(Sha256Digest::of(b"x")), Some(Customize::default())),
            &|r| r.hygiene = Some(RecipeHygiene { rules: 1, allow: Vec::new() }),
            &|r| r.hygiene = Some(RecipeHygiene { rules: 1, allow: vec![allowance("x")] }),
        ];
        for (i, bend) in bends.iter().enumerate() {
            let (layers, lines) = told(bend);
            // A cloud image comes with what is done in it.
            assert!(layers.contains(&"image") && matches!(lines.len(), 1 | 2), "bend {i}: {layers:?} {lines:?}");
        }
    }
}
