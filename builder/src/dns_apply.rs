//! Writes a cluster's records into the zones of DNS servers, by dynamic updates (RFC 2136) that a key signs.
#![expect(clippy::disallowed_methods, reason = "an edge: reads a key file, and which servers this machine asks")]

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::resolv;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::clock;
use crate::dns_exchange::{ask, deliver, understood};
use crate::dns_key::UpdateKey;
use crate::dns_records::{Record, records, reverse_name};
use crate::dns_update::{Entry, UpdatePlan, ZoneUpdate, in_full, judge, message, plan};
use crate::exit::Refusal;
use crate::profile::Profile;

/// DNS's own port.
const PORT: u16 = 53;
/// Largest key file read, bytes. BIND's longest secret makes one of a tenth of that.
const LARGEST_KEY: u64 = 4096;
/// Servers that answer for the reverse zones of private addresses where nobody else does (RFC 7534). Nobody's update is meant for them.
const NOBODYS: &str = "iana.org";

/// Reads a key file, which only its owner may be able to read.
///
/// # Errors
/// A [`Refusal`] when others may read it; else when it is not there or holds no key.
pub fn read_key(path: &Utf8Path) -> Result<UpdateKey> {
    let file = fs_err::File::open(path).context("reading the key for updates")?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Refusal::new(
            format!("the key file `{path}` is for others to read too (mode {mode:04o}): whoever has read it can change the zone"),
            format!("chmod 600 {path}, and draw a new key if others are on this machine"),
        )
        .into());
    }
    // As large as it can get, so that no half-filled copy is left behind.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(LARGEST_KEY)?));
    file.take(LARGEST_KEY).read_to_string(&mut text).with_context(|| format!("reading the key file `{path}`"))?;
    let form = "a key file is what `tsig-keygen` prints, and what the server has of it";
    UpdateKey::parse(&text).map_err(|problem| anyhow::anyhow!("the key file `{path}`: {problem}\n  hint: {form}"))
}

/// What is to be done, and at which servers.
#[derive(Debug)]
pub struct Prepared {
    plan: UpdatePlan,
    zones: Vec<Zone>,
}

/// A zone and where it is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Zone {
    name: Name,
    primary: SocketAddr,
}

/// What an update is about, to print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Whether anything was sent.
    pub dry_run: bool,
    /// By zone; those where all is right are not there.
    pub zones: Vec<ZoneSummary>,
    /// How many records were right already.
    pub right: usize,
    /// Stale records that nobody named.
    pub left: Vec<String>,
}

/// What is changed in one zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ZoneSummary {
    /// The zone.
    pub zone: String,
    /// Its primary.
    pub server: IpAddr,
    /// Records added.
    pub added: Vec<String>,
    /// Records removed.
    pub removed: Vec<String>,
}

impl Summary {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for zone in &self.zones {
            let will = if self.dry_run { "would be told" } else { "told" };
            text.push_str(&format!("zone {} at {}, {will}:\n", zone.zone, zone.server));
            for (sign, lines) in [('-', &zone.removed), ('+', &zone.added)] {
                lines.iter().for_each(|line| text.push_str(&format!("  {sign} {line}\n")));
            }
        }
        text.push_str(&format!("{} records are right already\n", self.right));
        for line in &self.left {
            text.push_str(&format!("stale, and left: {line}\n"));
        }
        if !self.left.is_empty() {
            text.push_str("  hint: --prune NODE removes what is about a node, or in the place of what is\n");
        }
        text
    }
}

/// Looks what must be told to whom, and tells nothing. `server` is asked, and is every zone's primary; with none, the servers of this machine
/// are asked who is. `pruned` names nodes whose stale records go, also nodes that are no longer in the profile.
///
/// # Errors
/// A [`Refusal`] when a name to prune is outside the cluster's domain, or there is no server to ask; [`crate::exit::TryAgain`] when one is
/// silent; else when nobody has a zone for the records.
pub fn prepare(profile: &Profile, server: Option<IpAddr>, pruned: &[Fqdn]) -> Result<Prepared> {
    let domain = in_full(profile.domain.as_str());
    if let Some(stranger) = pruned.iter().find(|name| !domain.zone_of(&in_full(name.as_str()))) {
        return Err(Refusal::new(
            format!("`{stranger}` is not in `{}`, the domain of `{}`", profile.domain, profile.name),
            "only records of this cluster are removed",
        )
        .into());
    }
    let records = records(profile);
    let wanted: Vec<Entry> = records.iter().map(Entry::of).collect();
    let mut search = Search { server, resolvers: Vec::new(), zones: Vec::new(), found: Vec::new() };
    if server.is_none() {
        search.resolvers = own_resolvers()?;
    }
    for record in &records {
        let owner = in_full(&record.owner());
        match record {
            // Of the other family too: a node that goes by both is found by both.
            Record::Address { .. } => {
                search.look(&owner, RecordType::A)?;
                search.look(&owner, RecordType::AAAA)?;
            }
            Record::Pointer { .. } => search.look(&owner, RecordType::PTR)?,
            Record::Service { .. } => search.look(&owner, RecordType::SRV)?,
        }
    }
    for gone in pruned {
        search.look_for_gone(&in_full(gone.as_str()))?;
    }
    let zone_of = |owner: &Name| search.known(owner).map_or_else(Name::root, |zone| zone.name.clone());
    let plan = plan(&wanted, &search.found, pruned, zone_of);
    Ok(Prepared { plan, zones: search.zones })
}

impl Prepared {
    /// What there is to do, or was done.
    pub fn summary(&self, dry_run: bool) -> Summary {
        let lines = |entries: &[Entry]| entries.iter().map(ToString::to_string).collect();
        let of_zone = |update: &ZoneUpdate| ZoneSummary {
            zone: update.zone.to_ascii().trim_end_matches('.').to_owned(),
            server: self.primary(update).ip(),
            added: lines(&update.add),
            removed: lines(&update.remove),
        };
        Summary {
            dry_run,
            zones: self.plan.updates.iter().map(of_zone).collect(),
            right: self.plan.right,
            left: lines(&self.plan.left),
        }
    }

    /// Nothing has to be told.
    pub fn is_empty(&self) -> bool {
        self.plan.updates.is_empty()
    }

    fn primary(&self, update: &ZoneUpdate) -> SocketAddr {
        let zone = self.zones.iter().find(|zone| zone.name == update.zone);
        zone.expect("every update is of a zone that was found").primary
    }

    /// Tells each primary, zone by zone. What one zone was told stays told when the next one's server refuses; the same command goes on there.
    ///
    /// # Errors
    /// A [`crate::dns_update::Rejection`] when a server does not do it, [`crate::exit::TryAgain`] when it is silent, and when an answer is not signed
    /// by the key: then nobody knows whose it is.
    pub fn tell(&self, key: &UpdateKey) -> Result<()> {
        for update in &self.plan.updates {
            let (zone, primary) = (&update.zone, self.primary(update));
            tell(update, primary, key).with_context(|| format!("updating zone `{zone}` at {primary}"))?;
        }
        Ok(())
    }
}

fn tell(update: &ZoneUpdate, primary: SocketAddr, key: &UpdateKey) -> Result<()> {
    let mut message = message(update);
    let now = u64::try_from(clock::now()).context("the clock stands before 1970")?;
    let mut verifier =
        message.finalize(&key.signer()?, now).context("signing an update")?.context("nothing was signed")?;
    let bytes = deliver(primary, &message.to_vec().context("wording an update")?)?;
    let answer = understood(&bytes)?;
    // A rejection is believed as it is: nothing is done on its word. A server that did not know the key cannot sign one.
    judge(&update.zone, &key.name(), &answer)?;
    if let Err(e) = verifier.verify(&bytes) {
        bail!(
            "the answer that the update was done is not signed by the key `{}`: {e}\n  hint: something between here and {primary} answers in its place",
            key.name()
        );
    }
    Ok(())
}

fn own_resolvers() -> Result<Vec<IpAddr>> {
    let text = fs_err::read_to_string("/etc/resolv.conf").context("reading which DNS servers this machine asks")?;
    let servers = resolv::parse_nameservers(&text);
    if servers.is_empty() {
        return Err(Refusal::new(
            "`/etc/resolv.conf` names no DNS server but this machine",
            "name the primary: --server IP",
        )
        .into());
    }
    Ok(servers)
}

/// Zones and records as they are found.
struct Search {
    server: Option<IpAddr>,
    resolvers: Vec<IpAddr>,
    zones: Vec<Zone>,
    found: Vec<Entry>,
}

impl Search {
    fn known(&self, owner: &Name) -> Option<&Zone> {
        let around = self.zones.iter().filter(|zone| zone.name.zone_of(owner));
        around.max_by_key(|zone| zone.name.num_labels())
    }

    /// Finds the zone of a name, and what its primary holds of this type under it.
    fn look(&mut self, owner: &Name, kind: RecordType) -> Result<()> {
        let primary = self.zone(owner)?.primary;
        for record in of_primary(primary, owner, kind)? {
            let entry = Entry { owner: owner.clone(), data: record };
            if !self.found.contains(&entry) {
                self.found.push(entry);
            }
        }
        Ok(())
    }

    /// The addresses of a node that may have left, and the pointers at these that are still to it.
    fn look_for_gone(&mut self, node: &Name) -> Result<()> {
        self.look(node, RecordType::A)?;
        self.look(node, RecordType::AAAA)?;
        let addresses: Vec<IpAddr> =
            self.found.iter().filter(|entry| entry.owner == *node).filter_map(|entry| entry.data.ip_addr()).collect();
        for address in addresses {
            let owner = in_full(&reverse_name(address));
            // An address elsewhere, whose reverse zone is nobody's or somebody else's, has nothing of ours.
            let Ok(zone) = self.zone(&owner) else { continue };
            for data in of_primary(zone.primary, &owner, RecordType::PTR)? {
                let entry = Entry { owner: owner.clone(), data };
                if matches!(&entry.data, RData::PTR(name) if name.0 == *node) && !self.found.contains(&entry) {
                    self.found.push(entry);
                }
            }
        }
        Ok(())
    }

    /// The zone a name is in: the closest one above it that a server has a start of authority for.
    fn zone(&mut self, owner: &Name) -> Result<Zone> {
        if let Some(zone) = self.known(owner) {
            return Ok(zone.clone());
        }
        let (name, primary) = self.start_of_authority(owner)?;
        let primary = match self.server {
            Some(server) => server,
            None => self.address(&name, &primary)?,
        };
        let zone = Zone { name, primary: SocketAddr::new(primary, PORT) };
        self.zones.push(zone.clone());
        Ok(zone)
    }

    fn start_of_authority(&self, owner: &Name) -> Result<(Name, Name)> {
        let mut name = owner.clone();
        while !name.is_root() {
            let answer = self.ask(&name, RecordType::SOA)?;
            for record in answer.answers.iter().chain(&answer.authorities) {
                let RData::SOA(start) = &record.data else { continue };
                // Above a zone that nobody has, the next one answers that there is none.
                if !record.name.is_root() && record.name.zone_of(owner) && !in_full(NOBODYS).zone_of(&start.mname) {
                    return Ok((record.name.clone(), start.mname.clone()));
                }
            }
            name = name.base_name();
        }
        let asked = self.asked().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        bail!(
            "no zone for `{owner}`: {asked} knows no start of authority (SOA) for it or above\n  hint: create the zone, or name its primary: --server IP. dnsmasq and others that have no zones take no updates; for them there is `kiln dns emit`"
        )
    }

    fn address(&self, zone: &Name, primary: &Name) -> Result<IpAddr> {
        for kind in [RecordType::A, RecordType::AAAA] {
            let answer = self.ask(primary, kind)?;
            if let Some(address) = answer.answers.iter().find_map(|record| record.data.ip_addr()) {
                return Ok(address);
            }
        }
        bail!("the primary of zone `{zone}`, `{primary}`, has no address\n  hint: name it: --server IP")
    }

    fn asked(&self) -> Vec<IpAddr> {
        self.server.map_or_else(|| self.resolvers.clone(), |server| vec![server])
    }

    /// Asks one after the other until one answers.
    fn ask(&self, name: &Name, kind: RecordType) -> Result<Message> {
        let mut failure = None;
        for server in self.asked() {
            match ask(SocketAddr::new(server, PORT), &question(name, kind, true)) {
                Ok(answer) => return Ok(answer),
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.context("there is no server to ask")?)
    }
}

fn question(name: &Name, kind: RecordType, recursive: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = recursive;
    message.add_query(Query::query(name.clone(), kind));
    message
}

/// What a primary holds of one type under one name.
fn of_primary(primary: SocketAddr, owner: &Name, kind: RecordType) -> Result<Vec<RData>> {
    let answer = ask(primary, &question(owner, kind, false))?;
    let code = answer.metadata.response_code;
    if code != ResponseCode::NoError && code != ResponseCode::NXDomain {
        bail!(
            "the DNS server {primary} answers `{}` when asked for `{owner}` {kind}\n  hint: it must be the primary of that zone and answer this machine; another one is named by --server IP",
            code.to_str()
        );
    }
    let ours = answer.answers.into_iter().filter(|record| record.name == *owner && record.record_type() == kind);
    Ok(ours.map(|record| record.data).collect())
}
