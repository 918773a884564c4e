//! `firstboot control`: what the agent may ask of root. One request on stdin, one answer on stdout, few verbs, no paths or commands.
#![expect(clippy::disallowed_methods, reason = "an edge: systemd is polled here")]

use std::io::{BufRead as _, Read as _, Write as _};
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
/// How often, every 50 ms, systemd is asked whether precheck has let etcd start: 10 s in all.
const START_POLLS: u32 = 200;

/// Serves the one request of this connection.
///
/// # Errors
/// When the request cannot be read or the answer not written. What went wrong in between is the answer.
pub fn run(paths: &Paths) -> anyhow::Result<()> {
    journal::connect(paths.root());
    let mut line = String::new();
    std::io::BufReader::new(std::io::stdin().take(MAX_REQUEST)).read_line(&mut line).context("reading the request")?;
    let answer = match serde_json::from_str::<ControlRequest>(&line) {
        Ok(request) => serve(paths, request).unwrap_or_else(|error| ControlAnswer::Failed(format!("{error:#}"))),
        Err(error) => ControlAnswer::Failed(format!("the request is none: {error}")),
    };
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(&answer)?).context("writing the answer")?;
    Ok(())
}

fn serve(paths: &Paths, request: ControlRequest) -> anyhow::Result<ControlAnswer> {
    match request {
        ControlRequest::Observe => Ok(ControlAnswer::Disks(Box::new(disk::settle(paths)?))),
        ControlRequest::StartEtcd { empty } => start(paths, empty),
        ControlRequest::StopEtcd => {
            Program::new("systemctl").args(["stop", ETCD]).read()?;
            Ok(ControlAnswer::Done)
        }
        ControlRequest::EtcdState => Ok(state_answer(&Unit::ask()?)),
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
    let unit = Unit::ask()?;
    if unit.is_up() {
        return Ok(ControlAnswer::Done);
    }
    if empty {
        precheck::permit(paths, fresh_id(paths)?)?;
    }
    Program::new("systemctl").args(["start", "--no-block", ETCD]).read()?;
    for _ in 0..START_POLLS {
        let unit = Unit::ask()?;
        if unit.is_up() {
            return Ok(ControlAnswer::Done);
        }
        if unit.is_settled() {
            return Ok(ControlAnswer::Failed(last_words()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("systemd has not decided within 10 s whether etcd may start")
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
    let last_words = if unit.active == "active" { String::new() } else { last_words() };
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
