//! This node's own addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// Addresses of the interfaces that are up, sorted, each once. Neither loopback nor link-local ones: no peer could reach
/// the node by them, so no name may rest on them.
///
/// # Errors
/// When the kernel does not tell.
pub fn own_addresses() -> nix::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = Vec::new();
    for interface in getifaddrs()? {
        if !interface.flags.contains(InterfaceFlags::IFF_UP) {
            continue;
        }
        let Some(address) = interface.address else { continue };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (None, Some(v6)) => IpAddr::V6(v6.ip()),
            (None, None) => continue,
        };
        if reaches_peers(ip) {
            found.push(ip);
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// A peer on another machine can use this address.
pub fn reaches_peers(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && v4 != Ipv4Addr::UNSPECIFIED && !v4.is_multicast(),
        IpAddr::V6(v6) => {
            !v6.is_loopback() && !v6.is_unicast_link_local() && v6 != Ipv6Addr::UNSPECIFIED && !v6.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_rests_on_an_address_peers_cannot_use() {
        for text in ["127.0.0.1", "169.254.1.1", "::1", "fe80::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "224.0.0.1"] {
            assert!(!reaches_peers(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "203.0.113.9", "fd00::1", "2001:db8::1"] {
            assert!(reaches_peers(text.parse().unwrap()), "{text}");
        }
    }
}
