//! Asking apt what moves when one package of a system moves.
//!
//! apt is told that the packages of a lock are installed: then it moves what it is asked for and what must move with it, as on a running
//! system, and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use anyhow::Result;
use kiln_firstboot::digest::Sha256Digest;

use super::{Apt, parse_uri};
use crate::lock::LockedPackage;
use crate::tool::Tool;

/// A package that apt takes for installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// Its control data: the fields of its `control`, as `dpkg-deb --field` prints them and as lists have them.
    pub control: String,
}

impl Apt {
    /// Control data of those packages that the lists have with exactly these bytes.
    ///
    /// # Errors
    /// When a list cannot be read.
    pub fn controls(&self, packages: &[LockedPackage]) -> Result<HashMap<Sha256Digest, String>> {
        let wanted: BTreeSet<String> = packages.iter().map(|p| p.sha256.to_string()).collect();
        let mut found = HashMap::new();
        for entry in fs_err::read_dir(self.dir.join("state/lists"))? {
            let path = entry?.path();
            // Compressed or not, as apt keeps it.
            if !path.file_name().is_some_and(|name| name.to_string_lossy().contains("_Packages")) {
                continue;
            }
            let text = Tool::new("/usr/lib/apt/apt-helper").arg("cat-file").arg(&path).read()?;
            for record in text.split("\n\n") {
                let sum = record.lines().find_map(|line| line.strip_prefix("SHA256: "));
                if let Some(sum) = sum.filter(|sum| wanted.contains(*sum)) {
                    found.insert(sum.parse()?, record.trim().to_owned());
                }
            }
        }
        Ok(found)
    }

    /// What has to be brought to a system of exactly `held` so that it has `names` in their newest versions: those, and what must move with
    /// them. Nothing is ever removed or made older. Empty when they are the newest.
    ///
    /// # Errors
    /// When something would have to be removed, or a dependency cannot be met.
    pub fn upgrade(&self, held: &[Held], names: &[String]) -> Result<Vec<LockedPackage>> {
        self.install_status(held, names)?;
        let tool = self.without_cache().args(["-qq", "--print-uris", "--no-remove", "install"]).args(names);
        let printed = tool.read()?;
        if !printed.lines().any(|line| parse_uri(line).is_some()) {
            return Ok(Vec::new());
        }
        self.pinned(&printed)
    }

    /// Names of `installed` packages that neither are `wanted` or essential nor serve one that is.
    ///
    /// # Errors
    /// When apt cannot tell.
    pub fn unneeded(&self, installed: &[Held], wanted: &[String]) -> Result<BTreeSet<String>> {
        self.install_status(installed, wanted)?;
        let printed = self.without_cache().args(["-qq", "--simulate", "autoremove"]).read()?;
        Ok(printed.lines().filter_map(|line| line.strip_prefix("Remv ")?.split(' ').next()).map(plain).collect())
    }

    fn without_cache(&self) -> Tool {
        // A cache is told from a stale one by times of whole seconds, and the status is written more often than that.
        let options =
            ["Dir::Cache::pkgcache=", "APT::Protect-Kernels=false", "APT::AutoRemove::RecommendsImportant=false"];
        let options = options.into_iter().chain(["APT::AutoRemove::SuggestsImportant=false"]);
        self.tool("apt-get").args(options.flat_map(|option| ["-o", option]))
    }

    /// Makes apt believe that `held` is installed, `wanted` of it by hand.
    fn install_status(&self, held: &[Held], wanted: &[String]) -> Result<()> {
        let (mut status, mut states) = (String::new(), String::new());
        for package in held {
            // Writing to a string cannot fail.
            let _ = write!(status, "{}\nStatus: install ok installed\n\n", package.control.trim());
            if !wanted.contains(&package.name) {
                let _ = write!(states, "Package: {}\nArchitecture: amd64\nAuto-Installed: 1\n\n", package.name);
            }
        }
        fs_err::write(self.dir.join("status"), status)?;
        fs_err::write(self.dir.join("state/extended_states"), states)?;
        Ok(())
    }
}

/// A name without the architecture that apt may put behind it.
fn plain(name: &str) -> String {
    name.split(':').next().unwrap_or(name).to_owned()
}
