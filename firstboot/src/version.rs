//! etcd versions: ordered, and grouped by the minor line that decides which flags exist.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A released etcd version, `3.6.14`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EtcdVersion {
    /// 3.
    pub major: u16,
    /// The line: 5, 6, 7.
    pub minor: u16,
    /// The patch level.
    pub patch: u16,
}

/// A text that is not `MAJOR.MINOR.PATCH`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an etcd version such as `3.6.14`")]
pub struct VersionError(pub String);

/// The minor lines whose flags kiln knows how to render.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EtcdLine {
    /// 3.5: `--experimental-*` flags, one learner at a time.
    V3_5,
    /// 3.6: feature gates, `--max-learners`.
    V3_6,
    /// 3.7: no experimental flag is left.
    V3_7,
}

impl EtcdVersion {
    /// The line this version belongs to, or nothing when kiln does not know its flags.
    pub fn line(self) -> Option<EtcdLine> {
        match (self.major, self.minor) {
            (3, 5) => Some(EtcdLine::V3_5),
            (3, 6) => Some(EtcdLine::V3_6),
            (3, 7) => Some(EtcdLine::V3_7),
            (_, _) => None,
        }
    }
}

impl fmt::Display for EtcdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for EtcdVersion {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let number = |part: Option<&str>| {
            part.filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|p| p.parse::<u16>().ok())
                .ok_or_else(|| VersionError(text.to_owned()))
        };
        let mut parts = text.split('.');
        let version = Self { major: number(parts.next())?, minor: number(parts.next())?, patch: number(parts.next())? };
        match parts.next() {
            None => Ok(version),
            Some(_) => Err(VersionError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for EtcdVersion {
    type Error = VersionError;
    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<EtcdVersion> for String {
    fn from(version: EtcdVersion) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_by_number_not_by_text() {
        let v = |t: &str| t.parse::<EtcdVersion>().unwrap();
        assert!(v("3.6.9") < v("3.6.14"));
        assert_eq!(v("3.5.30").line(), Some(EtcdLine::V3_5));
        assert_eq!(v("3.4.30").line(), None);
        for bad in ["3.6", "v3.6.1", "3.6.1-rc", "3.6.1.0", ""] {
            assert_eq!(bad.parse::<EtcdVersion>(), Err(VersionError(bad.into())));
        }
    }
}
