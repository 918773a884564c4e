//! A client of a lab that goes on writing whatever happens to the nodes, and knows what it was promised.
#![expect(clippy::disallowed_methods, reason = "an edge: a client that paces itself")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::wait::until;

/// Where its keys are.
const PREFIX: &str = "written/";

/// The client.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    interruptions: Arc<AtomicUsize>,
    thread: JoinHandle<Written>,
}

/// What it was promised.
#[derive(Debug)]
pub struct Written {
    keys: BTreeMap<String, String>,
}

impl Writer {
    /// Starts writing one key after the other, and rests for `rest` times as long as each took: every write is a new connection to every node,
    /// and the machines that it writes to are mostly emulated and have their own to do.
    pub fn start(lab: &Lab, rest: u32) -> Self {
        let lab = lab.handle();
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let interruptions = Arc::new(AtomicUsize::new(0));
        let (ended, count, broken) = (Arc::clone(&stop), Arc::clone(&acknowledged), Arc::clone(&interruptions));
        let thread = std::thread::spawn(move || {
            let mut keys = BTreeMap::new();
            let mut failing = false;
            for n in 0.. {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let (key, value) = (format!("{PREFIX}{n:06}"), format!("value {n}"));
                let began = Instant::now();
                // As patient as etcdctl is by itself: five seconds.
                let done = lab.run(&["etcdctl", "put", &key, &value]);
                // Not acknowledged is not promised: it may or may not be there.
                if !done.status.success() && !failing {
                    broken.fetch_add(1, Ordering::SeqCst);
                }
                failing = !done.status.success();
                if !failing {
                    keys.insert(key, value);
                    count.fetch_add(1, Ordering::SeqCst);
                }
                std::thread::sleep(began.elapsed() * rest);
            }
            Written { keys }
        });
        Self { stop, acknowledged, interruptions, thread }
    }

    /// How many writes were acknowledged up to now.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// How many times in a row of acknowledged writes came one that was not, up to now; however many failed then, it is one time.
    pub fn interruptions(&self) -> usize {
        self.interruptions.load(Ordering::SeqCst)
    }

    /// Waits until `more` writes are acknowledged that were not when this was called.
    ///
    /// # Panics
    /// When they are not within `patience`.
    pub fn goes_on(&self, more: usize, patience: Duration, explain: impl Fn() -> String) {
        let wanted = self.acknowledged() + more;
        let enough = || (self.acknowledged() >= wanted).then_some(());
        until(&format!("{more} more writes to be acknowledged"), patience, enough, explain);
    }

    /// Ends it; what it was promised.
    ///
    /// # Panics
    /// When the client died.
    pub fn stop(self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the writer went on to its end")
    }
}

impl Written {
    /// How many writes were acknowledged.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// That every acknowledged write is there, read with `more` arguments of etcdctl.
    ///
    /// # Panics
    /// When one is missing or has another value, or nothing was acknowledged at all.
    pub fn all_are_there(&self, lab: &Lab, more: &[&str]) {
        assert!(!self.keys.is_empty(), "nothing was acknowledged, so nothing is shown");
        let said = lab.ok(&[&["etcdctl", "get", "--prefix", PREFIX], more].concat());
        let lost = lost(&self.keys, &said);
        assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), self.keys.len());
    }
}

/// Which of the acknowledged are not in what etcdctl printed, a line with the key and one with the value, or have another value there.
pub(crate) fn lost<'k>(acknowledged: &'k BTreeMap<String, String>, printed: &str) -> Vec<&'k String> {
    let lines: Vec<&str> = printed.lines().collect();
    let there: BTreeMap<&str, &str> = lines.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let is_lost = |(key, value): &(&String, &String)| there.get(key.as_str()) != Some(&value.as_str());
    acknowledged.iter().filter(is_lost).map(|(key, _)| key).collect()
}
