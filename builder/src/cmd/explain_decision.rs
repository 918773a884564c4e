//! `kiln explain-decision`: what a node decided, replayed on the operator's machine.

use anyhow::Result;
use camino::Utf8PathBuf;
use kiln_firstboot::explain;

use crate::cli::Places;

/// Replay what a node saw, and say what it decides, why, and what you can do
///
/// FILE is an observation, or a node's whole status as `firstboot status --json` prints it. The same code as on the node reads it, and
/// nothing else is read or asked.
///
/// Example: kiln lab exec lab etcd1 -- firstboot status --json > seen.json && kiln explain-decision seen.json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ExplainDecisionArgs {
    /// The observation, or a node's status, as JSON
    #[arg(value_name = "FILE")]
    file: Utf8PathBuf,
}

impl ExplainDecisionArgs {
    /// Runs it.
    ///
    /// # Errors
    /// When the file is no observation of this version.
    pub fn run(self, places: &Places) -> Result<()> {
        let explained = explain::read_file(self.file.as_std_path())?;
        places.print(&explained, &explained.text()?)
    }
}
