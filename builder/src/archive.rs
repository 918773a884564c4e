//! Asking package archives, through apt: the one well-kept resolver and verifier of signed package lists.
//!
//! apt gets a directory tree and a configuration of its own; the host's sources, keys, state and cache are neither read nor written.
//! Signatures are verified against the definition's fingerprints, and every package found carries the sha256 that the signed list gives.
#![expect(clippy::disallowed_methods, reason = "the place where apt's private tree is written and its lists are read")]

mod upgrade;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

pub use self::upgrade::Held;
use crate::image_definition::Archive;
use crate::lock::LockedPackage;
use crate::tool::{Tool, shell_quote};

/// What every system has. apt counts itself among it; a node installs nothing, so it does without.
const ESSENTIAL: &str = "?and(?essential,?not(?exact-name(apt)))";

/// A private apt with the package lists of some archives.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
    mirrors: BTreeMap<String, String>,
}

/// An archive and the mirror it is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The archive.
    pub archive: Archive,
    /// Its mirror.
    pub mirror: String,
    /// Whether lists older than they claim to be good for are refused. They are signed all the same; see [`crate::resolve`] for when not.
    pub check_age: bool,
}

impl Apt {
    /// Reads the lists of `sources`, verified, into `dir`, which is made.
    ///
    /// # Errors
    /// When apt is missing, an archive cannot be reached, or a signature is not by one of the fingerprints.
    pub fn update(sources: &[Source], dir: &Path) -> Result<Self> {
        // apt runs in the directory, and takes the host's configuration where it finds none at the name it is given.
        let dir = std::path::absolute(dir)?;
        let at = |name: &str| dir.join(name);
        for name in ["state/lists/partial", "cache/archives/partial", "etc/preferences.d", "sources", "trusted"] {
            fs_err::create_dir_all(at(name))?;
        }
        fs_err::write(at("status"), "")?;
        let mut text = String::new();
        let mut mirrors = BTreeMap::new();
        for source in sources {
            let archive = &source.archive;
            text.push_str(&stanza(source));
            let keyring = archive.keyring.file_name().context("a keyring has a name")?;
            fs_err::copy(&archive.keyring, at("trusted").join(keyring))?;
            mirrors.insert(archive.distribution.clone(), source.mirror.clone());
        }
        fs_err::write(at("sources/kiln.sources"), text)?;
        fs_err::write(at("apt.conf"), configuration(&dir))?;
        let apt = Self { dir, mirrors };
        // Without this apt goes on with the lists it could read and only warns about the others.
        apt.tool("apt-get").args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]).run()?;
        Ok(apt)
    }

    /// The packages that an installation of the essential set and `names` consists of: their dependencies, no recommendations.
    ///
    /// # Errors
    /// When a name is not known or the dependencies cannot be met.
    pub fn installation(&self, names: &[String]) -> Result<Vec<LockedPackage>> {
        let tool = self.tool("apt-get").args(["-qq", "--print-uris", "install", ESSENTIAL]).args(names);
        self.pinned(&tool.read().context("resolving the packages of the base")?)
    }

    /// Exactly these packages, each in its newest version.
    ///
    /// # Errors
    /// When a name is not known.
    pub fn exactly(&self, names: &[String]) -> Result<Vec<LockedPackage>> {
        self.pinned(&self.tool("apt-get").args(["-qq", "--print-uris", "download"]).args(names).read()?)
    }

    /// Every version of a package that the lists have, in their order.
    ///
    /// # Errors
    /// When the name is not known.
    pub fn versions(&self, name: &str) -> Result<Vec<LockedPackage>> {
        let text = self.tool("apt-cache").args(["show", "--all-versions", name]).read()?;
        records(&text).iter().map(|record| self.locked(record, None)).collect()
    }

    /// Unix seconds of the newest list.
    ///
    /// # Errors
    /// When a list has no date.
    pub fn newest_list(&self) -> Result<i64> {
        let mut newest = None;
        for found in fs_err::read_dir(self.dir.join("state/lists"))? {
            let path = found?.path();
            if path.to_str().is_some_and(|p| p.ends_with("InRelease") || p.ends_with("_Release")) {
                let text = fs_err::read_to_string(&path)?;
                newest =
                    newest.max(Some(release_date(&text).with_context(|| format!("reading `{}`", path.display()))?));
            }
        }
        newest.context("apt kept no list with a date")
    }

    /// The mirrors by name.
    pub fn mirrors(&self) -> &BTreeMap<String, String> {
        &self.mirrors
    }

    fn tool(&self, program: &str) -> Tool {
        // apt reads its messages' language and a proxy's address from the environment: only the second is wanted.
        Tool::new(program).env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C.UTF-8").dir(&self.dir)
    }

    /// Looks up what `--print-uris` printed in the lists: apt prints whichever hash it likes, often MD5.
    fn pinned(&self, printed: &str) -> Result<Vec<LockedPackage>> {
        let uris: Vec<(String, String)> = printed.lines().filter_map(parse_uri).collect();
        if uris.is_empty() {
            bail!("apt names no package to download");
        }
        let wanted: Vec<String> = uris
            .iter()
            .map(|(_, file)| name_and_version(file))
            .collect::<Option<_>>()
            .context("apt names a file that is no package")?;
        let text = self.tool("apt-cache").args(["show", "--no-all-versions"]).args(&wanted).read()?;
        let by_file: HashMap<String, HashMap<String, String>> =
            records(&text).into_iter().filter_map(|r| Some((r.get("Filename")?.clone(), r))).collect();
        let mut packages = Vec::new();
        for (uri, _) in &uris {
            let unquoted = unquote(uri);
            let (file, record) = by_file
                .iter()
                .find(|(file, _)| unquoted.ends_with(&format!("/{file}")))
                .with_context(|| format!("apt names `{uri}`, which its lists do not have"))?;
            let mirror = unquoted.strip_suffix(file.as_str()).map(|m| m.trim_end_matches('/'));
            packages.push(self.locked(record, mirror)?);
        }
        packages.sort();
        packages.dedup();
        Ok(packages)
    }

    fn locked(&self, record: &HashMap<String, String>, mirror: Option<&str>) -> Result<LockedPackage> {
        let field = |name: &str| {
            let package = record.get("Package").map_or("?", String::as_str);
            record.get(name).cloned().with_context(|| format!("the list gives no `{name}` for package `{package}`"))
        };
        let by_mirror = mirror.and_then(|url| self.mirrors.iter().find(|(_, known)| *known == url));
        let mirror = match (by_mirror, mirror) {
            (Some((name, _)), _) => name.clone(),
            (None, Some(url)) => bail!("apt took a package from `{url}`, which is no mirror of ours"),
            (None, None) => self.mirrors.keys().next().context("there is no mirror")?.clone(),
        };
        Ok(LockedPackage {
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture")?,
            mirror,
            filename: field("Filename")?,
            bytes: field("Size")?.parse().context("reading a package's size")?,
            sha256: field("SHA256")?.parse().context("reading a package's sha256")?,
        })
    }
}

/// Where the archives of a definition are read from: their own `mirror`, else where this machine gets them from, else where mmdebstrap
/// would. Nothing is asked over the network.
///
/// # Errors
/// When nobody knows a mirror.
pub fn mirrors(archives: &[Archive]) -> Result<Vec<Source>> {
    let host = host_mirrors()?;
    let mut sources = Vec::new();
    for archive in archives {
        let known = archive.mirror.clone().or_else(|| host.get(&archive.distribution).cloned());
        let mirror = match known {
            Some(mirror) => mirror,
            None => mmdebstrap_mirror(archive)?.with_context(|| {
                let name = &archive.distribution;
                format!("no mirror is known for archive `{name}`\nhint: write `mirror = \"http://...\"` into its `[[archive]]`")
            })?,
        };
        sources.push(Source { archive: archive.clone(), mirror, check_age: true });
    }
    Ok(sources)
}

/// What the host's own apt reads, by the last part of the path.
fn host_mirrors() -> Result<BTreeMap<String, String>> {
    let text = Tool::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).read()?;
    let mut mirrors = BTreeMap::new();
    for uri in text.lines().map(|l| l.trim().trim_end_matches('/')) {
        if let Some(name) = uri.strip_prefix("http").and_then(|rest| rest.rsplit('/').next()) {
            mirrors.entry(name.to_owned()).or_insert_with(|| uri.to_owned());
        }
    }
    Ok(mirrors)
}

/// What mmdebstrap would read: it writes its sources before it asks anybody, and is stopped right then.
fn mmdebstrap_mirror(archive: &Archive) -> Result<Option<String>> {
    let suite = archive.suites.first().context("an archive has a suite")?;
    let suite = suite.split('-').next().unwrap_or(suite);
    let dir = tempfile::tempdir().context("making a directory for mmdebstrap")?;
    let found = dir.path().join("sources");
    let keyring = fs_err::canonicalize(&archive.keyring)?;
    // Whoever mmdebstrap runs the hook as must be able to write it.
    fs_err::write(&found, "")?;
    fs_err::set_permissions(&found, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    fs_err::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let hook = format!("cat \"$1\"/etc/apt/sources.list > {}; exit 1", shell_quote(&found.to_string_lossy()));
    let stopped = Tool::new("mmdebstrap")
        .args(["--variant=custom", "--format=null"])
        .arg(format!("--keyring={}", keyring.display()))
        .arg(format!("--setup-hook={hook}"))
        .args([suite, "/dev/null"])
        .succeeds()?;
    log::debug!("mmdebstrap was asked for its mirror of {suite}: {stopped}");
    let text = fs_err::read_to_string(&found)?;
    let uris = text.lines().filter_map(|line| line.split_whitespace().find(|w| w.contains("://")));
    let mut uris = uris.map(|uri| uri.trim_end_matches('/'));
    Ok(uris.find(|uri| uri.rsplit('/').next() == Some(&archive.distribution)).map(str::to_owned))
}

fn stanza(source: &Source) -> String {
    let archive = &source.archive;
    let mut text = format!(
        "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\nArchitectures: amd64\nSigned-By: {}\n",
        source.mirror,
        archive.suites.join(" "),
        archive.components.join(" "),
        archive.fingerprints.join(" ")
    );
    if !source.check_age {
        text.push_str("Check-Valid-Until: no\n");
    }
    text.push('\n');
    text
}

fn configuration(dir: &Path) -> String {
    let mut text = String::new();
    let dir = dir.display();
    for (name, value) in [
        ("Dir", format!("{dir}")),
        ("Dir::State", "state".into()),
        ("Dir::State::status", format!("{dir}/status")),
        ("Dir::Cache", "cache".into()),
        ("Dir::Etc", "etc".into()),
        ("Dir::Etc::main", "/dev/null".into()),
        ("Dir::Etc::parts", "/dev/null".into()),
        ("Dir::Etc::sourcelist", "/dev/null".into()),
        ("Dir::Etc::sourceparts", format!("{dir}/sources")),
        ("Dir::Etc::trusted", "/dev/null".into()),
        ("Dir::Etc::trustedparts", format!("{dir}/trusted")),
        ("Dir::Etc::preferences", "/dev/null".into()),
        ("APT::Architecture", "amd64".into()),
        ("APT::Architectures", "amd64".into()),
        ("APT::Install-Recommends", "false".into()),
        ("APT::Install-Suggests", "false".into()),
        // Who gets an update of Ubuntu's in its first days depends on the machine; a lock must not.
        ("APT::Get::Always-Include-Phased-Updates", "true".into()),
        // apt would change to user `_apt`, who cannot enter a private directory; nothing is unpacked here.
        ("APT::Sandbox::User", String::new()),
        ("Acquire::Languages", "none".into()),
        ("Acquire::Retries", "2".into()),
        ("Acquire::http::Timeout", "20".into()),
        ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into()),
        ("Acquire::IndexTargets::deb::CNF::DefaultEnabled", "false".into()),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} \"{value}\";");
    }
    text
}

/// `'URI' file size hash` as URI and file.
fn parse_uri(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix('\'')?;
    let (uri, rest) = rest.split_once("' ")?;
    Some((uri.to_owned(), rest.split(' ').next()?.to_owned()))
}

/// `name=version` from a file's name, `name_version_architecture.deb`, whose epoch's colon is written `%3a`.
fn name_and_version(file: &str) -> Option<String> {
    let mut parts = file.split('_');
    Some(format!("{}={}", parts.next()?, unquote(parts.next()?)))
}

/// Undoes the `%xx` of URIs.
fn unquote(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| first == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Records of `Field: value`, parted by empty lines; continuation lines are left out.
pub fn records(text: &str) -> Vec<HashMap<String, String>> {
    let record = |text: &str| {
        let fields = text.lines().filter(|l| !l.starts_with([' ', '\t']));
        fields.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect()
    };
    text.split("\n\n").map(str::trim).filter(|r| !r.is_empty()).map(record).collect()
}

/// The `Date:` of a list.
fn release_date(text: &str) -> Result<i64> {
    let date = text.lines().find_map(|l| l.strip_prefix("Date: ")).context("it has no `Date`")?;
    // `Sat, 21 Nov 2026  9:52:04 UTC`: neither the padded hour nor the zone's name is RFC 2822.
    let plain = date.trim().replace("  ", " 0").replace(" UTC", " +0000").replace(" GMT", " +0000");
    Ok(jiff::fmt::rfc2822::parse(&plain).with_context(|| format!("`{date}` is not a date"))?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_print_uris_prints() {
        let line = "'http://m/ubuntu/pool/main/g/gcc-14/gcc_1%3a14.2.0-4%7e24.04.1_amd64.deb' gcc_1%3a14.2.0-4~24.04.1_amd64.deb 51014 MD5Sum:f6";
        let (uri, file) = parse_uri(line).unwrap();
        assert_eq!(unquote(&uri), "http://m/ubuntu/pool/main/g/gcc-14/gcc_1:14.2.0-4~24.04.1_amd64.deb");
        assert_eq!(name_and_version(&file).unwrap(), "gcc=1:14.2.0-4~24.04.1");
        assert_eq!(unquote("100%"), "100%");
        assert_eq!(parse_uri("Reading package lists..."), None);
    }

    #[test]
    fn reads_records_without_their_continuations() {
        let found = records("Package: a\nVersion: 1\nDescription: x\n more: y\n\nPackage: b\n\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].get("Version").map(String::as_str), Some("1"));
        assert_eq!(found[0].get(" more"), None);
    }

    #[test]
    fn reads_the_date_of_a_list() {
        assert_eq!(release_date("Origin: x\nDate: Thu, 25 Apr 2024 15:10:33 UTC\n").unwrap(), 1_714_057_833);
        assert_eq!(release_date("Date: Sat, 21 Nov 2026  9:52:04 UTC").unwrap(), 1_795_254_724);
        assert_eq!(release_date("Origin: x\n").unwrap_err().to_string(), "it has no `Date`");
    }
}
