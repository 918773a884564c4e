//! `/run/kiln/status.json`: what the agent last saw, chose and waits for, for `firstboot status` and `firstboot explain`.
#![expect(clippy::disallowed_methods, reason = "an edge: the status file is read here")]

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::decision::{Decision, Explanation};
use crate::durable;
use crate::explain::Explained;
use crate::message::{Holds, NodeStatus};
use crate::observation::Observation;
use crate::paths::Paths;
use crate::wait::utc;

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

/// The status for a person: where the node stands, which rule holds, what it waits for and what can be done.
pub fn render(file: &StatusFile) -> String {
    let Explanation { seen, rule, hint } = &file.explanation;
    let explained = Explained::of(&file.observation, file.status.as_ref());
    let Some(status) = &file.status else {
        return format!("this node has no name yet\nseen      {seen}\nhint      {hint}\n{}", explained.details());
    };
    let mut lines = vec![
        format!("node      {}", status.fqdn),
        format!("phase     {}", status.phase),
        format!("etcd      {}, {}", status.etcd_version, holds(&status.holds)),
        format!("activated {}", if status.activated { "yes" } else { "no" }),
        format!("image     {}", status.image_key),
        format!("row       {}: {rule}", file.decision.row()),
    ];
    if status.waiting_for.is_empty() {
        lines.push("waits for nothing".to_owned());
    } else {
        let what = if matches!(file.decision, Decision::Halt(_)) { "halted   " } else { "waits for" };
        lines.push(format!("{what} {}", status.waiting_for));
        lines.push(format!("since     {}", utc(status.waiting_since)));
    }
    lines.push(format!("as of     {}", utc(file.observation.now)));
    lines.join("\n") + "\n" + &explained.details()
}

fn holds(holds: &Holds) -> String {
    match holds {
        Holds::Blank => "no data yet".into(),
        Holds::Unknown => "not looked at".into(),
        Holds::Data { lineage } => format!("data of lineage {lineage}, not serving"),
        Holds::Running(running) => {
            // The file is written when the decision or what is waited for changes, so it cannot say who leads right now.
            let role = if running.learner { "learner" } else { "voter" };
            format!("member {} of lineage {}, {role}", running.member, running.lineage)
        }
    }
}

/// The last decision for a person.
pub fn explain(file: &StatusFile) -> String {
    let Explanation { seen, rule, hint } = &file.explanation;
    let details = Explained::of(&file.observation, file.status.as_ref()).details();
    format!("row  {}\nseen {seen}\nrule {rule}\nhint {hint}\n{details}", file.decision.row())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::decide;
    use crate::observation::SeedView;
    use crate::sample::{NOW, charter, observation, running, status};

    fn file(seen: Observation, status: Option<NodeStatus>) -> StatusFile {
        let decision = decide(&seen);
        let explanation = decision.explain();
        StatusFile { schema: 1, status, observation: seen, decision, explanation }
    }

    #[test]
    fn a_written_status_is_printed_for_people_and_for_programs() {
        let scratch = tempfile::tempdir().unwrap();
        let paths = Paths::new(scratch.path());
        assert!(format!("{:#}", print(&paths, false).unwrap_err()).contains("hint: is firstboot.service running?"));
        fs_err::create_dir_all(paths.run()).unwrap();
        let mut own = status(1, &charter(3), running(1, 1));
        (own.phase, own.waiting_for, own.waiting_since) = ("member".into(), "a majority".into(), NOW);
        let file = file(observation(1, 3), Some(own));
        write(&paths, &file).unwrap();
        let text = print(&paths, false).unwrap();
        let head = format!(
            "node      etcd1.lab.example\nphase     member\netcd      3.6.14, member 1 of lineage {}, voter\nactivated no\nimage     {}\nrow       15: the founder forms when nobody holds data and the window is open\nwaits for a majority\nsince     2023-11-14 22:30:00 UTC\nas of     2023-11-14 22:30:00 UTC\n\nwhat the node sees\n",
            "05".repeat(16),
            "01".repeat(32)
        );
        assert!(text.starts_with(&head) && text.contains("\n  etcd3.lab.example blank (blank)\n"), "{text}");
        assert_eq!(serde_json::from_str::<StatusFile>(&print(&paths, true).unwrap()).unwrap(), file);
        let text = explain(&read(&paths).unwrap());
        assert!(
            text.starts_with("row  15\nseen all 2 other members of the charter answered that they are blank under the same charter\nrule the founder forms when nobody holds data and the window is open\nhint nothing to do\n\nwhat the node sees\n"),
            "{text}"
        );
    }

    #[test]
    fn a_node_without_a_seed_says_why_it_has_no_name() {
        let mut seen = observation(1, 3);
        seen.seed = SeedView::Missing("no disk has the serial `kiln-seed`".into());
        let text = render(&file(seen, None));
        assert!(text.starts_with("this node has no name yet\nseen      "), "{text}");
        assert!(text.contains("kiln-seed") && text.contains("\nhint      attach"), "{text}");
    }
}
