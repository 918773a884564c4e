//! Questions to DNS and what came back. A failure to answer is a fact like any other; nobody may take it for "no".
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::name::Fqdn;
use crate::observation::{Lookup, SrvTarget};

/// Most records kept of one answer. A cluster has a dozen nodes; an answer of thousands is somebody's mistake or malice.
pub const MAX_RECORDS: usize = 64;
/// Longest chain of aliases followed inside one answer.
const MAX_ALIASES: usize = 8;

/// What asking DNS one question came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsOutcome<T> {
    /// Records of the kind asked for; at least one, at most [`MAX_RECORDS`].
    Answers(Vec<T>),
    /// The name exists, with no record of that kind.
    NoRecords,
    /// The name does not exist.
    NxDomain,
    /// A server failed to find out.
    ServFail,
    /// A server does not want to answer us.
    Refused,
    /// No server answered in time.
    Timeout,
    /// What came back was no DNS answer to the question.
    Broken(String),
    /// The network gave us no DNS server to ask.
    NoServers,
}

impl<T> DnsOutcome<T> {
    /// The records; none unless there was an answer.
    pub fn answers(&self) -> &[T] {
        match self {
            Self::Answers(found) => found,
            Self::NoRecords
            | Self::NxDomain
            | Self::ServFail
            | Self::Refused
            | Self::Timeout
            | Self::Broken(_)
            | Self::NoServers => &[],
        }
    }

    /// DNS itself said what there is: an answer, or an authoritative "there is none".
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Answers(_) | Self::NoRecords | Self::NxDomain => true,
            Self::ServFail | Self::Refused | Self::Timeout | Self::Broken(_) | Self::NoServers => false,
        }
    }

    /// What an observation records of it: found, certainly not there, or not known and why.
    pub fn into_lookup(self) -> Lookup<T> {
        match self {
            Self::Answers(found) => Lookup::Found(found),
            Self::NoRecords | Self::NxDomain => Lookup::None,
            Self::ServFail => Lookup::Failed("the DNS server failed to find out (SERVFAIL)".into()),
            Self::Refused => Lookup::Failed("the DNS server refuses to answer this node (REFUSED)".into()),
            Self::Timeout => Lookup::Failed("no DNS server answered in time".into()),
            Self::Broken(why) => Lookup::Failed(format!("the DNS server's answer makes no sense: {why}")),
            Self::NoServers => Lookup::Failed("the network names no DNS server".into()),
        }
    }

    /// The same outcome about something else; records that `keep` drops leave [`DnsOutcome::NoRecords`] behind if none is left.
    pub fn filter_map<U>(self, keep: impl FnMut(T) -> Option<U>) -> DnsOutcome<U> {
        match self {
            Self::Answers(found) => {
                let kept: Vec<U> = found.into_iter().filter_map(keep).collect();
                if kept.is_empty() { DnsOutcome::NoRecords } else { DnsOutcome::Answers(kept) }
            }
            Self::NoRecords => DnsOutcome::NoRecords,
            Self::NxDomain => DnsOutcome::NxDomain,
            Self::ServFail => DnsOutcome::ServFail,
            Self::Refused => DnsOutcome::Refused,
            Self::Timeout => DnsOutcome::Timeout,
            Self::Broken(why) => DnsOutcome::Broken(why),
            Self::NoServers => DnsOutcome::NoServers,
        }
    }
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which name does this address have?
    Ptr(IpAddr),
    /// Which IPv4 addresses does this name have?
    A(Fqdn),
    /// Which IPv6 addresses does this name have?
    Aaaa(Fqdn),
    /// Which nodes does `_etcd-server-ssl._tcp` of this domain name?
    Srv(Fqdn),
    /// Which nodes does `_etcd-client-ssl._tcp` of this domain name? Only an operator asks.
    ClientSrv(Fqdn),
    /// Which servers are authoritative for this zone, its name without the final dot? Only an operator asks.
    Ns(String),
}

impl Question {
    fn name_and_type(&self) -> Result<(Name, RecordType), String> {
        let name = |text: String| Name::from_ascii(text).map_err(|e| e.to_string());
        Ok(match self {
            Self::Ptr(address) => (Name::from(*address), RecordType::PTR),
            Self::A(host) => (name(format!("{host}."))?, RecordType::A),
            Self::Aaaa(host) => (name(format!("{host}."))?, RecordType::AAAA),
            Self::Srv(domain) => (name(format!("_etcd-server-ssl._tcp.{domain}."))?, RecordType::SRV),
            Self::ClientSrv(domain) => (name(format!("_etcd-client-ssl._tcp.{domain}."))?, RecordType::SRV),
            Self::Ns(zone) => (name(format!("{zone}."))?, RecordType::NS),
        })
    }

    /// The query on the wire, recursion desired.
    ///
    /// # Errors
    /// When the name cannot be put on the wire.
    pub fn encode(&self, id: u16) -> Result<Vec<u8>, String> {
        let (name, kind) = self.name_and_type()?;
        let mut message = Message::query();
        message.metadata.id = id;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, kind));
        message.to_vec().map_err(|e| e.to_string())
    }

    /// Reads a reply. `None` when it is not the reply to this question with this id: whoever sent it, it is ignored.
    pub fn decode(&self, id: u16, bytes: &[u8]) -> Option<Reply> {
        let (name, kind) = self.name_and_type().ok()?;
        let message = match Message::from_vec(bytes) {
            Ok(message) => message,
            // Without a header that matches, the bytes may be anybody's.
            Err(_) if bytes.get(..2) != Some(&id.to_be_bytes()) => return None,
            Err(e) => return Some(Reply::Whole(DnsOutcome::Broken(e.to_string()))),
        };
        let ours = message.metadata.id == id
            && message.metadata.message_type == MessageType::Response
            && message.queries.len() == 1
            && message.queries[0].name() == &name
            && message.queries[0].query_type() == kind;
        if !ours {
            return None;
        }
        if message.metadata.truncation {
            return Some(Reply::Truncated);
        }
        let code = message.metadata.response_code;
        Some(Reply::Whole(if code == ResponseCode::NoError {
            records(&name, kind, &message.answers)
        } else if code == ResponseCode::NXDomain {
            DnsOutcome::NxDomain
        } else if code == ResponseCode::ServFail {
            DnsOutcome::ServFail
        } else if code == ResponseCode::Refused {
            DnsOutcome::Refused
        } else {
            DnsOutcome::Broken(format!("response code {code}"))
        }))
    }
}

/// A reply to the question that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Too long for UDP: ask again over TCP.
    Truncated,
    /// What it says.
    Whole(DnsOutcome<Found>),
}

/// One record. Names are as they came: whoever compares them brings them into canonical form, or says what was wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Of a PTR or NS record, as it came, without the trailing dot.
    Name(String),
    /// Of an A or AAAA record.
    Address(IpAddr),
    /// Of an SRV record.
    Service(SrvTarget),
}

/// The records of `kind` under `name`, through aliases inside the same answer (RFC 2317 delegates reverse zones by CNAME).
fn records(name: &Name, kind: RecordType, answers: &[Record]) -> DnsOutcome<Found> {
    let mut names = vec![name.clone()];
    for _ in 0..MAX_ALIASES {
        let next = answers.iter().find_map(|record| {
            let RData::CNAME(alias) = &record.data else { return None };
            (names.contains(&record.name) && !names.contains(&alias.0)).then(|| alias.0.clone())
        });
        match next {
            Some(alias) => names.push(alias),
            None => break,
        }
    }
    let mut found = Vec::new();
    for record in answers.iter().filter(|record| record.record_type() == kind && names.contains(&record.name)) {
        let one = if let RData::A(address) = &record.data {
            Found::Address(IpAddr::V4(address.0))
        } else if let RData::AAAA(address) = &record.data {
            Found::Address(IpAddr::V6(address.0).to_canonical())
        } else if let RData::PTR(host) = &record.data {
            Found::Name(undotted(&host.0))
        } else if let RData::NS(host) = &record.data {
            Found::Name(undotted(&host.0))
        } else if let RData::SRV(srv) = &record.data {
            Found::Service(SrvTarget { target: undotted(&srv.target), port: srv.port })
        } else {
            continue;
        };
        if !found.contains(&one) && found.len() < MAX_RECORDS {
            found.push(one);
        }
    }
    if found.is_empty() { DnsOutcome::NoRecords } else { DnsOutcome::Answers(found) }
}

fn undotted(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.').map_or(text.clone(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests;
