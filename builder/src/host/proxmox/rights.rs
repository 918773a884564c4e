//! Which privileges the token needs where, and the line that grants them.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::host::Lack;

/// The oldest Proxmox VE that takes a disk image by its API alone: 8.4 brought qcow2 and raw to the `import` content of storages.
pub(super) const OLDEST: Version = Version(8, 4);
/// The release that split `VM.Monitor` into the privileges of the guest agent.
const SPLIT: Version = Version(9, 0);

/// A release of Proxmox VE: `9.1.2` is 9.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl FromStr for Version {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: Option<&str>| part?.parse().ok();
        let mut parts = text.split(['.', '-', '~']);
        Ok(Self(number(parts.next()).ok_or(())?, number(parts.next()).ok_or(())?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Privileges on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Right {
    /// The path in Proxmox's tree of permissions.
    pub(super) path: String,
    /// What is needed there.
    pub(super) privileges: Vec<&'static str>,
    /// The role that `pveum` lines use.
    pub(super) role: &'static str,
}

/// What the token needs: on the machines of the pool, on the two storages, and on the bridge.
pub(super) fn needed(version: Version, pool: &str, images: &str, disks: &str, zone: &str, bridge: &str) -> Vec<Right> {
    let agent = if version >= SPLIT { "VM.GuestAgent.Audit" } else { "VM.Monitor" };
    let machines = [
        "VM.Allocate",
        "VM.Audit",
        "VM.PowerMgmt",
        "VM.Config.Disk",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.HWType",
        "VM.Config.Options",
        agent,
        "Pool.Audit",
    ];
    let image = ["Datastore.Allocate", "Datastore.AllocateTemplate", "Datastore.AllocateSpace", "Datastore.Audit"];
    let right = |path: String, privileges: &[&'static str], role| Right { path, privileges: privileges.to_vec(), role };
    let mut rights = vec![
        right(format!("/pool/{pool}"), &machines, "KilnVM"),
        right(format!("/storage/{images}"), &image, "KilnImg"),
    ];
    if disks != images {
        rights.push(right(format!("/storage/{disks}"), &["Datastore.AllocateSpace", "Datastore.Audit"], "KilnDisk"));
    }
    rights.push(right(format!("/sdn/zones/{zone}/{bridge}"), &["SDN.Use"], "PVESDNUser"));
    rights
}

/// What is missing of a right, each privilege by its name, with the lines that grant it.
///
/// `has` is what the token has on the path; `user` its user, `token` its full id. A role of Proxmox's own is there already, ours is made or
/// given what it lacks.
pub(super) fn missing(right: &Right, has: &BTreeSet<String>, user: &str, token: &str) -> Vec<Lack> {
    let lacking: Vec<&str> = right.privileges.iter().copied().filter(|p| !has.contains(*p)).collect();
    let path = &right.path;
    lacking
        .iter()
        .map(|privilege| {
            let role = right.role;
            let all = right.privileges.join(" ");
            let grant = format!("pveum acl modify {path} --users {user} --roles {role}");
            let remedy = if role.starts_with("PVE") {
                grant
            } else {
                format!("pveum role add {role} --privs \"{all}\" || pveum role modify {role} --privs \"{privilege}\" --append 1; {grant}")
            };
            let remedy = format!("{remedy} (and, if the token was made with privilege separation, the same with --tokens '{token}')");
            Lack { what: format!("the token lacks {privilege} on {path}"), remedy }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_and_knows_which_is_older() {
        let version = |text: &str| text.parse::<Version>();
        assert_eq!(version("8.4.1"), Ok(Version(8, 4)));
        assert_eq!(version("9.0.0~11"), Ok(Version(9, 0)));
        assert!(version("8.3.5").unwrap() < OLDEST && version("10.0").unwrap() > OLDEST);
        assert_eq!(version("nine"), Err(()));
    }

    #[test]
    fn names_each_privilege_and_the_line_that_grants_it() {
        let rights = |version| needed(version, "kiln", "kiln-img", "lvm", "localnetwork", "vmbr0");
        let agent = |version| rights(version)[0].privileges[9];
        assert_eq!((agent(Version(8, 4)), agent(Version(9, 0))), ("VM.Monitor", "VM.GuestAgent.Audit"));
        let bridge = missing(&rights(Version(9, 1))[3], &BTreeSet::new(), "kiln@pve", "kiln@pve!kiln");
        assert_eq!(bridge.len(), 1);
        assert_eq!(bridge[0].what, "the token lacks SDN.Use on /sdn/zones/localnetwork/vmbr0");
        assert!(
            bridge[0]
                .remedy
                .starts_with("pveum acl modify /sdn/zones/localnetwork/vmbr0 --users kiln@pve --roles PVESDNUser")
        );
        let has: BTreeSet<String> =
            rights(Version(9, 1))[0].privileges.iter().skip(1).map(|p| (*p).to_owned()).collect();
        let one = missing(&rights(Version(9, 1))[0], &has, "kiln@pve", "kiln@pve!kiln");
        assert_eq!(
            one.iter().map(|l| l.what.as_str()).collect::<Vec<_>>(),
            ["the token lacks VM.Allocate on /pool/kiln"]
        );
        assert!(one[0].remedy.contains("pveum role add KilnVM") && one[0].remedy.contains("VM.Config.HWType"));
        // One storage for both is asked about once.
        assert_eq!(needed(Version(9, 1), "kiln", "s", "s", "localnetwork", "vmbr0").len(), 3);
    }
}
