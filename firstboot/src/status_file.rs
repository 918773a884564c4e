//! `/run/kiln/status.json`: what the agent last saw, chose and waits for, for `firstboot status` and `firstboot explain`.
#![expect(clippy::disallowed_methods, reason = "an edge: the status file is read here")]

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::decision::{Decision, Explanation};
use crate::durable;
use crate::message::NodeStatus;
use crate::observation::Observation;
use crate::paths::Paths;

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusFile {
    /// 1.
    pub schema: u32,
    /// What the agent tells others; none without a seed.
    pub status: Option<NodeStatus>,
    /// What was seen.
    pub observation: Observation,
    /// What was chosen.
    pub decision: Decision,
    /// Why.
    pub explanation: Explanation,
}

/// Replaces the file.
///
/// # Errors
/// When `/run/kiln` cannot be written.
pub fn write(paths: &Paths, status: &StatusFile) -> Result<()> {
    durable::replace(&paths.status_json(), &serde_json::to_vec_pretty(status)?, 0o644)
        .context("writing the status file")
}

/// Reads it back.
///
/// # Errors
/// When the agent has not written it, or another version has.
pub fn read(paths: &Paths) -> Result<StatusFile> {
    let path = paths.status_json();
    let bytes = fs_err::read(&path).context("reading what the agent last saw\nhint: is firstboot.service running?")?;
    serde_json::from_slice(&bytes).with_context(|| format!("understanding `{}`", path.display()))
}

/// What `firstboot status` prints: for a person, or as the whole file.
///
/// # Errors
/// As [`read`].
pub fn print(paths: &Paths, json: bool) -> Result<String> {
    let file = read(paths)?;
    if json { Ok(serde_json::to_string_pretty(&file)? + "\n") } else { Ok(render(&file)) }
}

/// The status for a person.
pub fn render(file: &StatusFile) -> String {
    let mut lines = Vec::new();
    match &file.status {
        None => lines.push("this node has no name yet".to_owned()),
        Some(status) => {
            lines.push(format!("node      {}", status.fqdn));
            lines.push(format!("phase     {}", status.phase));
            lines.push(format!("activated {}", if status.activated { "yes" } else { "no" }));
            lines.push(format!("etcd      {}", status.etcd_version));
            lines.push(format!("image     {}", status.image_key));
            if !status.waiting_for.is_empty() {
                lines.push(format!("waits for {}", status.waiting_for));
            }
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The last decision for a person.
pub fn explain(file: &StatusFile) -> String {
    let Explanation { seen, rule, hint } = &file.explanation;
    format!("row  {}\nseen {seen}\nrule {rule}\nhint {hint}\n", file.decision.row())
}
