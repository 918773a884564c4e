//! Asks the network's DNS servers themselves: UDP first, TCP when the answer was cut, one server after the other.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::dns_answer::{DnsOutcome, Found, Question, Reply};
use crate::name::Fqdn;
use crate::observation::SrvTarget;

/// How long one server has for one try. A resolver on the same network answers in milliseconds; one that forwards, within a second.
const TRY: Duration = Duration::from_millis(1200);
/// How often the list of servers is gone through.
const ROUNDS: usize = 2;
/// DNS's own port.
const PORT: u16 = 53;

/// The servers of this network.
#[derive(Clone, Debug)]
pub struct Dns {
    servers: Vec<SocketAddr>,
}

impl Dns {
    /// Asks `servers`, in this order.
    pub fn new(servers: &[IpAddr]) -> Self {
        Self { servers: servers.iter().map(|ip| SocketAddr::new(*ip, PORT)).collect() }
    }

    /// Names of an address.
    pub async fn pointers(&self, address: IpAddr) -> DnsOutcome<String> {
        self.ask(&Question::Ptr(address)).await.filter_map(name)
    }

    /// Names of the servers that are authoritative for a zone, given without its final dot.
    pub async fn authorities(&self, zone: &str) -> DnsOutcome<String> {
        self.ask(&Question::Ns(zone.to_owned())).await.filter_map(name)
    }

    /// IPv4 and IPv6 addresses of a name. Both are asked; addresses of one family suffice, and a failure counts only when
    /// neither family has an answer.
    pub async fn addresses(&self, name: &Fqdn) -> DnsOutcome<IpAddr> {
        let (v4, v6) = (Question::A(name.clone()), Question::Aaaa(name.clone()));
        let (v4, v6) = tokio::join!(self.ask(&v4), self.ask(&v6));
        let address = |found| match found {
            Found::Address(address) => Some(address),
            Found::Name(_) | Found::Service(_) => None,
        };
        match (v4.filter_map(address), v6.filter_map(address)) {
            (DnsOutcome::Answers(mut all), DnsOutcome::Answers(more)) => {
                all.extend(more);
                DnsOutcome::Answers(all)
            }
            (DnsOutcome::Answers(all), _) | (_, DnsOutcome::Answers(all)) => DnsOutcome::Answers(all),
            (v4, v6) if v4.is_definite() => v6,
            (v4, _) => v4,
        }
    }

    /// Targets of `_etcd-server-ssl._tcp` under a domain.
    pub async fn services(&self, domain: &Fqdn) -> DnsOutcome<SrvTarget> {
        self.ask(&Question::Srv(domain.clone())).await.filter_map(service)
    }

    /// Targets of `_etcd-client-ssl._tcp` under a domain.
    pub async fn client_services(&self, domain: &Fqdn) -> DnsOutcome<SrvTarget> {
        self.ask(&Question::ClientSrv(domain.clone())).await.filter_map(service)
    }

    /// Asks one server after the other until one says definitely what there is; otherwise tells the last failure.
    async fn ask(&self, question: &Question) -> DnsOutcome<Found> {
        let mut failure = DnsOutcome::NoServers;
        for _ in 0..ROUNDS {
            for server in &self.servers {
                match ask_server(*server, question).await {
                    outcome if outcome.is_definite() => return outcome,
                    // A server that said something tells more than one that is silent.
                    DnsOutcome::Timeout if failure != DnsOutcome::NoServers => {}
                    outcome => failure = outcome,
                }
            }
        }
        failure
    }
}

fn name(found: Found) -> Option<String> {
    match found {
        Found::Name(name) => Some(name),
        Found::Address(_) | Found::Service(_) => None,
    }
}

fn service(found: Found) -> Option<SrvTarget> {
    match found {
        Found::Service(target) => Some(target),
        Found::Name(_) | Found::Address(_) => None,
    }
}

async fn ask_server(server: SocketAddr, question: &Question) -> DnsOutcome<Found> {
    let asked = async {
        match timeout(TRY, over_udp(server, question)).await {
            Ok(Ok(Reply::Whole(outcome))) => Ok(outcome),
            Ok(Ok(Reply::Truncated)) => match timeout(TRY, over_tcp(server, question)).await {
                Ok(Ok(Reply::Whole(outcome))) => Ok(outcome),
                Ok(Ok(Reply::Truncated)) => Ok(DnsOutcome::Broken("cut short even over TCP".into())),
                Ok(Err(e)) => Err(e),
                Err(_) => Ok(DnsOutcome::Timeout),
            },
            Ok(Err(e)) => Err(e),
            Err(_) => Ok(DnsOutcome::Timeout),
        }
    };
    // An unreachable network or a closed port is no answer, exactly like silence.
    asked.await.unwrap_or(DnsOutcome::Timeout)
}

fn draw_id() -> io::Result<u16> {
    let mut id = [0; 2];
    SystemRandom::new().fill(&mut id).map_err(|_| io::Error::other("the system gives no randomness"))?;
    Ok(u16::from_be_bytes(id))
}

async fn over_udp(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A new socket, and so a new random source port, for every question.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = draw_id()?;
    socket.send(&question.encode(id).map_err(io::Error::other)?).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(reply) = question.decode(id, &buffer[..length]) {
            return Ok(reply);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let id = draw_id()?;
    let query = question.encode(id).map_err(io::Error::other)?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    question.decode(id, &bytes).ok_or_else(|| io::Error::other("a reply to another question"))
}

#[cfg(test)]
mod tests;
