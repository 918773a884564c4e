//! Certificates: the cluster's two roots, the issuer each node gets, the certificates of clients.
//!
//! Nothing here reads a clock or a file; keys come from the system's random source.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kiln_firstboot::charter::CharterMember;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints, RevokedCertParams,
    SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// How far back certificates are dated: an hour, so that a node whose clock is a little behind can start at once.
pub const BACKDATE_SECS: i64 = 3600;
/// Ten years. A root is replaced by rolling, well before its end.
pub const ROOT_SECS: i64 = 3650 * DAY_SECS;
/// Two years, before staggering. A node whose issuer has expired can no longer renew its leaf.
pub const ISSUER_SECS: i64 = 730 * DAY_SECS;
/// One year.
pub const CLIENT_SECS: i64 = 365 * DAY_SECS;
/// A day.
pub const DAY_SECS: i64 = 24 * 3600;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A point in time that certificates cannot carry.
    #[error(
        "`{0}` seconds after 1970 is not a time that a certificate can carry\n  hint: check the clock of this machine"
    )]
    Time(i64),
    /// The system gave no randomness.
    #[error("the system gives no random numbers")]
    Random,
    /// rcgen refused.
    #[error("making a certificate")]
    Certificate(#[source] rcgen::Error),
    /// A stored key or certificate is damaged.
    #[error("reading the certificate or key of an authority")]
    Stored(#[source] rcgen::Error),
}

/// From when until when, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: i64,
    /// Last second.
    pub not_after: i64,
}

impl Validity {
    /// `seconds` from `now`, backdated by [`BACKDATE_SECS`].
    pub fn starting(now: i64, seconds: i64) -> Self {
        Self { not_before: now - BACKDATE_SECS, not_after: now + seconds }
    }

    /// That of the `index`th of `count` issuers: spread evenly over 85 to 115 % of [`ISSUER_SECS`], so that a forgotten
    /// renewal costs one node at a time and never a quorum.
    pub fn staggered(now: i64, index: usize, count: usize) -> Self {
        let (index, last) = (i64::try_from(index).unwrap_or(i64::MAX), i64::try_from(count).unwrap_or(i64::MAX) - 1);
        let spread = ISSUER_SECS * 30 / 100;
        let offset = if last > 0 { spread * index / last - spread / 2 } else { 0 };
        Self::starting(now, ISSUER_SECS + offset)
    }
}

/// A certificate with its key, both PEM.
#[derive(Debug)]
pub struct Minted {
    /// The certificate.
    pub cert: String,
    /// Its key, PKCS #8. Wiped from memory when dropped.
    pub key: Zeroizing<String>,
}

/// A root with its key.
pub struct Authority {
    cert: String,
    key: Zeroizing<KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("cert", &self.cert).finish_non_exhaustive()
    }
}

impl Authority {
    /// Mints a root under which at most `issuers_below` further levels of issuers may stand.
    ///
    /// # Errors
    /// When the system gives no randomness or the validity cannot be expressed.
    pub fn mint(name: &str, issuers_below: u8, validity: Validity) -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let mut params = params(name, validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(issuers_below));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&*key).map_err(AuthorityError::Certificate)?.pem();
        Ok(Self { cert, key })
    }

    /// The root that was minted earlier.
    ///
    /// # Errors
    /// When either text is not what [`Authority::mint`] made.
    pub fn from_pem(cert: String, key: &str) -> Result<Self, AuthorityError> {
        let key = Zeroizing::new(KeyPair::from_pem(key).map_err(AuthorityError::Stored)?);
        Issuer::from_ca_cert_pem(&cert, &*key).map_err(AuthorityError::Stored)?;
        Ok(Self { cert, key })
    }

    /// Its certificate, PEM.
    pub fn cert(&self) -> &str {
        &self.cert
    }

    /// Its key, PEM.
    pub fn key(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// Mints the issuer of one node. It can vouch for that node and for nothing else: names and addresses are constrained,
    /// critically, to the member's own and to loopback, and no issuer may stand below it.
    ///
    /// Both kinds of constraint are needed, because each says nothing about the other kind of name. A leaf with no name at all passes
    /// every constraint; etcd's `peer-cert-allowed-hostname` and the agent's own check are what refuse that.
    ///
    /// # Errors
    /// When the system gives no randomness or the validity cannot be expressed.
    pub fn issuer(&self, member: &CharterMember, validity: Validity) -> Result<Minted, AuthorityError> {
        let loopback = [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];
        let own = member.addresses.iter().map(|a| (*a, if a.is_ipv4() { 32 } else { 128 }));
        let addresses =
            own.chain(loopback).map(|(a, prefix)| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(a, prefix)));
        let mut permitted_subtrees = vec![GeneralSubtree::DnsName(member.fqdn.to_string())];
        permitted_subtrees.extend(addresses);

        let mut params = params(&format!("kiln issuer {}", member.fqdn.member_name()), validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // A peer is both ends of a connection, and Go's verifier lets no leaf have a use that its issuer lacks.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        self.sign(&params, &*new_key()?)
    }

    /// Signs the list of that number: whoever presents a certificate with one of these serials is not believed any more. Whoever reads it
    /// goes by its number alone, so it has no end of its own but the root's.
    ///
    /// # Errors
    /// When the times cannot be expressed.
    pub fn revocation_list(
        &self,
        number: u64,
        serials: &BTreeSet<Vec<u8>>,
        now: i64,
    ) -> Result<String, AuthorityError> {
        let this_update = time(now)?;
        let revoked = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update,
            next_update: time(now + ROOT_SECS)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let root = Issuer::from_ca_cert_pem(&self.cert, &*self.key).map_err(AuthorityError::Stored)?;
        params.signed_by(&root).and_then(|list| list.pem()).map_err(AuthorityError::Certificate)
    }

    /// Mints a client's certificate; etcd takes its common name for the user. With `key`, the certificate of an existing key.
    ///
    /// # Errors
    /// When the system gives no randomness, the validity cannot be expressed, or `key` is damaged.
    pub fn client(&self, name: &str, key: Option<&str>, validity: Validity) -> Result<Minted, AuthorityError> {
        let key = match key {
            Some(pem) => Zeroizing::new(KeyPair::from_pem(pem).map_err(AuthorityError::Stored)?),
            None => new_key()?,
        };
        let mut params = params(name, validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, &key)
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Result<Minted, AuthorityError> {
        let root = Issuer::from_ca_cert_pem(&self.cert, &*self.key).map_err(AuthorityError::Stored)?;
        let cert = params.signed_by(key, &root).map_err(AuthorityError::Certificate)?.pem();
        Ok(Minted { cert, key: Zeroizing::new(key.serialize_pem()) })
    }
}

fn new_key() -> Result<Zeroizing<KeyPair>, AuthorityError> {
    KeyPair::generate().map(Zeroizing::new).map_err(AuthorityError::Certificate)
}

fn time(secs: i64) -> Result<OffsetDateTime, AuthorityError> {
    OffsetDateTime::from_unix_timestamp(secs).map_err(|_| AuthorityError::Time(secs))
}

fn params(name: &str, validity: Validity) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = time(validity.not_before)?;
    params.not_after = time(validity.not_after)?;
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0u8; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| AuthorityError::Random)?;
    // RFC 5280 wants a positive number; a leading zero byte would make the encoding shorter than the rest.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

#[cfg(test)]
mod tests;
