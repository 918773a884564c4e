//! `kiln dns`: the records a cluster lives by.

use std::net::IpAddr;

use anyhow::ensure;
use camino::Utf8PathBuf;
use kiln_firstboot::name::Fqdn;
use serde::Serialize;

use crate::cli::Places;
use crate::dns_apply::{Summary, prepare, read_key};
use crate::dns_check::{DnsReport, check, check_until_right};
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
    /// Write the cluster's records into the zones of your DNS server
    ///
    /// By dynamic updates (RFC 2136), signed with a key. Zones and their primary servers are found by asking; what is right already is not sent;
    /// each zone is changed as a whole or not at all. Afterwards the records are checked as `kiln dns check` does.
    ///
    /// Example: kiln dns apply k8s0 --key kiln.key --server 10.103.0.1
    #[command(verbatim_doc_comment)]
    Apply {
        /// The cluster's profile
        profile: String,
        /// The key, as `tsig-keygen` prints it: a file of mode 0600
        #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
        key: Option<Utf8PathBuf>,
        /// The primary server of all zones, instead of the one that each zone names
        #[arg(long, value_name = "IP")]
        server: Option<IpAddr>,
        /// Remove what is stale about this node, or stands in its place; also of a node that is no longer in the profile. Full name, or its first label
        #[arg(long, value_name = "NODE")]
        prune: Vec<String>,
        /// Say what would be sent, and send nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Serialize)]
struct Emitted {
    records: Vec<String>,
    text: String,
}

#[derive(Serialize)]
struct Applied {
    #[serde(flatten)]
    summary: Summary,
    /// None of a dry run.
    check: Option<DnsReport>,
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
            Verb::Apply { profile, key, server, prune, dry_run } => {
                let profile = places.profile(&profile)?;
                let in_domain =
                    |name: String| if name.contains('.') { name } else { format!("{name}.{}", profile.domain) };
                let prune =
                    prune.into_iter().map(|name| Fqdn::parse(&in_domain(name))).collect::<Result<Vec<_>, _>>()?;
                // A key that is not fit is told before anybody is asked anything.
                let key = key.map(|path| read_key(&path)).transpose()?;
                let prepared = prepare(&profile, server, &prune)?;
                let summary = prepared.summary(dry_run);
                let Some(key) = key.filter(|_| !dry_run) else {
                    let text = summary.text();
                    return places.print(&Applied { summary, check: None }, &text);
                };
                prepared.tell(&key)?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let servers: Vec<IpAddr> = server.into_iter().collect();
                let report = if prepared.is_empty() || !summary.left.is_empty() {
                    runtime.block_on(check(&profile, &servers))?
                } else {
                    runtime.block_on(check_until_right(&profile, &servers))?
                };
                let (text, right) = (format!("{}{}", summary.text(), report.table()), report.is_right());
                places.print(&Applied { summary, check: Some(report) }, &text)?;
                ensure!(right, "DNS does not say what `{}` lives by yet", profile.name);
                Ok(())
            }
        }
    }
}
