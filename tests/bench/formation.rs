//! Formation of three nodes from the lab's image, beside three etcd processes configured by hand.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock and waits")]

use std::time::{Duration, Instant};

use kiln_tests::node::text;
use kiln_tests::program::{etcd, kill, kiln, output, run, spawn, workspace};
use kiln_tests::wait::until;
use serde_json::Value;

use super::middle;

/// Runs of each way; a lab takes a while.
const RUNS: usize = 3;

pub(crate) fn compare() {
    let by_hand = middle((0..RUNS).map(static_cluster).collect());
    let by_kiln = middle((0..RUNS).map(|_| lab()).collect());
    println!(
        "three nodes, etcd start → activated {by_kiln:6.2} s   {:+.2} s beside three hand-configured etcd ({by_hand:.2} s)",
        by_kiln - by_hand
    );
}

/// From the first process to the last member healthy, a static cluster on loopback, no TLS.
fn static_cluster(run_number: usize) -> f64 {
    let scratch = tempfile::tempdir().expect("scratch");
    let port = |n: usize| 23000 + run_number * 10 + n * 2;
    let initial: Vec<String> = (0..3).map(|n| format!("h{n}=http://127.0.0.1:{}", port(n) + 1)).collect();
    let start = Instant::now();
    let mut processes: Vec<_> = (0..3)
        .map(|n| {
            let client = format!("http://127.0.0.1:{}", port(n));
            let peer = format!("http://127.0.0.1:{}", port(n) + 1);
            let argv = [
                text(&etcd("etcd")),
                format!("--name=h{n}"),
                format!("--data-dir={}", text(&scratch.path().join(format!("h{n}")))),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={}", initial.join(",")),
                "--initial-cluster-token=by-hand".to_owned(),
            ];
            spawn(&argv, &scratch.path().join(format!("h{n}.log")))
        })
        .collect();
    let endpoints: Vec<String> = (0..3).map(|n| format!("http://127.0.0.1:{}", port(n))).collect();
    let program = text(&etcd("etcdctl"));
    until(
        "the static cluster to be healthy",
        Duration::from_secs(60),
        || {
            output(&[&program, "--endpoints", &endpoints.join(","), "endpoint", "health"])
                .status
                .success()
                .then_some(())
        },
        String::new,
    );
    let seconds = start.elapsed().as_secs_f64();
    processes.iter_mut().for_each(kill);
    seconds
}

/// From etcd's first start anywhere to the last node that has seen the activation, as the nodes' own journals tell.
fn lab() -> f64 {
    let program = text(&kiln());
    let project = text(&workspace());
    let lab = |args: &[&str]| {
        let mut argv = vec![program.as_str(), "-C", &project, "--json", "lab"];
        argv.extend(args);
        run(&argv)
    };
    lab(&["up", "lab", "--driver", "container"]);
    let journal = |node: &str, matches: &[&str]| -> Vec<f64> {
        let mut args = vec!["exec", "lab", node, "--", "journalctl", "--no-pager", "-o", "json"];
        args.extend(matches);
        lab(&args)
            .lines()
            .filter_map(|line| {
                serde_json::from_str::<Value>(line).ok()?["__REALTIME_TIMESTAMP"].as_str()?.parse::<f64>().ok()
            })
            .map(|micros| micros / 1e6)
            .collect()
    };
    let nodes = ["etcd1", "etcd2", "etcd3"];
    let first = |times: Vec<f64>| times.into_iter().fold(f64::INFINITY, f64::min);
    let started =
        nodes.iter().map(|n| first(journal(n, &["_SYSTEMD_UNIT=etcd.service"]))).fold(f64::INFINITY, f64::min);
    let activated = format!("MESSAGE_ID={}", kiln_firstboot::journal::ACTIVATED.id);
    let finished = nodes.iter().map(|n| first(journal(n, &[&activated]))).fold(0.0, f64::max);
    lab(&["down", "lab"]);
    finished - started
}
