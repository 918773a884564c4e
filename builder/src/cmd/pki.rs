//! `kiln pki`: the cluster's keys, charter and seeds.

use crate::cli::Places;

/// Mint the cluster's roots, its charter and a seed per node
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PkiCommand {
    /// Mint everything a new cluster needs
    ///
    /// Example: kiln pki init lab
    Init {
        /// The cluster's profile
        profile: String,
    },
}

impl PkiArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When it cannot be done or is refused.
    pub fn run(self, places: &Places) -> anyhow::Result<()> {
        match self.command {
            PkiCommand::Init { profile } => {
                let profile = places.profile(&profile)?;
                anyhow::bail!("minting the keys of `{}`: not in this build yet", profile.name)
            }
        }
    }
}
