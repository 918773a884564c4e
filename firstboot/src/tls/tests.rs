//! Real handshakes over a stream in memory, with certificates that only this test would mint.

use super::*;
use crate::cert_name::CertNameError;
use crate::clock;
use crate::sample::{address, charter, fqdn};
use crate::sample_authority::{Chain, Signer};
use rustls::{CertificateError, ProtocolVersion};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

/// The two roots, and `etcd1`'s agent.
struct Site {
    peers: Signer,
    clients: Signer,
    server: AgentTls,
}

fn site() -> Site {
    let (peers, clients) = (Signer::root("peers"), Signer::root("clients"));
    let own = peers.issuer_now(1).leaf_now(&["etcd1.lab.example", "10.0.0.1"]);
    let server = AgentTls::new(&TlsParts {
        chain: &own.chain,
        key: &own.key,
        peer_roots: &peers.cert,
        client_roots: &clients.cert,
        charter: Arc::new(charter(3)),
        distrusted: Distrusted::default(),
    });
    Site { peers, clients, server: server.unwrap() }
}

/// How `etcd1` answers a caller with `chain` that calls from `remote`: its role, or the error of handshake or check.
fn called(site: &Site, chain: &Chain, remote: IpAddr) -> Result<Role> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(&site.peers.cert).unwrap())
        .with_client_auth_cert(
            certificates(&chain.chain).unwrap(),
            PrivateKeyDer::from_pem_slice(chain.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let (near, far) = duplex(1 << 16);
    let connector = TlsConnector::from(Arc::new(client));
    run(async {
        let name = ServerName::try_from("etcd1.lab.example").unwrap();
        let (accepted, connected) = tokio::join!(site.server.acceptor.accept(far), connector.connect(name, near));
        // In TLS 1.3 the caller is done before its certificate has been looked at.
        connected.expect("the server's certificate is good");
        let stream = accepted?;
        let session = stream.get_ref().1;
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        site.server.role(session.peer_certificates().unwrap(), remote)
    })
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn handshake_error(outcome: Result<Role>) -> CertificateError {
    let error = outcome.expect_err("the handshake must fail").downcast::<std::io::Error>().unwrap();
    match error.into_inner().and_then(|inner| inner.downcast::<Error>().ok()).map(|inner| *inner) {
        Some(Error::InvalidCertificate(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn name_error(outcome: Result<Role>) -> CertNameError {
    outcome.expect_err("the name must be refused").downcast().unwrap()
}

#[test]
fn a_member_is_a_peer_and_a_client_is_an_operator() {
    let site = site();
    let leaf = site.peers.issuer_now(2).leaf_now(&["etcd2.lab.example", "10.0.0.2"]);
    assert_eq!(called(&site, &leaf, address(2)).unwrap(), Role::Peer(fqdn(2)));
    let client = site.clients.leaf_now(&[]);
    assert_eq!(called(&site, &client, address(99)).unwrap(), Role::Operator);
    // Whatever a client's certificate says of itself, it is no member's.
    let posing = site.clients.leaf_now(&["etcd2.lab.example", "10.0.0.2"]);
    assert_eq!(called(&site, &posing, address(2)).unwrap(), Role::Operator);
}

#[test]
fn a_leaf_that_its_issuer_may_sign_but_that_names_no_single_member_is_refused() {
    let site = site();
    let called = |names: &[&str]| {
        let leaf = site.peers.issuer_now(2).leaf_now(names);
        name_error(called(&site, &leaf, address(2)))
    };
    assert_eq!(called(&[]), CertNameError::Names("no subject alternative name".into()));
    assert_eq!(called(&["10.0.0.2"]), CertNameError::Names("0 DNS names".into()));
    let two = called(&["etcd2.lab.example", "a.etcd2.lab.example", "10.0.0.2"]);
    assert_eq!(two, CertNameError::Names("2 DNS names".into()));
    for name in ["a.etcd2.lab.example", "*.etcd2.lab.example"] {
        assert_eq!(called(&[name, "10.0.0.2"]), CertNameError::Stranger(name.into()));
    }
    let elsewhere = called(&["etcd2.lab.example", "127.0.0.1"]);
    assert_eq!(elsewhere, CertNameError::Address { name: fqdn(2), remote: address(2) });
}

#[test]
fn a_leaf_for_what_its_issuer_may_not_sign_fails_the_handshake() {
    let site = site();
    for names in [
        &["etcd3.lab.example", "10.0.0.2"][..],
        &["etcd2.lab.example", "etcd3.lab.example", "10.0.0.2"],
        &["*.lab.example", "10.0.0.2"],
        &["etcd2.lab.example", "10.0.0.3"],
    ] {
        let leaf = site.peers.issuer_now(2).leaf_now(names);
        let error = handshake_error(called(&site, &leaf, address(2)));
        let CertificateError::Other(error) = error else { panic!("{names:?}: {error:?}") };
        assert_eq!(error.to_string(), "NameConstraintViolation", "{names:?}");
    }
}

#[test]
fn an_expired_leaf_or_another_root_fails_the_handshake() {
    let site = site();
    let names = ["etcd2.lab.example", "10.0.0.2"];
    let expired = site.peers.issuer_now(2).leaf(&names, clock::now() - 60);
    let error = handshake_error(called(&site, &expired, address(2)));
    assert!(matches!(error, CertificateError::ExpiredContext { .. }), "{error:?}");
    let stranger = Signer::root("elsewhere").issuer_now(2).leaf_now(&names);
    assert_eq!(handshake_error(called(&site, &stranger, address(2))), CertificateError::UnknownIssuer);
}

#[test]
fn a_caller_takes_only_the_certificate_of_the_node_it_meant() {
    let site = site();
    let check = |names: &[&str], remote| {
        let leaf = certificates(&site.peers.issuer_now(2).leaf_now(names).chain).unwrap();
        site.server.expect_peer(Some(&leaf), remote, &fqdn(2))
    };
    check(&["etcd2.lab.example", "10.0.0.2"], address(2)).unwrap();
    let wrong = check(&["etcd3.lab.example", "10.0.0.2"], address(2)).unwrap_err();
    assert_eq!(wrong.to_string(), "the server presented the certificate of etcd3.lab.example");
    let moved = check(&["etcd2.lab.example", "10.0.0.2"], address(9)).unwrap_err();
    assert_eq!(
        moved.downcast::<CertNameError>().unwrap(),
        CertNameError::Address { name: fqdn(2), remote: address(9) }
    );
}

/// What a client of TLS 1.2 says first: no `supported_versions`, one ECDHE suite, P-256, ECDSA with SHA-256.
fn hello_of_tls_1_2() -> Vec<u8> {
    let extensions: &[u8] = &[0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend([0, u8::try_from(extensions.len()).unwrap()]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[test]
fn tls_1_2_is_not_spoken() {
    let site = site();
    let (mut near, far) = duplex(1 << 16);
    let (accepted, heard) = run(async {
        near.write_all(&hello_of_tls_1_2()).await.unwrap();
        let accepted = site.server.acceptor.accept(far).await.map(|_| ());
        let mut heard = Vec::new();
        near.read_to_end(&mut heard).await.unwrap();
        (accepted, heard)
    });
    let error = accepted.unwrap_err().into_inner().unwrap().downcast::<Error>().unwrap();
    assert!(matches!(*error, Error::PeerIncompatible(_)), "{error:?}");
    // A fatal alert: protocol_version.
    assert_eq!(heard[5..], [2, 70]);
}
