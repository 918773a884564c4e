//! What can be wrong with a node's link: a table of its own in the packet filter of the node's namespace, in front of the node's.

use std::net::Ipv4Addr;

use crate::program::run_with_input;

/// One thing that is wrong. Several add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Nothing from this address arrives. What goes there does: one-way loss.
    Deaf(Ipv4Addr),
    /// Nothing goes from or to this address.
    Cut(Ipv4Addr),
    /// Nothing goes from or to this TCP port, on either side of a connection.
    Port(u16),
    /// Every TCP packet from or to this port is answered with a reset, which ends its connection at once.
    Reset(u16),
    /// So many of a thousand packets that arrive are lost, and as many of those that leave.
    Loss(u16),
}

impl Trouble {
    fn rules(self, inbound: &mut String, outbound: &mut String) {
        let mut both = |peer: [&str; 2], rule: &str| {
            inbound.push_str(&format!("{}{rule}\n", peer[0]));
            outbound.push_str(&format!("{}{rule}\n", peer[1]));
        };
        match self {
            Self::Deaf(from) => inbound.push_str(&format!("ip saddr {from} drop\n")),
            Self::Cut(address) => both(["ip saddr ", "ip daddr "], &format!("{address} drop")),
            Self::Port(port) => {
                both(["", ""], &format!("tcp sport {port} drop"));
                both(["", ""], &format!("tcp dport {port} drop"));
            }
            Self::Reset(port) => {
                both(["", ""], &format!("tcp sport {port} reject with tcp reset"));
                both(["", ""], &format!("tcp dport {port} reject with tcp reset"));
            }
            Self::Loss(per_mille) => both(["", ""], &format!("numgen random mod 1000 < {per_mille} drop")),
        }
    }
}

/// Makes these, and nothing else, wrong with the link of a namespace. What is local to it is never touched.
pub fn set_trouble<'a>(space: &str, troubles: impl IntoIterator<Item = &'a Trouble>) {
    let (mut inbound, mut outbound) = (String::new(), String::new());
    for trouble in troubles {
        trouble.rules(&mut inbound, &mut outbound);
    }
    // In front of the node's own rules and of connection tracking, as the wire is.
    let table = format!(
        "table inet trouble {{}}\ndelete table inet trouble\ntable inet trouble {{\n\
         chain in {{ type filter hook input priority -400; iif lo accept\n{inbound}}}\n\
         chain out {{ type filter hook output priority -400; oif lo accept\n{outbound}}}\n}}\n"
    );
    run_with_input(&["ip", "netns", "exec", space, "nft", "-f", "-"], &table);
}
