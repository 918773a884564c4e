//! One question to one DNS server, and one update. An edge, which opens sockets; whom to ask is the caller's choice.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hickory_proto::op::{Message, MessageType};

use crate::exit::TryAgain;

/// How long a server has for one datagram; it gets three.
const TRY: Duration = Duration::from_millis(1500);
const TRIES: usize = 3;
/// How long a connection may take, and each thing said over it: a server writes an update to its disk before it answers.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks `server` over UDP, and over TCP where the answer is cut short.
///
/// # Errors
/// A [`TryAgain`] when it does not answer; else when what it answers makes no sense.
pub(crate) fn ask(server: SocketAddr, question: &Message) -> Result<Message> {
    let bytes = question.to_vec().context("wording a question to DNS")?;
    let mut failure = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..TRIES {
        match over_udp(server, &bytes, question) {
            Ok(answer) if !answer.metadata.truncation => return Ok(answer),
            Ok(_) => return understood(&deliver(server, &bytes)?),
            Err(e) => failure = e,
        }
    }
    Err(silent(server, &failure))
}

/// Sends `bytes`, which are a message, over TCP, and gives the bytes of the answer. Over TCP because an update has no length to be held to,
/// and because a datagram that was lost and one whose answer was lost look the same.
///
/// # Errors
/// A [`TryAgain`] when it cannot be reached.
pub(crate) fn deliver(server: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    over_tcp(server, bytes).map_err(|e| silent(server, &e))
}

/// Reads an answer.
///
/// # Errors
/// When it makes no sense.
pub(crate) fn understood(bytes: &[u8]) -> Result<Message> {
    Message::from_vec(bytes).context("understanding a DNS server's answer")
}

fn silent(server: SocketAddr, why: &io::Error) -> anyhow::Error {
    let why = match why.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".to_owned(),
        _ => why.to_string(),
    };
    TryAgain(format!(
        "the DNS server {server} cannot be asked: {why}\n  hint: is it up, and is port 53 open from here, UDP and TCP? Another one is named by --server IP"
    ))
    .into()
}

fn over_udp(server: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A new socket, and so a new random source port, for every question.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(TRY))?;
    socket.send(bytes)?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer)?;
        // Whoever sent anything else, it is ignored.
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && answer.metadata.id == question.metadata.id
            && answer.metadata.message_type == MessageType::Response
            && (answer.queries.is_empty() || answer.queries == question.queries)
        {
            return Ok(answer);
        }
    }
}

fn over_tcp(server: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let length = u16::try_from(bytes.len()).map_err(|_| io::Error::other("a message of more than 64 KiB"))?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
