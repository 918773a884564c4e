//! Exit codes, and the errors that choose them.
//!
//! 0 done, 1 failed, 2 usage (clap's), 75 try again, 78 refused: the last two as in `sysexits.h`, which systemd also reads.

use std::io;
use std::process::ExitCode;

/// A choice not to act: what was asked would break a rule. Exit code 78.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}\n  hint: {remedy}")]
pub struct Refusal {
    /// What was seen and which rule it breaks.
    pub what: String,
    /// What the operator can do.
    pub remedy: String,
}

impl Refusal {
    /// A refusal with its remedy.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// Something that is not there yet; the same command may do later. Exit code 75.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TryAgain(pub String);

/// A command on a node that failed: its exit code becomes ours, as it does where the command takes our place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{line}` ended with exit code {code} on `{node}`")]
pub struct Ended {
    code: i64,
    line: String,
    node: String,
}

impl Ended {
    /// `line` ended with `code` on `node`.
    pub fn with(code: i64, line: &str, node: &str) -> Self {
        Self { code, line: line.to_owned(), node: node.to_owned() }
    }
}

/// The exit code of a command that ended with `error`.
pub fn code(error: &anyhow::Error) -> ExitCode {
    if let Some(ended) = error.downcast_ref::<Ended>() {
        // Outside of a byte only for an end that the guest agent could not name.
        u8::try_from(ended.code).map_or(ExitCode::FAILURE, ExitCode::from)
    } else if is::<Refusal>(error) {
        ExitCode::from(78)
    } else if is::<TryAgain>(error) {
        ExitCode::from(75)
    } else {
        ExitCode::FAILURE
    }
}

/// Whether the reader of our output went away, as in `kiln plan lab | head`: nothing to complain about.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

fn is<E: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> bool {
    error.downcast_ref::<E>().is_some() || error.chain().any(|e| e.is::<E>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn finds_the_code_under_any_context() {
        let refused = Err::<(), _>(Refusal::new("the members changed", "mint a new generation"));
        let error = refused.context("minting").context("running").unwrap_err();
        assert_eq!(format!("{:?}", code(&error)), format!("{:?}", ExitCode::from(78)));
        assert_eq!(format!("{error:#}"), "running: minting: the members changed\n  hint: mint a new generation");
        let later = anyhow::Error::new(TryAgain("no host answers".into()));
        assert_eq!(format!("{:?}", code(&later)), format!("{:?}", ExitCode::from(75)));
        let ended = |code| anyhow::Error::new(Ended::with(code, "test -e /x", "etcd1"));
        assert_eq!(format!("{:?}", code(&ended(42))), format!("{:?}", ExitCode::from(42)));
        assert_eq!(format!("{:?}", code(&ended(-1))), format!("{:?}", ExitCode::FAILURE));
        assert_eq!(format!("{:?}", code(&anyhow::anyhow!("x"))), format!("{:?}", ExitCode::FAILURE));
    }
}
