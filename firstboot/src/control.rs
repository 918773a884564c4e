//! `firstboot control`: what the agent may ask of root. A line on stdin is a request, a line on stdout its answer; few verbs, no paths
//! or commands. It keeps nothing in mind from one request to the next, and ends with its connection.
#![expect(clippy::disallowed_methods, reason = "an edge: etcd's process is waited for here")]

use std::io::{BufRead, ErrorKind, Read as _, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::disk;
use crate::disk_fact::WalFact;
use crate::journal;
use crate::last_words;
use crate::message::{ControlAnswer, ControlRequest};
use crate::observation::StateView;
use crate::paths::{CLIENT_PORT, Paths};
use crate::precheck;
use crate::state::{Phase, RaftId};
use crate::state_file;
use crate::system::Program;

const ETCD: &str = "etcd.service";
/// Longest request, in bytes; a real one is under 40.
const MAX_REQUEST: u64 = 4096;
/// How many lines of etcd's journal are looked at. A member of the largest charter tells of 19 peers, nine lines each, while it stops.
const LAST_LINES: &str = "400";
/// How often it is looked whether etcd's process is there.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After how many looks systemd is asked too, which takes a process each time: every second, 20 times.
const LOOKS_PER_QUESTION: u32 = 50;
const QUESTIONS: u32 = 20;
/// The processes of etcd's unit, by the kernel's word.
const UNIT_PROCESSES: &str = "sys/fs/cgroup/system.slice/etcd.service/cgroup.procs";
/// A link that systemd makes at a unit's first start in a boot, precheck included, and leaves there.
const UNIT_STARTED: &str = "run/systemd/units/invocation:etcd.service";

/// Serves the requests of this connection, one after the other, until the agent hangs up.
///
/// # Errors
/// When a request cannot be read or an answer not written. What went wrong in between is the answer.
pub fn run(paths: &Paths) -> anyhow::Result<()> {
    journal::connect(paths.root());
    converse(&mut std::io::stdin().lock(), &mut std::io::stdout(), |request| serve(paths, request))
}

fn converse(
    requests: &mut impl BufRead,
    answers: &mut impl Write,
    serve: impl Fn(ControlRequest) -> anyhow::Result<ControlAnswer>,
) -> anyhow::Result<()> {
    loop {
        let mut line = String::new();
        let read = requests.by_ref().take(MAX_REQUEST).read_line(&mut line).context("reading a request")?;
        if read == 0 {
            return Ok(());
        }
        ensure!(line.ends_with('\n'), "a request of {read} bytes is too long or was broken off");
        let answer = match serde_json::from_str(&line) {
            Ok(request) => serve(request).unwrap_or_else(|error| ControlAnswer::Failed(format!("{error:#}"))),
            Err(error) => ControlAnswer::Failed(format!("the request is none: {error}")),
        };
        writeln!(answers, "{}", serde_json::to_string(&answer)?).context("writing an answer")?;
        answers.flush().context("writing an answer")?;
    }
}

fn serve(paths: &Paths, request: ControlRequest) -> anyhow::Result<ControlAnswer> {
    match request {
        ControlRequest::Observe => Ok(ControlAnswer::Disks(Box::new(disk::settle(paths)?))),
        ControlRequest::StartEtcd { empty } => start(paths, empty),
        ControlRequest::StopEtcd => {
            Program::new("systemctl").args(["stop", ETCD]).read()?;
            Ok(ControlAnswer::Done)
        }
        ControlRequest::EtcdState => etcd_state(paths.root()),
        ControlRequest::ClearEtcd => clear(paths),
        ControlRequest::OpenClients => {
            let element = format!("{{ {CLIENT_PORT} }}");
            Program::new("nft").args(["add", "element", "inet", "kiln", "open_tcp", &element]).read()?;
            Ok(ControlAnswer::Done)
        }
    }
}

/// Starts etcd and waits until precheck has spoken. etcd reports ready only once it has a leader, which is not waited for.
fn start(paths: &Paths, empty: bool) -> anyhow::Result<ControlAnswer> {
    if etcd_runs(paths.root()) {
        return Ok(ControlAnswer::Done);
    }
    if empty {
        if Unit::ask()?.is_up() {
            return Ok(ControlAnswer::Done);
        }
        precheck::permit(paths, fresh_id(paths)?)?;
    }
    Program::new("systemctl").args(["start", "--no-block", ETCD]).read()?;
    for _ in 0..QUESTIONS {
        for _ in 0..LOOKS_PER_QUESTION {
            if etcd_runs(paths.root()) {
                return Ok(ControlAnswer::Done);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let unit = Unit::ask()?;
        if unit.is_up() {
            return Ok(ControlAnswer::Done);
        }
        if unit.is_settled() {
            return Ok(ControlAnswer::Failed(last_words()));
        }
    }
    bail!("systemd has not decided within 20 s whether etcd may start")
}

/// Where etcd's unit stands. systemd is asked only if the answer is not to be seen: asking it takes a process, which on an emulated machine
/// would come out of the time that etcd itself needs to start.
fn etcd_state(root: &Path) -> anyhow::Result<ControlAnswer> {
    let seen = |active: &str| ControlAnswer::Etcd { active: active.into(), last_words: String::new() };
    if etcd_runs(root) {
        return Ok(seen("active"));
    }
    if fs_err::symlink_metadata(root.join(UNIT_STARTED)).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        return Ok(seen("inactive"));
    }
    Ok(state_answer(&Unit::ask()?))
}

/// Whether precheck has let etcd's own program start. What cannot be read is not there yet, and systemd is asked all the same.
fn etcd_runs(root: &Path) -> bool {
    let processes = fs_err::read_to_string(root.join(UNIT_PROCESSES)).unwrap_or_default();
    let named = |pid: &str| fs_err::read_to_string(root.join("proc").join(pid).join("comm"));
    processes.lines().any(|pid| named(pid).is_ok_and(|name| name == "etcd\n"))
}

/// The id that may be started on an empty log, by the state file. Checked again, with the log, by precheck.
fn fresh_id(paths: &Paths) -> anyhow::Result<RaftId> {
    let StateView::Read(state) = state_file::read(paths) else { bail!("there is no state file that could be read") };
    match &state.position {
        Phase::Assigned { member, attempted, .. } => {
            ensure!(*attempted, "the state does not record yet that a start of member {member} is attempted");
            Ok(*member)
        }
        Phase::Founding { lineage } => Ok(precheck::founding_ids(&state, *lineage).0),
        Phase::Blank | Phase::Member { .. } | Phase::Evicted { .. } => {
            bail!("the state allows no start on an empty log")
        }
    }
}

fn clear(paths: &Paths) -> anyhow::Result<ControlAnswer> {
    ensure!(!Unit::ask()?.is_up(), "etcd is running");
    clear_leftover(paths)?;
    Ok(ControlAnswer::Done)
}

/// Removes what an etcd left behind that never came to write anything into its log; there may be a half-made directory.
///
/// # Errors
/// When anything of it may be evidence.
pub fn clear_leftover(paths: &Paths) -> anyhow::Result<()> {
    let StateView::Read(state) = state_file::read(paths) else { bail!("there is no state file that could be read") };
    let wal = disk::look(paths).wal;
    match &state.position {
        Phase::Assigned { .. } | Phase::Blank => {
            ensure!(wal == WalFact::Absent, "there is a log, or it cannot be looked at; nothing is removed");
        }
        Phase::Founding { lineage } => {
            let (member, raft_cluster) = precheck::founding_ids(&state, *lineage);
            if wal != (WalFact::Bare { member, raft_cluster }) {
                ensure!(wal == WalFact::Absent, "there is a log, or it cannot be looked at; nothing is removed");
                return Ok(());
            }
        }
        Phase::Member { .. } | Phase::Evicted { .. } => {
            bail!("the state says that the volume's data is evidence; nothing is removed")
        }
    }
    let leftover = paths.etcd_data().join("member");
    if leftover.exists() {
        fs_err::remove_dir_all(&leftover)?;
    }
    Ok(())
}

/// What systemd says of `etcd.service`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unit {
    active: String,
    sub: String,
    job: bool,
}

impl Unit {
    fn ask() -> anyhow::Result<Self> {
        let show = Program::new("systemctl").args(["show", "--property=ActiveState,SubState,Job", ETCD]);
        Ok(Self::parse(&show.read()?))
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or("");
        // Without a job systemd prints no value, or 0.
        let job = !matches!(value("Job"), "" | "0");
        Self { active: value("ActiveState").into(), sub: value("SubState").into(), job }
    }

    /// precheck has let it pass and its process exists, or is about to end.
    fn is_up(&self) -> bool {
        match self.active.as_str() {
            "active" | "reloading" | "deactivating" => true,
            "activating" => self.sub != "condition" && self.sub != "auto-restart",
            _ => false,
        }
    }

    /// Not running, and nothing under way that would change that.
    fn is_settled(&self) -> bool {
        !self.job && matches!(self.active.as_str(), "inactive" | "failed")
    }
}

fn state_answer(unit: &Unit) -> ControlAnswer {
    let last_words = if unit.is_up() { String::new() } else { last_words() };
    // Between two tries systemd says `activating`, which would read like a process that exists.
    let active = if unit.sub == "auto-restart" { unit.sub.clone() } else { unit.active.clone() };
    ControlAnswer::Etcd { active, last_words }
}

/// What etcd or precheck said in its latest start, for a sentence; nothing when it was not started in this boot.
fn last_words() -> String {
    let fields = "--output-fields=MESSAGE,INVOCATION_ID,_SYSTEMD_INVOCATION_ID";
    let journal = Program::new("journalctl").args(["--quiet", "--unit", ETCD, "--boot", "--lines", LAST_LINES]);
    match journal.args(["--output=json", fields]).read() {
        Ok(text) => last_words::last_words(last_words::of_latest_start(&text).iter().map(String::as_str)),
        Err(error) => format!("asking the journal: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_one_request_after_the_other_until_the_agent_hangs_up() {
        let said = |requests: &str| {
            let mut answers = Vec::new();
            let done = converse(&mut requests.as_bytes(), &mut answers, |request| match request {
                ControlRequest::ClearEtcd => bail!("there is a log"),
                ControlRequest::Observe
                | ControlRequest::StartEtcd { .. }
                | ControlRequest::StopEtcd
                | ControlRequest::EtcdState
                | ControlRequest::OpenClients => Ok(ControlAnswer::Done),
            });
            (String::from_utf8(answers).unwrap(), done.map_err(|e| e.to_string()))
        };
        let (answers, done) = said("\"open-clients\"\n\"clear-etcd\"\n\"rm -rf\"\n");
        assert_eq!(done, Ok(()));
        let lines: Vec<&str> = answers.lines().collect();
        assert_eq!(lines[..2], [r#""done""#, r#"{"failed":"there is a log"}"#]);
        assert!(lines[2].starts_with(r#"{"failed":"the request is none: unknown variant"#), "{answers}");
        assert_eq!(said("").1, Ok(()));
        let long = "x".repeat(5000);
        let (answers, done) = said(&long);
        assert_eq!((answers.as_str(), done), ("", Err("a request of 4096 bytes is too long or was broken off".into())));
    }

    #[test]
    fn etcd_runs_when_its_own_program_does() {
        let scratch = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = scratch.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        };
        assert!(!etcd_runs(scratch.path()));
        put(UNIT_PROCESSES, "7\n8\n");
        put("proc/7/comm", "firstboot\n");
        assert!(!etcd_runs(scratch.path()), "precheck runs, and 8 has ended already");
        put("proc/8/comm", "etcd\n");
        assert!(etcd_runs(scratch.path()));
        let up = ControlAnswer::Etcd { active: "active".into(), last_words: String::new() };
        assert_eq!(etcd_state(scratch.path()).unwrap(), up);
    }

    #[test]
    fn before_its_first_start_in_a_boot_nobody_is_asked_for_etcd() {
        let scratch = tempfile::tempdir().unwrap();
        let down = ControlAnswer::Etcd { active: "inactive".into(), last_words: String::new() };
        assert_eq!(etcd_state(scratch.path()).unwrap(), down);
    }

    #[test]
    fn reads_what_systemd_says_of_a_unit() {
        let unit = |active: &str, sub: &str, job: &str| {
            Unit::parse(&format!("Job={job}\nActiveState={active}\nSubState={sub}\n"))
        };
        let looks = |u: Unit| (u.is_up(), u.is_settled());
        assert_eq!(looks(unit("inactive", "dead", "77")), (false, false), "queued");
        assert_eq!(looks(unit("activating", "condition", "77")), (false, false), "precheck runs");
        assert_eq!(looks(unit("activating", "start", "77")), (true, false), "etcd waits for a leader");
        assert_eq!(looks(unit("active", "running", "0")), (true, false));
        assert_eq!(looks(unit("activating", "auto-restart", "0")), (false, false), "systemd tries again in a moment");
        assert_eq!(looks(unit("inactive", "dead", "0")), (false, true), "precheck refused");
        assert_eq!(looks(unit("failed", "failed", "")), (false, true));
    }
}
