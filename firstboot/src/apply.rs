//! Does what was decided, one idempotent step after the other. What a step permits is on disk before the step is taken.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::agent::client;
use crate::agent::server::ANSWER_LIMIT;
use crate::charter::Charter;
use crate::control_client::{self, EtcdUnit};
use crate::decision::Decision;
use crate::digest::Id128;
use crate::dns::Dns;
use crate::fault::{Point, cut};
use crate::message::{Answer, Ask, ControlRequest, JoinRequest};
use crate::name::Fqdn;
use crate::observe::Image;
use crate::paths::Paths;
use crate::render::{Launch, Start, arguments, environment_file};
use crate::state::{Phase, RaftId, State};
use crate::tls::AgentTls;
use crate::{durable, journal, last_words, raft_id, state_file};

/// How long a grantor's handshake may take, beside what it gives itself.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// What a round works with.
#[derive(Debug)]
pub struct Hands<'a> {
    /// Where things are.
    pub paths: &'a Paths,
    /// The image.
    pub image: &'a Image,
    /// The charter.
    pub charter: &'a Charter,
    /// This node.
    pub own: &'a Fqdn,
    /// The state, as last persisted.
    pub state: State,
    /// etcd's unit as seen in this round.
    pub etcd: &'a EtcdUnit,
    /// For asking grantors; none before there is a leaf.
    pub tls: Option<&'a AgentTls>,
    /// For finding them.
    pub dns: &'a Dns,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Something changed: look again at once.
    Changed,
    /// Nothing to do for now.
    Settled,
    /// Somebody else put it off or refused it, for this reason.
    PutOff(String),
}

impl Hands<'_> {
    /// Takes the steps of `decision`.
    ///
    /// # Errors
    /// When a step fails; everything up to it stays done, and the next round goes on from there.
    pub async fn apply(&mut self, decision: &Decision) -> Result<Applied> {
        match decision {
            Decision::Halt(_) => {
                if self.etcd.is_up() {
                    self.control(ControlRequest::StopEtcd).await?;
                }
                Ok(Applied::Settled)
            }
            Decision::Wait(_) => Ok(Applied::Settled),
            Decision::RecordBlank { state } => {
                state_file::write(self.paths, state)?;
                Ok(Applied::Changed)
            }
            Decision::Restart { forming, lineage, raft_cluster, member } => {
                self.restart(*forming, *lineage, *raft_cluster, *member).await
            }
            Decision::StartExisting { lineage, initial_cluster, .. } => {
                if let Phase::Assigned { attempted, .. } = &mut self.state.position {
                    *attempted = true;
                }
                self.persist()?;
                cut(Point::Attempted);
                let token = self.token(*lineage);
                self.start(Start::Existing { token: &token, members: initial_cluster }, true).await?;
                Ok(Applied::Changed)
            }
            Decision::DropAssignment { member } => {
                let words = last_line(&self.etcd.last_words);
                let mut text =
                    format!("there is no log of member {member}, and its one start may be spent: a new id is needed");
                if !words.is_empty() {
                    text.push_str(&format!("; etcd's last words: {words}"));
                }
                journal::tell(&journal::ETCD_FAILED, &text, &[("KILN_LAST_WORDS", &self.etcd.last_words)]);
                self.control(ControlRequest::ClearEtcd).await?;
                cut(Point::Cleared);
                self.move_to(Phase::Blank)?;
                Ok(Applied::Changed)
            }
            Decision::StartFounding { lineage, .. } => {
                if self.etcd.is_up() {
                    return Ok(Applied::Settled);
                }
                self.persist()?;
                // A log without an entry is removed; anything else there is not the helper's to remove.
                self.control(ControlRequest::ClearEtcd).await?;
                let token = self.token(*lineage);
                self.start(Start::Founding { token: &token }, true).await?;
                Ok(Applied::Changed)
            }
            Decision::Join { via, also, lineage, raft_cluster } => self.join(via, also, *lineage, *raft_cluster).await,
            Decision::Form { .. } => {
                let lineage = Id128::random().ok().context("drawing a lineage: the system gives no randomness")?;
                self.move_to(Phase::Founding { lineage })?;
                cut(Point::Founding);
                Ok(Applied::Changed)
            }
        }
    }

    async fn restart(
        &mut self,
        forming: bool,
        lineage: Id128,
        raft_cluster: RaftId,
        member: RaftId,
    ) -> Result<Applied> {
        let up = self.etcd.is_up();
        if !up && last_words::tell_of_removal(&self.etcd.last_words) {
            self.move_to(Phase::Evicted { lineage, member })?;
            return Ok(Applied::Changed);
        }
        let position = Phase::Member { lineage, raft_cluster, member };
        if self.state.position != position {
            self.move_to(position)?;
        }
        if up {
            return Ok(Applied::Settled);
        }
        self.persist()?;
        self.start(Start::Restart { forming }, false).await?;
        Ok(Applied::Changed)
    }

    async fn join(&mut self, via: &Fqdn, also: &[Fqdn], lineage: Id128, raft_cluster: RaftId) -> Result<Applied> {
        let Some(tls) = self.tls else { return Ok(Applied::PutOff("this node has no certificate yet".into())) };
        let mut last = String::new();
        let limit = ANSWER_LIMIT * self.image.cluster.etcd.patience() + HANDSHAKE;
        for grantor in std::iter::once(via).chain(also) {
            let nonce = Id128::random().ok().context("drawing a nonce: the system gives no randomness")?;
            let request = JoinRequest {
                cluster: self.charter.cluster,
                generation: self.charter.generation,
                charter: self.charter.digest(),
                fqdn: self.own.clone(),
                instance: self.state.instance,
                etcd_version: self.image.meta.etcd_version,
                nonce,
            };
            let located = self.dns.addresses(grantor).await.into_lookup();
            match client::ask(tls, grantor, located.records(), &Ask::Join(request), limit).await {
                Ok(Answer::Granted(grant)) => {
                    // An answer to an earlier request names an id that a later one has removed.
                    if grant.nonce != nonce || grant.lineage != lineage || grant.raft_cluster != raft_cluster {
                        bail!("{grantor} granted something that was not asked for");
                    }
                    cut(Point::Granted);
                    self.move_to(Phase::Assigned {
                        lineage,
                        raft_cluster,
                        member: grant.member,
                        initial_cluster: grant.initial_cluster,
                        attempted: false,
                        boot_id: self.image.boot_id.clone(),
                    })?;
                    cut(Point::Assigned);
                    return Ok(Applied::Changed);
                }
                // It is being taken care of; asking another member would only contend for the same lock.
                Ok(Answer::RetryAfter { reason, .. }) => return Ok(Applied::PutOff(format!("{grantor}: {reason}"))),
                Ok(Answer::Refused { reason, hint }) => {
                    return Ok(Applied::PutOff(format!("{grantor} refuses: {reason}\nhint: {hint}")));
                }
                Ok(Answer::Status(_)) => last = format!("{grantor} answered something that was not asked"),
                Err(e) => last = format!("{grantor}: {e:#}"),
            }
        }
        Ok(Applied::PutOff(last))
    }

    /// Renders the command line and has etcd started. `empty` permits its one start on an empty log.
    async fn start(&self, start: Start<'_>, empty: bool) -> Result<()> {
        let line = self
            .image
            .meta
            .etcd_version
            .line()
            .context("the image's etcd is of no version this agent can configure")?;
        let args = arguments(&Launch {
            line,
            settings: &self.image.cluster.etcd,
            paths: self.paths,
            charter: self.charter,
            fqdn: self.own,
            start,
        });
        durable::replace(&self.paths.etcd_args(), environment_file(&args)?.as_bytes(), 0o644)?;
        if let Some(newest) = self.state.max_etcd.filter(|newest| self.image.meta.etcd_version < *newest) {
            let text = format!(
                "etcd {} starts on a volume that etcd {newest} has run on; within one minor version etcd allows it",
                self.image.meta.etcd_version
            );
            journal::tell(&journal::NOTICE, &text, &[]);
        }
        cut(Point::Rendered);
        self.control(ControlRequest::StartEtcd { empty }).await?;
        if empty {
            cut(Point::StartedEmpty);
        }
        let how = match start {
            Start::Founding { .. } => "starting etcd as the founder of a new lineage",
            Start::Existing { .. } => "starting etcd as a learner of the running cluster",
            Start::Restart { .. } => "restarting etcd on its own data",
        };
        journal::tell(&journal::ETCD_STARTED, how, &[("KILN_ARGS", &args.join(" "))]);
        Ok(())
    }

    /// Persists where the volume stands.
    pub(crate) fn move_to(&mut self, position: Phase) -> Result<()> {
        self.state.position = position;
        self.persist()?;
        let (phase, lineage, member) = match &self.state.position {
            Phase::Blank => ("blank", None, None),
            Phase::Founding { lineage } => ("founding", Some(lineage), None),
            Phase::Assigned { lineage, member, .. } => ("assigned", Some(lineage), Some(member)),
            Phase::Member { lineage, member, .. } => ("member", Some(lineage), Some(member)),
            Phase::Evicted { lineage, member } => ("evicted", Some(lineage), Some(member)),
        };
        let (lineage, member) = (lineage.map(ToString::to_string), member.map(ToString::to_string));
        let text = match (&lineage, &member) {
            (Some(lineage), Some(member)) => {
                format!("{} is now {phase}: member {member} of lineage {lineage}", self.own)
            }
            (Some(lineage), None) => format!("{} is now {phase}: lineage {lineage}", self.own),
            (None, _) => format!("{} is now {phase}", self.own),
        };
        let fields = [
            ("KILN_PHASE", phase),
            ("KILN_LINEAGE", lineage.as_deref().unwrap_or_default()),
            ("KILN_MEMBER", member.as_deref().unwrap_or_default()),
        ];
        journal::tell(&journal::PHASE, &text, &fields);
        Ok(())
    }

    /// Persists the state, with the newest etcd and the latest time in it.
    pub(crate) fn persist(&mut self) -> Result<()> {
        self.state.max_etcd = self.state.max_etcd.max(Some(self.image.meta.etcd_version));
        self.state.max_seen_time = self.state.max_seen_time.max(crate::clock::now());
        state_file::write(self.paths, &self.state)
    }

    pub(crate) async fn control(&self, request: ControlRequest) -> Result<()> {
        control_client::run(&self.paths.control_socket(), request)
            .await
            .with_context(|| format!("having `{request:?}` done"))
    }

    fn token(&self, lineage: Id128) -> String {
        raft_id::cluster_token(self.charter.cluster, self.charter.generation, lineage)
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or("none")
}
