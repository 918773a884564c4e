//! Asking another agent: over a connection of its own, or over one that is kept for the next question.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::CertificateError;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::agent::frame;
use crate::agent::server::KEPT;
use crate::clock;
use crate::message::{AgentRequest, Answer, Ask, PROTOCOL};
use crate::name::Fqdn;
use crate::paths::AGENT_PORT;
use crate::tls::AgentTls;

/// How long one address may take to accept a connection; peers are on the same site.
const CONNECT: Duration = Duration::from_millis(1500);

/// How long a peer's agent may take to tell its status, where etcd has its usual beat: two looks at its etcd with a rest between them, and what
/// TLS takes.
pub(crate) const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// Asks the agent of `fqdn`, located at `addresses`, and waits at most `limit` for its answer.
///
/// DNS located it; TLS proves that it is `fqdn`: its chain ends in the peers' root, its one name is `fqdn`, and the address
/// connected to is one it is certified for.
///
/// # Errors
/// When no address leads to that agent in time. Says what happened at the last one; it is never evidence of absence.
pub async fn ask(tls: &AgentTls, fqdn: &Fqdn, addresses: &[IpAddr], ask: &Ask, limit: Duration) -> Result<Answer> {
    Kept::default().ask(tls, fqdn, addresses, ask, limit).await
}

/// Connections that are kept for the next question: a handshake costs both sides far more than an answer does, and while a cluster forms
/// everybody asks everybody all the time.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<Mutex<HashMap<Fqdn, Connection>>>);

#[derive(Debug)]
struct Connection {
    address: IpAddr,
    /// When its handshake began.
    since: Instant,
    stream: TlsStream<TcpStream>,
}

impl Kept {
    /// As [`ask`], over the connection of the question before if there is one. What is asked must be worth asking twice: a connection that
    /// the other side has ended takes the question with it.
    ///
    /// No handshake is older than [`KEPT`], and what it proved is checked again for every question, revocation included.
    ///
    /// # Errors
    /// As [`ask`].
    pub async fn ask(
        &self,
        tls: &AgentTls,
        fqdn: &Fqdn,
        addresses: &[IpAddr],
        ask: &Ask,
        limit: Duration,
    ) -> Result<Answer> {
        let all = async {
            if let Some(mut kept) = self.take(tls, fqdn, addresses) {
                match exchange(&mut kept.stream, ask).await {
                    Ok(answer) => return Ok(self.keep(fqdn, kept, answer)),
                    Err(e) => log::debug!("the connection to {fqdn} has ended: {e:#}"),
                }
            }
            let mut last = anyhow!("it has no address");
            for address in addresses {
                let asked = async {
                    let since = clock::monotonic();
                    let mut stream = connect(tls, fqdn, *address).await?;
                    let answer = exchange(&mut stream, ask).await?;
                    anyhow::Ok((Connection { address: *address, since, stream }, answer))
                };
                match asked.await {
                    Ok((connection, answer)) => return Ok(self.keep(fqdn, connection, answer)),
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

    /// The connection to `fqdn`, if it still leads where DNS does and to whom it should. One that does not is closed.
    fn take(&self, tls: &AgentTls, fqdn: &Fqdn, addresses: &[IpAddr]) -> Option<Connection> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(fqdn)?;
        let young = clock::monotonic().duration_since(kept.since) < KEPT;
        let chain = kept.stream.get_ref().1.peer_certificates();
        let proven = || tls.expect_peer(chain, kept.address, fqdn).is_ok();
        (young && addresses.contains(&kept.address) && proven()).then_some(kept)
    }

    fn keep(&self, fqdn: &Fqdn, connection: Connection, answer: Answer) -> Answer {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(fqdn.clone(), connection);
        answer
    }
}

/// A connection to the agent at `address`, which has proven that it is `fqdn`.
async fn connect(tls: &AgentTls, fqdn: &Fqdn, address: IpAddr) -> Result<TlsStream<TcpStream>> {
    let connecting = timeout(CONNECT, TcpStream::connect((address, AGENT_PORT)));
    let stream = connecting.await.map_err(|_| anyhow!("no connection within {} ms", CONNECT.as_millis()))??;
    stream.set_nodelay(true)?;
    // Who has gone without a word takes no question for longer than who is not there at all.
    setsockopt(&stream, sockopt::TcpUserTimeout, &u32::try_from(CONNECT.as_millis())?)?;
    let name = ServerName::try_from(fqdn.as_str().to_owned()).context("naming the server")?;
    let stream = tls.connector.connect(name, stream).await.map_err(plain).context("authenticating it")?;
    tls.expect_peer(stream.get_ref().1.peer_certificates(), address, fqdn)?;
    Ok(stream)
}

async fn exchange(stream: &mut TlsStream<TcpStream>, ask: &Ask) -> Result<Answer> {
    frame::write(stream, &AgentRequest { protocol: PROTOCOL, ask: ask.clone() }).await?;
    frame::read(stream).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::server::REQUEST_LIMIT;
    use crate::agent::server::tests::{Site, just_started, run};
    use crate::revocation::{Distrusted, RevocationList};
    use crate::sample::fqdn;

    const LIMIT: Duration = Duration::from_secs(5);

    /// The port that this side's end of the connection to `etcd1` has.
    fn port(kept: &Kept) -> Option<u16> {
        let open = kept.0.lock().unwrap();
        open.get(&fqdn(1)).map(|connection| connection.stream.get_ref().0.local_addr().unwrap().port())
    }

    #[test]
    fn a_connection_is_kept_while_it_leads_to_whom_it_should() {
        run(async {
            // Nobody else's, for agents have one port.
            let address = IpAddr::from([127, 0, 2, 7]);
            let mut site = Site::silent((address, AGENT_PORT).into());
            let (kept, distrusted) = (Kept::default(), Distrusted::default());
            let tls = site.member_tls(&distrusted);
            let ask = async |addresses: &[IpAddr]| kept.ask(&tls, &fqdn(1), addresses, &Ask::Status, LIMIT).await;
            assert!(ask(&[address]).await.is_err());
            assert_eq!(port(&kept), None);

            site.serve(REQUEST_LIMIT).await;
            assert_eq!(ask(&[address]).await.unwrap(), just_started());
            let first = port(&kept).unwrap();
            assert_eq!(ask(&[address]).await.unwrap(), just_started());
            assert_eq!(port(&kept), Some(first));

            // DNS has come to locate it elsewhere.
            assert!(ask(&[IpAddr::from([127, 0, 2, 8])]).await.is_err());
            assert_eq!(port(&kept), None);

            assert_eq!(ask(&[address]).await.unwrap(), just_started());
            let (root, list) = site.revocation_of_server();
            distrusted.replace([&RevocationList::from_pem(list.as_bytes(), &root).unwrap()]);
            let error = ask(&[address]).await.unwrap_err();
            assert!(format!("{error:#}").contains("revoked"), "{error:#}");
            assert_eq!(port(&kept), None);
        });
    }

    #[test]
    fn a_connection_that_has_ended_costs_no_answer() {
        run(async {
            let address = IpAddr::from([127, 0, 2, 9]);
            let mut site = Site::silent((address, AGENT_PORT).into());
            let kept = Kept::default();
            let tls = site.member_tls(&Distrusted::default());
            site.serve(REQUEST_LIMIT).await;
            let ask = async || kept.ask(&tls, &fqdn(1), &[address], &Ask::Status, LIMIT).await.unwrap();
            assert_eq!(ask().await, just_started());
            let first = port(&kept).unwrap();
            let mut ended = kept.take(&tls, &fqdn(1), &[address]).unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut ended.stream).await.unwrap();
            kept.keep(&fqdn(1), ended, just_started());
            assert_eq!(ask().await, just_started());
            assert_ne!(port(&kept), Some(first));
        });
    }
}
