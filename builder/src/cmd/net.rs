//! `kiln net`: the nodes' network, for the hosts.

use serde::Serialize;

use crate::cli::Places;
use crate::exit::Refusal;
use crate::host_network::{Format, libvirt, netplan};
use crate::profile::{Host, Profile};

/// The network the nodes are in
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct NetArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print the configuration of the nodes' network for a host
    ///
    /// netplan makes the bridge, and the VXLAN between two hosts where the profile has one, with the MTU that is left inside. libvirt makes
    /// a bridge of its own with DHCP and DNS, for one host that serves the whole cluster. Nothing is sent anywhere.
    ///
    /// Example: kiln net emit k8s0 --format netplan --host pve1
    #[command(verbatim_doc_comment)]
    Emit {
        /// The cluster's profile
        profile: String,
        /// Whose words
        #[arg(long, value_name = "PROGRAM")]
        format: Format,
        /// For which host; not needed where there is one
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
    },
}

#[derive(Serialize)]
struct Emitted {
    host: Option<String>,
    text: String,
}

impl NetArgs {
    /// Runs it.
    ///
    /// # Errors
    /// When the profile cannot be read, there is no such host, or the network cannot be said in these words.
    pub fn run(self, places: &Places) -> anyhow::Result<()> {
        match self.verb {
            Verb::Emit { profile, format, host } => {
                let profile = places.profile(&profile)?;
                let output = match format {
                    Format::Netplan => {
                        let host = choose(&profile, host.as_deref())?;
                        Emitted { host: Some(host.name.clone()), text: netplan(&profile, host)? }
                    }
                    Format::Libvirt => Emitted { host, text: libvirt(&profile)? },
                };
                places.print(&output, &output.text)
            }
        }
    }
}

fn choose<'a>(profile: &'a Profile, name: Option<&str>) -> Result<&'a Host, Refusal> {
    let known = || profile.hosts.iter().map(|h| format!("--host {}", h.name)).collect::<Vec<_>>().join(" or ");
    match (name, &profile.hosts[..]) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Refusal::new("each host has a configuration of its own", format!("name one: {}", known()))),
        (Some(name), hosts) => hosts
            .iter()
            .find(|h| h.name == name)
            .ok_or_else(|| Refusal::new(format!("the profile has no host `{name}`"), format!("use {}", known()))),
    }
}
