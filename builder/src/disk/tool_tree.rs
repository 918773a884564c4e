//! Programs from pinned packages: unpacked into a directory and run by their own dynamic loader, so that the build host's libraries have no say.

use std::path::{Path, PathBuf};

use crate::tool::Tool;

/// A directory into which packages were unpacked, `usr` and all.
#[derive(Clone, Debug)]
pub struct ToolTree {
    root: PathBuf,
}

impl ToolTree {
    /// The tree at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path inside the tree.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.root.join(inside)
    }

    /// A command that runs the program at `inside`, `usr/sbin/mke2fs`, with fixed locale and time zone.
    ///
    /// Its libraries, its loader and its character set converters come from the tree; it must not run further programs by absolute path.
    pub fn tool(&self, inside: &str) -> Tool {
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|d| self.path(d).into_os_string());
        Tool::new(self.path("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(libraries.join(":".as_ref()))
            .arg(self.path(inside))
            // libarchive turns names into the locale's character set and refuses those it cannot.
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env("GCONV_PATH", self.path("usr/lib/x86_64-linux-gnu/gconv"))
    }
}
