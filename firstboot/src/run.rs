//! The agent's loop: look, decide, act, and tell, for as long as the node is up. It never ends by itself.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the seed's certificates")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::activation::{admit, settle};
use crate::agent::client::Kept;
use crate::agent::desk::{Desk, Extent, Seat, running};
use crate::agent::reach::Reach;
use crate::agent::{metrics, pace, server};
use crate::apply::{Applied, Hands};
use crate::back_off::BackOff;
use crate::boots::Boots;
use crate::charter::Charter;
use crate::decide::decide;
use crate::decision::Decision;
use crate::digest::Id128;
use crate::disk_fact::DataFact;
use crate::dns::Dns;
use crate::endings::{self, Endings};
use crate::etcd::Etcd;
use crate::leaf_keeper::LeafKeeper;
use crate::message::{ControlRequest, Holds};
use crate::name::Fqdn;
use crate::notice::{Noticed, displaced, notices};
use crate::observation::{Observation, SeedView, StateView};
use crate::observe::{self, Image, Local};
use crate::paths::{PEER_PORT, Paths};
use crate::progress::{AT_ONCE, Progress, heard, unconfirmed};
use crate::rest::{self, rest};
use crate::revocation::Distrusted;
use crate::revocation_file::{self, RevocationLists};
use crate::standing::{self, Standing};
use crate::state::State;
use crate::status_file::{self, StatusFile};
use crate::tls::{AgentTls, TlsParts};
use crate::wait::{WaitReason, utc};
use crate::{address, clock, control_client, custodian, dns_watch, hosts, journal, seed};

/// How often clients are let in again: whoever loads the packet filter anew shuts them out without a word to anybody.
const REOPEN: Duration = Duration::from_secs(60);
/// For how long after its start a member asks its peers whether they remember a later boot of its volume. etcd is asked for ever.
const ROLLBACK_WATCH: Duration = Duration::from_secs(120);

/// Runs the agent. Returns only when it cannot begin.
///
/// # Errors
/// When the image's own files cannot be read, or the runtime cannot start.
pub fn run(paths: &Paths) -> Result<()> {
    journal::connect(paths.root());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let image = Image::read(paths)?;
        let etcd = Etcd::at(&paths.etcd_socket(), image.cluster.etcd.patience())?;
        let desk = Arc::new(Desk::new(etcd, paths.snapshots()));
        tokio::spawn(custodian::tend(desk.clone()));
        tokio::spawn(dns_watch::tend(desk.clone()));
        let boots = Boots::watch(desk.clone());
        tokio::spawn(metrics::tend(desk.clone()));
        tokio::spawn(pace::tend(image.cluster.etcd.patience()));
        let text = format!("firstboot {} in image {}", env!("CARGO_PKG_VERSION"), image.meta.key);
        let fields = [("KILN_IMAGE", image.meta.key.to_string()), ("KILN_BOOT", image.boot_id.clone())];
        journal::tell(&journal::STARTED, &text, &fields.each_ref().map(|(name, value)| (*name, value.as_str())));
        let mut runner = Runner {
            paths,
            image,
            desk,
            tls: None,
            distrusted: Distrusted::default(),
            kept: Kept::default(),
            leaf: LeafKeeper::default(),
            endings: Endings::default(),
            local: None,
            boots,
            hosts_kept: false,
            clients_open: None,
            etcd_up: false,
            etcd_since: None,
            back_off: BackOff::default(),
            asks_again: 0,
            noticed: Noticed::default(),
            displaced: Noticed::default(),
            progress: Progress::new(clock::monotonic()),
        };
        loop {
            let began = clock::monotonic();
            let pause = runner.round().await;
            let took = clock::monotonic().duration_since(began);
            // An etcd that is waited for longer than usual is left alone for longer as well.
            let longest = rest::LONGEST * runner.desk.etcd.patience;
            sleep(if pause > AT_ONCE { rest(pause, took, longest) } else { pause }).await;
        }
    })
}

struct Runner<'a> {
    paths: &'a Paths,
    image: Image,
    desk: Arc<Desk>,
    tls: Option<watch::Sender<AgentTls>>,
    /// Which certificates no handshake takes any more.
    distrusted: Distrusted,
    /// The connections to the other agents.
    kept: Kept,
    leaf: LeafKeeper,
    /// How etcd has ended lately.
    endings: Endings,
    local: Option<Local>,
    boots: Boots,
    hosts_kept: bool,
    /// When clients were let in, for the last time.
    clients_open: Option<Instant>,
    /// etcd ran in the last round.
    etcd_up: bool,
    /// Since when etcd has last been started or seen to run anew.
    etcd_since: Option<Instant>,
    back_off: BackOff,
    /// When the back-off ends, Unix seconds, to tell.
    asks_again: i64,
    noticed: Noticed,
    /// Whether this member was last seen away from its charter's addresses.
    displaced: Noticed,
    progress: Progress,
}

/// Who this node is, once seed and volume are believed.
struct Identity {
    charter: Arc<Charter>,
    own: Fqdn,
}

impl Runner<'_> {
    /// One round; how long to pause after it.
    async fn round(&mut self) -> Duration {
        let local = match observe::look_locally(self.paths).await {
            Ok(local) => local,
            Err(e) => {
                log::warn!("looking at disks and etcd: {e:#}");
                self.local
                    .clone()
                    .unwrap_or_else(|| observe::unseen(&format!("the root helper does not answer: {e:#}")))
            }
        };
        self.local = Some(local.clone());
        let mut seen = observe::assemble(self.paths, &self.image, &local);
        self.boots.count(self.paths, &mut seen);
        let identity = identity(&seen);
        let mut trouble = String::new();
        if let Some(identity) = &identity
            && let Err(e) = self.keep_leaf(identity, &mut seen).await
        {
            trouble = format!("{e:#}");
        }
        if let Some(identity) = &identity
            && let Err(e) = self.keep_hosts(&identity.charter)
        {
            trouble = format!("{e:#}");
        }
        let dns = observe::dns(self.paths, &self.image.cluster);
        if let Some(tls) = &self.tls {
            self.desk.equip(Reach { tls: tls.borrow().clone(), dns: dns.clone() });
        }
        let mut decision = decide(&seen);
        if let Some(identity) = &identity {
            self.look_around(identity, &dns, &local, &mut seen, &mut decision).await;
        }
        self.publish(&seen, &decision, identity.as_ref());
        let applied = match (&identity, acted_on(&seen, &decision)) {
            (Some(identity), Some(state)) => self.act(identity, &dns, &local, state, &decision).await,
            // Without seed or state there is nothing to act on but an etcd that must not run.
            (_, _) => stand_down(self.paths, &local).await,
        };
        self.tell(&seen, &decision, &applied, &trouble, identity.as_ref()).await
    }

    /// Asks DNS and the other agents, if and only if what they say can change the decision.
    async fn look_around(
        &mut self,
        identity: &Identity,
        dns: &Dns,
        local: &Local,
        seen: &mut Observation,
        decision: &mut Decision,
    ) {
        let at_stake = matches!(decision, Decision::Wait(WaitReason::NoAddress));
        let up = local.etcd.is_up();
        if up && !self.etcd_up {
            self.etcd_since = Some(clock::monotonic());
        }
        self.etcd_up = up;
        if matches!(decision, Decision::Restart { .. }) {
            let own = address::own_addresses().unwrap_or_default();
            for text in self.displaced.fresh(displaced(&own, &identity.own, &identity.charter).into_iter().collect()) {
                journal::tell(&journal::NOTICE, &text, &[]);
            }
        }
        // A restart is not held up by questions: etcd is started first, and stopped if a peer knows better. One that has ended by itself
        // since is not started again before they are asked: a volume that went back in time makes etcd panic.
        let watching = matches!(decision, Decision::Restart { .. })
            && self.etcd_since.is_some_and(|since| clock::monotonic().duration_since(since) < ROLLBACK_WATCH);
        let boot = self.boots.own(seen);
        if !at_stake && !watching {
            return;
        }
        let (tls, patience) = (self.tls.as_ref().map(|tls| tls.borrow().clone()), self.desk.etcd.patience);
        let peers = observe::peers(&self.kept, patience, dns, tls.as_ref(), &identity.charter, &identity.own, boot);
        if at_stake {
            let (own, srv, peers) =
                tokio::join!(observe::own_name(dns, &identity.own), dns.services(&identity.charter.domain), peers);
            (seen.own, seen.srv, seen.peers) = (own, srv.into_lookup(), peers);
            for text in self.noticed.fresh(notices(seen)) {
                journal::tell(&journal::NOTICE, &text, &[]);
            }
        } else {
            seen.peers = peers.await;
        }
        self.boots.remember(seen);
        *decision = decide(seen);
        self.boots.heed(decision);
    }

    /// Has the members' addresses written down before etcd is started, and kept from then on.
    fn keep_hosts(&mut self, charter: &Charter) -> Result<()> {
        // Without a certificate etcd is not started either.
        let Some(tls) = self.tls.as_ref().filter(|_| !self.hosts_kept) else { return Ok(()) };
        let hosts = hosts::begin(self.paths, charter)?;
        let (paths, cluster) = (self.paths.clone(), self.image.cluster.clone());
        let dns = move || observe::dns(&paths, &cluster);
        tokio::spawn(hosts::tend(self.paths.clone(), hosts, tls.subscribe(), dns));
        self.hosts_kept = true;
        Ok(())
    }

    /// Keeps a leaf that serves on disk, and the agent's server with it.
    async fn keep_leaf(&mut self, identity: &Identity, seen: &mut Observation) -> Result<()> {
        if !matches!(seen.data, DataFact::Mounted { .. }) {
            return Ok(());
        }
        let charter = &identity.charter;
        let Some(files) = self.leaf.look(self.paths, charter, &identity.own, seen)? else { return Ok(()) };
        if self.tls.is_some() && !files.minted {
            return Ok(());
        }
        let lists = match &self.tls {
            None => Some(RevocationLists::settle(self.paths, self.distrusted.clone())?),
            // They are followed already.
            Some(_) => None,
        };
        let tls = AgentTls::new(&TlsParts {
            chain: &files.chain,
            key: &files.key,
            peer_roots: &read_seed_text(self.paths, seed::PEER_ROOTS)?,
            client_roots: &read_seed_text(self.paths, seed::CLIENT_ROOTS)?,
            charter: charter.clone(),
            distrusted: self.distrusted.clone(),
        })?;
        match &self.tls {
            Some(sender) => {
                sender.send_replace(tls);
            }
            None => {
                let listener = server::bind().await?;
                let (sender, receiver) = watch::channel(tls);
                tokio::spawn(server::serve(listener, receiver, self.desk.clone()));
                self.tls = Some(sender);
            }
        }
        if let Some(lists) = lists {
            tokio::spawn(revocation_file::tend(self.desk.clone(), lists));
        }
        Ok(())
    }

    async fn act(
        &mut self,
        identity: &Identity,
        dns: &Dns,
        local: &Local,
        state: &State,
        decision: &Decision,
    ) -> Result<Applied> {
        let tls = self.tls.as_ref().map(|tls| tls.borrow().clone());
        let mut hands = Hands {
            paths: self.paths,
            image: &self.image,
            charter: &identity.charter,
            own: &identity.own,
            state: state.clone(),
            etcd: &local.etcd,
            tls: tls.as_ref(),
            dns,
        };
        if matches!(decision, Decision::Restart { .. }) {
            let now = clock::monotonic();
            // After a boot etcd is started before clients are let in.
            if local.etcd.is_up() {
                let due = self.clients_open.is_none_or(|since| now.duration_since(since) >= REOPEN);
                if admit(&mut hands, &self.desk, self.clients_open.is_some(), due).await? && due {
                    self.clients_open = Some(now);
                }
            }
            if settle(&mut hands, &self.desk).await? {
                self.endings.stopped();
                return Ok(Applied::Changed);
            }
            if local.etcd.is_up() {
                self.endings.up(now);
            } else if let Some(count) = self.endings.down(now) {
                let (words, count) = (local.etcd.last_words.trim(), count.to_string());
                let fields = [("KILN_LAST_WORDS", words), ("KILN_COUNT", &count)];
                journal::record(&journal::ETCD_FAILED, &format!("etcd has ended by itself: {words}"), &fields);
            }
            if let Some(count) = self.endings.holds(now) {
                return Ok(Applied::PutOff(endings::explain(count, &local.etcd.last_words)));
            }
        }
        // Every start of etcd needs its certificate; without one it would only fail.
        let starts = matches!(
            decision,
            Decision::Restart { .. }
                | Decision::StartExisting { .. }
                | Decision::StartFounding { .. }
                | Decision::Form { .. }
        );
        if starts && tls.is_none() {
            return Ok(Applied::PutOff("this node has no certificate yet".into()));
        }
        if matches!(decision, Decision::Join { .. })
            && let Some(drops) = self.back_off.holds(clock::monotonic())
        {
            let at = utc(self.asks_again);
            return Ok(Applied::PutOff(format!(
                "etcd left no log {drops} times in a row; asking for a place again at {at}"
            )));
        }
        let applied = hands.apply(decision).await?;
        if matches!(decision, Decision::Restart { .. }) && !local.etcd.is_up() {
            self.endings.started(clock::monotonic());
            self.etcd_since = Some(clock::monotonic());
        }
        if matches!(decision, Decision::DropAssignment { .. }) {
            // Without randomness nodes that fail together ask together, no worse.
            let draw = Id128::random().map_or(u8::MAX, |drawn| drawn.0[0]);
            let delay = self.back_off.drop_assignment(clock::monotonic(), draw);
            // To the next full second: never promised too early.
            self.asks_again = clock::now() + i64::try_from(delay.as_secs()).unwrap_or(0) + 1;
        }
        if matches!(decision, Decision::Restart { .. }) {
            self.back_off.reset();
        }
        Ok(applied)
    }

    /// Tells callers of the agent where the node stands.
    fn publish(&self, seen: &Observation, decision: &Decision, identity: Option<&Identity>) {
        let Some(identity) = identity else { return };
        // Nothing is known of a volume before its state is written; saying so would read as a halt.
        if matches!(decision, Decision::RecordBlank { .. }) {
            return;
        }
        let (waiting_for, waiting_since) = self.waiting(decision);
        let standing = Standing {
            seen,
            decision,
            boot_id: &self.image.boot_id,
            image_key: self.image.meta.key,
            boot_counted: self.boots.counted(),
            waiting_for: &waiting_for,
            waiting_since,
        };
        let Some(status) = standing::status(&standing) else { return };
        self.desk.write(Seat {
            status,
            charter: identity.charter.clone(),
            own: identity.own.clone(),
            instance: state(seen).map(|state| state.instance),
            lineage: standing::lineage(seen),
            etcd_version: self.image.meta.etcd_version,
        });
    }

    /// What is waited for, and since when. Of a decision that is told to others before it is told on the console, what it says itself:
    /// nobody hears of a halt without its reason.
    fn waiting(&self, decision: &Decision) -> (String, i64) {
        match decision.inaction() {
            Some(text) if self.progress.row() != decision.row() => (text, clock::now()),
            Some(_) | None => (self.progress.text().to_owned(), self.progress.since()),
        }
    }

    /// Console, journal and status file; how long to pause.
    async fn tell(
        &mut self,
        seen: &Observation,
        decision: &Decision,
        applied: &Result<Applied>,
        trouble: &str,
        identity: Option<&Identity>,
    ) -> Duration {
        let explanation = decision.explain();
        let mut text = match (decision, applied) {
            (_, Err(e)) => format!("{e:#}"),
            (_, Ok(Applied::PutOff(reason))) => reason.clone(),
            (Decision::Restart { .. }, Ok(Applied::Settled)) => match identity {
                Some(identity) => self.unserved(&identity.own, seen).await,
                None => String::new(),
            },
            (_, Ok(_)) => decision.inaction().unwrap_or_default(),
        };
        if !trouble.is_empty() {
            text = if text.is_empty() { trouble.to_owned() } else { format!("{trouble}; {text}") };
        }
        let now = clock::monotonic();
        let changed = self.progress.tell(decision, &explanation, matches!(applied, Ok(Applied::PutOff(_))), text, now);
        self.publish(seen, decision, identity);
        if changed || matches!(applied, Ok(Applied::Changed)) {
            let file = StatusFile {
                schema: 1,
                status: self.desk.status(Extent::Brief).await,
                observation: seen.clone(),
                decision: decision.clone(),
                explanation,
            };
            if let Err(e) = status_file::write(self.paths, &file) {
                log::warn!("{e:#}");
            }
        }
        if matches!(applied, Ok(Applied::Changed)) {
            return AT_ONCE;
        }
        self.progress.pause(state(seen).is_some_and(|state| state.activated_seen), now)
    }

    /// What a running member still lacks; empty when it serves.
    async fn unserved(&self, own: &Fqdn, seen: &Observation) -> String {
        let Some(lineage) = standing::lineage(seen) else { return String::new() };
        let status = running(&self.desk.etcd, lineage, self.desk.thorough()).await;
        let holds = status.map_or(Holds::Data { lineage }, Holds::Running);
        let activated = state(seen).is_some_and(|state| state.activated_seen);
        match holds {
            Holds::Running(running) if running.learner => "etcd is a learner and catches up with the cluster".into(),
            Holds::Running(running) if !running.linearizable => unconfirmed(running.leader),
            Holds::Running(_) if activated => String::new(),
            Holds::Running(_) => "etcd runs; clients are admitted when every member of the charter votes".into(),
            Holds::Data { .. } | Holds::Blank | Holds::Unknown => {
                format!(
                    "etcd has been started and does not answer yet; it answers once a majority of its members run, find each other's names in DNS and reach each other on port {PEER_PORT}{}",
                    heard(own, &seen.peers)
                )
            }
        }
    }
}

async fn stand_down(paths: &Paths, local: &Local) -> Result<Applied> {
    if local.etcd.is_up() {
        control_client::run(&paths.control_socket(), ControlRequest::StopEtcd).await?;
    }
    Ok(Applied::Settled)
}

/// The state that acting starts from: the one on disk, or the one about to be written there.
fn acted_on<'a>(seen: &'a Observation, decision: &'a Decision) -> Option<&'a State> {
    match decision {
        Decision::RecordBlank { state } => Some(state),
        Decision::Halt(_)
        | Decision::Restart { .. }
        | Decision::StartExisting { .. }
        | Decision::DropAssignment { .. }
        | Decision::StartFounding { .. }
        | Decision::Join { .. }
        | Decision::Wait(_)
        | Decision::Form { .. } => state(seen),
    }
}

fn identity(seen: &Observation) -> Option<Identity> {
    match &seen.seed {
        SeedView::Verified { header, charter } => {
            Some(Identity { charter: Arc::new(charter.as_ref().clone()), own: header.fqdn.clone() })
        }
        SeedView::Missing(_) | SeedView::Invalid(_) => None,
    }
}

fn state(seen: &Observation) -> Option<&State> {
    match &seen.state {
        StateView::Read(state) => Some(state),
        StateView::Absent | StateView::Unreadable(_) => None,
    }
}

fn read_seed_text(paths: &Paths, name: &str) -> Result<String> {
    Ok(fs_err::read_to_string(paths.seed_dir().join(name))?)
}
