//! The one place where the agent starts processes.
#![expect(clippy::disallowed_methods, reason = "the one place a process is started")]

use std::process::{Command, Stdio};

/// Longest part of a program's output that goes into an error.
const LAST_WORDS: usize = 600;

/// A program with its arguments, run to its end with no input and a plain locale.
#[derive(Clone, Debug)]
pub struct Program {
    argv: Vec<String>,
}

/// What a program that could be started left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its output.
    pub stdout: String,
    /// Its complaints.
    pub stderr: String,
}

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started at all.
    #[error("starting `{0}`")]
    Start(String, #[source] std::io::Error),
    /// It ended with another code than 0.
    #[error("`{line}` ended with {ended}: {said}")]
    Ended {
        /// The command line.
        line: String,
        /// `code 1`, or `a signal`.
        ended: String,
        /// The end of what it said.
        said: String,
    },
}

impl Program {
    /// `name`, found on the path.
    pub fn new(name: &str) -> Self {
        Self { argv: vec![name.to_owned()] }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Runs it and hands back whatever it ended with.
    ///
    /// # Errors
    /// Only when it cannot be started.
    pub fn run(&self) -> Result<Ran, ProgramError> {
        let (name, args) = self.argv.split_first().expect("a program has a name");
        let output = Command::new(name)
            .args(args)
            .stdin(Stdio::null())
            .env("LC_ALL", "C")
            .output()
            .map_err(|error| ProgramError::Start(name.clone(), error))?;
        Ok(Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it and hands back its output.
    ///
    /// # Errors
    /// When it cannot be started or does not end with code 0.
    pub fn read(&self) -> Result<String, ProgramError> {
        let ran = self.run()?;
        match ran.code {
            Some(0) => Ok(ran.stdout),
            Some(_) | None => Err(self.ended(&ran)),
        }
    }

    /// The error for an end that the caller does not accept.
    pub fn ended(&self, ran: &Ran) -> ProgramError {
        let said = if ran.stderr.trim().is_empty() { ran.stdout.trim() } else { ran.stderr.trim() };
        let from = said.char_indices().rev().take(LAST_WORDS).last().map_or(0, |(at, _)| at);
        ProgramError::Ended {
            line: self.argv.join(" "),
            ended: ran.code.map_or("a signal".into(), |code| format!("code {code}")),
            said: said[from..].replace('\n', "; "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_missing_program_from_a_failing_one() {
        assert!(
            matches!(Program::new("/nonexistent/kiln").read(), Err(ProgramError::Start(name, _)) if name == "/nonexistent/kiln")
        );
        let shell = Program::new("sh").args(["-c", "echo out; echo oops >&2; exit 3"]);
        let error = shell.read().unwrap_err().to_string();
        assert!(error.ends_with("ended with code 3: oops"), "{error}");
        assert_eq!(shell.run().unwrap(), Ran { code: Some(3), stdout: "out\n".into(), stderr: "oops\n".into() });
    }
}
