//! Programs of Debian 13 that this machine has not got: in trees of their own, made once and kept in kiln's home.

use std::path::PathBuf;

use kiln_tests::node::text;
use kiln_tests::places::Places;
use kiln_tests::program::{run, workspace};

/// Where the benchmarks keep what is worth keeping from run to run: outside of the checkout, for it takes long to make.
pub(crate) fn kept() -> PathBuf {
    let kept = Places::own().home.join("bench");
    std::fs::create_dir_all(&kept).expect("making a directory");
    kept
}

/// A tree of Debian 13 with `packages` more, called `name`.
pub(crate) fn with(name: &str, packages: &[&str]) -> PathBuf {
    let tree = kept().join(name);
    if !tree.exists() {
        let making = kept().join(format!("{name}.new"));
        // What a run left behind that was stopped; nothing when none was.
        let _ = std::fs::remove_dir_all(&making);
        let keyring = format!("--keyring={}", text(&workspace().join("images/keyrings/debian-13-archive.gpg")));
        let include = format!("--include={}", packages.join(","));
        run(&["mmdebstrap", "--mode=root", "--variant=apt", &keyring, &include, "trixie", &text(&making)]);
        std::fs::rename(&making, &tree).expect("renaming a tree");
    }
    tree
}
