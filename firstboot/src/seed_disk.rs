//! Unpacking the seed: a raw ustar archive read straight from its disk, into a directory that only the agent can read.
#![expect(clippy::disallowed_methods, reason = "an edge: the seed is read and unpacked here")]

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::disk_fact::SeedFact;
use crate::durable;
use crate::paths::{FIRSTBOOT_UID, Paths, SEED_SERIAL};
use crate::seed::{FILES, HEADER, MAX_BYTES, SeedHeader};

/// Where the seed is, in a container: a container has no disks.
pub const CONTAINER_SEED: &str = "run/kiln-seed.tar";

/// Unpacks the seed of this node once per boot, and says how that went.
pub fn ensure_unpacked(paths: &Paths, container: bool) -> SeedFact {
    if paths.seed_dir().join(HEADER).exists() {
        return SeedFact::Unpacked;
    }
    let source = if container { paths.root().join(CONTAINER_SEED) } else { paths.disk(SEED_SERIAL) };
    if !source.exists() {
        return SeedFact::Absent(if container {
            format!("`{}` does not exist", source.display())
        } else {
            format!("no disk has the serial `{SEED_SERIAL}` (`{}` does not exist)", source.display())
        });
    }
    match unpack(paths, &source) {
        Ok(()) => SeedFact::Unpacked,
        Err(error) => SeedFact::Unreadable(format!("{error:#}")),
    }
}

/// The header of the unpacked seed.
///
/// # Errors
/// When there is none, or it is none.
pub fn read_header(paths: &Paths) -> anyhow::Result<SeedHeader> {
    let text = fs_err::read_to_string(paths.seed_dir().join(HEADER))?;
    serde_json::from_str(&text).with_context(|| format!("reading `{HEADER}` of the seed"))
}

fn unpack(paths: &Paths, source: &Path) -> anyhow::Result<()> {
    let file = fs_err::File::open(source)?;
    let files = read_archive(file).with_context(|| format!("reading the seed from `{}`", source.display()))?;
    let beside = PathBuf::from(format!("{}.new", paths.seed_dir().display()));
    if beside.exists() {
        fs_err::remove_dir_all(&beside)?;
    }
    fs_err::create_dir_all(&beside)?;
    for (name, bytes) in &files {
        durable::replace(&beside.join(name), bytes, 0o400)?;
        give_to_agent(&beside.join(name))?;
    }
    fs_err::set_permissions(&beside, std::fs::Permissions::from_mode(0o500))?;
    give_to_agent(&beside)?;
    fs_err::rename(&beside, paths.seed_dir())?;
    Ok(())
}

/// Only root can give a file away; a test that is not root keeps it.
fn give_to_agent(path: &Path) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    chown(path, Some(FIRSTBOOT_UID), Some(FIRSTBOOT_UID))
        .with_context(|| format!("giving `{}` to the agent", path.display()))
}

/// Reads a seed: exactly the files a seed has, each once, plain, and together no larger than a seed may be.
///
/// # Errors
/// Anything else. Never a partial seed.
pub fn read_archive(reader: impl Read) -> anyhow::Result<BTreeMap<&'static str, Vec<u8>>> {
    let mut archive = tar::Archive::new(reader.take(MAX_BYTES));
    let mut files = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry.context("reading the archive")?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let Some(name) = FILES.into_iter().find(|name| *name == path) else {
            bail!("it has the file `{path}`, which no seed has")
        };
        ensure!(entry.header().entry_type().is_file(), "`{name}` in it is not a plain file");
        let mut bytes = Vec::new();
        let want = entry.size();
        entry.read_to_end(&mut bytes)?;
        ensure!(bytes.len() as u64 == want, "`{name}` in it is cut short");
        ensure!(files.insert(name, bytes).is_none(), "it has `{name}` twice");
    }
    if let Some(missing) = FILES.into_iter().find(|name| !files.contains_key(name)) {
        bail!("it has no `{missing}`");
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_ustar();
            header.set_size(3);
            header.set_mode(0o400);
            builder.append_data(&mut header, name, &b"abc"[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn reads_exactly_a_seed_and_ignores_the_rest_of_the_disk() {
        let mut disk = archive(&FILES);
        disk.resize(1 << 20, 0xff);
        let files = read_archive(disk.as_slice()).unwrap();
        assert_eq!(files.keys().copied().collect::<std::collections::BTreeSet<_>>(), FILES.into_iter().collect());
        assert_eq!(files[HEADER], b"abc");
    }

    #[test]
    fn refuses_anything_else() {
        let refusal = |bytes: &[u8]| format!("{:#}", read_archive(bytes).unwrap_err());
        assert_eq!(refusal(&archive(&FILES[..8])), "it has no `client-revoked.crl`");
        assert_eq!(refusal(&archive(&[&FILES[..], &["extra"]].concat())), "it has the file `extra`, which no seed has");
        assert_eq!(refusal(&archive(&[&FILES[..], &[HEADER]].concat())), "it has `seed.json` twice");
        assert_eq!(refusal(&[0; 4096]), "it has no `seed.json`");
        assert!(refusal(&[b'x'; 4096]).starts_with("reading the archive"));
        let whole = archive(&FILES);
        assert!(!refusal(&whole[..700]).is_empty());
    }
}
