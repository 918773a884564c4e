//! Whose certificates are no longer believed: the lists that the roots sign. Pure, on bytes.
//!
//! etcd looks into such a list at every handshake of a caller and compares the serials of all certificates that it presents, whoever
//! issued them (`checkCRL` in etcd's `client/pkg/transport/listener_tls.go`); it checks no signature. So a node is revoked by its issuer's serial, the agent
//! reads the lists as etcd does, and no list gets into a file of etcd's whose signature was not checked here.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

/// Why a list is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// It cannot be read.
    #[error("the revocation list cannot be read: {0}")]
    Unreadable(String),
    /// It has no number, so that nobody could tell an old one from a new one.
    #[error("the revocation list has no number")]
    Numberless,
    /// None of the roots signed it.
    #[error("none of the roots signed the revocation list")]
    Unsigned,
}

/// A list that one of the roots has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    der: Vec<u8>,
    number: u64,
    serials: BTreeSet<Vec<u8>>,
}

impl RevocationList {
    /// Reads a list in PEM, as it is kept in the seed and in etcd. `roots`: PEM.
    ///
    /// # Errors
    /// When it cannot be read, or none of the roots signed it.
    pub fn from_pem(pem: &[u8], roots: &str) -> Result<Self, RevocationError> {
        let list = CertificateRevocationListDer::from_pem_slice(pem);
        Self::from_der(list.map_err(|e| RevocationError::Unreadable(e.to_string()))?.as_ref(), roots)
    }

    /// Reads a list in DER, as etcd reads it: 3.6 takes no other.
    ///
    /// # Errors
    /// As [`Self::from_pem`].
    pub fn from_der(der: &[u8], roots: &str) -> Result<Self, RevocationError> {
        let unreadable = |e: &dyn std::fmt::Display| RevocationError::Unreadable(e.to_string());
        let (rest, list) = CertificateRevocationList::from_der(der).map_err(|e| unreadable(&e))?;
        if !rest.is_empty() {
            return Err(unreadable(&"there is something behind it"));
        }
        let roots: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(roots.as_bytes()).collect::<Result<_, _>>().map_err(|e| unreadable(&e))?;
        let signed = roots.iter().any(|root| {
            X509Certificate::from_der(root).is_ok_and(|(_, root)| {
                root.subject() == list.issuer() && list.verify_signature(root.public_key()).is_ok()
            })
        });
        if !signed {
            return Err(RevocationError::Unsigned);
        }
        let number = list.crl_number().and_then(|number| u64::try_from(number).ok());
        Ok(Self {
            der: der.to_vec(),
            number: number.ok_or(RevocationError::Numberless)?,
            serials: list.iter_revoked_certificates().map(|revoked| revoked.raw_serial().to_vec()).collect(),
        })
    }

    /// A later list of the same root has a higher number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The serials of what is revoked, as they stand in certificates.
    pub fn serials(&self) -> &BTreeSet<Vec<u8>> {
        &self.serials
    }

    /// Its bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

/// The serials that are not believed now; shared by every handshake of the agent, and replaced while it runs.
#[derive(Clone, Debug, Default)]
pub struct Distrusted(Arc<RwLock<BTreeSet<Vec<u8>>>>);

impl Distrusted {
    /// From now on it is what these lists say.
    pub fn replace<'a>(&self, lists: impl IntoIterator<Item = &'a RevocationList>) {
        let serials = lists.into_iter().flat_map(|list| list.serials.iter().cloned()).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = serials;
    }

    /// Whether one certificate of a chain is not believed, or cannot be read.
    pub fn concerns(&self, chain: &[CertificateDer<'_>]) -> bool {
        let serials = self.0.read().unwrap_or_else(PoisonError::into_inner);
        chain.iter().any(|cert| match X509Certificate::from_der(cert) {
            Ok((_, cert)) => serials.contains(cert.raw_serial()),
            Err(_) => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_authority::Signer;

    #[test]
    fn b14_believes_only_a_list_that_a_root_signed() {
        let (root, other) = (Signer::root("peers"), Signer::root("peers"));
        let issuer = root.issuer_now(2);
        let pem = root.revocation_list(7, &[&issuer]);
        let list = RevocationList::from_pem(pem.as_bytes(), &format!("{}{}", other.cert, root.cert)).unwrap();
        assert_eq!((list.number(), list.serials().len()), (7, 1));
        assert_eq!(RevocationList::from_der(list.der(), &root.cert).unwrap(), list);
        assert_eq!(
            RevocationList::from_pem(pem.as_bytes(), &other.cert),
            Err(RevocationError::Unsigned),
            "a root of the same name is another root"
        );
        let mut flipped = list.der().to_vec();
        let serial = list.serials().first().unwrap();
        let at = flipped.windows(serial.len()).position(|bytes| bytes == serial.as_slice()).unwrap();
        flipped[at + 1] ^= 1;
        assert_eq!(RevocationList::from_der(&flipped, &root.cert), Err(RevocationError::Unsigned));
        assert!(RevocationList::from_pem(b"nothing", &root.cert).is_err());
        let behind = [list.der(), b"x"].concat();
        assert!(matches!(RevocationList::from_der(&behind, &root.cert), Err(RevocationError::Unreadable(_))));
    }

    #[test]
    fn b14_a_chain_is_not_believed_when_its_issuer_is_listed() {
        let root = Signer::root("peers");
        let (good, bad) = (root.issuer_now(1), root.issuer_now(2));
        let read = |pem: &str| -> Vec<CertificateDer<'static>> {
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
        };
        let chains = [&good, &bad].map(|issuer| read(&issuer.leaf_now(&["etcd.lab.example"]).chain));
        let distrusted = Distrusted::default();
        let concerns = || chains.each_ref().map(|chain| distrusted.concerns(chain));
        assert_eq!(concerns(), [false, false]);
        let list = RevocationList::from_pem(root.revocation_list(2, &[&bad]).as_bytes(), &root.cert).unwrap();
        distrusted.clone().replace([&list]);
        assert_eq!(concerns(), [false, true]);
        assert!(distrusted.concerns(&[CertificateDer::from(vec![0])]), "what cannot be read is not believed");
    }
}
