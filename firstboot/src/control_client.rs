//! Asks the root helper: one line of JSON each way.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::disk_fact::DiskFacts;
use crate::message::{ControlAnswer, ControlRequest};

/// How long the helper may take; stopping etcd waits for it to hand over leadership and sync.
const LIMIT: Duration = Duration::from_secs(30);

/// What the helper says of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdUnit {
    /// systemd's word.
    pub active: String,
    /// What etcd or precheck left behind when it stopped.
    pub last_words: String,
}

impl EtcdUnit {
    /// A process exists, or systemd is about to start or stop one.
    pub fn is_up(&self) -> bool {
        matches!(self.active.as_str(), "active" | "activating" | "deactivating" | "reloading")
    }
}

/// Has something done.
///
/// # Errors
/// When the helper cannot do it, with its reason, or does not answer.
pub async fn run(socket: &Path, request: ControlRequest) -> Result<()> {
    match ask(socket, request).await? {
        ControlAnswer::Done => Ok(()),
        other => bail!("the root helper answered `{other:?}` to `{request:?}`"),
    }
}

/// Looks at the disks again.
///
/// # Errors
/// When the helper does not answer.
pub async fn disks(socket: &Path) -> Result<DiskFacts> {
    match ask(socket, ControlRequest::Observe).await? {
        ControlAnswer::Disks(facts) => Ok(*facts),
        other => bail!("the root helper answered `{other:?}` when asked for the disks"),
    }
}

/// Asks for etcd's unit.
///
/// # Errors
/// When the helper does not answer.
pub async fn etcd(socket: &Path) -> Result<EtcdUnit> {
    match ask(socket, ControlRequest::EtcdState).await? {
        ControlAnswer::Etcd { active, last_words } => Ok(EtcdUnit { active, last_words }),
        other => bail!("the root helper answered `{other:?}` when asked for etcd"),
    }
}

async fn ask(socket: &Path, request: ControlRequest) -> Result<ControlAnswer> {
    let exchange = async {
        let stream =
            UnixStream::connect(socket).await.with_context(|| format!("connecting to `{}`", socket.display()))?;
        let mut stream = BufReader::new(stream);
        let mut line = serde_json::to_string(&request)?;
        line.push('\n');
        stream.write_all(line.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        serde_json::from_str(&answer)
            .with_context(|| format!("understanding the root helper's answer to `{request:?}`"))
    };
    let answer = timeout(LIMIT, exchange).await.context("waiting for the root helper")??;
    match answer {
        ControlAnswer::Failed(why) => bail!("{why}"),
        answer => Ok(answer),
    }
}
