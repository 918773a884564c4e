//! Sums of files as `sha256sum` writes and checks them. Pure.

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;

/// The sum of one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum {
    /// Its path inside the entry.
    pub path: String,
    /// Digest of its bytes.
    pub sha256: Sha256Digest,
}

/// Sums of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums(pub Vec<Sum>);

impl Sums {
    /// As a file, by path.
    pub fn render(mut self) -> String {
        self.0.sort();
        self.0.iter().map(|sum| format!("{}  {}\n", sum.sha256, sum.path)).collect()
    }

    /// Reads what [`Sums::render`] wrote.
    ///
    /// # Errors
    /// When a line has another form.
    pub fn parse(text: &str) -> Result<Self> {
        let line = |line: &str| {
            let (sum, path) = line.split_once("  ").with_context(|| format!("`{line}` is no sum of a file"))?;
            Ok(Sum { path: path.to_owned(), sha256: sum.parse()? })
        };
        text.lines().map(line).collect::<Result<_>>().map(Self)
    }

    /// The sum of one file.
    pub fn of(&self, path: &str) -> Option<Sha256Digest> {
        self.0.iter().find(|sum| sum.path == path).map(|sum| sum.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let sum = |path: &str| Sum { path: path.into(), sha256: Sha256Digest::of(path.as_bytes()) };
        let text = Sums(vec![sum("b"), sum("a b")]).render();
        assert!(text.lines().next().unwrap().ends_with("  a b"));
        let sums = Sums::parse(&text).unwrap();
        assert_eq!((sums.of("b"), sums.of("c")), (Some(Sha256Digest::of(b"b")), None));
        assert!(Sums::parse("x  a\n").is_err() && Sums::parse("a\n").is_err());
    }
}
