//! Whether DNS servers say what a cluster lives by. Asks them one by one, for a node may ask any of them.
#![expect(clippy::disallowed_methods, reason = "an edge: reads which servers this machine asks")]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_firstboot::dns::Dns;
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::observation::{Lookup, SrvTarget};
use kiln_firstboot::resolv;
use serde::Serialize;

use crate::dns_format::reverse_zone;
use crate::dns_records::{Record, records};
use crate::exit::Refusal;
use crate::profile::Profile;

/// How long a change may take to be everywhere, seconds. A secondary that is told of it has it in one or two.
const SPREADING_SECS: u32 = 30;

/// What servers said of the cluster's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsReport {
    /// The servers that were asked, in the order of the answers.
    pub servers: Vec<IpAddr>,
    /// A row per name and type.
    pub rows: Vec<DnsRow>,
}

/// What each server said of one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsRow {
    /// The name.
    pub name: String,
    /// `A`, `AAAA`, `PTR` or `SRV`.
    pub kind: &'static str,
    /// What must be there, sorted.
    pub expected: Vec<String>,
    /// By server, in order.
    pub answers: Vec<Verdict>,
}

/// What one server said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// Exactly what must be there.
    Right,
    /// Something else, sorted; empty when there is nothing.
    Wrong {
        /// What it said.
        said: Vec<String>,
    },
    /// It did not say: nobody may take that for "nothing".
    Unknown {
        /// Why not.
        why: String,
    },
}

impl DnsReport {
    /// Every server says exactly what must be there.
    pub fn is_right(&self) -> bool {
        self.rows.iter().flat_map(|row| &row.answers).all(|verdict| *verdict == Verdict::Right)
    }

    /// For people: a row per name, a column per server, and under it what is wrong.
    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        let servers = self.servers.iter().map(ToString::to_string);
        table.set_header(["name".to_owned(), "type".to_owned()].into_iter().chain(servers));
        let mut wrong = String::new();
        for row in &self.rows {
            let word = |verdict: &Verdict| match verdict {
                Verdict::Right => "ok",
                Verdict::Wrong { said } if said.is_empty() => "missing",
                Verdict::Wrong { .. } => "wrong",
                Verdict::Unknown { .. } => "no answer",
            };
            let words = row.answers.iter().map(|verdict| word(verdict).to_owned());
            table.add_row([row.name.clone(), row.kind.to_owned()].into_iter().chain(words));
            for (server, verdict) in self.servers.iter().zip(&row.answers) {
                let what = match verdict {
                    Verdict::Right => continue,
                    Verdict::Wrong { said } if said.is_empty() => "has nothing".to_owned(),
                    Verdict::Wrong { said } => format!("says {}", said.join(", ")),
                    Verdict::Unknown { why } => why.clone(),
                };
                let (name, kind) = (&row.name, row.kind);
                wrong.push_str(&format!("{name} {kind} at {server}: {what}; it must be {}\n", row.expected.join(", ")));
            }
        }
        format!("{table}\n{wrong}")
    }
}

/// Asks `servers` for every record of the profile; with none given, the servers that this machine asks and those that are authoritative
/// for the cluster's zones.
///
/// # Errors
/// A [`Refusal`] when there is no server to ask.
pub async fn check(profile: &Profile, servers: &[IpAddr]) -> Result<DnsReport> {
    let servers = if servers.is_empty() { all_servers(profile).await? } else { servers.to_vec() };
    // Records of one name and type are one question.
    let (mut questions, mut rows): (Vec<Record>, Vec<DnsRow>) = Default::default();
    for record in records(profile) {
        let (name, kind, data) = (record.owner(), record.kind(), content(&record));
        if let Some(row) = rows.iter_mut().find(|row| row.name == name && row.kind == kind) {
            row.expected.push(data);
        } else {
            rows.push(DnsRow { name, kind, expected: vec![data], answers: Vec::new() });
            questions.push(record);
        }
    }
    rows.iter_mut().for_each(|row| row.expected.sort());
    for server in &servers {
        let dns = Dns::new(&[*server]);
        for (row, question) in rows.iter_mut().zip(&questions) {
            row.answers.push(judge(ask(&dns, profile, question).await, &row.expected));
        }
    }
    Ok(DnsReport { servers, rows })
}

/// As [`check`], again and again until every server says what it must, or for half a minute and more: secondaries hear of a change after their primary,
/// and a resolver keeps for a while what it was told before. The last report.
///
/// # Errors
/// As [`check`].
pub async fn check_until_right(profile: &Profile, servers: &[IpAddr]) -> Result<DnsReport> {
    for _ in 0..SPREADING_SECS {
        let report = check(profile, servers).await?;
        // Whoever is silent will not be right in a second either, and takes long to be asked.
        let silent = report.rows.iter().flat_map(|row| &row.answers).any(|v| matches!(v, Verdict::Unknown { .. }));
        if silent || report.is_right() {
            return Ok(report);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    check(profile, servers).await
}

/// The servers this machine asks, and behind them those that the zones name.
async fn all_servers(profile: &Profile) -> Result<Vec<IpAddr>> {
    let text = fs_err::read_to_string("/etc/resolv.conf").context("reading which DNS servers this machine asks")?;
    let mut servers = resolv::parse_nameservers(&text);
    if servers.is_empty() {
        return Err(
            Refusal::new("`/etc/resolv.conf` names no DNS server but this machine", "name them: --server IP").into()
        );
    }
    let resolvers = Dns::new(&servers);
    for zone in [profile.domain.to_string(), reverse_zone(&profile.network.subnet)] {
        for host in resolvers.authorities(&zone).await.answers() {
            let Ok(host) = Fqdn::parse(host) else { continue };
            for address in resolvers.addresses(&host).await.answers() {
                if !servers.contains(address) {
                    servers.push(*address);
                }
            }
        }
    }
    Ok(servers)
}

/// What a record says, as [`ask`] reads it.
fn content(record: &Record) -> String {
    match record {
        Record::Address { address, .. } => address.to_string(),
        Record::Pointer { name, .. } => name.to_string(),
        Record::Service { target, port, .. } => format!("{target}:{port}"),
    }
}

async fn ask(dns: &Dns, profile: &Profile, record: &Record) -> Lookup<String> {
    let services = |lookup: Lookup<SrvTarget>| strings(lookup, |found| format!("{}:{}", found.target, found.port));
    match record {
        Record::Address { name, .. } => strings(dns.addresses(name).await.into_lookup(), ToString::to_string),
        Record::Pointer { address, .. } => strings(dns.pointers(*address).await.into_lookup(), Clone::clone),
        Record::Service { owner, .. } if owner.starts_with(crate::dns_records::PEER_SERVICE) => {
            services(dns.services(&profile.domain).await.into_lookup())
        }
        Record::Service { .. } => services(dns.client_services(&profile.domain).await.into_lookup()),
    }
}

fn strings<T>(lookup: Lookup<T>, text: impl Fn(&T) -> String) -> Lookup<String> {
    match lookup {
        Lookup::Found(found) => Lookup::Found(found.iter().map(text).collect()),
        Lookup::None => Lookup::None,
        Lookup::Failed(why) => Lookup::Failed(why),
    }
}

/// Names are compared as DNS does, without regard to case.
fn judge(lookup: Lookup<String>, expected: &[String]) -> Verdict {
    let mut said = match lookup {
        Lookup::Found(said) => said,
        Lookup::None => Vec::new(),
        Lookup::Failed(why) => return Verdict::Unknown { why },
    };
    said.iter_mut().for_each(|text| text.make_ascii_lowercase());
    said.sort();
    if said == expected { Verdict::Right } else { Verdict::Wrong { said } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_neither_right_nor_missing() {
        let expected = ["etcd1.lab.kiln.test".to_owned()];
        let judged = |lookup| judge(lookup, &expected);
        assert_eq!(judged(Lookup::Found(vec!["ETCD1.lab.kiln.test".into()])), Verdict::Right);
        assert_eq!(judged(Lookup::None), Verdict::Wrong { said: Vec::new() });
        assert_eq!(judged(Lookup::Failed("SERVFAIL".into())), Verdict::Unknown { why: "SERVFAIL".into() });
        let more = vec!["etcd1.lab.kiln.test".to_owned(), "old.lab.kiln.test".into()];
        assert_eq!(judged(Lookup::Found(more.clone())), Verdict::Wrong { said: more }, "one too many is wrong");
    }

    #[test]
    fn a_table_says_what_is_wrong_and_where() {
        let row = |answers| DnsRow { name: "a.b".into(), kind: "A", expected: vec!["10.0.0.1".into()], answers };
        let servers = vec!["10.0.0.53".parse().unwrap(), "10.0.0.54".parse().unwrap()];
        let wrong = Verdict::Wrong { said: vec!["10.0.0.2".into()] };
        let report = DnsReport { servers, rows: vec![row(vec![Verdict::Right, wrong])] };
        assert!(!report.is_right());
        assert!(
            report.table().ends_with("a.b A at 10.0.0.54: says 10.0.0.2; it must be 10.0.0.1\n"),
            "{}",
            report.table()
        );
    }
}
