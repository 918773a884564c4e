//! The node's own certificate: which one to mint, and whether the present one still serves. Pure but for randomness.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::net::IpAddr;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::cert_name::member_of;
use crate::charter::Charter;
use crate::name::Fqdn;
use crate::wait::{minute, utc};

/// How long a leaf lives: 7 days. A stolen leaf is worth little; a node that cannot renew has days, not hours, to be mended.
pub const LIFETIME_SECS: i64 = 7 * 24 * 3600;
/// How far a leaf is backdated: 1 h, so that peers whose clocks lag accept it.
pub const BACKDATE_SECS: i64 = 3600;

/// Why no leaf can be minted now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// The clock stands before a time that has certainly passed.
    #[error(
        "the clock says {}, which is before {}, a time that has passed\nhint: see to NTP or the host's clock",
        minute(*now),
        utc(*floor)
    )]
    ClockBehind {
        /// Unix seconds.
        now: i64,
        /// Unix seconds.
        floor: i64,
    },
    /// The issuer has expired.
    #[error(
        "the node's issuer expired at {}, the clock says {}\nhint: if that clock is right, mint a new seed with `kiln pki renew`; if not, see to NTP or the host's clock",
        utc(*not_after),
        minute(*now)
    )]
    IssuerExpired {
        /// Unix seconds.
        now: i64,
        /// Unix seconds.
        not_after: i64,
    },
    /// Issuer or key cannot be used.
    #[error("the seed's issuer cannot be used: {0}")]
    Issuer(String),
}

/// What to mint, and from what.
#[derive(Clone, Copy, Debug)]
pub struct LeafRequest<'a> {
    /// The node.
    pub fqdn: &'a Fqdn,
    /// Its addresses in the charter.
    pub addresses: &'a [IpAddr],
    /// The issuer's certificate, PEM.
    pub issuer_cert: &'a str,
    /// Clock, Unix seconds.
    pub now: i64,
    /// What the clock must have reached: the latest of image time, charter's not-before and the highest time seen.
    pub floor: i64,
}

impl LeafRequest<'_> {
    /// Mints the chain `leaf, issuer` in PEM for `key`.
    ///
    /// # Errors
    /// When the clock is behind `floor` or the issuer's own beginning, when the issuer has expired or cannot be read.
    pub fn mint(&self, issuer_key: &str, key: &KeyPair) -> Result<String, LeafError> {
        let unusable = |e: String| LeafError::Issuer(e);
        let issuer_der = first_cert(self.issuer_cert).map_err(unusable)?;
        let (begins, ends) = validity(&issuer_der).map_err(unusable)?;
        let floor = self.floor.max(begins);
        if self.now < floor {
            return Err(LeafError::ClockBehind { now: self.now, floor });
        }
        if self.now >= ends {
            return Err(LeafError::IssuerExpired { now: self.now, not_after: ends });
        }
        let issuer_key = KeyPair::from_pem(issuer_key).map_err(|e| unusable(format!("its key: {e}")))?;
        let issuer = Issuer::from_ca_cert_der(&issuer_der, issuer_key).map_err(|e| unusable(e.to_string()))?;
        let params = self.params((self.now - BACKDATE_SECS).max(begins), (self.now + LIFETIME_SECS).min(ends))?;
        let leaf = params.signed_by(key, &issuer).map_err(|e| unusable(e.to_string()))?;
        Ok(format!("{}{}\n", leaf.pem(), self.issuer_cert.trim()))
    }

    fn params(&self, not_before: i64, not_after: i64) -> Result<CertificateParams, LeafError> {
        let unusable = |e: &dyn std::fmt::Display| LeafError::Issuer(e.to_string());
        let name = self.fqdn.as_str().try_into().map_err(|e: rcgen::Error| unusable(&e))?;
        let time = |secs| time::OffsetDateTime::from_unix_timestamp(secs).map_err(|e| unusable(&e));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.fqdn.as_str());
        params.subject_alt_names = vec![SanType::DnsName(name)];
        params.subject_alt_names.extend(self.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // etcd uses one certificate as server and as client towards its peers.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = time(not_before)?;
        params.not_after = time(not_after)?;
        let mut serial = [0; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut serial).map_err(|e| unusable(&e))?;
        serial[0] &= 0x7f;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        Ok(params)
    }
}

/// How much the present chain is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafWorth {
    /// It serves and is in the first half of its life.
    Fresh,
    /// It serves still, but should be renewed.
    Aging,
    /// It would serve, but begins later than this clock: the clock is behind, or was ahead when it was minted.
    Early,
    /// It does not serve: other names, issuer or key, expired, or unreadable.
    Worthless,
}

/// Judges the chain on disk.
pub fn worth(chain: &str, key: &KeyPair, request: &LeafRequest<'_>, charter: &Charter) -> LeafWorth {
    let certs: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let (Ok(certs), Ok(issuer)) = (certs, first_cert(request.issuer_cert)) else { return LeafWorth::Worthless };
    let [leaf, chained] = &certs[..] else { return LeafWorth::Worthless };
    let ours = *chained == issuer
        && request
            .addresses
            .iter()
            .all(|address| member_of(leaf, *address, charter).is_ok_and(|name| name == *request.fqdn))
        && public_key(leaf).is_some_and(|found| found == key.public_key_raw());
    let Ok((begins, ends)) = validity(leaf) else { return LeafWorth::Worthless };
    if !ours || request.now >= ends {
        return LeafWorth::Worthless;
    }
    if request.now < begins {
        return LeafWorth::Early;
    }
    if request.now - begins > (ends - begins) / 2 { LeafWorth::Aging } else { LeafWorth::Fresh }
}

/// First and last second of a certificate's life.
///
/// # Errors
/// When it is none.
pub fn life(pem: &str) -> Result<(i64, i64), String> {
    validity(&first_cert(pem)?)
}

/// A sentence about an issuer in the second half of its life, another one in its last quarter and in its last tenth: so that an
/// operator hears of it long before nothing can be renewed any more.
pub fn issuer_notice((begins, ends): (i64, i64), now: i64) -> Option<String> {
    let (left, life) = (ends - now, (ends - begins).max(1));
    let percent = [10, 25, 50].into_iter().find(|percent| left * 100 <= life * percent)?;
    Some(if left > 0 {
        format!(
            "this node's issuer ends at {}, in {} days: at most {percent} % of its life is left. Without it this node's certificate cannot be renewed; mint it a new seed in time: `kiln pki renew`",
            utc(ends),
            left / (24 * 3600)
        )
    } else {
        format!(
            "this node's issuer has ended at {}: its certificate cannot be renewed; mint it a new seed: `kiln pki renew`",
            utc(ends)
        )
    })
}

fn public_key(cert: &[u8]) -> Option<Vec<u8>> {
    let (_, cert) = X509Certificate::from_der(cert).ok()?;
    Some(cert.public_key().subject_public_key.data.to_vec())
}

fn first_cert(pem: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())
}

fn validity(cert: &[u8]) -> Result<(i64, i64), String> {
    let (_, cert) = X509Certificate::from_der(cert).map_err(|e| e.to_string())?;
    Ok((cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp()))
}
