//! The key by which a DNS server knows who may update it (TSIG, RFC 8945), as BIND writes it: `tsig-keygen` prints such a file.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt;

use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, TSigner};
use zeroize::Zeroizing;

use crate::base64;

/// How far the server's clock may be from ours, seconds: what RFC 8945 §10 recommends.
const FUDGE: u16 = 300;

/// A key. Its secret is wiped when it is dropped, and never printed.
pub struct UpdateKey {
    name: Name,
    algorithm: TsigAlgorithm,
    secret: Zeroizing<Vec<u8>>,
}

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// Not of the form that BIND reads.
    #[error("it is not of the form `key \"NAME\" {{ algorithm hmac-sha256; secret \"BASE64\"; }};`")]
    Form,
    /// More than one.
    #[error("it holds more than one key: keep one of them in a file of its own")]
    Several,
    /// The name cannot be a key's.
    #[error("`{0}` is no name that DNS can carry")]
    Name(String),
    /// An algorithm we do not sign by.
    #[error("its algorithm `{0}` is not one of hmac-sha256, hmac-sha384 and hmac-sha512: draw a new key")]
    Algorithm(String),
    /// The secret is empty or no base64.
    #[error("its secret is no base64")]
    Secret,
}

impl UpdateKey {
    /// Reads a file of BIND's with one `key` statement and nothing else but comments.
    ///
    /// # Errors
    /// A [`KeyProblem`], which never repeats the secret.
    pub fn parse(text: &str) -> Result<Self, KeyProblem> {
        let text = without_comments(text);
        let mut tokens = Tokens(&text);
        if tokens.word()? != "key" {
            return Err(KeyProblem::Form);
        }
        let name = tokens.word()?;
        let name = Name::from_ascii(name).map_err(|_| KeyProblem::Name(name.to_owned()))?.to_lowercase();
        let (mut algorithm, mut secret) = (None, None);
        tokens.sign('{')?;
        while tokens.sign('}').is_err() {
            let (what, value) = (tokens.word()?, tokens.word()?);
            tokens.sign(';')?;
            match what {
                "algorithm" if algorithm.is_none() => algorithm = Some(parse_algorithm(value)?),
                "secret" if secret.is_none() => {
                    let bytes = Zeroizing::new(base64::decode(value).map_err(|_| KeyProblem::Secret)?);
                    secret = Some(bytes).filter(|bytes| !bytes.is_empty());
                    secret.as_ref().ok_or(KeyProblem::Secret)?;
                }
                _ => return Err(KeyProblem::Form),
            }
        }
        tokens.sign(';')?;
        match (tokens.0.trim_start(), algorithm, secret) {
            ("", Some(algorithm), Some(secret)) => Ok(Self { name, algorithm, secret }),
            (rest, Some(_), Some(_)) if rest.starts_with("key") => Err(KeyProblem::Several),
            (_, _, _) => Err(KeyProblem::Form),
        }
    }

    /// Its name, without the final dot.
    pub fn name(&self) -> String {
        self.name.to_ascii().trim_end_matches('.').to_owned()
    }

    /// What signs by it. The library keeps a copy of the secret that it does not wipe; it lives as long as the signer.
    ///
    /// # Errors
    /// Never for a key that was parsed: all its algorithms are known.
    pub(crate) fn signer(&self) -> anyhow::Result<TSigner> {
        Ok(TSigner::new(self.secret.to_vec(), self.algorithm.clone(), self.name.clone(), FUDGE)?)
    }
}

impl fmt::Debug for UpdateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateKey").field("name", &self.name()).finish_non_exhaustive()
    }
}

fn parse_algorithm(text: &str) -> Result<TsigAlgorithm, KeyProblem> {
    match text.to_ascii_lowercase().trim_end_matches('.') {
        "hmac-sha256" => Ok(TsigAlgorithm::HmacSha256),
        "hmac-sha384" => Ok(TsigAlgorithm::HmacSha384),
        "hmac-sha512" => Ok(TsigAlgorithm::HmacSha512),
        _ => Err(KeyProblem::Algorithm(text.to_owned())),
    }
}

/// What is left to read.
struct Tokens<'a>(&'a str);

impl<'a> Tokens<'a> {
    /// A word, quoted or not.
    fn word(&mut self) -> Result<&'a str, KeyProblem> {
        let text = self.0.trim_start();
        let (word, rest) = match text.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or(KeyProblem::Form)?,
            None => text.split_at(text.find(|c: char| c.is_whitespace() || "{};\"".contains(c)).unwrap_or(text.len())),
        };
        if word.is_empty() {
            return Err(KeyProblem::Form);
        }
        self.0 = rest;
        Ok(word)
    }

    fn sign(&mut self, sign: char) -> Result<(), KeyProblem> {
        self.0 = self.0.trim_start().strip_prefix(sign).ok_or(KeyProblem::Form)?;
        Ok(())
    }
}

/// The text without `#`, `//` and `/* */`. A quoted text has none of these in it: base64 knows `/`, so only what is not quoted counts.
fn without_comments(text: &str) -> Zeroizing<String> {
    let mut kept = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with('#') || rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            let taken = match rest.strip_prefix('"').and_then(|quoted| quoted.find('"')) {
                Some(end) => end + 2,
                None => c.len_utf8(),
            };
            kept.push_str(&rest[..taken]);
            taken
        };
        rest = &rest[skipped..];
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GENERATED: &str = "key \"kiln\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0Ly8v\";\n};\n";

    #[test]
    fn reads_what_tsig_keygen_prints_and_people_write() {
        let unquoted =
            "# ours\nkey Kiln. { // one\n secret c2VjcmV0Ly8v; /* its\n algorithm */ algorithm HMAC-SHA512; };";
        for (text, algorithm) in [(GENERATED, TsigAlgorithm::HmacSha256), (unquoted, TsigAlgorithm::HmacSha512)] {
            let key = UpdateKey::parse(text).unwrap();
            assert_eq!((key.name().as_str(), key.algorithm), ("kiln", algorithm));
            assert_eq!(key.secret.as_slice(), b"secret///", "a secret may have slashes in it");
        }
    }

    #[test]
    fn names_what_is_wrong_and_never_the_secret() {
        let bent = |from: &str, to: &str| UpdateKey::parse(&GENERATED.replace(from, to)).unwrap_err();
        assert_eq!(bent("hmac-sha256", "hmac-md5"), KeyProblem::Algorithm("hmac-md5".into()));
        assert_eq!(bent("c2VjcmV0", "c2V!cmV0"), KeyProblem::Secret);
        assert_eq!(bent("c2VjcmV0Ly8v", "===="), KeyProblem::Secret);
        assert_eq!(bent("algorithm hmac-sha256;", ""), KeyProblem::Form);
        assert_eq!(bent("algorithm", "bits 7; algorithm"), KeyProblem::Form);
        assert_eq!(bent("};", "}"), KeyProblem::Form);
        assert_eq!(UpdateKey::parse(&GENERATED.repeat(2)).unwrap_err(), KeyProblem::Several);
        assert_eq!(UpdateKey::parse("").unwrap_err(), KeyProblem::Form);
        let long = "x".repeat(64);
        assert_eq!(bent("\"kiln\"", &long), KeyProblem::Name(long.clone()));
        let key = UpdateKey::parse(GENERATED).unwrap();
        assert_eq!(format!("{key:?}"), "UpdateKey { name: \"kiln\", .. }");
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "[keyalgorithmsecret \"{};/*#\n]{0,80}") {
            // Only that it comes back: it neither panics nor loops.
            let _ = UpdateKey::parse(&text);
        }
    }
}
