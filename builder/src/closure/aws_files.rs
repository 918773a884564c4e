//! The files in which tools of AWS keep credentials and settings. Pure.
//!
//! `~/.aws/credentials` has `[NAME]` sections, `~/.aws/config` has `[profile NAME]`; both have `[default]`.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeMap;

/// The settings of one profile; none when the file has no such section.
pub fn section(text: &str, profile: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') || line.starts_with(';') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = name.trim();
            inside = name.strip_prefix("profile ").map_or(name, str::trim) == profile;
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            settings.insert(key.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_what_is_in_its_section() {
        let text = "[default]\naws_access_key_id = A\n# x = y\n[profile work]\nregion=eu-1\nendpoint_url = http://h:1/?a=b\n[other]\nregion = no\n";
        let of = |profile| section(text, profile);
        assert_eq!(of("default").get("aws_access_key_id").map(String::as_str), Some("A"));
        assert_eq!(of("default").len(), 1);
        assert_eq!(of("work").get("region").map(String::as_str), Some("eu-1"));
        assert_eq!(of("work").get("endpoint_url").map(String::as_str), Some("http://h:1/?a=b"));
        assert!(of("nobody").is_empty());
    }
}
