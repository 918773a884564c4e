//! How this agent reaches the others: with its certificate, where DNS or else the charter locates them.

use std::net::IpAddr;

use crate::charter::Charter;
use crate::dns::Dns;
use crate::name::Fqdn;
use crate::observation::Lookup;
use crate::tls::AgentTls;

/// As of the latest round of the agent's loop.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Proves who we are, and wants proof.
    pub tls: AgentTls,
    /// The DNS servers of this network.
    pub dns: Dns,
}

impl Reach {
    /// Where a member may be: what DNS answers, and the charter's addresses when it answers nothing, for a running cluster does not
    /// need DNS to find itself. TLS decides who is believed.
    pub async fn addresses(&self, charter: &Charter, fqdn: &Fqdn) -> Vec<IpAddr> {
        match self.dns.addresses(fqdn).await.into_lookup() {
            Lookup::Found(addresses) => addresses,
            Lookup::None | Lookup::Failed(_) => charter.member(fqdn).map_or_else(Vec::new, |m| m.addresses.clone()),
        }
    }
}
