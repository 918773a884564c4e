//! The client against servers on loopback that answer as they please.

use super::*;
use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record};
use tokio::net::TcpListener;

const ASKED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// An answer to `query` with one name in it, or cut short.
fn answer(query: &[u8], cut: bool) -> Vec<u8> {
    let mut message = Message::from_vec(query).unwrap();
    message.metadata.message_type = MessageType::Response;
    message.metadata.truncation = cut;
    if !cut {
        let (own, host) = (message.queries[0].name().clone(), Name::from_ascii("etcd1.lab.example.").unwrap());
        message.add_answer(Record::from_rdata(own, 0, RData::PTR(PTR(host))));
    }
    message.to_vec().unwrap()
}

/// One port for both transports.
async fn both() -> (UdpSocket, TcpListener, SocketAddr) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = tcp.local_addr().unwrap();
        if let Ok(udp) = UdpSocket::bind(at).await {
            return (udp, tcp, at);
        }
    }
}

/// What the client makes of a server that cuts every answer over UDP, and over TCP too if `tcp_too`.
fn asked_of_a_cutter(tcp_too: bool) -> DnsOutcome<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (udp, tcp, at) = both().await;
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                // Somebody else's guess first: another id, another question. Neither may be taken for the answer.
                let mut forged = answer(&buffer[..length], false);
                forged[0] ^= 0xff;
                udp.send_to(&forged, from).await.unwrap();
                udp.send_to(&answer(&buffer[..length], true), from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let said = answer(&query, tcp_too);
                stream.write_u16(said.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&said).await.unwrap();
            }
        });
        Dns { servers: vec![at] }.pointers(ASKED.into()).await
    })
}

/// A12 of the catalogue, on the client's side.
#[test]
fn a_cut_answer_is_asked_for_again_over_tcp_and_no_further() {
    assert_eq!(asked_of_a_cutter(false), DnsOutcome::Answers(vec!["etcd1.lab.example".into()]));
    assert_eq!(asked_of_a_cutter(true), DnsOutcome::Broken("cut short even over TCP".into()));
}
