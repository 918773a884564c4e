//! An operator's client of etcd: through the client port, with mutual TLS, from the switch.
#![expect(clippy::disallowed_methods, reason = "tests open sockets")]

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8PathBuf;
use etcd_client::Client;
use hyper_util::rt::TokioIo;
use kiln_builder::cluster_client;
use kiln_builder::pki::ClientFiles;
use nix::sched::{CloneFlags, setns};
use rustls_pki_types::ServerName;
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
        let file = |name: &str| Utf8PathBuf::try_from(pki.join(name)).context("a path in UTF-8");
        let files = ClientFiles {
            cert: file("clients/root.crt")?,
            key: file("clients/root.key")?,
            server_root: file("peer-root.crt")?,
        };
        Ok(Self { tls: cluster_client::connector(&files)? })
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
