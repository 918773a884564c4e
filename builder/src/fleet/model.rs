//! A host in memory that holds to the contract of [`Host`], counts what would be lost, and can be cut off at every point of every call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kiln_firstboot::digest::{Id128, Sha256Digest};

use crate::host::Lack;
use crate::host::{Collected, Host, Image, Machine, Mark, Need, Root, Seed, Seen, Transfer, Watch};
use crate::machine_plan::GIB;

/// What is on a data volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Blank,
    /// A node was on with it; what it wrote is worth keeping.
    Written,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) running: bool,
    pub(super) root: Option<Root>,
    pub(super) previous: Option<Root>,
    pub(super) seed: Option<Sha256Digest>,
    pub(super) shape: Option<(u32, u32, String, crate::mac::MacAddress)>,
    pub(super) trouble: Vec<Lack>,
}

/// What is on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) machines: BTreeMap<String, Standing>,
    pub(super) data: BTreeMap<String, (u64, Data)>,
    pub(super) images: BTreeSet<Sha256Digest>,
    /// Nodes whose written data volumes were removed, each time.
    pub(super) lost: Vec<String>,
    /// Machines that were made, each time.
    pub(super) made: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) disk: Arc<Mutex<Disk>>,
    /// How many more points may be passed before everything is cut off; shared by all hosts.
    pub(super) fuse: Arc<Mutex<Option<usize>>>,
    pub(super) silent: bool,
}

impl Model {
    /// A point at which kiln may be killed.
    fn point(&self) -> Result<()> {
        let mut fuse = self.fuse.lock().unwrap();
        match *fuse {
            Some(0) => bail!("cut off"),
            Some(left) => *fuse = Some(left - 1),
            None => {}
        }
        Ok(())
    }

    /// One change of what is on the disk, with a point before and after.
    fn change<T>(&self, act: impl FnOnce(&mut Disk) -> Result<T>) -> Result<T> {
        self.point()?;
        let done = act(&mut self.disk.lock().unwrap())?;
        self.point()?;
        Ok(done)
    }

    /// A change of a machine that has to be off and fit to be touched.
    fn on_off(&self, machine: &Machine, act: impl FnOnce(&mut Standing) -> Result<()>) -> Result<()> {
        self.change(|disk| {
            let Some(standing) = disk.machines.get_mut(&machine.mark.node) else { bail!("there is no such machine") };
            ensure!(!standing.running, "it runs");
            ensure!(standing.trouble.is_empty(), "it is in trouble");
            act(standing)
        })
    }

    fn has_image(&self, image: &Image) -> Result<()> {
        ensure!(self.disk.lock().unwrap().images.contains(&image.sha256), "the image is not there");
        Ok(())
    }
}

fn shape(machine: &Machine) -> Option<(u32, u32, String, crate::mac::MacAddress)> {
    Some((machine.memory_mib, machine.vcpus, machine.bridge.clone(), machine.mac))
}

impl Host for Model {
    fn name(&self) -> &str {
        &self.name
    }

    fn preflight(&self, _: &Need) -> Result<Vec<Lack>> {
        ensure!(!self.silent, "no answer");
        Ok(vec![])
    }

    fn survey(&self, cluster: &Id128) -> Result<Vec<Seen>> {
        ensure!(!self.silent, "no answer");
        self.point()?;
        let disk = self.disk.lock().unwrap();
        let seen = |(node, standing): (&String, &Standing)| Seen {
            mark: Mark { cluster: *cluster, env: "k8s0".into(), node: node.clone() },
            handle: node.clone(),
            uuid: super::tests::uuid(node, cluster),
            running: standing.running,
            root: standing.root,
            previous: standing.previous,
            data_bytes: disk.data.get(node).map(|(bytes, _)| *bytes),
            seed: standing.seed,
            memory_mib: standing.shape.as_ref().map_or(0, |s| s.0),
            vcpus: standing.shape.as_ref().map_or(0, |s| s.1),
            bridge: standing.shape.as_ref().map(|s| s.2.clone()),
            mac: standing.shape.as_ref().map(|s| s.3),
            trouble: standing.trouble.clone(),
        };
        Ok(disk.machines.iter().map(seen).collect())
    }

    fn ensure_image(&self, image: &Image, _: &dyn Watch) -> Result<Transfer> {
        self.change(|disk| Ok(Transfer { bytes: if disk.images.insert(image.sha256) { image.bytes } else { 0 } }))
    }

    fn ensure_machine(&self, machine: &Machine, root: Root, image: &Image, seed: &Seed) -> Result<()> {
        self.has_image(image)?;
        ensure!(image.key == root.image, "the root is of another image");
        let node = &machine.mark.node;
        self.change(|disk| {
            ensure!(
                disk.machines.get(node).is_none_or(|m| !m.running && m.trouble.is_empty()),
                "it runs or is in trouble"
            );
            if !disk.machines.contains_key(node) {
                disk.made.push(node.clone());
            }
            disk.machines.entry(node.clone()).or_default();
            Ok(())
        })?;
        self.change(|disk| {
            disk.data.entry(node.clone()).or_insert((u64::from(machine.data_gib) * GIB, Data::Blank));
            Ok(())
        })?;
        self.on_off(machine, |standing| {
            standing.root.get_or_insert(root);
            Ok(())
        })?;
        self.on_off(machine, |standing| {
            standing.seed.get_or_insert(seed.sha256);
            standing.shape = standing.shape.take().or_else(|| shape(machine));
            Ok(())
        })
    }

    fn redefine(&self, machine: &Machine) -> Result<()> {
        self.on_off(machine, |standing| {
            standing.shape = shape(machine);
            Ok(())
        })
    }

    fn replace_root(&self, machine: &Machine, root: Root, image: &Image) -> Result<()> {
        self.has_image(image)?;
        ensure!(image.key == root.image, "the root is of another image");
        if self.disk.lock().unwrap().machines.get(&machine.mark.node).is_some_and(|m| m.root == Some(root)) {
            return Ok(());
        }
        self.on_off(machine, |standing| {
            standing.previous = None;
            Ok(())
        })?;
        self.on_off(machine, |standing| {
            standing.previous = standing.root.replace(root);
            Ok(())
        })
    }

    fn restore_root(&self, machine: &Machine) -> Result<()> {
        self.on_off(machine, |standing| {
            let Some(previous) = standing.previous.take() else { bail!("there is no previous root") };
            standing.root = Some(previous);
            Ok(())
        })
    }

    fn drop_previous_root(&self, machine: &Machine) -> Result<()> {
        self.change(|disk| {
            let Some(standing) = disk.machines.get_mut(&machine.mark.node) else { bail!("there is no such machine") };
            standing.previous = None;
            Ok(())
        })
    }

    fn replace_seed(&self, machine: &Machine, seed: &Seed) -> Result<()> {
        self.on_off(machine, |standing| {
            standing.seed = Some(seed.sha256);
            Ok(())
        })
    }

    fn wipe_data(&self, machine: &Machine) -> Result<()> {
        let node = &machine.mark.node;
        self.on_off(machine, |_| Ok(()))?;
        self.change(|disk| {
            if let Some((_, Data::Written)) =
                disk.data.insert(node.clone(), (u64::from(machine.data_gib) * GIB, Data::Blank))
            {
                disk.lost.push(node.clone());
            }
            Ok(())
        })
    }

    fn power_on(&self, machine: &Machine) -> Result<()> {
        let node = &machine.mark.node;
        self.change(|disk| {
            let Some(standing) = disk.machines.get_mut(node) else { bail!("there is no such machine") };
            ensure!(standing.root.is_some() && standing.seed.is_some(), "it is half-made");
            let Some((_, data)) = disk.data.get_mut(node) else { bail!("it has no data volume") };
            standing.running = true;
            *data = Data::Written;
            Ok(())
        })
    }

    fn power_off(&self, machine: &Machine, _: Duration) -> Result<()> {
        self.change(|disk| {
            if let Some(standing) = disk.machines.get_mut(&machine.mark.node) {
                standing.running = false;
            }
            Ok(())
        })
    }

    fn destroy(&self, machine: &Machine, with_data: bool) -> Result<()> {
        let node = &machine.mark.node;
        self.change(|disk| {
            ensure!(
                disk.machines.get(node).is_none_or(|m| !m.running && m.trouble.is_empty()),
                "it runs or is in trouble"
            );
            disk.machines.remove(node);
            Ok(())
        })?;
        if with_data {
            self.change(|disk| {
                if let Some((_, Data::Written)) = disk.data.remove(node) {
                    disk.lost.push(node.clone());
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn collect(&self, keep: &[Sha256Digest]) -> Result<Collected> {
        self.change(|disk| {
            disk.images.retain(|image| keep.contains(image) || !disk.machines.is_empty());
            Ok(Collected::default())
        })
    }

    fn console(&self, _: &Machine) -> Result<String> {
        bail!("it keeps none")
    }
}
