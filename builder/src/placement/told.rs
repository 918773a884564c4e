//! A placement in plain sentences.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeMap;
use std::fmt;

use super::{Astray, Placement};

/// What is true of every placement on two hosts, said wherever one is shown.
const TWO_HOSTS: &str =
    "No placement on two hosts survives the loss of an arbitrary one: one of them holds half of the voters or more.";

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { voters, majority, .. } = self;
        writeln!(f, "{voters} voters, {majority} are a majority: {} may be lost", self.spare())?;
        if self.is_even() {
            let fewer = voters - 1;
            writeln!(f, "  {fewer} would survive the loss of as many, and each write would wait for one less")?;
        }
        for loss in &self.losses {
            let all = if loss.nodes.is_empty() { "none".to_owned() } else { loss.nodes.join(", ") };
            let cost = match (loss.quorum, loss.left) {
                (true, _) if loss.nodes.is_empty() => "costs nothing",
                (true, _) => "the cluster goes on",
                (false, 0) => "the cluster is lost with all copies of its data",
                (false, _) => "the cluster stops until it is back",
            };
            writeln!(f, "  without {} ({all}): {} of {voters} left, {cost}", loss.host, loss.left)?;
        }
        let fatal: Vec<&str> = self.fatal().map(|loss| loss.host.as_str()).collect();
        match self.losses.len() {
            1 => writeln!(f, "With one host its loss is the loss of the cluster.")?,
            2 => writeln!(f, "{TWO_HOSTS}")?,
            _ => {}
        }
        match fatal.as_slice() {
            [] => writeln!(f, "The loss of any one host is survived.")?,
            [one] => writeln!(f, "{one} is the host that must survive.")?,
            [.., last] => {
                let most = fatal.len() - 1;
                let all = if fatal.len() == 2 { "both" } else { "all" };
                writeln!(f, "{} and {last} must {all} survive.", fatal[..most].join(", "))?;
            }
        }
        if let Some(better) = &self.better {
            let must = match better.fatal.as_slice() {
                [] => "any one host may be lost".to_owned(),
                hosts => format!("only {} must survive", hosts.join(", ")),
            };
            let moves =
                if better.moves == 1 { "1 node moves".to_owned() } else { format!("{} nodes move", better.moves) };
            writeln!(f, "Less is lost with {}: {must} ({moves}).", counts(&better.voters))?;
        }
        if let Some(witness) = &self.witness {
            let total = witness.total;
            let how = if total > *voters { "one voter more, a witness" } else { "one of the voters as a witness" };
            writeln!(
                f,
                "With {how} on another host elsewhere, however small, the loss of any one host is survived: {}, witness 1 (of {total}).",
                counts(&witness.voters)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Astray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is on {}; the profile has it on {}", self.node, self.found.join(" and on "), self.planned)
    }
}

fn counts(voters: &BTreeMap<String, usize>) -> String {
    voters.iter().map(|(host, count)| format!("{host} {count}")).collect::<Vec<_>>().join(", ")
}
