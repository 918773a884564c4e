//! What is wrong with a file of the operator's: every problem at once, each with its line and what to do about it.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt;

/// One thing that is wrong in one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, as the operator named it.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Dotted path of the field; members of an array are counted from 1: `node[2].address`. Empty for the whole file.
    pub field: String,
    /// What is wrong, as a fact.
    pub what: String,
    /// What the operator can do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  hint: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// All problems of a file, in the order of their lines. As an error it prints them all; never empty when used as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.0.first().map_or("", |p| p.file.as_str());
        match self.0.len() {
            1 => write!(f, "one problem in `{file}`")?,
            n => write!(f, "{n} problems in `{file}`")?,
        }
        self.0.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_every_problem_with_its_line_and_hint() {
        let problem = |line, field: &str, remedy: &str| Problem {
            file: "profiles/x.toml".into(),
            line,
            field: field.into(),
            what: "`10.0.0.300` is not an IP address".into(),
            remedy: remedy.into(),
        };
        let problems = Problems(vec![problem(3, "network.gateway", ""), problem(12, "node[2].address", "mend it")]);
        assert_eq!(
            problems.to_string(),
            "2 problems in `profiles/x.toml`\n\
             profiles/x.toml:3: network.gateway: `10.0.0.300` is not an IP address\n\
             profiles/x.toml:12: node[2].address: `10.0.0.300` is not an IP address\n  hint: mend it"
        );
    }
}
