//! Tasks: what takes long runs in a worker on the host and is asked about until it has ended.
#![expect(clippy::disallowed_methods, reason = "an edge: a task has no way to say that it has ended but being asked")]

use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::Proxmox;
use crate::exit::TryAgain;

/// Lines of a task's log that an error shows: the reason is at the end.
const TAIL: usize = 12;
/// Lines of a log asked for at once.
const PAGE: usize = 500;
/// Looks after which a task that has not ended is left alone: two hours at one a second, for an image over a slow line.
const LOOKS: usize = 7200;
/// Looks in a row that may fail before the task is given up; a restarted `pveproxy` is back in seconds.
const FAILED_LOOKS: usize = 5;

/// The name of a task: `UPID:NODE:PID:PSTART:START:TYPE:ID:USER:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upid {
    text: String,
    node: String,
}

impl FromStr for Upid {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let hex = |part: &str| (8..=9).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
        match parts.as_slice() {
            ["UPID", node, pid, pstart, start, kind, _, user, ..]
                if !node.is_empty()
                    && hex(pid)
                    && hex(pstart)
                    && hex(start)
                    && !kind.is_empty()
                    && !user.is_empty() =>
            {
                Ok(Self { text: text.to_owned(), node: (*node).to_owned() })
            }
            _ => bail!("`{text}` is not the name of a task"),
        }
    }
}

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    exitstatus: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    t: String,
}

#[derive(Deserialize)]
struct Listed {
    upid: String,
    /// There when it has ended: the list of active tasks keeps some of those for a while.
    #[serde(default)]
    endtime: Option<Value>,
}

impl Proxmox {
    /// Waits for the task that an answer names, if it names one. `what` is what it does, for the operator.
    ///
    /// # Errors
    /// When the task fails, with the end of its log, or dies.
    pub(super) fn finish(&self, answer: &Value, what: &str) -> Result<()> {
        match answer {
            Value::String(upid) if upid.starts_with("UPID:") => self.wait(&upid.parse()?, what),
            // Done within the call.
            Value::Null => Ok(()),
            other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                bail!("{what}: the host names no task but `{other}`")
            }
        }
    }

    /// Waits until a task has ended.
    ///
    /// # Errors
    /// As [`Proxmox::finish`].
    pub(super) fn wait(&self, upid: &Upid, what: &str) -> Result<()> {
        let task = |last| ["nodes", upid.node.as_str(), "tasks", upid.text.as_str(), last];
        let (mut read, mut tail, mut failed) = (0, Vec::new(), 0);
        for _ in 0..LOOKS {
            let status = match self.api.get::<Status>(&task("status"), &[]) {
                Ok(status) => status,
                // The task goes on whether it is looked at or not.
                Err(fault) if fault.may_pass() && failed < FAILED_LOOKS => {
                    failed += 1;
                    std::thread::sleep(self.api.pace.look);
                    continue;
                }
                Err(fault) => {
                    return Err(self.api.error(fault)).with_context(|| format!("{what}: asking about `{}`", upid.text));
                }
            };
            failed = 0;
            // The log is help, not the result: when it cannot be had, the status still tells.
            let page = [("start", read.to_string()), ("limit", PAGE.to_string())];
            let lines: Vec<Line> = self.api.get(&task("log"), &page).unwrap_or_default();
            read += lines.len();
            for line in lines {
                log::debug!("{what}: {}", line.t);
                tail.push(line.t);
            }
            tail.drain(..tail.len().saturating_sub(TAIL));
            if let (true, Some(last)) = (status.status == "running", tail.last().filter(|l| l.contains('%'))) {
                log::info!("{what}: {last}");
            }
            if status.status != "running" {
                return ended(upid, what, status.exitstatus.as_deref().unwrap_or_default(), &tail);
            }
            std::thread::sleep(self.api.pace.look);
        }
        Err(TryAgain(format!(
            "{what}: task `{}` on `{}` still runs; try again when it has ended",
            upid.text, upid.node
        ))
        .into())
    }

    /// Waits for what an earlier run of kiln, cut off, may have left running: tasks of our own token, on this machine or of these kinds.
    ///
    /// Their end is awaited, not their success: the look that follows shows what they did.
    ///
    /// # Errors
    /// When the host cannot be asked.
    pub(super) fn settle(&self, vmid: Option<u32>, kinds: &[&str]) -> Result<()> {
        let mut questions: Vec<Vec<(&str, String)>> =
            kinds.iter().map(|kind| vec![("typefilter", (*kind).to_owned())]).collect();
        questions.extend(vmid.map(|id| vec![("vmid", id.to_string())]));
        for mut question in questions {
            question.extend([("source", "active".to_owned()), ("userfilter", self.api.token().id().to_owned())]);
            let listed: Vec<Listed> =
                self.api.get(&["nodes", &self.node, "tasks"], &question).map_err(|f| self.api.error(f))?;
            for task in listed.into_iter().filter(|t| t.endtime.is_none()) {
                log::info!("waiting for a task that an earlier run left on `{}`: {}", self.node, task.upid);
                match self.wait(&task.upid.parse()?, "waiting for an earlier task") {
                    Err(error) if error.downcast_ref::<Failed>().is_some() => log::warn!("{error:#}"),
                    waited => waited?,
                }
            }
        }
        Ok(())
    }
}

/// A task that ended, and not well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: the host's task failed: {end}{}", shown(.tail))]
pub(super) struct Failed {
    what: String,
    end: String,
    tail: Vec<String>,
}

fn shown(tail: &[String]) -> String {
    tail.iter().map(|line| format!("\n    | {line}")).collect()
}

fn ended(upid: &Upid, what: &str, exit: &str, tail: &[String]) -> Result<()> {
    if exit == "OK" {
        return Ok(());
    }
    if exit.starts_with("WARNINGS:") {
        log::warn!("{what}: done, with {exit}{}", shown(tail));
        return Ok(());
    }
    let end = if exit.is_empty() || exit == "unexpected status" {
        format!("its worker died on `{}`, what it did is not known", upid.node)
    } else {
        exit.to_owned()
    };
    Err(Failed { what: what.to_owned(), end, tail: tail.to_vec() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPID: &str = "UPID:pve1:0000ABCD:001234567:66554433:qmcreate:4101:kiln@pve!kiln:";

    #[test]
    fn a_task_is_looked_for_on_the_node_in_its_name() {
        assert_eq!(UPID.parse::<Upid>().unwrap().node, "pve1");
        for wrong in ["", "UPID:pve1:", "OK", "UPID:pve1:xyz:001234567:66554433:qmcreate:4101:kiln@pve!kiln:"] {
            assert!(wrong.parse::<Upid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn warnings_are_no_errors_and_a_dead_worker_is_one() {
        let upid = UPID.parse().unwrap();
        let tail = ["no space left on device".to_owned()];
        assert!(ended(&upid, "x", "OK", &tail).is_ok() && ended(&upid, "x", "WARNINGS: 2", &tail).is_ok());
        let dead = ended(&upid, "making a disk", "unexpected status", &tail).unwrap_err().to_string();
        assert!(dead.contains("died on `pve1`") && dead.contains("| no space left"), "{dead}");
        assert!(ended(&upid, "x", "", &[]).is_err() && ended(&upid, "x", "command failed", &[]).is_err());
    }
}
