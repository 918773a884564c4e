//! Which DNS servers the network really has: systemd-resolved's list of uplinks, never its stub.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::net::IpAddr;

/// Most servers that are ever asked. resolved lists the uplinks' servers in order of preference.
pub const MAX_SERVERS: usize = 6;

/// Reads the `nameserver` lines of a `resolv.conf`, in order, each address once, at most [`MAX_SERVERS`].
///
/// Leaves out loopback addresses: what listens there on a node is resolved's stub, which answers PTR questions about the
/// node's own address from its own host name, so that such an answer proves nothing. Leaves out link-local addresses with
/// a zone as well; a DNS server that a cluster depends on has a routable address.
pub fn parse_nameservers(text: &str) -> Vec<IpAddr> {
    let mut servers: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        let address = address.to_canonical();
        if !address.is_loopback() && !address.is_unspecified() && !servers.contains(&address) {
            servers.push(address);
        }
    }
    servers.truncate(MAX_SERVERS);
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_each_real_server_once_and_never_the_stub() {
        let text = "# by systemd-resolved\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver\tfd00::1\n\
                    nameserver 10.0.0.2\nnameserver fe80::1%2\nnameserver nonsense\nsearch lab.example\noptions edns0\n";
        let want: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(parse_nameservers(text), want);
    }

    #[test]
    fn is_bounded() {
        let text: String = (0..100).map(|n| format!("nameserver 10.0.1.{n}\n")).collect();
        assert_eq!(parse_nameservers(&text).len(), MAX_SERVERS);
    }
}
