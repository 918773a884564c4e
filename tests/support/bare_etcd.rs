//! etcd as people start it by hand: no agent, no TLS, a static configuration. For showing what goes wrong without kiln's rules.
#![expect(clippy::disallowed_methods, reason = "tests prepare and read files")]

use std::path::PathBuf;
use std::process::{Child, Output};
use std::time::Duration;

use crate::netns::Network;
use crate::node::text;
use crate::program::{etcd, kill, output, spawn};
use crate::wait::until;

/// As long as anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Some etcd processes on the loopback of one namespace. Dropping it ends them.
#[derive(Debug)]
pub struct BareCluster {
    network: Network,
    scratch: tempfile::TempDir,
    members: Vec<Option<Child>>,
}

impl BareCluster {
    /// Room for `size` members; none runs.
    pub fn new(size: usize) -> Self {
        let scratch = tempfile::tempdir().expect("making a scratch directory");
        Self { network: Network::new(), scratch, members: (0..size).map(|_| None).collect() }
    }

    fn data(&self, member: usize) -> PathBuf {
        self.scratch.path().join(format!("m{member}"))
    }

    /// Where a member serves clients.
    pub fn client_url(&self, member: usize) -> String {
        format!("http://127.0.0.1:{}", 2379 + 10 * member)
    }

    /// Where a member serves peers.
    pub fn peer_url(&self, member: usize) -> String {
        format!("http://127.0.0.1:{}", 2380 + 10 * member)
    }

    /// Starts a member as its administrator would: `state` is `new` or `existing`, `among` the initial cluster.
    ///
    /// The first member stands for election long before the others, so that a first leader is always of the first term.
    pub fn start(&mut self, member: usize, state: &str, token: &str, among: &[usize]) {
        self.spawn(member, state, token, among, None);
    }

    /// Starts a stopped member as a cluster of its own, to see what it has.
    pub fn start_alone(&mut self, member: usize) {
        self.spawn(member, "existing", "any", &[member], Some("--force-new-cluster"));
    }

    fn spawn(&mut self, member: usize, state: &str, token: &str, among: &[usize], more: Option<&str>) {
        let initial: Vec<String> = among.iter().map(|m| format!("m{m}={}", self.peer_url(*m))).collect();
        let (client, peer) = (self.client_url(member), self.peer_url(member));
        let mut argv: Vec<String> =
            ["ip", "netns", "exec", &self.network.switch(), &text(&etcd("etcd"))].map(str::to_owned).to_vec();
        argv.extend([
            format!("--name=m{member}"),
            format!("--data-dir={}", text(&self.data(member))),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", initial.join(",")),
            format!("--initial-cluster-state={state}"),
            format!("--initial-cluster-token={token}"),
            "--experimental-initial-corrupt-check=true".to_owned(),
            "--heartbeat-interval=100".to_owned(),
            format!("--election-timeout={}", if member == 0 { 1000 } else { 4000 }),
        ]);
        argv.extend(more.map(str::to_owned));
        self.members[member] = Some(spawn(&argv, &self.scratch.path().join(format!("m{member}.log"))));
    }

    /// Ends a member at once.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.members[member].take() {
            kill(&mut process);
        }
    }

    /// Removes a member's data. Only when it does not run.
    pub fn wipe(&self, member: usize) {
        assert!(self.members[member].is_none(), "only a stopped member is wiped");
        fs_err::remove_dir_all(self.data(member)).expect("wiping a member");
    }

    /// What a member has logged since its very first start.
    pub fn log(&self, member: usize) -> String {
        fs_err::read_to_string(self.scratch.path().join(format!("m{member}.log"))).unwrap_or_default()
    }

    /// Runs etcdctl against one member.
    pub fn etcdctl(&self, member: usize, args: &[&str]) -> Output {
        let (space, program, url) = (self.network.switch(), text(&etcd("etcdctl")), self.client_url(member));
        let mut argv = vec!["ip", "netns", "exec", &space, &program, "--endpoints", &url, "--command-timeout=5s"];
        argv.extend(args);
        output(&argv)
    }

    /// What etcdctl prints, which must succeed.
    pub fn ok(&self, member: usize, args: &[&str]) -> String {
        let said = self.etcdctl(member, args);
        assert!(said.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).expect("etcdctl prints UTF-8")
    }

    /// Waits until a member reads linearizably.
    pub fn wait_serving(&self, member: usize) {
        until(
            &format!("m{member} to serve"),
            PATIENCE,
            || self.etcdctl(member, &["get", "anything"]).status.success().then_some(()),
            || self.log(member),
        );
    }

    /// Waits until a member has logged `words`.
    pub fn wait_logged(&self, member: usize, words: &str) {
        until(
            &format!("m{member} to log {words:?}"),
            PATIENCE,
            || self.log(member).contains(words).then_some(()),
            || self.log(member),
        );
    }

    /// Writes `PREFIX0` to `PREFIX(COUNT-1)` through a member, each until it is acknowledged: a leader may go meanwhile.
    pub fn write(&self, member: usize, prefix: &str, count: usize) {
        for n in 0..count {
            until(
                &format!("m{member} to take a write"),
                PATIENCE,
                || self.etcdctl(member, &["put", &format!("{prefix}{n}"), "x"]).status.success().then_some(()),
                || self.log(member),
            );
        }
    }

    /// How many keys begin with `prefix` in a member's own store, whether or not it has a leader.
    pub fn count(&self, member: usize, prefix: &str) -> usize {
        self.ok(member, &["get", prefix, "--prefix", "--keys-only", "--consistency=s"]).split_whitespace().count()
    }

    /// Raft cluster id and a member's raft index, by its own word.
    pub fn standing(&self, member: usize) -> (u64, u64) {
        let status = self.status(member);
        (number(&status["header"]["cluster_id"]), number(&status["raftIndex"]))
    }

    /// The term that a member leads in, by its own word; none when it follows.
    pub fn reign(&self, member: usize) -> Option<u64> {
        let status = self.status(member);
        (status["leader"] == status["header"]["member_id"]).then(|| number(&status["raftTerm"]))
    }

    fn status(&self, member: usize) -> serde_json::Value {
        let text = self.ok(member, &["endpoint", "status", "-w", "json"]);
        let status: serde_json::Value = serde_json::from_str(&text).expect("etcdctl prints JSON");
        status[0]["Status"].clone()
    }
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().expect("a number")
}

impl Drop for BareCluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}
