//! Since when an etcd has had no connection with each other member, from its own metrics. Pure: text and times in.
//!
//! A peer is heard while its gauge `etcd_network_active_peers` is above zero. Between two looks a connection may come and go, so
//! what only counts up (disconnections, bytes received from the peer) tells of it. A member that never was connected has no gauge;
//! it is unheard since its etcd was first looked at. All is forgotten when etcd was started anew, for then the counters begin anew.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::message::Unheard;
use crate::state::RaftId;
use crate::version::EtcdVersion;

/// What one look at etcd's metrics told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When this etcd started, in its own words; tells one run from the next.
    started: String,
    /// What the cluster agreed on as its version, patch level 0.
    pub cluster_version: Option<EtcdVersion>,
    peers: BTreeMap<RaftId, Peer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Peer {
    connected: bool,
    /// Values of the counters, as written: compared, never calculated with.
    counted: Vec<String>,
}

/// Reads what matters here of the text that etcd serves on `/metrics`; none when the text is not whole.
pub fn parse_metrics(text: &str) -> Option<Look> {
    let mut look = Look::default();
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let label = |key: &str| {
            let (_, rest) = labels.split_once(&format!("{key}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let peer = |key: &str| label(key).and_then(|id| RaftId::try_from(id.to_owned()).ok());
        match name {
            "process_start_time_seconds" => value.clone_into(&mut look.started),
            "etcd_cluster_version" if value == "1" => {
                look.cluster_version = label("cluster_version").and_then(|version| format!("{version}.0").parse().ok());
            }
            "etcd_network_active_peers" => {
                if let Some(remote) = peer("Remote") {
                    // Anything but a clear zero counts as connected.
                    look.peers.entry(remote).or_default().connected = value != "0";
                }
            }
            "etcd_network_disconnected_peers_total" => {
                if let Some(remote) = peer("Remote") {
                    look.peers.entry(remote).or_default().counted.push(value.to_owned());
                }
            }
            "etcd_network_peer_received_bytes_total" => {
                if let Some(remote) = peer("From") {
                    look.peers.entry(remote).or_default().counted.push(value.to_owned());
                }
            }
            // Of some two thousand series these tell of connections.
            _other => {}
        }
    }
    // Go's own collector writes it near the end of the text: without it the answer was cut short, and a gauge may be missing.
    (!look.started.is_empty()).then_some(look)
}

/// What all looks together tell.
#[derive(Clone, Debug, Default)]
pub struct Hearing {
    last: Option<(Look, Instant)>,
    /// When this run of etcd was first looked at.
    since: Option<Instant>,
    heard: BTreeMap<RaftId, Instant>,
}

impl Hearing {
    /// Takes in a look.
    pub fn note(&mut self, look: Look, now: Instant) {
        let before = match &self.last {
            Some((last, _)) if last.started == look.started => last.peers.clone(),
            Some(_) | None => {
                *self = Self { since: Some(now), ..Self::default() };
                look.peers.clone()
            }
        };
        for (id, peer) in &look.peers {
            // Connected a look ago and not now: heard until an unknown moment in between, at the latest now.
            let was = before.get(id);
            if peer.connected || was.is_some_and(|was| was.connected) || was.map(|w| &w.counted) != Some(&peer.counted)
            {
                self.heard.insert(*id, now);
            }
        }
        self.last = Some((look, now));
    }

    /// Which of `others` are not connected as of the last look, and since when nothing was heard of them.
    pub fn unheard(&self, others: impl IntoIterator<Item = RaftId>) -> Vec<Unheard> {
        let (Some((look, now)), Some(since)) = (&self.last, self.since) else { return Vec::new() };
        others
            .into_iter()
            .filter(|id| look.peers.get(id).is_none_or(|peer| !peer.connected))
            .map(|member| {
                let heard = self.heard.get(&member).copied().unwrap_or(since);
                Unheard { member, seconds: now.duration_since(heard).as_secs() }
            })
            .collect()
    }

    /// When the last look was.
    pub fn last_look(&self) -> Option<Instant> {
        self.last.as_ref().map(|(_, at)| *at)
    }

    /// The cluster's version as of the last look.
    pub fn cluster_version(&self) -> Option<EtcdVersion> {
        self.last.as_ref().and_then(|(look, _)| look.cluster_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PEER: RaftId = RaftId(0x3130_fbbb_047a_3cf6);
    const NEVER: RaftId = RaftId(0xbad);

    /// As etcd 3.5.30 prints them.
    fn text(started: &str, active: u8, gone: u8, bytes: u32) -> String {
        format!(
            "# TYPE etcd_cluster_version gauge\n\
             etcd_cluster_version{{cluster_version=\"3.5\"}} 1\n\
             etcd_network_active_peers{{Local=\"ddd67b312462fd7b\",Remote=\"3130fbbb047a3cf6\"}} {active}\n\
             etcd_network_disconnected_peers_total{{Local=\"ddd67b312462fd7b\",Remote=\"3130fbbb047a3cf6\"}} {gone}\n\
             etcd_network_peer_received_bytes_total{{From=\"0\"}} 60\n\
             etcd_network_peer_received_bytes_total{{From=\"3130fbbb047a3cf6\"}} {bytes}\n\
             etcd_network_peer_sent_bytes_total{{To=\"3130fbbb047a3cf6\"}} 1771\n\
             process_start_time_seconds {started}\n"
        )
    }

    struct Ear {
        hearing: Hearing,
        start: Instant,
    }

    impl Ear {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        fn new() -> Self {
            Self { hearing: Hearing::default(), start: Instant::now() }
        }

        fn look(&mut self, at: u64, text: &str) -> Vec<(RaftId, u64)> {
            self.hearing.note(parse_metrics(text).unwrap(), self.start + Duration::from_secs(at));
            self.hearing.unheard([PEER, NEVER]).into_iter().map(|u| (u.member, u.seconds)).collect()
        }
    }

    #[test]
    fn a_connected_member_is_heard_and_one_that_never_came_is_not() {
        let mut ear = Ear::new();
        assert_eq!(ear.look(0, &text("1e9", 1, 0, 5)), [(NEVER, 0)]);
        assert_eq!(ear.look(70, &text("1e9", 1, 0, 6)), [(NEVER, 70)]);
        assert_eq!(ear.hearing.cluster_version(), Some("3.5.0".parse().unwrap()));
    }

    #[test]
    fn silence_begins_with_the_first_look_that_finds_nothing_at_all() {
        let mut ear = Ear::new();
        ear.look(0, &text("1e9", 1, 0, 5));
        assert_eq!(ear.look(100, &text("1e9", 0, 1, 6))[0], (PEER, 0), "it was heard until some time before");
        assert_eq!(ear.look(130, &text("1e9", 0, 1, 6))[0], (PEER, 30));
    }

    #[test]
    fn a_connection_between_two_looks_is_heard() {
        let mut ear = Ear::new();
        ear.look(0, &text("1e9", 0, 0, 5));
        assert_eq!(ear.look(50, &text("1e9", 0, 0, 5))[0], (PEER, 50));
        assert_eq!(ear.look(60, &text("1e9", 0, 1, 5))[0], (PEER, 0), "it came and went");
        assert_eq!(ear.look(90, &text("1e9", 0, 1, 9))[0], (PEER, 0), "it sent something");
        assert_eq!(ear.look(99, &text("1e9", 0, 1, 9))[0], (PEER, 9));
    }

    #[test]
    fn another_run_of_etcd_begins_anew() {
        let mut ear = Ear::new();
        ear.look(0, &text("1e9", 0, 0, 5));
        assert_eq!(ear.look(80, &text("2e9", 0, 0, 5)), [(PEER, 0), (NEVER, 0)]);
        assert_eq!(ear.look(85, &text("2e9", 0, 0, 5)), [(PEER, 5), (NEVER, 5)]);
    }

    #[test]
    fn nothing_is_known_before_the_first_look_or_from_half_a_text() {
        assert_eq!(Hearing::default().unheard([PEER]), []);
        let whole = text("1e9", 1, 0, 5);
        let (half, _) = whole.split_at(whole.find("process_start").unwrap());
        assert_eq!(parse_metrics(half), None);
        let odd = whole.replace("} 1\netcd_network_disconnected", "} NaN\netcd_network_disconnected");
        let mut ear = Ear::new();
        assert_eq!(ear.look(0, &odd), [(NEVER, 0)], "a value that is no zero counts as connected");
    }
}
