//! A node's own packet filter: the image's rules in its namespace, with the test network as its peers and clients.
#![expect(clippy::disallowed_methods, reason = "tests read what goes into an image")]

use crate::program::{run, run_with_input, workspace};

const NETWORK6: &str = "fd99::/64";

/// Loads the image's rules as at boot: the client port is closed. Other tables of the namespace, a test's own, stay.
pub fn close(space: &str) {
    let file = workspace().join("images/tree/etc/nftables.conf");
    let rules = fs_err::read_to_string(file).expect("reading the image's packet filter");
    let (rest, network) = ("flush ruleset", "10.99.0.0/24");
    assert!(rules.contains(rest), "the image's rules begin with `{rest}`");
    let rules = rules.replace(rest, "table inet kiln {}\ndelete table inet kiln");
    let rules: String = rules.lines().filter(|line| !line.starts_with("include")).map(|l| format!("{l}\n")).collect();
    let sets = [("peers4", network), ("clients4", network), ("peers6", NETWORK6), ("clients6", NETWORK6)]
        .map(|(set, network)| format!("add element inet kiln {set} {{ {network} }}\n"));
    run_with_input(&["ip", "netns", "exec", space, "nft", "-f", "-"], &(rules + &sets.concat()));
}

/// Opens the client port, with the root helper's own words.
pub fn open(space: &str) {
    run(&["ip", "netns", "exec", space, "nft", "add", "element", "inet", "kiln", "open_tcp", "{ 2379 }"]);
}

/// Loses every packet between a namespace and an address, in both directions, beside the node's own rules.
pub fn part(space: &str, address: &str) {
    lose(space, &format!("ip saddr {address}"), &format!("ip daddr {address}"));
}

/// As [`part`], but only what goes to one TCP port, on either side.
pub fn part_port(space: &str, address: &str, port: u16) {
    lose(space, &format!("ip saddr {address} tcp dport {port}"), &format!("ip daddr {address} tcp dport {port}"));
}

fn lose(space: &str, coming: &str, going: &str) {
    let rules = format!(
        "add table inet parted\n\
         add chain inet parted in {{ type filter hook input priority -10; }}\n\
         add chain inet parted out {{ type filter hook output priority -10; }}\n\
         add rule inet parted in {coming} drop\n\
         add rule inet parted out {going} drop\n"
    );
    run_with_input(&["ip", "netns", "exec", space, "nft", "-f", "-"], &rules);
}

/// Ends every [`part`] and [`part_port`] of a namespace.
pub fn mend(space: &str) {
    run(&["ip", "netns", "exec", space, "nft", "delete", "table", "inet", "parted"]);
}
