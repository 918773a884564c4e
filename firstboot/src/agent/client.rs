//! Asking another agent.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustls::CertificateError;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::agent::frame;
use crate::message::{AgentRequest, Answer, Ask, PROTOCOL};
use crate::name::Fqdn;
use crate::paths::AGENT_PORT;
use crate::tls::AgentTls;

/// How long one address may take to accept a connection; peers are on the same site.
const CONNECT: Duration = Duration::from_millis(1500);

/// Asks the agent of `fqdn`, located at `addresses`, and waits at most `limit` for its answer.
///
/// DNS located it; TLS proves that it is `fqdn`: its chain ends in the peers' root, its one name is `fqdn`, and the address
/// connected to is one it is certified for.
///
/// # Errors
/// When no address leads to that agent in time. Says what happened at the last one; it is never evidence of absence.
pub async fn ask(tls: &AgentTls, fqdn: &Fqdn, addresses: &[IpAddr], ask: &Ask, limit: Duration) -> Result<Answer> {
    let all = async {
        let mut last = anyhow!("it has no address");
        for address in addresses {
            match exchange(tls, fqdn, *address, ask).await {
                Ok(answer) => return Ok(answer),
                Err(e) => last = e.context(format!("asking the agent at {address}")),
            }
        }
        Err(last)
    };
    match timeout(limit, all).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("no answer within {} ms", limit.as_millis()),
    }
}

async fn exchange(tls: &AgentTls, fqdn: &Fqdn, address: IpAddr, ask: &Ask) -> Result<Answer> {
    let connecting = timeout(CONNECT, TcpStream::connect((address, AGENT_PORT)));
    let stream = connecting.await.map_err(|_| anyhow!("no connection within {} ms", CONNECT.as_millis()))??;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(fqdn.as_str().to_owned()).context("naming the server")?;
    let mut stream = tls.connector.connect(name, stream).await.map_err(plain).context("authenticating it")?;
    tls.expect_peer(stream.get_ref().1.peer_certificates(), address, fqdn)?;
    frame::write(&mut stream, &AgentRequest { protocol: PROTOCOL, ask: ask.clone() }).await?;
    frame::read(&mut stream).await
}

/// TLS tells a certificate's time by the second, and would tell another sentence every second.
fn plain(error: std::io::Error) -> anyhow::Error {
    let certificate = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(certificate)) => certificate,
        Some(_) | None => return error.into(),
    };
    match certificate {
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            anyhow!("its certificate is not valid yet by this node's clock; one of the two clocks is wrong, or was")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            anyhow!(
                "its certificate has expired by this node's clock; it could not be renewed, or one of the two clocks is wrong"
            )
        }
        _ => error.into(),
    }
}
