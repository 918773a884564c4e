//! Images on a libvirt host: uploaded once, read back, and only then taken for whole.
//!
//! libvirt checks nothing of what is uploaded and cannot rename, and a clone would be converted or copied once more. So two empty volumes
//! stand beside the image: one from before the upload begins until it was read back and was whole, and one that says when the bytes that
//! were read back last changed. An image without the second is read again; one with other bytes is somebody else's and is left alone.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the image's file")]

use std::io::{self, Read};

use anyhow::{Context as _, bail, ensure};
use kiln_firstboot::digest::Sha256Digest;

use super::inventory::{Inventory, Volume};
use super::virsh::words;
use super::{Libvirt, volume_name};
use crate::digesting::{self, Hashing};
use crate::exit::Refusal;
use crate::host::{Image, Transfer, Watch};

/// What is known of an image's volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is none.
    Absent,
    /// Its upload began and did not end.
    Unfinished,
    /// It was read back whole, and its bytes have not changed since.
    Proven,
    /// Nobody knows what is in it.
    Unproven,
}

fn state(inventory: &Inventory, name: &str, bytes: u64) -> State {
    let volume = inventory.volume(name);
    let is_proven = |v: &Volume| v.length == bytes && inventory.has(&volume_name::proof(name, &v.mtime));
    match (volume, inventory.has(&volume_name::upload(name))) {
        (Some(volume), _) if is_proven(volume) => State::Proven,
        (Some(_) | None, true) => State::Unfinished,
        (Some(_), false) => State::Unproven,
        (None, false) => State::Absent,
    }
}

/// Tells how far a reader is.
struct Watched<'a, R> {
    inner: R,
    watch: &'a dyn Watch,
    done: u64,
    total: u64,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        self.watch.progress(self.done, self.total);
        Ok(n)
    }
}

impl Libvirt {
    pub(super) fn have_image(&self, image: &Image, watch: &dyn Watch) -> anyhow::Result<Transfer> {
        let name = volume_name::image(&image.sha256);
        let inventory = self.look(|v| v == name)?;
        match state(&inventory, &name, image.bytes) {
            State::Proven => {
                self.end_upload(&inventory, &name)?;
                Ok(Transfer { bytes: 0 })
            }
            State::Unproven => {
                let length = inventory.volume(&name).map(|v| v.length);
                if length != Some(image.bytes) || self.virsh.digest(&self.pool, &name)? != (image.sha256, image.bytes) {
                    let what =
                        format!("`{}` has a volume `{name}` with other bytes than the image of that name", self.name);
                    let remedy = format!(
                        "move it away, or remove it if no machine lies over it: virsh vol-delete --pool {} {name}",
                        self.pool
                    );
                    return Err(Refusal::new(what, remedy).into());
                }
                self.prove(&name, &inventory.volume(&name).context("the image is gone again")?.mtime)?;
                Ok(Transfer { bytes: 0 })
            }
            State::Absent | State::Unfinished => {
                self.upload(&inventory, image, &name, watch)?;
                Ok(Transfer { bytes: image.bytes })
            }
        }
    }

    fn upload(&self, inventory: &Inventory, image: &Image, name: &str, watch: &dyn Watch) -> anyhow::Result<()> {
        let (free, taken) = (inventory.pool.available, inventory.volume(name).map_or(0, |v| v.length));
        if free.saturating_add(taken) < image.bytes {
            bail!(
                "the pool `{}` has {free} bytes free, and the image has {}\n  hint: make room, or name another pool: `pool = ` in [hosts.NAME]",
                self.pool,
                image.bytes
            );
        }
        let create = |name: &str, bytes: u64| {
            if inventory.has(name) {
                return Ok(());
            }
            self.virsh.run(&["vol-create-as", &self.pool, name, &bytes.to_string(), "--format", "raw"])
        };
        create(&volume_name::upload(name), 0)?;
        create(name, image.bytes)?;
        let done = self.fill(image, name, watch);
        if done.is_err() {
            // What is left of it would only fill the pool. The mark stays until the volume is gone, whatever becomes of this.
            if self.virsh.succeeds(&["vol-delete", "--pool", &self.pool, name])? {
                self.virsh.run(&["vol-delete", "--pool", &self.pool, &volume_name::upload(name)])?;
            }
            return done;
        }
        let written = Volume::parse(&self.virsh.read(&["vol-dumpxml", "--pool", &self.pool, name])?)?;
        self.prove(name, &written.mtime)?;
        self.virsh.run(&["vol-delete", "--pool", &self.pool, &volume_name::upload(name)])
    }

    /// Uploads, and reads back what has arrived.
    fn fill(&self, image: &Image, name: &str, watch: &dyn Watch) -> anyhow::Result<()> {
        let total = image.bytes.saturating_mul(2);
        self.virsh.upload(&self.pool, name, |pipe| {
            let file = fs_err::File::open(&image.file)?;
            let mut hashing = Hashing::new(pipe);
            digesting::copy(&mut Watched { inner: file, watch, done: 0, total }, &mut hashing)?;
            let (_, sha256, bytes) = hashing.finish();
            ensure!(
                (sha256, bytes) == (image.sha256, image.bytes),
                "`{}` is not the image it should be: its sha256 is {sha256}\n  hint: kiln verify",
                image.file
            );
            Ok(())
        })?;
        let digest = |reader| digesting::digest_of(Watched { inner: reader, watch, done: image.bytes, total });
        let arrived: (Sha256Digest, u64) = self.virsh.download(&self.pool, name, digest)?;
        if arrived != (image.sha256, image.bytes) {
            bail!("{} of {} bytes arrived, or others\n  hint: try again", arrived.1, image.bytes);
        }
        Ok(())
    }

    /// Notes that the bytes that last changed then were read back and whole.
    fn prove(&self, name: &str, mtime: &str) -> anyhow::Result<()> {
        let proof = volume_name::proof(name, mtime);
        self.virsh.run(&["vol-create-as", &self.pool, &proof, "0", "--format", "raw"])
    }

    /// Removes the mark of an upload that has ended, if there is one.
    fn end_upload(&self, inventory: &Inventory, name: &str) -> anyhow::Result<()> {
        let mark = volume_name::upload(name);
        let gone = inventory.has(&mark).then(|| words(&["vol-delete", "--pool", &self.pool, &mark]));
        self.virsh.batch(&gone.into_iter().collect::<Vec<_>>()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_read_back_and_has_not_changed_since_is_proven() {
        let name = "kiln-e3b0c44298fc.qcow2";
        let volume = Volume { length: 7, mtime: "1.5".into(), ..Volume::default() };
        let with = |volumes: &[(&str, Option<&Volume>)]| Inventory {
            volumes: volumes.iter().map(|(name, v)| ((*name).to_owned(), v.cloned())).collect(),
            ..Inventory::default()
        };
        let (whole, part) = ((name, Some(&volume)), ("kiln-e3b0c44298fc.part", None));
        let (ok, stale) = (("kiln-e3b0c44298fc.ok-1.5", None), ("kiln-e3b0c44298fc.ok-1.4", None));
        for (volumes, bytes, expected) in [
            (vec![], 7, State::Absent),
            (vec![ok], 7, State::Absent),
            (vec![part], 7, State::Unfinished),
            (vec![whole, part], 7, State::Unfinished),
            (vec![whole, part, stale], 7, State::Unfinished),
            (vec![whole], 7, State::Unproven),
            (vec![whole, stale], 7, State::Unproven),
            (vec![whole, ok], 8, State::Unproven),
            (vec![whole, ok], 7, State::Proven),
            (vec![whole, ok, part], 7, State::Proven),
        ] {
            assert_eq!(state(&with(&volumes), name, bytes), expected, "{volumes:?}");
        }
    }
}
