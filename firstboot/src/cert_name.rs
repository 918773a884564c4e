//! Whose certificate is this? One name, exactly, and the address the other side talks from.
//!
//! A chain that verifies does not bind a node to a name: a leaf without any SAN passes every name constraint, and webpki's client
//! verifier looks at no name at all. So names are compared here.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::charter::Charter;
use crate::name::Fqdn;

/// Why a certificate names no member of the charter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertNameError {
    /// It cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// Not exactly one name, or names of another kind.
    #[error("the certificate must have exactly one DNS name and otherwise only addresses, it has {0}")]
    Names(String),
    /// The name is not in the charter, exactly as written there.
    #[error("the certificate's name `{0}` is not a member of the charter")]
    Stranger(String),
    /// It is not a certificate for the address it is used from.
    #[error("the certificate of {name} is not for the address {remote} it is used from")]
    Address {
        /// Whose.
        name: Fqdn,
        /// Where from.
        remote: IpAddr,
    },
}

/// The member a verified leaf belongs to.
///
/// # Errors
/// Unless it has exactly one dNSName, equal byte for byte to a charter member's, no name of another kind than addresses, and
/// `remote` among the addresses. A wildcard is equal to no member's name.
pub fn member_of(leaf: &[u8], remote: IpAddr, charter: &Charter) -> Result<Fqdn, CertNameError> {
    let (_, cert) = X509Certificate::from_der(leaf).map_err(|e| CertNameError::Unreadable(e.to_string()))?;
    let san = cert.subject_alternative_name().map_err(|e| CertNameError::Unreadable(e.to_string()))?;
    let Some(san) = san else { return Err(CertNameError::Names("no subject alternative name".into())) };
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    for name in &san.value.general_names {
        if let GeneralName::DNSName(name) = name {
            names.push(*name);
        } else if let GeneralName::IPAddress(bytes) = name {
            match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(v4), _) => addresses.push(IpAddr::from(v4)),
                (Err(_), Ok(v6)) => addresses.push(IpAddr::from(v6).to_canonical()),
                (Err(_), Err(_)) => return Err(CertNameError::Names("an address of no known length".into())),
            }
        } else {
            return Err(CertNameError::Names(format!("`{name:?}`")));
        }
    }
    let [name] = names[..] else { return Err(CertNameError::Names(format!("{} DNS names", names.len()))) };
    let member = charter.members.iter().find(|member| member.fqdn.as_str() == name);
    let Some(member) = member else { return Err(CertNameError::Stranger(name.to_owned())) };
    let remote = remote.to_canonical();
    if !addresses.contains(&remote) {
        return Err(CertNameError::Address { name: member.fqdn.clone(), remote });
    }
    Ok(member.fqdn.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::charter;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn cert(names: &[SanType]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    #[test]
    fn takes_exactly_one_member_at_its_own_address() {
        let own = SanType::IpAddress([10, 0, 0, 1].into());
        let remote = IpAddr::from([10, 0, 0, 1]);
        let read = |names: &[SanType]| member_of(&cert(names), remote, &charter(3));
        assert_eq!(read(&[dns("etcd1.lab.example"), own.clone()]), Ok(charter(3).members[0].fqdn.clone()));
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert!(member_of(&cert(&[dns("etcd1.lab.example"), own.clone()]), mapped, &charter(3)).is_ok());

        assert_eq!(read(&[]), Err(CertNameError::Names("no subject alternative name".into())));
        assert_eq!(read(std::slice::from_ref(&own)), Err(CertNameError::Names("0 DNS names".into())));
        let two = [dns("etcd1.lab.example"), dns("etcd2.lab.example"), own.clone()];
        assert_eq!(read(&two), Err(CertNameError::Names("2 DNS names".into())));
        for name in
            ["*.lab.example", "*.etcd1.lab.example", "a.etcd1.lab.example", "ETCD1.lab.example", "etcd9.lab.example"]
        {
            assert_eq!(read(&[dns(name), own.clone()]), Err(CertNameError::Stranger(name.into())));
        }
        let uri = SanType::URI("spiffe://lab".try_into().unwrap());
        assert!(matches!(read(&[dns("etcd1.lab.example"), own, uri]), Err(CertNameError::Names(_))));
        let elsewhere = read(&[dns("etcd1.lab.example"), SanType::IpAddress([10, 0, 0, 9].into())]);
        assert_eq!(elsewhere, Err(CertNameError::Address { name: charter(3).members[0].fqdn.clone(), remote }));
    }
}
