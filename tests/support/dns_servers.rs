//! A cluster's DNS records at real servers, each in a namespace of its own: what `kiln dns` is tested against.
#![expect(clippy::disallowed_methods, reason = "writes the configuration of servers")]

use std::process::{Child, Output};
use std::time::Duration;

use crate::dns::dig;
use crate::netns::Network;
use crate::node::text;
use crate::places::Places;
use crate::program::{kill, output, run, spawn};
use crate::wait::until;

/// The profile whose records they serve.
pub const PROFILE: &str = "k8s0";
/// Its domain.
pub const FORWARD: &str = "kloud.lan";
/// The reverse zone of its network.
pub const REVERSE: &str = "0.103.10.in-addr.arpa";

/// A server in a namespace of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    /// Its network; it is at [`Network::SWITCH`].
    pub network: Network,
    scratch: tempfile::TempDir,
    process: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.as_mut().into_iter().for_each(kill);
    }
}

impl Server {
    /// Its place; it does not run.
    #[expect(clippy::new_without_default, reason = "makes a namespace")]
    pub fn new() -> Self {
        Self { network: Network::new(), scratch: tempfile::tempdir().expect("a directory"), process: None }
    }

    /// Writes a file of this server's, or of whoever asks it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, name: &str, content: &str) -> String {
        let path = self.scratch.path().join(name);
        fs_err::write(&path, content).expect("writing a configuration");
        text(&path)
    }

    /// Starts it in its namespace.
    pub fn start(&mut self, argv: &[&str]) {
        let space = self.network.switch();
        let argv: Vec<String> = ["ip", "netns", "exec", &space].iter().chain(argv).map(|s| (*s).to_owned()).collect();
        self.process = Some(spawn(&argv, &self.scratch.path().join("log")));
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs_err::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.process.take().iter_mut().for_each(kill);
    }

    /// What it answers to this question, a line per record.
    pub fn answers(&self, name: &str, kind: &str) -> Vec<String> {
        dig(&self.network.switch(), name, kind)
    }

    /// Runs `kiln --json ARGS...` beside it, on a machine that asks no other DNS server; however it ends.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn kiln(&self, args: &[&str]) -> Output {
        let resolvers = self.put("resolv.conf", &format!("nameserver {}\n", Network::SWITCH));
        let (space, script) = (self.network.switch(), "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"");
        let kiln = Places::own().argv(&[&["--json"], args].concat());
        let argv = ["ip", "netns", "exec", &space, "sh", "-c", script, &resolvers].into_iter();
        output(&argv.chain(kiln.iter().map(String::as_str)).collect::<Vec<_>>())
    }

    /// Waits until it answers this question.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_answers(&self, name: &str, kind: &str) {
        until(
            &format!("{name} {kind} to be answered"),
            Duration::from_secs(60),
            || (!self.answers(name, kind).is_empty()).then_some(()),
            || self.log(),
        );
    }

    /// Waits until it answers every record of the profile, and asserts that it answers no other under their names.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn answers_the_profile(&self) {
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
                Duration::from_secs(60),
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

/// Starts BIND with two zones that hold these records, and which a key may update; the key's file. Waits until it answers.
///
/// # Panics
/// When it does not take its configuration.
pub fn bind(server: &mut Server, forward: &str, reverse: &str) -> String {
    bind_allowing(server, forward, reverse, "key kiln;")
}

/// The same with another list of who may update the zones.
///
/// # Panics
/// When it does not take its configuration.
pub fn bind_allowing(server: &mut Server, forward: &str, reverse: &str, allowed: &str) -> String {
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
        config += &format!("zone \"{zone}\" {{ type primary; file \"{file}\"; allow-update {{ {allowed} }}; }};\n");
    }
    let config = server.put("named.conf", &config);
    run(&["named-checkconf", &config]);
    server.start(&["named", "-f", "-g", "-u", "root", "-c", &config]);
    server.wait_answers(FORWARD, "SOA");
    server.wait_answers(REVERSE, "SOA");
    let key = server.put("kiln.key", &key);
    run(&["chmod", "600", &key]);
    key
}
