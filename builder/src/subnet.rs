//! IP networks in CIDR notation.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP network: the first address and the prefix length. Host bits are always zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is not a [`Subnet`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// No address, no slash, or a prefix that the family does not have.
    #[error("`{0}` is not a network such as `10.103.0.0/24` or `fd00:103::/64`")]
    Form(String),
    /// An address inside the network instead of the network.
    #[error("`{given}` has host bits set; the network is `{network}`")]
    HostBits {
        /// What was given.
        given: String,
        /// The network it lies in.
        network: Subnet,
    },
}

impl Subnet {
    /// The network of `prefix` bits around `address`.
    ///
    /// Nothing when the address family has fewer bits than `prefix`.
    pub fn around(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(v4) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { network, prefix })
    }

    /// The network of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { network: address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && Self::around(address, self.prefix) == Some(*self)
    }

    /// Whether it is an IPv4 network.
    pub fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    /// The network's own address, its first.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// The prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The IPv4 broadcast address; IPv6 and networks of two or fewer addresses (RFC 3021) have none.
    pub fn broadcast(&self) -> Option<IpAddr> {
        match self.network {
            IpAddr::V4(v4) if self.prefix <= 30 => {
                Some(IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | (u32::MAX >> self.prefix))))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// The netmask of an IPv4 network, `255.255.255.0`.
    pub fn netmask(&self) -> Option<Ipv4Addr> {
        self.is_ipv4().then(|| Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let form = || SubnetError::Form(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let prefix = prefix.bytes().all(|b| b.is_ascii_digit()).then(|| prefix.parse().ok()).flatten();
        let network = prefix.and_then(|p| Self::around(address, p)).ok_or_else(form)?;
        if network.network != address {
            return Err(SubnetError::HostBits { given: text.to_owned(), network });
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn knows_its_own_addresses() {
        let net = subnet("10.103.0.0/24");
        assert!(net.contains("10.103.0.255".parse().unwrap()));
        assert!(!net.contains("10.103.1.0".parse().unwrap()));
        assert!(!net.contains("::a67:1".parse().unwrap()));
        assert_eq!(net.broadcast(), Some("10.103.0.255".parse().unwrap()));
        assert_eq!(net.netmask(), Some("255.255.255.0".parse().unwrap()));
        assert!(subnet("0.0.0.0/0").contains("8.8.8.8".parse().unwrap()));
        assert!(subnet("::/0").contains("fd00::1".parse().unwrap()));
        assert_eq!(subnet("10.0.0.4/31").broadcast(), None);
        assert_eq!(subnet("fd00:103::/64").broadcast(), None);
        assert_eq!(Subnet::host("fd00::1".parse().unwrap()).to_string(), "fd00::1/128");
    }

    #[test]
    fn refuses_what_is_not_a_network() {
        for text in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "x/8", "::/129"] {
            assert_eq!(text.parse::<Subnet>(), Err(SubnetError::Form(text.into())));
        }
        let error = "10.0.0.1/24".parse::<Subnet>().unwrap_err();
        assert_eq!(error.to_string(), "`10.0.0.1/24` has host bits set; the network is `10.0.0.0/24`");
    }
}
