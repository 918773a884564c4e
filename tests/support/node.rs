//! One node without a machine: the real agent in a namespace and a directory of its own, and a root helper that starts a
//! real etcd beside it where systemd would.
#![expect(clippy::disallowed_methods, reason = "tests prepare and look at files")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_firstboot::digest::Id128;
use kiln_firstboot::fault::Point;
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::paths::Paths;
use kiln_firstboot::state::{RaftId, State};
use nix::sys::signal::Signal;

use crate::firewall;
use crate::netns::Network;
use crate::program::{etcd, firstboot, firstboot_with_faults, kill, output, run, spawn};
use crate::root_helper::RootHelper;
use crate::volume::Disk;
use crate::wire::{self, Trouble};

/// A node. Dropping it ends what it runs.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub fqdn: Fqdn,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// The address that the charter gives it.
    pub ip: IpAddr,
    /// Its namespace.
    pub space: String,
    /// Its directory: image, data volume, seed, logs.
    pub home: PathBuf,
    helper: Arc<RootHelper>,
    agent: Mutex<Option<Child>>,
    faults: Vec<(String, String)>,
    cut_takes_etcd: bool,
    pub(crate) disk: Option<Disk>,
}

impl Node {
    /// A node with a blank data volume and nothing else: `image` is what its image has under `usr/lib/kiln`, `seed` its seed.
    /// Powered off.
    pub fn new(fqdn: Fqdn, address: Ipv4Addr, space: String, home: PathBuf, seed: &Path) -> Self {
        let paths = Paths::new(home.join("root"));
        for dir in ["root", "image/usr/lib/kiln", "data"] {
            fs_err::create_dir_all(home.join(dir)).expect("making a node's directories");
        }
        fs_err::copy(seed, home.join("seed.tar")).expect("handing a node its seed");
        let helper = RootHelper::new(space.clone(), home.join("etcd.log"), paths, firstboot());
        let helper = Arc::new(helper);
        let (agent, faults) = (Mutex::new(None), Vec::new());
        let ip = address.into();
        Self { fqdn, address, ip, space, home, helper, agent, faults, cut_takes_etcd: false, disk: None }
    }

    /// From the next start of its agent on: the agent with faults compiled in, and this environment for it (`KILN_CUT`, ...).
    /// Nothing means the plain agent again.
    pub fn set_faults(&mut self, environment: &[(&str, &str)]) {
        self.faults = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// From the next start of its agent on, its agent's clock can be bent. Its etcd's cannot: there is one clock in this machine.
    pub fn use_bent_clock(&mut self, seconds: i64) {
        self.bend_clock(seconds);
        let file = text(&self.home.join("clock-offset"));
        self.set_faults(&[("KILN_CLOCK_OFFSET_FILE", &file)]);
    }

    /// The clock of its agent is off by `seconds` from now on.
    pub fn bend_clock(&self, seconds: i64) {
        let (file, beside) = (self.home.join("clock-offset"), self.home.join("clock-offset.new"));
        fs_err::write(&beside, seconds.to_string()).expect("bending a clock");
        fs_err::rename(&beside, &file).expect("bending a clock");
    }

    /// It has power.
    pub fn is_on(&self) -> bool {
        self.paths().control_socket().exists()
    }

    /// Where its data volume can be looked at while it has power.
    pub fn volume(&self) -> PathBuf {
        if self.disk.is_some() { self.paths().data() } else { self.home.join("data") }
    }

    /// Whether a cut of its agent is a cut of its power, which ends its etcd in the same instant, or a crash of the agent alone.
    pub fn set_cut_takes_etcd(&mut self, takes: bool) {
        self.cut_takes_etcd = takes;
    }

    /// Has its next hit of `point` be a cut, from now on and over restarts; `None` lets it live. Needs [`Node::set_faults`] with
    /// [`Node::cut_file`] before the agent's start.
    pub fn arm(&self, point: Option<Point>) {
        let name = point.map_or("", Point::name);
        fs_err::write(self.home.join("cut"), name).expect("arming a cut");
    }

    /// The variable that has its agent look for an armed cut.
    pub fn cut_file(&self) -> (&'static str, String) {
        ("KILN_CUT_FILE", text(&self.home.join("cut")))
    }

    /// A cut has ended its agent, or the check before a start of etcd.
    pub fn was_cut(&self) -> bool {
        self.helper.precheck_cut.load(Ordering::SeqCst) || !self.agent_runs()
    }

    /// Its agent runs. Not after a cut.
    pub fn agent_runs(&self) -> bool {
        let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        agent.as_mut().is_some_and(|agent| matches!(agent.try_wait(), Ok(None)))
    }

    /// The process id of its agent.
    ///
    /// # Panics
    /// When it is powered off.
    pub fn agent_pid(&self) -> u32 {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).as_ref().expect("the node is powered on").id()
    }

    /// The most memory its agent has had resident since it started, in KiB.
    ///
    /// # Panics
    /// When the agent has ended.
    pub fn most_resident_kib(&self) -> u64 {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.agent_pid())).expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// Its etcd runs.
    pub fn etcd_runs(&self) -> bool {
        self.helper.etcd_runs()
    }

    /// Its paths, which exist while it is powered on.
    pub fn paths(&self) -> &Paths {
        &self.helper.paths
    }

    /// Puts a file into its image's `usr/lib/kiln`.
    pub fn put_in_image(&self, name: &str, content: &[u8]) {
        fs_err::write(self.home.join("image/usr/lib/kiln").join(name), content).expect("writing into an image");
    }

    /// Makes its data volume blank, as imaging it anew with `--wipe-data` does. Powered off only.
    pub fn wipe(&self) {
        if let Some(disk) = &self.disk {
            assert!(!self.is_on(), "only a powered-off node is wiped");
            return disk.wipe();
        }
        assert!(!self.agent_runs(), "only a powered-off node is wiped");
        fs_err::remove_dir_all(self.home.join("data")).expect("wiping a volume");
        fs_err::create_dir_all(self.home.join("data")).expect("wiping a volume");
    }

    /// Powers it on: a new boot on a fresh overlay, the disk step done, the helper listening, the agent running.
    pub fn power_on(&mut self) {
        let root = text(self.paths().root());
        let layer = |name: &str| {
            let dir = self.home.join(name);
            drop(fs_err::remove_dir_all(&dir));
            fs_err::create_dir_all(&dir).expect("making an overlay's directories");
            text(&dir)
        };
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            text(&self.home.join("image")),
            layer("upper"),
            layer("work")
        );
        run(&["mount", "-t", "overlay", "overlay", "-o", &options, &root]);
        let paths = self.paths().clone();
        for dir in [paths.data(), paths.run(), paths.etcd_run(), paths.root().join("run/systemd/resolve")] {
            fs_err::create_dir_all(dir).expect("making a node's directories");
        }
        fs_err::create_dir_all(paths.boot_id().parent().expect("it is under proc")).expect("making proc");
        if let Some(disk) = &mut self.disk {
            disk.attach(&paths, &self.home.join("seed.tar"));
        } else {
            run(&["mount", "--bind", &text(&self.home.join("data")), &text(&paths.data())]);
            // What systemd would have left: a node of this kind has directories for disks, as a container has.
            fs_err::write(paths.root().join("run/systemd/container"), "test\n").expect("writing the container mark");
            let seed = paths.root().join("run/kiln-seed.tar");
            fs_err::copy(self.home.join("seed.tar"), seed).expect("attaching the seed");
        }
        let server: IpAddr = if self.ip.is_ipv6() { Network::SWITCH6.into() } else { Network::SWITCH.into() };
        fs_err::write(paths.resolv_conf(), format!("nameserver {server}\n")).expect("writing resolv.conf");
        let boot = format!("{}\n", Id128::random().expect("drawing a boot id"));
        fs_err::write(paths.boot_id(), boot).expect("writing the boot id");
        firewall::close(&self.space);
        *self.helper.program.lock().unwrap_or_else(PoisonError::into_inner) = self.program();
        run(&[&text(&self.program()), "--root", &root, "disk"]);

        self.helper.clients_open.store(false, Ordering::SeqCst);
        self.helper.turn_the_page();
        let listener = UnixListener::bind(paths.control_socket()).expect("listening as the root helper");
        let helper = Arc::clone(&self.helper);
        std::thread::spawn(move || helper.serve(&listener));
        self.start_agent();
    }

    /// Starts its agent again after a crash of it alone, as systemd does: the same boot, etcd as it is.
    ///
    /// # Panics
    /// When the agent still runs.
    pub fn restart_agent(&mut self) {
        assert!(!self.agent_runs(), "the agent of {} runs", self.fqdn);
        *self.helper.program.lock().unwrap_or_else(PoisonError::into_inner) = self.program();
        self.start_agent();
    }

    fn program(&self) -> PathBuf {
        if self.faults.is_empty() { firstboot() } else { firstboot_with_faults() }
    }

    fn start_agent(&mut self) {
        let mut argv = ["ip", "netns", "exec", &self.space, "env"].map(str::to_owned).to_vec();
        argv.extend(self.faults.iter().map(|(name, value)| format!("{name}={value}")));
        argv.extend([text(&self.program()), "--root".into(), text(self.paths().root()), "run".into()]);
        (*self.helper.precheck_env.lock().unwrap_or_else(PoisonError::into_inner)).clone_from(&self.faults);
        self.helper.precheck_cut.store(false, Ordering::SeqCst);
        let agent = spawn(&argv, &self.home.join("console.log"));
        if self.cut_takes_etcd {
            let (pid, helper) = (agent.id(), Arc::clone(&self.helper));
            std::thread::spawn(move || {
                ended(pid);
                helper.stop_etcd();
            });
        }
        *self.agent.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(agent);
    }

    /// Undoes a cut: systemd starts the agent again, or the power is back, as [`Node::set_cut_takes_etcd`] says.
    pub fn revive(&mut self) {
        if self.cut_takes_etcd {
            self.power_off();
            self.power_on();
        } else if !self.agent_runs() {
            self.restart_agent();
        }
        self.helper.precheck_cut.store(false, Ordering::SeqCst);
    }

    /// Ends its agent alone, as a crash does; etcd goes on.
    pub fn crash_agent(&mut self) {
        if let Some(mut agent) = self.agent.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            kill(&mut agent);
        }
    }

    /// Lets its etcd crash; nobody is told.
    pub fn crash_etcd(&self) {
        self.helper.stop_etcd();
    }

    /// Stops its etcd in mid-step (SIGSTOP), as a machine that stalls does; connections stay open and say nothing.
    pub fn pause_etcd(&self) {
        self.helper.signal_etcd(Signal::SIGSTOP);
    }

    /// Lets a paused etcd go on as if nothing had been.
    pub fn resume_etcd(&self) {
        self.helper.signal_etcd(Signal::SIGCONT);
    }

    /// Makes these, and nothing else, wrong with its link.
    pub fn set_trouble(&self, troubles: &[Trouble]) {
        wire::set_trouble(&self.space, troubles);
    }

    /// Has etcd started as systemd's `Restart=` does it, which asks nobody but `firstboot precheck`.
    ///
    /// # Errors
    /// What precheck says.
    pub fn restart_etcd_by_systemd(&self) -> Result<(), String> {
        self.helper.run_etcd()
    }

    /// Cuts its power: agent and etcd end at once, nothing is told to them.
    pub fn power_off(&mut self) {
        if let Some(mut agent) = self.agent.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            kill(&mut agent);
        }
        self.helper.stop_etcd();
        self.helper.clients_open.store(false, Ordering::SeqCst);
        if !self.paths().control_socket().exists() {
            return;
        }
        // Ends the helper's thread: the socket of this boot is gone, and a last connection wakes it to see that.
        let last = UnixStream::connect(self.paths().control_socket());
        drop(fs_err::remove_file(self.paths().control_socket()));
        drop(last);
        let data = self.helper.paths.data();
        if let Some(disk) = &mut self.disk {
            disk.detach(&data);
        }
        for point in [data, self.paths().root().to_owned()] {
            // Lazily: a thread of the helper may still hold a file for a moment.
            drop(output(&["umount", "--lazy", &text(&point)]));
        }
    }

    /// The client port is open.
    pub fn clients_open(&self) -> bool {
        self.helper.clients_open.load(Ordering::SeqCst)
    }

    /// Its etcd was started last with its strict check on: a founder of etcd 3.5 runs without until the cluster is activated, and then
    /// restarts it, in the moment after it has let clients in.
    pub fn is_strict(&self) -> bool {
        fs_err::read_to_string(self.paths().etcd_args())
            .is_ok_and(|args| !args.contains("--strict-reconfig-check=false"))
    }

    /// Every raft cluster, with its lineage, that this node has let clients into since the test began, wipes and reboots included.
    pub fn served(&self) -> BTreeSet<(RaftId, Id128)> {
        self.helper.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its state file, once there is one.
    pub fn state(&self) -> Option<State> {
        serde_json::from_slice(&fs_err::read(self.volume().join("state/state.json")).ok()?).ok()
    }

    /// What a person at its console has read so far.
    pub fn console(&self) -> String {
        fs_err::read_to_string(self.home.join("console.log")).unwrap_or_default()
    }

    /// What its etcd has logged so far.
    pub fn etcd_log(&self) -> String {
        fs_err::read_to_string(&self.helper.log).unwrap_or_default()
    }

    /// Runs etcdctl on the local socket of its etcd, which serves before clients are admitted too.
    pub fn etcdctl(&self, args: &[&str]) -> std::process::Output {
        let endpoint = format!("--endpoints=unix://{}", text(&self.paths().etcd_socket()));
        let program = text(&etcd("etcdctl"));
        let mut line = vec![program.as_str(), &endpoint, "--command-timeout=10s"];
        line.extend(args);
        output(&line)
    }

    /// Runs a program in its namespace.
    pub fn exec(&self, argv: &[&str]) -> std::process::Output {
        let mut line = vec!["ip", "netns", "exec", &self.space];
        line.extend(argv);
        output(&line)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// Waits until a child of this process has ended, and leaves it to be collected by whoever started it.
fn ended(pid: u32) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid is small"));
    // An error means that it is collected already.
    let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
}

/// A path as text; the tests' own paths are.
pub fn text(path: &Path) -> String {
    path.to_str().expect("test paths are UTF-8").to_owned()
}
