//! Asks another member's etcd, on its peer port, for the hash of its store: the question etcd's own corruption check asks.
//!
//! `GET /members/hashkv` with `{"revision":N}` (`server/etcdserver/corrupt.go`, 3.5 to 3.7), answered by learners too. Its client is a
//! peer, so the agent's own leaf is enough, and no node needs a client's rights on another.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::custody::{KvHash, PeerHash};
use crate::name::Fqdn;
use crate::paths::PEER_PORT;
use crate::state::RaftId;
use crate::tls::AgentTls;

/// How long one address may take to accept a connection; peers are on the same site.
const CONNECT: Duration = Duration::from_millis(1500);
/// How long the answer may take: the other etcd reads its whole store for it, at some 200 MB/s or better, and the largest has 8 GiB.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Longest answer, in bytes; a real one is under 200.
const MAX_ANSWER: usize = 4096;

/// The etcd of `fqdn`, a member of `raft_cluster`, hashes its store up to `revision`.
///
/// # Errors
/// When none of `addresses` leads to an etcd with exactly that member's certificate, or it answers something else.
pub async fn ask(
    tls: &AgentTls,
    raft_cluster: RaftId,
    fqdn: &Fqdn,
    addresses: &[IpAddr],
    revision: u64,
) -> Result<PeerHash> {
    let all = async {
        let mut last = anyhow!("it has no address");
        for address in addresses {
            match exchange(tls, raft_cluster, fqdn, *address, revision).await {
                Ok(answer) => return Ok(answer),
                Err(e) => last = e.context(format!("asking etcd at {address} for the hash of its store")),
            }
        }
        Err(last)
    };
    match timeout(LIMIT, all).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("no hash within {} s", LIMIT.as_secs()),
    }
}

async fn exchange(
    tls: &AgentTls,
    raft_cluster: RaftId,
    fqdn: &Fqdn,
    address: IpAddr,
    revision: u64,
) -> Result<PeerHash> {
    let connecting = timeout(CONNECT, TcpStream::connect((address, PEER_PORT)));
    let stream = connecting.await.map_err(|_| anyhow!("no connection within {} ms", CONNECT.as_millis()))??;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(fqdn.as_str().to_owned()).context("naming the server")?;
    let stream = tls.connector.connect(name, stream).await.context("authenticating it")?;
    tls.expect_peer(stream.get_ref().1.peer_certificates(), address, fqdn)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(Method::GET)
        .uri("/members/hashkv")
        .header(HOST, format!("{fqdn}:{PEER_PORT}"))
        .header(CONTENT_TYPE, "application/json")
        // An etcd of another cluster answers 412 instead.
        .header("X-Etcd-Cluster-ID", raft_cluster.to_string())
        .body(Full::new(Bytes::from(format!("{{\"revision\":{revision}}}"))))?;
    // The connection is driven only as long as its one answer is waited for.
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| anyhow!(e))?.to_bytes();
        Ok::<_, anyhow::Error>((status, body))
    };
    tokio::pin!(connection);
    let (status, body) = tokio::select! {
        // Biased, so that an answer that has come is taken before the end of the connection is noticed.
        biased;
        answer = answer => answer?,
        ended = &mut connection => {
            ended?;
            bail!("it closed the connection");
        }
    };
    parse_answer(status, &body, revision)
}

/// etcd's JSON; Go leaves zeros out.
#[derive(Deserialize)]
struct HashAnswer {
    #[serde(default)]
    hash: u32,
    #[serde(default)]
    compact_revision: i64,
}

fn parse_answer(status: StatusCode, body: &[u8], revision: u64) -> Result<PeerHash> {
    let text = String::from_utf8_lossy(body);
    if status == StatusCode::BAD_REQUEST && text.contains("required revision is a future revision") {
        return Ok(PeerHash::Behind);
    }
    if status == StatusCode::BAD_REQUEST && text.contains("required revision has been compacted") {
        return Ok(PeerHash::Compacted);
    }
    ensure!(status == StatusCode::OK, "it answered {status}: {}", text.trim());
    let answer: HashAnswer = serde_json::from_slice(body).context("understanding its answer")?;
    Ok(PeerHash::Hash(KvHash { revision, hash: answer.hash, compact_revision: answer.compact_revision }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of a real etcd 3.5.30 learner.
    #[test]
    fn understands_what_etcd_answers() {
        let ok = |body: &str| parse_answer(StatusCode::OK, body.as_bytes(), 5);
        let hash = |hash, compact_revision| PeerHash::Hash(KvHash { revision: 5, hash, compact_revision });
        let body = r#"{"header":{"revision":11},"hash":2081565559,"compact_revision":-1}"#;
        assert_eq!(ok(body).unwrap(), hash(2_081_565_559, -1));
        // 3.6 tells the revision too.
        let body = r#"{"header":{"revision":11},"hash":7,"compact_revision":6,"hash_revision":5}"#;
        assert_eq!(ok(body).unwrap(), hash(7, 6));
        let refused = |body: &str| parse_answer(StatusCode::BAD_REQUEST, body.as_bytes(), 5);
        assert_eq!(refused("mvcc: required revision is a future revision\n").unwrap(), PeerHash::Behind);
        assert_eq!(refused("mvcc: required revision has been compacted\n").unwrap(), PeerHash::Compacted);
        assert!(refused("error unmarshalling request").is_err() && ok("<html>").is_err());
        let other = parse_answer(StatusCode::PRECONDITION_FAILED, b"cluster ID mismatch\n", 5).unwrap_err();
        assert_eq!(other.to_string(), "it answered 412 Precondition Failed: cluster ID mismatch");
    }
}
