//! A machine's data disk as the lab keeps it: a directory for a container, a raw file for a VM. Wiped, copied, put back.
#![expect(clippy::disallowed_methods, reason = "an edge: removes and renames what holds a node's data")]

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};

use super::record::Driver;
use crate::exit::Refusal;
use crate::tool::Tool;

/// The data disk of one machine.
#[derive(Clone, Debug)]
pub struct DataDisk {
    dir: Utf8PathBuf,
    file: &'static str,
}

impl DataDisk {
    /// Of the machine whose things are in `dir`; nothing where the data are not the lab's.
    pub fn of(driver: Driver, dir: &Utf8Path) -> Option<Self> {
        let file = match driver {
            Driver::Container => "data",
            Driver::Vm => "data.raw",
            Driver::Hosts => return None,
        };
        Some(Self { dir: dir.to_owned(), file })
    }

    /// Where it is.
    pub fn path(&self) -> Utf8PathBuf {
        self.dir.join(self.file)
    }

    /// Where its checkpoint is, if it has one.
    fn checkpoint(&self) -> Utf8PathBuf {
        self.dir.join(format!("checkpoint-{}", self.file))
    }

    /// Takes it away; the machine's next start makes a blank one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn wipe(&self) -> anyhow::Result<()> {
        remove(&self.path())
    }

    /// Keeps a copy of it as it is now, in place of an earlier one.
    ///
    /// # Errors
    /// When it cannot be copied; an earlier copy stays then.
    pub fn keep(&self) -> anyhow::Result<()> {
        copy(&self.path(), &self.checkpoint())
    }

    /// That a copy is kept.
    ///
    /// # Errors
    /// [`Refusal`] when there is none.
    pub fn require_kept(&self, profile: &str, machine: &str) -> anyhow::Result<()> {
        if self.checkpoint().exists() {
            return Ok(());
        }
        let what = format!("no checkpoint was taken of `{machine}`");
        Err(Refusal::new(what, format!("kiln lab checkpoint {profile} {machine}")).into())
    }

    /// Puts the kept copy in its place. The copy stays, to be put back again.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn put_back(&self) -> anyhow::Result<()> {
        copy(&self.checkpoint(), &self.path())
    }

    /// Makes `other` a copy of it.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy_to(&self, other: &Self) -> anyhow::Result<()> {
        copy(&self.path(), &other.path())
    }
}

/// One rename at the end, so that a copy that was interrupted is never taken for a whole one.
fn copy(from: &Utf8Path, to: &Utf8Path) -> anyhow::Result<()> {
    let new = Utf8PathBuf::from(format!("{to}.new"));
    remove(&new)?;
    Tool::new("cp")
        .args(["--archive", "--reflink=auto", "--sparse=always", "--no-target-directory", from.as_str(), new.as_str()])
        .run()
        .with_context(|| format!("copying the data disk `{from}`"))?;
    remove(to)?;
    Ok(fs_err::rename(new, to)?)
}

fn remove(path: &Utf8Path) -> anyhow::Result<()> {
    match fs_err::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(found) if found.is_dir() => Ok(fs_err::remove_dir_all(path)?),
        Ok(_) => Ok(fs_err::remove_file(path)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_outlives_what_happens_to_the_disk_and_is_put_back_as_often_as_wanted() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(scratch.path()).unwrap();
        let disk = DataDisk::of(Driver::Container, dir).unwrap();
        assert!(DataDisk::of(Driver::Hosts, dir).is_none());
        let key = disk.path().join("key");
        fs_err::create_dir(disk.path()).unwrap();
        let error = disk.require_kept("t", "a1").unwrap_err();
        assert!(error.is::<Refusal>() && error.to_string().contains("no checkpoint was taken of `a1`"), "{error}");
        fs_err::write(&key, "old").unwrap();
        disk.keep().unwrap();
        disk.require_kept("t", "a1").unwrap();
        for _ in 0..2 {
            fs_err::write(&key, "new").unwrap();
            fs_err::write(disk.path().join("later"), "").unwrap();
            disk.put_back().unwrap();
            assert_eq!(fs_err::read_to_string(&key).unwrap(), "old");
            assert!(!disk.path().join("later").exists());
        }
        disk.wipe().unwrap();
        disk.wipe().unwrap();
        assert!(!disk.path().exists());
    }
}
