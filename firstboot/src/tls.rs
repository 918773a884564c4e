//! Mutual TLS 1.3 between agents: who may talk, and as what.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::cert_name::member_of;
use crate::charter::Charter;
use crate::clock;
use crate::name::Fqdn;
use crate::revocation::Distrusted;

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The agent of this member.
    Peer(Fqdn),
    /// An operator, by a certificate of the clients' root: may ask for the status and nothing else.
    Operator,
}

/// What TLS between agents is made from.
#[derive(Debug)]
pub struct TlsParts<'a> {
    /// Leaf and issuer, PEM.
    pub chain: &'a str,
    /// The leaf's key, PEM.
    pub key: &'a str,
    /// Peers' roots, PEM.
    pub peer_roots: &'a str,
    /// Clients' roots, PEM.
    pub client_roots: &'a str,
    /// Whose names count.
    pub charter: Arc<Charter>,
    /// Which certificates do not count any more, now and from now on.
    pub distrusted: Distrusted,
}

/// Both directions of TLS between agents. TLS 1.3 only, no resumption: every connection is authenticated anew.
#[derive(Clone)]
pub struct AgentTls {
    /// For those who call us.
    pub acceptor: TlsAcceptor,
    /// For those we call.
    pub connector: TlsConnector,
    verifier: Arc<PeerOrOperator>,
    charter: Arc<Charter>,
    distrusted: Distrusted,
}

impl std::fmt::Debug for AgentTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentTls").finish_non_exhaustive()
    }
}

impl AgentTls {
    /// Builds both directions.
    ///
    /// # Errors
    /// When a PEM cannot be read, the key does not fit the leaf, or a root is none.
    pub fn new(parts: &TlsParts<'_>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(parts.chain).context("reading the node's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(parts.key.as_bytes()).context("reading the node's key")?;
        let peer_roots = roots(parts.peer_roots).context("reading the peers' roots")?;
        let client_roots = roots(parts.client_roots).context("reading the clients' roots")?;
        let verifier = Arc::new(PeerOrOperator {
            peers: client_verifier(&peer_roots, &provider)?,
            operators: client_verifier(&client_roots, &provider)?,
        });
        let mut server = ServerConfig::builder_with_details(provider.clone(), Arc::new(AgentClock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_details(provider, Arc::new(AgentClock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(peer_roots)
            .with_client_auth_cert(chain, key)?;
        client.resumption = Resumption::disabled();
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            verifier,
            charter: parts.charter.clone(),
            distrusted: parts.distrusted.clone(),
        })
    }

    /// Whether a certificate of this chain is revoked.
    pub fn distrusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.distrusted.concerns(chain)
    }

    /// Who presented this chain, after a handshake that accepted it, from `remote`.
    ///
    /// # Errors
    /// When it is neither one member of the charter, at one of the addresses it is certified for, nor an operator.
    pub fn role(&self, chain: &[CertificateDer<'_>], remote: IpAddr) -> Result<Role> {
        let (leaf, intermediates) = chain.split_first().context("the caller presented no certificate")?;
        ensure!(!self.distrusts(chain), "the caller's certificate, or the issuer of it, is revoked");
        let now = unix_time();
        if self.verifier.peers.verify_client_cert(leaf, intermediates, now).is_ok() {
            return Ok(Role::Peer(member_of(leaf, remote, &self.charter)?));
        }
        self.verifier.operators.verify_client_cert(leaf, intermediates, now)?;
        Ok(Role::Operator)
    }

    /// Checks that the server at `remote`, whose chain and name TLS has verified, presented `fqdn`'s certificate and no wider one.
    ///
    /// # Errors
    /// When the certificate names anything else.
    pub fn expect_peer(&self, chain: Option<&[CertificateDer<'_>]>, remote: IpAddr, fqdn: &Fqdn) -> Result<()> {
        let chain = chain.unwrap_or_default();
        let leaf = chain.first().context("the server presented no certificate")?;
        ensure!(!self.distrusts(chain), "its certificate, or the issuer of it, is revoked");
        let name = member_of(leaf, remote, &self.charter)?;
        ensure!(name == *fqdn, "the server presented the certificate of {name}");
        Ok(())
    }
}

/// The agent has one clock, and certificates are judged by it too.
#[derive(Debug)]
struct AgentClock;

impl TimeProvider for AgentClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time())
    }
}

fn unix_time() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(clock::now()).unwrap_or(0)))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()?)
}

fn roots(pem: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for root in certificates(pem)? {
        store.add(root)?;
    }
    ensure!(!store.is_empty(), "there is no root certificate in it");
    Ok(store)
}

fn client_verifier(roots: &RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>> {
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone()).build()?)
}

/// Accepts chains under the peers' root and under the clients' root; which one it was decides the role, after the handshake.
#[derive(Debug)]
struct PeerOrOperator {
    peers: Arc<dyn ClientCertVerifier>,
    operators: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for PeerOrOperator {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: with the hints of one root, callers under the other would not present their certificate.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.peers.verify_client_cert(leaf, intermediates, now).or_else(|as_peer| {
            // Under neither root, what was wrong with a peer says more than that it is no operator.
            self.operators.verify_client_cert(leaf, intermediates, now).map_err(|as_operator| match as_operator {
                Error::InvalidCertificate(CertificateError::UnknownIssuer) => as_peer,
                as_operator => as_operator,
            })
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.peers.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.peers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.peers.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
