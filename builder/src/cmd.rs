//! One file per command, glue only. A new command is a module, a variant and an arm here.

pub mod pki;

use crate::cli::Places;

/// What kiln can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    #[expect(missing_docs, reason = "the help of a command is the doc of its arguments; a doc here would replace it")]
    Pki(pki::PkiArgs),
}

impl Command {
    /// Runs it.
    ///
    /// # Errors
    /// Of the command; [`crate::exit::code`] chooses the exit code.
    pub fn run(self, places: &Places) -> anyhow::Result<()> {
        match self {
            Self::Pki(args) => args.run(places),
        }
    }
}
