//! A build with nothing to do, beside `nix build` of a derivation that is built already.

use kiln_tests::node::text;
use kiln_tests::program::run;

use super::{build, debian_tree, median, timed};

/// The smallest derivation there is, so that nix has nothing to do but to see that.
const DERIVATION: &str =
    r#"derivation { name = "nothing"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }"#;
/// For root in a tree of its own: no daemon, no other users to build as, no namespaces in namespaces, nothing asked over the network.
const NIX: [&str; 14] = [
    "nix",
    "--extra-experimental-features",
    "nix-command",
    "--offline",
    "--option",
    "substitute",
    "false",
    "--option",
    "sandbox",
    "false",
    "--option",
    "build-users-group",
    "",
    "build",
];
/// Mounts what nix wants of a system, a terminal and itself, and goes into the tree.
const ENTER: &str = r#"root=$1; shift
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts" && mount --bind "$root/dev/pts/ptmx" "$root/dev/ptmx" && exec chroot "$root" "$@""#;

pub(crate) fn compare() {
    let kiln = median(|_| timed(|| build(&[])).0);
    let root = text(&debian_tree::with("nix-bin", &["nix-bin"]));
    let proc = format!("--mount-proc={root}/proc");
    let enter = ["unshare", "--mount", "--pid", "--fork", &proc, "sh", "-c", ENTER, "enter", &root];
    let argv = [&enter[..], &NIX, &["--no-link", "--expr", DERIVATION]].concat();
    // Builds it, and makes nix's own database.
    run(&argv);
    let nix = median(|_| timed(|| run(&argv)).0);
    let entered = median(|_| timed(|| run(&[&enter[..], &["true"]].concat())).0);
    println!(
        "build with nothing to do         {kiln:8.3} s   {:5.2} x `nix build` of one built derivation ({nix:.3} s, {entered:.3} s of it to enter its tree)",
        kiln / nix
    );
}
