//! Rolling a generation through a cluster: one node at a time, followers first, and never one while anything is amiss.
//!
//! Look ([`observe`]), [decide](decide::decide), write down ([`record`]), act ([`run`]), over and over. The record lies in the cluster's own etcd, guarded by
//! revision and by a [lock] on a lease, so that it is nobody's terminal that knows how far a rollout is.
//!
//! Pure: [`record`], [`observation`], [`gate`], [`mod@decide`], [`report`]. Edges: all others.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

pub mod decide;
pub mod fleet_hands;
pub mod gate;
pub mod hands;
pub mod lock;
pub mod observation;
pub mod observe;
pub mod record;
pub mod report;
pub mod run;
