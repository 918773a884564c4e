//! Carries a rollout out: look, decide, write down, act, until it is at rest. No choice is made here.
#![expect(clippy::disallowed_methods, reason = "an edge: measures waits and pauses between two looks")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use kiln_firstboot::digest::Id128;
use kiln_firstboot::state::RaftId;
use kiln_firstboot::wait::utc;

use super::decide::{Act, Reason, decide};
use super::gate::Gate;
use super::lock::{self, Holder, Lock, holder_of};
use super::observation::{NodeView, Observation};
use super::observe::Sight;
use super::record::{Ending, LOCK, RECORD, Record, Target, Wish};
use crate::clock;
use crate::cluster_client::{Guard, Revision};
use crate::exit::{Refusal, TryAgain};

/// Between two looks. Each look costs every member a linearizable read and its agent a handshake.
const PACE: Duration = Duration::from_secs(1);

/// What is to be carried out.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// A rollout to that target: goes on with the one there is, if it is the same, else begins one.
    Start {
        /// What every node is to run.
        target: Target,
        /// Seconds a node is given to be back.
        back_within_secs: u32,
    },
    /// Go on with the one there is.
    Continue,
}

/// A rollout in somebody's hands.
#[derive(Clone, Copy, Debug)]
pub struct Rollout<'a> {
    /// Where it looks.
    pub sight: Sight<'a>,
    /// The cluster's profile, for messages.
    pub profile: &'a str,
    /// Who is at it.
    pub operator: &'a str,
    /// How long a closed gate, or a cluster that cannot be asked, is waited for.
    pub patience: Duration,
}

/// The record as it was read, and what guards its replacement.
struct Read {
    record: Option<Record>,
    revision: i64,
}

impl Rollout<'_> {
    /// Carries it out until it has ended or is paused; the record then.
    ///
    /// # Errors
    /// [`TryAgain`] when somebody else is at it, when a gate did not open in time, or when the lock was lost; a [`Refusal`] when a person has to
    /// act first. The record says how far it is in any case, and the same command goes on.
    pub fn run(&self, task: Task) -> Result<Record> {
        let lock = self.lock()?;
        let _hold = self.sight.hands.hold()?;
        if let Task::Start { target, back_within_secs } = task {
            self.begin(&lock, target, back_within_secs)?;
        }
        self.go_on(&lock)
    }

    /// Takes the lock, as soon as the cluster takes writes: with an alarm raised it does not, and there is no lock to be had.
    fn lock(&self) -> Result<Lock> {
        let mut waiting = Waiting::default();
        loop {
            match self.sight.client.alarms() {
                Ok(names) if names.is_empty() => {
                    match Lock::take(self.sight.client, self.operator, self.lock_ttl(), clock::now()) {
                        Ok(Ok(lock)) => return Ok(lock),
                        Ok(Err(holder)) => return Err(self.taken_by(&holder).into()),
                        Err(error) => waiting.unanswered(&unasked(&error), self.patience)?,
                    }
                }
                Ok(names) => waiting.on(&Reason::Gate(Gate::Alarm { names }), self.patience)?,
                Err(error) => waiting.unanswered(&unasked(&error), self.patience)?,
            }
            std::thread::sleep(PACE);
        }
    }

    fn taken_by(&self, holder: &Holder) -> TryAgain {
        TryAgain(format!(
            "{} is at the rollout of `{}`, since {}\n  hint: if that terminal is dead, its lock ends within {} s",
            holder.operator,
            self.profile,
            utc(holder.since),
            self.lock_ttl().as_secs()
        ))
    }

    /// Sees to it that there is a rollout to that target.
    fn begin(&self, lock: &Lock, target: Target, back_within_secs: u32) -> Result<()> {
        let Read { record, revision } = self.read()?;
        if let Some(record) = record.filter(|record| record.ended.is_none()) {
            if record.target.root.image == target.root.image {
                log::info!(
                    "going on with the rollout to generation {} that {} started {}",
                    record.target.root.generation,
                    record.operator,
                    utc(record.started)
                );
                return Ok(());
            }
            let what = format!(
                "a rollout of `{}` to generation {} is under way, started by {} {}",
                self.profile,
                record.target.root.generation,
                record.operator,
                utc(record.started)
            );
            let remedy = format!("end it first: kiln rollout {0}, or kiln rollout abort {0}", self.profile);
            return Err(Refusal::new(what, remedy).into());
        }
        let id = Id128::random().map_err(|_| anyhow!("the system gives no random numbers"))?;
        let names: Vec<String> = self.sight.client.nodes().iter().map(|node| node.name.clone()).collect();
        let now = clock::now();
        let fresh = Record::new(id, self.operator, now, target, back_within_secs, &names);
        // A rollout that is refused before anything was done leaves no trace.
        let seen = self.look_twice(&fresh)?;
        if !self.write(lock, &fresh, revision)? {
            return Err(TryAgain("somebody else began a rollout just now".into()).into());
        }
        log::info!("rolling generation {} out to {} nodes", target.root.generation, names.len());
        warn_of_a_new_minor(&seen, &target);
        Ok(())
    }

    /// How long the lock outlives whoever is at it.
    fn lock_ttl(&self) -> Duration {
        lock::ttl(self.sight.etcd)
    }

    /// What is seen where nothing refuses. A member that does not serve is looked at again for half the time that the lock is good for: an etcd that
    /// is restarted, as the founder's is once its cluster is activated, or that has lost its leader, serves again by then.
    fn look_twice(&self, fresh: &Record) -> Result<Observation> {
        let began = Instant::now();
        loop {
            let seen = self.sight.look(fresh, clock::now())?;
            let Act::Refuse(gate) = decide(&seen, fresh) else { return Ok(seen) };
            if !matches!(gate, Gate::Down { .. }) || began.elapsed() >= self.lock_ttl() / 2 {
                return Err(gate.refusal().into());
            }
            std::thread::sleep(PACE);
        }
    }

    fn go_on(&self, lock: &Lock) -> Result<Record> {
        let mut waiting = Waiting::default();
        loop {
            if !lock.is_held() {
                return Err(lost().into());
            }
            match self.round(lock, &mut waiting) {
                Ok(Some(record)) => return Ok(record),
                Ok(None) => {}
                Err(error) if error.is::<Refusal>() || error.is::<TryAgain>() => return Err(error),
                Err(error) => {
                    waiting.unanswered(&unasked(&error), self.patience)?;
                    std::thread::sleep(PACE);
                }
            }
        }
    }

    /// One look and what follows from it; the record when it is at rest.
    fn round(&self, lock: &Lock, waiting: &mut Waiting) -> Result<Option<Record>> {
        let Read { record, revision } = self.read()?;
        let Some(record) = record else {
            let remedy = format!("begin one: kiln rollout {}", self.profile);
            return Err(Refusal::new(format!("there is no rollout of `{}`", self.profile), remedy).into());
        };
        let now = clock::now();
        let seen = self.sight.look(&record, now)?;
        let act = decide(&seen, &record);
        if act == Act::End(Ending::Done) {
            // Before it is written: a rollout that says it is done is done in every respect.
            self.sight.hands.settle(record.target.root)?;
        }
        let next = record.before(&act, now, self.operator);
        if next != record && !self.write(lock, &next, revision)? {
            // Somebody paused or aborted it, which is seen at the next look; or this is not the one any more who may write.
            return if lock.is_there()? { Ok(None) } else { Err(lost().into()) };
        }
        if let Act::Wait(reason) = &act {
            waiting.on(reason, self.patience)?;
            std::thread::sleep(PACE);
            return Ok(None);
        }
        waiting.over();
        if !lock.is_held() {
            return Ok(None);
        }
        match &act {
            Act::Rest => return Ok(Some(record)),
            Act::Refuse(gate) => return Err(gate.refusal().into()),
            Act::Take { .. } | Act::RollBack { .. } | Act::MoveLeader { .. } => {
                log::info!("{}", act.sentence());
                if let Err(error) = self.act(&act, &seen) {
                    log::warn!("{}: {error:#}", act.sentence());
                    self.note_failure(lock, &act, &error);
                    std::thread::sleep(PACE);
                }
            }
            Act::End(_) | Act::Note { .. } => log::info!("{}", act.sentence()),
            Act::Wait(_) => {}
        }
        Ok(None)
    }

    fn act(&self, act: &Act, seen: &Observation) -> Result<()> {
        match act {
            Act::Take { node, root, .. } => self.sight.hands.take(node, *root),
            Act::RollBack { node, to, .. } => self.sight.hands.roll_back(node, *to),
            Act::MoveLeader { from, to } => self.sight.client.move_leader(from, member(seen, to)?),
            Act::End(_) | Act::Note { .. } | Act::Wait(_) | Act::Refuse(_) | Act::Rest => Ok(()),
        }
    }

    /// Writes down that an act failed, for whoever looks at the history. If that fails too, the log has said it.
    fn note_failure(&self, lock: &Lock, act: &Act, error: &anyhow::Error) {
        let noted = self.read().and_then(|Read { record, revision }| {
            let Some(mut record) = record else { return Ok(false) };
            record.tell(clock::now(), self.operator, format!("{}: {error:#}", act.sentence()));
            self.write(lock, &record, revision)
        });
        if let Err(error) = noted {
            log::debug!("noting a failure: {error:#}");
        }
    }

    fn read(&self) -> Result<Read> {
        let Some(found) = self.sight.client.read(RECORD)? else { return Ok(Read { record: None, revision: 0 }) };
        Ok(Read { record: Some(Record::parse(&found.value)?), revision: found.mod_revision })
    }

    fn write(&self, lock: &Lock, record: &Record, revision: i64) -> Result<bool> {
        let unchanged = Guard { key: RECORD.into(), revision: Revision::Written(revision) };
        let written = self.sight.client.write(RECORD, &record.to_bytes(), &[lock.guard(), unchanged], None);
        Ok(written.context("writing the record of the rollout")?.is_some())
    }

    /// Writes into the record what is wanted of the rollout; the record then. Needs no lock: whoever is at it sees it at the next look.
    ///
    /// # Errors
    /// A [`Refusal`] when there is no rollout, or it has ended.
    pub fn wish(&self, wish: &Wish) -> Result<Record> {
        loop {
            let Read { record, revision } = self.read()?;
            let Some(record) = record.filter(|record| record.ended.is_none()) else {
                let remedy = format!("see the last one: kiln rollout status {}", self.profile);
                return Err(Refusal::new(format!("no rollout of `{}` is under way", self.profile), remedy).into());
            };
            let next = record.wishing(wish.clone(), clock::now(), self.operator);
            if next == record {
                return Ok(record);
            }
            let unchanged = Guard { key: RECORD.into(), revision: Revision::Written(revision) };
            if self.sight.client.write(RECORD, &next.to_bytes(), &[unchanged], None)?.is_some() {
                return Ok(next);
            }
        }
    }

    /// The record, if there is one, and who is at it.
    ///
    /// # Errors
    /// When there is no quorum, or what is there is not a record.
    pub fn standing(&self) -> Result<(Option<Record>, Option<Holder>)> {
        let record = self.read()?.record;
        let holder = holder_of(self.sight.client).with_context(|| format!("reading `{LOCK}`"))?;
        Ok((record, holder.map(|(holder, _)| holder)))
    }

    /// What would be done next.
    ///
    /// # Errors
    /// When the cluster cannot be looked at.
    pub fn next(&self, record: &Record) -> Result<Act> {
        let now = clock::now();
        Ok(decide(&self.sight.look(record, now)?, record))
    }
}

fn lost() -> TryAgain {
    TryAgain(
        "the lock of the rollout was lost, and somebody else may be at it\n  hint: the same command goes on".into(),
    )
}

fn unasked(error: &anyhow::Error) -> String {
    format!("the cluster cannot be asked: {error:#}")
}

fn member(seen: &Observation, name: &str) -> Result<RaftId> {
    let member = seen.node(name).and_then(|node| seen.member(node));
    Ok(member.with_context(|| format!("{name} is no member"))?.id)
}

/// A node whose new etcd has run does not go back to one of a lower minor version: its agent refuses to start that on the volume.
fn warn_of_a_new_minor(seen: &Observation, target: &Target) {
    let raises = |node: &NodeView| {
        node.version().is_some_and(|runs| (runs.major, runs.minor) < (target.etcd.major, target.etcd.minor))
    };
    if seen.nodes.iter().any(raises) {
        log::warn!(
            "etcd {} is a later minor version than some nodes run: one of them that has to be rolled back after it ran comes back only with its data wiped",
            target.etcd
        );
    }
}

/// What is waited for, and since when.
#[derive(Default)]
struct Waiting {
    reason: Option<(Reason, Instant)>,
    silent: Option<Instant>,
}

impl Waiting {
    /// Tells of a reason once, and gives up on one that has no end of its own.
    fn on(&mut self, reason: &Reason, patience: Duration) -> Result<()> {
        self.silent = None;
        let since = match &self.reason {
            Some((before, since)) if before.same(reason) => *since,
            Some(_) | None => {
                log::info!("waiting: {reason}");
                Instant::now()
            }
        };
        self.reason = Some((reason.clone(), since));
        if reason.ends_by_itself() || since.elapsed() < patience {
            return Ok(());
        }
        let what = format!("{reason}, for {} s by now\n  hint: {}", since.elapsed().as_secs(), reason.remedy());
        Err(TryAgain(what).into())
    }

    fn unanswered(&mut self, why: &str, patience: Duration) -> Result<()> {
        let since = *self.silent.get_or_insert_with(|| {
            log::info!("waiting: {why}");
            Instant::now()
        });
        if since.elapsed() < patience {
            return Ok(());
        }
        Err(TryAgain(format!("{why}, for {} s by now\n  hint: the same command goes on", since.elapsed().as_secs()))
            .into())
    }

    fn over(&mut self) {
        (self.reason, self.silent) = (None, None);
    }
}
