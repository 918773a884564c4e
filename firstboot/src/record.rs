//! What kiln keeps in etcd, all under `/kiln/`. Evidence for agents and operators; no decision rests on it alone.

use serde::{Deserialize, Serialize};

use crate::digest::{Id128, Sha256Digest};
use crate::grant::Removal;
use crate::name::Fqdn;
use crate::state::RaftId;

/// Held while members are changed.
pub const LOCK: &str = "/kiln/lock";
/// Created once: which formation this is.
pub const LINEAGE: &str = "/kiln/lineage";
/// Created once: the formation is complete and clients are admitted.
pub const ACTIVATED: &str = "/kiln/activated";

/// Where a member's record is.
pub fn member_key(fqdn: &Fqdn) -> String {
    format!("/kiln/members/{fqdn}")
}

/// Where an act on the membership is noted; sorts by time.
pub fn audit_key(now: i64, act: &str, subject: &Fqdn) -> String {
    format!("{}-{act}-{subject}", audit_from(now))
}

/// What the keys of revocation lists begin with. Operators write them, agents believe what the root signed.
pub const REVOKED: &str = "/kiln/revoked/";
/// What sorts right after the last of them.
pub const REVOKED_END: &str = "/kiln/revoked0";
/// The peers' list, PEM.
pub const REVOKED_PEERS: &str = "/kiln/revoked/peers";
/// The clients' list, PEM.
pub const REVOKED_CLIENTS: &str = "/kiln/revoked/clients";

/// What every key of [`boot_key`] begins with.
pub const BOOTS: &str = "/kiln/boots/";

/// What sorts right after the last of them.
pub const BOOTS_END: &str = "/kiln/boots0";

/// Where etcd remembers the boots of a member's volume.
pub fn boot_key(fqdn: &Fqdn) -> String {
    format!("{BOOTS}{fqdn}")
}

/// The first audit key of a time or later.
pub fn audit_from(time: i64) -> String {
    format!("/kiln/audit/{:012}", time.max(0))
}

/// What sorts right after the last audit key.
pub const AUDIT_END: &str = "/kiln/audit0";

/// The act of [`Audit`] for a voter that is about to be removed.
pub const REMOVE_VOTER: &str = "remove-voter";

/// The removal that an audit key and its value note; none when they note something else.
///
/// # Errors
/// When the key notes a removal and cannot be read: a rule that counts removals must not overlook one.
pub fn parse_removal(key: &[u8], value: &[u8]) -> Result<Option<Removal>, AuditError> {
    let bad = || AuditError(String::from_utf8_lossy(key).into_owned());
    let text = std::str::from_utf8(key).map_err(|_| bad())?;
    let Some((time, rest)) = text.strip_prefix("/kiln/audit/").and_then(|rest| rest.split_once('-')) else {
        return Ok(None);
    };
    if !rest.starts_with(REMOVE_VOTER) {
        return Ok(None);
    }
    let at = time.parse().map_err(|_| bad())?;
    let audit: Audit = serde_json::from_slice(value).map_err(|_| bad())?;
    Ok(Some(Removal { fqdn: audit.subject, member: audit.member.ok_or_else(bad)?, at }))
}

/// An audit key that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit record `{0}` in etcd cannot be read")]
pub struct AuditError(pub String);

/// Value of [`LINEAGE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageRecord {
    /// The cluster.
    pub cluster: Id128,
    /// The charter's generation.
    pub generation: u64,
    /// The formation.
    pub lineage: Id128,
    /// The charter's digest.
    pub charter: Sha256Digest,
}

/// Value of [`member_key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRecord {
    /// The volume it was added with.
    pub instance: Id128,
    /// Its raft id.
    pub member: RaftId,
    /// Unix seconds.
    pub since: i64,
}

/// Value of [`ACTIVATED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationRecord {
    /// The formation.
    pub lineage: Id128,
    /// Whose agent found it complete.
    pub by: Fqdn,
    /// Unix seconds.
    pub at: i64,
}

/// Value of [`audit_key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// `add-learner`, `remove-learner`, [`REMOVE_VOTER`] (noted before it is asked for), `remove-differing-learner`, `snapshot`, `promote`, `refuse`, `duplicate`.
    pub act: String,
    /// Whose agent.
    pub by: Fqdn,
    /// Whom it was about.
    pub subject: Fqdn,
    /// With which raft id; none where it was about no listed member.
    pub member: Option<RaftId>,
    /// Why, in a sentence; empty where the act says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Value of [`boot_key`]: the latest boot that etcd was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootRecord {
    /// The volume.
    pub instance: Id128,
    /// How many boots it had counted.
    pub boot_counter: u64,
    /// The kernel's id of that boot.
    pub boot_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{NOW, fqdn};

    #[test]
    fn a_removal_is_read_back_and_other_acts_are_passed_over() {
        let audit =
            |member| Audit { act: REMOVE_VOTER.into(), by: fqdn(1), subject: fqdn(2), member, reason: String::new() };
        let value = |member| serde_json::to_vec(&audit(member)).unwrap();
        let key = audit_key(NOW, REMOVE_VOTER, &fqdn(2));
        let read = parse_removal(key.as_bytes(), &value(Some(RaftId(7))));
        assert_eq!(read, Ok(Some(Removal { fqdn: fqdn(2), member: RaftId(7), at: NOW })));
        let other = audit_key(NOW, "remove-learner", &fqdn(2));
        assert_eq!(parse_removal(other.as_bytes(), b"anything"), Ok(None));
        assert!(parse_removal(key.as_bytes(), b"anything").is_err());
        assert!(parse_removal(key.as_bytes(), &value(None)).is_err());
    }

    #[test]
    fn audit_keys_sort_by_time_between_the_bounds() {
        let keys = [audit_from(NOW), audit_key(NOW, "promote", &fqdn(2)), audit_key(NOW + 1, "add-learner", &fqdn(1))];
        assert!(keys.is_sorted() && keys.iter().all(|key| key.as_str() < AUDIT_END));
    }
}
