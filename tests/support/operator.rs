//! What an operator's client does: write, read, read what one member alone holds, and write on in the background.
#![expect(clippy::disallowed_methods, reason = "tests keep files beside the nodes")]

use std::path::PathBuf;
use std::process::Child;

use crate::cluster::{Cluster, PATIENCE};
use crate::node::text;
use crate::program::{etcd, kill, output, spawn};
use crate::wait::until;

impl Cluster {
    /// Writes a key; returns once that is acknowledged.
    pub fn put(&self, key: &str, value: &str) {
        until(
            &format!("`{key}` to be written"),
            PATIENCE,
            || self.etcdctl(&["put", key, value]).status.success().then_some(()),
            || self.story(),
        );
    }

    /// Writes a key with a value of so many bytes, and leaves it to the next call if that fails.
    pub fn put_large(&self, key: &str, bytes: usize) {
        let file = self.scratch().join("large");
        fs_err::write(&file, vec![b'x'; bytes]).expect("writing a large value");
        let pki = self.scratch().join("home/pki/unit");
        let endpoints: Vec<String> = self.nodes.iter().map(|n| format!("https://{}:2379", n.address)).collect();
        let script = format!(
            "{} --endpoints {} --cacert {} --cert {} --key {} put {key} < {}",
            text(&etcd("etcdctl")),
            endpoints.join(","),
            text(&pki.join("peer-root.crt")),
            text(&pki.join("clients/root.crt")),
            text(&pki.join("clients/root.key")),
            text(&file),
        );
        drop(output(&["ip", "netns", "exec", &self.network.switch(), "sh", "-c", &script]));
    }

    /// Reads a key, linearizably.
    pub fn get(&self, key: &str) -> Option<String> {
        let value = until(
            &format!("`{key}` to be read"),
            PATIENCE,
            || {
                let read = self.etcdctl(&["get", "--print-value-only", key]);
                read.status.success().then(|| String::from_utf8_lossy(&read.stdout).trim_end().to_owned())
            },
            || self.story(),
        );
        (!value.is_empty()).then_some(value)
    }

    /// What the member of one node holds: etcd's own hash over every key, value and revision up to `revision`, or up to its newest. Asked
    /// over its local socket; needs no quorum, but an etcd that has had one since it started.
    pub fn history(&self, index: usize, revision: Option<u64>) -> History {
        let endpoint = format!("unix://{}", text(&self.nodes[index].paths().etcd_socket()));
        let (program, revision) = (text(&etcd("etcdctl")), revision.unwrap_or(0).to_string());
        let argv = [&program, "--endpoints", &endpoint, "-w", "json", "endpoint", "hashkv", "--rev", &revision];
        until(
            "a member to tell what it holds",
            PATIENCE,
            || {
                let said: serde_json::Value = serde_json::from_slice(&output(&argv).stdout).ok()?;
                let hash = &said[0]["HashKV"];
                Some(History { revision: hash["header"]["revision"].as_u64()?, hash: hash["hash"].as_u64()? })
            },
            || self.story(),
        )
    }

    /// Waits until a node's own member has answered as it should: a read through it that needs the leader.
    pub fn wait_caught_up(&self, index: usize) {
        let endpoint = format!("unix://{}", text(&self.nodes[index].paths().etcd_socket()));
        let argv = [&text(&etcd("etcdctl")), "--endpoints", &endpoint, "--command-timeout=2s", "get", "/kiln/lineage"];
        until(
            &format!("{} to read with the others", self.nodes[index].fqdn),
            PATIENCE,
            || output(&argv).status.success().then_some(()),
            || self.story(),
        );
    }

    /// The member of this node leads, as it says itself.
    pub fn leads(&self, index: usize) -> bool {
        let endpoint = format!("unix://{}", text(&self.nodes[index].paths().etcd_socket()));
        let argv = [
            &text(&etcd("etcdctl")),
            "--endpoints",
            &endpoint,
            "--command-timeout=1s",
            "-w",
            "json",
            "endpoint",
            "status",
        ];
        let said: Option<serde_json::Value> = serde_json::from_slice(&output(&argv).stdout).ok();
        said.is_some_and(|said| {
            let status = &said[0]["Status"];
            let leader = status["leader"].as_u64();
            leader.is_some_and(|id| id != 0) && leader == status["header"]["member_id"].as_u64()
        })
    }

    /// Starts a client that writes 1, 2, 3, ... to `key`, one after the other, and notes what was acknowledged.
    pub fn start_writer(&self, key: &str) -> Writer {
        let noted = self.scratch().join(format!("writer-{key}"));
        let pki = self.scratch().join("home/pki/unit");
        let endpoints: Vec<String> = self.nodes.iter().map(|n| format!("https://{}:2379", n.address)).collect();
        let script = format!(
            "n=0; while :; do n=$((n+1)); until {} --endpoints {} --cacert {} --cert {} --key {} --command-timeout=3s put {key} $n \
             > /dev/null; do :; done; echo $n >> {}; done",
            text(&etcd("etcdctl")),
            endpoints.join(","),
            text(&pki.join("peer-root.crt")),
            text(&pki.join("clients/root.crt")),
            text(&pki.join("clients/root.key")),
            text(&noted),
        );
        let argv = ["ip", "netns", "exec", &self.network.switch(), "sh", "-c", &script].map(str::to_owned);
        Writer { process: spawn(&argv, &self.scratch().join("writer.log")), noted }
    }
}

/// The history a member holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Its newest revision.
    pub revision: u64,
    /// etcd's hash over it.
    pub hash: u64,
}

/// A client in the background. Dropping it ends it.
#[derive(Debug)]
pub struct Writer {
    process: Child,
    noted: PathBuf,
}

impl Writer {
    /// The last number that was acknowledged.
    pub fn acknowledged(&self) -> u64 {
        let noted = fs_err::read_to_string(&self.noted).unwrap_or_default();
        noted.lines().last().and_then(|line| line.parse().ok()).unwrap_or(0)
    }

    /// Ends it; the last number that was acknowledged.
    pub fn stop(&mut self) -> u64 {
        kill(&mut self.process);
        self.acknowledged()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        kill(&mut self.process);
    }
}
