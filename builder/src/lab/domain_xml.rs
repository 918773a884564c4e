//! libvirt's description of a lab VM. The devices are those a node finds on a real host: three disks by serial, one card, a serial console.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use camino::Utf8PathBuf;

use crate::mac::MacAddress;

/// What a VM's processor is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The hardware's virtualisation.
    Kvm,
    /// QEMU's translator: works everywhere, several times slower.
    Tcg,
}

/// What differs between the VMs of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name in libvirt.
    pub name: String,
    /// Its UUID, which becomes the node's machine id.
    pub uuid: String,
    /// How it computes.
    pub accelerator: Accelerator,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
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
    /// Name of the card's end on the host.
    pub tap: String,
    /// The card's Ethernet address.
    pub mac: MacAddress,
}

/// The domain as XML.
///
/// Data is written back and flushed when the guest asks for it, so that pulling the plug loses exactly what the guest never synced.
pub fn render(domain: &Domain) -> String {
    let Domain { name, uuid, memory_mib, vcpus, bridge, tap, mac, .. } = domain;
    let [name, uuid, bridge, tap] = [name, uuid, bridge, tap].map(|t| escape(t));
    let [root, data, seed, console] =
        [&domain.root, &domain.data, &domain.seed, &domain.console].map(|p| escape(p.as_str()));
    let (kind, cpu) = match domain.accelerator {
        Accelerator::Kvm => ("kvm", "<cpu mode='host-passthrough'/>"),
        Accelerator::Tcg => ("qemu", "<cpu mode='maximum'/>"),
    };
    format!(
        "<domain type='{kind}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/><apic/></features>
  {cpu}
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>restart</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='writeback' discard='unmap'/>
      <source file='{root}'/><target dev='vda' bus='virtio'/><serial>kiln-root</serial><boot order='1'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='writeback' discard='unmap'/>
      <source file='{data}'/><target dev='vdb' bus='virtio'/><serial>kiln-data</serial>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{seed}'/><target dev='vdc' bus='virtio'/><readonly/><serial>kiln-seed</serial>
    </disk>
    <controller type='usb' model='none'/>
    <interface type='bridge'>
      <mac address='{mac}'/><source bridge='{bridge}'/><target dev='{tap}'/><model type='virtio'/>
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> Domain {
        Domain {
            name: "a1".into(),
            uuid: "2ed6657d-e927-568b-95e1-2665a8aea6a2".into(),
            accelerator: Accelerator::Tcg,
            memory_mib: 1024,
            vcpus: 2,
            root: "/l/nodes/a1/root.qcow2".into(),
            data: "/l/nodes/a1/data.raw".into(),
            seed: "/l/nodes/a1/seed.tar".into(),
            console: "/l/it's/console.log".into(),
            bridge: "br0".into(),
            tap: "tap1".into(),
            mac: "52:54:00:00:00:01".parse().unwrap(),
        }
    }

    #[test]
    fn is_the_reviewed_text() {
        assert_eq!(render(&domain()), include_str!("domain.golden.xml"));
    }

    #[test]
    fn kvm_passes_the_hosts_processor_through() {
        let text = render(&Domain { accelerator: Accelerator::Kvm, ..domain() });
        assert!(text.starts_with("<domain type='kvm'>") && text.contains("<cpu mode='host-passthrough'/>"));
    }
}
