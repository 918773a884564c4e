//! `kiln pki`: the cluster's keys, charter and seeds.

use std::fmt::Write as _;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::Places;
use crate::clock;
use crate::pki::mint::{self, Order, Outcome};
use crate::pki::{ClientFiles, OPERATOR, Pki};
use crate::profile::Profile;

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
    /// Writes roots, charter, seeds and the operator's client certificate below KILN_HOME/pki. Keys that are there stay as they
    /// are; if the profile's members are others than the charter's, nothing is done and the exit code is 78.
    ///
    /// Example: kiln pki init lab
    #[command(verbatim_doc_comment)]
    Init {
        /// The cluster's profile
        profile: String,
        /// Hours from now during which the founder may form the cluster [default: the profile's window_hours, 72]
        #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..=672))]
        window: Option<u32>,
        /// Mint the next generation: a new charter and new seeds under the same roots. Only for a cluster that never formed or
        /// of which everything is lost
        #[arg(long, value_name = "NUMBER")]
        generation: Option<u64>,
    },
    /// Mint a client's certificate, or renew it with the same key
    ///
    /// etcd takes the certificate's common name for the user's name.
    ///
    /// Example: kiln pki client lab kube-apiserver
    Client {
        /// The cluster's profile
        profile: String,
        /// The client's name
        name: String,
    },
}

impl PkiArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When it cannot be done or is refused.
    pub fn run(self, places: &Places) -> anyhow::Result<()> {
        match self.command {
            PkiCommand::Init { profile, window, generation } => {
                let profile = places.profile(&profile)?;
                let now = clock::now();
                let order = Order { profile: &profile, generation, window_hours: window, now };
                let (pki, outcome) = mint::init(&places.pki(&profile)?, &order)
                    .with_context(|| format!("minting the keys of `{}`", profile.name))?;
                let report = InitReport::new(&pki, &profile, outcome);
                places.print(&report, &report.text(now)?)
            }
            PkiCommand::Client { profile, name } => {
                let profile = places.profile(&profile)?;
                let pki = Pki::load(&places.pki(&profile)?, &profile)?;
                let files = pki.mint_client(&name, clock::now()).with_context(|| format!("minting client `{name}`"))?;
                let report = ClientReport::new(files);
                places.print(&report, &report.text(&profile))
            }
        }
    }
}

#[derive(Serialize)]
struct InitReport {
    outcome: &'static str,
    directory: Utf8PathBuf,
    cluster: String,
    generation: u64,
    founder: String,
    form_until: i64,
    nodes: Vec<NodeReport>,
    client: ClientReport,
}

#[derive(Serialize)]
struct NodeReport {
    name: String,
    fqdn: String,
    seed: Utf8PathBuf,
}

#[derive(Serialize)]
struct ClientReport {
    cert: Utf8PathBuf,
    key: Utf8PathBuf,
    server_root: Utf8PathBuf,
}

impl InitReport {
    fn new(pki: &Pki, profile: &Profile, outcome: Outcome) -> Self {
        let charter = pki.charter();
        let node = |node: &crate::profile::Node| NodeReport {
            name: node.name.clone(),
            fqdn: node.fqdn.to_string(),
            seed: pki.seed(&node.name),
        };
        Self {
            outcome: match outcome {
                Outcome::Minted => "minted",
                Outcome::Renewed => "renewed",
                Outcome::Unchanged => "unchanged",
            },
            directory: pki.dir().to_owned(),
            cluster: charter.cluster.to_string(),
            generation: charter.generation,
            founder: charter.founder.to_string(),
            form_until: charter.form_until,
            nodes: profile.nodes.iter().map(node).collect(),
            client: ClientReport::new(pki.client(OPERATOR)),
        }
    }

    fn text(&self, now: i64) -> anyhow::Result<String> {
        let until = Timestamp::from_second(self.form_until).context("reading the charter's window")?;
        let mut text = match self.outcome {
            "unchanged" => format!("nothing to do: the keys are in {}\n", self.directory),
            outcome => format!("{outcome} {} seeds in {}/seeds\n", self.nodes.len(), self.directory),
        };
        writeln!(text, "cluster {}, generation {} of its charter", self.cluster, self.generation)?;
        if now <= self.form_until {
            writeln!(text, "{} may form it until {until}", self.founder)?;
        } else {
            writeln!(text, "the time to form it ended at {until}")?;
            writeln!(text, "  hint: only if it never formed: kiln pki init --generation {}", self.generation + 1)?;
        }
        writeln!(text, "your client certificate is {}", self.client.cert)?;
        Ok(text)
    }
}

impl ClientReport {
    fn new(files: ClientFiles) -> Self {
        Self { cert: files.cert, key: files.key, server_root: files.server_root }
    }

    fn text(&self, profile: &Profile) -> String {
        let endpoint = profile.nodes.first().map(|n| n.fqdn.client_url()).unwrap_or_default();
        format!(
            "etcdctl --cacert {} --cert {} --key {} --endpoints {endpoint} endpoint health\n",
            self.server_root, self.cert, self.key
        )
    }
}
