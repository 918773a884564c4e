//! Plans and steps in words.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt;

use super::{Act, MachinePlan, Step};
use crate::host::Root;

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |root: &Root| format!("generation {} (image {:.12})", root.generation, root.image.to_string());
        match self {
            Self::Upload { image } => write!(f, "have image {:.12} there", image.to_string()),
            Self::Create { root } => write!(f, "create, with {}", told(root)),
            Self::Redefine => f.write_str("set memory, processors and card"),
            Self::ReplaceSeed => f.write_str("replace the seed"),
            Self::ReplaceRoot { root } => write!(f, "replace the root by {}, keep the old one", told(root)),
            Self::RestoreRoot => f.write_str("put the previous root back"),
            Self::DropPrevious => f.write_str("drop the previous root"),
            Self::WipeData => f.write_str("WIPE the data volume"),
            Self::PowerOn => f.write_str("power on"),
            Self::PowerOff => f.write_str("shut down"),
            Self::Destroy { with_data: false } => f.write_str("remove the machine, keep its data volume"),
            Self::Destroy { with_data: true } => f.write_str("remove the machine AND its data volume"),
            Self::Collect => f.write_str("collect images that nothing needs"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{}: {node}: {}", self.host, self.act),
            None => write!(f, "{}: {}", self.host, self.act),
        }
    }
}

impl fmt::Display for MachinePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (host, why) in &self.silent {
            writeln!(f, "{host}: cannot be asked, what is to be done there is not known: {why}")?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))?;
        if self.is_empty() {
            writeln!(f, "nothing to do")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        self.refusals.iter().try_for_each(|lack| writeln!(f, "in the way: {lack}"))
    }
}
