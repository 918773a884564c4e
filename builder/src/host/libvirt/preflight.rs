//! What a libvirt host lacks.

use camino::Utf8Path;

use super::inventory::{Pool, parse_fact, parse_first_words};
use super::virsh::Virsh;
use crate::host::{Lack, Need};

/// The oldest libvirt: that of Debian 12. Older ones may do and were never tried.
const LEAST: (u32, u32) = (9, 0);
/// Kinds of pools whose volumes are files, over which others can lie.
const FILE_POOLS: [&str; 3] = ["dir", "fs", "netfs"];
/// Room for what is small: overlays when they are made, seeds, consoles, marks.
const SMALL: u64 = 64 << 20;

/// Everything that is missing for `need`.
///
/// # Errors
/// When the host does not answer.
pub(super) fn lacks(virsh: &Virsh, pool: &str, need: &Need) -> anyhow::Result<Vec<Lack>> {
    let mut lacks = Vec::new();
    let mut lack = |what: String, remedy: String| lacks.push(Lack { what, remedy });
    // Asked first and alone: a host that does not answer at all is an error and not a list of things it lacks.
    let versions = virsh.read(&["version", "--daemon"])?;
    if let Some(version) = daemon_version(&versions).filter(|v| *v < LEAST) {
        let what = format!(
            "its libvirt is {}.{}, and kiln was tested with {}.{} or later",
            version.0, version.1, LEAST.0, LEAST.1
        );
        lack(what, "upgrade the host: libvirt 9.0 is that of Debian 12".into());
    }
    if !virsh.succeeds(&["pool-uuid", pool])? {
        let what = format!("it has no storage pool `{pool}`");
        let make =
            format!("virsh pool-define-as {pool} dir --target /var/lib/libvirt/images && virsh pool-start {pool}");
        lack(what, format!("{make} && virsh pool-autostart {pool}"));
    } else {
        let info = virsh.read(&["pool-info", pool])?;
        let about = Pool::parse(&virsh.read(&["pool-dumpxml", pool])?)?;
        for found in pool_lacks(pool, &info, &about, need.bytes) {
            lack(found.what, found.remedy);
        }
    }
    match virsh.read(&["iface-list", "--all"]) {
        Ok(list) => {
            if !parse_first_words(&list).contains(&need.bridge) {
                let what = format!("it has no bridge `{}`", need.bridge);
                lack(what, "make it; `kiln net emit PROFILE --format netplan` writes the configuration".into());
            }
        }
        // A libvirt built without its interface driver cannot tell. Whether the bridge is there shows when a machine starts.
        Err(error) => log::warn!("whether there is a bridge `{}` cannot be told: {error:#}", need.bridge),
    }
    Ok(lacks)
}

fn pool_lacks(pool: &str, info: &str, about: &Pool, bytes: u64) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let mut lack = |what: String, remedy: String| lacks.push(Lack { what, remedy });
    if parse_fact(info, "State") != Some("running") {
        lack(format!("its storage pool `{pool}` is not active"), format!("virsh pool-start {pool}"));
    } else if about.available < bytes.saturating_add(SMALL) {
        let what =
            format!("its storage pool `{pool}` has {} bytes free, and {} are needed", about.available, bytes + SMALL);
        lack(what, "make room, or name another pool: `pool = ` in [hosts.NAME]".into());
    }
    if parse_fact(info, "Autostart") != Some("yes") {
        let what = format!("its storage pool `{pool}` does not start with the host, and machines cannot before it");
        lack(what, format!("virsh pool-autostart {pool}"));
    }
    if !FILE_POOLS.contains(&about.kind.as_str()) {
        let what = format!(
            "its storage pool `{pool}` is of the kind `{}`, whose volumes cannot lie over each other",
            about.kind
        );
        lack(what, "name a pool that is a directory: `pool = ` in [hosts.NAME]".into());
    } else if about.path == Utf8Path::new("") {
        lack(format!("its storage pool `{pool}` has no directory"), format!("virsh pool-edit {pool}"));
    }
    lacks
}

/// "Running against daemon: 9.0.0".
fn daemon_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = parse_fact(text, "Running against daemon")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_must_be_a_directory_be_there_after_a_boot_and_have_room() {
        let good = Pool { kind: "dir".into(), path: "/p".into(), available: 1 << 30 };
        let info = "Name:           default\nState:          running\nPersistent:     yes\nAutostart:      yes\n";
        let whats = |info: &str, pool: &Pool, bytes| {
            pool_lacks("default", info, pool, bytes).into_iter().map(|l| l.what).collect::<Vec<_>>()
        };
        assert_eq!(whats(info, &good, 1 << 20), Vec::<String>::new());
        assert_eq!(
            whats(info, &good, 1 << 30),
            ["its storage pool `default` has 1073741824 bytes free, and 1140850688 are needed"]
        );
        let lvm = Pool { kind: "logical".into(), ..good.clone() };
        let off = "State:          inactive\nAutostart:      no\n";
        assert_eq!(
            whats(off, &lvm, 0),
            [
                "its storage pool `default` is not active",
                "its storage pool `default` does not start with the host, and machines cannot before it",
                "its storage pool `default` is of the kind `logical`, whose volumes cannot lie over each other",
            ]
        );
    }

    #[test]
    fn reads_the_daemons_version() {
        let text = "Using API: QEMU 9.0.0\nRunning hypervisor: QEMU 10.0.2\nRunning against daemon: 10.7.3\n";
        assert_eq!(daemon_version(text), Some((10, 7)));
        assert_eq!(daemon_version("Using API: QEMU 9.0.0\n"), None);
    }
}
