//! The driver `vm`: a node is a QEMU machine booted from the baked disk, run by a [libvirt](super::libvirt) of the lab's own.
#![expect(clippy::disallowed_methods, reason = "an edge: makes disks, writes the machine's description")]

use anyhow::Context as _;
use camino::Utf8Path;

use super::host::Host;
use super::libvirt::{self, Sockets};
use super::machine::Machine;
use crate::host::libvirt::domain_xml::{self, Domain};
use crate::profile::{Accelerator, Cache};
use crate::tool::{Tool, ToolError};

/// What a VM is made from.
#[derive(Clone, Copy, Debug)]
pub struct Vm<'a> {
    /// What it is.
    pub machine: Machine<'a>,
    /// Its UUID.
    pub uuid: &'a str,
    /// Its directory in the lab.
    pub dir: &'a Utf8Path,
    /// The image its root lies over; never written.
    pub image: &'a Utf8Path,
}

impl Vm<'_> {
    /// Makes its disks, where they are not there yet: a thin overlay for the root, an empty data disk.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn ensure_disks(&self, host: &Host) -> anyhow::Result<()> {
        let root = self.dir.join("root.qcow2");
        if !root.exists() {
            let new = self.dir.join("root.qcow2.new");
            host.tool("qemu-img")?
                .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.image.as_str(), new.as_str()])
                .run()
                .with_context(|| format!("making the root disk of `{}`", self.machine.name()))?;
            fs_err::rename(new, root)?;
        }
        let data = self.dir.join("data.raw");
        if !data.exists() {
            let new = self.dir.join("data.raw.new");
            fs_err::File::create(&new)?.set_len(u64::from(self.machine.node.data_gib) << 30)?;
            fs_err::rename(new, data)?;
        }
        Ok(())
    }

    /// Powers it on. Does nothing when it runs.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn start(&self, host: &Host, accelerator: Accelerator) -> anyhow::Result<()> {
        if self.is_running(host)? {
            return Ok(());
        }
        let name = &self.machine.name();
        let xml = self.dir.join("domain.xml");
        fs_err::write(&xml, domain_xml::render(&self.domain(accelerator)))?;
        virsh(host)?.args(["define", xml.as_str()]).run().with_context(|| format!("defining the VM `{name}`"))?;
        virsh(host)?.args(["start", name]).run().with_context(|| format!("starting the VM `{name}`"))
    }

    /// Powers it off, hard.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn kill(&self, host: &Host) -> anyhow::Result<()> {
        if !self.is_running(host)? {
            return Ok(());
        }
        virsh(host)?
            .args(["destroy", &self.machine.name()])
            .run()
            .with_context(|| format!("powering `{}` off", self.machine.name()))
    }

    /// Throws its root disk away; the next start makes a fresh overlay.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn drop_root(&self) -> anyhow::Result<()> {
        match fs_err::remove_file(self.dir.join("root.qcow2")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Stops it where it is, or lets it go on.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn freeze(&self, host: &Host, frozen: bool) -> anyhow::Result<()> {
        let name = self.machine.name();
        let verb = if frozen { "suspend" } else { "resume" };
        virsh(host)?.args([verb, &name]).run().with_context(|| format!("freezing `{name}`"))
    }

    /// Whether it is powered on.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn is_running(&self, host: &Host) -> anyhow::Result<bool> {
        Ok(host.processes()?.iter().any(|p| p.runs("qemu-system-x86_64") && p.has_args(&["-uuid", self.uuid])))
    }

    fn domain(&self, accelerator: Accelerator) -> Domain {
        Domain {
            name: self.machine.name(),
            uuid: self.uuid.to_owned(),
            note: None,
            accelerator,
            cache: Cache::Writeback,
            memory_mib: self.machine.node.memory_mib,
            vcpus: self.machine.node.vcpus,
            root: self.dir.join("root.qcow2"),
            data: self.dir.join("data.raw"),
            seed: self.dir.join("seed.tar"),
            console: self.dir.join("console.log"),
            bridge: "br0".into(),
            tap: Some(format!("tap{}", self.machine.index())),
            mtu: None,
            mac: self.machine.node.mac,
        }
    }
}

/// `virsh` at the libvirt of the lab host.
///
/// # Errors
/// When it is not installed.
pub fn virsh(host: &Host) -> Result<Tool, ToolError> {
    libvirt::virsh(host, &Sockets::Usual)
}
