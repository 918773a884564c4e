//! The driver `container`: a node is a systemd-nspawn container on the root file system of the baked image.
//!
//! Where a VM has disks, a container has a directory on `/var/lib/kiln` and the seed's file; everything else is the same bytes.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use anyhow::Context as _;
use camino::Utf8Path;

use super::host::Host;
use super::machine::Machine;
use super::process::Process;

/// Where a container finds its seed; the node's disk step looks there when it runs in a container.
const SEED: &str = "/run/kiln-seed.tar";
/// A network namespace with one card, named as systemd-nspawn names it, on the lab's bridge. Made anew at every start, because
/// a machine that was powered off has forgotten its addresses and its firewall.
const PLUG: &str = r#"set -eu
if ip link show "v$1" >/dev/null 2>&1; then ip link del "v$1"; fi
if [ -e "/run/netns/n$1" ]; then ip netns del "n$1"; fi
ip netns add "n$1"
ip link add "v$1" type veth peer name host0 address "$2" netns "n$1"
ip link set "v$1" master br0 up"#;

/// What a container is made from.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    /// What it is.
    pub machine: Machine<'a>,
    /// Its machine id.
    pub uuid: &'a str,
    /// Its directory in the lab.
    pub dir: &'a Utf8Path,
    /// The tree it runs, on the lab host.
    pub tree: &'a str,
}

impl Container<'_> {
    /// Powers it on. Does nothing when it runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, host: &Host) -> anyhow::Result<()> {
        if self.supervisor(host)?.is_some() {
            return Ok(());
        }
        let (index, name) = (self.machine.index().to_string(), &self.machine.name());
        host.tool("sh")?
            .args(["-c", PLUG, "kiln-lab-plug", &index, &self.machine.node.mac.to_string()])
            .run()
            .with_context(|| format!("plugging `{name}` into the lab's network"))?;
        // The handle is let go: the container stays when kiln ends.
        host.daemon(name, "systemd-nspawn")?
            .args(self.arguments())
            .log(self.dir.join("console.log"))
            .start()
            .with_context(|| format!("starting the container of `{name}`"))
            .map(drop)
    }

    /// Powers it off, hard: its first process is killed, and with it all others.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&self, host: &Host) -> anyhow::Result<()> {
        let Some(supervisor) = self.supervisor(host)? else { return Ok(()) };
        match self.init(host)? {
            // The supervisor sees its container end, tidies up and ends too.
            Some(init) => init.kill()?,
            None => supervisor.kill()?,
        }
        supervisor.wait_gone()
    }

    /// Stops it where it is, or lets it go on.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn freeze(&self, host: &Host, frozen: bool) -> anyhow::Result<()> {
        let (name, frozen) = (self.machine.name(), if frozen { "1" } else { "0" });
        let script = r#"cd "/sys/fs/cgroup/$1" && echo "$2" > cgroup.freeze
            until grep -qx "frozen $2" cgroup.events; do sleep 0.01; done"#;
        host.tool("timeout")?
            .args(["10", "sh", "-c", script, "kiln-lab-freeze", &name, frozen])
            .run()
            .with_context(|| format!("freezing `{name}`"))
    }

    /// Whether it is powered on.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn is_running(&self, host: &Host) -> anyhow::Result<bool> {
        Ok(self.supervisor(host)?.is_some())
    }

    /// The container's first process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn init(&self, host: &Host) -> anyhow::Result<Option<Process>> {
        let Some(supervisor) = self.supervisor(host)? else { return Ok(None) };
        Ok(super::process::all()?.into_iter().find(|p| p.parent == supervisor.pid && p.inner_pid == 1))
    }

    fn supervisor(&self, host: &Host) -> anyhow::Result<Option<Process>> {
        host.running("systemd-nspawn", &[&format!("--machine={}", self.machine.name())])
    }

    fn arguments(&self) -> Vec<String> {
        vec![
            format!("--machine={}", self.machine.name()),
            format!("--uuid={}", self.uuid),
            format!("--directory={}", self.tree),
            "--volatile=overlay".into(),
            "--boot".into(),
            // The machine's own systemd, if it has one, hears nothing of this.
            "--register=no".into(),
            "--keep-unit".into(),
            "--settings=no".into(),
            "--link-journal=no".into(),
            "--resolv-conf=off".into(),
            "--timezone=off".into(),
            "--console=read-only".into(),
            format!("--network-namespace-path=/run/netns/n{}", self.machine.index()),
            // The node has its own firewall and configures its own card.
            "--capability=CAP_NET_ADMIN".into(),
            format!("--bind={}:/var/lib/kiln", self.dir.join("data")),
            format!("--bind-ro={}:{SEED}", self.dir.join("seed.tar")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_the_reviewed_one() {
        let profile = super::super::dns::tests::profile();
        let container = Container {
            machine: Machine::named(&profile, "a2").unwrap(),
            uuid: "2ed6657d-e927-568b-95e1-2665a8aea6a2",
            dir: Utf8Path::new("/l/nodes/a2"),
            tree: "/run/kiln-lab/tree",
        };
        assert_eq!(
            container.arguments().join("\n"),
            "--machine=a2\n--uuid=2ed6657d-e927-568b-95e1-2665a8aea6a2\n--directory=/run/kiln-lab/tree\n--volatile=overlay\n\
             --boot\n--register=no\n--keep-unit\n--settings=no\n--link-journal=no\n--resolv-conf=off\n--timezone=off\n\
             --console=read-only\n--network-namespace-path=/run/netns/n2\n--capability=CAP_NET_ADMIN\n\
             --bind=/l/nodes/a2/data:/var/lib/kiln\n--bind-ro=/l/nodes/a2/seed.tar:/run/kiln-seed.tar"
        );
    }
}
