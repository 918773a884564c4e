//! The bill of materials of an image, CycloneDX 1.6 as JSON: every package, etcd, the agent and its crates. Pure.
//!
//! The same recipe gives the same bytes: the serial number comes from the key, the time is the recipe's. Packages of `boot-packages` are
//! those that what starts the kernel was taken from; the tools that made the disk are not in the image and not in here.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;
use serde::Serialize;

use super::crates::Crates;
use super::installed::Installed;
use crate::disk::ident::Uuid;
use crate::recipe::{Recipe, RecipePackage};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bom {
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata {
    timestamp: String,
    tools: Tools,
    component: Component,
}

#[derive(Serialize)]
struct Tools {
    components: Vec<Component>,
}

#[derive(Default, Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref", skip_serializing_if = "String::is_empty")]
    reference: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    components: Vec<Component>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: Sha256Digest,
}

#[derive(Serialize)]
struct Property {
    name: &'static str,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: Vec<String>,
}

/// Renders it. `programs` are etcd's, as they are in the image; `installed` is what the customized base itself says it has, where it was
/// customized: of a cloud image nobody else does.
///
/// # Errors
/// When the recipe's time cannot be written as a date.
pub fn render(
    recipe: &Recipe,
    crates: &Crates,
    programs: &[(&str, Sha256Digest)],
    installed: &[Installed],
) -> Result<String> {
    let time = jiff::Timestamp::from_second(recipe.source_date_epoch)
        .with_context(|| format!("`{}` is no time a date can be given to", recipe.source_date_epoch))?;
    let key = recipe.keys().image;
    let deb = |layer| move |package: &RecipePackage| deb(&recipe.boot_vendor, layer, package);
    let is_installed = |p: &RecipePackage| installed.iter().any(|i| (&i.name, &i.version) == (&p.name, &p.version));
    let stayed = recipe.base_packages.iter().filter(|p| installed.is_empty() || is_installed(p));
    let mut components: Vec<Component> = stayed.map(deb("base")).collect();
    // Of these the bytes of the .deb are not known: the image came with them.
    let pinned = |i: &Installed| recipe.base_packages.iter().any(|p| (&i.name, &i.version) == (&p.name, &p.version));
    components.extend(installed.iter().filter(|i| !pinned(i)).map(|i| found(&recipe.boot_vendor, i)));
    components.extend(recipe.cloud.map(|digest| Component {
        kind: "file",
        reference: "cloud-image".into(),
        name: "cloud image".into(),
        hashes: sha256([digest]),
        ..Component::default()
    }));
    components.extend(recipe.boot_packages.iter().map(deb("boot-packages")));
    components.push(etcd(recipe, programs));
    let agent = "firstboot".to_owned();
    components.push(Component {
        kind: "application",
        reference: agent.clone(),
        name: agent.clone(),
        version: crates.agent.clone(),
        hashes: sha256([recipe.firstboot]),
        properties: vec![Property {
            name: "kiln:crates",
            value: "from the lock file of the kiln that made the image, for every platform".into(),
        }],
        ..Component::default()
    });
    let image = Component {
        kind: "operating-system",
        reference: "image".into(),
        name: recipe.definition.clone(),
        version: key.to_string(),
        properties: vec![Property { name: "kiln:profile", value: recipe.profile.clone() }],
        ..Component::default()
    };
    let depends_on = components.iter().map(|c| c.reference.clone()).collect();
    let mut dependencies = vec![Dependency { reference: image.reference.clone(), depends_on }];
    let references: Vec<String> = crates.all.iter().map(|c| format!("cargo/{}@{}", c.name, c.version)).collect();
    let refer = |needs: &[usize]| needs.iter().map(|n| references[*n].clone()).collect();
    dependencies.push(Dependency { reference: agent, depends_on: refer(&crates.direct) });
    for (made_of, reference) in crates.all.iter().zip(&references) {
        dependencies.push(Dependency { reference: reference.clone(), depends_on: refer(&made_of.needs) });
        components.push(Component {
            kind: "library",
            reference: reference.clone(),
            name: made_of.name.clone(),
            version: made_of.version.clone(),
            hashes: sha256(made_of.sha256),
            purl: Some(format!("pkg:cargo/{}@{}", made_of.name, quote(&made_of.version))),
            ..Component::default()
        });
    }
    let tools =
        Tools { components: vec![Component { kind: "application", name: "kiln".into(), ..Component::default() }] };
    let bom = Bom {
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: format!("urn:uuid:{}", Uuid::derive(key, "sbom")),
        version: 1,
        metadata: Metadata { timestamp: time.to_string(), tools, component: image },
        components,
        dependencies,
    };
    Ok(serde_json::to_string_pretty(&bom)? + "\n")
}

fn deb(vendor: &str, layer: &str, package: &RecipePackage) -> Component {
    Component {
        kind: "library",
        reference: format!("{layer}/{}", package.name),
        name: package.name.clone(),
        version: package.version.clone(),
        hashes: sha256([package.sha256]),
        purl: Some(purl(vendor, package)),
        properties: vec![Property { name: "kiln:layer", value: layer.into() }],
        ..Component::default()
    }
}

fn found(vendor: &str, package: &Installed) -> Component {
    Component {
        kind: "library",
        reference: format!("customized/{}", package.name),
        name: package.name.clone(),
        version: package.version.clone(),
        purl: Some(purl_of(vendor, &package.name, &package.version)),
        properties: vec![Property { name: "kiln:layer", value: "customized".into() }],
        ..Component::default()
    }
}

/// The package URL of a .deb; its namespace is the vendor's name.
pub(super) fn purl(vendor: &str, package: &RecipePackage) -> String {
    purl_of(vendor, &package.name, &package.version)
}

fn purl_of(vendor: &str, name: &str, version: &str) -> String {
    format!("pkg:deb/{vendor}/{}@{}", quote(name), quote(version))
}

fn etcd(recipe: &Recipe, programs: &[(&str, Sha256Digest)]) -> Component {
    let version = recipe.etcd.version.to_string();
    let file = |(name, sha256): &(&str, Sha256Digest)| Component {
        kind: "file",
        reference: format!("etcd/{name}"),
        name: format!("/usr/bin/{name}"),
        hashes: self::sha256([*sha256]),
        ..Component::default()
    };
    // A tarball is what the version is of; packages are several, and each is a property.
    let input = |digest: &Sha256Digest| Property { name: "kiln:input:sha256", value: digest.to_string() };
    Component {
        kind: "application",
        reference: "etcd".into(),
        name: "etcd".into(),
        hashes: sha256(recipe.etcd.sha256.first().filter(|_| recipe.etcd.sha256.len() == 1).copied()),
        cpe: Some(format!("cpe:2.3:a:etcd:etcd:{version}:*:*:*:*:*:*:*")),
        purl: Some(format!("pkg:github/etcd-io/etcd@v{version}")),
        version,
        components: programs.iter().map(file).collect(),
        properties: [Property { name: "kiln:source", value: recipe.etcd.source.clone() }]
            .into_iter()
            .chain(recipe.etcd.sha256.iter().map(input))
            .collect(),
    }
}

fn sha256(digests: impl IntoIterator<Item = Sha256Digest>) -> Vec<Hash> {
    digests.into_iter().map(|content| Hash { alg: "SHA-256", content }).collect()
}

/// Percent-encodes what a package URL does not take as it is.
fn quote(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::tests::recipe;
    use std::collections::BTreeSet;

    fn bom() -> serde_json::Value {
        let programs = [("etcd", Sha256Digest::of(b"program"))];
        let crates = Crates::of_agent().unwrap();
        let text = render(&recipe(), &crates, &programs, &[]).unwrap();
        assert_eq!(render(&recipe(), &crates, &programs, &[]).unwrap(), text);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn everything_of_the_recipe_is_in_it_with_its_digest() {
        let bom = bom();
        let component = |reference: &str| {
            let all = bom["components"].as_array().unwrap();
            all.iter().find(|c| c["bom-ref"] == reference).unwrap_or_else(|| panic!("{reference}")).clone()
        };
        let systemd = component("base/systemd");
        assert_eq!(systemd["purl"], "pkg:deb/debian/systemd@1-2");
        assert_eq!(systemd["hashes"][0]["content"], Sha256Digest::of(b"systemd").to_string());
        component("boot-packages/shim-signed");
        assert_eq!(component("etcd")["components"][0]["name"], "/usr/bin/etcd");
        assert_eq!(component("firstboot")["hashes"][0]["content"], recipe().firstboot.to_string());
        assert_eq!(bom["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
        assert_eq!(bom["metadata"]["component"]["version"], recipe().keys().image.to_string());
    }

    #[test]
    fn what_a_customized_base_has_beside_pinned_packages_is_listed_and_what_it_lost_is_not() {
        let crates = Crates::of_agent().unwrap();
        let installed = |name: &str, version: &str| Installed { name: name.into(), version: version.into() };
        let of = |installed: &[Installed]| -> Vec<String> {
            let text = render(&recipe(), &crates, &[], installed).unwrap();
            let bom: serde_json::Value = serde_json::from_str(&text).unwrap();
            let references = bom["components"].as_array().unwrap().iter().map(|c| c["bom-ref"].as_str().unwrap());
            references.filter(|r| r.ends_with("systemd") || r.ends_with("bash")).map(str::to_owned).collect()
        };
        assert_eq!(of(&[installed("systemd", "1-2"), installed("bash", "5")]), ["base/systemd", "customized/bash"]);
        assert_eq!(of(&[installed("bash", "5")]), ["customized/bash"]);
        assert_eq!(of(&[installed("systemd", "1-3")]), ["customized/systemd"]);
    }

    #[test]
    fn every_reference_is_unique_and_leads_somewhere() {
        let bom = bom();
        let mut known = BTreeSet::from(["image".to_owned()]);
        for component in bom["components"].as_array().unwrap() {
            assert!(known.insert(component["bom-ref"].as_str().unwrap().to_owned()), "{component}");
        }
        for dependency in bom["dependencies"].as_array().unwrap() {
            let needs = dependency["dependsOn"].as_array().unwrap().iter().chain([&dependency["ref"]]);
            for reference in needs {
                assert!(known.contains(reference.as_str().unwrap()), "{reference}");
            }
        }
    }

    #[test]
    fn what_a_package_url_does_not_take_is_quoted() {
        let package = RecipePackage {
            name: "libstdc++6".into(),
            version: "1:14.2.0-19+b1~deb".into(),
            sha256: Sha256Digest::of(b""),
        };
        assert_eq!(purl("debian", &package), "pkg:deb/debian/libstdc%2B%2B6@1:14.2.0-19%2Bb1~deb");
    }
}
