//! What a Proxmox cluster holds: machines, volumes with their bytes, storages, tasks, privileges. And what can be made to go wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use kiln_firstboot::digest::Sha256Digest;

use crate::schema::Parameters;

pub(crate) const TOKEN: &str = "kiln@pve!kiln";
pub(crate) const SECRET: &str = "0b5a1f6e-7c0d-4a59-9c65-1f3e5b8f2a77";
pub(crate) const NODE: &str = "pve1";
pub(crate) const IMAGES: &str = "kiln-img";
pub(crate) const DISKS: &str = "local-lvm";
pub(crate) const BRIDGE: &str = "vmbr0";
pub(crate) const POOL: &str = "kiln";

#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) version: String,
    /// Path to privileges, inherited downwards.
    pub(crate) rights: BTreeMap<String, BTreeSet<String>>,
    pub(crate) storages: BTreeMap<String, Storage>,
    pub(crate) vms: BTreeMap<u32, Vm>,
    /// Disks by `STORAGE:NAME`.
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) tasks: Vec<Task>,
    /// Requests that a task lives through before it ends.
    pub(crate) task_length: usize,
    /// What is made to go wrong, and at which request or task, counted from when it was set.
    pub(crate) trouble: Option<Trouble>,
    /// Requests since the trouble was set.
    pub(crate) count: usize,
    /// Whether nothing answers any more.
    pub(crate) dead: bool,
    /// Requests that the API does not take.
    pub(crate) violations: Vec<String>,
    /// Files that an upload took the place of.
    pub(crate) overwritten: Vec<String>,
    /// A VMID that somebody takes just before it is used.
    pub(crate) snatched: Option<u32>,
    /// Tasks begun since the trouble was set.
    pub(crate) begun: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing answers from this request on, and it is not carried out.
    CutBefore(usize),
    /// This request is carried out, its answer lost, and nothing answers after it.
    CutAfter(usize),
    /// This request is answered with a status instead.
    Answer(usize, u16),
    /// Somebody changes every machine just before this request is carried out.
    Meddle(usize),
    /// This task fails.
    TaskFails(usize),
    /// The worker of this task dies.
    TaskDies(usize),
    /// This task ends with warnings.
    TaskWarns(usize),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Storage {
    pub(crate) content: Vec<&'static str>,
    pub(crate) total: u64,
    /// Files of the `import` content.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) owner: u32,
    pub(crate) size: u64,
    /// What was written; zeros after it.
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Vm {
    pub(crate) node: String,
    pub(crate) config: BTreeMap<String, String>,
    /// Values that wait, and removals, with their force.
    pub(crate) pending: BTreeMap<String, Result<String, bool>>,
    pub(crate) snapshots: Vec<String>,
    pub(crate) running: bool,
    pub(crate) ha: bool,
    pub(crate) pool: Option<String>,
    /// It ignores being asked to shut down.
    pub(crate) hangs: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) upid: String,
    pub(crate) kind: &'static str,
    pub(crate) vmid: Option<u32>,
    pub(crate) left: usize,
    pub(crate) work: Option<Work>,
    pub(crate) log: Vec<String>,
    pub(crate) exit: Option<String>,
    fate: Option<Trouble>,
}

#[derive(Clone, Debug)]
pub(crate) enum Work {
    Create { vmid: u32, values: Parameters },
    Config { vmid: u32, values: Parameters, delete: Vec<String>, force: bool },
    Power { vmid: u32, on: bool, ask: bool },
    Destroy { vmid: u32, unreferenced: bool },
    Upload { storage: String, name: String, bytes: Vec<u8>, checksum: Option<String> },
    RemoveFile { storage: String, name: String },
}

impl World {
    /// One node, an image storage and one for disks, a pool, and a token that has just what `README` tells to give it.
    pub(crate) fn new() -> Self {
        let privileges = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
        let machines = [
            "VM.Allocate",
            "VM.Audit",
            "VM.PowerMgmt",
            "VM.Config.Disk",
            "VM.Config.CPU",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.HWType",
            "VM.Config.Options",
            "VM.GuestAgent.Audit",
            "Pool.Audit",
        ];
        Self {
            version: "9.1.2".into(),
            rights: [
                (format!("/pool/{POOL}"), privileges(&machines)),
                (
                    format!("/storage/{IMAGES}"),
                    privileges(&[
                        "Datastore.Allocate",
                        "Datastore.AllocateTemplate",
                        "Datastore.AllocateSpace",
                        "Datastore.Audit",
                    ]),
                ),
                (format!("/storage/{DISKS}"), privileges(&["Datastore.AllocateSpace", "Datastore.Audit"])),
                ("/sdn/zones/localnetwork".into(), privileges(&["SDN.Use"])),
            ]
            .into(),
            storages: [
                (IMAGES.to_owned(), Storage { content: vec!["import", "iso"], total: 1 << 30, ..Storage::default() }),
                (
                    DISKS.to_owned(),
                    Storage { content: vec!["images", "rootdir"], total: 64 << 30, ..Storage::default() },
                ),
            ]
            .into(),
            ..Self::default()
        }
    }

    pub(crate) fn used(&self, storage: &str) -> u64 {
        let files: u64 = self.storages[storage].files.values().map(|f| f.len() as u64).sum();
        let prefix = format!("{storage}:");
        let disks: u64 = self.volumes.iter().filter(|(id, _)| id.starts_with(&prefix)).map(|(_, v)| v.size).sum();
        files + disks
    }

    pub(crate) fn free(&self, storage: &str) -> u64 {
        self.storages[storage].total.saturating_sub(self.used(storage))
    }

    /// Begins a task; its work is done when it ends.
    pub(crate) fn begin(&mut self, kind: &'static str, id: Option<u32>, work: Work) -> String {
        let number = self.tasks.len() + 1;
        let name = id.map(|id| id.to_string()).unwrap_or_default();
        let upid = format!("UPID:{NODE}:{number:08X}:{number:08X}:69290000:{kind}:{name}:{TOKEN}:");
        self.begun += 1;
        let fate = match self.trouble {
            Some(Trouble::TaskFails(at) | Trouble::TaskDies(at) | Trouble::TaskWarns(at)) if at == self.begun => {
                self.trouble.take()
            }
            _ => None,
        };
        let log = vec![format!("starting task {upid}"), "transferred 1.0 MiB of 2.0 MiB (50.00%)".into()];
        self.tasks.push(Task {
            upid: upid.clone(),
            kind,
            vmid: id,
            left: self.task_length,
            work: Some(work),
            log,
            exit: None,
            fate,
        });
        if self.task_length == 0 {
            self.pass();
        }
        upid
    }

    /// Time passes, by a request: tasks that are over do their work.
    pub(crate) fn pass(&mut self) {
        for i in 0..self.tasks.len() {
            if self.tasks[i].exit.is_some() {
                continue;
            }
            if self.tasks[i].left > 0 {
                self.tasks[i].left -= 1;
                continue;
            }
            let work = self.tasks[i].work.take().unwrap();
            let done = match self.tasks[i].fate {
                Some(Trouble::TaskFails(_)) => {
                    self.undo(&work);
                    Err("command '/usr/bin/qemu-img convert' failed: exit code 1".to_owned())
                }
                Some(Trouble::TaskDies(_)) => Err("unexpected status".to_owned()),
                _ => self.work(work),
            };
            let task = &mut self.tasks[i];
            if let Err(what) = &done {
                task.log.push(format!("TASK ERROR: {what}"));
            }
            task.exit = Some(match (done, task.fate) {
                (Ok(()), Some(Trouble::TaskWarns(_))) => "WARNINGS: 1".into(),
                (Ok(()), _) => "OK".into(),
                (Err(what), _) => what,
            });
        }
    }

    /// Whether a task is at work on a machine and holds its lock.
    pub(crate) fn is_busy(&self, vmid: u32) -> bool {
        self.tasks.iter().any(|t| t.vmid == Some(vmid) && t.exit.is_none())
    }

    /// What a failed worker cleans up.
    fn undo(&mut self, work: &Work) {
        if let Work::Create { vmid, .. } = work {
            self.vms.remove(vmid);
        }
    }

    fn work(&mut self, work: Work) -> Result<(), String> {
        match work {
            Work::Create { vmid, values } => {
                let vm = self.vms.get_mut(&vmid).unwrap();
                // It joins its pool last, and is seen by who has rights there from then on.
                vm.pool = values.get("pool").cloned();
                vm.config =
                    values.into_iter().filter(|(name, _)| !["vmid", "node", "pool"].contains(&name.as_str())).collect();
                Ok(())
            }
            Work::Config { vmid, values, delete, force } => self.update(vmid, values, &delete, force),
            Work::Power { vmid, on, ask } => {
                let vm = self.vms.get_mut(&vmid).ok_or("no such VM")?;
                if ask && vm.hangs {
                    return Err("VM quit/powerdown failed - got timeout".into());
                }
                vm.running = on;
                Ok(())
            }
            Work::Destroy { vmid, unreferenced } => {
                let vm = self.vms.remove(&vmid).ok_or("no such VM")?;
                let owned: Vec<String> = vm
                    .config
                    .iter()
                    .filter(|(n, _)| crate::disks::is_volume(n))
                    .map(|(_, v)| crate::disks::volume_of(v))
                    .collect();
                self.volumes.retain(|id, volume| volume.owner != vmid || !(owned.contains(id) || unreferenced));
                Ok(())
            }
            Work::Upload { storage, name, bytes, checksum } => {
                if let Some(wanted) = checksum {
                    let got = Sha256Digest::of(&bytes).to_string();
                    if got != wanted.to_lowercase() {
                        return Err(format!("checksum mismatch: got '{got}' != expect '{wanted}'"));
                    }
                }
                if bytes.len() as u64 > self.free(&storage) {
                    return Err("import failed: cp: error writing: No space left on device".into());
                }
                if self.storages.get_mut(&storage).unwrap().files.insert(name.clone(), bytes).is_some() {
                    self.overwritten.push(name);
                }
                Ok(())
            }
            Work::RemoveFile { storage, name } => self
                .storages
                .get_mut(&storage)
                .unwrap()
                .files
                .remove(&name)
                .map(|_| ())
                .ok_or_else(|| format!("unable to remove '{name}': no such file")),
        }
    }
}
