//! An image definition, `images/NAME.toml`: which base, packages, files and disk. No host and no cluster is named in it.
//!
//! A value of this type has been checked. [`ImageDefinition::parse`] is pure; [`crate::image_file::read`] reads the file.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

mod base;

use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::digest::Sha256Digest;

use crate::customize::Customize;
use crate::hygiene::{Allowance, Rule};
use crate::problem::Problems;
use crate::toml_reader::{Item, Reader, Table};

use self::base::{Kind, all_or_none, cloud, customize};

/// The schema of image definitions that this kiln reads.
pub const SCHEMA: u64 = 1;

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDefinition {
    /// Where it was read from; its paths are relative to this file's directory.
    pub file: Utf8PathBuf,
    /// Its name, which is the file's.
    pub name: String,
    /// The cloud image that is the base; none when the base is installed from archives.
    pub cloud: Option<CloudImage>,
    /// Where packages come from. With a cloud image there may be none.
    pub archives: Vec<Archive>,
    /// Packages on the node; their dependencies and the essential set come with them, recommendations do not. With a cloud image exactly those
    /// that are added to it.
    pub packages: Vec<String>,
    /// What is done inside the base before the image's files are put in; always with a cloud image.
    pub customize: Option<Customize>,
    /// Files put on the node in the image layer.
    pub tree: Option<Utf8PathBuf>,
    /// Files put on the node before its packages are configured.
    pub base_tree: Option<Utf8PathBuf>,
    /// Paths that dpkg leaves out.
    pub exclude: Vec<String>,
    /// Paths that dpkg keeps all the same.
    pub include: Vec<String>,
    /// What starts the kernel.
    pub boot: Boot,
    /// The disk; a cloud image brings its own.
    pub disk: Option<DiskSizes>,
    /// Programs that make the disk.
    pub tools: Tools,
    /// What may break a rule of hygiene, sorted.
    pub allow: Vec<Allowance>,
}

/// A cloud image: a disk that somebody else has made, pinned here and not by the lock, because nobody signs a list of versions of it that
/// a resolver could read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudImage {
    /// Where it is: a disk in qcow2 or raw.
    pub url: String,
    /// Where else, in order: dated images leave their server after some months.
    pub alternates: Vec<String>,
    /// Its pin.
    pub sha256: Sha256Digest,
}

/// A package archive: where signed lists of packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// `debian`, `debian-security`, `ubuntu`: its name in the lock, and the last part of its mirrors' paths.
    pub distribution: String,
    /// Where, if not where this machine or mmdebstrap would look.
    pub mirror: Option<String>,
    /// Where else the files of its pool may be had, when the mirror has dropped one; asked in this order, whatever they give is checked
    /// against the lock. `{time}` in one stands for the lock's time, as the archives of archives want it: `20261121T095204Z`.
    pub alternates: Vec<String>,
    /// Suites, in no order: apt takes the highest version of all.
    pub suites: Vec<String>,
    /// Components.
    pub components: Vec<String>,
    /// Keyring with the keys that may sign.
    pub keyring: Utf8PathBuf,
    /// Fingerprints of those keys; the keyring may hold others, and they count for nothing.
    pub fingerprints: Vec<String>,
}

/// What starts the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Directory of the signed grub's configuration, `EFI/<vendor>`.
    pub vendor: String,
    /// Packages that are unpacked beside the build, exactly these. None with a cloud image, which has all that starts it.
    pub packages: Vec<String>,
    /// Kernel command line, without `root=`.
    pub command_line: String,
}

/// Sizes of the partitions that have one to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSizes {
    /// EFI system partition, MiB.
    pub esp_mib: u32,
    /// `/boot`, MiB.
    pub boot_mib: u32,
    /// `/`, MiB.
    pub root_mib: u32,
}

/// Programs that make the disk: unpacked, never installed, and run by their own dynamic loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// Packages, exactly these.
    pub packages: Vec<String>,
    /// Where they come from.
    pub archives: Vec<Archive>,
}

impl ImageDefinition {
    /// Reads a definition; `file` names it in problems and is what its paths are relative to.
    ///
    /// # Errors
    /// With every problem of the file.
    pub fn parse(file: &Utf8Path, text: &str) -> Result<Self, Problems> {
        let reader = Reader::new(file.as_str(), text);
        let document = reader.parse()?;
        let top = reader.top(&document);
        reader.schema(&top, SCHEMA);
        let name = top.need("name", "write the name of this file without `.toml`").and_then(|item| {
            let name = item.text()?;
            if file.file_stem() != Some(name) {
                item.problem(format!("`{name}` is not this file's name"), "name the definition as its file");
            }
            Some(name.to_owned())
        });
        let kind = top.need("kind", "write `kind = \"archive\"` or `kind = \"cloud\"`");
        // Of a file that does not say what it is only what both kinds have is looked at.
        let kind = kind.and_then(|item| item.word(&[("archive", Kind::Archive), ("cloud", Kind::Cloud)]));
        let archive = kind != Some(Kind::Cloud);
        let cloud = (!archive).then(|| {
            let item = top.need("cloud", "say which image is the base: `[cloud]`")?;
            cloud(item.table()?)
        });
        let dir = file.parent().unwrap_or(Utf8Path::new(""));
        let place = |key: &str| top.get(key).and_then(|i| relative(&i, dir));
        let (tree, base_tree) = (place("tree"), place("base_tree"));
        let customize = match archive {
            true => top.get("customize").map(|i| customize(i.table()?, false)),
            false => top
                .need("customize", "say what becomes of the image: `[customize]`")
                .map(|i| customize(i.table()?, true)),
        };
        let packages = match archive {
            true => top.need("packages", "list the packages of the node").and_then(|i| names(&i)),
            false => Some(customize.iter().flatten().flat_map(|(_, install)| install.clone()).collect()),
        };
        let patterns = |key: &str| archive.then(|| top.get(key)).flatten().and_then(|i| texts(&i)).unwrap_or_default();
        let (exclude, include) = (patterns("exclude"), patterns("include"));
        let archives = match archive || packages.as_ref().is_some_and(|packages: &Vec<_>| !packages.is_empty()) {
            true => archives(&top, dir),
            false => top.get("archive").map_or_else(|| Some(Vec::new()), |_| self::archives(&top, dir)),
        };
        let boot = top.need("boot", "say what starts the kernel: `[boot]`").and_then(|i| boot(i.table()?, archive));
        let disk = archive
            .then(|| top.need("disk", "give the sizes of the partitions: `[disk]`").and_then(|i| disk(i.table()?)));
        let tools = top.need("tools", "list the packages that make the disk: `[tools]`").and_then(|item| {
            let table = item.table()?;
            let packages = table.need("packages", "list the packages").and_then(|i| names(&i));
            let archives = self::archives(&table, dir);
            table.finish();
            Some(Tools { packages: packages?, archives: archives? })
        });
        let allow = top.get("hygiene").and_then(|i| hygiene(i.table()?)).unwrap_or_default();
        top.finish();
        reader.finish()?;
        let definition = || {
            Some(Self {
                file: file.to_owned(),
                name: name?,
                cloud: all_or_none(cloud)?,
                archives: archives?,
                packages: packages?,
                customize: all_or_none(customize)?.map(|(customize, _)| customize),
                tree,
                base_tree,
                exclude,
                include,
                boot: boot?,
                disk: all_or_none(disk)?,
                tools: tools?,
                allow,
            })
        };
        // Whatever is missing has been noted above, so `finish` has already returned it.
        definition().ok_or_else(Problems::default)
    }
}

fn archives(table: &Table<'_>, dir: &Utf8Path) -> Option<Vec<Archive>> {
    let item = table.need("archive", "say where packages come from: `[[archive]]`")?;
    let archives: Vec<_> = item.items()?.iter().filter_map(|i| archive(i.table()?, dir)).collect();
    if archives.is_empty() {
        item.problem("there is no archive", "say where packages come from: `[[archive]]`");
    }
    Some(archives)
}

fn archive(table: Table<'_>, dir: &Utf8Path) -> Option<Archive> {
    let distribution = table.need("distribution", "write `debian`, `debian-security` or `ubuntu`").and_then(|item| {
        let name = item.text()?;
        let sound = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !sound {
            item.problem(format!("`{name}` is not a name of an archive"), "use lower-case letters, digits and `-`");
        }
        Some(name.to_owned())
    });
    let mirror = table.get("mirror").and_then(|i| mirror_url(&i));
    let alternates = table.get("alternates").and_then(|i| Some(i.items()?.iter().filter_map(mirror_url).collect()));
    let suites = table.need("suites", "list the suites").and_then(|i| names(&i));
    let components = table.need("components", "list the components, such as `main`").and_then(|i| names(&i));
    let keyring = table.need("keyring", "name the keyring whose keys may sign").and_then(|i| relative(&i, dir));
    let fingerprints = table.need("fingerprints", "list the fingerprints of the keys that may sign").and_then(|item| {
        let each = |item: &Item<'_>| {
            let text = item.text()?;
            if text.len() != 40 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')) {
                item.problem(format!("`{text}` is not a fingerprint"), "write its 40 upper-case hex digits");
            }
            Some(text.to_owned())
        };
        let found: Vec<_> = item.items()?.iter().filter_map(each).collect();
        if found.is_empty() {
            item.problem("no key may sign", "list at least one fingerprint");
        }
        Some(found)
    });
    table.finish();
    Some(Archive {
        distribution: distribution?,
        mirror,
        alternates: alternates.unwrap_or_default(),
        suites: suites?,
        components: components?,
        keyring: keyring?,
        fingerprints: fingerprints?,
    })
}

fn mirror_url(item: &Item<'_>) -> Option<String> {
    let mirror = item.text()?;
    let known = ["http://", "https://", "file:///"].iter().any(|scheme| mirror.starts_with(scheme));
    if !known || mirror.contains(char::is_whitespace) {
        item.problem(format!("`{mirror}` is not a mirror"), "write a http://, https:// or file:/// URL");
    }
    Some(mirror.trim_end_matches('/').to_owned())
}

fn boot(table: Table<'_>, archive: bool) -> Option<Boot> {
    let vendor = table.need("vendor", "name the directory of grub's configuration: `debian` or `ubuntu`");
    let vendor = vendor.and_then(|i| name(&i));
    let packages = match archive {
        true => table.need("packages", "list shim, grub and what they need").and_then(|i| names(&i)),
        false => Some(Vec::new()),
    };
    let command_line = table.need("command_line", "write the kernel's command line").and_then(|item| {
        let text = item.text()?;
        if text.contains(['\n', '"', '$', '\\']) {
            item.problem("grub would read a line break, `\"`, `$` or `\\` in it as its own", "leave it out");
        }
        Some(text.to_owned())
    });
    table.finish();
    Some(Boot { vendor: vendor?, packages: packages?, command_line: command_line? })
}

fn disk(table: Table<'_>) -> Option<DiskSizes> {
    // Below 33 MiB no FAT32 can be made; above 64 GiB nobody means it.
    let size = |key| table.need(key, "give its size in MiB").and_then(|i| i.small_integer(34..=65_536));
    let (esp_mib, boot_mib, root_mib) = (size("esp_mib"), size("boot_mib"), size("root_mib"));
    table.finish();
    Some(DiskSizes { esp_mib: esp_mib?, boot_mib: boot_mib?, root_mib: root_mib? })
}

fn hygiene(table: Table<'_>) -> Option<Vec<Allowance>> {
    let allow =
        table.need("allow", "list what may stay: `allow = [{ path = \"...\", rule = \"...\", reason = \"...\" }]`");
    let mut found: Vec<Allowance> = allow.and_then(|i| i.items())?.iter().filter_map(allowance).collect();
    table.finish();
    found.sort();
    Some(found)
}

fn allowance(item: &Item<'_>) -> Option<Allowance> {
    let table = item.table()?;
    let path = table.need("path", "name the file").and_then(|item| {
        let text = item.text()?;
        let path = text.strip_prefix('/').unwrap_or(text);
        if path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            item.problem(format!("`{text}` is not the path of a file of the image"), "write it as in `/etc/x`");
        }
        Some(path.to_owned())
    });
    let rule = table.need("rule", "name the rule that it breaks").and_then(|i| i.word(&Rule::WORDS));
    let reason = table.need("reason", "say why it must stay").and_then(|item| {
        let text = item.text()?;
        if text.trim().is_empty() {
            item.problem("there is no reason in it", "say why it must stay");
        }
        Some(text.to_owned())
    });
    table.finish();
    Some(Allowance { path: path?, rule: rule?, reason: reason? })
}

/// A path below the definition's directory.
fn relative(item: &Item<'_>, dir: &Utf8Path) -> Option<Utf8PathBuf> {
    let text = item.text()?;
    let path = Utf8Path::new(text);
    if path.is_absolute() || text.is_empty() || path.components().any(|c| c.as_str() == "..") {
        item.problem(format!("`{text}` is not below the directory of this file"), "write a relative path without `..`");
    }
    Some(dir.join(path))
}

/// A name as packages, suites and components have it.
fn name(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let sound = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    if !sound {
        item.problem(format!("`{text}` is not a name"), "use lower-case letters, digits, `+`, `-` and `.`");
    }
    Some(text.to_owned())
}

fn names(item: &Item<'_>) -> Option<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for item in item.items()? {
        let Some(name) = name(&item) else { continue };
        if found.contains(&name) {
            item.problem(format!("`{name}` is listed twice"), "leave one out");
        }
        found.push(name);
    }
    if found.is_empty() {
        item.problem("nothing is listed", "list at least one");
    }
    Some(found)
}

fn texts(item: &Item<'_>) -> Option<Vec<String>> {
    Some(item.items()?.iter().filter_map(|i| i.text().map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const SHORT: &str = r#"
schema = 1
name = "tiny"
kind = "archive"
packages = ["systemd"]
tree = "tree"
[[archive]]
distribution = "debian"
suites = ["trixie"]
components = ["main"]
keyring = "keyrings/a.gpg"
fingerprints = ["04B54C3CDCA79751B16BC6B5225629DF75B188BD"]
[boot]
vendor = "debian"
packages = ["shim-signed"]
command_line = "ro quiet"
[disk]
esp_mib = 106
boot_mib = 128
root_mib = 640
[tools]
packages = ["e2fsprogs"]
[[tools.archive]]
distribution = "debian"
suites = ["trixie"]
components = ["main"]
keyring = "keyrings/a.gpg"
fingerprints = ["04B54C3CDCA79751B16BC6B5225629DF75B188BD"]
"#;

    pub(super) fn parse(text: &str) -> Result<ImageDefinition, Problems> {
        ImageDefinition::parse(Utf8Path::new("images/tiny.toml"), text)
    }

    #[test]
    fn reads_a_definition_with_paths_beside_its_file() {
        let definition = parse(SHORT).unwrap();
        assert_eq!(definition.tree.as_deref(), Some(Utf8Path::new("images/tree")));
        assert_eq!(definition.archives[0].keyring, "images/keyrings/a.gpg");
        assert_eq!(definition.disk, Some(DiskSizes { esp_mib: 106, boot_mib: 128, root_mib: 640 }));
        assert_eq!((definition.cloud, definition.customize), (None, None));
        assert_eq!(definition.archives, definition.tools.archives);
        assert_eq!(definition.allow, []);
    }

    #[test]
    fn reads_what_may_break_a_rule_and_demands_a_reason() {
        let allow = |members: &str| parse(&format!("{SHORT}\n[hygiene]\nallow = [{{ {members} }}]\n"));
        let definition = allow("path = \"/var/log/a\", rule = \"log\", reason = \"for a test\"").unwrap();
        let want = Allowance { path: "var/log/a".into(), rule: Rule::Log, reason: "for a test".into() };
        assert_eq!(definition.allow, [want]);
        let problems = allow("path = \"../a\", rule = \"any\", reason = \" \"").unwrap_err();
        let found: Vec<_> = problems.0.into_iter().map(|p| p.field).collect();
        assert_eq!(found, ["hygiene.allow[1].path", "hygiene.allow[1].reason", "hygiene.allow[1].rule"]);
        let fields: Vec<_> = allow("path = \"a\"").unwrap_err().0.into_iter().map(|p| p.field).collect();
        assert_eq!(fields, ["hygiene.allow[1].reason", "hygiene.allow[1].rule"]);
    }

    #[test]
    fn reports_every_problem_with_its_line() {
        let text = SHORT
            .replace("\"tiny\"", "\"huge\"")
            .replace("[\"systemd\"]", "[\"systemd\", \"Bad Name\", \"systemd\"]")
            .replace("tree = \"tree\"", "tree = \"../tree\"\ncolour = 3")
            .replacen("04B54C", "04b54c", 1)
            .replace("esp_mib = 106", "esp_mib = 16")
            .replace("vendor = \"debian\"\n", "");
        let found: Vec<_> = parse(&text).unwrap_err().0.into_iter().map(|p| (p.line, p.field, p.what)).collect();
        let want = [
            (3, "name", "`huge` is not this file's name"),
            (5, "packages[2]", "`Bad Name` is not a name"),
            (5, "packages[3]", "`systemd` is listed twice"),
            (6, "tree", "`../tree` is not below the directory of this file"),
            (7, "colour", "unknown field"),
            (13, "archive[1].fingerprints[1]", "`04b54c3CDCA79751B16BC6B5225629DF75B188BD` is not a fingerprint"),
            (14, "boot.vendor", "this field is missing"),
            (18, "disk.esp_mib", "16 is out of range"),
        ];
        assert_eq!(found, want.map(|(line, field, what)| (line, field.to_owned(), what.to_owned())));
    }
}
