//! What the rules of hygiene say of a base, found once for each base; and the gate that an image passes before it is made.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the base's tar and the files of the image")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;

use crate::disk::{self, Content, TreeEntry};
use crate::exit::Refusal;
use crate::hygiene::{self, Allowance, Finding, Looked};

/// The findings in the entry.
pub const FINDINGS: &str = "findings.json";
/// What the base lists, as one digest ([`disk::list_of`]): an image reads no more of its base than that.
pub const LISTED: &str = "listed";

/// Looks at every file of a base and writes down what breaks a rule: that is not an error yet, for the image may replace the file.
///
/// # Errors
/// When the tar cannot be read.
pub fn make(base_tar: &Path, dir: &Path) -> Result<Vec<String>> {
    let findings = look_into(base_tar).with_context(|| format!("looking into `{}`", base_tar.display()))?;
    fs_err::write(dir.join(FINDINGS), serde_json::to_string_pretty(&findings)? + "\n")?;
    fs_err::write(dir.join(LISTED), disk::list_of(base_tar)?.to_string())?;
    Ok(Vec::new())
}

/// What the base lists, by the entry in `dir`; nothing in one of an older kiln.
///
/// # Errors
/// When it cannot be read.
pub fn listed(dir: &Path) -> Result<Option<Sha256Digest>> {
    match fs_err::read_to_string(dir.join(LISTED)) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("reading `{}`", dir.join(LISTED).display()))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn look_into(base_tar: &Path) -> Result<Vec<Finding>> {
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, fs_err::File::open(base_tar)?));
    let (mut findings, mut bytes) = (Vec::new(), Vec::new());
    for member in archive.entries()? {
        let mut member = member?;
        let path = member.path()?.to_string_lossy().trim_start_matches("./").trim_matches('/').to_owned();
        let mode = member.header().mode()?;
        match member.header().entry_type() {
            tar::EntryType::Directory => findings.extend(hygiene::look(&path, mode, Looked::Directory)),
            tar::EntryType::Regular => {
                bytes.clear();
                member.read_to_end(&mut bytes)?;
                findings.extend(hygiene::look(&path, mode, Looked::File(&bytes)));
            }
            // A hard link is looked at where it points; links, devices and pipes hold nothing.
            _ => {}
        }
    }
    findings.sort();
    Ok(findings)
}

/// Lets an image pass if neither what stays of its base nor its own files break a rule, but for what its definition allows.
///
/// # Errors
/// A [`Refusal`] with every finding and every allowance that nothing needs; when a file cannot be read.
pub fn gate(base_findings: &Path, entries: &[TreeEntry], allow: &[Allowance]) -> Result<()> {
    let text = fs_err::read(base_findings)?;
    let base: Vec<Finding> =
        serde_json::from_slice(&text).with_context(|| format!("reading `{}`", base_findings.display()))?;
    let own: BTreeMap<&str, &TreeEntry> = entries.iter().map(|e| (e.path.as_str(), e)).collect();
    let mut findings: Vec<Finding> = base.into_iter().filter(|f| !is_replaced(&own, &f.path)).collect();
    for (path, entry) in &own {
        findings.extend(look_at(path, entry)?);
    }
    hygiene::judge(findings, allow).map_err(|unclean| {
        let remedy = "leave it out; what must stay is named with its reason: allow = [{ path, rule, reason }] under [hygiene] in the image definition";
        Refusal::new(unclean.to_string(), remedy).into()
    })
}

/// Whether something of the base goes because one of the image's own files takes its place, or that of a directory above it.
fn is_replaced(own: &BTreeMap<&str, &TreeEntry>, path: &str) -> bool {
    let hides = |path: &str| own.get(path).is_some_and(|e| e.content != Content::Directory);
    hides(path) || path.match_indices('/').any(|(at, _)| hides(&path[..at]))
}

fn look_at(path: &str, entry: &TreeEntry) -> Result<Vec<Finding>> {
    Ok(match &entry.content {
        Content::Directory => hygiene::look(path, entry.mode, Looked::Directory),
        Content::Symlink(_) => Vec::new(),
        Content::Bytes(bytes) => hygiene::look(path, entry.mode, Looked::File(bytes)),
        Content::File(from) => hygiene::look(path, entry.mode, Looked::File(&fs_err::read(from)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hygiene::Rule;

    fn base(dir: &Path) -> std::path::PathBuf {
        let tar = dir.join("base.tar");
        let mut builder = tar::Builder::new(fs_err::File::create(&tar).unwrap());
        let mut header = tar::Header::new_gnu();
        for (path, mode, bytes) in
            [("./etc/machine-id", 0o644, "abc\n"), ("./var/log/a", 0o644, ""), ("./opt/x", 0o666, "fine")]
        {
            header.set_mode(mode);
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes.as_bytes()).unwrap();
        }
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        builder.append_link(&mut header, "./etc/link", "x").unwrap();
        builder.finish().unwrap();
        tar
    }

    #[test]
    fn what_the_image_replaces_counts_no_more_and_what_it_adds_does() {
        let dir = tempfile::tempdir().unwrap();
        make(&base(dir.path()), dir.path()).unwrap();
        let findings = dir.path().join(FINDINGS);
        let program = dir.path().join("program");
        fs_err::write(&program, format!("{}{}", "AKIA", "ABCDEFGHIJ234567")).unwrap();
        let entries = [
            TreeEntry::file("etc/machine-id", ""),
            // In place of a directory, so what was below it goes.
            TreeEntry { content: Content::Symlink("x".into()), ..TreeEntry::file("var/log", "") },
            TreeEntry::program("usr/bin/p", &program),
        ];
        let refusal = gate(&findings, &entries, &[]).unwrap_err().downcast::<Refusal>().unwrap();
        assert_eq!(
            refusal.what,
            "the image would hold what must not be in one:\n  /opt/x: a file that everybody may write [world-writable]\n  \
             /usr/bin/p: an access key of AWS [secret]"
        );
        let allow = |path: &str, rule| Allowance { path: path.into(), rule, reason: "a test".into() };
        let allowed = [allow("opt/x", Rule::WorldWritable), allow("usr/bin/p", Rule::Secret)];
        gate(&findings, &entries, &allowed).unwrap();
        let everything = gate(&findings, &[], &allowed).unwrap_err().to_string();
        for part in ["/etc/machine-id", "/var/log/a", "/usr/bin/p: allowed, and breaks no rule [secret]"] {
            assert!(everything.contains(part), "{everything}");
        }
    }
}
