//! Does to a cluster what the schedule says, and mends and weighs everything at a checkpoint.

use std::path::Path;
use std::time::Duration;

use kiln_firstboot::state::Phase;
use kiln_tests::cluster::Cluster;
use kiln_tests::dns::Records;
use kiln_tests::node::text;
use kiln_tests::oracle::{judge_apart, judge_serving};
use kiln_tests::program::output;
use kiln_tests::wait::{attempt, unbroken};
use kiln_tests::workload::Workload;

use crate::schedule::{NODES, Step, address};

/// How long a mended cluster may take to serve again; a busy machine is no violation.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long wiped nodes are watched forming nothing.
const A_WHILE: Duration = Duration::from_secs(4);
/// Seconds that a voter is not heard of before it is replaced: 60 in earnest.
const UNHEARD_SECS: &str = "3";

/// A cluster in the hands of chance.
#[derive(Debug)]
pub(crate) struct Hands {
    cluster: Cluster,
    right: Records,
    workload: Option<Workload>,
    episode: u32,
    /// Writes acknowledged and weighed so far.
    pub(crate) acknowledged: usize,
}

impl Hands {
    /// A new cluster, powered on.
    pub(crate) fn new() -> Self {
        let mut cluster = Cluster::new(u8::try_from(NODES).expect("few nodes"));
        for node in &mut cluster.nodes {
            node.arm(None);
            let (cut, file) = node.cut_file();
            let clock = text(&node.home.join("clock"));
            node.set_faults(&[
                (cut, &file),
                ("KILN_CLOCK_OFFSET_FILE", &clock),
                ("KILN_UNHEARD_SECS", UNHEARD_SECS),
                ("KILN_SAME_NAME_SECS", "1"),
            ]);
        }
        cluster.power_on();
        let workload = Some(Workload::start(&cluster, "soak/0/"));
        Self { right: cluster.dns.records.clone(), cluster, workload, episode: 0, acknowledged: 0 }
    }

    /// One step. A checkpoint tells what held.
    ///
    /// # Errors
    /// With what does not hold.
    pub(crate) fn carry_out(&mut self, step: &Step) -> Result<Option<String>, String> {
        let nodes = &mut self.cluster.nodes;
        match step {
            Step::Link(n, up) => self.cluster.network.set_link(*n, *up),
            Step::Wire(n, troubles) => nodes[*n].set_trouble(troubles),
            Step::CrashEtcd(n) => nodes[*n].crash_etcd(),
            Step::Pause(n) => nodes[*n].pause_etcd(),
            Step::Resume(n) => nodes[*n].resume_etcd(),
            Step::CrashAgent(n) => nodes[*n].crash_agent(),
            Step::StartAgent(n) => self.start_agent(*n),
            Step::Off(n) => nodes[*n].power_off(),
            Step::AllOff => self.cluster.power_off(),
            Step::On(n) => self.power_on(*n),
            Step::DnsGone => self.cluster.dns.stop(),
            Step::DnsLies(whose, other) => {
                let name = nodes[*whose].fqdn.to_string();
                self.cluster.dns.change(|records| {
                    records.a.insert(name, address(*other));
                });
            }
            Step::DnsRight => {
                let right = self.right.clone();
                self.cluster.dns.change(|records| *records = right);
            }
            Step::Clock(n, seconds) => {
                fs_err::write(nodes[*n].home.join("clock"), seconds.to_string()).expect("bending a clock");
            }
            Step::Arm(n, point) => nodes[*n].arm(Some(*point)),
            Step::Wipe(n) => {
                nodes[*n].power_off();
                nodes[*n].wipe();
                nodes[*n].power_on();
            }
            Step::Mend(n) => self.mend(*n),
            Step::Checkpoint => return self.checkpoint().map(Some),
            Step::End(survivor) => return self.end(*survivor).map(Some),
        }
        Ok(None)
    }

    fn power_on(&mut self, n: usize) {
        if !self.cluster.nodes[n].is_on() {
            self.cluster.nodes[n].power_on();
        }
    }

    fn start_agent(&mut self, n: usize) {
        let node = &mut self.cluster.nodes[n];
        if node.is_on() && !node.agent_runs() {
            node.restart_agent();
        }
    }

    fn mend(&mut self, n: usize) {
        let node = &self.cluster.nodes[n];
        node.arm(None);
        node.resume_etcd();
        node.set_trouble(&[]);
        fs_err::write(node.home.join("clock"), "0").expect("mending a clock");
        self.cluster.network.set_link(n, true);
        self.power_on(n);
        self.start_agent(n);
    }

    /// Mends everything, waits until all serve, and weighs what was said since the last one.
    fn checkpoint(&mut self) -> Result<String, String> {
        (0..NODES).for_each(|n| self.mend(n));
        let right = self.right.clone();
        self.cluster.dns.change(|records| *records = right);
        let cluster = &self.cluster;
        attempt("all nodes to serve", PATIENCE, || {
            let serves = |n: usize| cluster.nodes[n].clients_open() && cluster.member(n).is_some();
            anyhow::ensure!((0..NODES).all(serves), "a mended cluster does not serve\n{}", cluster.story());
            Ok(())
        })?;
        let workload = self.workload.take().expect("clients are at work");
        let wanted = workload.acknowledged() + 5;
        attempt("clients to be served", PATIENCE, || {
            anyhow::ensure!(workload.acknowledged() >= wanted, "no client is served\n{}", cluster.story());
            Ok(())
        })?;
        let acknowledged = judge_serving(cluster, workload).map_err(|why| format!("{why}\n{}", cluster.story()))?;
        self.acknowledged += acknowledged;
        self.episode += 1;
        self.workload = Some(Workload::start(cluster, &format!("soak/{}/", self.episode)));
        Ok(format!("{acknowledged} writes acknowledged, linearizable, present on all members; one cluster"))
    }

    /// The last checkpoint of a cluster; then its quorum is lost for good, and a new one is made.
    fn end(&mut self, survivor: usize) -> Result<String, String> {
        let held = self.checkpoint()?;
        let cluster = &mut self.cluster;
        cluster.power_off();
        let lost: Vec<usize> = (0..NODES).filter(|n| *n != survivor).collect();
        for n in &lost {
            cluster.nodes[*n].wipe();
            cluster.nodes[*n].power_on();
        }
        let nobody_forms = |cluster: &Cluster| {
            let blank = |n: &usize| cluster.nodes[*n].state().map(|state| state.position) == Some(Phase::Blank);
            attempt("the wiped nodes to be up", PATIENCE, || {
                anyhow::ensure!(lost.iter().all(blank), "a wiped node has not recorded that it is blank");
                Ok(())
            })?;
            let closed = || lost.iter().all(|n| blank(n) && !cluster.nodes[*n].clients_open());
            unbroken("nobody forms after a quorum is lost", A_WHILE, closed)
                .map_err(|why| format!("{why}\n{}", cluster.story()))
        };
        nobody_forms(cluster)?;
        cluster.nodes[survivor].power_on();
        nobody_forms(cluster)?;
        self.acknowledged += judge_apart(cluster, self.workload.take().expect("clients are at work"))?;
        *self = Self { acknowledged: self.acknowledged, ..Self::new() };
        Ok(format!("{held}; two of three wiped form nothing; a new cluster"))
    }

    /// The last checkpoint of all.
    ///
    /// # Errors
    /// With what does not hold.
    pub(crate) fn finish(&mut self) -> Result<String, String> {
        self.checkpoint()
    }

    /// Copies what the nodes have, for whoever finds out why.
    pub(crate) fn keep(&self, into: &Path) {
        drop(fs_err::remove_dir_all(into));
        // Mounts of the nodes are not followed; what is copied last matters less than the reason that is told after it.
        drop(output(&["cp", "--archive", "--one-file-system", &text(&self.cluster.scratch()), &text(into)]));
    }
}
