//! A slow wire: every frame between a node and the switch is carried by hand and handed over later. (The kernel's own, netem, is
//! not in every kernel.)
#![expect(clippy::disallowed_methods, reason = "what takes time is the purpose of this file")]

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use crate::cluster::Cluster;
use crate::program::run;

/// How often a carrier looks whether it is wanted still.
const LOOK: TimeVal = TimeVal::new(0, 100_000);
/// No frame is longer: offloads are off, so each has the length of the medium.
const FRAME: usize = 2048;

/// The carriers between one node and the switch. Dropping it leaves the node without a link.
#[derive(Debug)]
pub struct SlowWire {
    stop: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl SlowWire {
    /// Takes the link of node number `index` off the switch and puts a wire in between that takes `delay` in each direction.
    pub fn between(cluster: &Cluster, index: usize, delay: Duration) -> Self {
        let switch = cluster.network.switch();
        let (node, near, far) = (format!("p{index}"), format!("w{index}"), format!("x{index}"));
        let ip = |args: &[&str]| drop(run(&[&["ip", "-n", &switch, "link"], args].concat()));
        ip(&["add", &near, "type", "veth", "peer", "name", &far]);
        // Only the carriers may speak for these two: the switch has its address on the bridge.
        ip(&["set", &node, "nomaster", "arp", "off"]);
        ip(&["set", &near, "up", "arp", "off"]);
        ip(&["set", &far, "master", "br0", "up"]);
        // A frame must be whole, with its checksum, before it is read: nobody else will finish it.
        let whole = |space: &str, device: &str| {
            let mut argv = vec!["ip", "netns", "exec", space, "ethtool", "-K", device];
            argv.extend(["tx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off"]);
            drop(run(&argv));
        };
        ["br0", &node, &near, &far].into_iter().for_each(|device| whole(&switch, device));
        cluster.nodes.iter().for_each(|node| whole(&node.space, "eth0"));
        let mut wire = Self { stop: Arc::new(AtomicBool::new(false)), carriers: Vec::new() };
        // One socket a device: the kernel shows a socket what others send on its device, and only then not what it sends itself.
        let (node, near) = (Arc::new(tap(&switch, &node)), Arc::new(tap(&switch, &near)));
        wire.carry(node.clone(), near.clone(), delay);
        wire.carry(near, node, delay);
        wire
    }

    fn carry(&mut self, source: Arc<OwnedFd>, sink: Arc<OwnedFd>, delay: Duration) {
        let (queue, queued) = channel();
        let stop = self.stop.clone();
        self.carriers.push(std::thread::spawn(move || take(&source, &queue, delay, &stop)));
        self.carriers.push(std::thread::spawn(move || hand_over(&sink, &queued)));
    }
}

impl Drop for SlowWire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for carrier in self.carriers.drain(..) {
            // What went wrong on a wire shows in what the nodes could not say.
            drop(carrier.join());
        }
    }
}

/// A socket of whole frames on a device. It stays in its namespace whoever uses it.
fn tap(space: &str, device: &str) -> OwnedFd {
    let space = fs_err::File::open(format!("/run/netns/{space}")).expect("the namespace is there");
    let device = device.to_owned();
    let opening = std::thread::spawn(move || {
        setns(space, CloneFlags::CLONE_NEWNET).expect("entering a network namespace");
        let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .expect("opening a packet socket");
        let mut addresses = getifaddrs().expect("listing devices").filter(|entry| entry.interface_name == device);
        let link = addresses
            .find_map(|entry| entry.address.and_then(|address| address.as_link_addr().copied()))
            .expect("a device has a link address");
        bind(tap.as_raw_fd(), &link).expect("binding to a device");
        setsockopt(&tap, ReceiveTimeout, &LOOK).expect("limiting a receive");
        tap
    });
    opening.join().expect("opening a tap")
}

fn take(source: &OwnedFd, queue: &Sender<(Instant, Vec<u8>)>, delay: Duration, stop: &AtomicBool) {
    let mut frame = [0; FRAME];
    while !stop.load(Ordering::SeqCst) {
        // Nothing for a while is no frame; a device that went down loses what it had.
        let Ok(length) = recv(source.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
        if queue.send((Instant::now() + delay, frame[..length].to_vec())).is_err() {
            return;
        }
    }
}

fn hand_over(sink: &OwnedFd, queued: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, frame)) = queued.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // A wire that is down loses what it carries.
        let _ = send(sink.as_raw_fd(), &frame, MsgFlags::empty());
    }
}
