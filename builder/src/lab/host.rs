//! The lab's host: one set of namespaces (network, mounts, processes, names, control group) held by one process.
//!
//! Everything of the lab lives in them. Killing the holder, which is pid 1 of the lab, ends every process, mount, bridge and
//! namespace of it at once: that is the whole of taking a lab down, whatever state a crash left it in. The holder is found
//! by its command line, which names the lab's directory, so nothing has to be remembered to find it.
//!
//! A lab that plays [hypervisors](super::hypervisor) has one more host for each, in a directory below the lab's.
#![expect(clippy::disallowed_methods, reason = "an edge: waits for the holder")]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::digest::Sha256Digest;

use super::process::{self, Process};
use crate::tool::{self, Tool, ToolError};

/// What the holder runs.
const HOLD: &str = include_str!("hold.sh");
/// Name of the holder in its command line; the lab's directory follows.
const MARK: &str = "kiln-lab-hold";
/// How long the holder may take to set up: a dozen mounts and a bridge, well under a second even on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often its progress is looked at. It tells by a file, because it must not hold a pipe to a kiln that may be killed.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Where the tree of the lab's own image is mounted on the lab host.
pub const TREE: &str = "/run/kiln-lab/tree";
/// Below which the trees of other images are mounted.
const TREES: &str = "/run/kiln-lab/trees";

/// Where the tree of another image is mounted on the lab host.
pub fn tree_of(key: &str) -> String {
    format!("{TREES}/{key}")
}

/// How a host is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Its directory. What it keeps over its own end is in `disk` there.
    pub dir: &'a Utf8Path,
    /// Its control group.
    pub group: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its bridge.
    pub bridge: &'a str,
    /// Its own address on the bridge, if it has one.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Whether `/dev/kvm` cannot be opened inside.
    pub hide_kvm: bool,
    /// Directories that stay visible inside at their own paths, beside the machine's file system at large. Its own must be among them.
    pub keep: &'a [&'a Utf8Path],
}

/// A lab host that is up.
#[derive(Clone, Debug)]
pub struct Host {
    holder: Process,
}

impl Host {
    /// The host of the lab in `dir`, if it is up.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn find(dir: &Utf8Path) -> anyhow::Result<Option<Self>> {
        let all = process::all()?;
        // The holder is pid 1 of its own namespace; before it come its parents, which carry the same mark.
        let holder = all.into_iter().find(|p| held(p) == Some(dir) && p.inner_pid == 1 && p.runs("sh"));
        Ok(holder.filter(|_| dir.join("host.ready").exists()).map(|holder| Self { holder }))
    }

    /// The host, brought up if it is not. A half-made one is removed first.
    ///
    /// # Errors
    /// When it does not come up; the log's last lines say why.
    pub fn ensure(setup: &Setup<'_>) -> anyhow::Result<Self> {
        let Setup { dir, group, name, bridge, address, hide_kvm, keep } = *setup;
        if let Some(host) = Self::find(dir)? {
            return Ok(host);
        }
        Self::remove(dir, group)?;
        let ready = dir.join("host.ready");
        let log = dir.join("host.log");
        let address = address.map_or_else(|| "none".to_owned(), |(address, prefix)| format!("{address}/{prefix}"));
        let running = Tool::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", HOLD, MARK])
            .args([dir.as_str(), group, name, bridge, &address, if hide_kvm { "hidden" } else { "shown" }])
            .args(keep)
            .env("KILN_LAB_HOLD", HOLD)
            .log(&log)
            .start()
            .context("starting the lab host")?;
        let began = Instant::now();
        while !ready.exists() {
            if running.try_wait()?.is_some() || began.elapsed() > READY_WITHIN {
                bail!("the lab host did not come up; its last words: {}", running.last_words());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Self::find(dir)?.context("the lab host ended right after it came up")
    }

    /// Ends everything that runs on the host of `dir`, and on hosts in directories below it, and removes their control groups. Does nothing
    /// where there is nothing.
    ///
    /// # Errors
    /// When something cannot be ended or removed.
    pub fn remove(dir: &Utf8Path, group: &str) -> anyhow::Result<()> {
        let all = process::all()?;
        let marked: Vec<&Process> = all.iter().filter(|p| held(p).is_some_and(|held| held.starts_with(dir))).collect();
        // An `nsenter` waits outside for what it started inside, and ends with it.
        let entered: Vec<&Process> =
            all.iter().filter(|p| marked.iter().any(|m| p.has_args(&["--target", &m.pid.to_string()]))).collect();
        let namespaces: Vec<u64> = marked.iter().filter(|p| p.inner_pid == 1).map(|p| p.namespace).collect();
        for process in &marked {
            process.kill()?;
        }
        for namespace in namespaces {
            process::in_namespace(namespace)?.iter().try_for_each(Process::wait_gone)?;
        }
        entered.into_iter().try_for_each(Process::wait_gone)?;
        let script = r#"mount -t cgroup2 cgroup2 /sys/fs/cgroup
            group=/sys/fs/cgroup/$1
            for try in 1 2 3 4 5 6 7 8 9 10; do
                [ -d "$group" ] || exit 0
                find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
            done
            ! [ -d "$group" ]"#;
        Tool::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "kiln-lab-groups", group])
            .run()
            .context("removing the lab's control groups")?;
        match fs_err::remove_file(dir.join("host.ready")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("removing the mark of a ready host"),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A command inside the lab host.
    ///
    /// # Errors
    /// When the program is not installed.
    pub fn tool(&self, program: &str) -> Result<Tool, ToolError> {
        let path = tool::find(program).ok_or_else(|| ToolError::Missing { program: program.into() })?;
        Ok(Tool::new("nsenter").args(self.enter()).arg(path))
    }

    /// A command inside the lab host that will stay, in a control group of the lab. Its process group is its own, as of all that
    /// [`Tool`] starts, so that Ctrl-C in the terminal does not reach it.
    ///
    /// # Errors
    /// When the program is not installed.
    pub fn daemon(&self, group: &str, program: &str) -> Result<Tool, ToolError> {
        let path = tool::find(program).ok_or_else(|| ToolError::Missing { program: program.into() })?;
        let script =
            r#"mkdir -p "/sys/fs/cgroup/$1" && echo $$ > "/sys/fs/cgroup/$1/cgroup.procs" && shift && exec "$@""#;
        let enter = Tool::new("nsenter").args(self.enter());
        Ok(enter.args(["sh", "-c", script, "kiln-lab-daemon", group]).arg(path))
    }

    /// Arguments with which `nsenter` goes into the lab host.
    pub fn enter(&self) -> [String; 4] {
        ["--target".into(), self.holder.pid.to_string(), "--all".into(), "--".into()]
    }

    /// Arguments with which `nsenter` goes into the lab host's network and nowhere else: the machine's files stay in sight.
    pub fn enter_network(&self) -> [String; 4] {
        ["--target".into(), self.holder.pid.to_string(), "--net".into(), "--".into()]
    }

    /// The first of its processes, by its number on the machine.
    pub fn pid(&self) -> i32 {
        self.holder.pid
    }

    /// A path on the lab host, as it is reached from the machine.
    pub fn path(&self, path: &str) -> String {
        format!("/proc/{}/root{path}", self.holder.pid)
    }

    /// Processes on the lab host; those inside a container are not among them, except its first.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn processes(&self) -> anyhow::Result<Vec<Process>> {
        process::in_namespace(self.holder.namespace)
    }

    /// The one process of the lab host that runs `program` with these arguments in a row.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn running(&self, program: &str, args: &[&str]) -> anyhow::Result<Option<Process>> {
        Ok(self.processes()?.into_iter().find(|p| p.runs(program) && (args.is_empty() || p.has_args(args))))
    }

    /// The lab host's network namespace, which is gone with the host.
    pub fn network(&self) -> Utf8PathBuf {
        format!("/proc/{}/ns/net", self.holder.pid).into()
    }

    /// Mounts the root file system of a raw disk image read-only on `point`, if nothing is there already.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount_tree(&self, point: &str, raw: &Utf8Path, offset: u64) -> anyhow::Result<()> {
        // Free loop devices are found and then taken in two steps: another lab may be quicker in between.
        let script = r#"mkdir -p "$1"
            mountpoint -q "$1" && exit 0
            for try in 1 2 3 4 5; do mount -t ext4 -o "$2" "$3" "$1" && exit 0; sleep 0.2; done
            exit 1"#;
        // `noload`: a journal is never replayed into the store's image.
        let options = format!("ro,noload,loop,offset={offset}");
        self.tool("sh")?
            .args(["-c", script, "kiln-lab-mount", point, &options, raw.as_str()])
            .run()
            .with_context(|| format!("mounting the root file system in `{raw}`"))
    }
}

/// The directory of the host that a process holds, by its command line.
fn held(process: &Process) -> Option<&Utf8Path> {
    let at = process.argv.iter().position(|a| a == MARK)?;
    process.argv.get(at + 1).map(|dir| Utf8Path::new(dir.as_str()))
}

/// The lab's control group. Its name comes from the directory, so that labs of one name in two homes do not meet.
pub fn group(dir: &Utf8Path) -> String {
    let digest = Sha256Digest::of(dir.as_str().as_bytes()).to_string();
    format!("kiln-lab-{}", &digest[..12])
}

/// Where inside the lab's directory a node's things are.
pub fn node_dir(dir: &Utf8Path, node: &str) -> Utf8PathBuf {
    dir.join("nodes").join(node)
}
