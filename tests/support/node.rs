//! One node without a machine: the real agent in a namespace and a directory of its own, and a root helper that starts a
//! real etcd beside it where systemd would.
#![expect(clippy::disallowed_methods, reason = "tests prepare and look at files")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_firstboot::digest::Id128;
use kiln_firstboot::disk_fact::{DataFact, DiskFacts, RootFact, SeedFact};
use kiln_firstboot::message::{ControlAnswer, ControlRequest};
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::paths::Paths;
use kiln_firstboot::state::State;
use kiln_firstboot::volume::VolumeLabel;

use crate::program::{etcd, firstboot, kill, output, spawn};

/// A node. Dropping it ends what it runs.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub fqdn: Fqdn,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its namespace.
    pub space: String,
    /// Its root directory.
    pub root: PathBuf,
    helper: Arc<Helper>,
    agent: Option<Child>,
}

/// The root helper's side: what systemd and nftables do on a real node.
#[derive(Debug)]
struct Helper {
    space: String,
    paths: Paths,
    log: PathBuf,
    etcd: Mutex<Option<Child>>,
    clients_open: AtomicBool,
}

impl Node {
    /// A node whose image, seed and blank volume are laid out under `root`. Powered off.
    pub fn new(fqdn: Fqdn, address: Ipv4Addr, space: String, root: PathBuf) -> Self {
        let paths = Paths::new(&root);
        for dir in [paths.run(), paths.etcd_run(), paths.seed_dir(), root.join("proc/sys/kernel/random")] {
            fs_err::create_dir_all(dir).expect("making a node's directories");
        }
        let resolv = paths.resolv_conf();
        fs_err::create_dir_all(resolv.parent().expect("it is under run/")).expect("making a node's directories");
        fs_err::write(resolv, format!("nameserver {}\n", crate::netns::Network::SWITCH)).expect("writing resolv.conf");
        let helper = Helper {
            space: space.clone(),
            log: root.join("etcd.log"),
            paths,
            etcd: Mutex::new(None),
            clients_open: AtomicBool::new(false),
        };
        Self { fqdn, address, space, root, helper: Arc::new(helper), agent: None }
    }

    /// Its paths.
    pub fn paths(&self) -> &Paths {
        &self.helper.paths
    }

    /// Formats its volume, as the disk step does with a blank disk.
    pub fn format(&self, env: &str, cluster: Id128) {
        let paths = self.paths();
        if paths.data().exists() {
            fs_err::remove_dir_all(paths.data()).expect("wiping a volume");
        }
        for dir in [paths.etcd_data(), paths.state_dir(), paths.tls_dir(), paths.journal()] {
            fs_err::create_dir_all(dir).expect("making a volume's directories");
        }
        // etcd refuses to start on a data directory that others may read.
        fs_err::set_permissions(paths.etcd_data(), std::fs::Permissions::from_mode(0o700)).expect("closing etcd's directory");
        let label = VolumeLabel {
            schema: 1,
            env: env.to_owned(),
            cluster,
            generation: 1,
            fqdn: self.fqdn.clone(),
            instance: Id128::random().expect("drawing an instance"),
        };
        let text = serde_json::to_vec(&label).expect("a label is JSON");
        fs_err::write(paths.volume_json(), text).expect("labelling a volume");
    }

    /// Powers it on: a new boot, the helper listening, the agent running.
    pub fn power_on(&mut self) {
        let paths = self.paths();
        let boot = format!("{}\n", Id128::random().expect("drawing a boot id"));
        fs_err::write(paths.boot_id(), boot).expect("writing the boot id");
        for left in [paths.control_socket(), paths.empty_start_permit(), paths.status_json(), paths.etcd_socket(), paths.etcd_args()] {
            // What lasts for one boot only; most of it is not there.
            drop(fs_err::remove_file(left));
        }
        self.helper.clients_open.store(false, Ordering::SeqCst);
        let listener = UnixListener::bind(paths.control_socket()).expect("listening as the root helper");
        let helper = Arc::clone(&self.helper);
        std::thread::spawn(move || helper.serve(&listener));
        let argv = ["ip", "netns", "exec", &self.space, &text(&firstboot()), "--root", &text(&self.root), "run"];
        let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
        self.agent = Some(spawn(&argv, &self.root.join("agent.log")));
    }

    /// Cuts its power: agent and etcd end at once, nothing is told to them.
    pub fn power_off(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            kill(&mut agent);
        }
        self.helper.stop_etcd();
        // Ends the helper's thread: the socket of this boot is gone, and a last connection wakes it to see that.
        let last = UnixStream::connect(self.paths().control_socket());
        drop(fs_err::remove_file(self.paths().control_socket()));
        drop(last);
    }

    /// The client port is open.
    pub fn clients_open(&self) -> bool {
        self.helper.clients_open.load(Ordering::SeqCst)
    }

    /// Its state file, once there is one.
    pub fn state(&self) -> Option<State> {
        serde_json::from_slice(&fs_err::read(self.paths().state_json()).ok()?).ok()
    }

    /// What a person at its console has read so far.
    pub fn console(&self) -> String {
        fs_err::read_to_string(self.root.join("agent.log")).unwrap_or_default()
    }

    /// What its etcd has logged so far.
    pub fn etcd_log(&self) -> String {
        fs_err::read_to_string(&self.helper.log).unwrap_or_default()
    }

    /// Runs a program in its namespace.
    pub fn exec(&self, argv: &[&str]) -> std::process::Output {
        let mut line = vec!["ip", "netns", "exec", &self.space];
        line.extend(argv);
        output(&line)
    }

    /// Runs etcdctl over its local socket.
    pub fn etcdctl(&self, args: &[&str]) -> std::process::Output {
        let endpoint = format!("--endpoints=unix://{}", text(&self.paths().etcd_socket()));
        let program = text(&etcd("etcdctl"));
        let mut line = vec![program.as_str(), &endpoint, "--command-timeout=5s"];
        line.extend(args);
        output(&line)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
    }
}

impl Helper {
    fn serve(&self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.answer(&stream).is_none() && !self.paths.control_socket().exists() {
                return;
            }
        }
    }

    /// One request, one answer. Nothing when the caller said nothing.
    fn answer(&self, mut stream: &UnixStream) -> Option<()> {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok().filter(|n| *n > 0)?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => self.act(request),
            Err(error) => ControlAnswer::Failed(error.to_string()),
        };
        let mut text = serde_json::to_vec(&answer).expect("an answer is JSON");
        text.push(b'\n');
        stream.write_all(&text).ok()
    }

    fn act(&self, request: ControlRequest) -> ControlAnswer {
        match request {
            ControlRequest::Observe => ControlAnswer::Disks(Box::new(self.look())),
            ControlRequest::StartEtcd { empty } => self.start_etcd(empty),
            ControlRequest::StopEtcd => {
                self.stop_etcd();
                ControlAnswer::Done
            }
            ControlRequest::EtcdState => {
                let mut etcd = self.etcd.lock().unwrap_or_else(PoisonError::into_inner);
                let running = etcd.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
                let active = if running { "active" } else { "inactive" }.to_owned();
                ControlAnswer::Etcd { active, last_words: if running { String::new() } else { self.last_words() } }
            }
            ControlRequest::ClearEtcd => {
                if self.paths.wal().exists() {
                    return ControlAnswer::Failed("there is a write-ahead log".into());
                }
                let member = self.paths.etcd_data().join("member");
                if member.exists() {
                    fs_err::remove_dir_all(member).expect("clearing etcd's directory");
                }
                ControlAnswer::Done
            }
            ControlRequest::OpenClients => {
                self.clients_open.store(true, Ordering::SeqCst);
                ControlAnswer::Done
            }
        }
    }

    fn look(&self) -> DiskFacts {
        let label = fs_err::read(self.paths.volume_json()).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let data = label.map_or_else(
            || DataFact::Absent("there is no volume".into()),
            |label| DataFact::Mounted { label, formatted_now: false, free_mib: 1024 },
        );
        DiskFacts {
            root: RootFact::Overlay,
            data,
            seed: SeedFact::Unpacked,
            wal: kiln_firstboot::wal_file::read(&self.paths.wal()),
        }
    }

    fn start_etcd(&self, empty: bool) -> ControlAnswer {
        let permit = self.paths.empty_start_permit();
        if empty {
            fs_err::write(&permit, "").expect("writing the permit");
        }
        let precheck = output(&[&text(&firstboot()), "--root", &text(self.paths.root()), "precheck"]);
        if !precheck.status.success() {
            return ControlAnswer::Failed(String::from_utf8_lossy(&precheck.stderr).into_owned());
        }
        let env = fs_err::read_to_string(self.paths.etcd_args()).expect("the agent rendered etcd's arguments");
        let args = env.trim().strip_prefix("KILN_ETCD_ARGS=").expect("an environment file").trim_matches('"').to_owned();
        let mut argv: Vec<String> = ["ip", "netns", "exec", &self.space, &text(&etcd("etcd"))].map(str::to_owned).to_vec();
        argv.extend(args.split_whitespace().map(str::to_owned));
        *self.etcd.lock().unwrap_or_else(PoisonError::into_inner) = Some(spawn(&argv, &self.log));
        ControlAnswer::Done
    }

    fn stop_etcd(&self) {
        if let Some(mut etcd) = self.etcd.lock().unwrap_or_else(PoisonError::into_inner).take() {
            kill(&mut etcd);
        }
        drop(fs_err::remove_file(self.paths.etcd_socket()));
    }

    fn last_words(&self) -> String {
        let log = fs_err::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// A path as text; the tests' own paths are.
pub fn text(path: &Path) -> String {
    path.to_str().expect("test paths are UTF-8").to_owned()
}
