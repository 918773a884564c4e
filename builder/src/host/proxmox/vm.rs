//! A machine as the API tells it, and what of it must not be touched.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use serde::Deserialize;
use serde_json::Value;

use super::config::{DATA, VmConfig};
use super::note::{Disks, Note, disks, mark_of_serial};
use crate::host::{Lack, Mark, Seen};

/// An entry of `GET /cluster/resources?type=vm`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Listed {
    pub(super) vmid: u32,
    pub(super) node: String,
    #[serde(default)]
    pub(super) pool: Option<String>,
    #[serde(default)]
    pub(super) tags: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

impl Listed {
    /// Whether it may be one of kiln's: marked so, or in its pool.
    pub(super) fn may_be_ours(&self, pool: &str) -> bool {
        let tagged = self.tags.as_deref().is_some_and(|tags| tags.split([';', ',', ' ']).any(|t| t == TAG));
        self.kind == "qemu" && (tagged || self.pool.as_deref() == Some(pool))
    }
}

/// The tag of every machine of kiln's.
pub(super) const TAG: &str = "kiln";

/// `GET .../status/current`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Current {
    pub(super) status: String,
    #[serde(default)]
    pub(super) lock: Option<String>,
    #[serde(default)]
    pub(super) ha: Ha,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Ha {
    #[serde(default)]
    managed: Value,
}

/// An entry of `GET .../pending`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Pending {
    pub(super) key: String,
    #[serde(default)]
    pending: Option<Value>,
    #[serde(default)]
    delete: Option<Value>,
}

/// An entry of `GET .../snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Snapshot {
    pub(super) name: String,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vm {
    pub(super) vmid: u32,
    pub(super) node: String,
    pub(super) config: VmConfig,
    pub(super) current: Current,
    pub(super) pending: Vec<Pending>,
    pub(super) snapshots: Vec<Snapshot>,
}

impl Vm {
    /// The note in its description.
    pub(super) fn note(&self) -> Option<Note> {
        Note::parse(self.config.get("description").unwrap_or_default())
    }

    /// Whose it is; nothing if it is not one of kiln's.
    pub(super) fn mark(&self) -> Option<Mark> {
        mark(&self.config)
    }

    pub(super) fn is_running(&self) -> bool {
        self.current.status != "stopped"
    }

    /// Whether it only holds the data of a node that was destroyed.
    pub(super) fn is_parked(&self) -> bool {
        let left = |disks: &Disks| disks.root.is_some() || disks.seed.is_some() || !disks.waste.is_empty();
        self.note().is_some_and(|note| note.parked && !left(&disks(&note, &self.config)))
    }

    /// What is told of it.
    pub(super) fn seen(&self, mark: Mark) -> Seen {
        let note = self.note();
        let disks = note.as_ref().map(|note| disks(note, &self.config));
        let (mac, bridge, _) = self.config.card();
        Seen {
            handle: self.vmid.to_string(),
            uuid: self.config.smbios("uuid").unwrap_or_default().to_ascii_lowercase(),
            running: self.is_running(),
            root: disks.as_ref().and_then(|d| d.root),
            previous: disks.as_ref().and_then(|d| d.previous.as_ref()).map(|(_, root)| *root),
            data_bytes: self.config.drive(DATA).and_then(|d| d.bytes()),
            seed: disks.as_ref().and_then(|d| d.seed),
            memory_mib: self.config.memory_mib(),
            vcpus: self.config.vcpus(),
            mac,
            bridge,
            trouble: self.trouble(&mark, note.as_ref()),
            mark,
        }
    }

    /// Why it must not be touched.
    pub(super) fn trouble(&self, mark: &Mark, note: Option<&Note>) -> Vec<Lack> {
        let (id, node) = (self.vmid, &mark.node);
        let mut trouble = Vec::new();
        let mut say = |what: String, remedy: String| {
            trouble.push(Lack { what: format!("machine {id} of node `{node}` {what}"), remedy });
        };
        match note {
            None => say(
                "has lost the note that kiln keeps in its description".into(),
                format!(
                    "put the line that begins with {{\"kiln\": back (a backup of /etc/pve/qemu-server/{id}.conf has it), or remove the machine by hand"
                ),
            ),
            Some(note) if !self.config.smbios("uuid").is_some_and(|uuid| uuid.eq_ignore_ascii_case(&note.uuid)) => say(
                format!("does not have the UUID {} that kiln gave it: it is a copy", note.uuid),
                format!(
                    "two nodes of one identity must never run: remove the copy, or empty its description: qm set {id} --delete description,tags,smbios1"
                ),
            ),
            Some(_) => {}
        }
        if let Some(lock) = self.current.lock.as_deref().or(self.config.get("lock")) {
            say(
                format!("is locked: {lock}"),
                format!("wait until that is over; if nothing of the kind runs: qm unlock {id}"),
            );
        }
        let snapshots: Vec<&str> = self.snapshots.iter().map(|s| s.name.as_str()).filter(|n| *n != "current").collect();
        if !snapshots.is_empty() {
            say(
                format!("has snapshots ({}), which hold its volumes", snapshots.join(", ")),
                snapshots.iter().map(|name| format!("qm delsnapshot {id} {name}")).collect::<Vec<_>>().join("; "),
            );
        }
        let pending: Vec<&str> =
            self.pending.iter().filter(|p| p.pending.is_some() || p.delete.is_some()).map(|p| p.key.as_str()).collect();
        if !pending.is_empty() {
            say(
                format!("has changes that wait for its next start: {}", pending.join(", ")),
                format!("look at them: qm pending {id}; take them back: qm set {id} --revert {}", pending.join(",")),
            );
        }
        if matches!(&self.current.ha.managed, Value::Bool(true)) || self.current.ha.managed.as_i64() == Some(1) {
            say(
                "is managed by Proxmox's high availability, which would start and move it on its own".into(),
                format!("etcd brings its own: ha-manager remove vm:{id}"),
            );
        }
        if self.config.is_set("protection") {
            say("is protected, so no disk of it can be removed".into(), format!("qm set {id} --protection 0"));
        }
        if self.config.is_set("template") {
            say("was made a template".into(), "remove it, or give its description back to a machine".into());
        }
        if self.config.get("name") != Some(node.as_str()) {
            say(
                format!("is called `{}`", self.config.get("name").unwrap_or_default()),
                format!("if it is still the node: qm set {id} --name {node}"),
            );
        }
        if self.config.drive(DATA).is_some_and(|drive| drive.serial() != Some("kiln-data")) {
            say(
                format!("has a volume in {DATA} that its node would not find as its data"),
                format!("give it the serial kiln-data: qm config {id} shows the line, qm set {id} --{DATA} changes it"),
            );
        }
        trouble
    }
}

/// Whose a machine is, by its description or else by what is left of the mark in its SMBIOS fields.
pub(super) fn mark(config: &VmConfig) -> Option<Mark> {
    let note = Note::parse(config.get("description").unwrap_or_default()).map(|note| note.mark);
    note.or_else(|| mark_of_serial(config.smbios("serial")?))
}
