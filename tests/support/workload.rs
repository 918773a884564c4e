//! Clients at work: several at once, on a few keys, each noting what it asked and what it was told.
#![expect(clippy::disallowed_methods, reason = "an edge: its clock times the history")]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, KeyValue, ResponseHeader, Txn, TxnOp, TxnOpResponse};

use crate::client::{Operator, in_space};
use crate::cluster::{Cluster, PATIENCE};
use crate::history::{Ask, History, Operation, Outcome};
use crate::random::Random;
use crate::wait::until;

/// Clients at once.
const CLIENTS: usize = 4;
/// Registers that all clients write.
const REGISTERS: u64 = 3;
/// A client's pause after an answer: the machine has other things to do, and a history need not be long to tell.
const PAUSE: Duration = Duration::from_millis(15);
/// ... and after a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Clients that work until they are told to stop.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    prefix: String,
    started: Instant,
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    history: Mutex<History>,
}

impl Workload {
    /// Starts clients on the switch, at every member's client port, whether or not it is open yet. Keys begin with `prefix`, which
    /// ends in a slash and no other workload of this cluster may use.
    pub fn start(cluster: &Cluster, prefix: &str) -> Self {
        let operator = cluster.operator();
        let addresses: Vec<Ipv4Addr> = cluster.nodes.iter().map(|node| node.address).collect();
        let shared = Arc::new(Shared {
            prefix: prefix.to_owned(),
            started: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
            history: Mutex::default(),
        });
        let work = shared.clone();
        let thread = in_space(&cluster.network.switch(), move || async move {
            let mut clients = tokio::task::JoinSet::new();
            for number in 0..CLIENTS {
                clients.spawn(client(number, operator.clone(), addresses.clone(), work.clone()));
            }
            clients.join_all().await;
        });
        Self { shared, thread: Some(thread) }
    }

    /// What its keys begin with.
    pub fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    /// How many writes have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until `more` writes are acknowledged that were not when this was called.
    ///
    /// # Panics
    /// When they are not within [`PATIENCE`].
    pub fn goes_on(&self, more: usize, cluster: &Cluster) {
        let wanted = self.acknowledged() + more;
        let what = format!("clients to have {more} more writes acknowledged");
        until(&what, PATIENCE, || (self.acknowledged() >= wanted).then_some(()), || cluster.story());
    }

    /// Stops the clients, waits for their last answers, and hands over what they noted.
    pub fn finish(mut self) -> History {
        self.stop();
        std::mem::take(&mut *self.shared.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("a client panicked");
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One client: keeps to a member while that answers, else goes to the next.
async fn client(number: usize, operator: Operator, addresses: Vec<Ipv4Addr>, shared: Arc<Shared>) {
    let mut random = Random::new(number as u64);
    let mut at = number % addresses.len();
    let mut connected: Option<Client> = None;
    let mut known: HashMap<String, String> = HashMap::new();
    for count in 0_u64.. {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Some(etcd) = &mut connected else {
            match operator.connect(addresses[at]).await {
                Ok(client) => connected = Some(client),
                Err(_) => {
                    at = (at + 1) % addresses.len();
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
            continue;
        };
        let register = format!("{}r{}", shared.prefix, random.below(REGISTERS));
        let value = format!("{number}.{count}");
        let (key, ask) = match random.below(10) {
            0..3 => (register, Ask::Get),
            3..5 => (register, Ask::Put(value)),
            5..8 => {
                let expected = known.get(&register).cloned();
                (register, Ask::Swap { expected, value })
            }
            // A key of its own, so that at the end every single acknowledged write can be looked for.
            8.. => (format!("{}once/{value}", shared.prefix), Ask::Swap { expected: None, value }),
        };
        let invoked = shared.now();
        let outcome = call(etcd, &key, &ask).await;
        let returned = shared.now();
        let seen = match &outcome {
            Outcome::Written { .. } => {
                shared.acknowledged.fetch_add(1, Ordering::SeqCst);
                ask.value().map(str::to_owned)
            }
            Outcome::Read { found, .. } => found.as_ref().map(|(value, _)| value.clone()),
            Outcome::Unknown => {
                connected = None;
                at = (at + 1) % addresses.len();
                None
            }
        };
        if let Some(seen) = seen
            && !key.contains("/once/")
        {
            known.insert(key.clone(), seen);
        }
        let operation = Operation { key, ask, invoked, returned, outcome };
        shared.history.lock().unwrap_or_else(PoisonError::into_inner).operations.push(operation);
        tokio::time::sleep(PAUSE).await;
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("a test ends within 500 years")
    }
}

async fn call(etcd: &mut Client, key: &str, ask: &Ask) -> Outcome {
    let answer = match ask {
        Ask::Get => etcd.get(key, None).await.map(|got| read(got.kvs(), got.header())),
        Ask::Put(value) => etcd.put(key, value.as_str(), None).await.map(|put| written(put.header())),
        Ask::Swap { expected, value } => {
            let compare = match expected {
                Some(expected) => Compare::value(key, CompareOp::Equal, expected.as_str()),
                None => Compare::create_revision(key, CompareOp::Equal, 0),
            };
            let txn = Txn::new()
                .when([compare])
                .and_then([TxnOp::put(key, value.as_str(), None)])
                .or_else([TxnOp::get(key, None)]);
            etcd.txn(txn).await.map(|done| {
                if done.succeeded() {
                    return written(done.header());
                }
                match done.op_responses().first() {
                    Some(TxnOpResponse::Get(got)) => read(got.kvs(), done.header()),
                    Some(TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_)) | None => {
                        Outcome::Unknown
                    }
                }
            })
        }
    };
    // Whatever the error says, the request was sent: it may have been done.
    answer.unwrap_or(Outcome::Unknown)
}

fn written(header: Option<&ResponseHeader>) -> Outcome {
    Outcome::Written { revision: revision(header) }
}

fn read(kvs: &[KeyValue], header: Option<&ResponseHeader>) -> Outcome {
    let found = kvs.first().map(|kv| {
        let value = String::from_utf8_lossy(kv.value()).into_owned();
        (value, u64::try_from(kv.mod_revision()).expect("revisions are positive"))
    });
    Outcome::Read { found, revision: revision(header) }
}

fn revision(header: Option<&ResponseHeader>) -> u64 {
    header.and_then(|header| u64::try_from(header.revision()).ok()).expect("etcd's answers have a header")
}
