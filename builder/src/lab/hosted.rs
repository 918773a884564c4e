//! The driver `hosts`: a node is a machine that `kiln deploy --lab` made on a [hypervisor](super::hypervisor) of the lab. Here it is only
//! powered on and off and spoken to; what it is made of is the deploying command's business.

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};

use super::hypervisor::Hypervisor;
use super::machine::Machine;
use crate::exit::Refusal;
use crate::tool::Tool;

/// A machine on a hypervisor of the lab.
#[derive(Clone, Copy, Debug)]
pub struct Hosted<'a> {
    /// What it is.
    pub machine: Machine<'a>,
    /// Its UUID, by which it is found: what it is called is for who made it to say.
    pub uuid: &'a str,
    /// Where it is.
    pub hypervisor: Hypervisor<'a>,
    /// The profile, for hints.
    pub profile: &'a str,
}

impl Hosted<'_> {
    /// Whether it is powered on.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn is_running(&self) -> anyhow::Result<bool> {
        let Some(host) = self.hypervisor.find()? else { return Ok(false) };
        Ok(host.processes()?.iter().any(|p| p.runs("qemu-system-x86_64") && p.has_args(&["-uuid", self.uuid])))
    }

    /// Powers it on. Does nothing when it runs.
    ///
    /// # Errors
    /// [`Refusal`] when its host is down or has no such machine.
    pub fn start(&self) -> anyhow::Result<()> {
        if self.is_running()? {
            return Ok(());
        }
        self.require_made()?;
        self.virsh()?.args(["start", self.uuid]).run().with_context(|| format!("powering `{}` on", self.machine.name()))
    }

    /// Powers it off, hard.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn kill(&self) -> anyhow::Result<()> {
        if !self.is_running()? {
            return Ok(());
        }
        let name = self.machine.name();
        self.virsh()?.args(["destroy", self.uuid]).run().with_context(|| format!("powering `{name}` off"))
    }

    /// Stops it where it is, or lets it go on.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        let verb = if frozen { "suspend" } else { "resume" };
        self.virsh()?.args([verb, self.uuid]).run().with_context(|| format!("freezing `{}`", self.machine.name()))
    }

    /// The file of its serial console, as it is reached from the machine.
    ///
    /// # Errors
    /// [`Refusal`] when the host is down, has no such machine or keeps no console.
    pub fn console(&self) -> anyhow::Result<Utf8PathBuf> {
        self.require_made()?;
        let name = self.machine.name();
        let xml =
            self.virsh()?.args(["dumpxml", self.uuid]).read().with_context(|| format!("reading what `{name}` is"))?;
        match console_in(&xml) {
            Some(path) => Ok(self.hypervisor.seen(path)),
            None => {
                let what = format!("host `{}` keeps no console of `{name}`", self.hypervisor.name);
                Err(Refusal::new(what, format!("kiln deploy {} {name} --lab", self.profile)).into())
            }
        }
    }

    fn require_made(&self) -> anyhow::Result<()> {
        if self.virsh()?.args(["domstate", self.uuid]).succeeds()? {
            return Ok(());
        }
        let name = self.machine.name();
        let what = format!("host `{}` has no machine for `{name}`", self.hypervisor.name);
        Err(Refusal::new(what, format!("kiln deploy {} {name} --lab", self.profile)).into())
    }

    /// `virsh` at the libvirt of its host.
    ///
    /// # Errors
    /// [`Refusal`] when the host is down.
    pub fn virsh(&self) -> anyhow::Result<Tool> {
        let Hypervisor { name, .. } = self.hypervisor;
        let down = || {
            let hint = format!("kiln lab start {} --host {name}", self.profile);
            anyhow!(Refusal::new(format!("host `{name}` is down"), hint))
        };
        Ok(self.hypervisor.virsh(&self.hypervisor.find()?.ok_or_else(down)?)?)
    }
}

/// The file that a domain's serial console is written to: its log, or the console itself where that is a file.
fn console_in(xml: &str) -> Option<&Utf8Path> {
    let serial = xml.split_once("<serial ")?.1.split_once("</serial>")?.0;
    let value = |after: &str| Some(Utf8Path::new(serial.split_once(after)?.1.split_once('\'')?.0));
    value("<log file='").or_else(|| value("<source path='").filter(|_| serial.starts_with("type='file'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_console_of_a_domain() {
        let file = "<serial type='file'>\n<source path='/c.log' append='on'/>\n</serial><console type='pty'/>";
        assert_eq!(console_in(file), Some(Utf8Path::new("/c.log")));
        let logged = "<serial type='pty'>\n<source path='/dev/pts/1'/><log file='/l.log' append='on'/></serial>";
        assert_eq!(console_in(logged), Some(Utf8Path::new("/l.log")));
        assert_eq!(console_in("<serial type='pty'><source path='/dev/pts/1'/></serial>"), None);
        assert_eq!(console_in("<domain/>"), None);
    }
}
