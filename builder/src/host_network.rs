//! The nodes' network as the hosts are told of it: netplan for bridges and the tunnel between them, or a libvirt network with DHCP and DNS.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use crate::dns_format::{self, emit};
use crate::dns_records::records;
use crate::exit::Refusal;
use crate::profile::{Host, Profile};

/// The port that IANA gave VXLAN; Linux itself takes another unless told.
const VXLAN_PORT: u16 = 4789;

/// Whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// netplan: the bridge of one host and its tunnel to the other.
    Netplan,
    /// A libvirt network: bridge, DHCP by Ethernet address, and DNS with A, PTR and SRV records.
    Libvirt,
}

/// netplan for one host: the bridge, and where the profile has a tunnel and another host, that. The bridge has no address: the host itself
/// is no part of the nodes' network.
///
/// # Errors
/// A [`Refusal`] when a tunnel would have more than one far end, which netplan cannot say.
pub fn netplan(profile: &Profile, host: &Host) -> Result<String, Refusal> {
    let network = &profile.network;
    let others: Vec<&Host> = profile.hosts.iter().filter(|h| h.name != host.name).collect();
    let mtu = network.mtu.map(|mtu| format!("      mtu: {mtu}\n")).unwrap_or_default();
    let mut text = format!(
        "# {} on {}: /etc/netplan/60-kiln-{}.yaml, mode 0600, then `netplan try`. Written by kiln net emit.\nnetwork:\n  version: 2\n",
        profile.name, host.name, profile.name
    );
    let mut ports = "[]".to_owned();
    if let Some(vxlan) = network.vxlan {
        let end = |host: &Host| {
            let remedy =
                format!("write the host's address on the network between the hosts: [hosts.{}] address", host.name);
            host.address.ok_or_else(|| Refusal::new(format!("the tunnel has no end on `{}`", host.name), remedy))
        };
        let remote = match others[..] {
            [] => None,
            [other] => Some(end(other)?),
            _ => {
                let what = format!(
                    "netplan knows one far end of a tunnel, and `{}` has {} hosts beside it",
                    host.name,
                    others.len()
                );
                let remedy = "join the hosts by a VLAN or a routed VXLAN (EVPN), and leave `network.vxlan` out";
                return Err(Refusal::new(what, remedy));
            }
        };
        if let Some(remote) = remote {
            let _ = write!(
                text,
                "  tunnels:\n    vx{}:\n      mode: vxlan\n      id: {}\n      local: {}\n      remote: {remote}\n      port: {VXLAN_PORT}\n{mtu}      \
                 link-local: []\n",
                vxlan.id,
                vxlan.id,
                end(host)?,
            );
            ports = format!("[vx{}]", vxlan.id);
        }
    }
    let _ = write!(
        text,
        "  bridges:\n    {}:\n      interfaces: {ports}\n{mtu}      dhcp4: false\n      dhcp6: false\n      link-local: []\n      parameters:\n        \
         stp: false\n        forward-delay: 0\n",
        network.bridge
    );
    Ok(text)
}

/// A libvirt network that is the whole of the nodes' network: the host is their router, DHCP server and DNS server. To be defined on one
/// host only.
///
/// # Errors
/// A [`Refusal`] for what libvirt's dnsmasq cannot do: addresses of IPv6 by Ethernet address, a network whose router is not the host.
pub fn libvirt(profile: &Profile) -> Result<String, Refusal> {
    let network = &profile.network;
    let Some(netmask) = network.subnet.netmask() else {
        let what = format!("libvirt hands out no IPv6 addresses by Ethernet address, and `{}` is IPv6", network.subnet);
        return Err(Refusal::new(what, "use router advertisements, or a DHCP server of your own"));
    };
    let Some(IpAddr::V4(gateway)) = network.gateway else {
        let what = "a libvirt network needs an address for the host, and the profile has no gateway";
        return Err(Refusal::new(what, "write `gateway = ` under [network]: the host takes it"));
    };
    Ok(render_libvirt(profile, gateway, netmask))
}

fn render_libvirt(profile: &Profile, gateway: Ipv4Addr, netmask: Ipv4Addr) -> String {
    let network = &profile.network;
    let mtu = network.mtu.map(|mtu| format!("  <mtu size='{mtu}'/>\n")).unwrap_or_default();
    // dnsmasq answers a pointer only for names it is told; without `localPtr` it asks others for the rest of the subnet.
    let dns: String = emit(profile, &records(profile), dns_format::Format::Libvirt)
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect();
    let hosts: String = profile
        .nodes
        .iter()
        .map(|n| format!("      <host mac='{}' name='{}' ip='{}'/>\n", n.mac, n.name, n.address))
        .collect();
    format!(
        "<!-- {name}: virsh net-define FILE && virsh net-start {name} && virsh net-autostart {name}, on one host only.
     Written by kiln net emit. -->
<network>
  <name>{name}</name>
  <forward mode='nat'/>
  <bridge name='{bridge}' stp='off' delay='0'/>
{mtu}  <domain name='{domain}' localOnly='yes'/>
{dns}  <ip address='{gateway}' netmask='{netmask}' localPtr='yes'>
    <dhcp>
{hosts}    </dhcp>
  </ip>
</network>
",
        name = profile.name,
        bridge = network.bridge,
        domain = profile.domain,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    fn k8s0(changes: &[(&str, &str)]) -> Profile {
        let mut text = include_str!("../../profiles/k8s0.toml").to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        Profile::parse(Utf8Path::new("profiles/k8s0.toml"), &text).unwrap()
    }

    const TUNNEL: [(&str, &str); 3] = [
        ("bridge = ", "vxlan = { id = 103 }\nbridge = "),
        ("root@pve1/system\"", "root@pve1/system\"\naddress = \"192.0.2.1\""),
        ("root@pve2/system\"", "root@pve2/system\"\naddress = \"192.0.2.2\""),
    ];

    #[test]
    fn says_to_each_host_what_was_reviewed() {
        let profile = k8s0(&TUNNEL);
        let of = |i: usize| netplan(&profile, &profile.hosts[i]).unwrap();
        assert_eq!(of(0), include_str!("../fixtures/net/netplan-pve1.yaml"));
        // The other host's is the same with its ends exchanged.
        let exchanged =
            of(0).replace("192.0.2.1", "HERE").replace("192.0.2.2", "192.0.2.1").replace("HERE", "192.0.2.2");
        assert_eq!(of(1), exchanged.replace("pve1", "pve2"));
        assert_eq!(libvirt(&profile).unwrap(), include_str!("../fixtures/net/libvirt.xml"));
    }

    #[test]
    fn without_a_tunnel_there_is_the_bridge_alone() {
        let profile = k8s0(&[]);
        let text = netplan(&profile, &profile.hosts[0]).unwrap();
        assert!(!text.contains("tunnels:") && text.contains("interfaces: []") && !text.contains("mtu"), "{text}");
    }

    #[test]
    fn refuses_what_netplan_and_libvirt_cannot_say() {
        let third = "[hosts.pve3]\nkind = \"lab\"\n\n[[node]]";
        let three = k8s0(&[TUNNEL[0], TUNNEL[1], TUNNEL[2], ("[[node]]", third)]);
        assert!(netplan(&three, &three.hosts[0]).unwrap_err().what.contains("2 hosts beside it"));
        let closed = k8s0(&[("gateway = \"10.103.0.1\"", "")]);
        assert!(libvirt(&closed).unwrap_err().what.contains("no gateway"));
    }
}
