//! Whoever speaks to the agents and to etcd beside the nodes themselves: a member that has gone bad, a stranger, a fake agent.
//!
//! Made of the agent's own TLS and frames, and of the seeds that `kiln pki` minted: what is bad is only what a test makes bad.
#![expect(clippy::disallowed_methods, reason = "tests read seeds and roots")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_firstboot::agent::{client, frame};
use kiln_firstboot::charter::Charter;
use kiln_firstboot::digest::{Id128, Sha256Digest};
use kiln_firstboot::message::{AgentRequest, Answer, Ask, Holds, NodeStatus};
use kiln_firstboot::name::Fqdn;
use kiln_firstboot::paths::{AGENT_PORT, PEER_PORT};
use kiln_firstboot::revocation::Distrusted;
use kiln_firstboot::tls::{AgentTls, Role, TlsParts};
use kiln_firstboot::{seed, seed_disk};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio_rustls::client::TlsStream;

use crate::client::in_space;
use crate::cluster::{Cluster, etcd_version};
use crate::node::{Node, text};
use crate::program::output;

/// A node's seed, opened.
#[derive(Debug)]
pub struct Seed {
    issuer_cert: String,
    issuer_key: String,
    peer_roots: String,
    client_roots: String,
    /// The charter in it.
    pub charter: Arc<Charter>,
}

/// A certificate, what signed it behind it, and its key: PEM.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The chain.
    pub chain: String,
    /// The key.
    pub key: String,
}

impl Seed {
    /// The seed of this node.
    ///
    /// # Panics
    /// When it is none.
    pub fn of(node: &Node) -> Self {
        let file = std::fs::File::open(node.home.join("seed.tar")).expect("opening a seed");
        let files = seed_disk::read_archive(file).expect("reading a seed");
        let text = |name: &str| String::from_utf8(files[name].clone()).expect("it is text");
        Self {
            issuer_cert: text(seed::ISSUER_CERT),
            issuer_key: text(seed::ISSUER_KEY),
            peer_roots: text(seed::PEER_ROOTS),
            client_roots: text(seed::CLIENT_ROOTS),
            charter: Arc::new(serde_json::from_slice(&files[seed::CHARTER]).expect("it is a charter")),
        }
    }

    /// Has its issuer sign a leaf with this common name for these names and addresses, whatever they are.
    ///
    /// # Panics
    /// When a name cannot be written into a certificate.
    pub fn leaf(&self, common_name: &str, names: &[&str]) -> Credentials {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let san = |name: &&str| match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().expect("a test's names can be written")),
        };
        params.subject_alt_names = names.iter().map(san).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2200, 1, 1);
        let (key, signer) = (KeyPair::generate().expect("drawing a key"), KeyPair::from_pem(&self.issuer_key));
        let issuer = Issuer::from_ca_cert_pem(&self.issuer_cert, signer.expect("a seed has its issuer's key"));
        let leaf = params.signed_by(&key, &issuer.expect("a seed has an issuer")).expect("signing a leaf");
        Credentials { chain: leaf.pem() + &self.issuer_cert, key: key.serialize_pem() }
    }

    /// What gives its issuer's key away.
    pub fn issuer_secrets(&self) -> String {
        secrets_of(&self.issuer_key)
    }

    /// Both directions of the agents' TLS with these credentials, trusting what the seed trusts.
    ///
    /// # Panics
    /// When the credentials are none.
    pub fn tls(&self, as_whom: &Credentials) -> AgentTls {
        AgentTls::new(&TlsParts {
            chain: &as_whom.chain,
            key: &as_whom.key,
            peer_roots: &self.peer_roots,
            client_roots: &self.client_roots,
            charter: self.charter.clone(),
            distrusted: Distrusted::default(),
        })
        .expect("making TLS of a seed")
    }
}

/// The credentials that a member has by right.
pub fn own_leaf(node: &Node) -> Credentials {
    Seed::of(node).leaf(node.fqdn.as_str(), &[node.fqdn.as_str(), &node.ip.to_string()])
}

/// What the agent of a blank node of this charter says.
pub fn status(fqdn: &Fqdn, charter: &Charter) -> NodeStatus {
    NodeStatus {
        fqdn: fqdn.clone(),
        env: charter.env.clone(),
        cluster: charter.cluster,
        generation: charter.generation,
        charter: charter.digest(),
        boot_id: Id128::random().expect("drawing a boot id").to_string(),
        image_key: Sha256Digest::of(b"the image of a test"),
        etcd_version: etcd_version(),
        holds: Holds::Blank,
        phase: "blank".into(),
        instance: Some(Id128::random().expect("drawing an instance")),
        boot_counter: 1,
        remembers: Vec::new(),
        activated: false,
        waiting_for: String::new(),
        waiting_since: 0,
        row: 14,
    }
}

/// What gives a key away, as a pattern for `grep -P`: its secret number in bytes and in hexadecimal digits, and as it stands in the PEM.
///
/// # Panics
/// When it is no PKCS #8 key of P-256 in PEM.
pub fn secrets_of(pem: &str) -> String {
    let key = KeyPair::from_pem(pem).expect("it is a key").serialize_der();
    // ECPrivateKey: version 1, then an OCTET STRING of 32 bytes.
    let mark = [2, 1, 1, 4, 32];
    let at = key.windows(mark.len()).position(|window| window == mark).expect("a key has its number") + mark.len();
    let number = &key[at..at + 32];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // grep looks line by line, so at a part of it without a line's end.
    let part = number.split(|byte| *byte == b'\n').max_by_key(|part| part.len()).expect("a split has a part");
    let bytes: String = part.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    // Bytes 48 to 96 of the key: in the middle of its number.
    let line = pem.lines().nth(2).expect("a key in PEM has three lines");
    format!("{bytes}|{0}|{1}|\\Q{line}\\E", hex(number), hex(number).to_uppercase())
}

/// The files under these places in which the pattern is found.
///
/// # Panics
/// When they cannot be searched.
pub fn files_with(pattern: &str, places: &[&str]) -> Vec<PathBuf> {
    let mut argv = vec!["env", "LC_ALL=C", "grep", "-rlaP", "-D", "skip", "-e", pattern];
    argv.extend(places);
    let said = output(&argv);
    // 1 is "nowhere".
    assert!(said.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&said.stderr));
    let mut found: Vec<PathBuf> = String::from_utf8_lossy(&said.stdout).lines().map(PathBuf::from).collect();
    found.sort();
    found
}

/// Whether the peer port of the etcd at `to` answers whoever holds these credentials in the namespace `space`.
///
/// # Panics
/// When the credentials cannot be written down for curl.
pub fn etcd_peer_answers(space: &str, cluster: &Cluster, whose: &Credentials, to: IpAddr) -> bool {
    let (cert, key) = whose.files(cluster);
    let member = cluster.nodes.iter().find(|n| n.ip == to).expect("it is a node of the cluster");
    let (url, place) = (format!("{}/members", member.fqdn.peer_url()), format!("{}:{PEER_PORT}:{to}", member.fqdn));
    let root = text(&cluster.scratch().join("home/pki/unit/peer-root.crt"));
    let said = output(&[
        "ip",
        "netns",
        "exec",
        space,
        "curl",
        "--http1.1",
        "-s",
        "-m",
        "5",
        "--cert",
        &cert,
        "--key",
        &key,
        "--cacert",
        &root,
        "--resolve",
        &place,
        &url,
    ]);
    said.status.success() && String::from_utf8_lossy(&said.stdout).contains(member.fqdn.as_str())
}

/// A connection to the peer port of an etcd that stands for as long as both want it to.
#[derive(Debug)]
pub struct PeerConnection {
    questions: UnboundedSender<()>,
    answers: mpsc::Receiver<bool>,
}

impl PeerConnection {
    /// Opens it from a node's address as the holder of these credentials.
    ///
    /// # Panics
    /// When it is refused.
    pub fn open(from: &Node, whose: &Credentials, to: &Node) -> Self {
        let (connector, fqdn) = (Seed::of(from).tls(whose).connector, to.fqdn.clone());
        let at = SocketAddr::new(to.ip, PEER_PORT);
        let (questions, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let (answer, answers) = mpsc::channel();
        in_space(&from.space, move || async move {
            let stream = TcpStream::connect(at).await.expect("connecting to a peer port");
            let name = ServerName::try_from(fqdn.as_str().to_owned()).expect("a member's name is a name");
            let mut stream = connector.connect(name, stream).await.expect("a handshake");
            while let Some(()) = asked.recv().await {
                let said = tokio::time::timeout(Duration::from_secs(5), version(&mut stream)).await;
                answer.send(matches!(said, Ok(Ok(true)))).expect("the test waits for this");
            }
        });
        Self { questions, answers }
    }

    /// Whether etcd answers one more request on it.
    ///
    /// # Panics
    /// When it was never open.
    pub fn answers(&self) -> bool {
        self.questions.send(()).is_ok() && self.answers.recv().expect("it was open")
    }
}

/// Asks for etcd's version in HTTP/1.1, whose short answer comes in one piece.
async fn version(stream: &mut TlsStream<TcpStream>) -> std::io::Result<bool> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: etcd\r\n\r\n").await?;
    let mut said = Vec::new();
    while !said.ends_with(b"}") {
        if stream.read_buf(&mut said).await? == 0 {
            return Ok(false);
        }
    }
    Ok(said.starts_with(b"HTTP/1.1 200"))
}

impl Credentials {
    /// Written down for a program: certificate and key.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn files(&self, cluster: &Cluster) -> (String, String) {
        let name = Id128::random().expect("drawing a name");
        let [cert, key] = ["crt", "key"].map(|kind| cluster.scratch().join(format!("{name}.{kind}")));
        fs_err::write(&cert, &self.chain).expect("writing a certificate");
        fs_err::write(&key, &self.key).expect("writing a key");
        (text(&cert), text(&key))
    }
}

/// Asks an agent from the namespace `space` as the holder of these credentials.
///
/// # Errors
/// When there is no answer.
pub fn ask(space: &str, tls: &AgentTls, fqdn: &Fqdn, at: IpAddr, ask: &Ask) -> Result<Answer> {
    let (tls, fqdn, ask) = (tls.clone(), fqdn.clone(), ask.clone());
    let asking = async move || client::ask(&tls, &fqdn, &[at], &ask, Duration::from_secs(20)).await;
    in_space(space, asking).join().expect("asking an agent")
}

/// A program on the agent port of a node that says what a test tells it to say. Dropping it ends it.
#[derive(Debug)]
pub struct FakeAgent {
    heard: Arc<Mutex<Vec<(Role, Ask)>>>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl FakeAgent {
    /// Answers in the namespace `space`.
    ///
    /// # Panics
    /// When the agent port is taken there.
    pub fn start(space: &str, tls: AgentTls, answer: impl Fn(&Ask) -> Answer + Send + 'static) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let notes = Arc::clone(&heard);
        let thread = in_space(space, move || async move {
            let everywhere = [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::UNSPECIFIED)]
                .map(|ip| SocketAddr::new(ip, AGENT_PORT));
            let listener = TcpListener::bind(&everywhere[..]).await.expect("binding the agent port");
            ready.send(()).expect("the test waits for this");
            let serving = async {
                loop {
                    let Ok((stream, from)) = listener.accept().await else { continue };
                    // A caller that does not like us is none of our business.
                    drop(converse(stream, from.ip().to_canonical(), &tls, &notes, &answer).await);
                }
            };
            tokio::select! {
                () = serving => {}
                _ = stopped => {}
            }
        });
        listening.recv().expect("the fake agent listens");
        Self { heard, server: Some((stop, thread)) }
    }

    /// Who asked it what, so far.
    pub fn heard(&self) -> Vec<(Role, Ask)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.server.take() {
            drop(stop);
            drop(thread.join());
        }
    }
}

async fn converse(
    stream: TcpStream,
    from: IpAddr,
    tls: &AgentTls,
    heard: &Mutex<Vec<(Role, Ask)>>,
    answer: &(impl Fn(&Ask) -> Answer + Send),
) -> Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let talk = async {
        let mut stream = tls.acceptor.accept(stream).await?;
        let role = tls.role(stream.get_ref().1.peer_certificates().unwrap_or_default(), from)?;
        let request: AgentRequest = frame::read(&mut stream).await?;
        heard.lock().unwrap_or_else(PoisonError::into_inner).push((role, request.ask.clone()));
        frame::write(&mut stream, &answer(&request.ask)).await?;
        stream.shutdown().await.context("closing")
    };
    tokio::time::timeout(Duration::from_secs(5), talk).await?
}

/// The seed of a node that is not in the cluster's charter, under the cluster's own peer root: what an operator's other charter
/// would have given it.
///
/// # Panics
/// When the operator's root cannot be used.
pub fn seed_of_a_stranger(cluster: &Cluster, fqdn: &Fqdn, address: IpAddr) -> Seed {
    let pki = cluster.scratch().join("home/pki/unit");
    let read = |name: &str| fs_err::read_to_string(pki.join(name)).expect("the operator has the root");
    let root_key = KeyPair::from_pem(&read("private/peer-root.key")).expect("it is a key");
    let root = Issuer::from_ca_cert_pem(&read("peer-root.crt"), root_key).expect("it is a root");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("issuer of {fqdn}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let own = GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, prefix));
    let permitted_subtrees = vec![GeneralSubtree::DnsName(fqdn.to_string()), own];
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    let key = KeyPair::generate().expect("drawing a key");
    let issuer_cert = params.signed_by(&key, &root).expect("signing an issuer").pem();
    Seed { issuer_cert, issuer_key: key.serialize_pem(), ..Seed::of(&cluster.nodes[0]) }
}

/// TLS of somebody who calls itself `node` at `address` with a certificate of its own root, and takes anybody of the cluster for a peer.
///
/// # Panics
/// When the certificate cannot be made.
pub fn of_another_root(node: &Node, address: IpAddr) -> AgentTls {
    let key = KeyPair::generate().expect("drawing a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer_cert = params.self_signed(&key).expect("signing a root").pem();
    let seed = Seed { issuer_cert, issuer_key: key.serialize_pem(), ..Seed::of(node) };
    seed.tls(&seed.leaf(node.fqdn.as_str(), &[node.fqdn.as_str(), &address.to_string()]))
}

/// A port that TLS clients connect to and get nowhere. Dropping it closes it.
#[derive(Debug)]
pub struct TlsTrap(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

impl TlsTrap {
    /// Lies in wait in the namespace `space`.
    ///
    /// # Panics
    /// When the port is taken there.
    pub fn start(space: &str, port: u16, tls: AgentTls) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let thread = in_space(space, move || async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.expect("binding the trap's port");
            ready.send(()).expect("the test waits for this");
            let serving = async {
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let tls = tls.clone();
                    tokio::spawn(async move { drop(tls.acceptor.accept(stream).await) });
                }
            };
            tokio::select! {
                () = serving => {}
                _ = stopped => {}
            }
        });
        listening.recv().expect("the trap listens");
        Self(Some((stop, thread)))
    }
}

impl Drop for TlsTrap {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            drop(thread.join());
        }
    }
}
