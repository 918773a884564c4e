//! libvirt's description of a node's machine, on a host and in the lab: three disks found by serial, one card, a serial console.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use camino::Utf8PathBuf;
use kiln_firstboot::digest::Sha256Digest;

use super::xml::escape;
use crate::host::{Mark, Root};
use crate::mac::MacAddress;
use crate::profile::{Accelerator, Cache};

/// The namespace of what kiln writes on a machine.
pub const NAMESPACE: &str = "urn:kiln:node:1";

/// What kiln writes on a machine, to be read when it looks again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whose it is.
    pub mark: Mark,
    /// The root it has.
    pub root: Root,
    /// The root it had before, if that is kept.
    pub previous: Option<Root>,
    /// Digest of its seed.
    pub seed: Sha256Digest,
}

/// What differs between machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name in libvirt.
    pub name: String,
    /// Its UUID, which becomes the node's machine id.
    pub uuid: String,
    /// What kiln writes on it; the lab remembers by other means.
    pub note: Option<Note>,
    /// How it computes.
    pub accelerator: Accelerator,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
    /// How its root and its data are cached.
    pub cache: Cache,
    /// Thin overlay over the image, qcow2.
    pub root: Utf8PathBuf,
    /// Data disk, raw.
    pub data: Utf8PathBuf,
    /// Seed, raw.
    pub seed: Utf8PathBuf,
    /// File the serial console is appended to.
    pub console: Utf8PathBuf,
    /// Bridge its card is on.
    pub bridge: String,
    /// Name of the card's end on the host, where it has to be known.
    pub tap: Option<String>,
    /// MTU of the card, where it is not the bridge's.
    pub mtu: Option<u32>,
    /// The card's Ethernet address.
    pub mac: MacAddress,
}

/// The domain as XML.
///
/// Disks are files and no volumes of a pool, though they lie in one: AppArmor's helper (libvirt 10 and earlier) cannot resolve those. However
/// they are cached, what the guest has flushed is on the host's disk, so that pulling the plug loses exactly what it never synced.
///
/// There is no HPET, as in what virt-install writes: Linux tries one out while it starts and leaves it ticking, a thousand times a second that
/// QEMU serves for nothing as long as the machine runs.
///
/// An emulated machine only computes, so it is scheduled like what only computes (`SCHED_BATCH`): where more of them run than there are
/// processors, none takes another's place at each timer and packet of its own, which costs both what they had in the caches.
pub fn render(domain: &Domain) -> String {
    let Domain { name, uuid, memory_mib, vcpus, bridge, mac, .. } = domain;
    let [name, uuid, bridge] = [name, uuid, bridge].map(|t| escape(t));
    let [root, data, seed, console] =
        [&domain.root, &domain.data, &domain.seed, &domain.console].map(|p| escape(p.as_str()));
    let (kind, cpu) = match domain.accelerator {
        Accelerator::Kvm => ("kvm", "<cpu mode='host-passthrough'/>"),
        Accelerator::Tcg => ("qemu", "<cpu mode='maximum'/>"),
    };
    let tune = match domain.accelerator {
        Accelerator::Kvm => String::new(),
        Accelerator::Tcg => format!(
            "  <cputune><vcpusched vcpus='0-{}' scheduler='batch'/><emulatorsched scheduler='batch'/></cputune>\n",
            vcpus.saturating_sub(1)
        ),
    };
    let cache = match domain.cache {
        Cache::None => "cache='none' io='native'",
        Cache::Writeback => "cache='writeback'",
    };
    let note = domain.note.as_ref().map(metadata).unwrap_or_default();
    let tap = domain.tap.as_ref().map(|tap| format!("<target dev='{}'/>", escape(tap))).unwrap_or_default();
    let mtu = domain.mtu.map(|mtu| format!("<mtu size='{mtu}'/>")).unwrap_or_default();
    format!(
        "<domain type='{kind}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
{note}  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>{vcpus}</vcpu>
{tune}  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/><apic/></features>
  {cpu}
  <clock offset='utc'><timer name='hpet' present='no'/></clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>restart</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' {cache} discard='unmap'/>
      <source file='{root}'/><target dev='vda' bus='virtio'/><serial>kiln-root</serial><boot order='1'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' {cache} discard='unmap'/>
      <source file='{data}'/><target dev='vdb' bus='virtio'/><serial>kiln-data</serial>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{seed}'/><target dev='vdc' bus='virtio'/><readonly/><serial>kiln-seed</serial>
    </disk>
    <controller type='usb' model='none'/>
    <interface type='bridge'>
      <mac address='{mac}'/><source bridge='{bridge}'/>{tap}<model type='virtio'/>{mtu}
    </interface>
    <serial type='file'><source path='{console}' append='on'/><target port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
</domain>
"
    )
}

fn metadata(note: &Note) -> String {
    let Mark { cluster, env, node } = &note.mark;
    let [env, node] = [env, node].map(|t| escape(t));
    let root = |name: &str, root: &Root| {
        format!("      <kiln:{name} image='{}' generation='{}'/>\n", root.image, root.generation)
    };
    let previous = note.previous.as_ref().map(|p| root("previous", p)).unwrap_or_default();
    format!(
        "  <metadata>
    <kiln:node xmlns:kiln='{NAMESPACE}' cluster='{cluster}' env='{env}' node='{node}' seed='{}'>
{}{previous}    </kiln:node>
  </metadata>
",
        note.seed,
        root("root", &note.root)
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kiln_firstboot::digest::Id128;

    fn lab() -> Domain {
        Domain {
            name: "a1".into(),
            uuid: "2ed6657d-e927-568b-95e1-2665a8aea6a2".into(),
            note: None,
            accelerator: Accelerator::Tcg,
            memory_mib: 1024,
            vcpus: 2,
            cache: Cache::Writeback,
            root: "/l/nodes/a1/root.qcow2".into(),
            data: "/l/nodes/a1/data.raw".into(),
            seed: "/l/nodes/a1/seed.tar".into(),
            console: "/l/it's/console.log".into(),
            bridge: "br0".into(),
            tap: Some("tap1".into()),
            mtu: None,
            mac: "52:54:00:00:00:01".parse().unwrap(),
        }
    }

    pub(in super::super) fn hosted() -> Domain {
        let image = Sha256Digest::of(b"image");
        let note = Note {
            mark: Mark { cluster: Id128([0xab; 16]), env: "k8s0".into(), node: "k8s0etcd1".into() },
            root: Root { image, generation: 2 },
            previous: Some(Root { image: Sha256Digest::of(b"older"), generation: 1 }),
            seed: Sha256Digest::of(b"seed"),
        };
        let pool = camino::Utf8Path::new("/var/lib/libvirt/images");
        Domain {
            name: "k8s0.k8s0etcd1".into(),
            note: Some(note),
            accelerator: Accelerator::Kvm,
            memory_mib: 4096,
            cache: Cache::None,
            root: pool.join("k8s0.k8s0etcd1-root-g2-6105d6cc76af.qcow2"),
            data: pool.join("k8s0.k8s0etcd1-data.raw"),
            seed: pool.join("k8s0.k8s0etcd1-seed-19b25856e1c1.raw"),
            console: pool.join("k8s0.k8s0etcd1-console.log"),
            bridge: "k8s0-etcd".into(),
            tap: None,
            mtu: Some(1450),
            ..lab()
        }
    }

    #[test]
    fn is_the_reviewed_text() {
        assert_eq!(render(&lab()), include_str!("lab.golden.xml"));
        assert_eq!(render(&hosted()), include_str!("host.golden.xml"));
    }
}
