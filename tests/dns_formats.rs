//! `kiln dns emit` against the real servers: what each is told, it answers.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "writes the configuration of servers")]

use std::process::Child;
use std::time::Duration;

use kiln_tests::netns::Network;
use kiln_tests::node::text;
use kiln_tests::places::Places;
use kiln_tests::program::{kill, output, run, spawn};
use kiln_tests::wait::until;

const PROFILE: &str = "k8s0";
const FORWARD: &str = "kloud.lan";
const REVERSE: &str = "0.103.10.in-addr.arpa";

/// A server in a namespace of its own. Dropping it ends it.
struct Server {
    network: Network,
    scratch: tempfile::TempDir,
    process: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.as_mut().into_iter().for_each(kill);
    }
}

impl Server {
    fn new() -> Self {
        Self { network: Network::new(), scratch: tempfile::tempdir().expect("a directory"), process: None }
    }

    /// Writes a file of this server's.
    fn put(&self, name: &str, content: &str) -> String {
        let path = self.scratch.path().join(name);
        fs_err::write(&path, content).expect("writing a configuration");
        text(&path)
    }

    fn start(&mut self, argv: &[&str]) {
        let space = self.network.switch();
        let argv: Vec<String> = ["ip", "netns", "exec", &space].iter().chain(argv).map(|s| (*s).to_owned()).collect();
        self.process = Some(spawn(&argv, &self.scratch.path().join("log")));
    }

    fn log(&self) -> String {
        fs_err::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// What it answers to this question, a line per record.
    fn answers(&self, name: &str, kind: &str) -> Vec<String> {
        let (space, server) = (self.network.switch(), format!("@{}", Network::SWITCH));
        let dig = ["ip", "netns", "exec", &space, "dig", "+short", "+time=1", "+tries=1", &server, name, kind];
        String::from_utf8_lossy(&output(&dig).stdout).lines().map(str::to_owned).collect()
    }

    /// Waits until it answers every record of the profile, and asserts that it answers no other under their names.
    fn answers_the_profile(&self) {
        let emitted = Places::own().json(&["dns", "emit", PROFILE, "--format", "bind"]);
        let records = emitted["records"].as_array().expect("records").iter().map(|r| r.as_str().expect("a line"));
        let mut expected: std::collections::BTreeMap<(&str, &str), Vec<String>> = Default::default();
        for record in records {
            let (owner, rest) = record.split_once(" IN ").expect("a record");
            let (kind, data) = rest.split_once(' ').expect("a record");
            expected.entry((owner, kind)).or_default().push(data.to_owned());
        }
        assert_eq!(expected.len(), 6 + 6 + 2, "six nodes");
        for ((owner, kind), mut data) in expected {
            data.sort();
            until(
                &format!("{owner} {kind} to be {data:?}"),
                Duration::from_secs(20),
                || {
                    let mut said = self.answers(owner, kind);
                    said.sort();
                    (said == data).then_some(())
                },
                || format!("{:?}\n{}", self.answers(owner, kind), self.log()),
            );
        }
    }
}

fn emitted(format: &str) -> String {
    Places::own().ok(&["dns", "emit", PROFILE, "--format", format])
}

#[test]
#[ignore = "needs root and dnsmasq"]
fn dnsmasq_answers_what_it_is_told() {
    let mut server = Server::new();
    let options = format!("no-resolv\nno-hosts\nbind-interfaces\nlisten-address={}\npid-file=\n", Network::SWITCH);
    let config = server.put("dnsmasq.conf", &(options + &emitted("dnsmasq")));
    server.start(&["dnsmasq", "--keep-in-foreground", &format!("--conf-file={config}")]);
    server.answers_the_profile();
}

#[test]
#[ignore = "needs root and unbound"]
fn unbound_answers_what_it_is_told() {
    let mut server = Server::new();
    let options = format!(
        "server:\n  interface: {0}\n  access-control: 0.0.0.0/0 allow\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  do-daemonize: no\n  \
         local-zone: \"{FORWARD}.\" static\n  local-zone: \"{REVERSE}.\" static\n",
        Network::SWITCH
    );
    let config = server.put("unbound.conf", &(options + &emitted("unbound")));
    server.start(&["unbound", "-d", "-c", &config]);
    server.answers_the_profile();
}

/// Starts BIND with two zones that hold these records, and which a key may update.
fn bind(server: &mut Server, forward: &str, reverse: &str) -> String {
    let head =
        format!("$TTL 300\n@ IN SOA ns.{FORWARD}. hostmaster.{FORWARD}. 1 3600 600 86400 300\n@ IN NS ns.{FORWARD}.\n");
    let glue = format!("ns.{FORWARD}. IN A {}\n", Network::SWITCH);
    let zones = [(FORWARD, format!("{head}{glue}{forward}")), (REVERSE, format!("{head}{reverse}"))];
    let key = run(&["tsig-keygen", "kiln"]);
    let mut config = format!(
        "{key}\noptions {{ directory \"{}\"; listen-on {{ {}; }}; listen-on-v6 {{ none; }}; pid-file none; session-keyfile none; recursion no; dnssec-validation no; }};\ncontrols {{ }};\n",
        text(server.scratch.path()),
        Network::SWITCH
    );
    for (zone, content) in zones {
        let file = server.put(zone, &content);
        run(&["named-checkzone", zone, &file]);
        config += &format!("zone \"{zone}\" {{ type primary; file \"{file}\"; allow-update {{ key kiln; }}; }};\n");
    }
    let config = server.put("named.conf", &config);
    run(&["named-checkconf", &config]);
    server.start(&["named", "-f", "-g", "-u", "root", "-c", &config]);
    server.put("kiln.key", &key)
}

#[test]
#[ignore = "needs root and bind9"]
fn bind_answers_what_its_zone_files_say() {
    let emitted = emitted("bind");
    let (forward, reverse) = emitted.split_once("\n\n").expect("two zones");
    assert!(forward.starts_with(&format!("; zone {FORWARD}:")) && reverse.starts_with(&format!("; zone {REVERSE}:")));
    let mut server = Server::new();
    bind(&mut server, &format!("{forward}\n"), reverse);
    server.answers_the_profile();
}

/// Over records of another cluster under the same names: they are replaced. A second run changes nothing.
#[test]
#[ignore = "needs root and bind9"]
fn nsupdate_replaces_what_was_there() {
    let mut server = Server::new();
    let stale = "k8s0etcd1 IN A 10.103.0.66\n_etcd-server-ssl._tcp IN SRV 0 0 2380 gone\n";
    let key = bind(&mut server, stale, "101 IN PTR gone.kloud.lan.\n");
    until(
        "BIND to answer",
        Duration::from_secs(20),
        || (server.answers(&format!("k8s0etcd1.{FORWARD}"), "A") == ["10.103.0.66"]).then_some(()),
        || server.log(),
    );
    let commands = server.put("commands", &format!("server {}\n{}", Network::SWITCH, emitted("nsupdate")));
    // The checks of `kiln dns check`: before and after, at the server itself and as its zones name it.
    let check = |server: &Server| {
        let kiln = Places::own().argv(&["--json", "dns", "check", PROFILE, "--server", &Network::SWITCH.to_string()]);
        let space = server.network.switch();
        let argv = ["ip", "netns", "exec", &space].into_iter().chain(kiln.iter().map(String::as_str));
        let done = output(&argv.collect::<Vec<_>>());
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).expect("a report");
        let count = |verdict: &str| report.to_string().matches(&format!("\"verdict\":\"{verdict}\"")).count();
        (done.status.code(), count("right"), count("wrong"), count("unknown"))
    };
    assert_eq!(check(&server), (Some(1), 0, 14, 0));
    for _ in 0..2 {
        run(&["ip", "netns", "exec", &server.network.switch(), "nsupdate", "-k", &key, &commands]);
        server.answers_the_profile();
        assert_eq!(check(&server), (Some(0), 14, 0, 0));
    }
    server.process.take().iter_mut().for_each(kill);
    assert_eq!(check(&server), (Some(1), 0, 0, 14), "silence is no answer");
}
