//! `kiln dns`: the records a cluster lives by.

use std::net::IpAddr;

use anyhow::ensure;
use serde::Serialize;

use crate::cli::Places;
use crate::dns_check::check;
use crate::dns_format::{Format, emit};
use crate::dns_records::records;

/// The DNS records a cluster lives by
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct DnsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print the cluster's records in the words of your DNS server
    ///
    /// Per node an address (A or AAAA), its pointer (PTR), and an SRV record each for peers and clients. Nothing is sent anywhere.
    ///
    /// Example: kiln dns emit lab --format bind
    #[command(verbatim_doc_comment)]
    Emit {
        /// The cluster's profile
        profile: String,
        /// Whose words
        #[arg(long, value_name = "SERVER")]
        format: Format,
    },
    /// Ask DNS servers whether they say what the cluster lives by
    ///
    /// Asks every server for every record: a node may ask any of them. The exit code is 1 when one says anything else, or nothing.
    ///
    /// Example: kiln dns check lab --server 10.77.0.1
    #[command(verbatim_doc_comment)]
    Check {
        /// The cluster's profile
        profile: String,
        /// A server to ask, instead of those that this machine asks and those that are authoritative for the cluster's zones
        #[arg(long = "server", value_name = "IP")]
        servers: Vec<IpAddr>,
    },
}

#[derive(Serialize)]
struct Emitted {
    records: Vec<String>,
    text: String,
}

impl DnsArgs {
    /// Runs it.
    ///
    /// # Errors
    /// When the profile cannot be read.
    pub fn run(self, places: &Places) -> anyhow::Result<()> {
        match self.verb {
            Verb::Emit { profile, format } => {
                let profile = places.profile(&profile)?;
                let records = records(&profile);
                let text = emit(&profile, &records, format);
                let output = Emitted { records: records.iter().map(ToString::to_string).collect(), text };
                places.print(&output, &output.text)
            }
            Verb::Check { profile, servers } => {
                let profile = places.profile(&profile)?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let report = runtime.block_on(check(&profile, &servers))?;
                places.print(&report, &report.table())?;
                ensure!(report.is_right(), "DNS does not say what `{}` lives by", profile.name);
                Ok(())
            }
        }
    }
}
