//! The driver `vm`: a node is a QEMU machine booted from the baked disk, run by a libvirt of the lab's own.
//!
//! In the lab's namespaces libvirt's directories are empty and private, so a stock libvirtd runs beside the machine's without meeting it.
#![expect(clippy::disallowed_methods, reason = "an edge: writes configuration, waits for libvirt")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use camino::Utf8Path;

use super::host::Host;
use super::machine::Machine;
use crate::host::libvirt::domain_xml::{self, Domain};
use crate::profile::{Accelerator, Cache};
use crate::tool::{Tool, ToolError};

/// How long libvirtd may take until it answers; it asks every QEMU it finds for its features, about two seconds each.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// All machines are root's and alone in their namespaces: labels, owners and groups would only be in the way. The console is
/// written by QEMU itself, so no log daemon has to run.
const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\nsecurity_driver = \"none\"\n\
                         namespaces = []\ncgroup_controllers = []\nstdio_handler = \"file\"\n";
/// Nobody but root is in the lab to ask.
const LIBVIRTD_CONF: &str = "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_group = \"root\"\n";

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

/// Makes the lab's libvirt run.
///
/// # Errors
/// When it does not start.
pub fn ensure_libvirt(host: &Host, log: &Utf8Path) -> anyhow::Result<()> {
    if host.running("libvirtd", &[])?.is_none() {
        for (path, text) in [("/etc/libvirt/qemu.conf", QEMU_CONF), ("/etc/libvirt/libvirtd.conf", LIBVIRTD_CONF)] {
            host.tool("tee")?.arg(path).stdin_bytes(text).run().context("configuring the lab's libvirt")?;
        }
        // The handle is let go: libvirtd stays when kiln ends.
        drop(host.daemon("libvirt", "libvirtd")?.log(log).start().context("starting the lab's libvirt")?);
    }
    let began = Instant::now();
    while !virsh(host)?.arg("version").succeeds()? {
        if began.elapsed() > READY_WITHIN {
            bail!("the lab's libvirt does not answer\n  hint: its log is `{log}`");
        }
        std::thread::sleep(ASK_EVERY);
    }
    Ok(())
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

    /// Sends one command to the guest agent and returns what it answered.
    ///
    /// # Errors
    /// When the VM is off or its agent does not answer.
    pub fn ask_agent(&self, host: &Host, command: &serde_json::Value) -> anyhow::Result<serde_json::Value> {
        let text = virsh(host)?
            .args(["qemu-agent-command", &self.machine.name(), &command.to_string(), "--timeout", "10"])
            .read()
            .with_context(|| format!("asking the guest agent of `{}`", self.machine.name()))?;
        let answer: serde_json::Value = serde_json::from_str(&text).context("reading the guest agent's answer")?;
        Ok(answer["return"].clone())
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

fn virsh(host: &Host) -> Result<Tool, ToolError> {
    Ok(host.tool("virsh")?.args(["--quiet", "--connect", "qemu:///system"]))
}
