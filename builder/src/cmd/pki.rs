//! `kiln pki`: the cluster's keys, charter and seeds.

use std::fmt::Write as _;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use jiff::Timestamp;
use kiln_firstboot::charter::CharterMember;
use kiln_firstboot::record;
use serde::Serialize;

use crate::cli::Places;
use crate::clock;
use crate::exit::Refusal;
use crate::pki::mint::{self, Order, Outcome};
use crate::pki::revoke::Revoked;
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
    /// Mint a node's seed anew, with another issuer
    ///
    /// For a node whose issuer nears its end. Nothing is revoked. The node takes the new seed at its next boot.
    ///
    /// Example: kiln pki renew lab etcd2
    #[command(verbatim_doc_comment)]
    Renew {
        /// The cluster's profile
        profile: String,
        /// The node's name
        node: String,
    },
    /// Revoke a node's issuers or a client's certificates
    ///
    /// All that was ever minted for it goes on the list of its root, and every seed gets the list. A node gets a new seed, a client loses its key.
    /// Members of a running cluster take the list from etcd within a second; what to type is printed.
    ///
    /// Example: kiln pki revoke lab --node etcd2
    #[command(verbatim_doc_comment)]
    Revoke {
        /// The cluster's profile
        profile: String,
        #[command(flatten)]
        whom: Whom,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// The node's name
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// The client's name
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
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
            PkiCommand::Renew { profile, node } => {
                let profile = places.profile(&profile)?;
                let pki = Pki::load(&places.pki(&profile)?, &profile)?;
                let member = member(&pki, &profile, &node)?;
                let seed =
                    pki.renew_seed(member, clock::now()).with_context(|| format!("minting the seed of `{node}`"))?;
                let text = format!("{node} has a new seed, {seed}: it takes it at its next boot\n");
                places.print(&RenewReport { node, seed }, &text)
            }
            PkiCommand::Revoke { profile, whom } => {
                let profile = places.profile(&profile)?;
                let pki = Pki::load(&places.pki(&profile)?, &profile)?;
                let report = RevokeReport::of(&pki, &profile, whom)?;
                places.print(&report, &report.text(&pki, &profile))
            }
        }
    }
}

/// The charter's member that the profile calls `node`.
fn member<'a>(pki: &'a Pki, profile: &Profile, node: &str) -> anyhow::Result<&'a CharterMember> {
    let known = profile.nodes.iter().find(|known| known.name == node);
    known.and_then(|known| pki.charter().member(&known.fqdn)).ok_or_else(|| {
        let names: Vec<&str> = profile.nodes.iter().map(|known| known.name.as_str()).collect();
        Refusal::new(format!("the charter has no node `{node}`"), format!("its nodes are {}", names.join(", "))).into()
    })
}

#[derive(Serialize)]
struct RenewReport {
    node: String,
    seed: Utf8PathBuf,
}

#[derive(Serialize)]
struct RevokeReport {
    list: Utf8PathBuf,
    number: u64,
    certificates: usize,
    key: &'static str,
    #[serde(skip)]
    next: String,
}

impl RevokeReport {
    fn of(pki: &Pki, profile: &Profile, whom: Whom) -> anyhow::Result<Self> {
        let (revoked, key, next) = match (whom.node, whom.client) {
            (Some(node), _) => {
                let member = member(pki, profile, &node)?;
                let revoked =
                    pki.revoke_node(member, clock::now()).with_context(|| format!("revoking node `{node}`"))?;
                let next = format!(
                    "{node} has a new seed, {}\n\
                     its etcd may still be talked to: image {node} again with its data wiped, under the new seed, so that it is replaced\n",
                    pki.seed(&node)
                );
                (revoked, record::REVOKED_PEERS, next)
            }
            (None, Some(client)) => {
                let revoked =
                    pki.revoke_client(&client, clock::now()).with_context(|| format!("revoking client `{client}`"))?;
                let next = format!("a new key for it: kiln pki client {} {client}\n", profile.name);
                (revoked, record::REVOKED_CLIENTS, next)
            }
            (None, None) => return Err(Refusal::new("nothing was named", "--node NODE or --client NAME").into()),
        };
        let Revoked { list, number, certificates } = revoked;
        Ok(Self { list, number, certificates, key, next })
    }

    fn text(&self, pki: &Pki, profile: &Profile) -> String {
        let operator = pki.client(OPERATOR);
        let endpoint = profile.nodes.first().map(|n| n.fqdn.client_url()).unwrap_or_default();
        format!(
            "list {} has {} certificates: {}\n\
             hand it to the running members:\n  \
             etcdctl --cacert {} --cert {} --key {} --endpoints {endpoint} put {} < {}\n\
             connections that stand outlive it: then restart etcd on one member after the other\n{}",
            self.number,
            self.certificates,
            self.list,
            operator.server_root,
            operator.cert,
            operator.key,
            self.key,
            self.list,
            self.next
        )
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
