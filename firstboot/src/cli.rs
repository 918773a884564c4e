//! The command line of `firstboot`: types only.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The agent of a kiln node.
#[derive(Debug, Parser)]
#[command(name = "firstboot", version, about, help_expected = true, max_term_width = 100)]
pub struct Cli {
    /// Directory that is taken for `/`
    #[arg(long, global = true, default_value = "/", value_name = "DIR")]
    pub root: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What the agent can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The agent itself: look, decide, act, for as long as the node is up
    Run,
    /// Print where this node stands and what it waits for
    ///
    /// Example: `firstboot status --json`
    Status {
        /// As JSON, with everything that was seen
        #[arg(long)]
        json: bool,
    },
    /// Print what was last decided on this node, and why
    Explain,
    /// As root, once at boot: find, check and mount the data disk, unpack the seed, write what was found
    Disk,
    /// As root, for each connection of the agent: read one request on stdin, do it, answer on stdout
    Control,
    /// As root, before each start of etcd: exit 0 if this start is allowed, 1 with a sentence if not
    Precheck,
    /// Read a recorded observation and print what would be decided, and why
    ///
    /// Example: `firstboot explain-decision observation.json`
    ExplainDecision {
        /// The observation, as JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
