//! Letting images go that nothing needs. libvirt would remove one under the feet of the machines that lie over it and say nothing, so every
//! volume of every pool and every disk of every machine is read first.

use anyhow::Context as _;
use camino::Utf8PathBuf;
use kiln_firstboot::digest::Sha256Digest;

use super::inventory::{self, Inventory, Volume};
use super::virsh::words;
use super::{Libvirt, volume_name};
use crate::exit::Refusal;
use crate::host::Collected;

/// Everything that may lie over something: all volumes of all pools by their paths, and every file a machine has as a disk.
#[derive(Clone, Debug, Default)]
struct Chains {
    volumes: Vec<(Utf8PathBuf, Volume)>,
    files: Vec<Utf8PathBuf>,
}

/// Which volumes of kiln's pool nothing needs: images, and what stands beside an image that is not there or goes.
///
/// # Errors
/// A [`Refusal`] when something could lie over an image and nobody can tell.
fn needless(inventory: &Inventory, chains: &Chains, keep: &[Sha256Digest]) -> Result<Vec<String>, Refusal> {
    if let Some((path, _)) = chains.volumes.iter().find(|(_, volume)| !volume.chain_known) {
        let what = format!("it cannot be told what `{path}` lies over, so any image may be under it");
        return Err(Refusal::new(what, "look at it with `qemu-img info`, and mend or remove it"));
    }
    let keep: Vec<String> = keep.iter().map(volume_name::image).collect();
    // By name alone where a path is relative or goes through a link: that can only keep too much.
    let named = |path: &Utf8PathBuf, name: &str| path.file_name() == Some(name);
    let is_needed = |name: &str| {
        keep.iter().any(|k| k == name)
            || chains.files.iter().any(|file| named(file, name))
            || chains.volumes.iter().any(|(_, v)| v.backing.as_ref().is_some_and(|b| named(b, name)))
    };
    // An upload that did not end is not needed by anybody, and neither are its marks; `ensure_image` would begin anew. Whether one goes on at
    // this moment cannot be told: it then fails, for what it reads back is gone, and says to try again.
    let goes = |name: &&String| match volume_name::beside(name) {
        Some(image) => !inventory.has(&image) || !is_needed(&image),
        None => volume_name::is_image(name) && !is_needed(name),
    };
    Ok(inventory.volumes.keys().filter(goes).cloned().collect())
}

impl Libvirt {
    pub(super) fn collect_images(&self, keep: &[Sha256Digest]) -> anyhow::Result<Collected> {
        let inventory = self.look(volume_name::is_image)?;
        let chains = self.chains(&inventory)?;
        let mut volumes = needless(&inventory, &chains, keep)?;
        // An image goes before what stands beside it, so that what is cut off leaves no image without its marks.
        volumes.sort_by_key(|name| (!volume_name::is_image(name), name.clone()));
        let bytes = volumes.iter().filter_map(|v| inventory.volume(v)).map(|v| v.length).sum();
        for volume in &volumes {
            self.virsh.run(&["vol-delete", "--pool", &self.pool, volume])?;
        }
        Ok(Collected { volumes, bytes })
    }

    fn chains(&self, inventory: &Inventory) -> anyhow::Result<Chains> {
        let pools = self.virsh.batch(&[words(&["pool-list", "--all"])])?;
        let pools = inventory::parse_pool_list(&pools[0]);
        if let Some((pool, _)) = pools.iter().find(|(_, active)| !active) {
            let what = format!("the storage pool `{pool}` is not active, and its volumes may lie over an image");
            let remedy = format!("start it, or undefine it if nobody needs it: virsh pool-start {pool}");
            return Err(Refusal::new(what, remedy).into());
        }
        // Files that were put there by other means are known to libvirt only once it has looked.
        let refresh = pools.iter().map(|(pool, _)| words(&["pool-refresh", pool]));
        self.virsh.batch(&refresh.collect::<Vec<_>>())?;
        let lists = pools.iter().map(|(pool, _)| words(&["vol-list", pool]));
        let lists = self.virsh.batch(&lists.collect::<Vec<_>>())?;
        let of_pools = pools.iter().zip(&lists).flat_map(|((pool, _), list)| {
            inventory::parse_volume_list(list).into_iter().map(move |(name, path)| (pool, name, path))
        });
        let all: Vec<_> = of_pools.collect();
        let questions = all.iter().map(|(pool, name, _)| words(&["vol-dumpxml", "--pool", pool, name]));
        let answers = self.virsh.batch(&questions.collect::<Vec<_>>())?;
        let read = all.into_iter().zip(&answers).map(|((_, _, path), text)| {
            let volume = Volume::parse(text).with_context(|| format!("reading what `{path}` lies over"))?;
            Ok((path, volume))
        });
        let described = inventory.domains.iter().flat_map(|d| d.found.disks.iter().map(|(_, file)| file));
        let files = inventory.domains.iter().flat_map(|d| &d.files).chain(described).cloned().collect();
        Ok(Chains { volumes: read.collect::<anyhow::Result<_>>()?, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Sha256Digest {
        Sha256Digest::of(text.as_bytes())
    }

    fn image(text: &str) -> String {
        volume_name::image(&digest(text))
    }

    fn over(backing: Option<&str>) -> Volume {
        Volume { backing: backing.map(Into::into), chain_known: true, ..Volume::default() }
    }

    #[test]
    fn only_images_that_nothing_lies_over_go_and_what_stands_beside_them() {
        let [based, booted, kept, free] = ["based", "booted", "kept", "free"].map(image);
        let marks =
            [volume_name::proof(&free, "1.0"), volume_name::proof(&based, "1.0"), volume_name::upload(&image("gone"))];
        let others = ["kiln-notes.qcow2", "x.qcow2", "lab.a-data.raw", "lab.a-root-g1-e3b0c44298fc.qcow2"];
        let names = [&based, &booted, &kept, &free].into_iter().chain(&marks).cloned().chain(others.map(str::to_owned));
        let inventory = Inventory { volumes: names.map(|n| (n, None)).collect(), ..Inventory::default() };
        let chains = Chains {
            volumes: vec![("/other/pool/x".into(), over(Some(&format!("/p/{based}")))), ("/p/y".into(), over(None))],
            files: vec![format!("/p/{booted}").into()],
        };
        let mut expected = vec![free, marks[0].clone(), marks[2].clone()];
        expected.sort();
        assert_eq!(needless(&inventory, &chains, &[digest("kept")]), Ok(expected));
    }

    #[test]
    fn one_chain_that_cannot_be_read_keeps_everything() {
        let inventory = Inventory { volumes: [(image("free"), None)].into(), ..Inventory::default() };
        let unknown = Volume { chain_known: false, ..over(None) };
        let chains = Chains { volumes: vec![("/p/broken.qcow2".into(), unknown)], files: Vec::new() };
        let refusal = needless(&inventory, &chains, &[]).unwrap_err();
        assert!(refusal.what.contains("`/p/broken.qcow2`"), "{refusal}");
    }
}
