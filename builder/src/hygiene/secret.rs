//! Finding secrets in the bytes of a file by what they look like.
//!
//! Programs that read keys hold the words that keys begin with, so a header alone is no finding: key material must follow. Pure.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::seed;

/// What a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A private key, PEM or OpenPGP armour.
    PrivateKey,
    /// An identity of age.
    AgeKey,
    /// An access key of AWS.
    AwsKey,
    /// A token of GitHub.
    GithubToken,
    /// The seed of a node.
    Seed,
}

impl Kind {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::PrivateKey => "a private key",
            Self::AgeKey => "a secret key of age",
            Self::AwsKey => "an access key of AWS",
            Self::GithubToken => "a token of GitHub",
            Self::Seed => "the seed of a node",
        }
    }
}

/// How kinds begin, and what must follow. The first [`WINDOW`] bytes of each are what is searched for.
const MARKS: [(&[u8], Kind); 5] = [
    (b"-----BEGIN ", Kind::PrivateKey),
    (b"AGE-SECRET-KEY-1", Kind::AgeKey),
    (b"AKIA", Kind::AwsKey),
    (b"ASIA", Kind::AwsKey),
    (b"ghp_", Kind::GithubToken),
];

/// The shortest mark.
const WINDOW: usize = 4;

/// How far the window may move on when it ends in a byte, by Horspool's rule over all marks: most bytes are in none, so that three of
/// four are never looked at.
const SHIFTS: [u8; 256] = {
    let mut shifts = [4; 256];
    let mut mark = 0;
    while mark < MARKS.len() {
        let mut at = 0;
        while at < WINDOW {
            let byte = MARKS[mark].0[at] as usize;
            // At most 3, and 0 for a mark's last byte.
            #[expect(clippy::cast_possible_truncation, reason = "less than four")]
            let shift = (WINDOW - 1 - at) as u8;
            if shift < shifts[byte] {
                shifts[byte] = shift;
            }
            at += 1;
        }
        mark += 1;
    }
    shifts
};

/// The kinds of secrets in a file's bytes, each once, sorted.
pub fn find(bytes: &[u8]) -> Vec<Kind> {
    let mut found = Vec::new();
    if is_seed(bytes) {
        found.push(Kind::Seed);
    }
    let mut end = WINDOW - 1;
    while let Some(byte) = bytes.get(end) {
        let shift = usize::from(SHIFTS[usize::from(*byte)]);
        if shift > 0 {
            end += shift;
            continue;
        }
        let rest = &bytes[end + 1 - WINDOW..];
        let before = (end + 1).checked_sub(WINDOW + 1).map(|at| bytes[at]);
        for (mark, kind) in MARKS {
            if rest.starts_with(mark) && !found.contains(&kind) && follows(kind, before, &rest[mark.len()..]) {
                found.push(kind);
            }
        }
        end += 1;
    }
    found.sort();
    found
}

/// Whether what comes after a mark makes it a secret.
fn follows(kind: Kind, before: Option<u8>, rest: &[u8]) -> bool {
    let apart = |length: usize, fits: fn(u8) -> bool| {
        let run = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        run == length && rest[..run].iter().all(|b| fits(*b)) && !before.is_some_and(|b| b.is_ascii_alphanumeric())
    };
    match kind {
        Kind::PrivateKey => private_key(rest),
        // Bech32 in capitals: 58 digits.
        Kind::AgeKey => rest.len() >= 58 && rest[..58].iter().all(|b| b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L".contains(b)),
        Kind::AwsKey => apart(16, |b| b.is_ascii_uppercase() || b.is_ascii_digit()),
        Kind::GithubToken => apart(36, |b| b.is_ascii_alphanumeric()),
        Kind::Seed => false,
    }
}

/// The rest of a header, the end of its line (also as two characters, in JSON), and base64 or a header of the old kind.
fn private_key(rest: &[u8]) -> bool {
    let label = rest.iter().take_while(|b| b.is_ascii_uppercase() || **b == b' ' || b.is_ascii_digit()).count();
    let (label, rest) = rest.split_at(label);
    if !label.ends_with(b"PRIVATE KEY") && !label.ends_with(b"PRIVATE KEY BLOCK") {
        return false;
    }
    let Some(mut rest) = rest.strip_prefix(b"-----") else { return false };
    let mut lines = 0;
    loop {
        rest = match rest {
            [b'\n' | b'\r' | b' ' | b'\t', after @ ..] => after,
            [b'\\', b'n' | b'r', after @ ..] => after,
            _ => break,
        };
        lines += 1;
    }
    let base64 = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || b"+/=".contains(b)).count();
    let old = [&b"Proc-Type:"[..], b"Version:", b"Comment:"].iter().any(|header| rest.starts_with(header));
    lines > 0 && (base64 >= 24 || old)
}

/// A ustar archive that begins with a seed's first file.
fn is_seed(bytes: &[u8]) -> bool {
    let name = seed::HEADER.as_bytes();
    bytes.get(257..262) == Some(b"ustar") && bytes.starts_with(name) && bytes.get(name.len()) == Some(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A secret of every kind, put together here so that this file holds none.
    fn planted() -> Vec<(Vec<u8>, Kind)> {
        let begin = |label: &str| format!("-----BEGIN {label}-----");
        let body = "MC4CAQAwBQYDK2VwBCIEIJ";
        let mut seed = vec![0; 512];
        seed[..seed::HEADER.len()].copy_from_slice(seed::HEADER.as_bytes());
        seed[257..262].copy_from_slice(b"ustar");
        vec![
            (format!("{}\n{body}{body}\n", begin("PRIVATE KEY")).into(), Kind::PrivateKey),
            (format!("{}\r\n{body}{body}\r\n", begin("EC PRIVATE KEY")).into(), Kind::PrivateKey),
            (format!("{{\"k\":\"{}\\n{body}{body}\"}}", begin("OPENSSH PRIVATE KEY")).into(), Kind::PrivateKey),
            (format!("{}\nProc-Type: 4,ENCRYPTED\n", begin("RSA PRIVATE KEY")).into(), Kind::PrivateKey),
            (format!("{}\n\n{body}{body}\n", begin("PGP PRIVATE KEY BLOCK")).into(), Kind::PrivateKey),
            (format!("AGE-SECRET-{}{}", "KEY-1", "Q".repeat(58)).into(), Kind::AgeKey),
            (format!("id = {}{}\n", "AKIA", "ABCDEFGHIJ234567").into(), Kind::AwsKey),
            (format!("{}{}", "ASIA", "ABCDEFGHIJ234567").into(), Kind::AwsKey),
            (format!("{}{}", "ghp_", "a1".repeat(18)).into(), Kind::GithubToken),
            (seed, Kind::Seed),
        ]
    }

    #[test]
    fn what_only_talks_of_keys_is_none() {
        let begin = |label: &str| format!("-----BEGIN {label}-----");
        for harmless in [
            format!("{}\0{}\0", begin("RSA PRIVATE KEY"), begin("EC PRIVATE KEY")),
            format!("{}\nMC4CAQAwBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7\n", begin("PUBLIC KEY")),
            format!("looks like {} and so on", begin("PRIVATE KEY")),
            "AGE-SECRET-KEY-1...".to_owned(),
            "XAKIAABCDEFGHIJ234567 AKIAABCDEFGHIJ234567X AKIAabcdefghij234567".to_owned(),
            "ghp_".to_owned(),
            "seed.json".to_owned(),
        ] {
            assert_eq!(find(harmless.as_bytes()), [], "{harmless}");
        }
    }

    proptest! {
        #[test]
        fn a_secret_is_found_wherever_it_lies(before in "[\\x00-\\x7f]{0,40}", after: u8, which in 0..10usize) {
            let (secret, kind) = planted().swap_remove(which);
            let bytes = if kind == Kind::Seed {
                // Only a whole archive is a seed.
                secret
            } else {
                [before.as_bytes(), b"\n", &secret, b"\n", &[after]].concat()
            };
            prop_assert!(find(&bytes).contains(&kind));
        }

        #[test]
        fn any_bytes_are_searched_to_their_end(bytes: Vec<u8>) {
            // Bytes at random hold no secret but by a miracle.
            prop_assert_eq!(find(&bytes), []);
        }
    }
}
