//! The nodes' network over several hosts of a lab: each has a bridge, and VXLAN (RFC 7348) joins the bridges over an underlay between them.
//!
//! The lab host is one end of it too: DHCP, DNS and the operator are there, on no hypervisor, so that none of them is lost with one. The
//! underlay is a switch on the lab host with a cable to each hypervisor. Cutting it takes the hypervisors from each other, not from the lab
//! host, which passes nothing on from one to the other.

use anyhow::Context as _;

use super::host::Host;
use crate::tool::{Tool, ToolError};

/// First three bytes of the underlay's addresses: link-local (RFC 3927), so that it can be no profile's network. The last is 1 for the lab
/// host, and for a hypervisor 1 more than its place.
const UNDERLAY: &str = "169.254.77";
/// What VXLAN over IPv4 adds to a frame: 14 bytes inner Ethernet, 8 VXLAN, 8 UDP, 20 IP (RFC 7348 §5).
const OVERHEAD: u32 = 50;
/// MTU of a network whose profile says none.
const MTU: u32 = 1500;
/// The network's number on the underlay. There is no other.
const VNI: &str = "77";

/// The switch.
const SWITCH: &str = r#"set -eu
ip link show dev under0 >/dev/null 2>&1 || ip link add under0 type bridge
ip link set under0 mtu "$1" up"#;
/// A cable from the switch to a hypervisor, and its port isolated or not.
const CABLE: &str = r#"set -eu
port=$1 mtu=$2 pid=$3 isolated=$4
if ! nsenter --net --target "$pid" ip link show dev uplink >/dev/null 2>&1; then
    # The port of a host that has just died may be there for a moment longer.
    ip link del "$port" 2>/dev/null || :
    ip link add "$port" mtu "$mtu" type veth peer name uplink mtu "$mtu" netns "$pid"
fi
ip link set "$port" master under0 up
ip link set dev "$port" type bridge_slave isolated "$isolated""#;
/// An end of the tunnels. Frames for whoever it has not heard of go to every peer; addresses are learned from what comes in. It goes up last,
/// so that one that is up is whole.
const END: &str = r#"set -eu
lower=$1 bridge=$2 mtu=$3 vni=$4 own=$5
shift 5
[ -z "$(ip link show dev vx0 up 2>/dev/null)" ] || exit 0
ip link del vx0 2>/dev/null || :
ip addr replace "$own/24" dev "$lower"
ip link set "$lower" up
ip link add vx0 mtu "$mtu" type vxlan id "$vni" local "$own" dev "$lower" dstport 4789
ip link set vx0 master "$bridge"
ip link set "$bridge" mtu "$mtu"
for peer in "$@"; do
    bridge fdb append 00:00:00:00:00:00 dev vx0 dst "$peer"
done
ip link set vx0 up"#;

/// How many hypervisors there can be: the addresses of the underlay, with room to spare.
pub const MOST_HOSTS: usize = 200;

/// One network.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    /// The lab host.
    pub center: &'a Host,
    /// How many hypervisors there are, up or not.
    pub hypervisors: u8,
    /// MTU inside, if the profile says one.
    pub mtu: Option<u32>,
    /// The hypervisors are cut off from each other.
    pub cut: bool,
}

impl Vxlan<'_> {
    /// Makes the switch, and the lab host's end of the network, on its bridge.
    ///
    /// # Errors
    /// When a device cannot be made.
    pub fn ensure_center(&self, bridge: &str) -> anyhow::Result<()> {
        let made = inside(self.center, SWITCH).args([self.outer().to_string()]).run();
        made.context("making the underlay of the lab's hosts")?;
        self.ensure_end(self.center, "under0", bridge, 0)
    }

    /// Joins a hypervisor: its cable, and its end of the network on its bridge.
    ///
    /// # Errors
    /// When a device cannot be made.
    pub fn join(&self, host: &Host, number: u8, bridge: &str) -> anyhow::Result<()> {
        let isolated = if self.cut { "on" } else { "off" };
        inside(self.center, CABLE)
            .args([&format!("up{number}"), &self.outer().to_string(), &host.pid().to_string(), isolated])
            .run()
            .context("plugging a host into the underlay")?;
        self.ensure_end(host, "uplink", bridge, number)
    }

    fn ensure_end(&self, host: &Host, lower: &str, bridge: &str, number: u8) -> anyhow::Result<()> {
        let peers = (0..=self.hypervisors).filter(|peer| *peer != number).map(address);
        inside(host, END)
            .args([lower, bridge, &self.inner().to_string(), VNI, &address(number)])
            .args(peers)
            .run()
            .context("making an end of the VXLAN between the hosts")
    }

    fn inner(&self) -> u32 {
        self.mtu.unwrap_or(MTU)
    }

    fn outer(&self) -> u32 {
        self.inner() + OVERHEAD
    }
}

/// Cuts a hypervisor off from the others, or lets it at them again.
///
/// # Errors
/// When its port does not take it.
pub fn isolate(center: &Host, number: u8, isolated: bool) -> Result<(), ToolError> {
    let state = if isolated { "on" } else { "off" };
    inside(center, r#"ip link set dev "$1" type bridge_slave isolated "$2""#)
        .args([&format!("up{number}"), state])
        .run()
}

fn address(number: u8) -> String {
    format!("{UNDERLAY}.{}", u16::from(number) + 1)
}

/// A script in the network of a host, with the machine's programs.
fn inside(host: &Host, script: &str) -> Tool {
    Tool::new("nsenter").args(host.enter_network()).args(["sh", "-c", script, "kiln-lab-vxlan"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_an_address_of_its_own() {
        assert_eq!([0, 1, 2].map(address), ["169.254.77.1", "169.254.77.2", "169.254.77.3"]);
    }
}
