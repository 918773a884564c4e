//! The driver of libvirt hosts: everything by `virsh`, over its local socket or ssh.
//!
//! On the host there are volumes of one pool, named by [`volume_name`], and machines that carry a note ([`domain_xml::Note`]). What a machine
//! has is what its description says, and a description is replaced whole (`virsh define`): volumes are made before it names them, and
//! removed after it no longer does, so that a call that is cut off leaves either the old machine or the new one, and volumes that nothing
//! names, which the next call for that node removes. The data volume is never among them.
//!
//! A description is kiln's: what somebody added to it by hand is gone when kiln next changes the machine.
#![expect(clippy::disallowed_methods, reason = "an edge: waits for machines to shut down")]

mod collect;
pub mod domain_reader;
pub mod domain_xml;
mod image;
pub mod inventory;
mod machine;
mod preflight;
mod virsh;
pub mod volume_name;
pub mod xml;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kiln_firstboot::digest::{Id128, Sha256Digest};

use self::domain_xml::Note;
use self::inventory::{Inventory, Pool, Standing, Volume};
use self::virsh::{Virsh, words};
use super::{Collected, Host, Image, Lack, Machine, Mark, Need, Root, Seed, Seen, Transfer, Watch};
use crate::exit::Refusal;
use crate::profile::{self, Accelerator, Cache};

/// How often a machine that was asked to shut down is looked at; over ssh each look is a login.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A libvirt host.
#[derive(Debug)]
pub struct Libvirt {
    name: String,
    virsh: Virsh,
    pool: String,
    cache: Cache,
    accelerator: OnceLock<Accelerator>,
}

impl Libvirt {
    /// The libvirt at `uri`, called `name` in the profile. Nothing is asked of it yet.
    pub fn new(name: &str, uri: &str, settings: &profile::Libvirt) -> Self {
        Self {
            name: name.to_owned(),
            virsh: Virsh::new(uri),
            pool: settings.pool.clone(),
            cache: settings.cache,
            accelerator: settings.accelerator.map(OnceLock::from).unwrap_or_default(),
        }
    }

    /// Everything on the host, with the details of volumes whose names are `wanted`.
    fn look(&self, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Inventory> {
        self.look_around(wanted).with_context(|| format!("looking at the host `{}`", self.name))
    }

    fn look_around(&self, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Inventory> {
        let pool = self.pool.as_str();
        let commands = [
            words(&["pool-dumpxml", pool]),
            words(&["vol-list", pool]),
            // The head of the first says that it was answered, which an empty list of UUIDs does not.
            words(&["list", "--all", ";", "list", "--all", "--uuid"]),
        ];
        let [about_pool, volumes, domains] =
            self.virsh.batch(&commands)?.try_into().expect("an answer to each question");
        let volumes: Vec<String> = inventory::parse_volume_list(&volumes).into_iter().map(|(name, _)| name).collect();
        let ids = inventory::parse_uuids(&domains);
        let detailed: Vec<&String> = volumes.iter().filter(|v| wanted(v)).collect();
        let about_domains = ids.iter().flat_map(|id| {
            [
                words(&["dumpxml", "--inactive", id]),
                words(&["dumpxml", id]),
                words(&["dominfo", id]),
                words(&["snapshot-list", id]),
            ]
        });
        let about_volumes = detailed.iter().map(|v| words(&["vol-dumpxml", "--pool", pool, v]));
        let answers = self.virsh.batch(&about_domains.chain(about_volumes).collect::<Vec<_>>())?;
        let (of_domains, of_volumes) = answers.split_at(4 * ids.len());
        let details =
            detailed.iter().zip(of_volumes).map(|(name, text)| Ok(((*name).clone(), Some(Volume::parse(text)?))));
        let details: Vec<(String, Option<Volume>)> = details.collect::<anyhow::Result<_>>()?;
        let domains = of_domains.chunks(4).map(|d| Standing::parse(&d[0], &d[1], &d[2], &d[3]));
        Ok(Inventory {
            host: self.name.clone(),
            pool: Pool::parse(&about_pool)?,
            domains: domains.collect::<anyhow::Result<_>>()?,
            volumes: volumes.iter().map(|v| (v.clone(), None)).chain(details).collect(),
        })
    }

    /// Everything on the host, after it was made sure that the node's machine, if it is there, may be touched.
    fn look_for(&self, machine: &Machine) -> anyhow::Result<(Inventory, Option<Standing>)> {
        let inventory = self.look(|name| is_of(&machine.mark, name) || volume_name::is_image(name))?;
        let standing = inventory.machine(machine)?.cloned();
        Ok((inventory, standing))
    }

    /// As [`Libvirt::look_for`], for what cannot be done to a machine that is not there.
    fn need(&self, machine: &Machine) -> anyhow::Result<(Inventory, Standing, Note)> {
        let (inventory, standing) = self.look_for(machine)?;
        let both = standing.and_then(|s| s.found.note.clone().map(|note| (s, note)));
        let (standing, note) = both.with_context(|| {
            format!(
                "`{}` has no machine of `{}`\n  hint: kiln deploy {}",
                self.name, machine.mark.node, machine.mark.env
            )
        })?;
        Ok((inventory, standing, note))
    }

    /// As [`Libvirt::need`], for what cannot be done to a machine that runs.
    fn need_off(&self, machine: &Machine) -> anyhow::Result<(Inventory, Standing, Note)> {
        let found = self.need(machine)?;
        self.refuse_running(&found.1)?;
        Ok(found)
    }

    fn refuse_running(&self, standing: &Standing) -> anyhow::Result<()> {
        if standing.running {
            let what = format!("the machine `{}` on `{}` runs", standing.found.name, self.name);
            return Err(Refusal::new(what, "its disks are in use; power it off first").into());
        }
        Ok(())
    }

    /// Ends a sentence about this host's machine of a node.
    fn doing(&self, what: &str, machine: &Machine) -> String {
        format!("{what} `{}` on `{}`", machine.mark.node, self.name)
    }
}

fn is_of(mark: &Mark, name: &str) -> bool {
    name.starts_with(&format!("{}-", volume_name::machine(mark)))
}

impl Host for Libvirt {
    fn name(&self) -> &str {
        &self.name
    }

    fn preflight(&self, need: &Need) -> anyhow::Result<Vec<Lack>> {
        preflight::lacks(&self.virsh, &self.pool, need).with_context(|| format!("asking the host `{}`", self.name))
    }

    fn survey(&self, cluster: &Id128) -> anyhow::Result<Vec<Seen>> {
        let inventory = self.look(|name| name.ends_with("-data.raw"))?;
        let seen = inventory.domains.iter().filter_map(|d| inventory.seen(d));
        Ok(seen.filter(|s| s.mark.cluster == *cluster).collect())
    }

    fn ensure_image(&self, image: &Image, watch: &dyn Watch) -> anyhow::Result<Transfer> {
        self.have_image(image, watch).with_context(|| format!("having the image {} on `{}`", image.key, self.name))
    }

    fn ensure_machine(&self, machine: &Machine, root: Root, image: &Image, seed: &Seed) -> anyhow::Result<()> {
        self.make(machine, root, image, seed).with_context(|| self.doing("making the machine of", machine))
    }

    fn redefine(&self, machine: &Machine) -> anyhow::Result<()> {
        let change = || {
            let (inventory, _, note) = self.need_off(machine)?;
            self.define(&inventory, machine, &machine::wanted(machine), note)
        };
        change().with_context(|| self.doing("changing the machine of", machine))
    }

    fn replace_root(&self, machine: &Machine, root: Root, image: &Image) -> anyhow::Result<()> {
        let replace = || {
            let (inventory, standing, mut note) = self.need_off(machine)?;
            let mark = &machine.mark;
            let there = |root: &Root| inventory.has(&volume_name::root(mark, root));
            if note.root == root && there(&root) {
                return self.remove_strays(&inventory, mark, Some(&note));
            }
            if note.previous == Some(root) {
                // Its name is about to be that of another root.
                note.previous = None;
                self.define(&inventory, machine, &standing.found, note.clone())?;
            }
            self.remove_strays(&inventory, mark, Some(&note))?;
            if note.root == root {
                self.create_root(&inventory, mark, &root, image)?;
                return self.define(&inventory, machine, &standing.found, note);
            }
            self.create_root(&inventory, mark, &root, image)?;
            let previous = if there(&note.root) { Some(note.root) } else { note.previous };
            let note = Note { root, previous, ..note };
            self.define(&inventory, machine, &standing.found, note.clone())?;
            self.remove_strays(&inventory, mark, Some(&note))
        };
        replace().with_context(|| self.doing("replacing the root of", machine))
    }

    fn restore_root(&self, machine: &Machine) -> anyhow::Result<()> {
        let restore = || {
            let (inventory, standing, note) = self.need_off(machine)?;
            let there = |root: &Root| inventory.has(&volume_name::root(&machine.mark, root));
            let Some(root) = note.previous.filter(there) else {
                let what = format!("`{}` has no previous root on `{}`", machine.mark.node, self.name);
                let remedy = format!("image it again: kiln reimage {} {}", machine.mark.env, machine.mark.node);
                return Err(Refusal::new(what, remedy).into());
            };
            let note = Note { root, previous: None, ..note };
            self.define(&inventory, machine, &standing.found, note.clone())?;
            self.remove_strays(&inventory, &machine.mark, Some(&note))
        };
        restore().with_context(|| self.doing("putting the previous root back for", machine))
    }

    fn drop_previous_root(&self, machine: &Machine) -> anyhow::Result<()> {
        let drop = || {
            let (inventory, standing, note) = self.need(machine)?;
            let without = Note { previous: None, ..note.clone() };
            if note.previous.is_some() {
                self.define(&inventory, machine, &standing.found, without.clone())?;
            }
            self.remove_strays(&inventory, &machine.mark, Some(&without))
        };
        drop().with_context(|| self.doing("removing the previous root of", machine))
    }

    fn replace_seed(&self, machine: &Machine, seed: &Seed) -> anyhow::Result<()> {
        let replace = || {
            let (inventory, standing, note) = self.need_off(machine)?;
            let is_there = inventory.has(&volume_name::seed(&machine.mark, &seed.sha256));
            self.put_seed(&machine.mark, seed, is_there)?;
            let with = Note { seed: seed.sha256, ..note.clone() };
            if with != note {
                self.define(&inventory, machine, &standing.found, with.clone())?;
            }
            self.remove_strays(&inventory, &machine.mark, Some(&with))
        };
        replace().with_context(|| self.doing("replacing the seed of", machine))
    }

    fn wipe_data(&self, machine: &Machine) -> anyhow::Result<()> {
        let wipe = || {
            let (inventory, _, _) = self.need_off(machine)?;
            self.remove(&inventory, &machine.mark, &[volume_name::data(&machine.mark)])?;
            self.virsh.batch(&[self.data_volume(machine)]).map(drop)
        };
        wipe().with_context(|| self.doing("wiping the data of", machine))
    }

    fn power_on(&self, machine: &Machine) -> anyhow::Result<()> {
        let start = || {
            let (_, standing, _) = self.need(machine)?;
            let mut commands = Vec::new();
            if !standing.autostart {
                commands.push(words(&["autostart", &machine.uuid]));
            }
            if !standing.running {
                commands.push(words(&["start", &machine.uuid]));
            }
            self.virsh.batch(&commands).map(drop)
        };
        start().with_context(|| self.doing("powering on", machine))
    }

    fn power_off(&self, machine: &Machine, patience: Duration) -> anyhow::Result<()> {
        let stop = || {
            let (_, standing) = self.look_for(machine)?;
            if !standing.is_some_and(|s| s.running) {
                return Ok(());
            }
            let began = Instant::now();
            if !patience.is_zero() && self.virsh.succeeds(&["shutdown", &machine.uuid])? {
                while began.elapsed() < patience {
                    if self.virsh.read(&["domstate", &machine.uuid])?.trim() == "shut off" {
                        return Ok(());
                    }
                    std::thread::sleep(LOOK_EVERY.min(patience));
                }
                log::warn!("{} did not shut down in {} s; its plug is pulled", machine.mark.node, patience.as_secs());
            }
            let pulled = self.virsh.run(&["destroy", &machine.uuid]);
            // It may have gone by itself at the last moment.
            if pulled.is_err() && self.virsh.read(&["domstate", &machine.uuid])?.trim() == "shut off" {
                return Ok(());
            }
            pulled
        };
        stop().with_context(|| self.doing("powering off", machine))
    }

    fn destroy(&self, machine: &Machine, with_data: bool) -> anyhow::Result<()> {
        let remove = || {
            let (inventory, standing) = self.look_for(machine)?;
            if let Some(standing) = &standing {
                self.refuse_running(standing)?;
            }
            let mark = &machine.mark;
            let console = volume_name::console(mark);
            let mut volumes = inventory.strays(mark, None);
            volumes.extend(inventory.volumes.keys().filter(|v| v.starts_with(&console)).cloned());
            volumes.extend(with_data.then(|| volume_name::data(mark)));
            self.remove(&inventory, mark, &volumes)?;
            // Last, so that what is left of it is found again when this is cut off.
            if standing.is_some() { self.virsh.run(&["undefine", &machine.uuid]) } else { Ok(()) }
        };
        remove().with_context(|| self.doing("removing the machine of", machine))
    }

    fn collect(&self, keep: &[Sha256Digest]) -> anyhow::Result<Collected> {
        self.collect_images(keep).with_context(|| format!("collecting images on `{}`", self.name))
    }

    fn console(&self, machine: &Machine) -> anyhow::Result<String> {
        let read = || {
            let (inventory, _) = self.look_for(machine)?;
            let volume = volume_name::console(&machine.mark);
            if !inventory.has(&volume) {
                bail!("there is none yet");
            }
            let bytes = self.virsh.download(&self.pool, &volume, |mut reader| {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut reader, &mut bytes).map(|_| bytes)
            })?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().with_context(|| self.doing("reading the console of", machine))
    }
}
