//! Images and seeds on the image storage.
//!
//! An image's file is named by the sha256 of its bytes, and the host compares that sum before the file gets its name. An upload would overwrite a file
//! of the same name without a word, so the storage is looked at first. Machines get copies of the image: no volume lies over it.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the image's file")]

use std::io::{Cursor, Read};

use anyhow::{Context as _, Result, anyhow};
use kiln_firstboot::digest::{Id128, Sha256Digest};
use serde::Deserialize;

use super::Proxmox;
use super::upload::{Counted, Upload, tell};
use crate::clock;
use crate::exit::Refusal;
use crate::host::{Collected, Image, Mark, Seed, Transfer, Watch};

/// Age in seconds from which on a seed on the image storage was left behind by somebody who is gone. An import of a seed takes seconds.
const STALE_SECS: i64 = 3600;

/// An entry of `GET /nodes/{node}/storage/{storage}/content`.
#[derive(Clone, Debug, Deserialize)]
struct Stored {
    volid: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    ctime: i64,
}

/// `GET /nodes/{node}/storage/{storage}/status`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct StorageStatus {
    #[serde(default)]
    pub(super) avail: u64,
}

impl Stored {
    /// The name of its file.
    fn file(&self) -> &str {
        self.volid.rsplit('/').next().unwrap_or_default()
    }
}

/// The name of an image's file.
fn image_name(sha256: &Sha256Digest) -> String {
    format!("kiln-{sha256}.qcow2")
}

/// The digest in the name of an image's file.
fn digest_of_name(file: &str) -> Option<Sha256Digest> {
    file.strip_prefix("kiln-")?.strip_suffix(".qcow2")?.parse().ok()
}

/// How the name of a node's seeds begins: what follows is 32 hex digits, the first eight of them the cluster's.
fn seed_prefix(mark: &Mark) -> String {
    format!("kiln-seed-{}-{}", mark.node, &mark.cluster.to_string()[..8])
}

/// Whether a file is a seed, of any node if `prefix` says no more.
fn is_seed(file: &str, prefix: &str) -> bool {
    let Some(rest) = file.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".raw")) else { return false };
    let nonce = rest.rsplit('-').next().unwrap_or_default();
    let whole = prefix == "kiln-seed-" || nonce == rest;
    whole && (24..=32).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Proxmox {
    /// The name by which a machine imports the image.
    pub(super) fn image_volume(&self, image: &Image) -> String {
        format!("{}:import/{}", self.image_storage, image_name(&image.sha256))
    }

    /// How full a storage is and what it is for.
    ///
    /// # Errors
    /// When it is not there or may not be seen.
    pub(super) fn storage(&self, storage: &str) -> Result<StorageStatus> {
        self.api
            .get(&["nodes", &self.node, "storage", storage, "status"], &[])
            .map_err(|f| self.api.error(f))
            .with_context(|| format!("looking at storage `{storage}` of `{}`", self.node))
    }

    /// Waits for what an earlier run left at work on the storage: an upload that was cut off after its last byte is still being copied, and a
    /// file that is listed may be on its way out.
    fn settle_files(&self) -> Result<()> {
        self.settle(None, &["imgcopy", "imgdel"])
    }

    fn stored(&self) -> Result<Vec<Stored>> {
        let path = ["nodes", &self.node, "storage", &self.image_storage, "content"];
        self.api
            .get(&path, &[("content", "import".into())])
            .map_err(|f| self.api.error(f))
            .with_context(|| format!("listing what is on storage `{}`", self.image_storage))
    }

    fn stored_image(&self, image: &Image) -> Result<Option<u64>> {
        let volume = self.image_volume(image);
        Ok(self.stored()?.into_iter().find(|s| s.volid == volume).map(|s| s.size))
    }

    /// Has the image on the storage.
    pub(super) fn have_image(&self, image: &Image, watch: &dyn Watch) -> Result<Transfer> {
        self.settle_files()?;
        let volume = self.image_volume(image);
        match self.stored_image(image)? {
            Some(size) if size == image.bytes => return Ok(Transfer::default()),
            Some(size) => {
                let what = format!(
                    "`{volume}` on `{}` has {size} bytes, and the image of that name has {}: it is broken, or somebody else's",
                    self.node, image.bytes
                );
                return Err(
                    Refusal::new(what, format!("if nothing is copied there right now: pvesm free {volume}")).into()
                );
            }
            None => {}
        }
        let status = self.storage(&self.image_storage)?;
        if status.avail < image.bytes {
            let what = format!(
                "storage `{}` has {} bytes left, and the image has {}",
                self.image_storage, status.avail, image.bytes
            );
            return Err(Refusal::new(what, "make room there, or let kiln collect old images").into());
        }
        let file = fs_err::File::open(&image.file)?;
        let length = file.metadata()?.len();
        anyhow::ensure!(
            length == image.bytes,
            "the image `{}` has {length} bytes, and {} are recorded",
            image.file,
            image.bytes
        );
        let what = format!("uploading `{}`", image.file);
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            scope.spawn(move || tell(watch, &receiver, image.bytes));
            self.upload(&image_name(&image.sha256), &image.sha256, Counted::new(file, sender), image.bytes, &what)
        })?;
        match self.stored_image(image)? {
            Some(size) if size == image.bytes => Ok(Transfer { bytes: image.bytes }),
            other => Err(anyhow!(
                "{what}: the host says it is done, and `{volume}` has {} bytes instead of {}",
                other.unwrap_or_default(),
                image.bytes
            )),
        }
    }

    fn upload(
        &self,
        name: &str,
        sha256: &Sha256Digest,
        file: impl Read + Send + 'static,
        bytes: u64,
        what: &str,
    ) -> Result<()> {
        let boundary = Id128::random().map_err(|_| anyhow!("the system has no randomness to give"))?;
        let upload = Upload::new(name, sha256, file, bytes, &boundary.to_string());
        let (content_type, length) = (upload.content_type(), upload.length());
        let path = ["nodes", &self.node, "storage", &self.image_storage, "upload"];
        let answer = self
            .api
            .send(&path, &content_type, upload, length)
            .map_err(|f| self.api.error(f))
            .with_context(|| what.to_owned())?;
        self.finish(&answer, what)
    }

    /// Puts a seed on the storage, for as long as it takes to import it, and returns its name there.
    pub(super) fn upload_seed(&self, mark: &Mark, seed: &Seed) -> Result<String> {
        let nonce = Id128::random().map_err(|_| anyhow!("the system has no randomness to give"))?.to_string();
        let name = format!("{}{}.raw", seed_prefix(mark), &nonce[..24]);
        let what = format!("uploading the seed of `{}`", mark.node);
        let bytes = seed.bytes.len() as u64;
        self.upload(&name, &seed.sha256, Cursor::new(seed.bytes.clone()), bytes, &what)?;
        Ok(format!("{}:import/{name}", self.image_storage))
    }

    /// Removes every upload of a seed of that node.
    pub(super) fn remove_seed_uploads(&self, mark: &Mark) -> Result<()> {
        self.settle_files()?;
        let prefix = seed_prefix(mark);
        for stored in self.stored()?.iter().filter(|s| is_seed(s.file(), &prefix)) {
            self.remove_stored(&stored.volid)?;
        }
        Ok(())
    }

    fn remove_stored(&self, volume: &str) -> Result<()> {
        let what = format!("removing `{volume}`");
        let path = ["nodes", &self.node, "storage", &self.image_storage, "content", volume];
        let answer = self.api.delete(&path, &[]).map_err(|f| self.api.error(f)).with_context(|| what.clone())?;
        self.finish(&answer, &what)
    }

    /// Removes images that are not among `keep`, and seeds that somebody left behind.
    pub(super) fn collect_images(&self, keep: &[Sha256Digest]) -> Result<Collected> {
        self.settle_files()?;
        self.settle(None, &["qmconfig"])?;
        let mut collected = Collected::default();
        for stored in self.stored()? {
            let old_image = digest_of_name(stored.file()).is_some_and(|digest| !keep.contains(&digest));
            let old_seed = is_seed(stored.file(), "kiln-seed-") && stored.ctime < clock::now() - STALE_SECS;
            if old_image || old_seed {
                self.remove_stored(&stored.volid)?;
                collected.bytes += stored.size;
                collected.volumes.push(stored.volid);
            }
        }
        Ok(collected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_files_by_their_names() {
        let digest = Sha256Digest::of(b"x");
        assert_eq!(digest_of_name(&image_name(&digest)), Some(digest));
        assert_eq!(digest_of_name("kiln-0123.qcow2"), None);
        let mark = |node: &str| Mark {
            cluster: "6ba7b8109dad11d180b400c04fd430c8".parse().unwrap(),
            env: "e".into(),
            node: node.into(),
        };
        let name = format!("{}{}.raw", seed_prefix(&mark("etcd1")), "0".repeat(24));
        assert_eq!(name, format!("kiln-seed-etcd1-6ba7b810{}.raw", "0".repeat(24)));
        assert!(is_seed(&name, &seed_prefix(&mark("etcd1"))) && is_seed(&name, "kiln-seed-"));
        assert!(!is_seed(&name, &seed_prefix(&mark("etcd"))), "another node's, whose name begins alike");
        let longer = format!("{}{}.raw", seed_prefix(&mark("etcd1-a")), "0".repeat(24));
        assert!(!is_seed(&longer, &seed_prefix(&mark("etcd1"))) && is_seed(&longer, "kiln-seed-"));
        assert!(!is_seed("kiln-seed-etcd1-hand.raw", "kiln-seed-") && !is_seed("debian.raw", "kiln-seed-"));
    }
}
