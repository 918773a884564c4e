//! Names of nodes in one canonical form, so that two spellings of one name can never count as two nodes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest host name in presentation form without the trailing dot (RFC 1035 §2.3.4).
const MAX_FQDN_LEN: usize = 253;
/// Longest single label (RFC 1035 §2.3.4).
const MAX_LABEL_LEN: usize = 63;

/// A fully qualified host name: lower case, no trailing dot, A-labels, at least two labels.
///
/// etcd compares certificate names case-sensitively (`isHostInDNS`), so every name that enters kiln is
/// brought into this form first and compared only in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fqdn(String);

/// Why a text is not an [`Fqdn`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but dots.
    #[error("the name is empty")]
    Empty,
    /// A single label, such as `etcd1`.
    #[error("`{0}` has no domain: write the fully qualified name, such as `{0}.example.org`")]
    Unqualified(String),
    /// Longer than DNS can carry.
    #[error("`{0}` is longer than 253 characters")]
    TooLong(String),
    /// A label that is empty, too long, or has a character that host names may not have.
    #[error("`{name}` has the label `{label}`, which is not letters, digits and inner hyphens (1 to 63 of them)")]
    Label {
        /// The whole name.
        name: String,
        /// The label at fault.
        label: String,
    },
    /// `.local` belongs to multicast DNS (RFC 6762): resolvers never ask a DNS server for it.
    #[error("`{0}` is under `.local`, which belongs to multicast DNS; use a domain that a DNS server serves")]
    Multicast(String),
}

impl Fqdn {
    /// Parses a name and brings it into canonical form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_FQDN_LEN {
            return Err(NameError::TooLong(name));
        }
        for label in name.split('.') {
            let sound = !label.is_empty()
                && label.len() <= MAX_LABEL_LEN
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !sound {
                return Err(NameError::Label { label: label.to_owned(), name });
            }
        }
        match name.rsplit_once('.') {
            None => Err(NameError::Unqualified(name)),
            Some((_, "local")) => Err(NameError::Multicast(name)),
            Some(_) => Ok(Self(name)),
        }
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first label, which is the etcd member name: `k8s0etcd1` of `k8s0etcd1.kloud.lan`.
    pub fn member_name(&self) -> &str {
        self.0.split('.').next().unwrap_or(&self.0)
    }

    /// The peer URL this node advertises.
    pub fn peer_url(&self) -> String {
        format!("https://{}:{}", self.0, crate::paths::PEER_PORT)
    }

    /// The client URL this node advertises.
    pub fn client_url(&self) -> String {
        format!("https://{}:{}", self.0, crate::paths::CLIENT_PORT)
    }
}

impl fmt::Display for Fqdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Fqdn {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Fqdn {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Fqdn> for String {
    fn from(name: Fqdn) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brings_every_spelling_into_one_form() {
        for text in ["K8s0Etcd1.Kloud.LAN", "k8s0etcd1.kloud.lan.", "k8s0etcd1.kloud.lan"] {
            assert_eq!(Fqdn::parse(text).unwrap().as_str(), "k8s0etcd1.kloud.lan");
        }
    }

    #[test]
    fn refuses_what_is_not_a_host_name() {
        assert_eq!(Fqdn::parse("."), Err(NameError::Empty));
        assert_eq!(Fqdn::parse("etcd1"), Err(NameError::Unqualified("etcd1".into())));
        assert_eq!(Fqdn::parse("a.local"), Err(NameError::Multicast("a.local".into())));
        for text in ["*.kloud.lan", "a..b", "-a.b", "a-.b", "a_b.c", "bücher.example"] {
            assert!(matches!(Fqdn::parse(text), Err(NameError::Label { .. })), "{text}");
        }
    }
}
