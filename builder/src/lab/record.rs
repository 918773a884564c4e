//! What a lab remembers on disk: what it was made from and how its DNS is bent. What runs is never remembered, it is looked at.
#![expect(clippy::disallowed_methods, reason = "an edge: reads and writes the lab's record")]

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::dns::Bends;
use crate::exit::TryAgain;

/// How nodes are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// QEMU by a libvirt of the lab's own, from the baked disk image
    Vm,
    /// systemd-nspawn on the root file system of the baked image: starts in about a second
    Container,
    /// Empty hypervisors, one for each host of the profile; the machines on them are made by `kiln deploy --lab`
    #[value(skip)]
    Hosts,
}

/// The image a lab runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabImage {
    /// Its key in the store.
    pub key: String,
    /// The disk, raw: what containers mount.
    pub raw: Utf8PathBuf,
    /// The disk, qcow2: what VMs lie over.
    pub qcow2: Utf8PathBuf,
}

/// `lab.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// 1.
    pub schema: u32,
    /// The profile's name.
    pub profile: String,
    /// How its nodes are run.
    pub driver: Driver,
    /// What they run.
    pub image: LabImage,
    /// What those run, by node, that have been reimaged with something else since.
    #[serde(default)]
    pub reimaged: BTreeMap<String, LabImage>,
    /// How its DNS differs from the profile.
    #[serde(default)]
    pub bends: Bends,
    /// The DNS server was stopped by the operator; `up` does not start it.
    #[serde(default)]
    pub dns_stopped: bool,
    /// The VXLAN between the hosts was cut by the operator; `up` does not mend it.
    #[serde(default)]
    pub network_cut: bool,
}

impl Record {
    /// The record of the lab in `dir`; nothing when there is none.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn read(dir: &Utf8Path) -> anyhow::Result<Option<Self>> {
        let file = dir.join("lab.json");
        if !file.exists() {
            return Ok(None);
        }
        let record: Self = serde_json::from_slice(&fs_err::read(&file)?)
            .with_context(|| format!("reading the lab's record `{file}`\n  hint: `kiln lab down` removes the lab"))?;
        match record.schema {
            1 => Ok(Some(record)),
            other => bail!("the lab's record `{file}` has schema {other}, this kiln knows 1"),
        }
    }

    /// What the node of this name, and its clone, runs.
    pub fn image_of(&self, node: &str) -> &LabImage {
        self.reimaged.get(node).unwrap_or(&self.image)
    }

    /// Has the node of this name run `image` from its next start on.
    pub fn set_image(&mut self, node: &str, image: LabImage) {
        if image.key == self.image.key {
            self.reimaged.remove(node);
        } else {
            self.reimaged.insert(node.to_owned(), image);
        }
    }

    /// Writes it, by one rename.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, dir: &Utf8Path) -> anyhow::Result<()> {
        let (new, file) = (dir.join("lab.json.new"), dir.join("lab.json"));
        let text = serde_json::to_vec_pretty(self).context("writing the lab's record")?;
        fs_err::write(&new, text)?;
        Ok(fs_err::rename(new, file)?)
    }
}

/// Keeps a second kiln from changing the same lab, or the same cluster's machines; let go when dropped or when kiln ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] Flock<std::fs::File>);

impl Lock {
    /// Takes the lock of the lab in `dir`, which is made if need be.
    ///
    /// # Errors
    /// [`TryAgain`] when another kiln has it.
    pub fn take(dir: &Utf8Path) -> anyhow::Result<Self> {
        fs_err::create_dir_all(dir)?;
        let path = dir.join("lock");
        let file = fs_err::OpenOptions::new().create(true).append(true).open(&path)?.into_file();
        let busy = || TryAgain(format!("another kiln is at work in `{dir}`"));
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Err(busy().into()) };
        // `down` may have removed the file between opening and locking it: then this lock keeps nobody out.
        let same = |meta: &std::fs::Metadata, held: &std::fs::Metadata| {
            use std::os::unix::fs::MetadataExt as _;
            (meta.dev(), meta.ino()) == (held.dev(), held.ino())
        };
        match (fs_err::metadata(&path), lock.metadata()) {
            (Ok(meta), Ok(held)) if same(&meta, &held) => Ok(Self(lock)),
            _ => Err(busy().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::dns::{Bend, Bent};

    fn image(key: &str) -> LabImage {
        LabImage { key: key.into(), raw: format!("/{key}/disk.raw").into(), qcow2: format!("/{key}/disk.qcow2").into() }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(scratch.path()).unwrap();
        assert_eq!(Record::read(dir).unwrap(), None);
        let bend = Bend { pointer: Some(Bent::Dropped), ..Bend::default() };
        let record = Record {
            schema: 1,
            profile: "lab".into(),
            driver: Driver::Container,
            image: image("k"),
            reimaged: BTreeMap::from([("etcd2".into(), image("l"))]),
            bends: Bends::from([("etcd1".into(), bend)]),
            dns_stopped: true,
            network_cut: true,
        };
        record.write(dir).unwrap();
        assert_eq!(Record::read(dir).unwrap(), Some(record.clone()));

        let mut record = record;
        assert_eq!([record.image_of("etcd1"), record.image_of("etcd2")], [&image("k"), &image("l")]);
        record.set_image("etcd2", image("k"));
        record.set_image("etcd1", image("m"));
        assert_eq!(record.reimaged, BTreeMap::from([("etcd1".into(), image("m"))]));
    }

    #[test]
    fn only_one_kiln_works_on_a_lab() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(scratch.path()).unwrap();
        let first = Lock::take(dir).unwrap();
        let error = Lock::take(dir).unwrap_err();
        assert!(error.is::<TryAgain>(), "{error}");
        drop(first);
        Lock::take(dir).unwrap();
    }
}
