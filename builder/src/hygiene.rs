//! What must not be in an image: what names one machine, what lets somebody in, what is left over from making it.
//!
//! Pure: one file at a time in, findings out. [`crate::layer::hygiene`] reads the files. Not looked into: what is compressed inside a file
//! (the initrd is made from the base, which is looked at), and the EFI partition, which holds signed programs and a configuration of ours.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

pub mod secret;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Generation of the rules. Raise it when a rule becomes stricter: bases are looked at again, and images made again.
pub const RULES: u32 = 1;

/// A rule that a file of an image can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A machine id that is not empty: all nodes would have one id.
    MachineId,
    /// A key of an SSH server: all nodes could pose as each other.
    SshHostKey,
    /// A seed of the random number generator: all nodes would draw alike.
    RandomSeed,
    /// A log of the build.
    Log,
    /// Lists and caches of apt, dpkg and debconf.
    PackageCache,
    /// A password, or that none is needed.
    Password,
    /// A file, or a directory without the sticky bit, that everybody may write.
    WorldWritable,
    /// A private key, a token, or a node's seed.
    Secret,
}

impl Rule {
    /// Every rule with its word in image definitions.
    pub const WORDS: [(&'static str, Self); 8] = [
        ("machine-id", Self::MachineId),
        ("ssh-host-key", Self::SshHostKey),
        ("random-seed", Self::RandomSeed),
        ("log", Self::Log),
        ("package-cache", Self::PackageCache),
        ("password", Self::Password),
        ("world-writable", Self::WorldWritable),
        ("secret", Self::Secret),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, rule)| *rule == self).map_or("", |(word, _)| word)
    }
}

/// A file that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Its path, without a leading slash.
    pub path: String,
    /// The rule.
    pub rule: Rule,
    /// What was seen; of a secret only its kind.
    pub what: String,
}

/// Something that may break a rule, and why: `[hygiene] allow` of an image definition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// The file's path, without a leading slash; exactly this one.
    pub path: String,
    /// The rule.
    pub rule: Rule,
    /// Why, for whoever reads the definition.
    pub reason: String,
}

/// What is looked at. Symbolic links, devices and the like break no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked<'a> {
    /// A regular file with its bytes.
    File(&'a [u8]),
    /// A directory.
    Directory,
}

/// The rules that one file breaks. `path` has no leading slash, `mode` is its permission bits.
pub fn look(path: &str, mode: u32, looked: Looked<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut note = |rule, what: &str| findings.push(Finding { path: path.to_owned(), rule, what: what.to_owned() });
    let bytes = match looked {
        Looked::Directory => {
            if mode & 0o1002 == 0o002 {
                note(Rule::WorldWritable, "a directory that everybody may write, without the sticky bit");
            }
            return findings;
        }
        Looked::File(bytes) => bytes,
    };
    if mode & 0o002 != 0 {
        note(Rule::WorldWritable, "a file that everybody may write");
    }
    if let Some(rule) = by_path(path, bytes.is_empty()) {
        note(rule, of_place(rule));
    }
    if let Some(what) = password(path, bytes) {
        note(Rule::Password, &what);
    }
    for kind in secret::find(bytes) {
        note(Rule::Secret, kind.describe());
    }
    findings
}

/// The rule that a file breaks by being where it is.
fn by_path(path: &str, empty: bool) -> Option<Rule> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let below = |place: &str| path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'));
    let ids = ["etc/machine-id", "var/lib/dbus/machine-id"];
    let seeds = ["random-seed", "credential.secret"];
    match () {
        () if ids.contains(&path) => (!empty).then_some(Rule::MachineId),
        () if dir == "etc/ssh" && name.starts_with("ssh_host_") => Some(Rule::SshHostKey),
        () if seeds.contains(&name) => Some(Rule::RandomSeed),
        () if below("var/log") => Some(Rule::Log),
        // An empty file in a cache's place tells nothing: debconf's of passwords, apt's locks.
        () if ["var/lib/apt/lists", "var/cache/apt", "var/cache/debconf"].into_iter().any(below) => {
            (!empty).then_some(Rule::PackageCache)
        }
        () if dir == "var/lib/dpkg" && (name.ends_with("-old") || name == "available") => {
            (!empty).then_some(Rule::PackageCache)
        }
        () if below("var/backups") => Some(Rule::PackageCache),
        () => None,
    }
}

fn of_place(rule: Rule) -> &'static str {
    match rule {
        Rule::MachineId => "a machine id that is not empty",
        Rule::SshHostKey => "a key of an SSH server",
        Rule::RandomSeed => "a random seed",
        Rule::Log => "a log",
        Rule::PackageCache => "a cache of a package manager",
        Rule::Password => "a password",
        Rule::WorldWritable => "writable by everybody",
        Rule::Secret => "a secret",
    }
}

/// What is wrong with the second field of a line of the files that hold passwords: the first line's, named by its account.
fn password(path: &str, bytes: &[u8]) -> Option<String> {
    // In a group's line an empty field keeps strangers out; in a user's it lets everybody in. `x` in passwd: look into shadow.
    let locked: &[&str] = match path {
        "etc/shadow" | "etc/shadow-" => &["*", "!", "!*", "!!"],
        "etc/gshadow" | "etc/gshadow-" => &["*", "!", "!*", "!!", ""],
        "etc/passwd" | "etc/passwd-" => &["x", "*", "!", "!*", "!!"],
        _ => return None,
    };
    let text = String::from_utf8_lossy(bytes);
    text.lines().filter(|line| !line.is_empty()).find_map(|line| {
        let mut fields = line.split(':');
        let (account, field) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let sound = locked.contains(&field);
        let what = if field.is_empty() { "needs no password" } else { "has a password" };
        (!sound).then(|| format!("`{account}` {what}"))
    })
}

/// What remains of `findings` after the allowances, and the allowances that nothing needed. Both sorted.
pub fn judge(mut findings: Vec<Finding>, allow: &[Allowance]) -> Result<(), Unclean> {
    let fits = |f: &Finding, a: &Allowance| f.path == a.path && f.rule == a.rule;
    let mut unused: Vec<Allowance> = allow.iter().filter(|a| !findings.iter().any(|f| fits(f, a))).cloned().collect();
    findings.retain(|f| !allow.iter().any(|a| fits(f, a)));
    findings.sort();
    findings.dedup();
    unused.sort();
    if findings.is_empty() && unused.is_empty() { Ok(()) } else { Err(Unclean { findings, unused }) }
}

/// What keeps an image from being made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclean {
    /// Broken rules.
    pub findings: Vec<Finding>,
    /// Allowances for what is not there.
    pub unused: Vec<Allowance>,
}

impl std::fmt::Display for Unclean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::from("the image would hold what must not be in one:");
        if self.findings.is_empty() {
            text = "the image definition allows what is not there:".into();
        }
        for finding in &self.findings {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  /{}: {} [{}]", finding.path, finding.what, finding.rule.word());
        }
        for allowance in &self.unused {
            let _ = write!(text, "\n  /{}: allowed, and breaks no rule [{}]", allowance.path, allowance.rule.word());
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests;
