//! Why a node waits. Waiting lacks only time or somebody else's act; how long between two looks is the caller's business.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::decision::Explanation;
use crate::digest::Id128;
use crate::name::Fqdn;
use crate::state::RaftId;

/// A reason to look again later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WaitReason {
    /// The node has no address yet.
    NoAddress,
    /// No PTR record for any of the node's addresses.
    PtrMissing {
        /// The addresses asked about.
        addresses: Vec<IpAddr>,
        /// The name PTR should give.
        expected: Fqdn,
    },
    /// DNS could not be asked for the PTR.
    PtrFailed {
        /// The address asked about.
        address: IpAddr,
        /// What happened.
        error: String,
    },
    /// The seed's name has no address in DNS.
    ForwardMissing {
        /// The name.
        fqdn: Fqdn,
        /// The address it should have.
        address: IpAddr,
    },
    /// DNS could not be asked for the seed's name.
    ForwardFailed {
        /// The name.
        fqdn: Fqdn,
        /// What happened.
        error: String,
    },
    /// The name's addresses do not contain the address that PTR gave the name to.
    ForwardDiffers {
        /// The name.
        fqdn: Fqdn,
        /// The node's address.
        address: IpAddr,
        /// What the name resolves to.
        found: Vec<IpAddr>,
    },
    /// The node's confirmed address is not one the charter gives it.
    AddressNotInCharter {
        /// The address.
        address: IpAddr,
        /// The charter's.
        charter: Vec<IpAddr>,
    },
    /// etcd's one start from an empty log is under way.
    EtcdStarting {
        /// With this member id.
        member: RaftId,
    },
    /// Row 13: some members do not let a blank node go on.
    Peers(Vec<Obstacle>),
    /// Row 13: members run or hold different lineages.
    LineageConflict(Vec<LineageClaim>),
    /// Row 12, but only one member claims the lineage, and one is not enough.
    OneClaim {
        /// Who claims it.
        fqdn: Fqdn,
        /// The lineage.
        lineage: Id128,
        /// Why the others do not confirm it; those that are blank are not in it.
        silent: Vec<Obstacle>,
    },
    /// Row 14: everybody is blank and the founder has not formed yet.
    Founder {
        /// The founder.
        founder: Fqdn,
    },
    /// Row 15 but for the clock, which is before a time that has certainly passed.
    ClockBehind {
        /// The clock, Unix seconds.
        now: i64,
        /// What it must have reached.
        floor: i64,
    },
    /// Row 16: everybody is blank, but the charter's window has closed.
    WindowClosed {
        /// The clock, Unix seconds.
        now: i64,
        /// When it closed.
        form_until: i64,
        /// The charter's generation.
        generation: u64,
    },
}

/// One member that a blank node must wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Obstacle {
    /// The member.
    pub fqdn: Fqdn,
    /// What is in the way.
    pub why: ObstacleKind,
}

/// What is in the way of going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ObstacleKind {
    /// It was not asked in this round.
    NotAsked,
    /// DNS gives it no address.
    NotLocated,
    /// DNS could not be asked where it is.
    LookupFailed(String),
    /// Its agent gave no answer that could be authenticated.
    Unreachable {
        /// Where it was looked for.
        addresses: Vec<IpAddr>,
        /// What happened.
        error: String,
    },
    /// It holds data and does not serve with a quorum.
    HoldsData {
        /// Whose.
        lineage: Id128,
    },
    /// Its etcd runs, but is a learner, knows no leader, or cannot read linearizably.
    NotServing {
        /// Whose.
        lineage: Id128,
    },
    /// It is of a formation that is under way: the founder has data, and nobody knows of an activation.
    Forming {
        /// Its lineage.
        lineage: Id128,
    },
    /// It has halted, and says so.
    Halted(String),
    /// It has not halted and does not say what its volume holds: DNS has not confirmed its name yet.
    Unsure(String),
    /// It answers under another name, cluster, generation or charter.
    Disagrees {
        /// Which field.
        field: String,
        /// What it says.
        theirs: String,
        /// What this node has.
        ours: String,
    },
}

/// Which lineage a member claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageClaim {
    /// The member.
    pub fqdn: Fqdn,
    /// Its lineage.
    pub lineage: Id128,
    /// It serves with a quorum.
    pub serving: bool,
}

impl WaitReason {
    /// The row of the decision table that matched. A name that is not certain is row 1's matter, a clock that is behind row 15's.
    pub fn row(&self) -> u8 {
        match self {
            Self::NoAddress
            | Self::PtrMissing { .. }
            | Self::PtrFailed { .. }
            | Self::ForwardMissing { .. }
            | Self::ForwardFailed { .. }
            | Self::ForwardDiffers { .. }
            | Self::AddressNotInCharter { .. } => 1,
            Self::EtcdStarting { .. } => 10,
            Self::OneClaim { .. } => 12,
            Self::Peers(_) | Self::LineageConflict(_) => 13,
            Self::Founder { .. } => 14,
            Self::ClockBehind { .. } => 15,
            Self::WindowClosed { .. } => 16,
        }
    }

    /// What was seen, which rule applies, what to do.
    pub fn explain(&self) -> Explanation {
        let (seen, rule, hint) = self.sentences();
        Explanation { seen, rule: rule.into(), hint }
    }

    fn sentences(&self) -> (String, &'static str, String) {
        const NAMED: &str = "a node enters a cluster only under a name that DNS gives it, in both directions";
        let enough = "mending DNS is enough, this node keeps looking";
        match self {
            Self::NoAddress => (
                "this node has no address yet".into(),
                NAMED,
                "see to DHCP or the address in the profile, if this lasts".into(),
            ),
            Self::PtrMissing { addresses, expected } => (
                format!("DNS has no PTR record for {}", list(addresses)),
                NAMED,
                format!("add a PTR record from {} to {expected}; {enough}", list(addresses)),
            ),
            Self::PtrFailed { address, error } => (
                format!("DNS could not be asked who {address} is: {error}"),
                NAMED,
                "see to the DNS servers and the way to them, if this lasts".into(),
            ),
            Self::ForwardMissing { fqdn, address } => (
                format!("the PTR record of {address} names {fqdn}, but {fqdn} has no address in DNS"),
                NAMED,
                format!("add an address record (A or AAAA) {fqdn} {address}; {enough}"),
            ),
            Self::ForwardFailed { fqdn, error } => (
                format!("DNS could not be asked for the addresses of {fqdn}: {error}"),
                NAMED,
                "see to the DNS servers and the way to them, if this lasts".into(),
            ),
            Self::ForwardDiffers { fqdn, address, found } => (
                format!("the PTR record of {address} names {fqdn}, but {fqdn} resolves to {}", list(found)),
                NAMED,
                format!("make the address record of {fqdn} say {address}; {enough}"),
            ),
            Self::AddressNotInCharter { address, charter } => (
                format!("this node has the address {address}, the charter gives it {}", list(charter)),
                "a node's issuer signs for the charter's addresses only",
                format!("give this node the address {}, or mint a seed for {address}", list(charter)),
            ),
            Self::EtcdStarting { member } => (
                format!("etcd is starting for the first time as member {member} and has no log yet"),
                "one start from an empty log, and no second",
                "nothing to do".into(),
            ),
            Self::Peers(obstacles) => (
                obstacles.iter().map(|o| o.seen()).collect::<Vec<_>>().join("; "),
                "silence is never evidence: a blank node joins a running cluster, or waits until every member of the charter is heard",
                obstacles.iter().map(|o| o.hint()).collect::<Vec<_>>().join("; "),
            ),
            Self::LineageConflict(claims) => (
                claims
                    .iter()
                    .map(|c| {
                        let how = if c.serving { "serves" } else { "holds" };
                        format!("{} {how} lineage {}", c.fqdn, c.lineage)
                    })
                    .collect::<Vec<_>>()
                    .join("; "),
                "where two histories exist, a blank node takes neither",
                "find out which lineage is the right one, and wipe the data disks of the other on purpose".into(),
            ),
            Self::OneClaim { fqdn, lineage, silent } => (
                {
                    let others = silent.iter().map(|o| format!("; {}", o.seen())).collect::<String>();
                    format!("{fqdn} alone says that it runs or holds lineage {lineage}, nobody else does{others}")
                },
                "where three or more are to be members, a lineage is joined on the word of two, never of one (of the founder alone only while the cluster forms)",
                match &silent[..] {
                    [] => format!(
                        "the others say that they are blank: find out what {fqdn} runs before anything is wiped or formed"
                    ),
                    silent => silent.iter().map(|o| o.hint()).collect::<Vec<_>>().join("; "),
                },
            ),
            Self::Founder { founder } => (
                format!("every member is blank, and {founder} has not formed the cluster yet"),
                "only the founder forms",
                format!("if this lasts, see what {founder} waits for"),
            ),
            Self::ClockBehind { now, floor } => (
                format!("the clock says {}, which is before {}", minute(*now), utc(*floor)),
                "nothing is formed by a clock that is certainly wrong",
                "see to NTP or the host's clock".into(),
            ),
            Self::WindowClosed { now, form_until, generation } => (
                format!(
                    "every member is blank, but the charter's window closed at {}; it is {}",
                    utc(*form_until),
                    minute(*now)
                ),
                "after the window no empty cluster takes the place of one that may have been lost",
                format!(
                    "if there was data, restore it; if there never was, mint the charter of generation {}",
                    generation.saturating_add(1)
                ),
            ),
        }
    }
}

impl Obstacle {
    fn seen(&self) -> String {
        let fqdn = &self.fqdn;
        match &self.why {
            ObstacleKind::NotAsked => format!("{fqdn} was not asked"),
            ObstacleKind::NotLocated => format!("DNS has no address for {fqdn}"),
            ObstacleKind::LookupFailed(why) => format!("DNS could not be asked where {fqdn} is: {why}"),
            ObstacleKind::Unreachable { addresses, error } => {
                format!("{fqdn} at {} does not answer: {error}", list(addresses))
            }
            ObstacleKind::HoldsData { lineage } => {
                format!("{fqdn} holds data of lineage {lineage} and has no quorum to serve it")
            }
            ObstacleKind::NotServing { lineage } => format!("{fqdn} runs lineage {lineage} but does not serve it yet"),
            ObstacleKind::Forming { lineage } => {
                format!("{fqdn} forms the cluster, lineage {lineage}, but does not serve it yet")
            }
            ObstacleKind::Halted(why) => format!("{fqdn} has halted: {why}"),
            ObstacleKind::Unsure(why) => format!("{fqdn} does not say yet whether it is blank: {why}"),
            ObstacleKind::Disagrees { field, theirs, ours } => {
                format!("{fqdn} answers with {field} `{theirs}`, this node has `{ours}`")
            }
        }
    }

    fn hint(&self) -> String {
        let fqdn = &self.fqdn;
        match &self.why {
            ObstacleKind::NotAsked => format!("nothing to do for {fqdn} yet"),
            ObstacleKind::NotLocated => format!("add an address record (A or AAAA) for {fqdn}"),
            ObstacleKind::LookupFailed(_) => "see to the DNS servers and the way to them, if this lasts".into(),
            ObstacleKind::Unreachable { .. } => {
                format!("start {fqdn}, or see to the way to its port {}", crate::paths::AGENT_PORT)
            }
            ObstacleKind::HoldsData { .. } => {
                format!("start the other members that hold data, so that {fqdn} serves again; {}", way_out(fqdn))
            }
            ObstacleKind::NotServing { .. } => {
                format!(
                    "see what {fqdn} waits for, if this lasts; if it lacks a majority, start the other members that hold data; {}",
                    way_out(fqdn)
                )
            }
            ObstacleKind::Forming { .. } | ObstacleKind::Unsure(_) => {
                format!("if this lasts, see what {fqdn} waits for")
            }
            ObstacleKind::Halted(_) => format!("mend {fqdn} first"),
            ObstacleKind::Disagrees { .. } => format!("give {fqdn} and this node seeds of the same minting"),
        }
    }
}

/// What is left to an operator when the disks of a majority are gone and `fqdn` has the data. Nothing here is ever done by an agent.
pub(crate) fn way_out(fqdn: &Fqdn) -> String {
    format!(
        "if those disks are gone for good, save the data of {fqdn} first (`etcd/member/snap/db` on its data disk); then give this cluster up on purpose: \
         mint the charter's next generation (`kiln pki init --generation`), wipe every data disk, and copy the saved keys into the cluster that forms \
         (`etcdutl snapshot restore` beside it, then `etcdctl make-mirror`)"
    )
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// As [`utc`], to the minute: what is told again and again must not be another sentence every second.
pub(crate) fn minute(seconds: i64) -> String {
    utc(seconds - seconds.rem_euclid(60))
}

/// Unix seconds as `2026-11-22 15:00:00 UTC`.
pub fn utc(seconds: i64) -> String {
    match time::OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(t) => {
            let (h, m, s) = t.to_hms();
            format!("{} {h:02}:{m:02}:{s:02} UTC", t.date())
        }
        Err(_) => format!("{seconds} seconds after 1970"),
    }
}
