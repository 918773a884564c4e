//! `kiln lab`: a cluster on this machine.
#![expect(clippy::disallowed_methods, reason = "reads the console of a node and waits for more of it")]

mod disks;
mod dns;
mod hosts;
mod up;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use clap::Subcommand;

use crate::cli::Places;
use crate::cmd::build::SourceArgs;
use crate::cmd::fleet;
use crate::exit::{Ended, Refusal};
use crate::lab::admission::Lenience;
use crate::lab::host::TREE;
use crate::lab::machine::Machine;
use crate::lab::record::{Driver, Lock};
use crate::lab::{Lab, Live, guest};
use crate::pki::OPERATOR;
use crate::profile::Profile;
use crate::store::{RootKind, Store};
use crate::trust::Depth;

/// How often a followed console is looked at for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// Run a cluster on this machine, in namespaces of its own
///
/// Network, DHCP, DNS and nodes come from the profile alone. Nothing of the machine is touched, and `down` leaves nothing behind.
/// Needs root.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Bring a lab up, or go on where an interrupted one stopped, and wait until its cluster serves
    ///
    /// Mints keys, locks and builds what is missing first.
    ///
    /// Examples: kiln lab up lab --driver container
    ///           kiln lab up k8s0 --hosts 2
    #[command(verbatim_doc_comment)]
    Up {
        /// The cluster's profile, and the agent to put into its image
        #[command(flatten)]
        source: SourceArgs,
        /// How nodes are run; a lab that is there keeps its driver [default: vm]
        #[arg(long, value_enum)]
        driver: Option<Driver>,
        /// Play the profile's hosts, of which there must be so many, each with a libvirt of its own and empty: `kiln deploy --lab` makes the
        /// nodes
        #[arg(long, value_name = "COUNT", conflicts_with_all = ["driver", "nodes"])]
        hosts: Option<usize>,
        /// Power on these nodes only, and do not wait for the cluster
        #[arg(long, value_name = "NODE", value_delimiter = ',')]
        nodes: Vec<String>,
        /// Seconds to wait for the cluster [default: 120 for containers, 900 for VMs]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
        /// Return once the nodes are powered on
        #[arg(long)]
        no_wait: bool,
        /// What may pass
        #[command(flatten)]
        lenient: LenientArgs,
    },
    /// Tell where every node stands
    ///
    /// A node whose image is not the one that the profile's last build made is marked as drifted.
    ///
    /// Example: kiln lab status lab --json
    Status {
        /// The cluster's profile
        profile: String,
    },
    /// Pull the plug of nodes, or of whole hosts
    ///
    /// A host goes with everything that runs on it, and its disks stay.
    ///
    /// Examples: kiln lab kill lab etcd2
    ///           kiln lab kill k8s0 --host pve1
    #[command(verbatim_doc_comment)]
    Kill(Targets),
    /// Power nodes on, or hosts
    ///
    /// Examples: kiln lab start lab --all
    ///           kiln lab start k8s0 --host pve1
    #[command(verbatim_doc_comment)]
    Start {
        /// The nodes
        #[command(flatten)]
        targets: Targets,
        /// Run an image that nobody signed, or a key that is not trusted
        #[arg(long)]
        allow_unsigned: bool,
    },
    /// Pull a node's plug and give it a blank data disk; it stays off
    ///
    /// Example: kiln lab wipe lab etcd2
    Wipe {
        /// The cluster's profile
        profile: String,
        /// The node
        node: String,
    },
    /// Image a node again: pull its plug, give it a fresh root disk of the profile's present image, power it on
    ///
    /// Builds the image if need be. The node's data disk is kept, unless it is told to be wiped.
    ///
    /// Examples: kiln lab reimage lab etcd2
    ///           kiln lab reimage lab etcd2 --wipe-data
    #[command(verbatim_doc_comment)]
    Reimage {
        /// The cluster's profile, and the agent to put into its image
        #[command(flatten)]
        source: SourceArgs,
        /// The node
        node: String,
        /// Give it a blank data disk: everything on its present one is lost
        #[arg(long)]
        wipe_data: bool,
        /// What may pass
        #[command(flatten)]
        lenient: LenientArgs,
    },
    /// Keep a copy of a node's data disk as it is now, in place of an earlier one
    ///
    /// A node that is on stands still meanwhile, as for a snapshot of a VM.
    ///
    /// Example: kiln lab checkpoint lab etcd2
    #[command(verbatim_doc_comment)]
    Checkpoint {
        /// The cluster's profile
        profile: String,
        /// The node
        node: String,
    },
    /// Pull a node's plug, put the copy of its data disk back that `checkpoint` kept, and power it on
    ///
    /// To see how a node bears a disk that went back in time.
    ///
    /// Example: kiln lab rollback lab etcd2
    #[command(verbatim_doc_comment)]
    Rollback {
        /// The cluster's profile
        profile: String,
        /// The node
        node: String,
    },
    /// Boot a clone of a node beside it: a copy of its data, the same seed, the same network address
    ///
    /// To see how a cluster bears it. The clone is called NODE-clone; `kill`, `start`, `exec` and `console` take that name.
    ///
    /// Example: kiln lab clone lab etcd2
    #[command(verbatim_doc_comment)]
    Clone {
        /// The cluster's profile
        profile: String,
        /// The node
        node: String,
    },
    /// Run a command on a node
    ///
    /// In a VM by its guest agent, so without a terminal.
    ///
    /// Example: kiln lab exec lab etcd1 -- systemctl --failed
    #[command(verbatim_doc_comment)]
    Exec {
        /// The cluster's profile
        profile: String,
        /// The node
        node: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Run the image's etcdctl inside the lab's network, as the operator, against all nodes
    ///
    /// Example: kiln lab etcdctl lab put greeting hello
    Etcdctl {
        /// The cluster's profile
        profile: String,
        /// Arguments of etcdctl
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command on the lab host, inside the lab's network
    ///
    /// Examples: kiln lab host lab -- ip neigh
    ///           kiln lab host k8s0 --on pve1 -- virsh list
    #[command(verbatim_doc_comment)]
    Host {
        /// The cluster's profile
        profile: String,
        /// Run it on this host of the profile instead
        #[arg(long, value_name = "HOST")]
        on: Option<String>,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Show what a node wrote to its console
    ///
    /// Example: kiln lab console lab etcd1 --follow
    Console {
        /// The cluster's profile
        profile: String,
        /// The node
        node: String,
        /// Go on showing what it writes, until Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
    /// Stop, start or bend the lab's DNS
    Dns {
        /// The cluster's profile
        profile: String,
        #[command(subcommand)]
        action: dns::DnsAction,
    },
    /// Cut the network between the hosts of a lab, or mend it
    ///
    /// The lab host, where DHCP, DNS and you are, sees every node either way.
    ///
    /// Example: kiln lab net k8s0 cut
    #[command(verbatim_doc_comment)]
    Net {
        /// The cluster's profile
        profile: String,
        /// What is done to it
        #[arg(value_enum)]
        action: hosts::NetAction,
    },
    /// Take a lab away, from any state
    ///
    /// Keys, store and profile stay.
    ///
    /// Example: kiln lab down lab
    #[command(verbatim_doc_comment)]
    Down {
        /// The cluster's profile
        profile: String,
    },
}

#[derive(Debug, clap::Args)]
struct Targets {
    /// The cluster's profile
    profile: String,
    /// The nodes
    #[arg(value_name = "NODE", required_unless_present_any = ["all", "host"])]
    nodes: Vec<String>,
    /// All nodes
    #[arg(long, conflicts_with = "nodes")]
    all: bool,
    /// These hosts of the profile, instead of nodes
    #[arg(long, value_name = "HOST", value_delimiter = ',', conflicts_with_all = ["nodes", "all"])]
    host: Vec<String>,
}

/// Images that are refused unless told.
#[derive(Clone, Copy, Debug, clap::Args)]
struct LenientArgs {
    /// Run an image that nobody signed, or a key that is not trusted
    #[arg(long)]
    allow_unsigned: bool,
    /// Run an image older than the one the lab ran last
    #[arg(long)]
    allow_older: bool,
}

impl From<LenientArgs> for Lenience {
    fn from(args: LenientArgs) -> Self {
        Self { unsigned: args.allow_unsigned, older: args.allow_older }
    }
}

impl LabArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When it cannot be done or is refused; 75 when the cluster is not up in time.
    pub fn run(self, places: &Places) -> anyhow::Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Refusal::new("a lab has namespaces of its own, which takes root", "sudo kiln lab ...").into());
        }
        match self.command {
            LabCommand::Up { source, driver, hosts, nodes, timeout, no_wait, lenient } => {
                let wish = up::Wish {
                    driver,
                    hosts,
                    names: nodes,
                    timeout: timeout.map(Duration::from_secs),
                    no_wait,
                    lenience: lenient.into(),
                };
                up::run(places, &source, &wish)
            }
            LabCommand::Status { profile } => {
                let status = lab(places, &profile)?.live()?.status()?;
                places.print(&status, &status.table())
            }
            LabCommand::Kill(targets) if !targets.host.is_empty() => {
                hosts::power(places, &targets.profile, &targets.host, |live, hosts| live.kill_hosts(hosts))
            }
            LabCommand::Start { targets, .. } if !targets.host.is_empty() => {
                hosts::power(places, &targets.profile, &targets.host, |live, hosts| live.start_hosts(hosts))
            }
            LabCommand::Kill(targets) => power(places, &targets, |live, machines| live.kill(machines)),
            LabCommand::Start { targets, allow_unsigned } => {
                let lenience = Lenience { unsigned: allow_unsigned, older: true };
                power(places, &targets, |live, machines| start(live, machines, lenience))
            }
            LabCommand::Wipe { profile, node } => disks::change(places, &profile, &node, |live, m| live.wipe(m)),
            LabCommand::Reimage { source, node, wipe_data, lenient } => {
                disks::reimage(places, &source, &node, wipe_data, lenient.into())
            }
            LabCommand::Checkpoint { profile, node } => {
                disks::change(places, &profile, &node, |live, machine| live.checkpoint(machine))
            }
            LabCommand::Rollback { profile, node } => {
                disks::change(places, &profile, &node, |live, machine| live.rollback(machine))
            }
            LabCommand::Clone { profile, node } => {
                disks::change(places, &profile, &node, |live, machine| live.clone_machine(machine))
            }
            LabCommand::Exec { profile, node, command } => exec(places, &profile, &node, &command),
            LabCommand::Etcdctl { profile, arguments } => etcdctl(places, &profile, arguments),
            LabCommand::Host { profile, on: Some(host), command } => hosts::run(places, &profile, &host, &command),
            LabCommand::Host { profile, on: None, command } => {
                guest::become_on_host(&lab(places, &profile)?.live()?.host, &command).map(drop)
            }
            LabCommand::Net { profile, action } => hosts::net(places, &profile, action),
            LabCommand::Console { profile, node, follow } => {
                let lab = lab(places, &profile)?;
                console(&lab.console(&lab.machine(&node)?)?, follow)
            }
            LabCommand::Dns { profile, action } => dns::run(places, &profile, action),
            LabCommand::Down { profile } => {
                let lab = lab(places, &profile)?;
                let there = lab.down()?;
                Store::at(places.store()?).forget(RootKind::Lab, &lab.profile.name)?;
                disks::forget(places, &lab)?;
                fleet::forget_lab(places, &lab.profile.name)?;
                log::info!("{}", if there { "the lab is gone" } else { "there was no lab" });
                Ok(())
            }
        }
    }
}

fn lab(places: &Places, profile: &str) -> anyhow::Result<Lab> {
    lab_of(places, places.profile(profile)?)
}

/// The lab of a profile, up or not.
pub(super) fn lab_of(places: &Places, profile: Profile) -> anyhow::Result<Lab> {
    // The lab's directory is how its processes are found: it must be spelt the same from wherever kiln is called.
    let absolute = |path: Utf8PathBuf| camino::absolute_utf8(&path).with_context(|| format!("resolving `{path}`"));
    Ok(Lab {
        dir: absolute(places.lab(&profile)?)?,
        home: absolute(places.home()?)?,
        store: absolute(places.store()?)?,
        signing: absolute(places.signing()?)?,
        pki: absolute(places.pki(&profile)?)?,
        profile,
    })
}

fn power(
    places: &Places,
    targets: &Targets,
    act: impl Fn(&Live<'_>, &[Machine<'_>]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let lab = lab(places, &targets.profile)?;
    let live = lab.live()?;
    let _lock = Lock::take(&lab.dir)?;
    act(&live, &lab.machines(&targets.nodes)?)
}

/// Powers machines on whose images may be run. Their disks were read when they were given them, and are not read again.
fn start(live: &Live<'_>, machines: &[Machine<'_>], lenience: Lenience) -> anyhow::Result<()> {
    let images: BTreeSet<&str> = machines.iter().map(|m| live.record.image_of(&m.node.name).key.as_str()).collect();
    for key in images {
        live.lab().admit(&key.parse().context("reading the key of the lab's image")?, Depth::Small, lenience)?;
    }
    live.start(machines)
}

fn exec(places: &Places, profile: &str, node: &str, command: &[String]) -> anyhow::Result<()> {
    let lab = lab(places, profile)?;
    let (live, machine) = (lab.live()?, lab.machine(node)?);
    if live.driver() == Driver::Container {
        return guest::become_in_container(&live, machine, command).map(drop);
    }
    let outcome = guest::run_in_vm(&live, machine, command)?;
    std::io::stdout().write_all(&outcome.stdout).context("writing the output")?;
    std::io::stderr().write_all(&outcome.stderr).context("writing the output")?;
    match outcome.code {
        0 => Ok(()),
        code => Err(Ended::with(code, &command.join(" "), &machine.name()).into()),
    }
}

fn etcdctl(places: &Places, profile: &str, arguments: Vec<String>) -> anyhow::Result<()> {
    let lab = lab(places, profile)?;
    let live = lab.live()?;
    let endpoints: Vec<String> = lab.profile.nodes.iter().map(|n| format!("https://{}:2379", n.address)).collect();
    let operator = live.pki.client(OPERATOR);
    let defaults = [
        ("endpoints", endpoints.join(",")),
        ("cacert", operator.server_root.into_string()),
        ("cert", operator.cert.into_string()),
        ("key", operator.key.into_string()),
    ];
    // By environment, and only what is not given as a flag: etcdctl refuses a setting that comes both ways.
    let given =
        |name: &str| arguments.iter().any(|a| *a == format!("--{name}") || a.starts_with(&format!("--{name}=")));
    let defaults = defaults.into_iter().filter(|(name, _)| !given(name));
    let mut command = vec!["env".to_owned()];
    command.extend(defaults.map(|(name, value)| format!("ETCDCTL_{}={value}", name.to_uppercase())));
    command.push(live.host.path(&format!("{TREE}/usr/bin/etcdctl")));
    command.extend(arguments);
    guest::become_on_network(&live.host, &command).map(drop)
}

fn console(path: &Utf8Path, follow: bool) -> anyhow::Result<()> {
    let mut file = fs_err::File::open(path)?;
    let mut out = std::io::stdout().lock();
    loop {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        out.write_all(&bytes).and_then(|()| out.flush()).context("writing the output")?;
        if !follow {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}
