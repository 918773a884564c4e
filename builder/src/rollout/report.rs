//! A rollout for people: its acts as sentences, its nodes as a table. Pure.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::wait::utc;

use super::decide::Act;
use super::lock::Holder;
use super::record::{NodeState, Record, Wish};

impl Act {
    /// The act in a sentence.
    pub fn sentence(&self) -> String {
        match self {
            Self::Take { node, root, .. } => format!("{node}: giving it generation {}", root.generation),
            Self::RollBack { node, to, why } => {
                format!("{node}: rolling back to generation {}, for {why}", to.generation)
            }
            Self::Note { node, state } => format!("{node}: it {}", state.sentence()),
            Self::MoveLeader { from, to } => format!("{from}: handing leadership to {to}"),
            Self::Wait(reason) => format!("waiting: {reason}"),
            Self::Refuse(gate) => format!("refused: {gate}"),
            Self::End(ending) => ending.sentence(),
            Self::Rest => "nothing is to be done".into(),
        }
    }
}

/// The whole rollout: what it is, how far each node is and how long it was away, and who is at it.
pub fn table(record: &Record, holder: Option<&Holder>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["node", "state", "away", "why"]);
    for node in &record.nodes {
        let seconds = node.state.seconds().map(|seconds| format!("{seconds} s")).unwrap_or_default();
        table.add_row([&node.name, node.state.word(), &seconds, why(&node.state)]);
    }
    let stands = match (&record.ended, &record.wish) {
        (Some(ended), _) => format!("{}, {}", ended.how.sentence(), utc(ended.at)),
        (None, Wish::Go) => "under way".to_owned(),
        (None, Wish::Pause { by, at }) => format!("paused by {by} {}", utc(*at)),
        (None, Wish::Abort { by, at }) => format!("being aborted by {by} since {}", utc(*at)),
    };
    let hand = match (holder, &record.ended) {
        (Some(holder), _) => format!("{} is at it since {}\n", holder.operator, utc(holder.since)),
        (None, None) => "nobody is at it\n".to_owned(),
        (None, Some(_)) => String::new(),
    };
    format!(
        "generation {} ({:.12}), started by {} {}: {stands}\n{hand}{table}\n",
        record.target.root.generation,
        record.target.root.image.to_string(),
        record.operator,
        utc(record.started)
    )
}

fn why(state: &NodeState) -> &str {
    match state {
        NodeState::RollingBack { why, .. } | NodeState::RolledBack { why, .. } | NodeState::Lost { why, .. } => why,
        NodeState::Pending | NodeState::Already | NodeState::Taken { .. } | NodeState::Done { .. } => "",
    }
}
