//! The table row by row, the catalogue's scenarios that are matters of the table alone, then what must hold over all observations.
#![expect(clippy::wildcard_enum_match_arm, reason = "a test panics on whatever it does not expect")]

mod catalogue;
mod disk;
mod formation;
mod identity;
mod join;
mod law;

use super::decide;
use crate::decision::Decision;
use crate::digest::Id128;
use crate::disk_fact::{DataFact, RootFact, WalFact};
use crate::message::{Holds, Remembered};
use crate::name::Fqdn;
use crate::observation::*;
use crate::refusal::Refusal;
use crate::sample::*;
use crate::state::{Phase, RaftId, State};
use crate::wait::{LineageClaim, Obstacle, ObstacleKind, WaitReason};

fn bent(bend: impl FnOnce(&mut Observation)) -> Decision {
    let mut seen = observation(1, 3);
    bend(&mut seen);
    decide(&seen)
}

fn halts_in_row(row: u8, bend: impl FnOnce(&mut Observation)) -> Refusal {
    match bent(bend) {
        Decision::Halt(refusal) => {
            assert_eq!(refusal.row(), row, "{refusal:?}");
            refusal
        }
        other => panic!("expected a halt, got {other:?}"),
    }
}

fn silent(n: u8) -> impl Fn(&mut Observation) {
    move |seen| seen.peer_mut(n).answer = PeerAnswer::Unreachable("connection refused".into())
}
