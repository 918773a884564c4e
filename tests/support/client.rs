//! An operator's client of etcd: through the client port, with mutual TLS, from the switch.
#![expect(clippy::disallowed_methods, reason = "tests read certificates and open sockets")]

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use etcd_client::Client;
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, setns};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);
/// How long one call may take; what takes longer has an unknown outcome.
pub const CALL: Duration = Duration::from_secs(2);

/// What an operator holds: a certificate of the clients' root, and the root that members' certificates are of.
#[derive(Clone)]
pub struct Operator {
    tls: TlsConnector,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").finish_non_exhaustive()
    }
}

impl Operator {
    /// Reads what `kiln pki init` left in `pki`.
    ///
    /// # Errors
    /// When something is not there or is no certificate.
    pub fn read(pki: &Path) -> Result<Self> {
        let text = |name: &str| fs_err::read(pki.join(name));
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&text("peer-root.crt")?) {
            roots.add(root.context("reading the peers' root")?)?;
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text("clients/root.crt")?).collect();
        let key = PrivateKeyDer::from_pem_slice(&text("clients/root.key")?).context("reading the operator's key")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.context("reading the operator's certificate")?, key)?;
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Connects to the etcd at one address. When this fails, nothing was sent.
    ///
    /// # Errors
    /// When it does not answer, or TLS fails on either side.
    pub async fn connect(&self, address: Ipv4Addr) -> Result<Client> {
        let tls = self.tls.clone();
        let dial = tower::service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect((address, kiln_firstboot::paths::CLIENT_PORT)).await?;
                stream.set_nodelay(true)?;
                tls.connect(ServerName::from(std::net::IpAddr::from(address)), stream).await.map(TokioIo::new)
            }
        });
        // The scheme is tonic's business with TLS of its own; here the stream is encrypted already.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(CALL);
        let channel = tokio::time::timeout(CONNECT, endpoint.connect_with_connector(dial)).await??;
        Ok(Client::from_channel(etcd_client::Channel::Tonic(channel), None).await?)
    }
}

/// Runs something asynchronous on a thread of its own in a network namespace; sockets it makes are that namespace's.
///
/// # Panics
/// When the namespace cannot be entered, or what runs panics.
pub fn in_space<T: Send + 'static, F: Future<Output = T>>(
    space: &str,
    make: impl FnOnce() -> F + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let space = fs_err::File::open(format!("/run/netns/{space}")).expect("the namespace is there");
    std::thread::spawn(move || {
        // Of this thread only, which ends with it.
        setns(space, CloneFlags::CLONE_NEWNET).expect("entering a network namespace");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starting a runtime");
        runtime.block_on(make())
    })
}
