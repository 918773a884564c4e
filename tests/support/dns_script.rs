//! A DNS server that misbehaves as told, question by question and asker by asker: `script.ptr_of(1).servfail()`.
//!
//! The test process itself serves, on port 53 of the switch's namespace, over UDP and TCP. What no rule is about is answered right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

use crate::client::in_space;
use crate::dns::Records;

/// What a rule is about. Nodes are numbered as in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    PtrOf(usize),
    AddressOf(usize),
    Srv,
    Everything,
}

/// How a question is answered.
#[derive(Clone, Debug)]
enum Manner {
    Right,
    Code(ResponseCode),
    Silence,
    /// TC over UDP; over TCP right, or cut again.
    Cut {
        over_tcp_too: bool,
    },
    /// This many records of strangers before the right ones.
    Crowd(u16),
    Garbage,
    WrongId,
    Slow(Duration),
    /// Through this many aliases.
    Aliases(u8),
    /// These names or addresses instead of the right ones.
    Instead(Vec<String>),
}

#[derive(Clone, Debug)]
struct Rule {
    about: About,
    asker: Option<usize>,
    manner: Manner,
}

/// A question that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who asked.
    pub from: IpAddr,
    /// The name in it, with its trailing dot, in lower case.
    pub name: String,
    /// The type in it.
    pub kind: RecordType,
    /// It came over TCP.
    pub over_tcp: bool,
}

#[derive(Debug)]
struct Book {
    domain: String,
    nodes: Vec<(String, Vec<IpAddr>)>,
    records: Mutex<Records>,
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<Asked>>,
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub struct Script {
    book: Arc<Book>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    space: String,
}

impl Script {
    /// Serves `records` in the namespace `space`; `nodes` are the cluster's, by name and addresses, in order.
    pub fn start(space: String, domain: &str, nodes: Vec<(String, Vec<IpAddr>)>, records: Records) -> Self {
        let book = Book {
            domain: domain.to_owned(),
            nodes,
            records: Mutex::new(records),
            rules: Mutex::default(),
            asked: Mutex::default(),
        };
        let mut script = Self { book: Arc::new(book), server: None, space };
        script.resume();
        script
    }

    /// Ends the server: its port is closed.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.server.take() {
            drop(stop);
            thread.join().expect("the DNS server ends in order");
        }
    }

    /// Serves again, by the same rules. It answers when this returns.
    pub fn resume(&mut self) {
        if self.server.is_some() {
            return;
        }
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let book = Arc::clone(&self.book);
        let thread = in_space(&self.space, move || async move {
            let everywhere = [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::UNSPECIFIED)]
                .map(|ip| SocketAddr::new(ip, 53));
            let udp = UdpSocket::bind(&everywhere[..]).await.expect("binding port 53 over UDP");
            let tcp = TcpListener::bind(&everywhere[..]).await.expect("binding port 53 over TCP");
            ready.send(()).expect("the test waits for this");
            tokio::select! {
                () = serve_udp(Arc::new(udp), Arc::clone(&book)) => {}
                () = serve_tcp(tcp, book) => {}
                _ = stopped => {}
            }
        });
        listening.recv().expect("the DNS server begins to listen");
        self.server = Some((stop, thread));
    }

    /// Takes other records over, as the right ones.
    pub fn serve(&self, records: &Records) {
        lock(&self.book.records).clone_from(records);
    }

    /// The names of a node's addresses.
    pub fn ptr_of(&self, node: usize) -> Bend<'_> {
        self.bend(About::PtrOf(node))
    }

    /// The addresses of a node's name, of both families.
    pub fn address_of(&self, node: usize) -> Bend<'_> {
        self.bend(About::AddressOf(node))
    }

    /// The SRV records.
    pub fn srv(&self) -> Bend<'_> {
        self.bend(About::Srv)
    }

    /// Every question.
    pub fn everything(&self) -> Bend<'_> {
        self.bend(About::Everything)
    }

    fn bend(&self, about: About) -> Bend<'_> {
        Bend { book: &self.book, about, asker: None }
    }

    /// Forgets every rule: all is answered right.
    pub fn mend(&self) {
        lock(&self.book.rules).clear();
    }

    /// The questions that came so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.book.asked).clone()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A rule in the making: what is asked, by whom. The rule made last holds.
#[derive(Debug)]
#[must_use = "it bends nothing until it says how"]
pub struct Bend<'a> {
    book: &'a Book,
    about: About,
    asker: Option<usize>,
}

impl Bend<'_> {
    /// Only when this node asks.
    pub fn asked_by(self, node: usize) -> Self {
        Self { asker: Some(node), ..self }
    }

    fn answered(self, manner: Manner) {
        lock(&self.book.rules).push(Rule { about: self.about, asker: self.asker, manner });
    }

    /// Right after all.
    pub fn right(self) {
        self.answered(Manner::Right);
    }

    /// There is no such name.
    pub fn nxdomain(self) {
        self.answered(Manner::Code(ResponseCode::NXDomain));
    }

    /// The server failed to find out.
    pub fn servfail(self) {
        self.answered(Manner::Code(ResponseCode::ServFail));
    }

    /// No answer ever.
    pub fn silent(self) {
        self.answered(Manner::Silence);
    }

    /// Cut short over UDP, right over TCP.
    pub fn cut_over_udp(self) {
        self.answered(Manner::Cut { over_tcp_too: false });
    }

    /// Cut short, even over TCP.
    pub fn cut_even_over_tcp(self) {
        self.answered(Manner::Cut { over_tcp_too: true });
    }

    /// `strangers` records that nobody needs before the right ones; over UDP that does not fit.
    pub fn crowded(self, strangers: u16) {
        self.answered(Manner::Crowd(strangers));
    }

    /// Bytes that are no answer, behind the right id.
    pub fn garbage(self) {
        self.answered(Manner::Garbage);
    }

    /// The right answer to another question's id.
    pub fn with_a_wrong_id(self) {
        self.answered(Manner::WrongId);
    }

    /// The right answer, late.
    pub fn slow(self, delay: Duration) {
        self.answered(Manner::Slow(delay));
    }

    /// The right answer behind a chain of aliases.
    pub fn behind_aliases(self, length: u8) {
        self.answered(Manner::Aliases(length));
    }

    /// These names (for PTR and SRV) or addresses (for A and AAAA) and no others.
    pub fn says<T: ToString>(self, instead: &[T]) {
        self.answered(Manner::Instead(instead.iter().map(ToString::to_string).collect()));
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, book: Arc<Book>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let (query, socket, book) = (buffer[..length].to_vec(), Arc::clone(&socket), Arc::clone(&book));
        tokio::spawn(async move {
            if let Some(answer) = book.answer(&query, from.ip().to_canonical(), false).await {
                // An asker that is gone needs no answer.
                drop(socket.send_to(&answer, from).await);
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, book: Arc<Book>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else { continue };
        let book = Arc::clone(&book);
        tokio::spawn(async move { drop(converse(stream, from.ip().to_canonical(), &book).await) });
    }
}

async fn converse(mut stream: TcpStream, from: IpAddr, book: &Book) -> std::io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        let Some(answer) = book.answer(&query, from, true).await else {
            // Silence is an open connection that says nothing.
            return std::future::pending().await;
        };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
    }
}

impl Book {
    async fn answer(&self, query: &[u8], from: IpAddr, over_tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        let question = query.queries.first()?;
        let (name, kind) = (question.name().clone(), question.query_type());
        let asked = Asked { from, name: name.to_lowercase().to_ascii(), kind, over_tcp };
        lock(&self.asked).push(asked);
        let manner = self.manner(&name, kind, from);
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.message_type = MessageType::Response;
        answer.add_query(question.clone());
        let right = self.right(&name, kind);
        let mut cut = false;
        match manner {
            Manner::Right => self.fill(&mut answer, &name, right),
            Manner::Code(code) => answer.metadata.response_code = code,
            Manner::Silence => return None,
            Manner::Cut { over_tcp_too } => {
                cut = over_tcp_too || !over_tcp;
                self.fill(&mut answer, &name, right);
            }
            Manner::Crowd(strangers) => {
                let crowd = (0..strangers).map(|n| stranger(&self.domain, kind, n));
                self.fill(&mut answer, &name, crowd.chain(right).collect());
            }
            Manner::Garbage => {
                return Some([&query.metadata.id.to_be_bytes()[..], &[0xff; 60]].concat());
            }
            Manner::WrongId => {
                answer.metadata.id = query.metadata.id.wrapping_add(1);
                self.fill(&mut answer, &name, right);
            }
            Manner::Slow(delay) => {
                tokio::time::sleep(delay).await;
                self.fill(&mut answer, &name, right);
            }
            Manner::Aliases(length) => {
                let mut last = name.clone();
                for n in 0..length {
                    let next = name.prepend_label(format!("alias{n}")).expect("a label is short");
                    answer.add_answer(Record::from_rdata(last, 0, RData::CNAME(CNAME(next.clone()))));
                    last = next;
                }
                self.fill(&mut answer, &last, right);
            }
            Manner::Instead(instead) => {
                answer.add_answers(instead.iter().filter_map(|text| data(kind, text)).map(|d| record(&name, d)));
            }
        }
        let bytes = answer.to_vec().expect("an answer can be written");
        // Without EDNS a datagram holds 512 bytes, and so it does here.
        if cut || (!over_tcp && bytes.len() > usize::from(query.max_payload())) {
            answer.metadata.truncation = true;
            answer.answers.clear();
            return Some(answer.to_vec().expect("an answer can be written"));
        }
        Some(bytes)
    }

    fn manner(&self, name: &Name, kind: RecordType, from: IpAddr) -> Manner {
        let rules = lock(&self.rules);
        let by = |node: usize| self.nodes.get(node).is_some_and(|(_, addresses)| addresses.contains(&from));
        let holds = |rule: &&Rule| self.is_about(rule.about, name, kind) && rule.asker.is_none_or(by);
        rules.iter().rev().find(holds).map_or(Manner::Right, |rule| rule.manner.clone())
    }

    fn is_about(&self, about: About, name: &Name, kind: RecordType) -> bool {
        let node = |n: usize| self.nodes.get(n).expect("rules are about nodes of the cluster");
        match about {
            About::PtrOf(n) => kind == RecordType::PTR && node(n).1.iter().any(|address| Name::from(*address) == *name),
            About::AddressOf(n) => matches!(kind, RecordType::A | RecordType::AAAA) && parse(&node(n).0) == *name,
            About::Srv => kind == RecordType::SRV,
            About::Everything => true,
        }
    }

    fn right(&self, name: &Name, kind: RecordType) -> Vec<RData> {
        let records = lock(&self.records);
        let named = |host: &String| parse(host) == *name;
        match kind {
            RecordType::A => records.a.iter().filter(|(host, _)| named(host)).map(|(_, a)| RData::A(A(*a))).collect(),
            RecordType::AAAA => {
                records.aaaa.iter().filter(|(host, _)| named(host)).map(|(_, a)| RData::AAAA(AAAA(*a))).collect()
            }
            RecordType::PTR => {
                let v4 = records.ptr.iter().map(|(address, host)| (IpAddr::from(*address), host));
                let v6 = records.ptr6.iter().map(|(address, host)| (IpAddr::from(*address), host));
                let ours = v4.chain(v6).filter(|(address, _)| Name::from(*address) == *name);
                ours.filter_map(|(_, host)| data(kind, host)).collect()
            }
            RecordType::SRV if *name == parse(&format!("_etcd-server-ssl._tcp.{}", self.domain)) => {
                records.srv.iter().filter_map(|host| data(kind, host)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Puts the records under `name`. Where there are none, a name that has records of another type exists all the same.
    fn fill(&self, answer: &mut Message, name: &Name, found: Vec<RData>) {
        let exists = [RecordType::A, RecordType::AAAA].iter().any(|kind| !self.right(name, *kind).is_empty());
        if found.is_empty() && !exists {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        answer.add_answers(found.into_iter().map(|data| record(name, data)));
    }
}

fn stranger(domain: &str, kind: RecordType, n: u16) -> RData {
    let [high, low] = n.to_be_bytes();
    match kind {
        RecordType::A => RData::A(A([203, 0, high, low].into())),
        RecordType::AAAA => RData::AAAA(AAAA(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n))),
        _ => data(kind, &format!("s{n}.{domain}")).expect("names are kept of PTR and SRV"),
    }
}

fn data(kind: RecordType, text: &str) -> Option<RData> {
    match kind {
        RecordType::A => Some(RData::A(A(text.parse().ok()?))),
        RecordType::AAAA => Some(RData::AAAA(AAAA(text.parse().ok()?))),
        RecordType::PTR => Some(RData::PTR(PTR(parse(text)))),
        RecordType::SRV => Some(RData::SRV(SRV::new(0, 0, 2380, parse(text)))),
        _ => None,
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), 0, data)
}

fn parse(host: &str) -> Name {
    Name::from_ascii(format!("{host}.")).expect("test names are names")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
