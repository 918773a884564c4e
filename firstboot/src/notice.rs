//! What a person should know of an observation although no decision depends on it: where DNS and the charter disagree.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::net::IpAddr;

use crate::charter::Charter;
use crate::name::Fqdn;
use crate::observation::{Lookup, Observation, SeedView, SrvTarget};
use crate::paths::PEER_PORT;

/// What was last noticed, so that each disagreement is told once, and again only when it has come back.
#[derive(Clone, Debug, Default)]
pub struct Noticed(Vec<String>);

impl Noticed {
    /// Those of `notices` that were not there the last time.
    pub fn fresh(&mut self, notices: Vec<String>) -> Vec<String> {
        let fresh = notices.iter().filter(|notice| !self.0.contains(notice)).cloned().collect();
        self.0 = notices;
        fresh
    }
}

/// One sentence per disagreement, in a fixed order; none when DNS says what the charter says, or when there is no charter.
pub fn notices(seen: &Observation) -> Vec<String> {
    let charter = match &seen.seed {
        SeedView::Verified { charter, .. } => charter.as_ref(),
        SeedView::Missing(_) | SeedView::Invalid(_) => return Vec::new(),
    };
    let located: Vec<(Fqdn, Lookup<IpAddr>)> =
        seen.peers.iter().map(|peer| (peer.fqdn.clone(), peer.located.clone())).collect();
    disagreements(charter, &seen.srv, &located)
}

/// As [`notices`], of what DNS answered for the SRV records and for members.
pub fn disagreements(
    charter: &Charter,
    services: &Lookup<SrvTarget>,
    located: &[(Fqdn, Lookup<IpAddr>)],
) -> Vec<String> {
    let mut notices = srv(services, charter);
    for (fqdn, located) in located {
        let Some(member) = charter.member(fqdn) else { continue };
        for address in located.records().iter().filter(|address| !member.addresses.contains(address)) {
            notices.push(format!("DNS locates {fqdn} at {address}, which the charter does not give it"));
        }
    }
    notices
}

/// That this node, a member that needs nothing of the network to serve, is at other addresses than its charter says; none when it is
/// where it should be, or has no address yet.
pub fn displaced(own: &[IpAddr], fqdn: &Fqdn, charter: &Charter) -> Option<String> {
    let chartered = &charter.member(fqdn)?.addresses;
    if own.is_empty() || own.iter().any(|address| chartered.contains(address)) {
        return None;
    }
    let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    Some(format!(
        "this node is at {}, the charter has {fqdn} at {}; its issuer signs for no other address, so its certificate keeps the old one: \
         etcd serves as long as DNS says where the node is, in both directions, and agents do not answer it until it has its \
         address back or a new charter and seed",
        list(own),
        list(chartered)
    ))
}

fn srv(services: &Lookup<SrvTarget>, charter: &Charter) -> Vec<String> {
    let name = format!("_etcd-server-ssl._tcp.{}", charter.domain);
    let records = match services {
        Lookup::Found(records) => records,
        Lookup::None => {
            return vec![format!("DNS has no SRV record {name}; the charter's members are looked for by name")];
        }
        Lookup::Failed(why) => {
            return vec![format!(
                "DNS could not be asked for {name}: {why}; the charter's members are looked for by name"
            )];
        }
    };
    let mut notices = Vec::new();
    for member in &charter.members {
        if !records.iter().any(|r| Fqdn::parse(&r.target).is_ok_and(|target| target == member.fqdn)) {
            notices.push(format!(
                "the SRV records {name} lack the charter's member {}; it counts all the same",
                member.fqdn
            ));
        }
    }
    for record in records {
        let known = Fqdn::parse(&record.target).is_ok_and(|target| charter.member(&target).is_some());
        if !known {
            notices.push(format!(
                "the SRV records {name} name {}, which is not in the charter and is left out",
                record.target
            ));
        } else if record.port != PEER_PORT {
            notices.push(format!(
                "the SRV record for {} has port {}, etcd listens on {PEER_PORT}",
                record.target, record.port
            ));
        }
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{address, charter, fqdn, observation};

    #[test]
    fn is_silent_where_dns_and_charter_agree() {
        assert_eq!(notices(&observation(1, 3)), Vec::<String>::new());
    }

    #[test]
    fn tells_a_disagreement_once_and_again_when_it_comes_back() {
        let (one, two) = ("one".to_owned(), "two".to_owned());
        let mut noticed = Noticed::default();
        assert_eq!(noticed.fresh(vec![one.clone()]), std::slice::from_ref(&one));
        assert_eq!(noticed.fresh(vec![one.clone(), two.clone()]), [two]);
        assert_eq!(noticed.fresh(vec![one.clone()]), Vec::<String>::new());
        assert_eq!(noticed.fresh(Vec::new()), Vec::<String>::new());
        assert_eq!(noticed.fresh(vec![one.clone()]), [one]);
    }

    #[test]
    fn names_each_disagreement() {
        let mut seen = observation(1, 3);
        let target = |name: &str, port| SrvTarget { target: name.into(), port };
        seen.srv = Lookup::Found(vec![
            target("ETCD1.lab.example.", 2380),
            target("etcd2.lab.example.", 2379),
            target("evil.example.", 2380),
        ]);
        seen.peer_mut(2).located = Lookup::Found(vec![address(2), address(99)]);
        assert_eq!(
            notices(&seen),
            [
                "the SRV records _etcd-server-ssl._tcp.lab.example lack the charter's member etcd3.lab.example; it counts all the same",
                "the SRV record for etcd2.lab.example. has port 2379, etcd listens on 2380",
                "the SRV records _etcd-server-ssl._tcp.lab.example name evil.example., which is not in the charter and is left out",
                "DNS locates etcd2.lab.example at 10.0.0.99, which the charter does not give it",
            ]
        );
        seen.srv = Lookup::None;
        assert!(notices(&seen)[0].starts_with("DNS has no SRV record _etcd-server-ssl._tcp.lab.example;"));
    }

    #[test]
    fn tells_a_member_that_it_is_not_where_its_charter_has_it() {
        let displaced = |own: &[IpAddr]| displaced(own, &fqdn(1), &charter(3));
        assert_eq!(displaced(&[]), None);
        assert_eq!(displaced(&[address(99), address(1)]), None);
        let told = displaced(&[address(99)]).unwrap();
        assert!(
            told.starts_with("this node is at 10.0.0.99, the charter has etcd1.lab.example at 10.0.0.1;"),
            "{told}"
        );
    }
}
