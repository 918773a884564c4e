//! A client as an application has one: it writes one key after the other, and asks every member before it says that a write failed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use etcd_client::Client;

use crate::client::{Operator, in_space};
use crate::cluster::Cluster;
use crate::lab_writer::lost;

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(10);
/// Where its keys are.
const PREFIX: &str = "failover/";

/// The client.
#[derive(Debug)]
pub struct FailoverWriter {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    thread: JoinHandle<Told>,
}

/// What it was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Every acknowledged write.
    pub keys: BTreeMap<String, String>,
    /// How often a write failed at every member after one that was acknowledged: intervals without service.
    pub intervals: usize,
    failing: bool,
}

impl FailoverWriter {
    /// Starts it on the switch.
    pub fn start(cluster: &Cluster) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let operator = cluster.operator();
        let addresses: Vec<Ipv4Addr> = cluster.nodes.iter().map(|node| node.address).collect();
        let thread = in_space(&cluster.network.switch(), move || async move {
            let mut told = Told::default();
            let mut at = 0;
            let mut connected: Option<Client> = None;
            for n in 0.. {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let (key, value) = (format!("{PREFIX}{n:06}"), format!("value {n}"));
                let mut done = false;
                for _ in 0..addresses.len() {
                    done = put(&operator, addresses[at], &mut connected, &key, &value).await;
                    if done {
                        break;
                    }
                    connected = None;
                    at = (at + 1) % addresses.len();
                }
                if done {
                    told.keys.insert(key, value);
                    told.failing = false;
                    count.fetch_add(1, Ordering::SeqCst);
                } else if !told.failing {
                    told.failing = true;
                    told.intervals += 1;
                }
                tokio::time::sleep(PAUSE).await;
            }
            told
        });
        Self { stop, acknowledged, thread }
    }

    /// How many writes were acknowledged up to now.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends it; what it was told.
    ///
    /// # Panics
    /// When the client died.
    pub fn stop(self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the writer went on to its end")
    }
}

async fn put(operator: &Operator, address: Ipv4Addr, connected: &mut Option<Client>, key: &str, value: &str) -> bool {
    if connected.is_none() {
        *connected = operator.connect(address).await.ok();
    }
    match connected {
        Some(client) => client.put(key, value, None).await.is_ok(),
        None => false,
    }
}

impl Told {
    /// That every acknowledged write is there, in every member's own store.
    ///
    /// # Panics
    /// When one is missing or has another value, or nothing was acknowledged at all.
    pub fn all_are_there(&self, cluster: &Cluster) {
        assert!(!self.keys.is_empty(), "nothing was acknowledged, so nothing is shown");
        for node in &cluster.nodes {
            let said = node.etcdctl(&["get", "--prefix", PREFIX]);
            let said = String::from_utf8_lossy(&said.stdout);
            let lost = lost(&self.keys, &said);
            assert_eq!(lost, Vec::<&String>::new(), "{} has lost acknowledged writes\n{}", node.fqdn, cluster.story());
        }
    }
}
