//! Whether nodes serve, by their agents' word; waiting until they do; and what the cluster can do without one of them.
#![expect(clippy::disallowed_methods, reason = "an edge: waits")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::message::{Holds, NodeStatus};

use super::Fleet;
use crate::agents;
use crate::exit::Refusal;
use crate::placement::majority;
use crate::profile::{Node, Profile};

/// How often agents are asked while they are waited for. Under emulation every answer costs a node a tenth of a second of what it boots with.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long an election is waited for at least. etcd's usual timeout is a second.
const ELECTION: Duration = Duration::from_secs(30);
/// And how many of a cluster's own timeouts: each member draws one to two of them (etcd's `raft.go`), and two that draw alike draw again.
const TIMEOUTS: u32 = 4;

/// What a node lacks to be a voter that serves, on `image` where one is named; none when it is one.
pub fn missing(status: &NodeStatus, image: Option<Sha256Digest>) -> Option<String> {
    if let Some(wanted) = image.filter(|wanted| *wanted != status.image_key) {
        return Some(format!("it runs image {:.12}, not {:.12}", status.image_key.to_string(), wanted.to_string()));
    }
    let says = || if status.waiting_for.is_empty() { status.phase.clone() } else { status.waiting_for.clone() };
    match &status.holds {
        Holds::Blank => Some(format!("it is blank: {}", says())),
        Holds::Data { .. } => Some(format!("its etcd does not serve: {}", says())),
        Holds::Unknown if status.has_halted() => Some(format!("it has halted: {}", says())),
        Holds::Unknown => Some(format!("it does not say yet whether it is blank: {}", says())),
        Holds::Running(running) if running.learner => Some("it is a learner still".into()),
        Holds::Running(running) if !running.alarms.is_empty() => Some(format!("alarms: {}", running.alarms.join(", "))),
        Holds::Running(running) if !running.linearizable => Some("it does not answer linearizable reads".into()),
        Holds::Running(_) => None,
    }
}

/// What the cluster has besides one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Others {
    /// Members of the cluster.
    pub members: usize,
    /// Others that serve.
    pub serving: Vec<String>,
    /// Others that do not, and why.
    pub missing: Vec<(String, String)>,
    /// Others whose etcd runs and votes, serving or not.
    pub voting: usize,
    /// Whether the node itself serves now.
    pub serves: bool,
}

impl Others {
    /// From what each node answered.
    pub fn of(node: &str, answers: &[(String, Result<NodeStatus, String>)]) -> Self {
        let mut others = Self { members: answers.len(), serving: vec![], missing: vec![], voting: 0, serves: false };
        for (name, answer) in answers {
            let votes = answer.as_ref().is_ok_and(|status| matches!(&status.holds, Holds::Running(r) if !r.learner));
            others.voting += usize::from(votes && name != node);
            let lacks = match answer {
                Ok(status) => missing(status, None),
                Err(silent) => Some(silent.clone()),
            };
            match lacks {
                None if name == node => others.serves = true,
                Some(_) if name == node => {}
                None => others.serving.push(name.clone()),
                Some(why) => others.missing.push((name.clone(), why)),
            }
        }
        others
    }

    /// They are enough for a quorum and have none at the moment: they may be electing a leader.
    pub fn may_elect(&self) -> bool {
        self.serving.len() < majority(self.members) && self.voting >= majority(self.members)
    }

    /// Refuses what would leave the cluster without a quorum: taking down a member that serves, or wiping one, while the others are no majority.
    ///
    /// # Errors
    /// A [`Refusal`] that says what it would cost.
    pub fn spare(&self, node: &str, wipe_data: bool) -> Result<(), Refusal> {
        let majority = majority(self.members);
        if self.serving.len() >= majority || !(wipe_data || self.serves) {
            return Ok(());
        }
        let cost = if wipe_data {
            "what it holds may be what the cluster can be mended from, and a blank node is only let in by a majority"
        } else {
            "the cluster stops until it is back"
        };
        let missing: Vec<String> = self.missing.iter().map(|(name, why)| format!("{name} ({why})")).collect();
        Err(Refusal::new(
            format!(
                "without {node} {} of {} members serve, and {majority} are a majority: {cost}; not serving: {}",
                self.serving.len(),
                self.members,
                missing.join(", ")
            ),
            "mend the others first; or do it all the same: --lose-quorum",
        ))
    }
}

/// The pause after a look that began then: as long as the look took, if that is long. Nodes that are slow to answer are not helped by being
/// asked all the time.
fn pause(asked: Instant) -> Duration {
    LOOK_EVERY.max(asked.elapsed())
}

impl Fleet {
    /// What each of these nodes says of itself, with its name.
    ///
    /// # Errors
    /// When nobody can be asked: no operator's certificate, no network.
    pub fn ask(&self, nodes: &[Node]) -> Result<Vec<(String, Result<NodeStatus, String>)>> {
        let answers = agents::ask_all(&self.reach, &self.pki, &self.profile.etcd.settings, nodes)?;
        let told = |answer: Result<NodeStatus>| answer.map_err(|error| format!("{error:#}"));
        Ok(nodes.iter().map(|node| node.name.clone()).zip(answers.into_iter().map(told)).collect())
    }

    /// As [`Others::spare`], by what the nodes answer now. Others that may be electing a leader are given the time for it: who has just failed
    /// may have led.
    ///
    /// # Errors
    /// A [`Refusal`] when the others do not suffice, and as [`Fleet::ask`].
    pub fn spare(&self, node: &str, wipe_data: bool) -> Result<()> {
        let election = election(&self.profile);
        let began = Instant::now();
        let mut told = false;
        loop {
            let asked = Instant::now();
            let others = Others::of(node, &self.ask(&self.profile.nodes)?);
            let refusal = match others.spare(node, wipe_data) {
                Ok(()) => return Ok(()),
                Err(refusal) if !others.may_elect() || began.elapsed() >= election => return Err(refusal.into()),
                Err(refusal) => refusal,
            };
            if !told {
                log::info!("waiting at most {} s, as they may be electing a leader: {refusal}", election.as_secs());
                told = true;
            }
            std::thread::sleep(pause(asked));
        }
    }

    /// Waits until these nodes are voters that serve, on `image` where one is named. Tells what those lack that are not in time.
    ///
    /// # Errors
    /// As [`Fleet::ask`].
    pub fn await_health(
        &self,
        nodes: &[Node],
        image: Option<Sha256Digest>,
        limit: Duration,
    ) -> Result<Vec<(String, String)>> {
        let began = Instant::now();
        let (mut before, mut told): (Vec<(String, String)>, BTreeSet<String>) = Default::default();
        loop {
            let asked = Instant::now();
            let lacks = |(name, answer): (String, Result<NodeStatus, String>)| match answer {
                Ok(status) => Some((name, missing(&status, image)?)),
                Err(silent) => Some((name, format!("its agent does not answer: {silent}"))),
            };
            let lacking: Vec<(String, String)> = self.ask(nodes)?.into_iter().filter_map(lacks).collect();
            for (node, _) in before.iter().filter(|(node, _)| !lacking.iter().any(|(other, _)| other == node)) {
                // One that does not for a moment, as etcd does while members are added, is not told of anew.
                if told.insert(node.clone()) {
                    log::info!("{:6.1} s  {node} serves", began.elapsed().as_secs_f64());
                }
            }
            if lacking.is_empty() || began.elapsed() >= limit {
                return Ok(lacking);
            }
            if before.is_empty() {
                let names: Vec<&str> = lacking.iter().map(|(node, _)| node.as_str()).collect();
                log::info!("waiting at most {} s for {}", limit.as_secs(), names.join(", "));
            }
            before = lacking;
            std::thread::sleep(pause(asked).min(limit.saturating_sub(began.elapsed())));
        }
    }
}

/// How long an election of this cluster is waited for.
fn election(profile: &Profile) -> Duration {
    ELECTION.max(TIMEOUTS * profile.etcd.settings.election_timeout())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::sample;
    use kiln_firstboot::digest::Id128;
    use kiln_firstboot::message::Running;
    use kiln_firstboot::name::Fqdn;

    fn status(holds: Holds) -> NodeStatus {
        sample::status(Fqdn::parse("a.example").unwrap(), holds)
    }

    fn running() -> Running {
        sample::running(Id128([7; 16]))
    }

    fn serving() -> NodeStatus {
        status(Holds::Running(running()))
    }

    #[test]
    fn an_election_is_waited_for_as_long_as_the_clusters_timeout_asks() {
        let text = include_str!("../../../profiles/k8s0.toml");
        let mut profile = Profile::parse(camino::Utf8Path::new("profiles/k8s0.toml"), text).unwrap();
        assert_eq!(election(&profile), ELECTION);
        profile.etcd.settings.election_ms = 50_000;
        assert_eq!(election(&profile), Duration::from_secs(200));
    }

    #[test]
    fn serves_who_votes_and_answers_without_an_alarm_on_the_image_asked_for() {
        assert_eq!(missing(&serving(), Some(Sha256Digest([3; 32]))), None);
        assert_eq!(
            missing(&serving(), Some(Sha256Digest([4; 32]))).unwrap(),
            "it runs image 030303030303, not 040404040404"
        );
        let but = |change: fn(&mut Running)| {
            let mut running = running();
            change(&mut running);
            missing(&status(Holds::Running(running)), None).unwrap()
        };
        assert_eq!(but(|r| r.learner = true), "it is a learner still");
        assert_eq!(but(|r| r.linearizable = false), "it does not answer linearizable reads");
        assert_eq!(but(|r| r.alarms = vec!["NOSPACE".into()]), "alarms: NOSPACE");
        for (holds, said) in [
            (Holds::Blank, "it is blank: member"),
            (Holds::Unknown, "it does not say yet whether it is blank: member"),
            (Holds::Data { lineage: Id128([7; 16]) }, "its etcd does not serve: member"),
        ] {
            assert_eq!(missing(&status(holds), None).unwrap(), said);
        }
        let halted = NodeStatus { phase: "halted".into(), ..status(Holds::Unknown) };
        assert_eq!(missing(&halted, None).unwrap(), "it has halted: halted");
    }

    #[test]
    fn a_member_is_spared_only_where_the_others_are_a_majority() {
        let silent = || Err("no answer".to_owned());
        let of = |one: Result<NodeStatus, String>, two: Result<NodeStatus, String>| {
            let answers = [("a", Ok(serving())), ("b", one), ("c", two)];
            Others::of("a", &answers.map(|(name, answer)| (name.to_owned(), answer)))
        };
        let (well, ill) = (of(Ok(serving()), Ok(serving())), of(Ok(serving()), silent()));
        assert_eq!((well.spare("a", false), well.spare("a", true)), (Ok(()), Ok(())));
        for (wipe, cost) in
            [(false, "the cluster stops until it is back"), (true, "may be what the cluster can be mended from")]
        {
            let refusal = ill.spare("a", wipe).unwrap_err();
            assert!(
                refusal.what.contains("1 of 3 members serve, and 2 are a majority") && refusal.what.contains(cost),
                "{refusal}"
            );
            assert!(refusal.what.ends_with("not serving: c (no answer)"), "{refusal}");
        }
        assert!(!ill.may_elect(), "one that is silent elects nobody");
        let mut without_leader = running();
        without_leader.linearizable = false;
        let status = || Ok(status(Holds::Running(without_leader.clone())));
        let electing = of(status(), status());
        assert!(electing.may_elect() && electing.spare("a", false).is_err());
        // One that does not serve may be imaged again with its data kept: nothing is lost by that.
        let down = Others { serves: false, ..ill };
        assert_eq!(down.spare("a", false), Ok(()));
        assert!(down.spare("a", true).is_err());
    }
}
