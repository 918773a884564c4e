//! How a cluster is reached: where the driver of each of its hosts is found, and through which network its agents and its etcd are.
//!
//! Usually as the profile says, over the network of the machine kiln runs on ([`Reach::of`]). A lab's hosts have endpoints of their own and a
//! network that only its namespace knows; everything above this type is the same for both.
#![expect(clippy::disallowed_methods, reason = "an edge: enters a network namespace")]

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use camino::Utf8PathBuf;
use nix::sched::{CloneFlags, setns};

use crate::profile::{HostKind, Profile};

/// Where the driver of one host is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which driver.
    pub kind: HostKind,
    /// A libvirt URI, or the URL of a Proxmox API.
    pub uri: String,
}

/// How a cluster is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The hosts that have a driver, by name. A host of the profile that is not here is only ever simulated.
    pub hosts: BTreeMap<String, Endpoint>,
    /// The network namespace that sees the nodes, such as `/proc/PID/ns/net`; none where this machine sees them itself.
    pub network: Option<Utf8PathBuf>,
}

impl Reach {
    /// As the profile says.
    pub fn of(profile: &Profile) -> Self {
        let endpoint = |host: &crate::profile::Host| {
            let endpoint = Endpoint { kind: host.kind.clone(), uri: host.endpoint.clone()? };
            match host.kind {
                HostKind::Libvirt(_) | HostKind::Proxmox(_) => Some((host.name.clone(), endpoint)),
                HostKind::Lab => None,
            }
        };
        Self { hosts: profile.hosts.iter().filter_map(endpoint).collect(), network: None }
    }

    /// Does something where the nodes are seen: on a thread of its own, which enters their network if it is another one. Sockets made in
    /// `act` stay in that network, threads started in it too.
    ///
    /// # Errors
    /// `act`'s, or when the network cannot be entered.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let Some(path) = &self.network else { return act() };
        let network = fs_err::File::open(path).context("opening the nodes' network namespace")?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(network.file(), CloneFlags::CLONE_NEWNET).context("entering the nodes' network")?;
                act()
            });
            inside.join().unwrap_or_else(|_| Err(anyhow!("the thread in the nodes' network died")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    #[test]
    fn the_tutorials_hosts_are_reached_as_its_profile_says() {
        let text = include_str!("../../profiles/k8s0.toml");
        let reach = Reach::of(&Profile::parse(Utf8Path::new("profiles/k8s0.toml"), text).unwrap());
        let hosts: Vec<_> = reach.hosts.iter().map(|(name, e)| (name.as_str(), e.uri.as_str())).collect();
        assert_eq!(hosts, [("pve1", "qemu+ssh://root@pve1/system"), ("pve2", "qemu+ssh://root@pve2/system")]);
        assert!(reach.hosts.values().all(|e| matches!(e.kind, HostKind::Libvirt(_))));
        assert_eq!(reach.network, None);
    }

    #[test]
    fn a_host_that_is_only_simulated_has_no_endpoint() {
        let text = include_str!("../../profiles/lab.toml");
        let reach = Reach::of(&Profile::parse(Utf8Path::new("profiles/lab.toml"), text).unwrap());
        assert_eq!(reach, Reach::default());
    }

    #[test]
    fn what_is_done_within_is_done_on_this_machine_unless_said_otherwise() {
        assert_eq!(Reach::default().within(|| Ok(std::thread::current().id())).unwrap(), std::thread::current().id());
        let gone = Reach { network: Some("/proc/0/ns/net".into()), ..Reach::default() };
        let error = gone.within(|| Ok(())).unwrap_err();
        assert!(error.to_string().contains("opening the nodes' network namespace"), "{error:#}");
    }
}
