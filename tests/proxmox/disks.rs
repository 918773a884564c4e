//! What Proxmox does to disks when a configuration changes: new volumes, imports, unused ones, removal, and what waits while a machine runs.

use std::collections::BTreeMap;

use crate::schema::Parameters;
use crate::world::{Volume, World};

/// Whether a key of a configuration holds a volume.
pub(crate) fn is_volume(name: &str) -> bool {
    is_slot(name) || numbered(name, "unused")
}

/// Whether it is a slot that a disk is attached in.
pub(crate) fn is_slot(name: &str) -> bool {
    ["virtio", "scsi", "sata", "ide", "efidisk"].iter().any(|stem| numbered(name, stem))
}

fn numbered(name: &str, stem: &str) -> bool {
    name.strip_prefix(stem).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The volume of a disk's value.
pub(crate) fn volume_of(value: &str) -> String {
    let first = value.split(',').next().unwrap_or_default();
    first.strip_prefix("file=").unwrap_or(first).to_owned()
}

/// What Proxmox changes at once, whether the machine runs or not.
const AT_ONCE: [&str; 5] = ["name", "description", "tags", "onboot", "protection"];

impl World {
    /// Changes a configuration, one key after the other, as the worker does: what was done before a key that fails stays as pending.
    pub(crate) fn update(
        &mut self,
        vmid: u32,
        values: Parameters,
        delete: &[String],
        force: bool,
    ) -> Result<(), String> {
        for key in delete {
            self.delete_key(vmid, key, force)?;
        }
        // By the hash of Perl the order is any; this one is the worst for a change that mixes disks with other keys.
        let (disks, plain): (Vec<_>, Vec<_>) = values.into_iter().partition(|(name, _)| is_slot(name));
        for (name, value) in plain.into_iter().chain(disks) {
            let value = if is_slot(&name) { self.allocate(vmid, &value)? } else { value };
            if name == "boot" {
                let vm = &self.vms[&vmid];
                for device in value.trim_start_matches("order=").split(';') {
                    if !vm.config.contains_key(device) && !vm.pending.contains_key(device) {
                        return Err(format!("invalid bootorder: device '{device}' does not exist'"));
                    }
                }
            }
            self.vms.get_mut(&vmid).unwrap().pending.insert(name, Ok(value));
        }
        self.apply(vmid)
    }

    fn delete_key(&mut self, vmid: u32, key: &str, force: bool) -> Result<(), String> {
        let vm = self.vms.get_mut(&vmid).unwrap();
        let Some(value) = vm.config.get(key).cloned() else { return Ok(()) };
        let is_protected = vm.config.get("protection").is_some_and(|p| p == "1");
        if is_volume(key) && is_protected {
            return Err(format!("can't remove drive '{key}' - protection mode enabled"));
        }
        let boot = vm.config.get("boot").cloned().unwrap_or_default();
        if boot.trim_start_matches("order=").split(';').any(|d| d == key) {
            let rest: Vec<&str> = boot.trim_start_matches("order=").split(';').filter(|d| *d != key).collect();
            vm.pending.insert("boot".into(), Ok(format!("order={}", rest.join(";"))));
        }
        if numbered(key, "unused") {
            // A volume that a snapshot holds stays, without an error.
            if vm.snapshots.is_empty() {
                vm.config.remove(key);
                self.free_volume(vmid, &volume_of(&value));
            }
        } else {
            vm.pending.insert(key.to_owned(), Err(force));
        }
        Ok(())
    }

    fn free_volume(&mut self, vmid: u32, volume: &str) {
        if self.volumes.get(volume).is_some_and(|v| v.owner == vmid) {
            self.volumes.remove(volume);
        }
    }

    fn apply(&mut self, vmid: u32) -> Result<(), String> {
        let vm = self.vms.get_mut(&vmid).unwrap();
        let running = vm.running;
        let ready: Vec<(String, Result<String, bool>)> = vm
            .pending
            .iter()
            .filter(|(name, _)| !running || AT_ONCE.contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        for (name, change) in ready {
            let vm = self.vms.get_mut(&vmid).unwrap();
            vm.pending.remove(&name);
            let old = vm.config.get(&name).map(|v| volume_of(v));
            let (new, force) = match change {
                Ok(value) => (Some(value), false),
                Err(force) => (None, force),
            };
            let replaced = is_slot(&name) && old.is_some() && old != new.as_deref().map(volume_of);
            match new {
                Some(value) => drop(vm.config.insert(name, value)),
                None => drop(vm.config.remove(&name)),
            }
            if replaced {
                let old = old.unwrap();
                if force && vm.snapshots.is_empty() {
                    self.free_volume(vmid, &old);
                } else {
                    self.keep_unused(vmid, &old);
                }
            }
            let vm = self.vms.get_mut(&vmid).unwrap();
            // What is attached again is not unused any more.
            let attached: Vec<String> =
                vm.config.iter().filter(|(n, _)| is_slot(n)).map(|(_, v)| volume_of(v)).collect();
            vm.config.retain(|name, value| !(numbered(name, "unused") && attached.contains(&volume_of(value))));
        }
        Ok(())
    }

    fn keep_unused(&mut self, vmid: u32, volume: &str) {
        let vm = self.vms.get_mut(&vmid).unwrap();
        let key = (0..256).map(|n| format!("unused{n}")).find(|key| !vm.config.contains_key(key)).unwrap();
        vm.config.insert(key, volume.to_owned());
    }

    /// What a disk's value becomes: a new volume, blank or imported, or one that is there and the machine's own.
    fn allocate(&mut self, vmid: u32, value: &str) -> Result<String, String> {
        let file = volume_of(value);
        let options: Vec<(&str, &str)> = value.split(',').skip(1).filter_map(|p| p.split_once('=')).collect();
        let source = options.iter().find(|(n, _)| *n == "import-from").map(|(_, v)| *v);
        let (storage, rest) = file.split_once(':').ok_or("no volume")?;
        let tail = |size: u64| {
            let kept: BTreeMap<&str, String> = options
                .iter()
                .filter(|(n, _)| !["import-from", "size"].contains(n))
                .map(|(n, v)| (*n, (*v).to_owned()))
                .collect();
            let options: String = kept.iter().map(|(n, v)| format!(",{n}={v}")).collect();
            let size = if size.is_multiple_of(1 << 30) {
                format!("{}G", size >> 30)
            } else {
                format!("{}K", size.div_ceil(1024))
            };
            format!("{options},size={size}")
        };
        let Ok(gib) = rest.parse::<u64>() else {
            if source.is_some() {
                return Err(format!(
                    "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>, got {file}"
                ));
            }
            let volume = self.volumes.get(&file).ok_or_else(|| format!("volume '{file}' does not exist"))?;
            if volume.owner != vmid {
                return Err(format!("volume '{file}' is owned by VM {}", volume.owner));
            }
            return Ok(format!("{file}{}", tail(volume.size)));
        };
        if !self.storages.get(storage).is_some_and(|s| s.content.contains(&"images")) {
            return Err(format!("storage '{storage}' does not support vm images"));
        }
        let (size, bytes) = match source {
            Some(_) if gib != 0 => return Err("'import-from' requires special syntax - use <storage ID>:0".into()),
            None if gib == 0 => return Err("a disk of no size".into()),
            None => (gib << 30, Vec::new()),
            Some(source) => {
                let (from, name) = source
                    .split_once(":import/")
                    .ok_or_else(|| format!("{source} has wrong type - needs to be 'images' or 'import'"))?;
                let stored = self.storages.get(from).and_then(|s| s.files.get(name));
                let bytes = stored.ok_or_else(|| format!("volume '{source}' does not exist"))?.clone();
                (bytes.len() as u64, bytes)
            }
        };
        if size > self.free(storage) {
            return Err(format!("lvcreate '{storage}' error: insufficient free space"));
        }
        let id =
            (0..).map(|n| format!("{storage}:vm-{vmid}-disk-{n}")).find(|id| !self.volumes.contains_key(id)).unwrap();
        self.volumes.insert(id.clone(), Volume { owner: vmid, size, bytes });
        Ok(format!("{id}{}", tail(size)))
    }
}
