//! What must change in which zone so that DNS says what a cluster lives by, as the message of RFC 2136 that changes it, and what its answer means.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt;
use std::net::IpAddr;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record as Wire, RecordType};
use kiln_firstboot::name::Fqdn;

use crate::dns_format::TTL;
use crate::dns_records::Record;

/// A record as a server holds it, without its time to live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub owner: Name,
    /// Type and content.
    pub data: RData,
}

impl Entry {
    /// A record of the cluster's.
    pub fn of(record: &Record) -> Self {
        let data = match record {
            Record::Address { address: IpAddr::V4(v4), .. } => RData::A(A(*v4)),
            Record::Address { address: IpAddr::V6(v6), .. } => RData::AAAA(AAAA(*v6)),
            Record::Pointer { name, .. } => RData::PTR(PTR(in_full(name.as_str()))),
            Record::Service { target, port, .. } => RData::SRV(SRV::new(0, 0, *port, in_full(target.as_str()))),
        };
        Self { owner: in_full(&record.owner()), data }
    }

    /// Whether it is about `node`: its address, a service on it, a pointer to it.
    fn is_about(&self, node: &Name) -> bool {
        if let RData::SRV(service) = &self.data {
            return service.target == *node;
        }
        if let RData::PTR(name) = &self.data {
            return name.0 == *node;
        }
        self.owner == *node
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.owner, self.data.record_type(), self.data)
    }
}

/// A name of the cluster's on the wire.
///
/// # Panics
/// Never: names of profiles are names of DNS.
pub fn in_full(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).expect("names of a profile are ASCII labels of DNS's lengths")
}

/// What is done in one zone, by one message: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneUpdate {
    /// The zone.
    pub zone: Name,
    /// What it lacks.
    pub add: Vec<Entry>,
    /// What is stale in it and was named.
    pub remove: Vec<Entry>,
}

/// What is to be done about what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdatePlan {
    /// By zone; none where all is right.
    pub updates: Vec<ZoneUpdate>,
    /// How many records are there already.
    pub right: usize,
    /// Stale records that nobody named: they stay.
    pub left: Vec<Entry>,
}

/// Compares what must be there with what is. Found records that must not be there are removed only if `pruned` names the node they are about,
/// or the node whose name they take.
pub fn plan(wanted: &[Entry], found: &[Entry], pruned: &[Fqdn], zone_of: impl Fn(&Name) -> Name) -> UpdatePlan {
    let pruned: Vec<Name> = pruned.iter().map(|name| in_full(name.as_str())).collect();
    let named = |stale: &Entry| {
        // A pointer at a node's address is that node's affair too, whoever it points to.
        let instead = wanted.iter().filter(|w| w.owner == stale.owner && w.data.record_type() == RecordType::PTR);
        pruned.iter().any(|node| stale.is_about(node) || instead.clone().any(|w| w.is_about(node)))
    };
    let mut plan = UpdatePlan::default();
    let mut update = |owner: &Name, entry: &Entry, adds: bool| {
        let zone = zone_of(owner);
        let at = plan.updates.iter().position(|update| update.zone == zone).unwrap_or_else(|| {
            plan.updates.push(ZoneUpdate { zone, add: Vec::new(), remove: Vec::new() });
            plan.updates.len() - 1
        });
        let list = if adds { &mut plan.updates[at].add } else { &mut plan.updates[at].remove };
        list.push(entry.clone());
    };
    for entry in wanted {
        if found.contains(entry) {
            plan.right += 1;
        } else {
            update(&entry.owner, entry, true);
        }
    }
    for entry in found.iter().filter(|entry| !wanted.contains(entry)) {
        if named(entry) {
            update(&entry.owner, entry, false);
        } else {
            plan.left.push(entry.clone());
        }
    }
    plan
}

/// The message that does it (RFC 2136 §2.5): a record is removed by class `NONE`, added by class `IN`. Repeating it changes nothing.
pub fn message(update: &ZoneUpdate) -> Message {
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Update;
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(update.zone.clone(), RecordType::SOA));
    for entry in &update.remove {
        let mut record = Wire::from_rdata(entry.owner.clone(), 0, entry.data.clone());
        record.dns_class = DNSClass::NONE;
        message.add_authority(record);
    }
    for entry in &update.add {
        message.add_authority(Wire::from_rdata(entry.owner.clone(), TTL, entry.data.clone()));
    }
    message
}

/// Why an update was not done. Each names zone and server, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Another secret under the key's name.
    #[error(
        "TSIG key rejected (BADSIG): the server of zone `{zone}` has another secret for the key `{key}`\n  hint: take the key file that the server has"
    )]
    BadSignature {
        /// The zone.
        zone: String,
        /// The key's name.
        key: String,
    },
    /// No key of this name and algorithm.
    #[error(
        "TSIG key rejected (BADKEY): the server of zone `{zone}` knows no key `{key}` of this algorithm\n  hint: name and algorithm in the key file must be those of the server's configuration"
    )]
    BadKey {
        /// The zone.
        zone: String,
        /// The key's name.
        key: String,
    },
    /// The clocks disagree.
    #[error(
        "TSIG key rejected (BADTIME): the clock of the server of zone `{zone}` and this machine's are more than five minutes apart\n  hint: set whichever is wrong"
    )]
    BadTime {
        /// The zone.
        zone: String,
    },
    /// The key may not do this.
    #[error(
        "the server refuses the update of zone `{zone}` (REFUSED)\n  hint: allow it there, in BIND by `update-policy` or `allow-update {{ key \"{key}\"; }};` of that zone. A server without updates, as dnsmasq, says the same: for it there is `kiln dns emit`"
    )]
    Refused {
        /// The zone.
        zone: String,
        /// The key's name.
        key: String,
    },
    /// It is not this zone's server.
    #[error("the server is not the primary of zone `{zone}` ({code})\n  hint: name the primary: --server IP")]
    NotPrimary {
        /// The zone.
        zone: String,
        /// What it said.
        code: String,
    },
    /// It has no such thing as updates.
    #[error(
        "the server of zone `{zone}` takes no dynamic updates (NOTIMP)\n  hint: `kiln dns emit` says the records in the words of its configuration"
    )]
    NotImplemented {
        /// The zone.
        zone: String,
    },
    /// It tried and failed.
    #[error(
        "the server of zone `{zone}` could not do the update (SERVFAIL)\n  hint: its log says why; BIND must be able to write beside the zone's file"
    )]
    Failed {
        /// The zone.
        zone: String,
    },
    /// Anything else.
    #[error("the server answers the update of zone `{zone}` by `{code}`\n  hint: its log says why")]
    Other {
        /// The zone.
        zone: String,
        /// What it said.
        code: String,
    },
}

/// Whether an answer says that the update of `zone` was done. Whose answer it is, its signature must have shown; a rejection needs none.
///
/// # Errors
/// When it says anything else.
pub fn judge(zone: &Name, key: &str, answer: &Message) -> Result<(), Rejection> {
    let zone = zone.to_ascii().trim_end_matches('.').to_owned();
    let (key, code) = (key.to_owned(), answer.metadata.response_code);
    match answer.signature().and_then(|signature| signature.data.error) {
        Some(TsigError::BadSig) => return Err(Rejection::BadSignature { zone, key }),
        Some(TsigError::BadKey) => return Err(Rejection::BadKey { zone, key }),
        Some(TsigError::BadTime) => return Err(Rejection::BadTime { zone }),
        Some(other @ (TsigError::BadTrunc | TsigError::Unknown(_))) => {
            return Err(Rejection::Other { zone, code: format!("TSIG error {}", u16::from(other)) });
        }
        None => {}
    }
    if code == ResponseCode::NoError {
        return Ok(());
    }
    Err(if code == ResponseCode::Refused {
        Rejection::Refused { zone, key }
    } else if code == ResponseCode::NotAuth || code == ResponseCode::NotZone {
        Rejection::NotPrimary { zone, code: code.to_str().to_owned() }
    } else if code == ResponseCode::NotImp {
        Rejection::NotImplemented { zone }
    } else if code == ResponseCode::ServFail {
        Rejection::Failed { zone }
    } else {
        Rejection::Other { zone, code: code.to_str().to_owned() }
    })
}

#[cfg(test)]
mod tests;
