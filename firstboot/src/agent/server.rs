//! Answering other agents and operators: 32 connections at most and 8 of one address, 5 seconds to say what is wanted. An operator's serves
//! one question, a member's those of a minute.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant as Deadline, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

use crate::agent::desk::Desk;
use crate::agent::frame;
use crate::message::{AgentRequest, Answer, PROTOCOL};
use crate::paths::AGENT_PORT;
use crate::tls::{AgentTls, Role};

/// Connections served at one time. Further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 32;
/// Of these, of one address: a caller that holds on to connections holds up itself, not the others. Members ask one thing at a time.
pub const MAX_PER_ADDRESS: usize = 8;
/// From accepting a connection to having read its request: whoever is slower is cut off.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// From the request to the end of the answer, where etcd has its usual beat. A grant is some thirty calls of etcd one after the other, with two
/// seconds between a removal and an addition: where each takes half a second, a shorter limit would have every caller hang up on the place it
/// was given, and the next grant begin by taking that away.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// From a member's handshake to the end of its connection: so long it is good for further questions.
pub const KEPT: Duration = Duration::from_secs(60);

/// Listens on every address of the node.
///
/// # Errors
/// When the port is taken.
pub async fn bind() -> Result<TcpListener> {
    let everywhere = [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::UNSPECIFIED)]
        .map(|ip| SocketAddr::new(ip, AGENT_PORT));
    TcpListener::bind(&everywhere[..]).await.with_context(|| format!("listening on port {AGENT_PORT}"))
}

/// Serves for ever. `tls` changes when the leaf is renewed.
pub async fn serve(listener: TcpListener, tls: watch::Receiver<AgentTls>, desk: Arc<Desk>) {
    serve_within(REQUEST_LIMIT, listener, tls, desk).await;
}

async fn serve_within(request_limit: Duration, listener: TcpListener, tls: watch::Receiver<AgentTls>, desk: Arc<Desk>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let callers = Callers::default();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of file descriptors, or the caller is gone already; both pass.
                log::warn!("accepting a connection from an agent: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Closed at once: whoever has this many open is not waiting for an answer.
        let Some(caller) = callers.admit(remote.ip().to_canonical()) else { continue };
        let (tls, desk) = (tls.borrow().clone(), desk.clone());
        tokio::spawn(async move {
            if let Err(e) = serve_one(request_limit, stream, remote.ip().to_canonical(), &tls, &desk).await {
                log::debug!("serving {remote}: {e:#}");
            }
            drop((slot, caller));
        });
    }
}

/// How many connections each address has open.
#[derive(Clone, Debug, Default)]
struct Callers(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of them, until dropped.
#[derive(Debug)]
struct Caller {
    callers: Callers,
    address: IpAddr,
}

impl Callers {
    fn admit(&self, address: IpAddr) -> Option<Caller> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= MAX_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Caller { callers: self.clone(), address })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut open = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

async fn serve_one(
    request_limit: Duration,
    stream: TcpStream,
    remote: IpAddr,
    tls: &AgentTls,
    desk: &Arc<Desk>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let until = Deadline::now() + KEPT;
    let asked = async {
        let mut stream = tls.acceptor.accept(stream).await.context("authenticating the caller")?;
        let caller = role(tls, &stream, remote)?;
        let request: AgentRequest = frame::read(&mut stream).await?;
        anyhow::Ok((stream, caller, request))
    };
    let (mut stream, mut caller, mut request) =
        timeout(request_limit, asked).await.context("waiting for the request")??;
    loop {
        let answered = async {
            let answer = match &caller {
                None => Answer::Refused {
                    reason: "the certificate of this node, or the issuer of it, is revoked".into(),
                    hint: "give it the seed that was minted when it was revoked: image it again".into(),
                },
                Some(role) if request.protocol == PROTOCOL => desk.answer(role, remote, request.ask).await,
                Some(_) => Answer::Refused {
                    reason: format!("the request speaks protocol {}, this agent {PROTOCOL}", request.protocol),
                    hint: "run images whose agents speak the same protocol".into(),
                },
            };
            frame::write(&mut stream, &answer).await
        };
        timeout(ANSWER_LIMIT * desk.etcd.patience, answered).await.context("answering")??;
        if !matches!(caller, Some(Role::Peer(_))) {
            break;
        }
        request = match timeout_at(until, frame::read(&mut stream)).await {
            Ok(Ok(next)) => next,
            // It has no further question.
            Ok(Err(_)) | Err(_) => break,
        };
        // For every further question anew: who is revoked meanwhile has asked its last.
        caller = role(tls, &stream, remote)?;
    }
    // Tells the caller that this is all, so that it does not take the end for a cut.
    timeout(ANSWER_LIMIT, stream.shutdown()).await?.context("closing the connection")
}

/// Who calls; none for whoever is revoked, who is told so, and nothing else: on its console it would otherwise read like a network that fails.
fn role(tls: &AgentTls, stream: &TlsStream<TcpStream>, remote: IpAddr) -> Result<Option<Role>> {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    if tls.distrusts(chain) { Ok(None) } else { Ok(Some(tls.role(chain, remote)?)) }
}

#[cfg(test)]
pub(super) mod tests;
