//! Certificates to start tests from: roots, a node's issuer as `kiln pki` mints it, and leaves good and bad.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::clock;
use crate::sample::{address, fqdn};

/// What signs: a root, or a node's issuer.
#[derive(Debug)]
pub(crate) struct Signer {
    pub(crate) cert: String,
    pub(crate) key: KeyPair,
}

/// A chain and its key, PEM.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) chain: String,
    pub(crate) key: String,
}

fn valid(name: &str, not_before: i64, not_after: i64) -> CertificateParams {
    let time = |secs| time::OffsetDateTime::from_unix_timestamp(secs).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (time(not_before), time(not_after));
    params
}

impl Signer {
    pub(crate) fn root(name: &str) -> Self {
        let mut params = valid(name, clock::now() - 7200, clock::now() + 864_000_000);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self { cert: params.self_signed(&key).unwrap().pem(), key }
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> String {
        params.signed_by(key, &Issuer::from_ca_cert_pem(&self.cert, &self.key).unwrap()).unwrap().pem()
    }

    /// The issuer of `etcd{n}`: constrained to its name, its address and loopback.
    pub(crate) fn issuer(&self, n: u8, not_before: i64, not_after: i64) -> Self {
        let mut params = valid(&format!("issuer {n}"), not_before, not_after);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let subnet = |ip, prefix| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, prefix));
        let permitted_subtrees = vec![
            GeneralSubtree::DnsName(fqdn(n).to_string()),
            subnet(address(n), 32),
            subnet(IpAddr::from([127, 0, 0, 0]), 8),
        ];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        let key = KeyPair::generate().unwrap();
        Self { cert: self.sign(&params, &key), key }
    }

    /// The issuer of `etcd{n}`, valid now.
    pub(crate) fn issuer_now(&self, n: u8) -> Self {
        self.issuer(n, clock::now() - 3600, clock::now() + 864_000)
    }

    /// Its list of that number, PEM: these are revoked.
    pub(crate) fn revocation_list(&self, number: u64, revoked: &[&Signer]) -> String {
        let now = time::OffsetDateTime::from_unix_timestamp(clock::now()).unwrap();
        let serial = |signer: &&Signer| {
            let cert = CertificateDer::from_pem_slice(signer.cert.as_bytes()).unwrap();
            let (_, cert) = X509Certificate::from_der(&cert).unwrap();
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(cert.raw_serial()),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::days(1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(serial).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&Issuer::from_ca_cert_pem(&self.cert, &self.key).unwrap()).unwrap().pem().unwrap()
    }

    /// A leaf for `names` (addresses and DNS names), valid until `not_after`, with the signer's certificate behind it.
    pub(crate) fn leaf(&self, names: &[&str], not_after: i64) -> Chain {
        let mut params = valid("leaf", clock::now() - 3600, not_after);
        params.subject_alt_names = names
            .iter()
            .map(|n| n.parse().map_or_else(|_| SanType::DnsName((*n).try_into().unwrap()), SanType::IpAddress))
            .collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        Chain { chain: self.sign(&params, &key) + &self.cert, key: key.serialize_pem() }
    }

    /// A leaf for `names` that is valid now.
    pub(crate) fn leaf_now(&self, names: &[&str]) -> Chain {
        self.leaf(names, clock::now() + 3600)
    }
}
