//! The configurations that are explored, by the row of the catalogue they stand for.

use crate::cluster::{Begin, Cluster};
use crate::law::Law;
use crate::world::{Budget, UNLIMITED};

/// A configuration.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What it is about.
    pub name: &'static str,
    /// The configuration.
    pub cluster: Cluster,
    /// Generated states after which the full exploration stops; with less than that it was exhaustive.
    pub most: usize,
    /// L1 is searched, too.
    pub lives: bool,
}

/// A volume put back to an earlier snapshot votes until somebody tells it (I8 wants it so): I2 is not promised there, nor what follows from it.
/// And a disk may come back from a snapshot while its replacement is under way, so that a removed voter's data survives.
const ROLLED_BACK: &[Law] =
    &[Law::I1, Law::I3, Law::I5, Law::I7, Law::I8, Law::I9, Law::I10, Law::I11, Law::Window, Law::Witness];

const NONE: Budget = Budget {
    wipes: 0,
    crashes: 0,
    kills: 0,
    clones: 0,
    twins: 0,
    unmounts: 0,
    rollbacks: 0,
    shrinks: 0,
    reseeds: 0,
    closings: 0,
    forgeries: 0,
    losses: 0,
};

fn blank(budget: Budget) -> Cluster {
    Cluster { budget, ..Cluster::default() }
}

fn whole(budget: Budget) -> Cluster {
    Cluster { budget, begin: Begin::Whole, ..Cluster::default() }
}

fn five(cluster: Cluster) -> Cluster {
    Cluster { members: 5, eager: true, ..cluster }
}

/// Small enough for every run of the tests: each is explored to its end.
pub fn quick() -> Vec<Plan> {
    let plan = |name, cluster, lives| Plan { name, cluster, most: 20_000_000, lives };
    vec![
        plan("d01 blank nodes, booted in any order", blank(NONE), true),
        plan("c10 d02 a power cut at any point of forming", blank(Budget { crashes: 1, ..NONE }), true),
        plan("d03 a disk wiped while forming", blank(Budget { wipes: 1, ..NONE }), true),
        plan(
            "d05 the founder copied while blank, both formed",
            Cluster { begin: Begin::TwoFounders, eager: true, ..blank(NONE) },
            false,
        ),
        plan(
            "c13 c14 e04 e11 two of three wiped, power cuts, etcd killed",
            whole(Budget { wipes: 2, crashes: 1, kills: 1, ..NONE }),
            true,
        ),
        plan("c15 all wiped, the window closed", whole(Budget { wipes: 3, closings: 1, ..NONE }), true),
        plan("e08 a second machine of one name", whole(Budget { twins: 1, crashes: 1, ..NONE }), false),
        plan(
            "e08 a copy made while blank",
            Cluster { begin: Begin::WholeWithCopy(1), ..whole(Budget { crashes: 1, ..NONE }) },
            false,
        ),
        plan("c03 a boot with the data volume not mounted", whole(Budget { wipes: 2, unmounts: 1, ..NONE }), true),
        plan("c08 a log that is gone", whole(Budget { losses: 1, wipes: 1, ..NONE }), true),
        plan("a08 SRV shrinks", whole(Budget { wipes: 2, shrinks: 2, ..NONE }), true),
        plan("e16 a call in another's name", whole(Budget { forgeries: 1, wipes: 1, crashes: 1, ..NONE }), true),
        plan(
            "h04 h05 a peer that says what it likes",
            Cluster { liar: Some(2), ..whole(Budget { wipes: 2, ..NONE }) },
            false,
        ),
        plan("I11 seeds of the next generation", whole(Budget { reseeds: 3, wipes: 2, ..NONE }), false),
        plan(
            "c17 a volume put back to a snapshot",
            Cluster { boots: true, laws: ROLLED_BACK, ..whole(Budget { rollbacks: 1, crashes: 1, ..NONE }) },
            false,
        ),
        plan("five members, one wiped, one power cut", five(whole(Budget { wipes: 1, crashes: 1, ..NONE })), true),
    ]
}

/// What `make model` explores besides.
pub fn full() -> Vec<Plan> {
    let plan = |name, cluster, most| Plan { name, cluster, most, lives: false };
    let all = Budget { wipes: UNLIMITED, crashes: UNLIMITED, kills: UNLIMITED, closings: 1, ..NONE };
    vec![
        plan("blank: two wipes", blank(Budget { wipes: 2, ..NONE }), 40_000_000),
        plan("blank: one wipe, one power cut", blank(Budget { wipes: 1, crashes: 1, ..NONE }), 40_000_000),
        plan("blank: two power cuts", blank(Budget { crashes: 2, ..NONE }), 40_000_000),
        plan(
            "blank: a copy of a blank machine",
            Cluster { eager: true, ..blank(Budget { clones: 1, ..NONE }) },
            40_000_000,
        ),
        plan(
            "blank: SRV shrinks, the window closes, one wipe",
            blank(Budget { wipes: 1, shrinks: 1, closings: 1, ..NONE }),
            20_000_000,
        ),
        plan("blank: a liar, one wipe", Cluster { liar: Some(2), ..blank(Budget { wipes: 1, ..NONE }) }, 20_000_000),
        plan("blank: seeds of the next generation", blank(Budget { reseeds: 3, ..NONE }), 20_000_000),
        plan("two founders, both copies of one", Cluster { begin: Begin::TwoFounders, ..blank(NONE) }, 20_000_000),
        plan(
            "two founders, one wipe, one power cut",
            Cluster { begin: Begin::TwoFounders, eager: true, ..blank(Budget { wipes: 1, crashes: 1, ..NONE }) },
            200_000_000,
        ),
        plan("whole: any number of wipes, power cuts, kills; the window closes", whole(all), 200_000_000),
        plan(
            "whole: a second machine, any number of power cuts",
            whole(Budget { twins: 1, crashes: UNLIMITED, ..NONE }),
            20_000_000,
        ),
        plan(
            "whole: a second machine, a wipe, a power cut",
            whole(Budget { twins: 1, wipes: 1, crashes: 1, ..NONE }),
            20_000_000,
        ),
        plan(
            "whole: not mounted, any number of wipes and power cuts",
            whole(Budget { unmounts: 1, wipes: UNLIMITED, crashes: UNLIMITED, ..NONE }),
            200_000_000,
        ),
        plan(
            "whole: a snapshot restored, a wipe, two power cuts",
            Cluster { boots: true, laws: ROLLED_BACK, ..whole(Budget { rollbacks: 1, crashes: 2, wipes: 1, ..NONE }) },
            200_000_000,
        ),
        plan("five blank", five(blank(NONE)), 10_000_000),
        plan(
            "five whole: two wipes, two power cuts",
            five(whole(Budget { wipes: 2, crashes: 2, ..NONE })),
            200_000_000,
        ),
    ]
}

/// What is not promised: the checker finds how it is lost, so that the documents stay honest.
pub fn limits() -> Vec<(Plan, Law)> {
    let plan = |name, cluster| Plan { name, cluster, most: 20_000_000, lives: false };
    vec![
        (
            plan(
                "a volume put back to a snapshot votes until it is told",
                Cluster { boots: true, laws: &[Law::I2], ..whole(Budget { rollbacks: 1, ..NONE }) },
            ),
            Law::I2,
        ),
        (
            plan(
                "a machine of the same name that starts between a grantor's look and its removal loses its vote",
                Cluster { late_removals: true, laws: &[Law::I5], ..whole(Budget { twins: 1, crashes: 1, ..NONE }) },
            ),
            Law::I5,
        ),
    ]
}
