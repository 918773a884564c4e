//! A wiped member's way back to a vote, beside the same replacement typed by hand with etcdctl on three plain etcd.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock and waits")]

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use kiln_firstboot::replacement::Limits;
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::membership::members;
use kiln_tests::node::text;
use kiln_tests::program::{etcd, kill, output, spawn};
use kiln_tests::wait::until;

use super::middle;

/// Of three members, each is replaced once: more than that a day the grantors allow to nobody.
const MEMBERS: [usize; 3] = [2, 1, 0];
/// etcd itself wants its members connected for five seconds before it changes them.
const CONNECTED: Duration = Duration::from_secs(6);

pub(crate) fn compare() {
    let by_hand = middle(MEMBERS.iter().map(|index| hand(*index)).collect());
    let by_kiln = middle(kiln());
    println!(
        "wiped node, boot → voter         {by_kiln:8.2} s   {:+.2} s beside the same typed with etcdctl ({by_hand:.2} s); its old member was down for {} s before",
        by_kiln - by_hand,
        Limits::DEFAULT.unheard_secs
    );
}

/// From power on to a vote, the stale member already down for its minimum.
fn kiln() -> Vec<f64> {
    let mut cluster = Cluster::new(3);
    cluster.power_on();
    cluster.wait_activated();
    let mut replace = |index: usize| {
        let witness = (index + 1) % MEMBERS.len();
        cluster.nodes[index].power_off();
        cluster.nodes[index].wipe();
        std::thread::sleep(Duration::from_secs(Limits::DEFAULT.unheard_secs + 5));
        let start = Instant::now();
        cluster.nodes[index].power_on();
        let url = cluster.nodes[index].fqdn.peer_url();
        until(
            "the wiped node to vote",
            PATIENCE,
            || {
                // The old member of that name votes too, on paper: what counts is the one that this volume was given.
                let mine = cluster.member(index)?.1;
                let list = members(&cluster.nodes[witness])?;
                list.iter().any(|m| m.peer_url == url && m.id == mine && m.started && !m.learner).then_some(())
            },
            || cluster.story(),
        );
        let seconds = start.elapsed().as_secs_f64();
        cluster.wait_activated();
        std::thread::sleep(CONNECTED);
        seconds
    };
    MEMBERS.into_iter().map(&mut replace).collect()
}

/// From the first command to the promotion, on loopback, without TLS.
fn hand(lost: usize) -> f64 {
    let scratch = tempfile::tempdir().expect("scratch");
    let plain = Plain { scratch: scratch.path(), first_port: 23300 + lost * 10 };
    let everybody: Vec<String> = MEMBERS.iter().map(|n| plain.entry(*n)).collect();
    let mut running: Vec<Child> =
        MEMBERS.iter().map(|n| plain.start(*n, "hand", "new", &everybody.join(","))).collect();
    let survivor = (lost + 1) % MEMBERS.len();
    let listed = |name: &str| {
        let said = plain.etcdctl(survivor, &["member", "list"]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        said.lines().find(|line| line.contains(name)).map(|line| line.split(',').next().unwrap_or_default().to_owned())
    };
    until(
        "three plain etcd to be healthy",
        Duration::from_secs(60),
        || plain.etcdctl(survivor, &["endpoint", "health"]).status.success().then_some(()),
        String::new,
    );
    let at = MEMBERS.iter().position(|n| *n == lost).expect("it is one of them");
    kill(&mut running[at]);
    std::thread::sleep(CONNECTED);

    let start = Instant::now();
    let stale = listed(&format!(" h{lost},")).expect("it is listed");
    let url = plain.peer(lost);
    assert!(plain.etcdctl(survivor, &["member", "remove", &stale]).status.success(), "removing it");
    let added = plain.etcdctl(survivor, &["member", "add", &format!("h{lost}b"), "--learner", "--peer-urls", &url]);
    assert!(added.status.success(), "adding it: {}", String::from_utf8_lossy(&added.stderr));
    let mut list: Vec<String> = MEMBERS.iter().filter(|n| **n != lost).map(|n| plain.entry(*n)).collect();
    list.push(format!("h{lost}b={url}"));
    running[at] = plain.start(lost, "handb", "existing", &list.join(","));
    let fresh = listed(&url).expect("the learner is listed");
    until(
        "the learner to be promoted",
        Duration::from_secs(60),
        || plain.etcdctl(survivor, &["member", "promote", &fresh]).status.success().then_some(()),
        String::new,
    );
    let seconds = start.elapsed().as_secs_f64();
    running.iter_mut().for_each(kill);
    seconds
}

/// Three etcd as a person would start them.
struct Plain<'a> {
    scratch: &'a Path,
    first_port: usize,
}

impl Plain<'_> {
    fn client(&self, n: usize) -> String {
        format!("http://127.0.0.1:{}", self.first_port + 2 * n)
    }

    fn peer(&self, n: usize) -> String {
        format!("http://127.0.0.1:{}", self.first_port + 2 * n + 1)
    }

    fn entry(&self, n: usize) -> String {
        format!("h{n}={}", self.peer(n))
    }

    fn start(&self, n: usize, directory: &str, state: &str, cluster: &str) -> Child {
        let name = if state == "existing" { format!("h{n}b") } else { format!("h{n}") };
        let argv = [
            text(&etcd("etcd")),
            format!("--name={name}"),
            format!("--data-dir={}", text(&self.scratch.join(format!("{directory}{n}")))),
            format!("--listen-client-urls={}", self.client(n)),
            format!("--advertise-client-urls={}", self.client(n)),
            format!("--listen-peer-urls={}", self.peer(n)),
            format!("--initial-advertise-peer-urls={}", self.peer(n)),
            format!("--initial-cluster={cluster}"),
            format!("--initial-cluster-state={state}"),
            "--initial-cluster-token=by-hand".to_owned(),
        ];
        spawn(&argv, &self.scratch.join(format!("{name}.log")))
    }

    fn etcdctl(&self, n: usize, args: &[&str]) -> std::process::Output {
        let (program, endpoint) = (text(&etcd("etcdctl")), self.client(n));
        output(&[&[program.as_str(), "--endpoints", &endpoint], args].concat())
    }
}
