//! Upstream's list of releases: which etcd `latest` is, and the sums that upstream publishes beside it.
//!
//! Lists and sums are text that nobody signs, so what they say is believed once, when it is written into the lock. Pure: text in, facts out.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::version::EtcdVersion;
use serde::Deserialize;

use crate::etcd_release;
use crate::exit::Refusal;
use crate::hazard::{self, Weight};
use crate::profile::{AcceptedHazard, WantedVersion};

/// A release as GitHub's API tells of it; the many other fields do not matter here.
#[derive(Deserialize)]
struct Release {
    tag_name: String,
    prerelease: bool,
    #[serde(default)]
    draft: bool,
}

/// The released versions in a list as GitHub's API gives it, the newest first. Pre-releases, drafts, and tags that are no plain version, such
/// as `v3.7.0-rc.1`, are left out.
///
/// # Errors
/// When the text is no such list.
pub fn parse(text: &str) -> Result<Vec<EtcdVersion>> {
    let releases: Vec<Release> =
        serde_json::from_str(text).context("a list of releases is a JSON array with `tag_name` and `prerelease`")?;
    let plain = releases.iter().filter(|r| !r.prerelease && !r.draft);
    let versions: BTreeSet<EtcdVersion> = plain.filter_map(|r| r.tag_name.strip_prefix('v')?.parse().ok()).collect();
    Ok(versions.into_iter().rev().collect())
}

/// The newest of `versions` that is wanted, that kiln can configure, and that has no hazard which must be accepted and is not.
///
/// # Errors
/// A [`Refusal`] when there is none.
pub fn newest(versions: &[EtcdVersion], wanted: WantedVersion, accepted: &[AcceptedHazard]) -> Result<EtcdVersion> {
    let mut passed = Vec::new();
    for version in versions.iter().copied().filter(|v| wanted.covers(*v)) {
        let hazard = hazard::of(version)
            .find(|h| h.weight == Weight::Refused && !accepted.iter().any(|accepted| accepted.hazard == h.name));
        match (version.line(), hazard) {
            (Some(_), None) => return Ok(version),
            (None, _) => passed.push(format!("{version}: kiln does not know its flags")),
            (Some(_), Some(hazard)) => passed.push(format!("{version}: {} ({})", hazard.harm, hazard.name)),
        }
    }
    let what = match passed.first() {
        None => format!("upstream's list has no released etcd that `{wanted}` stands for"),
        Some(first) => {
            format!("upstream's list has no released etcd that `{wanted}` stands for and kiln takes: {first}")
        }
    };
    let known: Vec<&str> = etcd_release::known().take(3).collect();
    let remedy = format!("name another line or a version, such as {}, or accept the hazard by name", known.join(", "));
    Err(Refusal::new(what, remedy).into())
}

/// The sum of a release's tarball in the text of its `SHA256SUMS`.
///
/// # Errors
/// When it is not there once, or kiln knows another sum of this release: then one of the two is not upstream's.
pub fn sum(text: &str, version: EtcdVersion) -> Result<Sha256Digest> {
    let file = etcd_release::file(version);
    let named = |line: &str| {
        let (sum, name) = line.split_once(char::is_whitespace)?;
        (name.trim().trim_start_matches('*').trim_start_matches("./") == file).then(|| sum.to_owned())
    };
    let mut sums = text.lines().filter_map(named);
    let (Some(sum), None) = (sums.next(), sums.next()) else {
        anyhow::bail!("`SHA256SUMS` does not name `{file}` once");
    };
    let sum: Sha256Digest = sum.parse().with_context(|| format!("reading the sum of `{file}`"))?;
    match etcd_release::pin(version) {
        Some(pin) if pin != sum => Err(Refusal::new(
            format!("`SHA256SUMS` gives {sum} for `{file}`, and kiln knows {pin}"),
            "do not use this place before you know why; the release may have been replaced",
        )
        .into()),
        Some(_) | None => Ok(sum),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> EtcdVersion {
        text.parse().unwrap()
    }

    fn list(releases: &[(&str, bool)]) -> String {
        let one = |(tag, pre): &(&str, bool)| {
            format!(r#"{{"tag_name": "{tag}", "prerelease": {pre}, "draft": false, "assets": [], "name": null}}"#)
        };
        format!("[{}]", releases.iter().map(one).collect::<Vec<_>>().join(","))
    }

    fn refused(versions: &[EtcdVersion], wanted: WantedVersion, accepted: &[AcceptedHazard]) -> String {
        newest(versions, wanted, accepted).unwrap_err().downcast::<Refusal>().unwrap().what
    }

    #[test]
    fn pre_releases_are_none_however_they_are_marked() {
        let text = list(&[
            ("v3.6.1", false),
            ("v3.7.0-rc.1", false),
            ("v3.7.0", true),
            ("v3.6.9", false),
            ("api/v3.9", false),
        ]);
        assert_eq!(parse(&text).unwrap(), [version("3.6.9"), version("3.6.1")]);
        assert!(parse("{\"message\": \"rate limit\"}").is_err());
    }

    #[test]
    fn what_kiln_does_not_know_or_must_refuse_is_passed_over() {
        let all = ["3.9.1", "3.7.2", "3.6.14", "3.6.10", "3.5.33"].map(version);
        assert_eq!(newest(&all, WantedVersion::Latest, &[]).unwrap(), version("3.7.2"));
        assert_eq!(newest(&all, WantedVersion::Line(3, 6), &[]).unwrap(), version("3.6.14"));
        assert!(
            refused(&all, WantedVersion::Line(3, 5), &[])
                .contains("`3.5` stands for and kiln takes: 3.5.33: the 3.5 line")
        );
        assert!(refused(&all[3..4], WantedVersion::Latest, &[]).contains("(add-blocked)"));
        assert!(refused(&all[..1], WantedVersion::Latest, &[]).contains("3.9.1: kiln does not know its flags"));
        assert!(refused(&[], WantedVersion::Line(3, 6), &[]).ends_with("no released etcd that `3.6` stands for"));
        let accepted = [AcceptedHazard { hazard: "etcd-3.5".into(), reason: "a test".into() }];
        assert_eq!(newest(&all, WantedVersion::Line(3, 5), &accepted).unwrap(), version("3.5.33"));
    }

    #[test]
    fn a_sum_is_the_one_of_the_file_and_must_not_contradict_the_one_known() {
        let (known, other) = ("ffe840ff9295808e88cce2794a18a5ac87f12a5203c8314d0bf6aa119b41bac5", "1".repeat(64));
        let file = "etcd-v3.6.14-linux-amd64.tar.gz";
        let sums =
            |sum: &str| format!("{other}  etcd-v3.6.14-linux-arm64.tar.gz\n{sum}  {file}\n{other}  {file}.asc\n");
        assert_eq!(sum(&sums(known), version("3.6.14")).unwrap().to_string(), known);
        let refusal = sum(&sums(&other), version("3.6.14")).unwrap_err().downcast::<Refusal>().unwrap();
        assert!(refusal.what.contains("and kiln knows ffe840ff"), "{refusal}");
        assert!(sum("", version("3.6.14")).is_err());
        let unknown = format!("{other} *./etcd-v3.6.99-linux-amd64.tar.gz\r\n");
        assert_eq!(sum(&unknown, version("3.6.99")).unwrap().to_string(), other);
    }

    proptest! {
        #[test]
        fn the_newest_is_wanted_sound_and_not_older_than_any_other_such(
            listed in proptest::collection::vec((4u16..9, 0u16..40), 0..30),
            line in proptest::option::of(5u16..8),
        ) {
            let versions: Vec<EtcdVersion> =
                listed.into_iter().map(|(minor, patch)| EtcdVersion { major: 3, minor, patch }).collect();
            let wanted = line.map_or(WantedVersion::Latest, |minor| WantedVersion::Line(3, minor));
            let tags: Vec<String> = versions.iter().map(|v| format!("v{v}")).collect();
            let text = list(&tags.iter().map(|tag| (tag.as_str(), false)).collect::<Vec<_>>());
            let sound = |v: &EtcdVersion| {
                wanted.covers(*v) && v.line().is_some() && hazard::of(*v).all(|h| h.weight != Weight::Refused)
            };
            let best = versions.iter().copied().filter(sound).max();
            prop_assert_eq!(newest(&parse(&text).unwrap(), wanted, &[]).ok(), best);
        }
    }
}
