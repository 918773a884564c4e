//! Raft, coarse: who can lead, what a commit needs, and how far a replica's log reaches.
//!
//! An entry is appended, replicated to a quorum and committed in one step; there is no uncommitted suffix. All logs of a lineage are then
//! prefixes of one, and what a replica can do depends on how long its prefix is: it votes for whoever has at least as much. A leader that
//! lacks a committed entry is a violation at once (I2), so histories never fork unnoticed.

use crate::world::{Config, Etcd, Id, Log, Member, NAMES, World};

/// How many of `config` vote.
pub fn voters(config: &Config) -> usize {
    config.iter().flatten().filter(|m| m.voter).count()
}

/// How many are a majority of `config`'s voters.
pub fn majority(config: &Config) -> usize {
    voters(config) / 2 + 1
}

/// The member of `config` with this id.
pub fn member(config: &Config, id: Id) -> Option<&Member> {
    config.iter().flatten().find(|m| m.id == id)
}

impl World {
    /// The member list after everything that was committed.
    pub fn config(&self, lineage: u8) -> &Config {
        self.config_at(lineage, self.top(lineage))
    }

    /// The member list that a replica at `rank` knows.
    pub fn config_at(&self, lineage: u8, rank: u8) -> &Config {
        const NOBODY: Config = [None; NAMES];
        match rank {
            0 => &NOBODY,
            _ => &self.lineages[usize::from(lineage)].ranks[usize::from(rank) - 1],
        }
    }

    /// The rank of everything that was committed.
    pub fn top(&self, lineage: u8) -> u8 {
        u8::try_from(self.lineages[usize::from(lineage)].ranks.len()).unwrap_or(u8::MAX)
    }

    /// The running replicas of a lineage, with their slots.
    pub fn replicas(&self, lineage: u8) -> impl Iterator<Item = (usize, Log)> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(slot, s)| s.replica().map(|log| (slot, log)))
            .filter(move |(_, log)| log.lineage == lineage)
    }

    /// A leader can be elected that has everything that was committed.
    pub fn has_quorum(&self, lineage: u8) -> bool {
        self.can_elect(lineage, self.top(lineage))
    }

    /// A replica at `rank` can win an election: it votes by its own member list, and a majority of that list has no longer log.
    pub fn can_elect(&self, lineage: u8, rank: u8) -> bool {
        let config = self.config_at(lineage, rank);
        let votes = |id: Id| self.replicas(lineage).any(|(_, log)| log.id == id && log.rank <= rank);
        let stands = |(_, log): (usize, Log)| log.rank == rank && member(config, log.id).is_some_and(|m| m.voter);
        rank > 0
            && self.replicas(lineage).any(stands)
            && config.iter().flatten().filter(|m| m.voter && votes(m.id)).count() >= majority(config)
    }

    /// I2: some replica can lead although it lacks a committed entry.
    pub fn amnesiac_can_lead(&self, lineage: u8) -> bool {
        (1..self.top(lineage)).any(|rank| self.can_elect(lineage, rank))
    }

    /// The smallest sets of slots that can commit an entry: a majority of voters, with a leader that has everything.
    pub fn quorums(&self, lineage: u8) -> Vec<Vec<usize>> {
        let (config, top) = (self.config(lineage), self.top(lineage));
        let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
        let mut complete = Vec::new();
        for voter in config.iter().flatten().filter(|m| m.voter) {
            let running: Vec<usize> =
                self.replicas(lineage).filter(|(_, log)| log.id == voter.id).map(|(slot, _)| slot).collect();
            let longer: Vec<Vec<usize>> = sets
                .iter()
                .flat_map(|set| {
                    running.iter().map(move |slot| {
                        let mut set = set.clone();
                        set.push(*slot);
                        set
                    })
                })
                .collect();
            for set in longer {
                if set.len() == majority(config) {
                    complete.push(set);
                } else {
                    sets.push(set);
                }
            }
        }
        complete.retain(|set| set.iter().any(|slot| self.slots[*slot].volume().log.is_some_and(|log| log.rank == top)));
        complete
    }

    /// Commits an entry that leaves the member list `config`, on the replicas in `slots`.
    pub fn commit(&mut self, lineage: u8, slots: &[usize], config: Config) {
        self.lineages[usize::from(lineage)].ranks.push(config);
        self.lineages[usize::from(lineage)].virgin = false;
        let top = self.top(lineage);
        for slot in slots {
            if let Some(log) = &mut self.slots[*slot].volume_mut().log {
                log.rank = top;
            }
        }
    }

    /// Whether an etcd with this raft id runs anywhere.
    pub fn runs(&self, lineage: u8, id: Id) -> bool {
        self.replicas(lineage).any(|(_, log)| log.id == id)
    }

    /// Whether some volume, mounted or not, running or not, holds the log of this raft id.
    pub fn survives(&self, lineage: u8, id: Id) -> bool {
        self.slots.iter().any(|s| s.disk.log.is_some_and(|log| log.lineage == lineage && log.id == id && log.rank > 0))
    }

    /// A slot's etcd reads linearizably: it votes, hears a leader, and has published its URLs, before which etcd serves nobody.
    pub fn reads(&self, slot: usize) -> bool {
        self.slots[slot].replica().is_some_and(|log| {
            member(self.config(log.lineage), log.id).is_some_and(|m| m.voter && m.started)
                && self.has_quorum(log.lineage)
        })
    }

    /// A slot's client port leads to a running etcd.
    pub fn admits(&self, slot: usize) -> bool {
        let s = &self.slots[slot];
        s.on && s.etcd == Etcd::Up && s.volume().activated
    }
}
