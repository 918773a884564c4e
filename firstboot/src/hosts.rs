//! The addresses of the members as a hosts file, so that a running cluster does not need DNS to find itself.
//!
//! etcd dials peers by name and asks the resolver at every dial. Without this file two members that lose a connection while DNS is
//! away cannot find each other again, and the cluster loses its quorum to a DNS outage. The charter's addresses are the start; what DNS
//! answers replaces them, name by name, so a member that moved is found as soon as DNS knows. TLS decides who is believed.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::charter::Charter;
use crate::dns::Dns;
use crate::durable;
use crate::name::Fqdn;
use crate::observation::Lookup;
use crate::paths::Paths;

/// How often DNS is asked again. A moved member is away for at most this long after its records have changed.
const REFRESH: Duration = Duration::from_secs(30);

/// The members and where each was last known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    known: Vec<(Fqdn, Vec<IpAddr>)>,
}

impl Hosts {
    /// What the charter says.
    pub fn of(charter: &Charter) -> Self {
        Self { known: charter.members.iter().map(|m| (m.fqdn.clone(), m.addresses.clone())).collect() }
    }

    /// Takes over an answer of DNS. Only an answer with addresses changes anything: silence and "no such name" are not evidence
    /// that a member has moved. Nor does an answer that gives it another member's address: etcd pairs the members of a list by where
    /// their names lead, and with two at one address a joining etcd starts its empty log under an id that nobody gave it.
    pub fn learn(&mut self, fqdn: &Fqdn, located: &Lookup<IpAddr>) {
        let Lookup::Found(addresses) = located else { return };
        if self.known.iter().any(|(name, known)| name != fqdn && known.iter().any(|known| addresses.contains(known))) {
            return;
        }
        if let Some((_, known)) = self.known.iter_mut().find(|(name, _)| name == fqdn) {
            known.clone_from(addresses);
            known.sort();
        }
    }

    /// The file.
    pub fn render(&self) -> String {
        let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        for (name, addresses) in &self.known {
            for address in addresses {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{address}\t{name}");
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

/// Keeps the file in step with DNS, for ever.
pub async fn tend(paths: Paths, mut hosts: Hosts, dns: impl Fn() -> Dns) {
    loop {
        let before = hosts.clone();
        let dns = dns();
        for (name, _) in &before.known {
            hosts.learn(name, &dns.addresses(name).await.into_lookup());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        let name = |n| Fqdn::parse(&format!("etcd{n}.lab.example")).unwrap();
        Hosts { known: (1..=2).map(|n| (name(n), vec![IpAddr::from([10, 0, 0, n])])).collect() }
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
    fn follows_an_answer_and_nothing_less() {
        let name = Fqdn::parse("etcd2.lab.example").unwrap();
        let mut moved = hosts();
        moved.learn(&name, &Lookup::None);
        moved.learn(&name, &Lookup::Failed("SERVFAIL".into()));
        assert_eq!(moved, hosts());
        moved.learn(&Fqdn::parse("stranger.lab.example").unwrap(), &Lookup::Found(vec![[10, 0, 0, 9].into()]));
        assert_eq!(moved, hosts());
        moved.learn(&name, &Lookup::Found(vec![[10, 0, 0, 7].into()]));
        assert!(moved.render().contains("10.0.0.7\tetcd2.lab.example\n"));
        assert!(!moved.render().contains("10.0.0.2"));
    }

    #[test]
    fn never_has_two_members_at_one_address() {
        let mut lied_to = hosts();
        lied_to.learn(&Fqdn::parse("etcd2.lab.example").unwrap(), &Lookup::Found(vec![[10, 0, 0, 1].into()]));
        assert_eq!(lied_to, hosts());
    }
}
