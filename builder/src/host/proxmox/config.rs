//! The configuration of a virtual machine as the API tells it, and the parts of it that kiln reads.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::mac::MacAddress;

/// The slot of the root disk.
pub(super) const ROOT: &str = "virtio0";
/// The slot of the data disk.
pub(super) const DATA: &str = "virtio1";
/// The slot of the seed.
pub(super) const SEED: &str = "virtio2";

/// A machine's configuration: names and values, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<String, Value>")]
pub(super) struct VmConfig(BTreeMap<String, String>);

impl From<BTreeMap<String, Value>> for VmConfig {
    fn from(values: BTreeMap<String, Value>) -> Self {
        let text = |value: Value| match value {
            Value::String(text) => text,
            Value::Bool(set) => u8::from(set).to_string(),
            other @ (Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
        };
        Self(values.into_iter().map(|(name, value)| (name, text(value))).collect())
    }
}

/// A disk: its volume, and how it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drive<'a> {
    /// `STORAGE:NAME`.
    pub(super) volume: &'a str,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Drive<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(',');
        let first = parts.next()?;
        let volume = first.strip_prefix("file=").unwrap_or(first);
        Some(Self { volume, options: parts.filter_map(|part| part.split_once('=')).collect() })
    }

    /// The serial by which the node finds it.
    pub(super) fn serial(&self) -> Option<&'a str> {
        self.options.get("serial").copied()
    }

    /// Its size in bytes, where the configuration says it.
    pub(super) fn bytes(&self) -> Option<u64> {
        parse_size(self.options.get("size")?)
    }
}

/// `8G`, `528K`, `1.5T`, or bytes: how Proxmox writes a size.
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = ["", "K", "M", "G", "T"].iter().position(|u| *u == unit)? * 10;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    if part.is_empty() {
        return Some(whole);
    }
    let scale = 10u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    whole.checked_add(part.parse::<u64>().ok()?.checked_mul(1 << shift)? / scale)
}

impl VmConfig {
    /// One value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether a yes-or-no is set.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    /// The digest of this state of the configuration: given with a change, it keeps the change from meeting another state.
    pub(super) fn digest(&self) -> Option<&str> {
        self.get("digest")
    }

    /// The disk in a slot.
    pub(super) fn drive(&self, slot: &str) -> Option<Drive<'_>> {
        Drive::parse(self.get(slot)?)
    }

    /// The volume in a slot.
    pub(super) fn volume(&self, slot: &str) -> Option<&str> {
        self.drive(slot).map(|d| d.volume)
    }

    /// Every volume that belongs to the machine and is in no slot: key, `unusedN`, and volume.
    pub(super) fn unused(&self) -> Vec<(&str, &str)> {
        let entries = self.0.iter().filter(|(name, _)| numbered(name, &["unused"]));
        entries.map(|(name, value)| (name.as_str(), Drive::parse(value).map_or(value.as_str(), |d| d.volume))).collect()
    }

    /// The key under which a volume is kept unused.
    pub(super) fn unused_key(&self, volume: &str) -> Option<&str> {
        self.unused().into_iter().find(|(_, v)| *v == volume).map(|(key, _)| key)
    }

    /// Every volume of the machine in slots that are not kiln's.
    pub(super) fn foreign(&self) -> Vec<&str> {
        let slots = ["ide", "sata", "scsi", "virtio", "efidisk", "tpmstate"];
        let ours = [ROOT, DATA, SEED];
        self.0
            .keys()
            .filter(|name| numbered(name, &slots) && !ours.contains(&name.as_str()))
            .map(String::as_str)
            .collect()
    }

    /// Memory in MiB.
    pub(super) fn memory_mib(&self) -> u32 {
        let text = self.get("memory").unwrap_or("512");
        let first = text.split(',').next().unwrap_or_default();
        first.strip_prefix("current=").unwrap_or(first).parse().unwrap_or(0)
    }

    /// Processors: cores of all sockets.
    pub(super) fn vcpus(&self) -> u32 {
        let number = |name| self.get(name).and_then(|n| n.parse::<u32>().ok()).unwrap_or(1);
        number("cores").saturating_mul(number("sockets"))
    }

    /// Ethernet address, bridge and MTU of the first card.
    pub(super) fn card(&self) -> (Option<MacAddress>, Option<String>, Option<u32>) {
        let pairs: Vec<(&str, &str)> =
            self.get("net0").unwrap_or_default().split(',').filter_map(|p| p.split_once('=')).collect();
        let find = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        let mac = find("virtio").or_else(|| find("macaddr")).and_then(|m| m.parse().ok());
        (mac, find("bridge").map(str::to_owned), find("mtu").and_then(|m| m.parse().ok()))
    }

    /// A field of `smbios1`.
    pub(super) fn smbios(&self, field: &str) -> Option<&str> {
        self.get("smbios1")?
            .split(',')
            .filter_map(|p| p.split_once('='))
            .find(|(n, _)| *n == field)
            .map(|(_, value)| value)
    }
}

/// Whether a name is one of `stems` and a number.
fn numbered(name: &str, stems: &[&str]) -> bool {
    stems.iter().any(|stem| {
        name.strip_prefix(stem).is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kiln_looks_at() {
        let config: VmConfig = serde_json::from_value(serde_json::json!({
            "virtio0": "lvm:vm-7-disk-0,serial=kiln-root,size=2G", "virtio1": "file=lvm:vm-7-disk-1,serial=kiln-data,size=8G",
            "unused0": "lvm:vm-7-disk-2", "unused12": "lvm:vm-7-disk-3", "scsihw": "virtio-scsi-single", "ide2": "none,media=cdrom",
            "memory": "current=2048", "cores": 2, "sockets": 2, "net0": "virtio=52:54:00:AA:00:01,bridge=vmbr0,mtu=1450",
            "smbios1": "uuid=2ed6657d-e927-568b-95e1-2665a8aea6a2,base64=1", "onboot": 1, "digest": "ab",
        }))
        .unwrap();
        assert_eq!(config.volume(ROOT), Some("lvm:vm-7-disk-0"));
        let data = config.drive(DATA).unwrap();
        assert_eq!((data.volume, data.serial(), data.bytes()), ("lvm:vm-7-disk-1", Some("kiln-data"), Some(8 << 30)));
        assert_eq!(config.unused(), [("unused0", "lvm:vm-7-disk-2"), ("unused12", "lvm:vm-7-disk-3")]);
        assert_eq!(config.unused_key("lvm:vm-7-disk-3"), Some("unused12"));
        assert_eq!(config.foreign(), ["ide2"]);
        assert_eq!((config.memory_mib(), config.vcpus()), (2048, 4));
        assert_eq!(config.card(), ("52:54:00:aa:00:01".parse().ok(), Some("vmbr0".into()), Some(1450)));
        assert_eq!(config.smbios("uuid"), Some("2ed6657d-e927-568b-95e1-2665a8aea6a2"));
        assert!(config.is_set("onboot") && !config.is_set("protection"));
    }

    #[test]
    fn reads_sizes_as_proxmox_writes_them() {
        let sizes = [
            ("8G", Some(8 << 30)),
            ("528K", Some(528 << 10)),
            ("1.5T", Some(3 << 39)),
            ("512", Some(512)),
            ("x", None),
            ("8P", None),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
