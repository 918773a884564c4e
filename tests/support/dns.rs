//! The cluster's DNS: a real server (dnsmasq) whose records a test bends and mends, or one that misbehaves by script.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use crate::dns_script::Script;
use crate::netns::Network;
use crate::program::{kill, output, spawn};
use crate::wait::until;

/// What the server answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// A records: name to address.
    pub a: BTreeMap<String, Ipv4Addr>,
    /// PTR records: address to name.
    pub ptr: BTreeMap<Ipv4Addr, String>,
    /// AAAA records: name to address. Only the scripted server has them.
    pub aaaa: BTreeMap<String, Ipv6Addr>,
    /// PTR records of IPv6 addresses. Only the scripted server has them.
    pub ptr6: BTreeMap<Ipv6Addr, String>,
    /// Targets of `_etcd-server-ssl._tcp.DOMAIN`.
    pub srv: Vec<String>,
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub struct Dns {
    space: String,
    domain: String,
    log: PathBuf,
    /// Its records as started last.
    pub records: Records,
    server: Server,
}

#[derive(Debug)]
enum Server {
    Dnsmasq(Option<Child>),
    Script(Script),
}

impl Dns {
    /// Starts a server on the switch.
    pub fn start(network: &Network, domain: &str, log: PathBuf, records: Records) -> Self {
        let mut dns =
            Self { space: network.switch(), domain: domain.to_owned(), log, records, server: Server::Dnsmasq(None) };
        dns.resume();
        dns
    }

    /// Starts a server on the switch that misbehaves by script; `nodes` are the cluster's, by name and addresses, in order.
    pub fn scripted(network: &Network, domain: &str, nodes: Vec<(String, Vec<IpAddr>)>, records: Records) -> Self {
        let server = Server::Script(Script::start(network.switch(), domain, nodes, records.clone()));
        Self { space: network.switch(), domain: domain.to_owned(), log: PathBuf::new(), records, server }
    }

    /// The script.
    ///
    /// # Panics
    /// When the cluster was made with the real server.
    pub fn script(&self) -> &Script {
        match &self.server {
            Server::Script(script) => script,
            Server::Dnsmasq(_) => {
                panic!("this cluster has a real DNS server; make it with `Cluster::with_scripted_dns`")
            }
        }
    }

    /// Changes the records; they are served when this returns.
    pub fn change(&mut self, change: impl FnOnce(&mut Records)) {
        change(&mut self.records);
        match &self.server {
            Server::Script(script) => script.serve(&self.records),
            Server::Dnsmasq(_) => {
                self.stop();
                self.resume();
            }
        }
    }

    /// Ends the server.
    pub fn stop(&mut self) {
        match &mut self.server {
            Server::Script(script) => script.stop(),
            Server::Dnsmasq(process) => {
                if let Some(mut process) = process.take() {
                    kill(&mut process);
                }
            }
        }
    }

    /// Starts the server again with the records it has, and waits until it answers.
    pub fn resume(&mut self) {
        match &mut self.server {
            Server::Script(script) => script.resume(),
            Server::Dnsmasq(_) => self.start_dnsmasq(),
        }
    }

    fn start_dnsmasq(&mut self) {
        let mut argv: Vec<String> =
            ["ip", "netns", "exec", &self.space, "dnsmasq", "--keep-in-foreground", "--no-resolv"]
                .into_iter()
                .map(str::to_owned)
                .collect();
        argv.extend(["--no-hosts", "--conf-file=/dev/null", "--pid-file=", "--bind-interfaces"].map(str::to_owned));
        argv.push(format!("--listen-address={}", Network::SWITCH));
        argv.push(format!("--local=/{}/", self.domain));
        argv.push("--local=/in-addr.arpa/".to_owned());
        argv.push(format!("--host-record=alive.{},{}", self.domain, Network::SWITCH));
        for (name, address) in &self.records.a {
            argv.push(format!("--address=/{name}/{address}"));
        }
        for (address, name) in &self.records.ptr {
            let [a, b, c, d] = address.octets();
            argv.push(format!("--ptr-record={d}.{c}.{b}.{a}.in-addr.arpa,{name}"));
        }
        for target in &self.records.srv {
            argv.push(format!("--srv-host=_etcd-server-ssl._tcp.{},{target},2380", self.domain));
        }
        self.server = Server::Dnsmasq(Some(spawn(&argv, &self.log)));
        let probe = format!("alive.{}", self.domain);
        until(
            "the DNS server to answer",
            Duration::from_secs(10),
            || (!dig(&self.space, &probe, "A").is_empty()).then_some(()),
            || String::from("see dns.log"),
        );
    }
}

/// What the DNS server on the switch answers to this question, a line per record; asked once, from the namespace `space`.
pub fn dig(space: &str, name: &str, kind: &str) -> Vec<String> {
    let server = format!("@{}", Network::SWITCH);
    let said = output(&["ip", "netns", "exec", space, "dig", "+short", "+time=1", "+tries=1", &server, name, kind]);
    // That nobody answers, dig says on standard output too, behind semicolons.
    let lines = String::from_utf8_lossy(&said.stdout).into_owned();
    lines.lines().filter(|line| said.status.success() && !line.starts_with(';')).map(str::to_owned).collect()
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}
