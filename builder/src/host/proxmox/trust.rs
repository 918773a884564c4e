//! Whose certificate is believed: an authority's that the profile names, or one certificate alone. Nothing else is, and nothing is unchecked.
#![expect(clippy::disallowed_methods, reason = "the place where the authority's certificate is read")]

use std::sync::Arc;

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::profile::ProxmoxTrust;

/// The TLS settings for a host.
///
/// # Errors
/// When the authority's file cannot be read or holds no certificate.
pub(super) fn client_config(trust: &ProxmoxTrust) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("choosing versions of TLS")?;
    Ok(match trust {
        ProxmoxTrust::Authority(file) => {
            let pem = fs_err::read(file)?;
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.with_context(|| format!("`{file}` is no PEM file"))?;
                roots.add(certificate).with_context(|| format!("`{file}` holds a certificate that is of no use"))?;
            }
            anyhow::ensure!(!roots.is_empty(), "`{file}` holds no certificate");
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        ProxmoxTrust::Fingerprint(fingerprint) => {
            let verifier = Arc::new(Pinned { fingerprint: *fingerprint, provider });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    })
}

/// Takes the one certificate with this fingerprint, whatever its names and dates: who pinned it said that it is the host's.
///
/// The handshake's signature is checked all the same: whoever shows the certificate must hold its key.
#[derive(Debug)]
struct Pinned {
    fingerprint: Sha256Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Sha256Digest::of(end_entity);
        if found == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!(
            "the certificate's SHA-256 fingerprint is {found}, and {} is pinned",
            self.fingerprint
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
