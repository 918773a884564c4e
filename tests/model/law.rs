//! The invariants, as facts of a state or as breaches that a step leaves behind.

use crate::raft::voters;
use crate::world::World;

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Law {
    /// Never a second serving lineage while a disk with data of another serving lineage survives.
    I1,
    /// No leader is ever elected that lacks a committed entry.
    I2,
    /// A raft id starts from an empty log at most once.
    I3,
    /// No change of members leaves fewer than a majority of voters with data.
    I4,
    /// A running voter is never removed, nor a running learner by a grant.
    I5,
    /// After activation at least all but one of the charter vote.
    I6,
    /// Who was evicted stays so, and who halts runs no etcd.
    I7,
    /// A log that matches the state restarts, whatever anybody answers or does not.
    I8,
    /// `decide` and `decide_grant` answer always, and the same to the same question.
    I9,
    /// Nothing but waiting follows from an answer that is missing, and nothing is formed on anything but everybody's "blank".
    I10,
    /// A volume's generation never falls.
    I11,
    /// After the window nothing is formed.
    Window,
    /// No voter is removed while a volume holds its data. Holds where one name is one machine.
    Survivor,
    /// A lineage that only one member claims to be activated is not joined.
    OneClaim,
    /// Once a rolled-back volume was told so it votes no more.
    Witness,
}

impl Law {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I11,
        Self::Window,
        Self::Survivor,
        Self::OneClaim,
        Self::Witness,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::I1 => "I1 one serving lineage",
            Self::I2 => "I2 no leader without an acknowledged entry",
            Self::I3 => "I3 an id starts empty once",
            Self::I4 => "I4 a majority of voters with data",
            Self::I5 => "I5 no running member removed",
            Self::I6 => "I6 at most one voter missing",
            Self::I7 => "I7 halted and evicted stay",
            Self::I8 => "I8 restart needs nobody",
            Self::I9 => "I9 total and deterministic",
            Self::I10 => "I10 silence is no evidence",
            Self::I11 => "I11 generation monotone",
            Self::Window => "window: nothing formed after it",
            Self::Survivor => "survivor: no voter with a disk removed",
            Self::OneClaim => "one claim is no cluster",
            Self::Witness => "witness: told of a later boot, votes no more",
        }
    }

    /// Its place in a set of breaches.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

impl World {
    /// Notes a breach.
    pub fn breach(&mut self, law: Law) {
        self.breaches |= law.bit();
    }

    /// Whether the law holds in this state and was not broken on the way to it.
    pub fn obeys(&self, law: Law, members: u8) -> bool {
        if self.breaches & law.bit() != 0 {
            return false;
        }
        match law {
            Law::I1 => self.serving().count() <= 1,
            Law::I2 => self.all_lineages().all(|lineage| !self.amnesiac_can_lead(lineage)),
            Law::I6 => self.all_lineages().all(|lineage| {
                !self.lineages[usize::from(lineage)].activated
                    || voters(self.config(lineage)) + 1 >= usize::from(members)
            }),
            Law::I3
            | Law::I4
            | Law::I5
            | Law::I7
            | Law::I8
            | Law::I9
            | Law::I10
            | Law::I11
            | Law::Window
            | Law::Survivor
            | Law::OneClaim
            | Law::Witness => true,
        }
    }

    /// Numbers of all lineages.
    pub fn all_lineages(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.lineages.len()).unwrap_or(u8::MAX)
    }

    /// Lineages that acknowledged a client's write and of which a disk survives.
    fn serving(&self) -> impl Iterator<Item = u8> {
        self.all_lineages().filter(|lineage| {
            self.lineages[usize::from(*lineage)].served
                && self.disks().any(|disk| disk.log.is_some_and(|log| log.lineage == *lineage && log.rank > 0))
        })
    }

    /// S1: some lineage is activated.
    pub fn is_activated(&self) -> bool {
        self.lineages.iter().any(|lineage| lineage.activated)
    }

    /// S2: an activated cluster is whole although its founder's first disk is gone.
    pub fn is_mended(&self, members: u8) -> bool {
        self.all_lineages().any(|number| {
            let lineage = &self.lineages[usize::from(number)];
            let config = self.config(number);
            lineage.activated
                && voters(config) == usize::from(members)
                && config[0].is_some_and(|founder| founder.id != lineage.roots[0])
                && config.iter().flatten().all(|m| self.survives(number, m.id))
        })
    }

    /// L1's goal: every member of the charter votes on its data and admits clients.
    pub fn is_whole(&self, members: u8) -> bool {
        self.all_lineages().any(|number| {
            let lineage = &self.lineages[usize::from(number)];
            lineage.activated
                && voters(self.config(number)) == usize::from(members)
                && self.config(number).iter().flatten().all(|m| {
                    self.slots.iter().enumerate().any(|(slot, s)| {
                        self.admits(slot) && s.replica().is_some_and(|log| log.lineage == number && log.id == m.id)
                    })
                })
        })
    }
}
