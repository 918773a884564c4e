//! Looks at etcd's metrics on the loopback, regularly and when asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::agent::desk::Desk;
use crate::clock;
use crate::connections::{Look, parse_metrics};
use crate::paths::METRICS_PORT;
use crate::rest::sparing;

/// Between two looks. What came and went in between is seen by its counters, so this only bounds how late silence is noticed.
const PERIOD: Duration = Duration::from_secs(2);
/// The most between two where etcd is slow to answer: still far below the minute after which silence counts.
const LONGEST: Duration = Duration::from_secs(10);
/// How long one look may take, where etcd has its usual beat.
const LIMIT: Duration = Duration::from_secs(2);
/// Largest text read. A cluster of seven serves 200 kB.
const LARGEST: u64 = 4 << 20;

/// Looks for ever.
pub async fn tend(desk: std::sync::Arc<Desk>) {
    loop {
        let began = clock::monotonic();
        // Every caller's question is a look too; etcd takes longer for one than for all else that it is asked.
        let quiet = desk.quiet_for().filter(|quiet| *quiet < PERIOD);
        if quiet.is_none()
            && let Err(e) = desk.listen().await
        {
            log::debug!("looking at etcd's connections: {e:#}");
        }
        let took = clock::monotonic().duration_since(began);
        sleep(sparing(PERIOD, took, LONGEST).saturating_sub(quiet.unwrap_or_default())).await;
    }
}

/// Looks once, so many times as patiently as usual.
///
/// # Errors
/// When etcd does not answer with its whole metrics in time.
pub async fn look(patience: u32) -> Result<Look> {
    parse_metrics(&text(patience).await?).context("etcd's metrics are cut short")
}

/// All of etcd's metrics, likewise.
///
/// # Errors
/// When etcd does not answer in time.
pub async fn text(patience: u32) -> Result<String> {
    timeout(LIMIT * patience, read()).await.context("waiting for etcd's metrics")?
}

async fn read() -> Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT))).await?;
    // 1.0: the answer ends with the connection and comes in one piece.
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut bytes = Vec::new();
    let read = stream.take(LARGEST).read_to_end(&mut bytes).await?;
    ensure!((read as u64) < LARGEST, "etcd's metrics are larger than {LARGEST} bytes");
    let text = String::from_utf8(bytes).context("etcd's metrics are no text")?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("no HTTP answer from etcd's metrics port") };
    ensure!(head.split(' ').nth(1) == Some("200"), "etcd's metrics port says `{}`", head.lines().next().unwrap_or(""));
    Ok(body.to_owned())
}
