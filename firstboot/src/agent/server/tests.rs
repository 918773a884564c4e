//! The server on loopback, called over real TLS.

use super::*;
use crate::digest::Id128;
use crate::etcd::Etcd;
use crate::message::{Ask, JoinRequest, MAX_MESSAGE};
use crate::revocation::{Distrusted, RevocationList};
use crate::sample::{charter, fqdn};
use crate::sample_authority::{Chain, Signer};
use crate::tls::TlsParts;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio_rustls::client::TlsStream;

pub(in super::super) struct Site {
    at: SocketAddr,
    peers: Signer,
    clients: Signer,
    /// The server's.
    issuer: Signer,
    /// Whom the server does not believe.
    distrusted: Distrusted,
}

fn tls(own: &Chain, peers: &Signer, clients: &Signer, distrusted: &Distrusted) -> AgentTls {
    let parts = TlsParts {
        chain: &own.chain,
        key: &own.key,
        peer_roots: &peers.cert,
        client_roots: &clients.cert,
        charter: Arc::new(charter(3)),
        distrusted: distrusted.clone(),
    };
    AgentTls::new(&parts).unwrap()
}

/// Serves as `etcd1` with `limit` to say what is wanted.
async fn site(limit: Duration) -> Site {
    let mut site = Site::silent("127.0.0.1:0".parse().unwrap());
    site.serve(limit).await;
    site
}

impl Site {
    /// Nobody answers there yet.
    pub(in super::super) fn silent(at: SocketAddr) -> Self {
        let peers = Signer::root("peers");
        Self {
            at,
            issuer: peers.issuer_now(1),
            peers,
            clients: Signer::root("clients"),
            distrusted: Distrusted::default(),
        }
    }

    /// Answers there from now on.
    pub(in super::super) async fn serve(&mut self, limit: Duration) {
        let own = self.issuer.leaf_now(&["etcd1.lab.example", &self.at.ip().to_string()]);
        let listener = TcpListener::bind(self.at).await.unwrap();
        self.at = listener.local_addr().unwrap();
        let (_, tls) = watch::channel(tls(&own, &self.peers, &self.clients, &self.distrusted));
        let desk = Desk::new(Etcd::at("/nonexistent/etcd.sock".as_ref(), 1).unwrap(), "/nonexistent".into());
        tokio::spawn(serve_within(limit, listener, tls, Arc::new(desk)));
    }

    /// TLS of a member; it believes whom it is told to believe.
    pub(in super::super) fn member_tls(&self, distrusted: &Distrusted) -> AgentTls {
        tls(&self.member(), &self.peers, &self.clients, distrusted)
    }

    /// The peers' root, and its list in which the server is revoked.
    pub(in super::super) fn revocation_of_server(&self) -> (String, String) {
        (self.peers.cert.clone(), self.peers.revocation_list(1, &[&self.issuer]))
    }

    async fn call(&self, as_whom: &Chain) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.at).await.unwrap();
        let name = ServerName::try_from("etcd1.lab.example").unwrap();
        tls(as_whom, &self.peers, &self.clients, &Distrusted::default()).connector.connect(name, stream).await.unwrap()
    }

    async fn ask(&self, as_whom: &Chain, ask: Ask) -> Answer {
        exchange(&mut self.call(as_whom).await, ask).await
    }

    fn member(&self) -> Chain {
        self.peers.issuer_now(2).leaf_now(&["etcd2.lab.example", "127.0.0.1"])
    }
}

async fn exchange(stream: &mut TlsStream<TcpStream>, ask: Ask) -> Answer {
    frame::write(stream, &AgentRequest { protocol: PROTOCOL, ask }).await.unwrap();
    frame::read(stream).await.unwrap()
}

pub(in super::super) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(60), future).await.expect("within a minute") })
}

pub(in super::super) fn just_started() -> Answer {
    Answer::RetryAfter { millis: 500, reason: "this agent has just started".into() }
}

#[test]
fn an_operator_may_ask_where_the_node_stands_and_for_nothing_else() {
    run(async {
        let site = site(REQUEST_LIMIT).await;
        let operator = site.clients.leaf_now(&[]);
        assert_eq!(site.ask(&operator, Ask::Status).await, just_started());
        let request = JoinRequest {
            cluster: charter(3).cluster,
            generation: 1,
            charter: charter(3).digest(),
            fqdn: fqdn(2),
            instance: Id128([2; 16]),
            etcd_version: "3.6.14".parse().unwrap(),
            nonce: Id128([9; 16]),
        };
        assert_eq!(
            site.ask(&operator, Ask::Join(request.clone())).await,
            Answer::Refused {
                reason: "an operator's certificate may ask for the status only".into(),
                hint: "a node joins by itself when it boots with its seed".into(),
            }
        );
        // A member's request gets as far as the desk.
        assert_eq!(site.ask(&site.member(), Ask::Join(request)).await, just_started());
    });
}

#[test]
fn a_message_over_64_kib_is_cut_off_unread() {
    run(async {
        let site = site(REQUEST_LIMIT).await;
        let mut stream = site.call(&site.member()).await;
        stream.write_all(&(MAX_MESSAGE + 1).to_be_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // Cut off without an answer; with or without the end that TLS wants.
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    });
}

#[test]
fn callers_that_say_nothing_are_cut_off_and_hold_up_nobody() {
    run(async {
        let site = site(Duration::from_millis(300)).await;
        let mut silent = TcpStream::connect(site.at).await.unwrap();
        let member = site.member();
        let mut mute = site.call(&member).await;
        // Served while both of them hold a place.
        assert_eq!(site.ask(&member, Ask::Status).await, just_started());
        assert_eq!(silent.read(&mut [0; 16]).await.unwrap_or(0), 0);
        assert_eq!(mute.read(&mut [0; 16]).await.unwrap_or(0), 0);
        // Every place taken by silence: the next caller is served when the limit frees one.
        let mut crowd = Vec::new();
        for n in 0..MAX_CONNECTIONS {
            crowd.push(silent_from([127, 0, 1, u8::try_from(n / MAX_PER_ADDRESS).unwrap()], site.at).await);
        }
        assert_eq!(site.ask(&member, Ask::Status).await, just_started());
    });
}

async fn silent_from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::from(address), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[test]
fn one_address_cannot_take_the_places_of_the_others() {
    run(async {
        // A limit that no test lives to see: only the count of each address keeps places free.
        let site = site(Duration::from_secs(3600)).await;
        let mut crowd = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 1 {
            crowd.push(silent_from([127, 0, 1, 1], site.at).await);
        }
        assert_eq!(site.ask(&site.member(), Ask::Status).await, just_started());
        let mut last = crowd.pop().unwrap();
        assert_eq!(last.read(&mut [0; 16]).await.unwrap_or(0), 0, "closed at once");
    });
}

#[test]
fn a_member_asks_on_until_it_is_revoked_and_an_operator_asks_once() {
    run(async {
        let site = site(REQUEST_LIMIT).await;
        let issuer = site.peers.issuer_now(2);
        let mut member = site.call(&issuer.leaf_now(&["etcd2.lab.example", "127.0.0.1"])).await;
        for _ in 0..3 {
            assert_eq!(exchange(&mut member, Ask::Status).await, just_started());
        }
        let list = site.peers.revocation_list(1, &[&issuer]);
        site.distrusted.replace([&RevocationList::from_pem(list.as_bytes(), &site.peers.cert).unwrap()]);
        let Answer::Refused { reason, .. } = exchange(&mut member, Ask::Status).await else { panic!("it is revoked") };
        assert!(reason.contains("revoked"), "{reason}");
        assert_eq!(member.read(&mut [0; 16]).await.unwrap(), 0, "and that was all");

        let mut operator = site.call(&site.clients.leaf_now(&[])).await;
        assert_eq!(exchange(&mut operator, Ask::Status).await, just_started());
        assert_eq!(operator.read(&mut [0; 16]).await.unwrap(), 0);
    });
}
