//! Several nodes, their DNS and their operator.
#![expect(clippy::disallowed_methods, reason = "tests prepare files")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use kiln_firstboot::cluster::{ClusterConfig, EtcdSettings};
use kiln_firstboot::digest::{Id128, PublicKey, Sha256Digest};
use kiln_firstboot::image::ImageMeta;
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::state::{Phase, RaftId};
use kiln_firstboot::version::EtcdVersion;

use crate::client::Operator;
use crate::dns::{Dns, Records};
use crate::netns::Network;
use crate::node::{Node, text};
use crate::program::{etcd, kiln, output, run};
use crate::wait::{holds, until};

/// Domain of every test cluster.
pub const DOMAIN: &str = "unit.kiln.test";
/// Name of every test cluster.
pub const ENV: &str = "unit";

/// Long enough for any cluster to form on two busy cores; a test that needs this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How long nodes are watched doing nothing. Rounds are a second or less apart, so this is several of them.
const A_WHILE: Duration = Duration::from_secs(5);

/// A cluster of nodes in namespaces. Dropping it ends everything.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, powered off at first. (Dropped first: their processes end before the network goes.)
    pub nodes: Vec<Node>,
    /// The DNS server, with every record right at first.
    pub dns: Dns,
    /// The network.
    pub network: Network,
    scratch: tempfile::TempDir,
}

/// A copy of a node. Not one of the cluster's nodes, for it has the name and address of one.
#[derive(Debug)]
pub struct Clone {
    /// The copy.
    pub node: Node,
    port: usize,
}

impl Clone {
    /// Cuts or mends its link. With the original's link up, only one of the two may be.
    pub fn set_link(&self, network: &Network, up: bool) {
        network.set_link(self.port, up);
    }
}

impl Cluster {
    /// Mints a cluster of `size` nodes with `kiln pki init` and lays its nodes out, all blank, all powered off.
    pub fn new(size: u8) -> Self {
        Self::lay_out(size, Family::V4, false)
    }

    /// The same, with a DNS server that misbehaves by script instead of the real one.
    pub fn with_scripted_dns(size: u8) -> Self {
        Self::lay_out(size, Family::V4, true)
    }

    /// The same in a network of IPv6 alone. The charter has IPv6 addresses.
    pub fn over_ipv6(size: u8) -> Self {
        Self::lay_out(size, Family::V6, true)
    }

    /// The same with addresses and records of both families on every node. The charter has the IPv4 addresses.
    pub fn dual_stack(size: u8) -> Self {
        Self::lay_out(size, Family::Both, true)
    }

    fn lay_out(size: u8, family: Family, scripted: bool) -> Self {
        let scratch = tempfile::tempdir().expect("making a scratch directory");
        let top = scratch.path();
        let (names, addresses): (Vec<String>, Vec<Ipv4Addr>) =
            (1..=size).map(|n| (format!("n{n}"), Ipv4Addr::new(10, 99, 0, 10 + n))).unzip();
        let chartered: Vec<IpAddr> = addresses.iter().map(|a| family.chartered(*a)).collect();
        let (pki, config) = mint(top, &names, &chartered);
        let mut network = Network::new();
        if family != Family::V4 {
            network.enable6();
        }
        let mut records = Records::default();
        let mut nodes = Vec::new();
        for (name, address) in names.iter().zip(&addresses) {
            let fqdn = Fqdn::parse(&format!("{name}.{DOMAIN}")).expect("test names are names");
            records.srv.push(fqdn.to_string());
            let space = network.add(name, *address);
            if family != Family::V6 {
                records.a.insert(fqdn.to_string(), *address);
                records.ptr.insert(*address, fqdn.to_string());
            }
            if family != Family::V4 {
                records.aaaa.insert(fqdn.to_string(), in_ipv6(*address));
                records.ptr6.insert(in_ipv6(*address), fqdn.to_string());
                Network::add6(&space, in_ipv6(*address), (family == Family::V6).then_some(*address));
            }
            let seed = pki.join("seeds").join(format!("{name}.tar"));
            let mut node = Node::new(fqdn, *address, space, top.join(name), &seed);
            node.ip = family.chartered(*address);
            let image = ImageMeta {
                schema: 1,
                key: Sha256Digest::of(b"the image of a test"),
                definition: "none".into(),
                etcd_version: etcd_version(),
                etcd_source: "packages".into(),
                firstboot: Sha256Digest::of(b""),
                source_date_epoch: 1_700_000_000,
            };
            node.put_in_image("cluster.json", &serde_json::to_vec(&config).expect("JSON"));
            node.put_in_image("image.json", &serde_json::to_vec(&image).expect("JSON"));
            nodes.push(node);
        }
        let dns = if scripted {
            let known = |n: &Node| (n.fqdn.to_string(), vec![n.address.into(), in_ipv6(n.address).into()]);
            Dns::scripted(&network, DOMAIN, nodes.iter().map(known).collect(), records)
        } else {
            Dns::start(&network, DOMAIN, top.join("dns.log"), records)
        };
        Self { nodes, dns, network, scratch }
    }

    /// Gives a node to another environment with the same names, in which it is the only member: another image, another seed, other
    /// roots. Powered off only.
    ///
    /// # Panics
    /// When that cannot be minted.
    pub fn hand_over(&mut self, index: usize) {
        let node = &self.nodes[index];
        let (pki, config) = mint(&self.scratch.path().join("other"), &[node.fqdn.member_name().to_owned()], &[node.ip]);
        let seed = pki.join("seeds").join(format!("{}.tar", node.fqdn.member_name()));
        fs_err::copy(seed, node.home.join("seed.tar")).expect("handing a node its seed");
        node.put_in_image("cluster.json", &serde_json::to_vec(&config).expect("JSON"));
    }

    /// Powers every node on.
    pub fn power_on(&mut self) {
        self.nodes.iter_mut().for_each(Node::power_on);
    }

    /// Cuts every node's power.
    pub fn power_off(&mut self) {
        self.nodes.iter_mut().for_each(Node::power_off);
    }

    /// Waits until every node is a member and lets clients in.
    pub fn wait_activated(&self) {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.wait_serving(&all);
    }

    /// Waits until these nodes are members, let clients in and answer them, the founder after the restart that ends its special start too.
    pub fn wait_serving(&self, nodes: &[usize]) {
        until(
            &format!("nodes {nodes:?} to serve clients"),
            PATIENCE,
            || nodes.iter().all(|i| self.serves(*i)).then_some(()),
            || self.story(),
        );
    }

    fn serves(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.clients_open()
            && self.member(index).is_some()
            && node.is_strict()
            && node.etcdctl(&["get", "anything"]).status.success()
    }

    /// Watches the nodes for a while: nobody has left the blank phase, nobody lets clients in.
    pub fn nobody_forms(&self) {
        holds(
            &format!("nobody in {DOMAIN} forms"),
            A_WHILE,
            || self.nodes.iter().all(|n| n.state().is_none_or(|s| s.position == Phase::Blank) && !n.clients_open()),
            || self.story(),
        );
    }

    /// Raft cluster and member id of a node that is a member.
    pub fn member(&self, index: usize) -> Option<(RaftId, RaftId)> {
        match self.nodes[index].state()?.position {
            Phase::Member { raft_cluster, member, .. } => Some((raft_cluster, member)),
            Phase::Blank | Phase::Founding { .. } | Phase::Assigned { .. } | Phase::Evicted { .. } => None,
        }
    }

    /// Waits until a node's console has said `words`.
    pub fn wait_said(&self, index: usize, words: &str) {
        until(
            &format!("{} to say {words:?}", self.nodes[index].fqdn),
            PATIENCE,
            || self.nodes[index].console().contains(words).then_some(()),
            || self.story(),
        );
    }

    /// Mints the next generation of the charter for these nodes, with `kiln pki init`, and attaches their new seeds: they see them at
    /// their next boot.
    pub fn new_generation(&self, generation: u64, nodes: &[usize]) {
        let (names, addresses): (Vec<String>, Vec<IpAddr>) =
            nodes.iter().map(|i| (self.nodes[*i].fqdn.member_name().to_owned(), self.nodes[*i].ip)).unzip();
        let top = self.scratch.path();
        fs_err::write(top.join("profiles/unit.toml"), profile(&names, &addresses)).expect("writing a profile");
        let (home, generation) = (text(&top.join("home")), generation.to_string());
        run(&[&text(&kiln()), "-C", &text(top), "--home", &home, "pki", "init", "unit", "--generation", &generation]);
        for index in nodes {
            let node = &self.nodes[*index];
            let seed = top.join("home/pki/unit/seeds").join(format!("{}.tar", node.fqdn.member_name()));
            fs_err::copy(seed, node.home.join("seed.tar")).expect("handing a node its seed");
        }
    }

    /// A machine of its own that is a copy of a powered-off node: address, seed, image and data volume. Powered off.
    pub fn clone_of(&mut self, index: usize) -> Clone {
        let name = format!("{}c", self.nodes[index].fqdn.member_name());
        let original = &self.nodes[index];
        let (fqdn, address, seed) = (original.fqdn.clone(), original.address, original.home.join("seed.tar"));
        let space = self.network.add(&name, address);
        let port = self.network.ports() - 1;
        let node = Node::new(fqdn, address, space, self.scratch.path().join(&name), &seed);
        for part in ["image", "data"] {
            let (from, to) = (self.nodes[index].home.join(part), node.home.join(part));
            fs_err::remove_dir_all(&to).expect("making room for a copy");
            run(&["cp", "-a", &text(&from), &text(&to)]);
        }
        Clone { node, port }
    }

    /// A blank machine with the seed and address of a node whose agent does not run, beside its etcd. Powered off.
    pub fn blank_twin_of(&self, index: usize) -> Node {
        let original = &self.nodes[index];
        let home = self.scratch.path().join(format!("{}t", original.fqdn.member_name()));
        let seed = original.home.join("seed.tar");
        let twin = Node::new(original.fqdn.clone(), original.address, original.space.clone(), home, &seed);
        let image = twin.home.join("image");
        fs_err::remove_dir_all(&image).expect("making room for a copy");
        run(&["cp", "-a", &text(&original.home.join("image")), &text(&image)]);
        twin
    }

    /// Runs a program on the switch, where clients are.
    pub fn from_switch(&self, argv: &[&str]) -> Output {
        let switch = self.network.switch();
        output(&[&["ip", "netns", "exec", &switch], argv].concat())
    }

    /// Runs etcdctl from the switch through the client ports, as the operator.
    pub fn etcdctl(&self, args: &[&str]) -> Output {
        self.etcdctl_at(&self.endpoints(), args)
    }

    /// The same through these client ports.
    pub fn etcdctl_at(&self, endpoints: &str, args: &[&str]) -> Output {
        let clients = self.scratch.path().join("home/pki/unit/clients");
        let (cert, key) = (text(&clients.join("root.crt")), text(&clients.join("root.key")));
        self.run_etcdctl(endpoints, &["--cert", &cert, "--key", &key], args)
    }

    fn endpoints(&self) -> String {
        let endpoints: Vec<String> =
            self.nodes.iter().map(|n| format!("https://{}", SocketAddr::new(n.ip, 2379))).collect();
        endpoints.join(",")
    }

    /// Runs etcdctl from the switch through the client ports with other credentials.
    pub fn etcdctl_with(&self, credentials: &[&str], args: &[&str]) -> Output {
        self.run_etcdctl(&self.endpoints(), credentials, args)
    }

    fn run_etcdctl(&self, endpoints: &str, credentials: &[&str], args: &[&str]) -> Output {
        let roots = text(&self.scratch.path().join("home/pki/unit/peer-root.crt"));
        let program = text(&etcd("etcdctl"));
        let switch = self.network.switch();
        let mut argv = vec!["ip", "netns", "exec", &switch, &program, "--endpoints", endpoints, "--cacert", &roots];
        argv.extend(["--command-timeout=10s", "--dial-timeout=5s"]);
        argv.extend(credentials);
        argv.extend(args);
        output(&argv)
    }

    /// The operator of `kiln pki init`, as a client of etcd.
    pub fn operator(&self) -> Operator {
        Operator::read(&self.scratch.path().join("home/pki/unit")).expect("reading the operator's certificate")
    }

    /// Everything the consoles said, for a failed test's message.
    pub fn story(&self) -> String {
        let tail = |text: String, lines: usize| {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        };
        self.nodes
            .iter()
            .map(|n| {
                format!(
                    "--- {} console\n{}\n--- {} etcd\n{}\n",
                    n.fqdn,
                    tail(n.console(), 40),
                    n.fqdn,
                    tail(n.etcd_log(), 8)
                )
            })
            .collect()
    }

    /// The scratch directory, for what a test keeps beside the nodes.
    pub fn scratch(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }
}

/// Version of the etcd under test, asked of itself.
pub fn etcd_version() -> EtcdVersion {
    let said = run(&[&text(&etcd("etcd")), "--version"]);
    let version = said.lines().find_map(|line| line.strip_prefix("etcd Version: ")).expect("etcd says its version");
    version.trim().parse().expect("a version is a version")
}

/// Mints a cluster under `top` as its operator; its keys, and what its images have of it.
fn mint(top: &Path, names: &[String], addresses: &[IpAddr]) -> (PathBuf, ClusterConfig) {
    let profiles = top.join("profiles");
    fs_err::create_dir_all(&profiles).expect("making profiles/");
    fs_err::write(profiles.join("unit.toml"), profile(names, addresses)).expect("writing a profile");
    let home = top.join("home");
    run(&[&text(&kiln()), "-C", &text(top), "--home", &text(&home), "pki", "init", "unit"]);
    let pki = home.join("pki/unit");
    let trust: serde_json::Value =
        serde_json::from_slice(&fs_err::read(pki.join("trust.json")).expect("reading trust.json")).expect("it is JSON");
    let cluster: Id128 = serde_json::from_value(trust["cluster"].clone()).expect("trust.json has the cluster");
    let charter_key: PublicKey = serde_json::from_value(trust["charter_key"].clone()).expect("trust.json has the key");
    let config = ClusterConfig {
        schema: 1,
        env: ENV.into(),
        cluster,
        domain: Fqdn::parse(DOMAIN).expect("the domain is a name"),
        charter_key,
        dns_servers: Vec::new(),
        etcd: EtcdSettings::default(),
    };
    (pki, config)
}

/// Which addresses the nodes of a cluster have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Both,
}

impl Family {
    fn chartered(self, address: Ipv4Addr) -> IpAddr {
        match self {
            Self::V4 | Self::Both => address.into(),
            Self::V6 => in_ipv6(address).into(),
        }
    }
}

/// The IPv6 address of the node that has, or would have, this IPv4 address.
pub fn in_ipv6(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, address.octets()[3].into())
}

fn profile(names: &[String], addresses: &[IpAddr]) -> String {
    let v6 = addresses.iter().any(IpAddr::is_ipv6);
    let (subnet, gateway): (_, IpAddr) =
        if v6 { ("fd99::/64", Network::SWITCH6.into()) } else { ("10.99.0.0/24", Network::SWITCH.into()) };
    let mut text = format!(
        "schema = 1\nname = \"{ENV}\"\nimage = \"none\"\ndomain = \"{DOMAIN}\"\n\
         [network]\nbridge = \"unused\"\nsubnet = \"{subnet}\"\ngateway = \"{gateway}\"\n\
         [etcd]\nsource = [{{ kind = \"packages\", version = \"{}\", distribution = \"debian\" }}]\n\
         accept_hazards = [{{ hazard = \"etcd-3.5\", reason = \"tests run what the archive has\" }}]\n\
         [formation]\nallow_even = true\n[hosts.one]\nkind = \"lab\"\n",
        etcd_version()
    );
    for (name, address) in names.iter().zip(addresses) {
        text.push_str(&format!(
            "[[node]]\nname = \"{name}\"\nhost = \"one\"\naddress = \"{address}\"\nmemory_mib = 512\nvcpus = 1\ndata_gib = 1\n"
        ));
    }
    text
}
