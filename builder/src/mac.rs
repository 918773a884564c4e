//! Ethernet addresses of virtual machines.

use std::fmt;
use std::str::FromStr;

use kiln_firstboot::digest::Sha256Digest;

/// The prefix QEMU's guests use: locally administered, so it can never be a real card's.
const QEMU_PREFIX: [u8; 3] = [0x52, 0x54, 0x00];

/// A unicast Ethernet address, printed as `52:54:00:12:34:56`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

impl serde::Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a [`MacAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs of hex digits.
    #[error("`{0}` is not an Ethernet address such as `52:54:00:12:34:56`")]
    Form(String),
    /// The group bit is set; no card may send from such an address.
    #[error("`{0}` is a multicast address, which no card can have")]
    Multicast(String),
}

impl MacAddress {
    /// The address of a node that was given none: the same for the same cluster and node, always.
    ///
    /// 24 bits of a digest; a profile checks that its nodes' addresses differ.
    pub fn derive(cluster: &str, node: &str) -> Self {
        let digest = Sha256Digest::of(format!("kiln mac v1\n{cluster}\n{node}\n").as_bytes()).0;
        let [a, b, c] = QEMU_PREFIX;
        Self([a, b, c, digest[0], digest[1], digest[2]])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = MacError;
    fn from_str(text: &str) -> Result<Self, MacError> {
        let form = || MacError::Form(text.to_owned());
        let mut bytes = [0u8; 6];
        let parts: Vec<&str> = text.split(':').collect();
        if parts.len() != bytes.len() {
            return Err(form());
        }
        for (byte, part) in bytes.iter_mut().zip(parts) {
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(form());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| form())?;
        }
        if bytes[0] & 1 == 1 { Err(MacError::Multicast(text.to_owned())) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derives_the_same_address_for_ever() {
        let mac = MacAddress::derive("lab", "etcd1");
        assert_eq!(mac, MacAddress::derive("lab", "etcd1"));
        assert_ne!(mac, MacAddress::derive("lab", "etcd2"));
        assert!(mac.to_string().starts_with("52:54:00:"));
        assert_eq!(mac.to_string().to_uppercase().parse(), Ok(mac));
    }

    #[test]
    fn refuses_what_no_card_can_have() {
        for text in ["", "52:54:00:12:34", "52:54:00:12:34:5g", "525400123456", "52:54:00:12:34:+1"] {
            assert_eq!(text.parse::<MacAddress>(), Err(MacError::Form(text.into())));
        }
        let group = "01:00:5e:00:00:01";
        assert_eq!(group.parse::<MacAddress>(), Err(MacError::Multicast(group.into())));
    }
}
