//! For each mutant the smallest configuration in which it breaks a law, and which one.

use crate::cluster::{Begin, Cluster};
use crate::law::Law;
use crate::mutant::Mutant;
use crate::world::Budget;

/// Where a mutant shows.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The mutant.
    pub mutant: Mutant,
    /// The configuration; everything but this mutant holds in it.
    pub cluster: Cluster,
    /// What it breaks.
    pub law: Law,
}

/// Every mutant.
pub fn all() -> Vec<Case> {
    let none = Budget::default();
    let wipes = |wipes| Budget { wipes, ..none };
    let clone = Budget { clones: 1, ..none };
    let case = |mutant, budget, law: &'static [Law; 1]| Case {
        mutant,
        cluster: Cluster { budget, mutant: Some(mutant), laws: law, ..Cluster::default() },
        law: law[0],
    };
    let formed = |mutant, budget, law: &'static [Law; 1]| {
        let mut case = case(mutant, budget, law);
        case.cluster.begin = Begin::Whole;
        case
    };
    let five = |mutant, budget, law: &'static [Law; 1]| {
        let mut case = formed(mutant, budget, law);
        (case.cluster.members, case.cluster.eager) = (5, true);
        case
    };
    let counted = |mutant, budget, law: &'static [Law; 1]| {
        let mut case = formed(mutant, budget, law);
        case.cluster.boots = true;
        case
    };
    let lied = |mutant, budget, law: &'static [Law; 1]| {
        let mut case = case(mutant, budget, law);
        case.cluster.liar = Some(2);
        case
    };
    let two_founders = |mutant, law: &'static [Law; 1]| {
        let mut case = case(mutant, none, law);
        (case.cluster.begin, case.cluster.eager) = (Begin::TwoFounders, true);
        case
    };
    let copied = |mutant, budget, law: &'static [Law; 1]| {
        let mut case = case(mutant, budget, law);
        case.cluster.begin = Begin::WholeWithCopy(1);
        case
    };
    vec![
        case(Mutant::StaticToken, wipes(1), &[Law::I2]),
        case(Mutant::StaticToken, wipes(1), &[Law::I3]),
        formed(Mutant::IdReused, wipes(1), &[Law::I2]),
        formed(Mutant::IdReused, wipes(1), &[Law::I3]),
        case(Mutant::Symmetric, wipes(2), &[Law::I2]),
        case(Mutant::Symmetric, clone, &[Law::I2]),
        two_founders(Mutant::ActivationByMajority, &[Law::I1]),
        case(Mutant::NoGate, clone, &[Law::I1]),
        formed(Mutant::SrvDenominator, Budget { wipes: 2, shrinks: 1, ..none }, &[Law::I1]),
        formed(Mutant::SrvDenominator, Budget { wipes: 2, shrinks: 1, crashes: 1, ..none }, &[Law::I10]),
        formed(Mutant::UnmountedIsBlank, Budget { wipes: 2, unmounts: 1, ..none }, &[Law::I1]),
        case(Mutant::SilenceIsBlank, none, &[Law::I10]),
        case(Mutant::SilenceIsBlankNoGate, wipes(1), &[Law::I1]),
        formed(Mutant::DataHolderIgnored, wipes(2), &[Law::I10]),
        formed(Mutant::HaltedIsBlank, Budget { wipes: 2, losses: 1, ..none }, &[Law::I10]),
        formed(Mutant::FormAfterWindow, Budget { wipes: 3, closings: 1, ..none }, &[Law::Window]),
        formed(Mutant::NoLiveness, Budget { twins: 1, ..none }, &[Law::I5]),
        five(Mutant::TwoHoles, wipes(2), &[Law::I6]),
        formed(Mutant::RemovalUnderSilence, wipes(1), &[Law::I10]),
        formed(Mutant::ForeignName, Budget { wipes: 1, forgeries: 1, crashes: 1, ..none }, &[Law::Survivor]),
        case(Mutant::PromotedUnstarted, none, &[Law::I4]),
        case(Mutant::DroppedIdReused, none, &[Law::I3]),
        case(Mutant::AttemptNotRecorded, none, &[Law::I3]),
        case(Mutant::NoPrecheck, none, &[Law::I3]),
        formed(Mutant::EvictedStartsAnew, Budget { twins: 1, crashes: 1, ..none }, &[Law::I7]),
        formed(Mutant::LostLogIsBlank, Budget { losses: 1, ..none }, &[Law::I7]),
        formed(Mutant::LostLogRestarts, Budget { losses: 1, ..none }, &[Law::I3]),
        formed(Mutant::RestartAsksPeers, Budget { crashes: 1, ..none }, &[Law::I8]),
        counted(Mutant::RollbackIgnored, Budget { rollbacks: 1, crashes: 1, ..none }, &[Law::Witness]),
        lied(Mutant::OneLiarBelieved, none, &[Law::OneClaim]),
        formed(Mutant::GenerationIgnored, Budget { reseeds: 1, ..none }, &[Law::I11]),
        copied(Mutant::SameVolumeReplaced, Budget { crashes: 1, ..none }, &[Law::Survivor]),
    ]
}
