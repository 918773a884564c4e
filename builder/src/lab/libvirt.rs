//! A libvirt of the lab's own, on a lab host.
//!
//! There libvirt's directories are empty and private, so a stock libvirtd runs beside the machine's without meeting it.
#![expect(clippy::disallowed_methods, reason = "an edge: waits for libvirt")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};

use super::host::Host;
use crate::exit::Refusal;
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
/// Longest path of a socket: 108 bytes of `sockaddr_un` (unix(7)) less the zero at its end.
const LONGEST_SOCKET: usize = 107;

/// Where it listens.
#[derive(Clone, Debug)]
pub enum Sockets {
    /// Where libvirt's programs look by themselves, which nobody outside of the host sees.
    Usual,
    /// In this directory, which is seen from the machine too.
    In(Utf8PathBuf),
}

/// Makes the libvirt of a host run.
///
/// # Errors
/// When it does not start; [`Refusal`] when the path of its sockets is too long.
pub fn ensure(host: &Host, sockets: &Sockets, log: &Utf8Path) -> anyhow::Result<()> {
    if host.running("libvirtd", &[])?.is_none() {
        let listen = match sockets {
            Sockets::Usual => String::new(),
            Sockets::In(dir) => {
                let socket = socket(dir);
                require_short(&socket)?;
                // Who works on the host itself looks in the usual place.
                let script = r#"mkdir -p /run/libvirt && ln -sf "$1" /run/libvirt/libvirt-sock"#;
                let linked = host.tool("sh")?.args(["-c", script, "kiln-lab-link", socket.as_str()]).run();
                linked.context("linking the socket of the host's libvirt")?;
                format!("unix_sock_dir = \"{dir}\"\n")
            }
        };
        let libvirtd = format!("{LIBVIRTD_CONF}{listen}");
        for (path, text) in [("/etc/libvirt/qemu.conf", QEMU_CONF), ("/etc/libvirt/libvirtd.conf", libvirtd.as_str())] {
            host.tool("tee")?.arg(path).stdin_bytes(text).run().context("configuring the lab's libvirt")?;
        }
        // The handle is let go: libvirtd stays when kiln ends.
        drop(host.daemon("libvirt", "libvirtd")?.log(log).start().context("starting the lab's libvirt")?);
    }
    let began = Instant::now();
    while !virsh(host, sockets)?.arg("version").succeeds()? {
        if began.elapsed() > READY_WITHIN {
            bail!("the lab's libvirt does not answer\n  hint: its log is `{log}`");
        }
        std::thread::sleep(ASK_EVERY);
    }
    Ok(())
}

/// `virsh` at the libvirt of a host.
///
/// # Errors
/// When it is not installed.
pub fn virsh(host: &Host, sockets: &Sockets) -> Result<Tool, ToolError> {
    let virsh = |tool: Tool, uri: &str| tool.args(["--quiet", "--connect", uri]);
    Ok(match sockets {
        Sockets::Usual => virsh(host.tool("virsh")?, "qemu:///system"),
        Sockets::In(dir) => virsh(Tool::new("virsh"), &uri(dir)),
    })
}

/// The URI of a libvirt whose sockets are in `dir`.
pub fn uri(dir: &Utf8Path) -> String {
    format!("qemu+unix:///system?socket={}", socket(dir))
}

fn socket(dir: &Utf8Path) -> Utf8PathBuf {
    dir.join("libvirt-sock")
}

fn require_short(socket: &Utf8Path) -> Result<(), Refusal> {
    if socket.as_str().len() <= LONGEST_SOCKET {
        return Ok(());
    }
    let what = format!("`{socket}` is longer than the {LONGEST_SOCKET} bytes that the path of a socket may have");
    Err(Refusal::new(what, "give kiln a shorter --home"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_too_deep_for_a_socket_is_refused() {
        let dir = |length: usize| Utf8PathBuf::from(format!("/{}", "d".repeat(length)));
        // The slash before, `/libvirt-sock` after.
        require_short(&socket(&dir(LONGEST_SOCKET - 14))).unwrap();
        let refusal = require_short(&socket(&dir(LONGEST_SOCKET - 13))).unwrap_err();
        assert!(refusal.to_string().contains("shorter --home"), "{refusal}");
    }
}
