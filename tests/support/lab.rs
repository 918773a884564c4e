//! The lab, driven as a user drives it: by the `kiln` program.
#![expect(clippy::disallowed_methods, reason = "tests start processes, look at the machine, and read the environment")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::places::Places;
use crate::program::{kill, spawn};
use crate::wait::until;

/// The profile of all lab tests; `tests/run` builds its image.
pub const PROFILE: &str = "lab";

/// How long a cluster of containers may take to form on two busy cores.
pub const CONTAINER_PATIENCE: Duration = Duration::from_secs(120);
/// How long a cluster of emulated VMs may take to boot and form on two busy cores.
pub const VM_PATIENCE: Duration = Duration::from_secs(900);

/// How long the kernel may take to be done with what a lab has let go.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// The lab of one profile. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    handle: Handle,
}

/// What it takes to call `kiln lab` for one profile.
#[derive(Clone, Debug)]
pub struct Handle {
    places: Places,
    profile: String,
}

impl Handle {
    fn words<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [&["lab", args[0], &self.profile], &args[1..]].concat()
    }

    fn argv(&self, args: &[&str]) -> Vec<String> {
        self.places.argv(&self.words(args))
    }

    /// `kiln lab VERB PROFILE ARGS...`, however it ends.
    pub fn run(&self, args: &[&str]) -> Output {
        self.places.run(&self.words(args))
    }
}

/// A command that goes on beside the test. Dropping it ends it.
#[derive(Debug)]
pub struct Beside {
    process: std::cell::RefCell<Child>,
    log: tempfile::NamedTempFile,
}

impl Beside {
    /// What it has said.
    ///
    /// # Panics
    /// When its output cannot be read.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs_err::read(self.log.path()).expect("reading its output")).into_owned()
    }

    /// It has not ended.
    pub fn is_running(&self) -> bool {
        matches!(self.process.borrow_mut().try_wait(), Ok(None))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        kill(&mut self.process.borrow_mut());
    }
}

impl Lab {
    /// The lab of [`PROFILE`] in kiln's own home, so that its store and keys are used; nothing is up yet.
    ///
    /// # Panics
    /// As [`Lab::of`].
    pub fn new() -> Self {
        Self::of(Places::own(), PROFILE)
    }

    /// The lab of a profile, given as on the command line; nothing is up yet.
    ///
    /// # Panics
    /// When it is up already: these tests would take away what somebody is using.
    pub fn of(places: Places, profile: &str) -> Self {
        let lab = Self { handle: Handle { places, profile: profile.to_owned() } };
        assert!(!lab.dir().exists(), "a lab is up in {}: take it down first", lab.dir().display());
        lab
    }

    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        let name = Path::new(&self.handle.profile).file_stem().expect("a profile has a name");
        self.handle.places.home.join("lab").join(name)
    }

    /// What it takes to call `kiln lab` for it from elsewhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// `kiln lab VERB PROFILE ARGS...`, however it ends.
    pub fn run(&self, args: &[&str]) -> Output {
        self.handle.run(args)
    }

    /// Starts `kiln lab VERB PROFILE ARGS...`, to go on beside the test.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, args: &[&str]) -> Beside {
        let log = tempfile::NamedTempFile::new().expect("making a file for its output");
        let process = spawn(&self.handle.argv(args), log.path());
        Beside { process: process.into(), log }
    }

    /// `kiln lab VERB PROFILE ARGS...`, which must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "kiln lab {args:?}: {}\n{stderr}\n{}", done.status, self.story());
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// `kiln lab VERB PROFILE ARGS... --json`, which must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).expect("--json prints JSON")
    }

    /// That clients are refused who speak plain http, show no certificate, or one of another root.
    ///
    /// # Panics
    /// When one of them is not.
    pub fn refuses_strangers(&self) {
        let url = |scheme: &str| format!("{scheme}://10.77.0.11:2379/version");
        for url in [url("http"), url("https")] {
            let done = self.run(&["host", "--", "curl", "--silent", "--insecure", "--max-time", "10", &url]);
            // 52: the server closed without a word. 55 and 56: it broke the connection off.
            assert!(matches!(done.status.code(), Some(52 | 55 | 56)), "{url}: {done:?}");
        }
        let other = tempfile::tempdir().expect("making a scratch directory");
        let stranger = Places { home: other.path().to_owned(), ..self.handle.places.clone() };
        stranger.ok(&["pki", "init", &self.handle.profile]);
        let clients = other.path().join("pki").join(PROFILE).join("clients");
        let file = |kind: &str, suffix: &str| format!("--{kind}={}", clients.join(format!("root.{suffix}")).display());
        let done = self.run(&[
            "etcdctl",
            &file("cert", "crt"),
            &file("key", "key"),
            "--command-timeout=5s",
            "get",
            "greeting",
        ]);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && stderr.contains("context deadline exceeded"), "{stderr}");
    }

    /// Starts `kiln lab VERB PROFILE ARGS...` and returns at once.
    pub fn start(&self, args: &[&str]) -> Child {
        let argv = self.handle.argv(args);
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("starting kiln")
    }

    /// Waits until `kiln lab status` satisfies `enough`; its last answer.
    pub fn wait_status(&self, what: &str, patience: Duration, enough: impl Fn(&Value) -> bool) -> Value {
        until(what, patience, || Some(self.json(&["status"])).filter(|status| enough(status)), || self.story())
    }

    /// Waits until every node serves and the cluster is activated.
    pub fn wait_serving(&self, patience: Duration) -> Value {
        self.wait_status("every node to serve", patience, |status| {
            let healthy = status["nodes"].as_array().expect("nodes").iter().all(|n| n["healthy"] == true);
            healthy && status["activated"] == true
        })
    }

    /// The end of every console: what a person would look at.
    pub fn story(&self) -> String {
        let mut story = String::new();
        let list = |dir: PathBuf| fs_err::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let own = list(self.dir().join("nodes")).map(|node| node.join("console.log"));
        let on_hosts = list(self.dir().join("hosts")).flat_map(|host| list(host.join("pool")));
        let on_hosts = on_hosts.filter(|file| file.to_string_lossy().ends_with("console.log"));
        for console in own.chain(on_hosts) {
            let name = console.display().to_string();
            let text = String::from_utf8_lossy(&fs_err::read(console).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            story += &format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"));
        }
        story
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A second panic while the first unwinds would hide it; what is left is visible to the next test's `new`.
        let _ = self.run(&["down"]);
    }
}

/// What a lab could leave on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    loops: BTreeSet<String>,
    groups: BTreeSet<String>,
    processes: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Traces {
    /// That the machine is as it was when these were taken. What the kernel takes away by itself, as a loop device whose last user has
    /// just ended, may take it a moment.
    ///
    /// # Panics
    /// When something is left; says what.
    pub fn are_all(&self, lab: &Path) {
        let same = || (Self::now(lab) == *self).then_some(());
        until("the machine to be as it was before", GONE_WITHIN, same, || {
            format!("before: {self:#?}\nnow: {:#?}", Self::now(lab))
        });
    }

    /// What is there now. `lab` is the directory of a lab: processes that name it count, and so does it.
    pub fn now(lab: &Path) -> Self {
        let lines = |path: &str| fs_err::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect();
        let names = |dir: &str| {
            let entries = fs_err::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|e| format!("{dir}/{}", e.file_name().to_string_lossy())).collect::<BTreeSet<_>>()
        };
        let mut groups = names("/sys/fs/cgroup");
        groups.extend(names("/sys/fs/cgroup/unified"));
        groups.retain(|g| g.contains("kiln"));
        let backing = |dir: String| fs_err::read_to_string(format!("{dir}/loop/backing_file")).ok();
        Self {
            mounts: lines("/proc/self/mounts"),
            links: names("/sys/class/net"),
            namespaces: names("/run/netns"),
            loops: names("/sys/block").into_iter().filter_map(backing).collect(),
            groups,
            processes: processes_of(lab),
            files: lab.exists().then(|| lab.display().to_string()).into_iter().collect(),
        }
    }
}

/// Command lines that name the lab's directory, and everything that runs in namespaces below such a process.
fn processes_of(lab: &Path) -> BTreeSet<String> {
    let lab = lab.display().to_string();
    let all = kiln_builder::lab::process::all().expect("reading /proc");
    let named = |argv: &[String]| argv.iter().any(|a| a.contains(&lab));
    let spaces: BTreeSet<u64> =
        all.iter().filter(|p| named(&p.argv) && p.inner_pid != p.pid).map(|p| p.namespace).collect();
    let of_lab = all.iter().filter(|p| named(&p.argv) || spaces.contains(&p.namespace));
    of_lab.map(|p| format!("{} {}", p.pid, p.argv.join(" "))).collect()
}
