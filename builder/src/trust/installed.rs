//! What a tree says it has installed: dpkg's own list, read out of its tar.
#![expect(clippy::disallowed_methods, reason = "an edge: reads a tar")]

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Where dpkg keeps it.
const STATUS: &str = "var/lib/dpkg/status";

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The installed packages of a tree, in dpkg's order.
///
/// # Errors
/// When the tar cannot be read, or has no list.
pub fn read(tar: &Path) -> Result<Vec<Installed>> {
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, fs_err::File::open(tar)?));
    for member in archive.entries()? {
        let mut member = member?;
        let path = member.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if path == STATUS {
            let mut text = String::new();
            member.read_to_string(&mut text).with_context(|| format!("reading `{STATUS}`"))?;
            return Ok(parse(&text));
        }
    }
    anyhow::bail!("`{}` has no `{STATUS}`, so nobody knows what is installed in it", tar.display())
}

/// Reads dpkg's list: paragraphs of `Field: value`, of which those count whose package is wholly there.
pub fn parse(status: &str) -> Vec<Installed> {
    let paragraph = |text: &str| {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let there = field("Status")?.ends_with(" installed");
        let installed = Installed { name: field("Package")?.to_owned(), version: field("Version")?.to_owned() };
        there.then_some(installed)
    };
    status.split("\n\n").filter_map(paragraph).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wholly_there_counts() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nDescription: x\n Version: 9\n\n\
                      Package: b\nStatus: deinstall ok config-files\nVersion: 2\n\n\
                      Package: c\nStatus: hold ok installed\nVersion: 3\n";
        let found: Vec<_> = parse(status).into_iter().map(|p| (p.name, p.version)).collect();
        assert_eq!(found, [("a".to_owned(), "1:2-3".to_owned()), ("c".to_owned(), "3".to_owned())]);
    }
}
