//! Where an image comes from: an in-toto statement with SLSA provenance, version 1. Pure.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::{PublicKey, Sha256Digest};
use serde::{Deserialize, Serialize};

use super::sbom;
use super::sums::Sum;
use crate::recipe::{Recipe, RecipePackage};

/// What a build of kiln's is called in statements: its parameters are those of [`External`].
const BUILD_TYPE: &str = "urn:kiln:build:1";
/// What a builder is called: by the public key it signs with.
const BUILDER: &str = "urn:kiln:builder:ed25519:";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Resource>,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    external_parameters: External,
    resolved_dependencies: Vec<Resource>,
}

#[derive(Serialize, Deserialize)]
struct External {
    key: Sha256Digest,
    profile: String,
    definition: String,
    source_date_epoch: i64,
}

#[derive(Serialize, Deserialize)]
struct RunDetails {
    builder: Builder,
    metadata: Metadata,
}

#[derive(Serialize, Deserialize)]
struct Builder {
    id: String,
    version: Version,
}

#[derive(Serialize, Deserialize)]
struct Version {
    kiln: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    finished_on: String,
}

#[derive(Serialize, Deserialize)]
struct Resource {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct Digest {
    sha256: Sha256Digest,
}

/// Renders the statement. The subjects are the image's files, disks and bill of materials alike.
///
/// # Errors
/// When `now` cannot be written as a date.
pub fn render(recipe: &Recipe, subjects: &[Sum], builder: &PublicKey, now: i64) -> Result<String> {
    let time = jiff::Timestamp::from_second(now).with_context(|| format!("`{now}` is no time of a clock"))?;
    let package = |package: &RecipePackage| Resource {
        name: package.name.clone(),
        uri: Some(sbom::purl(&recipe.boot_vendor, package)),
        digest: Digest { sha256: package.sha256 },
    };
    let plain = |name: &str, sha256: Sha256Digest| Resource { name: name.into(), uri: None, digest: Digest { sha256 } };
    let packages = [&recipe.base_packages, &recipe.boot_packages, &recipe.tool_packages];
    let mut inputs: Vec<Resource> = packages.into_iter().flatten().map(package).collect();
    inputs.extend(recipe.etcd.sha256.iter().map(|sha256| plain("etcd", *sha256)));
    inputs.extend(recipe.cloud.map(|sha256| plain("cloud-image", sha256)));
    inputs.push(plain("firstboot", recipe.firstboot));
    let statement = Statement {
        kind: "https://in-toto.io/Statement/v1".into(),
        subject: subjects.iter().map(|sum| plain(&sum.path, sum.sha256)).collect(),
        predicate_type: "https://slsa.dev/provenance/v1".into(),
        predicate: Predicate {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE.into(),
                external_parameters: External {
                    key: recipe.keys().image,
                    profile: recipe.profile.clone(),
                    definition: recipe.definition.clone(),
                    source_date_epoch: recipe.source_date_epoch,
                },
                resolved_dependencies: inputs,
            },
            run_details: RunDetails {
                builder: Builder {
                    id: format!("{BUILDER}{builder}"),
                    version: Version { kiln: env!("CARGO_PKG_VERSION").into() },
                },
                metadata: Metadata { finished_on: time.to_string() },
            },
        },
    };
    Ok(serde_json::to_string_pretty(&statement)? + "\n")
}

/// The key of the builder that a statement names; none in a statement of somebody else's.
pub fn builder_of(statement: &[u8]) -> Option<PublicKey> {
    let statement: Statement = serde_json::from_slice(statement).ok()?;
    statement.predicate.run_details.builder.id.strip_prefix(BUILDER)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::tests::recipe;

    #[test]
    fn names_subjects_inputs_and_the_builder_as_the_standard_wants_them() {
        let sum = Sum { path: "disk.raw".into(), sha256: Sha256Digest::of(b"disk") };
        let text = render(&recipe(), &[sum], &PublicKey([7; 32]), 1_700_000_000).unwrap();
        assert_eq!(builder_of(text.as_bytes()), Some(PublicKey([7; 32])));
        assert_eq!(builder_of(b"{}"), None);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(value["subject"][0]["name"], "disk.raw");
        let digest = Sha256Digest::of(b"disk").to_string();
        assert_eq!(value["subject"][0]["digest"]["sha256"], digest.as_str());
        let predicate = &value["predicate"];
        assert_eq!(predicate["runDetails"]["metadata"]["finishedOn"], "2023-11-14T22:13:20Z");
        let definition = &predicate["buildDefinition"];
        assert_eq!(definition["externalParameters"]["key"], recipe().keys().image.to_string());
        let inputs = definition["resolvedDependencies"].as_array().unwrap();
        assert_eq!(inputs.len(), 5, "{inputs:?}");
    }
}
