//! What can go wrong with one question to the API, and what the operator can do about it.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeMap;

use crate::exit::{Refusal, TryAgain};

/// One question that was not answered as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// No answer came, or half of one.
    #[error("`{endpoint}` does not answer {question}: {cause}{}", tls_hint(.cause))]
    Silent {
        /// The URL of the API.
        endpoint: String,
        /// Verb and path.
        question: String,
        /// What the system said.
        cause: String,
    },
    /// The API said no.
    #[error("`{endpoint}` answers {question} with {status}: {message}{}", parameters(.errors))]
    Status {
        /// The URL of the API.
        endpoint: String,
        /// Verb and path.
        question: String,
        /// The HTTP status; Proxmox has some of its own, such as 595 for a node that another one cannot reach.
        status: u16,
        /// What it said, in one line.
        message: String,
        /// What it said of single parameters.
        errors: BTreeMap<String, String>,
    },
    /// The answer is not what the API's schema promises.
    #[error("`{endpoint}` answers {question} with something else than the API promises: {cause}")]
    Garbled {
        /// The URL of the API.
        endpoint: String,
        /// Verb and path.
        question: String,
        /// What is wrong with it.
        cause: String,
    },
}

fn tls_hint(cause: &str) -> &'static str {
    if cause.contains("certificate") {
        "\n  hint: is that the host you mean? If its certificate was renewed, give the profile the new `ca_file` or `fingerprint`, fetched on the host itself"
    } else {
        ""
    }
}

fn parameters(errors: &BTreeMap<String, String>) -> String {
    errors.iter().map(|(name, what)| format!("\n  `{name}`: {}", what.trim())).collect()
}

impl Fault {
    /// Whether asking the same again may help. Only for questions that change nothing.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            // A certificate does not become another one.
            Self::Silent { cause, .. } => !cause.contains("certificate"),
            // 595 and 596: the server that was asked could not reach the node, or was cut off by it.
            Self::Status { status, .. } => matches!(status, 502..=504 | 595 | 596),
            Self::Garbled { .. } => false,
        }
    }

    /// Whether the API says that there is no such thing.
    pub(super) fn says(&self, text: &str) -> bool {
        match self {
            Self::Status { message, errors, .. } => message.contains(text) || errors.values().any(|e| e.contains(text)),
            Self::Silent { .. } | Self::Garbled { .. } => false,
        }
    }

    /// The error for the operator: with a remedy, and the exit code that fits. `user` is the token's user.
    pub(super) fn into_error(self, user: &str) -> anyhow::Error {
        let Self::Status { status, message, .. } = &self else { return anyhow::Error::new(self) };
        let text = self.to_string();
        match status {
            401 => Refusal::new(
                text,
                format!("the API token is not known or has ended: `pveum user token list {user}`; make a new one and write it into `token_file`"),
            )
            .into(),
            403 => Refusal::new(text, "ask for what is missing: `kiln plan` names each privilege and the `pveum` line that grants it").into(),
            _ if ["got timeout", "can't lock file", "is locked", "checksum missmatch", "modified configuration"]
                .iter()
                .any(|sign| message.contains(sign)) =>
            {
                anyhow::Error::new(self).context(TryAgain("somebody else is at work on the machine; try again".into()))
            }
            _ if self.may_pass() => anyhow::Error::new(self).context(TryAgain("the host is busy; try again".into())),
            _ => anyhow::Error::new(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, message: &str) -> Fault {
        let (endpoint, question) = ("https://pve1:8006".to_owned(), "GET /version".to_owned());
        Fault::Status { endpoint, question, status, message: message.into(), errors: BTreeMap::new() }
    }

    #[test]
    fn says_what_to_do_and_when_to_come_again() {
        let refused = |fault: Fault| fault.into_error("kiln@pve").downcast::<Refusal>().unwrap().remedy;
        assert!(refused(status(401, "invalid token value!")).contains("pveum user token list kiln@pve"));
        assert!(refused(status(403, "Permission check failed")).contains("kiln plan"));
        for later in [
            status(500, "can't lock file '/var/lock/x' - got timeout"),
            status(595, "no route"),
            status(500, "VM is locked (backup)"),
        ] {
            assert!(later.into_error("u").downcast_ref::<TryAgain>().is_some());
        }
        assert!(status(500, "no space left").into_error("u").downcast_ref::<Fault>().is_some());
        assert!(status(503, "").may_pass() && !status(500, "").may_pass());
    }
}
