//! The root helper's side of a node without a machine: what systemd and nftables do on a real one.
#![expect(clippy::disallowed_methods, reason = "tests prepare and look at files")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_firstboot::digest::Id128;
use kiln_firstboot::message::{ControlAnswer, ControlRequest};
use kiln_firstboot::observation::StateView;
use kiln_firstboot::paths::Paths;
use kiln_firstboot::state::{Phase, RaftId};
use kiln_firstboot::{control, last_words, precheck, raft_id, state_file};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::firewall;
use crate::node::text;
use crate::program::{etcd, kill, output, output_with_input, spawn};

/// Does what the agent asks of root; etcd is its child.
#[derive(Debug)]
pub(crate) struct RootHelper {
    space: String,
    pub(crate) paths: Paths,
    pub(crate) program: Mutex<PathBuf>,
    pub(crate) precheck_env: Mutex<Vec<(String, String)>>,
    pub(crate) precheck_cut: AtomicBool,
    pub(crate) log: PathBuf,
    /// Where in its log the latest start of etcd begins.
    started_at: AtomicU64,
    etcd: Mutex<Option<Child>>,
    pub(crate) clients_open: AtomicBool,
    pub(crate) served: Mutex<BTreeSet<(RaftId, Id128)>>,
}

impl RootHelper {
    /// Of the node in this namespace, whose etcd logs to `log`; requests that need no systemd are passed to `program`.
    pub(crate) fn new(space: String, log: PathBuf, paths: Paths, program: PathBuf) -> Self {
        Self {
            space,
            log,
            paths,
            program: Mutex::new(program),
            precheck_env: Mutex::new(Vec::new()),
            precheck_cut: AtomicBool::new(false),
            started_at: AtomicU64::new(0),
            etcd: Mutex::new(None),
            clients_open: AtomicBool::new(false),
            served: Mutex::default(),
        }
    }

    pub(crate) fn serve(&self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            let mut requests = BufReader::new(&stream);
            while self.answer(&mut requests, &stream).is_some() {}
            if !self.paths.control_socket().exists() {
                return;
            }
        }
    }

    /// One request, one answer. Nothing when the caller said nothing.
    fn answer(&self, requests: &mut impl BufRead, mut stream: &UnixStream) -> Option<()> {
        let mut line = String::new();
        requests.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => self.act(request, &line),
            Err(error) => ControlAnswer::Failed(error.to_string()),
        };
        let mut text = serde_json::to_vec(&answer).expect("an answer is JSON");
        text.push(b'\n');
        stream.write_all(&text).ok()
    }

    fn act(&self, request: ControlRequest, line: &str) -> ControlAnswer {
        self.hand_over_hosts();
        match request {
            ControlRequest::Observe => self.pass(line),
            ControlRequest::StartEtcd { empty } => self.start_etcd(empty),
            ControlRequest::StopEtcd => {
                self.stop_etcd();
                ControlAnswer::Done
            }
            ControlRequest::EtcdState => {
                let running = self.etcd_runs();
                let active = if running { "active" } else { "inactive" }.to_owned();
                ControlAnswer::Etcd { active, last_words: if running { String::new() } else { self.last_words() } }
            }
            ControlRequest::ClearEtcd => match control::clear_leftover(&self.paths) {
                Ok(()) => ControlAnswer::Done,
                Err(error) => ControlAnswer::Failed(format!("{error:#}")),
            },
            ControlRequest::OpenClients => {
                firewall::open(&self.space);
                self.clients_open.store(true, Ordering::SeqCst);
                if let StateView::Read(state) = state_file::read(&self.paths)
                    && let Phase::Member { lineage, raft_cluster, .. } = state.position
                {
                    self.served.lock().unwrap_or_else(PoisonError::into_inner).insert((raft_cluster, lineage));
                }
                ControlAnswer::Done
            }
        }
    }

    /// Passes a request to the real helper, for what needs no systemd.
    fn pass(&self, request: &str) -> ControlAnswer {
        let root = text(self.paths.root());
        let said = output_with_input(&[&text(&self.program()), "--root", &root, "control"], request);
        serde_json::from_slice(said.stdout.split(|b| *b == b'\n').next().unwrap_or_default())
            .unwrap_or_else(|error| ControlAnswer::Failed(format!("the helper said no answer: {error}")))
    }

    fn program(&self) -> PathBuf {
        self.program.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn etcd_runs(&self) -> bool {
        let mut etcd = self.etcd.lock().unwrap_or_else(PoisonError::into_inner);
        etcd.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn start_etcd(&self, empty: bool) -> ControlAnswer {
        if self.etcd_runs() {
            return ControlAnswer::Done;
        }
        if empty {
            let Some(StateView::Read(state)) = Some(state_file::read(&self.paths)) else {
                return ControlAnswer::Failed("there is no state".into());
            };
            let member = match state.position {
                Phase::Assigned { member, .. } => member,
                Phase::Founding { lineage } => {
                    let token = raft_id::cluster_token(state.cluster, state.generation, lineage);
                    raft_id::member_id(&[state.fqdn.peer_url()], &token)
                }
                Phase::Blank | Phase::Member { .. } | Phase::Evicted { .. } => {
                    return ControlAnswer::Failed("the state allows no start on an empty log".into());
                }
            };
            if let Err(error) = precheck::permit(&self.paths, member) {
                return ControlAnswer::Failed(format!("writing the permit: {error:#}"));
            }
        }
        self.run_etcd().map_or_else(ControlAnswer::Failed, |()| ControlAnswer::Done)
    }

    /// What systemd does to start the unit: its condition, then etcd.
    pub(crate) fn run_etcd(&self) -> Result<(), String> {
        let mut argv = vec!["env".to_owned()];
        let environment = self.precheck_env.lock().unwrap_or_else(PoisonError::into_inner).clone();
        argv.extend(environment.iter().map(|(name, value)| format!("{name}={value}")));
        argv.extend([text(&self.program()), "--root".into(), text(self.paths.root()), "precheck".into()]);
        let precheck = output(&argv.iter().map(String::as_str).collect::<Vec<_>>());
        if !precheck.status.success() {
            if precheck.status.signal().is_some() {
                self.precheck_cut.store(true, Ordering::SeqCst);
            }
            return Err(String::from_utf8_lossy(&precheck.stderr).into_owned());
        }
        // A node whose power was cut meanwhile has no tree any more: nothing is started on it.
        let env = fs_err::read_to_string(self.paths.etcd_args()).map_err(|e| format!("etcd's arguments: {e}"))?;
        let args =
            env.trim().strip_prefix("KILN_ETCD_ARGS=").expect("an environment file").trim_matches('"').to_owned();
        self.hand_over_hosts();
        let mut argv: Vec<String> =
            ["ip", "netns", "exec", &self.space, &text(&etcd("etcd"))].map(str::to_owned).to_vec();
        argv.extend(args.split_whitespace().map(str::to_owned));
        self.turn_the_page();
        *self.etcd.lock().unwrap_or_else(PoisonError::into_inner) = Some(spawn(&argv, &self.log));
        Ok(())
    }

    /// Keeps what etcd has for /etc/hosts, which on a node is a link to the agent's file, in step with that. `ip netns exec` mounted
    /// it for etcd when it started, so it is the same file that must change.
    pub(crate) fn hand_over_hosts(&self) {
        let Ok(hosts) = fs_err::read(self.paths.hosts()) else { return };
        let mounted = format!("/etc/netns/{}/hosts", self.space);
        if fs_err::read(&mounted).ok().as_ref() != Some(&hosts) {
            fs_err::write(mounted, hosts).expect("handing etcd its hosts");
        }
    }

    pub(crate) fn signal_etcd(&self, signal: Signal) {
        // `ip netns exec` becomes what it runs, so the child is etcd itself.
        if let Some(etcd) = self.etcd.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && matches!(etcd.try_wait(), Ok(None))
        {
            let pid = Pid::from_raw(i32::try_from(etcd.id()).expect("a pid fits"));
            nix::sys::signal::kill(pid, signal).expect("signalling etcd");
        }
    }

    pub(crate) fn stop_etcd(&self) {
        if let Some(mut etcd) = self.etcd.lock().unwrap_or_else(PoisonError::into_inner).take() {
            kill(&mut etcd);
        }
        drop(fs_err::remove_file(self.paths.etcd_socket()));
    }

    /// What was said until now belongs to an earlier start.
    pub(crate) fn turn_the_page(&self) {
        let length = fs_err::metadata(&self.log).map_or(0, |log| log.len());
        self.started_at.store(length, Ordering::SeqCst);
    }

    fn last_words(&self) -> String {
        let log = fs_err::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.started_at.load(Ordering::SeqCst)).expect("a log is shorter than that");
        let said = String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned();
        last_words::last_words(said.lines())
    }
}
