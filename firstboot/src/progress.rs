//! What was last said of a node's progress, so that only changes are said again, and how long to wait for the next one.

use std::time::{Duration, Instant};

use crate::decision::{Decision, Explanation};
use crate::message::Holds;
use crate::name::Fqdn;
use crate::observation::{PeerAnswer, PeerObservation};
use crate::state::RaftId;
use crate::wait::way_out;
use crate::{clock, journal};

/// Pause after a round that changed something.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(50);
/// Pause while something is expected to change.
const SOON: Duration = Duration::from_millis(400);
/// Pause after a minute without change.
const LATER: Duration = Duration::from_secs(1);
/// Pause in a node that serves, or has waited for ten minutes.
const SLOWLY: Duration = Duration::from_secs(5);
/// The console is told again what the node waits for, so that whoever looks later sees it.
const REPEAT: Duration = Duration::from_secs(60);
/// Another reason of the same grantor is told after this.
const REASON: Duration = Duration::from_secs(10);

/// What was last said.
#[derive(Debug)]
pub(crate) struct Progress {
    text: String,
    put_off: bool,
    row: u8,
    since: i64,
    changed: Instant,
    repeated: Instant,
}

impl Progress {
    /// Nothing was said yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { text: String::new(), put_off: false, row: 0, since: 0, changed: now, repeated: now }
    }

    /// What the node waits for; empty when it serves.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The row it was told of last; 0 before the first.
    pub(crate) fn row(&self) -> u8 {
        self.row
    }

    /// Since when, Unix seconds; 0 when it serves.
    pub(crate) fn since(&self) -> i64 {
        self.since
    }

    /// Tells `text` (empty when nothing is waited for) if it is new, or was last told a minute ago. `put_off`: another agent gave the
    /// reason. Gives back whether anything changed.
    pub(crate) fn tell(
        &mut self,
        decision: &Decision,
        explanation: &Explanation,
        put_off: bool,
        text: String,
        now: Instant,
    ) -> bool {
        let row = decision.row();
        if row != self.row || text.is_empty() != self.text.is_empty() {
            self.since = if text.is_empty() { 0 } else { clock::now() };
        }
        let changed = text != self.text || row != self.row;
        if changed {
            self.changed = now;
        }
        // A grantor that is asked again and again gives ever other reasons: no more than one in ten seconds is told.
        let same = put_off && self.put_off && row == self.row && now.duration_since(self.repeated) < REASON;
        let repeat = !text.is_empty() && now.duration_since(self.repeated) >= REPEAT;
        if (changed && !same && !text.is_empty()) || repeat {
            let halted = matches!(decision, Decision::Halt(_));
            let (event, verb) = if halted { (&journal::HALTED, "halted") } else { (&journal::WAITING, "waiting") };
            let waited = (clock::now() - self.since).max(0);
            let since = if waited < 2 { String::new() } else { format!(" (for {waited} s)") };
            let row = row.to_string();
            let fields = [
                ("KILN_SEEN", explanation.seen.as_str()),
                ("KILN_RULE", &explanation.rule),
                ("KILN_HINT", &explanation.hint),
                ("KILN_ROW", &row),
            ];
            journal::tell(event, &format!("{verb}{since}: {text}"), &fields);
            self.repeated = now;
        }
        (self.text, self.row, self.put_off) = (text, row, put_off);
        changed
    }

    /// How long to wait for the next change.
    pub(crate) fn pause(&self, activated: bool, now: Instant) -> Duration {
        let quiet = now.duration_since(self.changed);
        if (self.text.is_empty() && activated) || quiet > Duration::from_secs(600) {
            SLOWLY
        } else if quiet > Duration::from_secs(60) {
            LATER
        } else {
            SOON
        }
    }
}

/// Why a member that runs serves nobody, as far as it can tell.
pub(crate) fn unconfirmed(leader: Option<RaftId>) -> String {
    match leader {
        None => "etcd runs, but too few members are up and reachable for it to serve: it knows of no leader".into(),
        Some(leader) => format!(
            "etcd runs and takes member {leader} for its leader, but no majority has confirmed that in time: too few members are up and reachable for it to serve, or they, their disks or the network between them are too slow"
        ),
    }
}

/// Which agents answered `own` in this round and which did not, and which of them say that they are blank; empty when none was
/// asked. When so many are blank that those with data are no majority, what is left to an operator.
pub(crate) fn heard(own: &Fqdn, peers: &[PeerObservation]) -> String {
    let (mut answer, mut silent, mut blank) = (Vec::new(), Vec::new(), Vec::new());
    for peer in peers {
        match &peer.answer {
            PeerAnswer::Answered(status) => {
                answer.push(peer.fqdn.as_str());
                if status.holds == Holds::Blank {
                    blank.push(peer.fqdn.as_str());
                }
            }
            PeerAnswer::Unreachable(_) => silent.push(peer.fqdn.as_str()),
        }
    }
    let list = |names: &[&str]| if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    if peers.is_empty() {
        return String::new();
    }
    let mut text = format!("; agents that answer: {}; that do not: {}", list(&answer), list(&silent));
    if !blank.is_empty() {
        text.push_str(&format!("; that have blank disks: {}", list(&blank)));
    }
    let members = peers.len() + 1;
    if members - blank.len() <= members / 2 {
        text.push_str(&format!(
            ". Those with data are no majority: put back the disks that were in the blank ones; {}",
            way_out(own)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{fqdn, observation};

    #[test]
    fn names_the_agents_that_answer_and_those_that_do_not() {
        let mut seen = observation(1, 3);
        let heard = |peers: &[PeerObservation]| heard(&fqdn(1), peers);
        for n in [2, 3] {
            seen.peer_status(n).holds = Holds::Unknown;
        }
        assert_eq!(
            heard(&seen.peers),
            "; agents that answer: etcd2.lab.example, etcd3.lab.example; that do not: nobody"
        );
        seen.peer_mut(3).answer = PeerAnswer::Unreachable("connection refused".into());
        assert_eq!(heard(&seen.peers), "; agents that answer: etcd2.lab.example; that do not: etcd3.lab.example");
        assert_eq!(heard(&[]), "");
        seen.peer_status(2).holds = Holds::Blank;
        assert!(heard(&seen.peers).ends_with("that have blank disks: etcd2.lab.example"), "two of three may hold data");
        seen = observation(1, 3);
        let text = heard(&seen.peers);
        assert!(text.contains("blank disks: etcd2.lab.example, etcd3.lab.example"), "{text}");
        assert!(text.contains("no majority") && text.contains("save the data of etcd1.lab.example first"), "{text}");
    }
}
