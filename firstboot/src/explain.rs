//! `firstboot explain-decision`: what a recorded observation leads to, and why. The observation's file is all it reads.
#![expect(clippy::disallowed_methods, reason = "an edge: the recorded observation is read here")]

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::decide::decide;
use crate::observation::Observation;

/// Reads the observation in `file` and says what `decide` makes of it: row, decision, and the three sentences.
///
/// # Errors
/// When the file is not an observation of this version.
pub fn explain_file(file: &Path) -> anyhow::Result<String> {
    let text = fs_err::read_to_string(file).context("reading the observation")?;
    let seen: Observation =
        serde_json::from_str(&text).with_context(|| format!("reading `{}` as an observation", file.display()))?;
    explain(&seen)
}

/// As [`explain_file`], of an observation in memory.
///
/// # Errors
/// When the decision has no JSON form, which no decision lacks.
pub fn explain(seen: &Observation) -> anyhow::Result<String> {
    let decision = decide(seen);
    let why = decision.explain();
    let mut text = String::new();
    writeln!(text, "row:      {}", decision.row())?;
    writeln!(text, "decision: {}", serde_json::to_string(&decision)?)?;
    writeln!(text, "seen:     {}", why.seen)?;
    writeln!(text, "rule:     {}", why.rule)?;
    writeln!(text, "hint:     {}", why.hint)?;
    Ok(text)
}
