//! What a recorded observation leads to, and why: `firstboot explain-decision` and `kiln explain-decision`. The observation's file is
//! all they read, so a decision is replayed on any machine.
#![expect(clippy::disallowed_methods, reason = "an edge: the recorded observation is read here")]

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::decide::decide;
use crate::decision::{Decision, Explanation};
use crate::guide::guide;
use crate::message::NodeStatus;
use crate::observation::Observation;
use crate::sight::sight;
use crate::status_file::StatusFile;

/// A decision with everything a person needs to understand it. Field names are a promise to scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The row of the decision table that matched.
    pub row: u8,
    /// What was decided.
    pub decision: Decision,
    /// What was seen, which rule applies, what to do.
    pub explanation: Explanation,
    /// What was seen, line by line: about what, and what.
    pub sight: Vec<(String, String)>,
    /// What an operator can do, step by step; empty when there is nothing to do.
    pub guide: Vec<String>,
}

impl Explained {
    /// Decides on an observation, as the node that made it did.
    pub fn of(seen: &Observation, status: Option<&NodeStatus>) -> Self {
        let decision = decide(seen);
        Self {
            row: decision.row(),
            explanation: decision.explain(),
            sight: sight(seen),
            guide: guide(seen, &decision, status),
            decision,
        }
    }

    /// For a person.
    ///
    /// # Errors
    /// When the decision has no JSON form, which no decision lacks.
    pub fn text(&self) -> anyhow::Result<String> {
        let Explanation { seen, rule, hint } = &self.explanation;
        let mut text = String::new();
        writeln!(text, "row:      {}", self.row)?;
        writeln!(text, "decision: {}", serde_json::to_string(&self.decision)?)?;
        writeln!(text, "seen:     {seen}")?;
        writeln!(text, "rule:     {rule}")?;
        writeln!(text, "hint:     {hint}")?;
        text.push_str(&self.details());
        Ok(text)
    }

    /// What was seen line by line, and what can be done about it.
    pub fn details(&self) -> String {
        let mut text = String::from("\nwhat the node sees\n");
        for (about, what) in &self.sight {
            text.push_str(&format!("  {about:<12} {what}\n"));
        }
        if !self.guide.is_empty() {
            text.push_str("\nwhat you can do\n");
            self.guide.iter().for_each(|step| text.push_str(&format!("{step}\n")));
        }
        text
    }
}

/// Reads the observation in `file`: one by itself, or a node's whole status (`firstboot status --json`).
///
/// # Errors
/// When the file is neither, of this version.
pub fn read_file(file: &Path) -> anyhow::Result<Explained> {
    let text = fs_err::read_to_string(file).context("reading the observation")?;
    parse(&text).with_context(|| format!("reading `{}` as an observation", file.display()))
}

fn parse(text: &str) -> anyhow::Result<Explained> {
    let value: serde_json::Value = serde_json::from_str(text)?;
    // Told apart by what only the whole status has, so that what is wrong with the one meant is what is told.
    if value.get("observation").is_some() {
        let file: StatusFile = serde_json::from_value(value)?;
        return Ok(Explained::of(&file.observation, file.status.as_ref()));
    }
    Ok(Explained::of(&serde_json::from_value(value)?, None))
}

/// Reads the observation in `file` and says what `decide` makes of it.
///
/// # Errors
/// As [`read_file`].
pub fn explain_file(file: &Path) -> anyhow::Result<String> {
    read_file(file)?.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{charter, observation, running, status};

    #[test]
    fn replays_an_observation_and_a_nodes_whole_status() {
        let seen = observation(1, 3);
        let expected = Explained::of(&seen, None);
        assert_eq!(parse(&serde_json::to_string(&seen).unwrap()).unwrap(), expected);
        let text = expected.text().unwrap();
        assert!(text.starts_with("row:      15\ndecision: {\"form\""), "{text}");
        assert!(text.contains("\nwhat the node sees\n  data disk    this node's"), "{text}");

        let file = StatusFile {
            schema: 1,
            status: Some(status(1, &charter(3), running(1, 1))),
            decision: decide(&seen),
            explanation: expected.explanation.clone(),
            observation: seen,
        };
        assert_eq!(parse(&serde_json::to_string(&file).unwrap()).unwrap(), expected);
        let error = parse(r#"{"schema":1,"mood":"good"}"#).unwrap_err().to_string();
        assert!(error.contains("mood"), "{error}");
    }
}
