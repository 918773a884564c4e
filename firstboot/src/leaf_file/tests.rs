//! The leaf through its life on a disk: minted, kept, renewed, refused.
#![expect(clippy::disallowed_methods, reason = "lays out and reads the files of a scratch node")]

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::leaf::{BACKDATE_SECS, LIFETIME_SECS};
use crate::sample::{NOW, address, charter, fqdn};
use crate::sample_authority::Signer;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const YEAR: i64 = 365 * 24 * 3600;

/// `etcd1` with its seed unpacked, its issuer valid until `ends`.
struct Node {
    scratch: tempfile::TempDir,
    paths: Paths,
    issuer: Signer,
}

fn node(ends: i64) -> Node {
    let scratch = tempfile::tempdir().unwrap();
    let paths = Paths::new(scratch.path());
    fs_err::create_dir_all(paths.seed_dir()).unwrap();
    fs_err::create_dir_all(paths.tls_dir()).unwrap();
    let issuer = Signer::root("peers").issuer(1, NOW - 1000, ends);
    let write = |name: &str, text: &str| fs_err::write(paths.seed_dir().join(name), text).unwrap();
    write(seed::ISSUER_KEY, &issuer.key.serialize_pem());
    write(seed::PEER_ROOTS, "peers\n");
    write(seed::CLIENT_ROOTS, "clients\n");
    Node { scratch, paths, issuer }
}

impl Node {
    fn ensure(&self, now: i64, floor: i64) -> Result<LeafFiles> {
        let (fqdn, addresses) = (fqdn(1), [address(1)]);
        let issuer_cert = &self.issuer.cert;
        let request = LeafRequest { fqdn: &fqdn, addresses: &addresses, issuer_cert, now, floor };
        ensure_leaf(&self.paths, &charter(3), &request)
    }
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn validity(pem: &str) -> (i64, i64) {
    let chain = chain(pem);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp())
}

#[test]
fn mints_exactly_the_nodes_names_with_its_issuer_behind() {
    let node = node(NOW + YEAR);
    let files = node.ensure(NOW + 10_000, NOW).unwrap();
    assert!(files.minted);
    assert_eq!(fs_err::read_to_string(node.paths.leaf_cert()).unwrap(), files.chain);
    let certs = chain(&files.chain);
    assert_eq!(certs.len(), 2);
    assert_eq!(certs[1], chain(&node.issuer.cert)[0]);
    let (_, leaf) = X509Certificate::from_der(&certs[0]).unwrap();
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        san.value.general_names,
        [GeneralName::DNSName("etcd1.lab.example"), GeneralName::IPAddress(&[10, 0, 0, 1])]
    );
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !leaf.is_ca());
    assert_eq!(validity(&files.chain), (NOW + 10_000 - BACKDATE_SECS, NOW + 10_000 + LIFETIME_SECS));
    assert_eq!(fs_err::read_to_string(node.paths.peer_roots()).unwrap(), "peers\n");
    assert_eq!(fs_err::read_to_string(node.paths.client_roots()).unwrap(), "clients\n");
    for file in [node.paths.leaf_key(), node.paths.leaf_cert()] {
        assert_eq!(fs_err::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640, "{}", file.display());
    }
    assert_eq!(fs_err::read_dir(node.paths.tls_dir()).unwrap().count(), 4, "nothing half-made is left");
    drop(node.scratch);
}

#[test]
fn b06_a_leaf_lives_no_longer_than_its_issuer_on_either_side() {
    let node = node(NOW + 100);
    assert_eq!(validity(&node.ensure(NOW, 0).unwrap().chain), (NOW - 1000, NOW + 100));
    let late = node.ensure(NOW + 100, 0).unwrap_err();
    let late = late.to_string();
    assert!(late.starts_with("minting the node's certificate: the node's issuer expired at "), "{late}");
    assert!(late.contains("hint: if that clock is right, mint a new seed"), "{late}");
}

#[test]
fn renews_past_half_its_life_and_not_before_under_the_same_key() {
    let node = node(NOW + YEAR);
    let first = node.ensure(NOW + 10_000, 0).unwrap();
    let (begins, ends) = validity(&first.chain);
    let half = begins + (ends - begins) / 2;
    let kept = node.ensure(half, 0).unwrap();
    assert_eq!((kept.minted, &kept.chain), (false, &first.chain));
    let renewed = node.ensure(half + 1, 0).unwrap();
    assert!(renewed.minted);
    assert_eq!(validity(&renewed.chain), (half + 1 - BACKDATE_SECS, half + 1 + LIFETIME_SECS));
    assert_eq!(*renewed.key, *first.key);
    assert_eq!(fs_err::read_to_string(node.paths.leaf_key()).unwrap(), *first.key);
}

#[test]
fn b01_mints_nothing_by_a_clock_that_is_behind_but_keeps_a_leaf_that_serves() {
    let node = node(NOW + YEAR);
    let refused = node.ensure(NOW, NOW + 1).unwrap_err();
    let before = |floor| format!("which is before {}, a time that has passed", crate::wait::utc(floor));
    assert!(refused.to_string().contains(&before(NOW + 1)), "{refused}");
    assert!(!node.paths.leaf_cert().exists());
    // Before the issuer's own beginning there is nothing to mint either, whatever the floor.
    assert!(node.ensure(NOW - 1001, 0).unwrap_err().to_string().contains(&before(NOW - 1000)));

    let first = node.ensure(NOW, NOW).unwrap();
    let aging = NOW + LIFETIME_SECS - 10;
    let kept = node.ensure(aging, aging + 1).unwrap();
    assert_eq!((kept.minted, &kept.chain), (false, &first.chain));
}

#[test]
fn b01_a_leaf_that_a_clock_behind_calls_too_early_is_kept_so_that_the_member_restarts() {
    let node = node(NOW + YEAR);
    let first = node.ensure(NOW, NOW).unwrap();
    let at_1970 = node.ensure(0, NOW).unwrap();
    assert_eq!((at_1970.minted, &at_1970.chain), (false, &first.chain));
    assert!(matches!(at_1970.doubt, Some(LeafError::ClockBehind { .. })));
}

#[test]
fn b02_a_leaf_minted_by_a_clock_that_was_ahead_is_replaced_when_it_is_mended() {
    let node = node(NOW + 2 * YEAR);
    let ahead = node.ensure(NOW + YEAR, 0).unwrap();
    let mended = node.ensure(NOW, 0).unwrap();
    assert!(mended.minted && mended.doubt.is_none());
    assert_eq!(validity(&mended.chain).1, NOW + LIFETIME_SECS);
    assert_eq!(*mended.key, *ahead.key);
}

#[test]
fn b06_an_issuers_end_is_told_at_half_a_quarter_and_a_tenth_of_its_life() {
    use crate::leaf::issuer_notice;
    let told = |now| issuer_notice((0, 1000), now);
    assert_eq!(told(499), None);
    for (now, percent) in [(500, "50 %"), (749, "50 %"), (750, "25 %"), (899, "25 %"), (900, "10 %"), (999, "10 %")] {
        let text = told(now).unwrap();
        assert!(text.contains(percent), "{now}: {text}");
    }
    assert!(told(1000).unwrap().contains("has ended at"));
}

#[test]
fn replaces_a_leaf_that_does_not_serve() {
    let node = node(NOW + YEAR);
    let first = node.ensure(NOW, 0).unwrap();
    for spoilt in [String::new(), "no certificate".into(), first.chain[..first.chain.len() / 2].into()] {
        fs_err::write(node.paths.leaf_cert(), &spoilt).unwrap();
        assert!(node.ensure(NOW, 0).unwrap().minted, "{spoilt}");
    }
    // Of another key: what a power cut between a new key and its leaf leaves.
    fs_err::remove_file(node.paths.leaf_key()).unwrap();
    let mended = node.ensure(NOW, 0).unwrap();
    assert!(mended.minted && *mended.key != *first.key);
}
