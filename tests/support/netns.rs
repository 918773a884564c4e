//! A small network of its own: one switch, one namespace a node, nothing shared with the machine.

#![expect(clippy::disallowed_methods, reason = "tests prepare files")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::program::{output, run};

/// Distinguishes networks of one test process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A switch in a namespace of its own. Dropping it removes the namespaces and the links with them.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    nodes: Vec<String>,
}

impl Network {
    /// Address of the switch, where DNS is served.
    pub const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    /// The same in IPv6.
    pub const SWITCH6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);

    /// Makes the switch.
    pub fn new() -> Self {
        sweep();
        let prefix = format!("kt{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let network = Self { prefix, nodes: Vec::new() };
        let switch = network.switch();
        run(&["ip", "netns", "add", &switch]);
        run(&["ip", "-n", &switch, "link", "set", "lo", "up"]);
        run(&["ip", "-n", &switch, "link", "add", "br0", "type", "bridge"]);
        run(&["ip", "-n", &switch, "addr", "add", &format!("{}/24", Self::SWITCH), "dev", "br0"]);
        run(&["ip", "-n", &switch, "link", "set", "br0", "up"]);
        network
    }

    /// The switch's namespace.
    pub fn switch(&self) -> String {
        format!("{}s", self.prefix)
    }

    /// Adds a node with an address; returns its namespace.
    pub fn add(&mut self, name: &str, address: Ipv4Addr) -> String {
        let space = format!("{}-{name}", self.prefix);
        let port = format!("p{}", self.nodes.len());
        let switch = self.switch();
        run(&["ip", "netns", "add", &space]);
        self.nodes.push(space.clone());
        run(&["ip", "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space]);
        run(&["ip", "-n", &switch, "link", "set", &port, "master", "br0", "up"]);
        run(&["ip", "-n", &space, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        run(&["ip", "-n", &space, "link", "set", "lo", "up"]);
        run(&["ip", "-n", &space, "link", "set", "eth0", "up"]);
        // etcd resolves its peers by the system's resolver; `ip netns exec` mounts this over /etc/resolv.conf.
        let etc = format!("/etc/netns/{space}");
        fs_err::create_dir_all(&etc).expect("making /etc/netns");
        fs_err::write(format!("{etc}/resolv.conf"), format!("nameserver {}\n", Self::SWITCH))
            .expect("writing resolv.conf");
        space
    }

    /// How many nodes have been added.
    pub fn ports(&self) -> usize {
        self.nodes.len()
    }

    /// Gives a namespace's node another address instead of one it has, as a DHCP server with another mind does.
    pub fn readdress(space: &str, from: Ipv4Addr, to: Ipv4Addr) {
        // In this order: with its first address, an interface loses the others of the same network.
        run(&["ip", "-n", space, "addr", "del", &format!("{from}/24"), "dev", "eth0"]);
        run(&["ip", "-n", space, "addr", "add", &format!("{to}/24"), "dev", "eth0"]);
    }

    /// Gives the switch its IPv6 address.
    pub fn enable6(&self) {
        run(&["ip", "-n", &self.switch(), "addr", "add", &format!("{}/64", Self::SWITCH6), "dev", "br0", "nodad"]);
    }

    /// Gives a namespace's node an IPv6 address, beside its IPv4 address or instead of it.
    pub fn add6(space: &str, address: Ipv6Addr, instead_of: Option<Ipv4Addr>) {
        run(&["ip", "-n", space, "addr", "add", &format!("{address}/64"), "dev", "eth0", "nodad"]);
        if let Some(v4) = instead_of {
            run(&["ip", "-n", space, "addr", "del", &format!("{v4}/24"), "dev", "eth0"]);
            fs_err::write(format!("/etc/netns/{space}/resolv.conf"), format!("nameserver {}\n", Self::SWITCH6))
                .expect("writing resolv.conf");
        }
    }

    /// Cuts or mends the link of the node that was added as number `index`.
    pub fn set_link(&self, index: usize, up: bool) {
        let state = if up { "up" } else { "down" };
        run(&["ip", "-n", &self.switch(), "link", "set", &format!("p{index}"), state]);
    }
}

/// Removes what a test process that was killed has left: the namespaces that bear its number, and what runs in them.
fn sweep() {
    for space in output_lines(&["ip", "netns", "list"]) {
        let space = space.split(' ').next().unwrap_or_default();
        let owner = space.strip_prefix("kt").and_then(|rest| rest.split('x').next()?.parse::<u32>().ok());
        if owner.is_none_or(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            continue;
        }
        for pid in output_lines(&["ip", "netns", "pids", space]) {
            drop(output(&["kill", "-KILL", &pid]));
        }
        drop(output(&["ip", "netns", "del", space]));
        drop(fs_err::remove_dir_all(format!("/etc/netns/{space}")));
    }
}

fn output_lines(argv: &[&str]) -> Vec<String> {
    String::from_utf8_lossy(&output(argv).stdout).lines().map(str::to_owned).collect()
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in self.nodes.iter().chain([&self.switch()]) {
            // The test's own outcome matters more than a namespace that was never made.
            drop(output(&["ip", "netns", "del", space]));
            drop(fs_err::remove_dir_all(format!("/etc/netns/{space}")));
        }
    }
}
