//! Asks the root helper: one line of JSON each way.
//!
//! A connection is one helper, a process of its own that costs most of a second on an emulated machine, and two lines in the journal on any.
//! So one is kept for a minute of questions.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::clock;
use crate::disk_fact::DiskFacts;
use crate::message::{ControlAnswer, ControlRequest};

/// How long the helper may take; stopping etcd waits for it to hand over leadership and sync.
const LIMIT: Duration = Duration::from_secs(30);

/// How long one helper is asked. Its unit ends it after two minutes, which must not hit one that is at work.
const KEPT: Duration = Duration::from_secs(60);

/// The helper that is being asked.
static HELPER: Mutex<Option<Helper>> = Mutex::const_new(None);

#[derive(Debug)]
struct Helper {
    socket: PathBuf,
    since: Instant,
    stream: BufReader<UnixStream>,
}

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
    let mut kept = HELPER.lock().await;
    let now = clock::monotonic();
    // One that failed, or whose answer was not waited for, is never asked again: it is put back only after a whole exchange.
    let helper = kept.take().filter(|helper| helper.socket == socket && now.duration_since(helper.since) < KEPT);
    let exchange = async {
        let mut helper = match helper {
            Some(helper) => helper,
            None => Helper::connect(socket, now).await?,
        };
        let answer = helper.ask(request).await?;
        Ok::<_, anyhow::Error>((helper, answer))
    };
    let (helper, answer) = timeout(LIMIT, exchange).await.context("waiting for the root helper")??;
    *kept = Some(helper);
    match answer {
        ControlAnswer::Failed(why) => bail!("{why}"),
        answer => Ok(answer),
    }
}

impl Helper {
    async fn connect(socket: &Path, now: Instant) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).await.with_context(|| format!("connecting to `{}`", socket.display()))?;
        Ok(Self { socket: socket.to_owned(), since: now, stream: BufReader::new(stream) })
    }

    async fn ask(&mut self, request: ControlRequest) -> Result<ControlAnswer> {
        let mut line = serde_json::to_string(&request)?;
        line.push('\n');
        self.stream.write_all(line.as_bytes()).await?;
        self.stream.flush().await?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer).await?;
        serde_json::from_str(&answer)
            .with_context(|| format!("understanding the root helper's answer to `{request:?}`"))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn one_helper_is_asked_in_every_round() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let done = format!("{}\n", serde_json::to_string(&ControlAnswer::Done).unwrap());
        let helpers = async {
            // The first one goes away, as when its unit ends it; another takes its place.
            for answers in [3, 1] {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                for _ in 0..answers {
                    stream.read_line(&mut String::new()).await.unwrap();
                    stream.write_all(done.as_bytes()).await.unwrap();
                }
            }
        };
        let rounds = async {
            for _ in 0..3 {
                run(&socket, ControlRequest::StopEtcd).await.unwrap();
            }
            run(&socket, ControlRequest::StopEtcd).await.unwrap_err();
            run(&socket, ControlRequest::StopEtcd).await.unwrap();
        };
        tokio::join!(helpers, rounds);
    }
}
