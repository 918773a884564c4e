//! What a base is made of beside packages: a cloud image, and what is done inside a base.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use super::{CloudImage, mirror_url, name};
use crate::customize::Customize;
use crate::toml_reader::{Item, Table};

/// What a base is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Packages.
    Archive,
    /// A disk.
    Cloud,
}

/// A table that need not be there, but must be sound where it is: nothing for one that was not.
pub(super) fn all_or_none<T>(table: Option<Option<T>>) -> Option<Option<T>> {
    match table {
        None => Some(None),
        Some(sound) => sound.map(Some),
    }
}

pub(super) fn cloud(table: Table<'_>) -> Option<CloudImage> {
    let url = table.need("url", "say where the image is").and_then(|i| mirror_url(&i));
    let alternates = table.get("alternates").and_then(|i| Some(i.items()?.iter().filter_map(mirror_url).collect()));
    let sha256 = table.need("sha256", "pin the image: its publisher's SHA256SUMS has the digest");
    let sha256 = sha256.and_then(|i| i.parse("write the 64 hex digits of the publisher's SHA256SUMS"));
    table.finish();
    Some(CloudImage { url: url?, alternates: alternates.unwrap_or_default(), sha256: sha256? })
}

/// The wishes, and the packages that a cloud image is given.
pub(super) fn customize(table: Table<'_>, cloud: bool) -> Option<(Customize, Vec<String>)> {
    let list = |key: &str, sound: &dyn Fn(&Item<'_>) -> Option<String>| -> Option<Vec<String>> {
        let Some(item) = table.get(key) else { return Some(Vec::new()) };
        item.items()?.iter().map(sound).collect()
    };
    let remove = list("remove", &name);
    let mask = list("mask", &unit);
    let run = list("run", &|item| item.text().map(str::to_owned));
    let delete = list("delete", &pattern);
    let install = match cloud {
        true => list("install", &name),
        false => Some(Vec::new()),
    };
    table.finish();
    let customize = Customize { remove: remove?, mask: mask?, run: run?, delete: delete? };
    Some((customize, install?))
}

fn unit(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"@-_.:\\".contains(&b));
    if !plain || !text.trim_start_matches('.').contains('.') {
        item.problem(format!("`{text}` is not the name of a unit"), "write it as in `apt-daily.timer`");
    }
    Some(text.to_owned())
}

/// A path with a shell's patterns in it, and nothing else that a shell would understand; below a directory of the top at least.
fn pattern(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.:@+,*?[]".contains(&b));
    let parts: Vec<&str> = text.strip_prefix('/').unwrap_or_default().split('/').collect();
    let named = parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
    let narrow = parts.len() >= 2 && !parts[0].contains(['*', '?', '[']) && parts[1] != "*";
    if !plain || !named || !narrow {
        item.problem(
            format!("`{text}` is not a path that may go"),
            "write it as in `/var/lib/cloud` or `/var/lib/cloud/*`: absolute, below a directory, of letters, digits and `-_.:@+,*?[]`",
        );
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use kiln_firstboot::digest::Sha256Digest;

    use super::super::ImageDefinition;
    use super::super::tests::{SHORT, parse};

    /// The short definition with a cloud image for its base.
    fn cloudy(more: &str) -> String {
        let start = SHORT.find("[disk]").unwrap();
        let end = SHORT.find("[tools]").unwrap();
        let text = format!("{}{}", &SHORT[..start], &SHORT[end..]);
        let text = text.replace("kind = \"archive\"\npackages = [\"systemd\"]\n", "kind = \"cloud\"\n");
        let text = text.replace("packages = [\"shim-signed\"]\n", "");
        let sha256 = Sha256Digest::of(b"image");
        format!("{text}[cloud]\nurl = \"https://c.test/a.img\"\nsha256 = \"{sha256}\"\n[customize]\n{more}")
    }

    #[test]
    fn reads_a_cloud_image_with_what_becomes_of_it() {
        let more = "remove = [\"snapd\"]\ninstall = [\"qemu-guest-agent\"]\nmask = [\"a.timer\"]\nrun = [\"x | y\"]\ndelete = [\"/var/lib/cloud/*\"]\n";
        let ImageDefinition { cloud, customize, packages, disk, boot, archives, .. } = parse(&cloudy(more)).unwrap();
        let cloud = cloud.unwrap();
        assert_eq!((cloud.url.as_str(), cloud.alternates.len()), ("https://c.test/a.img", 0));
        assert_eq!(cloud.sha256, Sha256Digest::of(b"image"));
        assert_eq!(packages, ["qemu-guest-agent"]);
        assert_eq!((disk, boot.packages.len(), archives.len()), (None, 0, 1));
        let customize = customize.unwrap();
        assert_eq!((customize.remove, customize.mask), (vec!["snapd".to_owned()], vec!["a.timer".to_owned()]));
        assert_eq!((customize.run, customize.delete), (vec!["x | y".to_owned()], vec!["/var/lib/cloud/*".to_owned()]));
    }

    #[test]
    fn the_shipped_cloud_image_is_pinned_and_rid_of_what_phones_home() {
        let text = include_str!("../../../images/ubuntu-24.04-cloud.toml");
        let definition = ImageDefinition::parse("images/ubuntu-24.04-cloud.toml".into(), text).unwrap();
        assert!(!definition.cloud.unwrap().url.contains("current"));
        let customize = definition.customize.unwrap();
        for name in ["snapd", "cloud-init", "pollinate", "ubuntu-pro-client", "unattended-upgrades"] {
            assert!(customize.remove.iter().any(|removed| removed == name), "{name}");
        }
    }

    #[test]
    fn an_archive_is_needed_only_for_packages_to_install() {
        let without = |more: &str| {
            let text = cloudy(more);
            let (start, end) = (text.find("[[archive]]").unwrap(), text.find("[boot]").unwrap());
            parse(&format!("{}{}", &text[..start], &text[end..]))
        };
        assert_eq!(without("").unwrap().archives, []);
        let found: Vec<_> = without("install = [\"a\"]").unwrap_err().0.into_iter().map(|p| p.field).collect();
        assert_eq!(found, ["archive"]);
    }

    #[test]
    fn reports_every_problem_of_both_tables() {
        let more = "remove = [\"Bad Name\"]\nmask = [\"a b.timer\"]\ndelete = [\"/usr/*\", \"var/x\", \"/a/../b\", \"/var/$(x)\"]\ncolour = 1\n";
        let text = cloudy(more).replace("sha256 = \"", "sha256 = \"x").replace("https://", "ftp://");
        let found: Vec<_> = parse(&text).unwrap_err().0.into_iter().map(|p| p.field).collect();
        let want = [
            "cloud.url",
            "cloud.sha256",
            "customize.remove[1]",
            "customize.mask[1]",
            "customize.delete[1]",
            "customize.delete[2]",
            "customize.delete[3]",
            "customize.delete[4]",
            "customize.colour",
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn a_base_of_packages_may_be_customized_and_lists_its_packages_itself() {
        let definition = parse(&format!("{SHORT}[customize]\nrun = [\"true\"]\n")).unwrap();
        assert_eq!(definition.customize.unwrap().run, ["true"]);
        let problems = parse(&format!("{SHORT}[customize]\ninstall = [\"a\"]\n")).unwrap_err();
        assert_eq!(problems.0[0].field, "customize.install");
        let problems = parse(&format!("{SHORT}[cloud]\nurl = \"http://x\"\n")).unwrap_err();
        assert_eq!(problems.0[0].field, "cloud");
    }
}
