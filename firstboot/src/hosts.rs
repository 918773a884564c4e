//! The addresses of the members as a hosts file, so that a running cluster does not need DNS to find itself.
//!
//! etcd dials peers by name and asks the resolver at every dial. Without this file two members that lose a connection while DNS is
//! away cannot find each other again, and the cluster loses its quorum to a DNS outage. The charter's addresses are always in it. Where
//! DNS locates a member elsewhere, that address comes first, but only after somebody there has proved by TLS to be that member: a
//! member that moved is found as soon as DNS knows, and a wrong answer leads nobody astray.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::charter::Charter;
use crate::dns::Dns;
use crate::durable;
use crate::journal;
use crate::name::Fqdn;
use crate::notice::Noticed;
use crate::observation::Lookup;
use crate::paths::{PEER_PORT, Paths};
use crate::tls::AgentTls;

/// How often DNS is asked again. A moved member is away for at most this long after its records have changed.
const REFRESH: Duration = Duration::from_secs(30);
/// How long whoever is at a new address has to prove who it is.
const PROOF: Duration = Duration::from_secs(3);

/// The members and where each can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    known: Vec<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    fqdn: Fqdn,
    chartered: Vec<IpAddr>,
    /// Where DNS located it, outside the charter, and it proved to be.
    proved: Vec<IpAddr>,
}

impl Place {
    /// Takes over an answer of DNS of which `proved` are the addresses elsewhere that were proved. Silence, "no such name" and
    /// addresses that nobody proved are not evidence that the member has moved, or has moved back.
    fn learn(&mut self, located: &Lookup<IpAddr>, proved: Vec<IpAddr>) {
        let back = located.records().iter().any(|address| self.chartered.contains(address));
        if !proved.is_empty() || back {
            self.proved = proved;
        }
    }
}

impl Hosts {
    /// What the charter says.
    pub fn of(charter: &Charter) -> Self {
        let place = |m: &crate::charter::CharterMember| Place {
            fqdn: m.fqdn.clone(),
            chartered: m.addresses.clone(),
            proved: Vec::new(),
        };
        Self { known: charter.members.iter().map(place).collect() }
    }

    /// Where DNS locates the member number `index`, and neither its charter nor another member's place is. etcd pairs the members of a
    /// list by where their names lead: with two at one address, a joining etcd starts its empty log under an id that nobody gave it.
    fn elsewhere(&self, index: usize, located: &Lookup<IpAddr>) -> Vec<IpAddr> {
        let taken = |address: &IpAddr| {
            self.known.iter().enumerate().any(|(other, place)| {
                place.chartered.contains(address) || (other != index && place.proved.contains(address))
            })
        };
        let mut new: Vec<IpAddr> = located.records().iter().copied().filter(|address| !taken(address)).collect();
        new.sort();
        new.dedup();
        new
    }

    /// The file.
    pub fn render(&self) -> String {
        let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        for place in &self.known {
            // etcd gives a dial two seconds, and the first address may use them up.
            for address in place.proved.iter().chain(&place.chartered) {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{address}\t{}", place.fqdn);
            }
        }
        text
    }
}

/// Writes the charter's addresses down.
///
/// # Errors
/// When the file cannot be written.
pub fn begin(paths: &Paths, charter: &Charter) -> Result<Hosts> {
    let hosts = Hosts::of(charter);
    write(paths, &hosts)?;
    Ok(hosts)
}

fn write(paths: &Paths, hosts: &Hosts) -> Result<()> {
    durable::replace(&paths.hosts(), hosts.render().as_bytes(), 0o644).context("writing the members' addresses down")
}

/// Keeps the file in step with DNS, for ever, and tells what follows where DNS and charter differ.
pub async fn tend(paths: Paths, mut hosts: Hosts, tls: watch::Receiver<AgentTls>, dns: impl Fn() -> Dns) {
    let mut noticed = Noticed::default();
    loop {
        let before = hosts.clone();
        let dns = dns();
        let mut notices = Vec::new();
        for index in 0..hosts.known.len() {
            let located = dns.addresses(&hosts.known[index].fqdn).await.into_lookup();
            let mut proved = Vec::new();
            let elsewhere = hosts.elsewhere(index, &located);
            let place = &mut hosts.known[index];
            for address in elsewhere {
                let tls = tls.borrow().clone();
                let proof = prove(&tls, &place.fqdn, address).await;
                notices.push(consequence(&place.fqdn, address, proof.is_ok()));
                match proof {
                    Ok(()) => proved.push(address),
                    Err(e) => log::debug!("{} at {address}: {e:#}", place.fqdn),
                }
            }
            place.learn(&located, proved);
        }
        for text in noticed.fresh(notices) {
            journal::tell(&journal::NOTICE, &text, &[]);
        }
        if hosts != before
            && let Err(e) = write(&paths, &hosts)
        {
            log::warn!("{e:#}");
            hosts = before;
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// What follows for etcd from DNS's locating a member elsewhere. ([`crate::notice`] tells that it does.)
fn consequence(fqdn: &Fqdn, address: IpAddr, proved: bool) -> String {
    if proved {
        format!(
            "etcd looks for {fqdn} at {address} first, where it has proved to be; agents refuse it there until a new charter and seed have that address"
        )
    } else {
        format!(
            "nobody at {address} proves to be {fqdn}, whatever DNS says: etcd looks for it at the charter's address"
        )
    }
}

/// Whoever listens on the peer port of `address` holds a certificate of `fqdn`.
async fn prove(tls: &AgentTls, fqdn: &Fqdn, address: IpAddr) -> Result<()> {
    let proof = async {
        let stream = TcpStream::connect((address, PEER_PORT)).await?;
        let name = ServerName::try_from(fqdn.as_str().to_owned()).context("naming the server")?;
        tls.connector.connect(name, stream).await.context("authenticating it")?;
        Ok(())
    };
    timeout(PROOF, proof).await.context("it took too long")?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{address, charter};

    fn hosts() -> Hosts {
        Hosts::of(&charter(2))
    }

    fn found(n: u8) -> Lookup<IpAddr> {
        Lookup::Found(vec![address(n)])
    }

    #[test]
    fn lists_every_member_beside_localhost() {
        assert_eq!(
            hosts().render(),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             10.0.0.1\tetcd1.lab.example\n10.0.0.2\tetcd2.lab.example\n"
        );
    }

    #[test]
    fn follows_a_proof_and_nothing_less() {
        let mut place = hosts().known.remove(1);
        for answer in [Lookup::None, Lookup::Failed("SERVFAIL".into()), found(2), found(66)] {
            let before = place.clone();
            place.learn(&answer, Vec::new());
            assert_eq!(place, before, "{answer:?}");
        }
        let answer = Lookup::Found(vec![address(7), address(2), address(7)]);
        assert_eq!(hosts().elsewhere(1, &answer), [address(7)]);
        place.learn(&found(7), vec![address(7)]);
        let moved = Hosts { known: vec![place.clone()] };
        assert!(moved.render().ends_with("10.0.0.7\tetcd2.lab.example\n10.0.0.2\tetcd2.lab.example\n"));
        // A poisoned answer after that, or silence, moves it nowhere; the charter's address in DNS takes it back.
        place.learn(&found(66), Vec::new());
        place.learn(&Lookup::None, Vec::new());
        assert_eq!(place.proved, [address(7)]);
        place.learn(&found(2), Vec::new());
        assert_eq!(place.proved, [] as [IpAddr; 0]);
    }

    #[test]
    fn never_has_two_members_at_one_address() {
        let mut hosts = hosts();
        assert_eq!(hosts.elsewhere(1, &found(1)), [] as [IpAddr; 0]);
        hosts.known[0].learn(&found(7), vec![address(7)]);
        assert_eq!(hosts.elsewhere(1, &found(7)), [] as [IpAddr; 0]);
    }
}
