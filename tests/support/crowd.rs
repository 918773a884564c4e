//! A crowd of bad callers on an agent's port: slow, silent, long-winded, again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kiln_firstboot::paths::AGENT_PORT;
use kiln_firstboot::tls::AgentTls;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::client::in_space;
use crate::node::Node;

/// Between two bytes of a slow caller, and between two calls of any.
const PAUSE: Duration = Duration::from_millis(100);

/// What a bad caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weapon {
    /// Says nothing.
    Silence,
    /// Begins a TLS handshake, one byte at a time.
    SlowHello,
    /// Sends bytes that are no TLS.
    Noise,
    /// Over TLS: announces a message of 100 MB and sends it.
    LongMessage,
    /// Over TLS: sends JSON of 60 000 levels.
    DeepJson,
    /// Over TLS: sends a message one byte at a time.
    SlowJson,
}

/// The crowd. It goes on until it is dropped.
#[derive(Debug)]
pub struct Crowd {
    attempts: Arc<AtomicUsize>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Crowd {
    /// Lets `size` callers in the namespace `space` go for the agent of `victim`, each with one of the weapons.
    pub fn gather(space: &str, victim: &Node, tls: Option<AgentTls>, size: usize, weapons: &[Weapon]) -> Self {
        let attempts = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let at = SocketAddr::new(victim.ip, AGENT_PORT);
        let name = ServerName::try_from(victim.fqdn.as_str().to_owned()).expect("a node's name is a name");
        let (weapons, count) = (weapons.to_vec(), Arc::clone(&attempts));
        let thread = in_space(space, move || async move {
            for (n, weapon) in weapons.iter().copied().cycle().take(size).enumerate() {
                let (tls, name, count) = (tls.clone(), name.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    sleep(PAUSE * u32::try_from(n % 10).unwrap_or_default()).await;
                    loop {
                        if call(at, &name, tls.as_ref(), weapon).await.is_ok() {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        sleep(PAUSE).await;
                    }
                });
            }
            // Ends with the test's value, and every caller with it.
            drop(stopped.await);
        });
        Self { attempts, server: Some((stop, thread)) }
    }

    /// How often a weapon was used to the end, which is the agent's cutting it off.
    pub fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.server.take() {
            drop(stop);
            drop(thread.join());
        }
    }
}

/// Uses the weapon once; an error only when it did not come to that.
async fn call(
    at: SocketAddr,
    name: &ServerName<'static>,
    tls: Option<&AgentTls>,
    weapon: Weapon,
) -> std::io::Result<()> {
    let stream = TcpStream::connect(at).await?;
    match tls {
        Some(tls) => wield(tls.connector.connect(name.clone(), stream).await?, weapon).await,
        None => wield(stream, weapon).await,
    }
    Ok(())
}

async fn wield(stream: impl AsyncRead + AsyncWrite, weapon: Weapon) {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        match weapon {
            Weapon::Silence => {}
            Weapon::SlowHello => slowly(&mut write, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await?,
            Weapon::Noise => write.write_all(&[b'x'; 1 << 16]).await?,
            Weapon::LongMessage => {
                write.write_u32(100_000_000).await?;
                for _ in 0..1600 {
                    write.write_all(&[b' '; 1 << 16]).await?;
                }
            }
            Weapon::DeepJson => {
                write.write_u32(60_000).await?;
                write.write_all(&[b'['; 60_000]).await?;
            }
            Weapon::SlowJson => {
                write.write_u32(1000).await?;
                slowly(&mut write, &[b' '; 1000]).await?;
            }
        }
        write.flush().await?;
        // Then it only holds on.
        std::future::pending::<std::io::Result<()>>().await
    };
    let cut_off = async { while read.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {} };
    tokio::select! {
        _ = sending => {}
        () = cut_off => {}
    }
}

async fn slowly(write: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        write.write_u8(*byte).await?;
        write.flush().await?;
        sleep(PAUSE).await;
    }
    Ok(())
}
