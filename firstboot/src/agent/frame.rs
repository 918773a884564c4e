//! One message on a stream: a big-endian `u32` length, then that many bytes of JSON. Nothing longer than 64 KiB is read.

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::message::MAX_MESSAGE;

/// Reads one message.
///
/// # Errors
/// When the length is over [`MAX_MESSAGE`] (before any of it is read), the stream ends, or the JSON is not a `T`.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T> {
    let length = stream.read_u32().await.context("reading a message's length")?;
    ensure!(length <= MAX_MESSAGE, "a message of {length} bytes is longer than {MAX_MESSAGE}");
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await.context("reading a message")?;
    serde_json::from_slice(&bytes).context("understanding a message")
}

/// Writes one message and flushes it.
///
/// # Errors
/// When it is over [`MAX_MESSAGE`] or the stream does not take it.
pub async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<()> {
    let bytes = serde_json::to_vec(message).context("wording a message")?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_MESSAGE);
    let length = length.with_context(|| format!("a message of {} bytes is longer than {MAX_MESSAGE}", bytes.len()))?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await.context("sending a message")?;
    stream.flush().await.context("sending a message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{AgentRequest, Ask, PROTOCOL};

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn reads_back_what_it_writes() {
        let request = AgentRequest { protocol: PROTOCOL, ask: Ask::Status };
        let read_back = run(async {
            let mut wire = Vec::new();
            write(&mut wire, &request).await.unwrap();
            read::<AgentRequest>(&mut &wire[..]).await.unwrap()
        });
        assert_eq!(read_back, request);
    }

    #[test]
    fn refuses_a_long_message_before_reading_it() {
        let mut wire = (MAX_MESSAGE + 1).to_be_bytes().to_vec();
        wire.extend_from_slice(b"{}");
        let error = run(read::<AgentRequest>(&mut &wire[..])).unwrap_err();
        assert_eq!(error.to_string(), "a message of 65537 bytes is longer than 65536");
    }

    #[test]
    fn refuses_deep_nesting_and_unknown_fields() {
        let framed = |text: &str| {
            let mut wire = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
            wire.extend_from_slice(text.as_bytes());
            wire
        };
        for text in ["[".repeat(60_000), r#"{"protocol":1,"ask":"status","more":1}"#.into(), r#"{"protocol":1}"#.into()]
        {
            let error = run(read::<AgentRequest>(&mut &framed(&text)[..])).unwrap_err();
            assert_eq!(error.to_string(), "understanding a message");
        }
    }
}
