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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Root;
    use crate::rollout::record::{Ending, Target};
    use kiln_firstboot::digest::{Id128, Sha256Digest};

    const NOW: i64 = 1_700_000_000;

    fn record() -> Record {
        let root = Root { image: Sha256Digest([0xab; 32]), generation: 2 };
        let target = Target { root, etcd: "3.6.14".parse().unwrap() };
        Record::new(Id128([9; 16]), "ann@desk", NOW, target, 300, &["etcd1".into(), "etcd2".into()])
    }

    #[test]
    fn a_rollout_is_told_with_who_is_at_it_and_how_long_each_node_was_away() {
        let mut record = record();
        record.nodes[0].state = NodeState::Done { since: NOW, until: NOW + 42 };
        let holder = Holder { operator: "bob@lap".into(), since: NOW + 60, token: Id128([1; 16]) };
        let text = table(&record, Some(&holder));
        let head = "generation 2 (abababababab), started by ann@desk 2023-11-14 22:13:20 UTC: under way\n\
                    bob@lap is at it since 2023-11-14 22:14:20 UTC\n";
        assert!(text.starts_with(head), "{text}");
        assert!(text.contains("42 s") && text.contains("pending"), "{text}");
        let paused = record.wishing(Wish::Pause { by: "bob@lap".into(), at: NOW }, NOW, "bob@lap");
        let text = table(&paused, None);
        assert!(text.contains("paused by bob@lap 2023-11-14 22:13:20 UTC\nnobody is at it\n"), "{text}");
    }

    #[test]
    fn a_rollout_that_stopped_says_at_which_node_and_why() {
        let mut record = record();
        record.nodes[1].state = NodeState::RolledBack { at: NOW, why: "it did not come back".into() };
        let stopped = Act::End(Ending::Stopped { node: "etcd2".into(), why: "it did not come back".into() });
        let record = record.before(&stopped, NOW + 1, "ann@desk");
        let text = table(&record, None);
        let head = "stopped at etcd2: it did not come back, 2023-11-14 22:13:21 UTC\n";
        assert!(text.contains(head) && !text.contains("at it since"), "{text}");
        assert_eq!(text.matches("it did not come back").count(), 2, "{text}");
    }
}
