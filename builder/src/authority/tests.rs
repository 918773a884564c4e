//! What a node's issuer can and cannot vouch for, asked of the verifier that rustls uses.

use std::sync::Arc;
use std::time::Duration;

use kiln_firstboot::name::Fqdn;
use rcgen::SanType;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error, RootCertStore};

use super::*;

const NOW: i64 = 1_800_000_000;

fn root(name: &str) -> Authority {
    Authority::mint(name, 1, Validity::starting(NOW, ROOT_SECS)).unwrap()
}

fn member() -> CharterMember {
    let addresses = vec!["10.77.0.11".parse().unwrap(), "fd77::11".parse().unwrap()];
    CharterMember { fqdn: Fqdn::parse("etcd1.lab.kiln.test").unwrap(), addresses }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A leaf as the agent mints it, for any names.
fn leaf(issuer: &Minted, names: &[&str], ca: IsCa) -> CertificateDer<'static> {
    let key = KeyPair::from_pem(&issuer.key).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&issuer.cert, &key).unwrap();
    let mut params = params("leaf", Validity::starting(NOW, DAY_SECS)).unwrap();
    params.subject_alt_names = names
        .iter()
        .map(|n| n.parse().map_or_else(|_| SanType::DnsName((*n).try_into().unwrap()), SanType::IpAddress))
        .collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = ca;
    params.signed_by(&key, &issuer).unwrap().der().clone()
}

fn verify(root: &Authority, issuer: &str, leaf: &CertificateDer<'_>, name: &str, at: i64) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(der(root.cert())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.try_into().unwrap()));
    verifier.verify_server_cert(leaf, &[der(issuer)], &name, &[], at).map(|_| ())
}

fn is_constraint_violation(result: Result<(), Error>) -> bool {
    let Err(Error::InvalidCertificate(CertificateError::Other(error))) = result else { return false };
    error.to_string() == "NameConstraintViolation"
}

#[test]
fn an_issuer_vouches_for_its_own_node() {
    let root = root("peers");
    let issuer = root.issuer(&member(), Validity::starting(NOW, ISSUER_SECS)).unwrap();
    for name in ["etcd1.lab.kiln.test", "10.77.0.11", "fd77::11", "127.0.0.1", "::1"] {
        let leaf = leaf(&issuer, &["etcd1.lab.kiln.test", "10.77.0.11", "fd77::11", "127.0.0.1", "::1"], IsCa::NoCa);
        assert_eq!(verify(&root, &issuer.cert, &leaf, name, NOW), Ok(()), "{name}");
    }
}

#[test]
fn an_issuer_vouches_for_no_other_name_or_address() {
    let root = root("peers");
    let issuer = root.issuer(&member(), Validity::starting(NOW, ISSUER_SECS)).unwrap();
    for name in ["etcd2.lab.kiln.test", "lab.kiln.test", "10.77.0.12", "fd77::12", "0.0.0.0", "::", "128.0.0.1"] {
        // The own name beside it makes no difference.
        for names in [&[name][..], &["etcd1.lab.kiln.test", name]] {
            let leaf = leaf(&issuer, names, IsCa::NoCa);
            let result = verify(&root, &issuer.cert, &leaf, name, NOW);
            assert!(is_constraint_violation(result.clone()), "{name}: {result:?}");
        }
    }
    let wildcard = leaf(&issuer, &["*.lab.kiln.test"], IsCa::NoCa);
    let result = verify(&root, &issuer.cert, &wildcard, "etcd2.lab.kiln.test", NOW);
    assert!(is_constraint_violation(result.clone()), "{result:?}");
}

#[test]
fn an_issuer_is_good_only_under_its_own_root_and_in_its_time() {
    let (peers, clients) = (root("same name"), root("same name"));
    let validity = Validity::starting(NOW, DAY_SECS);
    let issuer = peers.issuer(&member(), validity).unwrap();
    let leaf = leaf(&issuer, &["etcd1.lab.kiln.test"], IsCa::NoCa);
    let verify = |root, at| verify(root, &issuer.cert, &leaf, "etcd1.lab.kiln.test", at);
    assert_eq!(verify(&peers, validity.not_after), Ok(()));
    let late = verify(&peers, validity.not_after + 1).unwrap_err();
    assert!(matches!(late, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{late:?}");
    let early = verify(&peers, validity.not_before - 1).unwrap_err();
    assert!(matches!(early, Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })), "{early:?}");
    let other = verify(&clients, NOW).unwrap_err();
    assert!(
        matches!(other, Error::InvalidCertificate(CertificateError::BadSignature | CertificateError::UnknownIssuer)),
        "{other:?}"
    );
}

#[test]
fn the_constraints_are_critical_and_end_the_chain() {
    let issuer = root("peers").issuer(&member(), Validity::starting(NOW, ISSUER_SECS)).unwrap();
    let der = der(&issuer.cert);
    let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(cert.name_constraints().unwrap().unwrap().critical);
    let basic = cert.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca);
    assert_eq!(basic.value.path_len_constraint, Some(0));
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any);
    assert_eq!(cert.raw_serial().len(), 16);
    assert_eq!(cert.subject().to_string(), "CN=kiln issuer etcd1");
    assert!(cert.extensions().iter().any(|e| matches!(
        e.parsed_extension(),
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(aki) if aki.key_identifier.is_some()
    )));
}

#[test]
fn a_renewed_client_keeps_its_key() {
    let root = root("clients");
    let first = root.client("root", None, Validity::starting(NOW, CLIENT_SECS)).unwrap();
    let again = Authority::from_pem(root.cert().to_owned(), &root.key()).unwrap();
    let second = again.client("root", Some(&first.key), Validity::starting(NOW, CLIENT_SECS)).unwrap();
    assert_eq!(*first.key, *second.key);
    assert_ne!(first.cert, second.cert);
    let der = der(&second.cert);
    let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(cert.subject().to_string(), "CN=root");
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
}

#[test]
fn b07_no_two_issuers_expire_within_a_day_of_each_other() {
    for count in 1..=50 {
        let ends: Vec<i64> = (0..count).map(|i| Validity::staggered(NOW, i, count).not_after).collect();
        assert!(ends.windows(2).all(|pair| pair[1] - pair[0] >= DAY_SECS), "{count}: {ends:?}");
        assert!(ends.iter().all(|end| (end - NOW - ISSUER_SECS).abs() <= ISSUER_SECS * 15 / 100), "{count}: {ends:?}");
    }
    assert_eq!(Validity::staggered(NOW, 0, 1), Validity::starting(NOW, ISSUER_SECS));
}
